"""Plots of measured cases as SVG, written by hand: bars, a scale, and a line to be reached.

The same results give the same bytes, so that a test can compare what is published.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape

LABEL_PX = 150
BAR_PX = 460
VALUE_PX = 110
ROW_PX = 18
GAP_PX = 10
HEAD_PX = 46
COLOURS = {
    "Shoal": "#0b6e99",
    "Shoal with neighbours": "#7fb8d1",
    "Ray": "#d9822b",
    "mp.Pool": "#7a7a7a",
    "processes": "#4d4d4d",
    "pool-naive": "#b0b0b0",
    "serial": "#c9c9c9",
    "serial at once": "#dddddd",
}
STYLE = (
    "text{font:12px sans-serif;fill:#222}.small{font-size:10px;fill:#666}"
    ".title{font-size:14px;font-weight:bold}"
)


@dataclass(frozen=True)
class Bar:
    """One bar: what it stands for, how long, and what is written beside it."""

    name: str
    value: float
    text: str


@dataclass(frozen=True)
class Group:
    """Bars that belong together, under one label."""

    label: str
    bars: list[Bar]


@dataclass(frozen=True)
class Scale:
    """From a value to pixels: linear from 0, or logarithmic between powers of ten."""

    low: float
    high: float
    is_log: bool

    def px(self, value: float) -> float:
        if not self.is_log:
            return BAR_PX * max(0.0, value) / self.high
        position = math.log10(max(value, self.low) / self.low)
        return BAR_PX * position / math.log10(self.high / self.low)

    def marks(self) -> list[float]:
        """Where the scale is labelled."""
        if self.is_log:
            first, last = round(math.log10(self.low)), round(math.log10(self.high))
            return [10.0**n for n in range(first, last + 1)]
        step = 10.0 ** math.floor(math.log10(self.high))
        step *= next(part for part in (0.2, 0.5, 1.0) if self.high / (step * part) <= 6)
        return [step * i for i in range(int(self.high / step) + 1)]


def scale_for(groups: list[Group], is_log: bool, line: float) -> Scale:
    values = [bar.value for group in groups for bar in group.bars if bar.value > 0] or [1.0]
    if not is_log:
        return Scale(0.0, max(*values, line) * 1.02, False)
    low = 10.0 ** math.floor(math.log10(min(*values, 0.5)))
    return Scale(low, 10.0 ** math.ceil(math.log10(max(*values, 2.0))), True)


def number(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")


def bar_chart(title: str, axis: str, groups: list[Group], *, is_log: bool, line: float) -> str:
    """Horizontal bars in groups, with a dashed line at `line`."""
    scale = scale_for(groups, is_log, line)
    n_bars = sum(len(group.bars) for group in groups)
    bottom = HEAD_PX + n_bars * ROW_PX + len(groups) * GAP_PX
    width, height = LABEL_PX + BAR_PX + VALUE_PX, bottom + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" aria-label="{escape(title)}">',
        f"<style>{STYLE}</style>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text class="title" x="10" y="22">{escape(title)}</text>',
    ]
    for mark in scale.marks():
        x = number(LABEL_PX + scale.px(mark))
        parts.append(f'<path d="M{x} {HEAD_PX - 8}V{bottom}" stroke="#e4e4e4"/>')
        parts.append(
            f'<text class="small" x="{x}" y="{bottom + 14}" text-anchor="middle">{mark:g}</text>'
        )
    y = HEAD_PX
    for group in groups:
        middle = y + len(group.bars) * ROW_PX / 2 + 4
        parts.append(f'<text x="10" y="{number(middle)}">{escape(group.label)}</text>')
        for bar in group.bars:
            parts += drawn_bar(bar, y, scale)
            y += ROW_PX
        y += GAP_PX
    x = number(LABEL_PX + scale.px(line))
    parts.append(f'<path d="M{x} {HEAD_PX - 8}V{bottom}" stroke="#b00020" stroke-dasharray="5 3"/>')
    middle = LABEL_PX + BAR_PX / 2
    parts.append(
        f'<text class="small" x="{number(middle)}" y="{bottom + 32}" '
        f'text-anchor="middle">{escape(axis)}</text>'
    )
    return "\n".join([*parts, "</svg>"]) + "\n"


def drawn_bar(bar: Bar, y: int, scale: Scale) -> list[str]:
    length = max(1.0, scale.px(bar.value))
    colour = COLOURS.get(bar.name, "#999999")
    return [
        f'<rect x="{LABEL_PX}" y="{y + 1}" width="{number(length)}" height="{ROW_PX - 3}" '
        f'fill="{colour}"/>',
        f'<text class="small" x="{number(LABEL_PX + length + 4)}" y="{y + ROW_PX - 5}">'
        f"{escape(bar.text)}</text>",
    ]
