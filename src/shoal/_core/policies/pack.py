"""Policy: pack. Bundles go to as few nodes as can be.

Bin packing in several dimensions has no fast exact answer. So first the usual one, first fit in
decreasing order, with the roomiest node first: it costs a sort and one pass. Only if it finds
nothing a search with a bounded number of steps looks further; up to that bound (which all groups
of few bundles are within) what is possible is found.
"""

from __future__ import annotations

from collections.abc import Sequence

from shoal._core.policies.view import Left
from shoal._core.resources import Amounts

STEPS_MOST = 4_000

Allowed = Sequence[frozenset[str] | None]
"""For each bundle the nodes whose labels it agrees with; None: all."""


def onto_one(
    bundles: Sequence[Amounts], lefts: Sequence[Left], allowed: Allowed, liked: Sequence[str] = ()
) -> tuple[str, ...] | None:
    """All of them on one node: one that is liked, else the one that they fill best."""
    best: tuple[bool, float] | None = None
    found = None
    for left in lefts:
        if any(nodes is not None and left.node not in nodes for nodes in allowed):
            continue
        trial = left.copy()
        if not all(trial.take(amounts) for amounts in bundles):
            continue
        share = min((trial.share_left(amounts) for amounts in bundles), default=0.0)
        rank = (left.node not in liked, share)
        if best is None or rank < best:
            best, found = rank, left.node
    return None if found is None else (found,) * len(bundles)


def onto_few(
    bundles: Sequence[Amounts], lefts: Sequence[Left], allowed: Allowed, liked: Sequence[str] = ()
) -> tuple[str, ...] | None:
    """On as few nodes as first fit finds, those that are liked first; None if none was found."""
    order = by_size(bundles, allowed)
    largest = bundles[order[0]] if order else ()
    trials = sorted(
        (left.copy() for left in lefts),
        key=lambda left: (left.node not in liked, -left.share_left(largest), left.node),
    )
    trials.sort(key=lambda left: (left.node not in liked, -_times(left, largest)))
    nodes: list[str | None] = [None] * len(bundles)
    waiting = list(order)
    for left in trials:
        rest = []
        for at in waiting:
            names = allowed[at]
            if (names is None or left.node in names) and left.take(bundles[at]):
                nodes[at] = left.node
            else:
                rest.append(at)
        waiting = rest
        if not waiting:
            return tuple(node for node in nodes if node is not None)
    return search(bundles, lefts, allowed, order)


def search(
    bundles: Sequence[Amounts], lefts: Sequence[Left], allowed: Allowed, order: Sequence[int]
) -> tuple[str, ...] | None:
    """Any way to place all of them, looked for in at most ``STEPS_MOST`` steps."""
    trials = [left.copy() for left in lefts]
    # One choice after the other, without recursion: groups may have many bundles.
    chosen: list[tuple[int, Left]] = []
    next_at = [0]
    for _ in range(STEPS_MOST):
        depth = len(chosen)
        if depth == len(order):
            nodes = dict(zip(order, (trials[at].node for at, _ in chosen)))
            return tuple(nodes[at] for at in range(len(order)))
        at, names = order[depth], allowed[order[depth]]
        tried = next_at[depth]
        while tried < len(trials):
            trial = trials[tried]
            if (names is None or trial.node in names) and trial.fits(bundles[at]):
                break
            tried += 1
        else:
            if not chosen:
                return None
            undone, before = chosen.pop()
            trials[undone] = before
            next_at.pop()
            continue
        next_at[depth] = tried + 1
        chosen.append((tried, trials[tried]))
        trials[tried] = trials[tried].copy()
        trials[tried].take(bundles[at])
        next_at.append(0)
    return None


def by_size(bundles: Sequence[Amounts], allowed: Allowed) -> list[int]:
    """Indexes of bundles, those that are hardest to place first: few nodes, then many units."""

    def hardness(at: int) -> tuple[float, int, int]:
        names = allowed[at]
        return (
            float("inf") if names is None else len(names),
            -len(bundles[at]),
            -sum(units for _, units in bundles[at]),
        )

    return sorted(range(len(bundles)), key=hardness)


def _times(left: Left, amounts: Amounts) -> int:
    """How often ``amounts`` fits, GPU ids not looked at."""
    return min((left.free.get(name, 0) // units for name, units in amounts), default=0)
