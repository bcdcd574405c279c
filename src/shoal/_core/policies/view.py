"""What fits where, by rows that may be old; and the rows that one node knows.

A row says what a node had when it wrote it. ``slots_now`` and ``slots_ever`` make counts of it: how
many tasks of one wish could start there now, and how many on the empty node. GPU ids count as in
the node's own account (RULES S-9): a fraction comes from one id, above one only whole ids.

``Left`` is a row that something is planned on: what is taken from it is gone for the next bundle.
It agrees with ``resources.Account`` by a test, so that a plan is refused only if the row was old.

Invariants of ``View``, asserted by ``validate``:

1. At most ``rows_most`` rows; the one that was heard of longest ago goes first.
2. Of two rows of one node the one with the greater (epoch, number) stays, whatever order they come
   in; of equal ones the later (somebody has changed what he was told, as the control store does
   with what it has ordered). Nothing of an epoch that is over comes back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from shoal._core.policies.labels import agrees, labels_of
from shoal._core.resources import CPU, GPU, UNIT, Amounts, units_of
from shoal._proto.views import NodeRow, Wish

SLOTS_MOST = 1 << 20
TINY_UNITS = UNIT // 8
TINY_SLOTS = 32
"""Classes of less than 1/8 CPU are limited by processes, not by amounts (RULES S-8)."""


def accepts(row: NodeRow, wish: Wish) -> bool:
    """Whether the node takes tasks of ``wish`` at all, whatever is free."""
    if row.is_driver or row.is_draining:
        return False
    if wish.python and row.python and wish.python != row.python:
        return False
    return not wish.labels or agrees(labels_of(row), wish.labels)


def slots_now(row: NodeRow, wish: Wish) -> int:
    """How many tasks of ``wish`` could start there now."""
    if not accepts(row, wish):
        return 0
    return slots(row.free, row.gpus, wish.amounts)


def slots_ever(row: NodeRow, wish: Wish) -> int:
    """How many tasks of ``wish`` the empty node could run at once."""
    if not accepts(row, wish):
        return 0
    return slots(row.total, (UNIT,) * (row.total.get(GPU, 0) // UNIT), wish.amounts)


def slots(amounts: Mapping[str, int], gpus: tuple[int, ...], wanted: Amounts) -> int:
    """How often ``wanted`` fits into ``amounts`` with these free GPU ids."""
    count = SLOTS_MOST if units_of(wanted, CPU) >= TINY_UNITS else TINY_SLOTS
    for name, units in wanted:
        if name == GPU and gpus:
            if units <= UNIT:
                fitting = sum(free // units for free in gpus)
            else:
                fitting = sum(free == UNIT for free in gpus) // (units // UNIT)
        else:
            fitting = amounts.get(name, 0) // units
        if fitting < count:
            count = max(0, fitting)
    return count


class Left:
    """What is left of a node while something is planned on it."""

    __slots__ = ("free", "gpus", "node", "taken")

    def __init__(self, node: str, free: Mapping[str, int], gpus: Iterable[int]) -> None:
        self.node = node
        self.free = dict(free)
        self.gpus = list(gpus)
        self.taken = 0
        """How many bundles have been planned on it."""

    @classmethod
    def now(cls, row: NodeRow) -> Left:
        """What the row says is free."""
        gpus = row.gpus or (UNIT,) * (row.free.get(GPU, 0) // UNIT)
        return cls(row.node, row.free, gpus)

    @classmethod
    def ever(cls, row: NodeRow) -> Left:
        """What the empty node has."""
        return cls(row.node, row.total, (UNIT,) * (row.total.get(GPU, 0) // UNIT))

    def copy(self) -> Left:
        """One to try things on."""
        other = Left(self.node, self.free, self.gpus)
        other.taken = self.taken
        return other

    def fits(self, amounts: Amounts) -> bool:
        """Whether ``amounts`` is left."""
        if any(self.free.get(name, 0) < units for name, units in amounts):
            return False
        return self._choose_gpus(units_of(amounts, GPU)) is not None

    def take(self, amounts: Amounts) -> bool:
        """Plan ``amounts`` on it; False and no change if they do not fit."""
        if not self.fits(amounts):
            return False
        units = units_of(amounts, GPU)
        for at in self._choose_gpus(units) or ():
            self.gpus[at] -= min(units, UNIT)
        for name, used in amounts:
            self.free[name] -= used
        self.taken += 1
        return True

    def share_left(self, amounts: Amounts) -> float:
        """The scarcest of what ``amounts`` names, as a share of 1 that would still be free: small
        means that the node is nearly full of it."""
        return (
            min(
                ((self.free.get(name, 0) - units) / (self.free.get(name, 0) or 1))
                for name, units in amounts
            )
            if amounts
            else 1.0
        )

    def _choose_gpus(self, units: int) -> tuple[int, ...] | None:
        """Indexes of the ids, chosen as ``Account`` chooses them: the fullest that has room."""
        if not units:
            return ()
        if units <= UNIT:
            fitting = [at for at, free in enumerate(self.gpus) if free >= units]
            return (min(fitting, key=self.gpus.__getitem__),) if fitting else None
        whole = [at for at, free in enumerate(self.gpus) if free == UNIT]
        count = units // UNIT
        return tuple(whole[:count]) if len(whole) >= count else None


class View:
    """The rows that one node knows."""

    def __init__(self, rows_most: int) -> None:
        self.rows: dict[str, NodeRow] = {}
        """The one heard of longest ago first."""
        self._rows_most = rows_most
        self._ended: dict[str, int] = {}
        """Of nodes that were lost: their last epoch."""

    def hear(self, row: NodeRow) -> bool:
        """Take in a row; False if what is known is as new, or its epoch is over."""
        known = self.rows.get(row.node)
        if known is not None:
            if (row.epoch, row.number) < (known.epoch, known.number) or row == known:
                return False
            del self.rows[row.node]
        if row.epoch <= self._ended.get(row.node, -1):
            return False
        self.rows[row.node] = row
        if len(self.rows) > self._rows_most:
            del self.rows[next(iter(self.rows))]
        return True

    def lose(self, node: str) -> None:
        """The node is gone, with its epoch."""
        row = self.rows.pop(node, None)
        if row is not None:
            self._ended.pop(node, None)
            self._ended[node] = row.epoch
            if len(self._ended) > self._rows_most:
                del self._ended[next(iter(self._ended))]

    def validate(self) -> None:
        """Assert the invariants at the top of this module."""
        assert len(self.rows) <= self._rows_most and len(self._ended) <= self._rows_most
        for node, row in self.rows.items():
            assert row.node == node and row.epoch > self._ended.get(node, -1)
