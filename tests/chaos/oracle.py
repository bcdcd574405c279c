"""Compares what was asked and answered with what really happened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path


def verdict(
    asked: Iterable[str], acknowledged: Iterable[str], done: Sequence[str]
) -> dict[str, list[str]]:
    """What went wrong, by kind; ``done`` is one actor's synced file, in its order.

    ``asked`` is in the order of the caller: whatever of it was done must stand in that order.
    """
    order = {name: place for place, name in enumerate(asked)}
    counts = Counter(done)
    known = [order[name] for name in done if name in order]
    return {
        "lost": sorted(set(acknowledged) - set(done)),
        "doubled": sorted(name for name, count in counts.items() if count > 1),
        "unexpected": sorted(set(done) - set(order)),
        "reordered": [done[at] for at, (a, b) in enumerate(pairwise(known)) if a > b],
    }


def assert_exact(asked: Iterable[str], acknowledged: Iterable[str], file: Path) -> int:
    """Nothing lost, doubled, unexpected or out of order; how many were done."""
    done = file.read_text().split()
    wrong = {kind: names[:5] for kind, names in verdict(asked, acknowledged, done).items() if names}
    assert not wrong, f"{file.name}: {wrong}"
    return len(done)
