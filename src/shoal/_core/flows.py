"""How far a stream between two nodes runs ahead of its home, and what is said of it: pure.

A generator that another node runs for home has a stream on both: the one that it fills there, and
the one that is read at home. What has been yielded there goes home as rows of items::

    there   Outflow     items that are sent, and how many more may be
    home    Inflow      items that have come, that are in memory, that the consumer has taken

Items are numbered from 0 in the order in which they are yielded; an attempt begins with the first
that home does not have.

Invariants:

1. At most ``WINDOW`` items are on their way, or wait at home for memory: the rest waits in the
   memory of the node that yields them.
2. Home takes items in their order, each once; a row that says anything else is not believed.
3. What the consumer has taken is said at once, as its producer may stand still for it
   (back-pressure); that items have come to memory is said each quarter of a window.
4. ``seen <= taken <= sent`` for whoever has sent them.
"""

from __future__ import annotations

WINDOW = 512
BATCH = 128
"""Items in one row."""
BATCH_BYTES = 1 << 19
"""A row with as many bytes goes, however few items it has."""
_SAID_EACH = WINDOW // 4


class Inflow:
    """One stream at home."""

    __slots__ = ("come", "first", "said", "seen", "taken")

    def __init__(self, first: int) -> None:
        self.first = first
        """Number of the first item of this attempt."""
        self.come = first
        """How many items there are with those that wait for memory."""
        self.taken = first
        """How many are in memory."""
        self.seen = first
        """How many the consumer has taken, if it tells."""
        self.said = first, first

    def came(self, first: int, count: int) -> bool:
        """Items from ``first`` have come; False: those are not the ones that are next."""
        if first != self.come or count > WINDOW - (self.come - self.taken):
            return False
        self.come += count
        return True

    def took(self) -> None:
        """The next one is in memory."""
        assert self.taken < self.come, "it has come before"
        self.taken += 1

    def saw(self) -> None:
        """The consumer has taken the next one."""
        assert self.seen < self.taken, "it was in memory before"
        self.seen += 1

    def news(self) -> tuple[int, int] | None:
        """(taken, seen), if that has to be said now."""
        taken, seen = self.said
        if seen == self.seen and self.taken - taken < _SAID_EACH:
            return None
        self.said = self.taken, self.seen
        return self.said


class Outflow:
    """One stream where its generator runs."""

    __slots__ = ("seen", "sent", "taken")

    def __init__(self, first: int) -> None:
        self.sent = self.taken = self.seen = first

    @property
    def room(self) -> int:
        """How many items may be sent now."""
        return WINDOW - (self.sent - self.taken)

    def heard(self, taken: int, seen: int) -> int:
        """Home has said so much; how many more its consumer has taken. -1: that cannot be."""
        if not (self.taken <= taken <= self.sent and self.seen <= seen <= taken):
            return -1
        more, self.taken, self.seen = seen - self.seen, taken, seen
        return more
