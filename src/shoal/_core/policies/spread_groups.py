"""Policy: placement groups. Which node each bundle of a group goes to.

=============== ==========================================================================
PACK            as few nodes as can be (``pack``)
STRICT_PACK     one node, or nowhere
SPREAD          a node for each while there are nodes, then those that have fewest
STRICT_SPREAD   a node for each, or nowhere
=============== ==========================================================================

A plan is a proposal: each node may refuse its bundles, and the two phases of RULES K-7 see to it
that then nothing is held anywhere. If no plan fits what is free now, ``is_possible`` says whether
one would fit the empty nodes: the group waits, or it is infeasible and ``why`` says for what.

STRICT_SPREAD is a matching of bundles with nodes and found exactly (augmenting paths, breadth
first). Bundles of one shape share the list of nodes that they fit, so it costs nodes times shapes,
not nodes times bundles.

A group that has lost a node places what it has lost: ``taken`` names the nodes of the bundles that
still stand, which PACK likes, and SPREAD and STRICT_SPREAD avoid.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from shoal._core.policies import pack
from shoal._core.policies.labels import agrees, labels_of
from shoal._core.policies.view import Left
from shoal._core.resources import Amounts, plain
from shoal._proto.messages import LabelRule
from shoal._proto.views import NodeRow


class Bundle(NamedTuple):
    """What one bundle asks of its node."""

    amounts: Amounts
    labels: tuple[LabelRule, ...] = ()


class Plan(NamedTuple):
    """Where the bundles go."""

    nodes: tuple[str, ...] = ()
    """One for each bundle; none: nowhere now, because of ``why``."""
    why: str = ""
    is_possible: bool = True
    """Whether the nodes that there are could ever have the group."""


def plan(
    strategy: str, bundles: Sequence[Bundle], rows: Sequence[NodeRow], taken: Sequence[str] = ()
) -> Plan:
    """A node for each of ``bundles``; see the top of the module."""
    rows = [row for row in rows if not row.is_driver and not row.is_draining]
    allowed = _allowed(bundles, rows)
    amounts = [bundle.amounts for bundle in bundles]
    found = _place(strategy, amounts, [Left.now(row) for row in rows], allowed, taken)
    if found is not None:
        return Plan(found)
    ever = _place(strategy, amounts, [Left.ever(row) for row in rows], allowed, taken)
    if ever is not None:
        return Plan(why="what it asks for is in use")
    return Plan(why=_why_never(strategy, bundles, rows, allowed), is_possible=False)


def _place(
    strategy: str,
    bundles: Sequence[Amounts],
    lefts: Sequence[Left],
    allowed: pack.Allowed,
    taken: Sequence[str],
) -> tuple[str, ...] | None:
    match strategy:
        case "STRICT_PACK":
            if taken:
                lefts = [left for left in lefts if left.node in taken]
            return pack.onto_one(bundles, lefts, allowed, taken)
        case "PACK":
            one = pack.onto_one(bundles, lefts, allowed, taken)
            return one or pack.onto_few(bundles, lefts, allowed, taken)
        case "STRICT_SPREAD":
            others = [left for left in lefts if left.node not in taken]
            return onto_different(bundles, others, allowed)
        case _:
            others = [left for left in lefts if left.node not in taken]
            apart = onto_different(bundles, others, allowed)
            return apart or _onto_fewest(bundles, lefts, allowed, taken)


def onto_different(
    bundles: Sequence[Amounts], lefts: Sequence[Left], allowed: pack.Allowed
) -> tuple[str, ...] | None:
    """A node of its own for each, the emptiest first; None if there is no such matching."""
    if len(bundles) > len(lefts):
        return None
    fitting = _fitting(bundles, lefts, allowed)
    bundle_at: dict[int, int] = {}
    """Which bundle each node has."""
    for begin in pack.by_size(bundles, allowed):
        end = _augment(begin, fitting, bundle_at)
        if end is None:
            return None
    nodes = {bundle: lefts[node].node for node, bundle in bundle_at.items()}
    return tuple(nodes[at] for at in range(len(bundles)))


def _fitting(
    bundles: Sequence[Amounts], lefts: Sequence[Left], allowed: pack.Allowed
) -> Callable[[int], Sequence[int]]:
    """For each bundle the nodes that it fits, the one that it leaves emptiest first."""
    shapes: dict[tuple[Amounts, frozenset[str] | None], list[int]] = {}

    def of(bundle: int) -> Sequence[int]:
        amounts, names = bundles[bundle], allowed[bundle]
        found = shapes.get((amounts, names))
        if found is None:
            found = [
                at
                for at, left in enumerate(lefts)
                if (names is None or left.node in names) and left.fits(amounts)
            ]
            found.sort(key=lambda at: -lefts[at].share_left(amounts))
            shapes[amounts, names] = found
        return found

    return of


def _augment(
    begin: int, fitting: Callable[[int], Sequence[int]], bundle_at: dict[int, int]
) -> int | None:
    """Give ``begin`` a node, moving others to other nodes if need be; None if it cannot be."""
    came_from: dict[int, int] = {}
    """For each node that was looked at, the bundle that looks at it."""
    line = deque([begin])
    at_of = {bundle: node for node, bundle in bundle_at.items()}
    while line:
        bundle = line.popleft()
        for node in fitting(bundle):
            if node in came_from:
                continue
            came_from[node] = bundle
            holder = bundle_at.get(node)
            if holder is not None:
                line.append(holder)
                continue
            while True:
                mover = came_from[node]
                former = at_of.get(mover)
                bundle_at[node] = mover
                if mover == begin:
                    return node
                assert former is not None
                node = former
    return None


def _onto_fewest(
    bundles: Sequence[Amounts], lefts: Sequence[Left], allowed: pack.Allowed, taken: Sequence[str]
) -> tuple[str, ...] | None:
    """Each to the node that has fewest of the group, the emptiest of those."""
    order = pack.by_size(bundles, allowed)
    trials = [left.copy() for left in lefts]
    largest = bundles[order[0]] if order else ()
    heap = [
        (sum(node == left.node for node in taken), -left.share_left(largest), at)
        for at, left in enumerate(trials)
    ]
    heapq.heapify(heap)
    nodes: dict[int, str] = {}
    for bundle in order:
        names = allowed[bundle]
        passed = []
        while heap:
            count, share, at = heapq.heappop(heap)
            left = trials[at]
            if (names is None or left.node in names) and left.take(bundles[bundle]):
                heapq.heappush(heap, (count + 1, share, at))
                nodes[bundle] = left.node
                break
            passed.append((count, share, at))
        for entry in passed:
            heapq.heappush(heap, entry)
        if bundle not in nodes:
            # Spread out they do not fit: better together than not at all.
            return pack.onto_few(bundles, lefts, allowed)
    return tuple(nodes[at] for at in range(len(bundles)))


def _allowed(bundles: Sequence[Bundle], rows: Sequence[NodeRow]) -> pack.Allowed:
    """Which nodes the labels of each bundle allow; found once for equal ones."""
    found: dict[tuple[LabelRule, ...], frozenset[str] | None] = {(): None}
    for bundle in bundles:
        if bundle.labels not in found:
            found[bundle.labels] = frozenset(
                row.node for row in rows if agrees(labels_of(row), (bundle.labels,))
            )
    return [found[bundle.labels] for bundle in bundles]


def _why_never(
    strategy: str, bundles: Sequence[Bundle], rows: Sequence[NodeRow], allowed: pack.Allowed
) -> str:
    """What the nodes that there are lack, the simplest reason first."""
    lefts = [Left.ever(row) for row in rows]
    for at, bundle in enumerate(bundles):
        names = allowed[at]
        if names is not None and not names:
            return f"no node has the labels that bundle {at} asks for"
        able = [left for left in lefts if names is None or left.node in names]
        if not any(left.fits(bundle.amounts) for left in able):
            wanted = ", ".join(f"{n}={v:g}" for n, v in plain(bundle.amounts).items())
            return f"no node could ever have bundle {at} ({wanted})"
    if strategy == "STRICT_SPREAD":
        return f"{len(bundles)} nodes that differ would be needed, and there are {len(rows)}"
    if strategy == "STRICT_PACK":
        return "no node could ever have all bundles together"
    return "the nodes could not have all bundles, even if they were empty"
