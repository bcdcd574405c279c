"""Graphs as pictures: people look before they read. Text, SVG and DOT need nothing but this file.

Both kinds of graphs become the same few shapes: boxes in columns (a box stands one column right of
the rightmost that it needs), and arrows. In a compiled graph a box has the colour of its actor, and
an arrow says whether the value travels through a channel or stays in its actor.
"""

from __future__ import annotations

import html
import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shoal import errors
from shoal.dag.nodes import (
    ClassMethodNode,
    ClassNode,
    DAGNode,
    InputAttributeNode,
    MultiOutputNode,
)
from shoal.dag.order import in_order
from shoal.dag.plan import Plan

COLOURS = ("#dbeafe", "#dcfce7", "#fef3c7", "#fce7f3", "#ede9fe", "#cffafe", "#ffedd5", "#e5e7eb")
PLAIN = "#ffffff"
BOX_WIDTH, BOX_HEIGHT, GAP_X, GAP_Y, MARGIN = 170, 44, 70, 26, 20


@dataclass
class Box:
    """One call, the input, or the end of a graph."""

    lines: list[str]
    colour: str = PLAIN
    column: int = 0
    row: int = 0


@dataclass
class Arrow:
    """A value from one box to another."""

    source: int
    target: int
    label: str = ""
    is_local: bool = False
    """It stays in its actor."""
    note: str = ""


@dataclass
class Drawing:
    """Boxes and arrows, and what the colours mean."""

    boxes: list[Box] = field(default_factory=list)
    arrows: list[Arrow] = field(default_factory=list)
    has_channels: bool = False


def draw(graph: DAGNode, *, format: str = "ascii", filename: str | None = None) -> str:
    """Draw a graph that was not compiled.

    Args:
        graph: Its last node.
        format: ``"ascii"``, ``"svg"``, ``"dot"``; any other one is made by graphviz.
        filename: Where to write it, without the ending; nothing is written without it.

    Returns:
        The text, or the source of the drawing (DOT for what graphviz makes).

    Raises:
        GraphError: the graph has a cycle.
        ImportError: graphviz is asked for and not installed.

    Example:
        >>> @shoal.remote
        ... def double(x):
        ...     return 2 * x
        >>> with shoal.dag.InputNode() as inp:
        ...     graph = double.bind(double.bind(inp))
        >>> print(shoal.dag.draw(graph))
        [1] input
        [2] double              <- [1] input
        [3] double              <- [2] double
    """
    return _rendered(_drawing(in_order(graph), None), format, filename, view=False)


def draw_plan(
    made: Plan, *, format: str, filename: str, view: bool, buffer_size_bytes: int | None
) -> str:
    """Draw a compiled graph; see ``CompiledDAG.visualize``."""
    drawing = _drawing(made.nodes, made)
    if buffer_size_bytes is not None:
        by_what = {line.what: number for number, line in enumerate(made.lines)}
        for arrow in drawing.arrows:
            number = by_what.get(drawing.boxes[arrow.source].lines[0])
            if not arrow.is_local and number is not None:
                arrow.note = f"channel {number}, {buffer_size_bytes:,} bytes"
    text = _rendered(drawing, format, None if format == "ascii" else filename, view)
    if view and format == "ascii":
        print(text)
    return text


# ---- from nodes to shapes


def _drawing(nodes: list[DAGNode], made: Plan | None) -> Drawing:
    drawing = Drawing(has_channels=made is not None)
    numbers: dict[DAGNode, int] = {}
    actors: dict[str, int] = {}
    for node in nodes:
        if isinstance(node, InputAttributeNode):
            continue
        if isinstance(node, ClassMethodNode) and node.part is not None:
            continue
        box = Box([node.label])
        owner = getattr(node, "owner", None)
        if isinstance(node, ClassMethodNode) and not isinstance(owner, DAGNode):
            actor_id = owner._facts.actor_id if owner is not None else ""
            number = actors.setdefault(actor_id, len(actors))
            box.colour = COLOURS[number % len(COLOURS)]
            box.lines.append(f"actor {actor_id[-6:]}")
        numbers[node] = len(drawing.boxes)
        drawing.boxes.append(box)
    for node, target in numbers.items():
        for needed in dict.fromkeys(node.needs()):
            drawing.arrows.append(_arrow(node, needed, numbers, target))
    last = nodes[-1]
    if made is not None and not isinstance(last, MultiOutputNode):
        drawing.boxes.append(Box(["output"]))
        drawing.arrows.append(_arrow(None, last, numbers, len(drawing.boxes) - 1))
    _place(drawing)
    return drawing


def _arrow(user: DAGNode | None, needed: DAGNode, numbers: dict[DAGNode, int], to: int) -> Arrow:
    label = ""
    source = needed
    if isinstance(needed, InputAttributeNode):
        source = needed.whole
        label = f"[{needed.key}]" if isinstance(needed.key, int) else f".{needed.key}"
    elif isinstance(needed, ClassMethodNode) and needed.part is not None:
        source, label = needed.call, f"[{needed.part}]"
    is_local = False
    if isinstance(user, ClassMethodNode) and isinstance(source, ClassMethodNode):
        owners = (user.owner, source.owner)
        if not any(isinstance(owner, DAGNode) for owner in owners):
            ids = {owner._facts.actor_id for owner in owners if not isinstance(owner, DAGNode)}
            is_local = len(ids) == 1
    if isinstance(source, ClassNode):
        label = "actor"
    elif isinstance(user, ClassMethodNode) and source is user.previous:
        label = "then"
    return Arrow(numbers[source], to, label, is_local)


def _place(drawing: Drawing) -> None:
    """A column for each box, and a row in it."""
    for arrow in sorted(drawing.arrows, key=lambda arrow: arrow.target):
        box = drawing.boxes[arrow.target]
        box.column = max(box.column, drawing.boxes[arrow.source].column + 1)
    rows: dict[int, int] = {}
    for box in drawing.boxes:
        box.row = rows.get(box.column, 0)
        rows[box.column] = box.row + 1


# ---- from shapes to text


def _rendered(drawing: Drawing, format: str, filename: str | None, view: bool) -> str:
    if not isinstance(format, str) or not format.isalnum():
        raise errors.OptionError(f"format must be a word such as 'svg', not {format!r}")
    if format == "ascii":
        text = _ascii(drawing)
    elif format == "svg":
        text = _svg(drawing)
    else:
        text = _dot(drawing)
        if format != "dot":
            _by_graphviz(text, format, filename, view)
            return text
    if filename is not None:
        Path(f"{filename}.{'txt' if format == 'ascii' else format}").write_text(text)
    return text


def _ascii(drawing: Drawing) -> str:
    into: dict[int, list[str]] = {}
    for arrow in drawing.arrows:
        how = "<-" if not drawing.has_channels or arrow.is_local else "<="
        box = drawing.boxes[arrow.source]
        note = f" ({arrow.note})" if arrow.note else ""
        into.setdefault(arrow.target, []).append(
            f"{how} [{arrow.source + 1}] {box.lines[0]}{arrow.label and ' ' + arrow.label}{note}"
        )
    width = max(len(" ".join(box.lines)) for box in drawing.boxes) + 2
    width = max(width, 20)
    out = []
    for index, box in enumerate(drawing.boxes):
        name = f"[{index + 1}] {'  '.join(box.lines)}"
        needed = into.get(index, [])
        out.append(f"{name:<{width + 4}}{needed[0]}" if needed else name)
        out += [" " * (width + 4) + text for text in needed[1:]]
    if drawing.has_channels:
        out += ["", "<= through a channel in shared memory    <- stays in its actor"]
    return "\n".join(out)


def _dot(drawing: Drawing) -> str:
    out = [
        "digraph graph_of_calls {",
        "  rankdir=LR;",
        '  node [shape=box, style="rounded,filled"];',
    ]
    for index, box in enumerate(drawing.boxes):
        label = "\\n".join(line.replace('"', r"\"") for line in box.lines)
        out.append(f'  n{index} [label="{label}", fillcolor="{box.colour}"];')
    for arrow in drawing.arrows:
        text = " ".join(part for part in (arrow.label, arrow.note) if part)
        style = ", style=dashed" if arrow.is_local else ""
        out.append(f'  n{arrow.source} -> n{arrow.target} [label="{text}"{style}];')
    return "\n".join([*out, "}"])


def _svg(drawing: Drawing) -> str:
    boxes = drawing.boxes
    columns = max(box.column for box in boxes) + 1
    rows = max(box.row for box in boxes) + 1
    width = 2 * MARGIN + columns * BOX_WIDTH + (columns - 1) * GAP_X
    height = 2 * MARGIN + rows * BOX_HEIGHT + (rows - 1) * GAP_Y
    legend = drawing.has_channels
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height + 24 * legend}"'
        ' font-family="sans-serif" font-size="13">',
        '<defs><marker id="tip" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z" fill="#475569"/></marker></defs>',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
    ]
    out += [_svg_arrow(drawing, arrow) for arrow in drawing.arrows]
    for box in boxes:
        x, y = _corner(box)
        out.append(
            f'<rect x="{x}" y="{y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="6"'
            f' fill="{box.colour}" stroke="#475569"/>'
        )
        first = y + BOX_HEIGHT // 2 + 5 - 8 * (len(box.lines) - 1)
        for number, line in enumerate(box.lines):
            grey = ' fill="#64748b" font-size="11"' if number else ""
            out.append(
                f'<text x="{x + BOX_WIDTH // 2}" y="{first + 16 * number}"'
                f' text-anchor="middle"{grey}>{html.escape(line[:24])}</text>'
            )
    if legend:
        out.append(
            f'<text x="{MARGIN}" y="{height + 8}" fill="#64748b" font-size="11">solid: through a'
            " channel in shared memory; dashed: stays in its actor</text>"
        )
    return "\n".join([*out, "</svg>"])


def _corner(box: Box) -> tuple[int, int]:
    return MARGIN + box.column * (BOX_WIDTH + GAP_X), MARGIN + box.row * (BOX_HEIGHT + GAP_Y)


def _svg_arrow(drawing: Drawing, arrow: Arrow) -> str:
    x1, y1 = _corner(drawing.boxes[arrow.source])
    x2, y2 = _corner(drawing.boxes[arrow.target])
    x1, y1, y2 = x1 + BOX_WIDTH, y1 + BOX_HEIGHT // 2, y2 + BOX_HEIGHT // 2
    middle = (x1 + x2) // 2
    dashes = ' stroke-dasharray="5 4"' if arrow.is_local else ""
    path = (
        f'<path d="M{x1},{y1} C{middle},{y1} {middle},{y2} {x2 - 1},{y2}" fill="none"'
        f' stroke="#475569"{dashes} marker-end="url(#tip)"/>'
    )
    text = html.escape(" ".join(part for part in (arrow.label, arrow.note) if part))
    if text:
        path += (
            f'<text x="{middle}" y="{(y1 + y2) // 2 - 5}" text-anchor="middle" fill="#64748b"'
            f' font-size="11">{text}</text>'
        )
    return path


def _by_graphviz(source: str, format: str, filename: str | None, view: bool) -> None:
    try:
        graphviz: Any = importlib.import_module("graphviz")
    except ImportError:
        raise ImportError(
            f"format {format!r} needs the package graphviz. What to do: pip install graphviz (and"
            " its program dot), or use format='svg' or 'ascii', which need nothing"
        ) from None
    graphviz.Source(source).render(filename or "graph", format=format, view=view, cleanup=True)
