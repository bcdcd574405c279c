"""Puts measured tables and plots where readers look: the README and docs/.

Tables stand between markers; what is written around them is written by hand and stays. The JSON is
kept beside them as `docs/benchmarks.json`; a test renders everything again and compares, so that
nobody edits a figure by hand.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import pkgutil
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import classic, report
from benchmarks.cases import suite
from benchmarks.plots import Bar, Group, bar_chart
from benchmarks.protocol import SHOAL
from benchmarks.report import NAMES
from benchmarks.sides import AT_ONCE
from benchmarks.verdict import Row

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
KEPT = DOCS / "benchmarks.json"
MARKED = r"(<!-- {name}: made by `python -m benchmarks publish` -->\n)(.*?)(<!-- end -->)"
NOT_SERIAL = (SHOAL, "ray", "multiprocessing", "processes", "pool-naive")
ALL_SIDES = (*NOT_SERIAL, "serial", AT_ONCE)


def between_markers(text: str, name: str, table: str) -> str:
    """`text` with what stands between the markers replaced."""
    pattern = re.compile(MARKED.format(name=re.escape(name)), re.DOTALL)
    assert pattern.search(text), f"no markers for {name}"
    return pattern.sub(lambda match: match.group(1) + table + match.group(3), text)


def code_lines(program: tuple[Callable[..., Any], ...]) -> int:
    """Lines of the functions and classes, without blank ones and docstrings."""
    total = 0
    for part in program:
        tree = ast.parse(textwrap.dedent(inspect.getsource(part)))
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            is_definition = isinstance(node, ast.FunctionDef | ast.ClassDef)
            if is_definition and body and ast.get_docstring(node) is not None:
                node.body = body[1:] or [ast.Pass()]
        total += len(ast.unparse(tree).replace("\n\n", "\n").strip().splitlines())
    return total


def sizes_markdown() -> str:
    """How many lines each of the classic programs takes on each side."""
    rows, sides = [], []
    modules = sorted(module.name for module in pkgutil.iter_modules(classic.__path__))
    for name in modules:
        programs = importlib.import_module(f"benchmarks.classic.{name}").PROGRAMS
        sides += [side for side in programs if side not in sides]
        sizes = {side: str(code_lines(program)) for side, program in programs.items()}
        rows.append({"program": f"[{name}](../benchmarks/classic/{name}.py)", **sizes})
    return "\n".join(report.table(("program", *sides), rows)) + "\n"


def side_bars(row: Row, base: str, sides: tuple[str, ...]) -> Group:
    """The sides' speeds, as multiples of that of `base`."""
    bars = []
    for side in sides:
        times = row.better(row.median(side), row.median(base))
        if times is not None:
            label = NAMES.get(side, side)
            bars.append(Bar(label, times, f"{label} {times:.2g} x"))
    return Group(row.case.id, bars)


def classic_plots(results: dict[str, Any]) -> dict[Path, str]:
    """A1 to A3 against the serial program, A4 against processes with pipes."""
    run = report.run_of(suite("classic"), results)
    rows = run.rows()
    whole = [side_bars(row, "serial", ALL_SIDES) for row in rows if row.case.id < "A4"]
    moving = [side_bars(row, "processes", NOT_SERIAL) for row in rows if row.case.id > "A4"]
    first = bar_chart(
        "Whole programs: times as fast as the serial one",
        f"serial program = 1; dashed: every one of {run.cores} cores does as much",
        whole,
        is_log=False,
        line=float(run.cores),
    )
    second = bar_chart(
        "Parameter server: times as fast as processes with pipes",
        "processes with pipes = 1 (logarithmic)",
        moving,
        is_log=True,
        line=1.0,
    )
    return {DOCS / "classic.svg": first, DOCS / "parameter-server.svg": second}


def floors_plot(results: dict[str, Any]) -> str:
    """Each case of the core: how many times its floor, alone and with neighbours."""
    groups = []
    for row in report.run_of(suite("core"), results).rows():
        bars = []
        for place, name in (("alone", "Shoal"), ("neighbours", "Shoal with neighbours")):
            times = row.of_floor(place)
            if times is not None:
                beside = " with neighbours" if place == "neighbours" else ""
                bars.append(Bar(name, times, f"{times:.2g} x{beside}"))
        if bars:
            groups.append(Group(row.case.id, bars))
    title = "The engine's operations: times the floor"
    axis = "floor = 1 (logarithmic); the lower bar of a pair: with a busy process per core"
    return bar_chart(title, axis, groups, is_log=True, line=1.0)


def rendered(results: dict[str, Any]) -> dict[Path, str]:
    """The documents as they should read for these results."""
    found: dict[Path, str] = {}
    if "core" in results:
        cases, measured = suite("core"), results["core"]
        readme, page = ROOT / "README.md", DOCS / "benchmarks.md"
        text = page.read_text()
        text = between_markers(text, "core", report.markdown(cases, measured))
        text = between_markers(text, "least", report.least_markdown(cases, measured))
        text = between_markers(text, "needs", report.needs_markdown(cases, measured))
        text = between_markers(text, "peers", report.peers_markdown(cases, measured))
        found[page] = text
        short = report.short_markdown(cases, measured)
        found[readme] = between_markers(readme.read_text(), "core", short)
        found[DOCS / "benchmarks.svg"] = floors_plot(measured)
    if "classic" in results:
        cases, measured = suite("classic"), results["classic"]
        page = DOCS / "classic.md"
        text = page.read_text()
        text = between_markers(text, "classic", report.markdown(cases, measured))
        text = between_markers(text, "peers", report.peers_markdown(cases, measured))
        found[page] = between_markers(text, "sizes", sizes_markdown())
        found |= classic_plots(measured)
    return found


def publish(folder: Path) -> None:
    """Take the last results of each suite from `folder`."""
    results = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    for path in sorted(folder.glob("*.json")):
        results[path.stem] = json.loads(path.read_text())
    KEPT.write_text(json.dumps(results, indent=1) + "\n")
    for path, text in rendered(results).items():
        path.write_text(text)
        print(f"wrote {path.relative_to(ROOT)}")
