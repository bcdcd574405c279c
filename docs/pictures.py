"""Draws the pictures of the gallery: runs examples and puts what they print into SVG files.

    python docs/pictures.py [number of an example ...]

A picture is what the terminal showed, nothing else; numbers in it are of the machine that drew it.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from shoal._base import clock
from shoal._runtime import bars, bars_board

HERE = Path(__file__).parent
EXAMPLES = HERE.parent / "examples"
SHOWN = ("15", "30", "31", "32", "33")
COLUMNS = 88
FRAME = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">
<style>
.{unique_id}-matrix {{font: {char_height}px monospace; line-height: {line_height}px}}
.{unique_id}-title {{font: bold 18px sans-serif}}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def save(what: Any, title: str, path: Path) -> None:
    """Print ``what`` into the picture at ``path``."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(what)
    name = "p" + path.stem.replace("_", "-")
    text = console.export_svg(title=title, theme=MONOKAI, code_format=FRAME, unique_id=name)
    path.write_text(text)
    print(path.relative_to(HERE.parent))


def draw_example(path: Path) -> None:
    """Run one example in a terminal of its own kind."""
    environment = {**os.environ, "COLUMNS": str(COLUMNS), "FORCE_COLOR": "1", "TERM": "xterm"}
    done = subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, check=True, env=environment
    )
    title = f"$ python examples/{path.name}"
    save(Text.from_ansi(done.stdout.rstrip()), title, HERE / "examples" / f"{path.stem}.svg")


def draw_bars() -> None:
    """Bars of two tasks and the driver, in the middle."""
    now = clock.now()
    rows = []
    for number, (label, desc, n, total, unit, note) in enumerate(
        (
            ("", "done", 1, 4, "it", ""),
            ("train", "left", 26, 40, "epoch", "loss=0.03704"),
            ("train", "right", 31, 40, "epoch", "loss=0.03125"),
        )
    ):
        bar = bars.Bar(desc, total, unit)
        bar.n, bar.note, bar.label, bar.started_at = n, note, label, now - 0.21
        seen = bars.shown(bar, now)
        seen.pid = 4710 + number
        rows.append(bars_board._Row(seen, now, None))
    console = Console(record=True, width=COLUMNS)
    save(
        bars_board.Board._table(rows, now, console.width),
        "$ python train.py",
        HERE / "progress.svg",
    )


def main() -> None:
    """Draw all, or those that the command line names."""
    chosen = sys.argv[1:] or SHOWN
    (HERE / "examples").mkdir(exist_ok=True)
    draw_bars()
    for path in sorted(EXAMPLES.glob("*.py")):
        if path.name.split("_")[0] in chosen:
            draw_example(path)


if __name__ == "__main__":
    main()
