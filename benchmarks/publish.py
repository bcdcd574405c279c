"""Puts measured tables where readers look: between markers in the README and in docs/benchmarks.md.

The JSON is kept beside them as `docs/benchmarks.json`; a test renders it again and compares, so
that nobody edits a figure by hand.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from benchmarks.cases import suite
from benchmarks.report import markdown, short_markdown

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "docs" / "benchmarks.json"
MARKED = r"(<!-- {name}: made by `python -m benchmarks publish` -->\n)(.*?)(<!-- end -->)"


def between_markers(text: str, name: str, table: str) -> str:
    """`text` with what stands between the markers replaced."""
    pattern = re.compile(MARKED.format(name=re.escape(name)), re.DOTALL)
    assert pattern.search(text), f"no markers for {name}"
    return pattern.sub(lambda match: match.group(1) + table + match.group(3), text)


def rendered(results: dict[str, Any]) -> dict[Path, str]:
    """The documents as they should read for these results."""
    core, classic = suite("core"), suite("classic")
    readme, page = ROOT / "README.md", ROOT / "docs" / "benchmarks.md"
    text = page.read_text()
    text = between_markers(text, "core", markdown(core, results["core"]))
    if "classic" in results:
        text = between_markers(text, "classic", markdown(classic, results["classic"]))
    short = short_markdown(core, results["core"])
    return {readme: between_markers(readme.read_text(), "core", short), page: text}


def publish(folder: Path) -> None:
    """Take the last results of each suite from `folder`."""
    results = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    for path in folder.glob("*.json"):
        results[path.stem] = json.loads(path.read_text())
    KEPT.write_text(json.dumps(results, indent=1) + "\n")
    for path, text in rendered(results).items():
        path.write_text(text)
        print(f"wrote {path.relative_to(ROOT)}")
