"""Draws what scheduling costs on more and more nodes, and writes the table of docs/scheduling.md.

    make sim-scale                                    # measures, into build/scale.json
    python -m benchmarks.scale_chart build/scale.json # keeps the figures, draws, fills the table
    python -m benchmarks.scale_chart                  # draws again from docs/scheduling.json

Both axes of the chart are logarithmic; one line for each load. A test draws it again from the kept
figures and compares.
"""

from __future__ import annotations

import json
import math
import re
import sys
from html import escape
from pathlib import Path
from typing import Any

from benchmarks.plots import STYLE, number

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
KEPT = DOCS / "scheduling.json"
LOADS = {
    "one": ("one submitter", "#0b6e99"),
    "all": ("all submit", "#d9822b"),
    "mixed": ("mixed nodes and tasks", "#3a7d44"),
    "spread": ("SPREAD", "#8e5ea2"),
    "data": ("20 MB arguments", "#7a7a7a"),
}
PANELS = (
    ("cost_us", "CPU of all deciding, us for each task", 1.0, 1000.0),
    ("messages_per_task", "messages for each task", 0.01, 10.0),
    ("efficiency", "least possible time / time to drain", 0.1, 1.0),
)
PANEL_PX, PLOT_PX, LEFT_PX, TOP_PX, HIGH_PX = 300, 230, 48, 62, 190
MARKS = re.compile(
    r"(<!-- figures: made by `python -m benchmarks.scale_chart` -->\n)(.*?)(<!-- end -->)",
    re.DOTALL,
)


def rendered(figures: dict[str, Any]) -> dict[Path, str]:
    """Every document that shows them, as it must be."""
    page = DOCS / "scheduling.md"
    text = page.read_text()
    assert MARKS.search(text), "no marks for the table"
    filled = MARKS.sub(lambda match: match.group(1) + table(figures["runs"]) + match.group(3), text)
    return {DOCS / "scheduling.svg": chart(figures["runs"]), page: filled}


def table(runs: list[dict[str, Any]]) -> str:
    """One line for each run."""
    head = (
        "| load | nodes | tasks | drain, s | least possible, s | us/task | decisions/s | messages "
        "| fair | even | at bytes | back |\n|---|" + "---:|" * 11 + "\n"
    )
    lines = [
        f"| {r['load']} | {r['nodes']:,} | {r['tasks']:,} | {r['drain_s']:.3f} | "
        f"{r['floor_s']:.3f} | {r['cost_us']:.0f} | {r['decisions_per_s']:,} | "
        f"{r['messages_per_task']:.2f} | {r['fairness']:.2f} | {r['evenness']:.2f} | "
        f"{r['at_bytes']:.2f} | {r['backs']} |\n"
        for r in runs
    ]
    return head + "".join(lines)


def chart(runs: list[dict[str, Any]]) -> str:
    """Three panels beside each other."""
    width, height = PANEL_PX * len(PANELS) + 10, TOP_PX + HIGH_PX + 50
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" aria-label="Scheduling on many nodes">',
        f"<style>{STYLE}</style>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    x = 10
    for load, (label, colour) in LOADS.items():
        if any(run["load"] == load for run in runs):
            parts.append(f'<rect x="{x}" y="12" width="14" height="4" fill="{colour}"/>')
            parts.append(f'<text class="small" x="{x + 18}" y="17">{escape(label)}</text>')
            x += 34 + 6 * len(label)
    for at, (key, title, low, high) in enumerate(PANELS):
        parts += panel(runs, key, title, (at * PANEL_PX + LEFT_PX, low, high))
    return "\n".join([*parts, "</svg>"]) + "\n"


def panel(
    runs: list[dict[str, Any]], key: str, title: str, frame: tuple[int, float, float]
) -> list[str]:
    """One panel: where it begins, and its scale."""
    left, low, high = frame
    bottom = TOP_PX + HIGH_PX

    def x_of(nodes: float) -> float:
        return left + PLOT_PX * math.log10(max(1.0, nodes)) / 3

    def y_of(value: float) -> float:
        share = math.log10(min(high, max(low, value)) / low) / math.log10(high / low)
        return bottom - HIGH_PX * share

    parts = [f'<text x="{left - 30}" y="{TOP_PX - 18}">{escape(title)}</text>']
    for exponent in range(round(math.log10(low)), round(math.log10(high)) + 1):
        y = number(y_of(10.0**exponent))
        parts.append(f'<path d="M{left} {y}H{left + PLOT_PX}" stroke="#e4e4e4"/>')
        label = f"{10.0**exponent:g}"
        parts.append(f'<text class="small" x="{left - 5}" y="{y}" text-anchor="end">{label}</text>')
    for nodes in (1, 10, 100, 1000):
        x = number(x_of(nodes))
        parts.append(f'<path d="M{x} {TOP_PX}V{bottom}" stroke="#e4e4e4"/>')
        parts.append(
            f'<text class="small" x="{x}" y="{bottom + 14}" text-anchor="middle">{nodes:,}</text>'
        )
    middle = left + PLOT_PX // 2
    parts.append(
        f'<text class="small" x="{middle}" y="{bottom + 32}" text-anchor="middle">nodes</text>'
    )
    for load, (_, colour) in LOADS.items():
        points = [(x_of(r["nodes"]), y_of(r[key])) for r in runs if r["load"] == load]
        if points:
            line = " ".join(f"{number(x)},{number(y)}" for x, y in points)
            parts.append(
                f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>'
            )
            parts += [
                f'<circle cx="{number(x)}" cy="{number(y)}" r="3" fill="{colour}"/>'
                for x, y in points
            ]
    return parts


def main(arguments: list[str]) -> None:
    """Keep new figures if some are named, then draw."""
    if arguments:
        figures = json.loads(Path(arguments[0]).read_text())
        KEPT.write_text(json.dumps(figures, indent=1) + "\n")
    for path, text in rendered(json.loads(KEPT.read_text())).items():
        path.write_text(text)
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main(sys.argv[1:])
