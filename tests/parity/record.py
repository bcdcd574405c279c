"""``python -m tests.parity.record [file ...]``: records the outcomes of the real Ray.

It makes an environment with the version of ``requirements.txt`` in `.venv-parity` (or uses the
interpreter that ``--python`` names), runs each file of stories twice, refuses a story whose
outcomes differ, and writes ``outcomes/<file>.json``. Which names, arguments and options there are
goes into ``facts.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
STORIES = HERE / "stories"
OUTCOMES = HERE / "outcomes"
FOLDER = HERE.parents[1] / ".venv-parity"
FILE_S = 600


def story_files() -> list[Path]:
    """All files of stories."""
    return sorted(p for p in STORIES.glob("*.py") if p.stem not in ("__init__", "telling"))


def expected(file: str) -> dict[str, Any]:
    """What the stories of a file come out as on Shoal: as they did on Ray, or as the document of
    differences says; without those that wait for their feature."""
    recorded = json.loads((OUTCOMES / f"{file}.json").read_text())
    waiting = tomllib.loads((HERE / "waiting.toml").read_text())
    ours = tomllib.loads((HERE / "differences.toml").read_text())
    return {
        name: ours.get(f"{file}.{name}", {"ours": outcome})["ours"]
        for name, outcome in recorded.items()
        if f"{file}.{name}" not in waiting and f"{file}.*" not in waiting
    }


def interpreter() -> Path:
    """The interpreter with the real Ray, made if it is not there."""
    python = FOLDER / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", FOLDER], check=True)
        pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
        subprocess.run([*pip, "-r", HERE / "requirements.txt"], check=True)
    return python


def play(
    command: list[str], path: Path, names: list[str], environment: Mapping[str, str], folder: Path
) -> tuple[dict[str, Any], str]:
    """Run stories of one file; returns the outcomes and everything that was written."""
    with tempfile.NamedTemporaryFile("r", suffix=".jsonl") as outcomes:
        done = subprocess.run(
            [*command, str(path), *names],
            capture_output=True,
            text=True,
            timeout=FILE_S,
            check=False,
            cwd=folder,
            env={**environment, "STORY_OUTCOMES": outcomes.name},
        )
        told = dict(json.loads(line) for line in outcomes)
    return told, done.stdout + done.stderr


def main() -> int:
    """Record all files, or those named."""
    parser = argparse.ArgumentParser(prog="python -m tests.parity.record")
    parser.add_argument("files", nargs="*", help="names of files of stories, without .py")
    parser.add_argument("--python", type=Path, help="interpreter that has the real Ray")
    parser.add_argument("--once", action="store_true", help="trust one run")
    chosen = parser.parse_args()
    python = chosen.python or interpreter()
    unstable = 0
    if not chosen.files or "facts" in chosen.files:
        command = [str(python), str(HERE / "facts.py")]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        (HERE / "facts.json").write_text(said)
    for path in story_files():
        if chosen.files and path.stem not in chosen.files:
            continue
        first, said = play([str(python)], path, [], os.environ, HERE)
        if not first:
            print(f"{path.stem}: no outcome\n{said[-4000:]}", file=sys.stderr)
            return 1
        again = first if chosen.once else play([str(python)], path, [], os.environ, HERE)[0]
        for name in [name for name in first if first[name] != again.get(name)]:
            print(f"{path.stem}.{name}: {first[name]} and then {again.get(name)}", file=sys.stderr)
            unstable += 1
        text = json.dumps(first, indent=1, sort_keys=True)
        (OUTCOMES / f"{path.stem}.json").write_text(text + "\n")
        print(f"{path.stem}: {len(first)} stories")
    return 1 if unstable else 0


if __name__ == "__main__":
    sys.exit(main())
