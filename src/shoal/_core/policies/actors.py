"""Policy: actors. Which node an actor (or its next incarnation) is offered to.

An actor has two amounts (RULES S-18): what its node must own, and what it holds while it lives. It
is offered to a node that owns the one and has the other free; placing is an offer, and a refusal
costs nothing (A-19), so the rows may be old.

Actors live long and mostly hold little, so they are spread: of two fitting nodes taken at random
the one that is less full gets it. A scan of all rows is made only if chance finds none in a few
tries, which means that few fit: a scarce resource, or a full cluster. Who finds no room for long
waits in the line of a node that could have it (``wait_at``), which sends it back if actors are in
its way there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from shoal._core.policies import affinity, labels
from shoal._core.policies.dice import Dice
from shoal._core.policies.view import accepts, slots, slots_ever
from shoal._core.resources import CPU, Amounts
from shoal._proto.messages import LabelRule, NodeAffinity, NodeLabels, Strategy
from shoal._proto.views import NodeRow, Wish

TRIES_MOST = 16


class Offer(NamedTuple):
    """Whom to ask."""

    node: str = ""
    """"": nobody now, because of ``why``."""
    why: str = ""
    is_possible: bool = True
    """Whether one of the nodes that there are could ever have it."""


def offer(
    rows: Sequence[NodeRow], wish: Wish, hold: Amounts, strategy: Strategy, dice: Dice
) -> Offer:
    """Whom to offer an actor to.

    Args:
        rows: All nodes.
        wish: What its node must own and be like.
        hold: What it will hold.
        strategy: What its creator said; in a group the group's node is asked, and not this.
        dice: Where chance comes from.
    """
    soft: tuple[LabelRule, ...] = ()
    match strategy:
        case NodeAffinity():
            by_node = {row.node: row for row in rows}

            def can_run(node: str) -> bool:
                return _could(by_node[node], wish, hold)

            meant = affinity.resolve(strategy, by_node.__contains__, can_run)
            if meant.node is not None:
                row = by_node[meant.node]
                if _has_room(row, hold):
                    return Offer(meant.node)
                if not strategy.soft:
                    return Offer(why=f"node {meant.node} is full")
            elif not meant.is_free:
                return Offer(why=meant.why, is_possible=False)
        case NodeLabels(hard, soft):
            # Those of the wish, which a label selector has put there, hold as well.
            rows = [row for row in rows if labels.agrees(labels.labels_of(row), hard)]
    liked = labels.preferred([row for row in rows if fits(row, wish, hold)], soft) if soft else ()
    found = _emptier_of_two(liked or rows, wish, hold, dice)
    if found is not None:
        return Offer(found.node)
    if any(_could(row, wish, hold) for row in rows):
        return Offer(why="what it asks for is in use")
    return Offer(why="no node could ever have it", is_possible=False)


def wait_at(
    rows: Sequence[NodeRow], wish: Wish, hold: Amounts, strategy: Strategy, dice: Dice
) -> str:
    """Where it may wait, if none of those that could have it has room: rows of a node whose tasks
    never leave a gap never show any, and its line is fair. "": nowhere."""
    able = [row for row in rows if _could(row, wish, hold)]
    match strategy:
        case NodeAffinity(node_id, soft) if not soft:
            able = [row for row in able if row.node == node_id]
        case NodeLabels(hard):
            able = [row for row in able if labels.agrees(labels.labels_of(row), hard)]
    return able[dice.below(len(able))].node if able else ""


def _emptier_of_two(
    rows: Sequence[NodeRow], wish: Wish, hold: Amounts, dice: Dice
) -> NodeRow | None:
    if not rows:
        return None
    found: list[NodeRow] = []
    for _ in range(min(TRIES_MOST, 2 * len(rows))):
        row = rows[dice.below(len(rows))]
        if fits(row, wish, hold) and row not in found:
            found.append(row)
            if len(found) == 2:
                break
    if not found:
        begin = dice.below(len(rows))
        for at in range(len(rows)):
            row = rows[(begin + at) % len(rows)]
            if fits(row, wish, hold):
                return row
        return None
    return min(found, key=_used)


def _used(row: NodeRow) -> float:
    """How full a node is: what is used of what it has most of its load in."""
    used = 1.0 - row.free.get(CPU, 0) / (row.total.get(CPU, 0) or 1)
    return used + row.wait_s


def fits(row: NodeRow, wish: Wish, hold: Amounts) -> bool:
    """Whether the node owns what is wished for and has what is held."""
    return slots_ever(row, wish) > 0 and _has_room(row, hold)


def _could(row: NodeRow, wish: Wish, hold: Amounts) -> bool:
    if slots_ever(row, wish) <= 0 or not accepts(row, wish):
        return False
    return slots_ever(row, Wish(hold)) > 0


def _has_room(row: NodeRow, hold: Amounts) -> bool:
    return slots(row.free, row.gpus, hold) > 0
