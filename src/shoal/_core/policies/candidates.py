"""Policy: candidates. Which nodes the control store names to a node that has more than it can run.

The store hears rows and is asked for wishes (RULES S-12); it answers with at most 32 nodes. It is
never on a task's path, but with a thousand nodes it is asked ten thousand times a second, so an
answer costs what it names, and a row costs what is wished for just then, never how many nodes there
are::

    row    -> for each wish in demand: does the node stand among the ready, the able, or neither?
    answer -> the next ones of the ready, filled up from the able

**No herd.** If each of a thousand askers were told of the same free node, all would send there.
So the ready ones are named in turn, and what has been named counts as used until the node's next
row: a node with four free slots is named to askers that want four tasks together, then it is not
ready any more. Who wants little is told little. What this costs: a node that nobody has sent to
although it was named is missed until its next row, and idle nodes write one each second.

The able ones are named in the same way, each to so many that at most twice its slots follow.
Without that, all who are told of a node that has just been named to others believe its last row,
which says that nobody waits there.

For ``SPREAD`` all that could ever run the task are named in turn, full or not.

Invariants, asserted by ``validate``:

1. Per wish a node that could ever run it stands in one of both rings, or is spent until its next
   row; no other does.
2. The ready have more slots than have been named of them since their last row; of the able fewer
   than twice their slots have been named, of the spent not.
3. At most ``wishes_most`` wishes; the one not asked for for the longest time goes first.
"""

from __future__ import annotations

from collections import OrderedDict

from shoal._base.config import ForwardingLimits
from shoal._core.policies.ring import Ring
from shoal._core.policies.view import View, slots_ever, slots_now
from shoal._proto.views import Candidates, NodeRow, Wish

CHOICE, CHOICE_MOST = 2, 8
"""Who wants little is named twice as much, up to so much, that there be a choice."""
CROWD = 2
"""So many times its slots are named of a node that has nothing free."""


class _Lists:
    """The nodes that fit one wish."""

    __slots__ = ("able", "asked_at", "named", "ready", "spent")

    def __init__(self) -> None:
        self.ready = Ring()
        self.able = Ring()
        self.spent: set[str] = set()
        self.named: dict[str, int] = {}
        """Slots that have been named to somebody since the node's last row."""
        self.asked_at = 0.0

    @property
    def known(self) -> int:
        """How many nodes could ever run it."""
        return len(self.ready) + len(self.able) + len(self.spent)


class CandidateIndex:
    """All rows, and who fits what is wished for."""

    def __init__(self, limits: ForwardingLimits, nodes_most: int = 100_000) -> None:
        self._limits = limits
        self._view = View(nodes_most)
        self._wishes: OrderedDict[Wish, _Lists] = OrderedDict()
        """The one that was asked for last at the end."""

    @property
    def rows(self) -> dict[str, NodeRow]:
        """The newest row of each node."""
        return self._view.rows

    def heard(self, row: NodeRow) -> None:
        """A node has told how it is."""
        if not self._view.hear(row):
            return
        for wish, lists in self._wishes.items():
            lists.named.pop(row.node, None)
            self._sort(wish, lists, row)

    def lost(self, node: str) -> None:
        """It is not there any more."""
        self._view.lose(node)
        for lists in self._wishes.values():
            lists.named.pop(node, None)
            lists.ready.discard(node)
            lists.able.discard(node)
            lists.spent.discard(node)

    def _sort(self, wish: Wish, lists: _Lists, row: NodeRow) -> None:
        """Where the node stands; in a ring where it stands already it keeps its turn."""
        node, named = row.node, lists.named.get(row.node, 0)
        ever = slots_ever(row, wish)
        is_ready = ever > 0 and slots_now(row, wish) > named
        is_able = not is_ready and ever > 0 and (named < CROWD * ever or wish.spreads)
        (lists.ready.add if is_ready else lists.ready.discard)(node)
        (lists.able.add if is_able else lists.able.discard)(node)
        is_spent = ever > 0 and not is_ready and not is_able
        (lists.spent.add if is_spent else lists.spent.discard)(node)

    def candidates(self, now: float, asker: str, wish: Wish, count: int) -> Candidates:
        """Whom to name to ``asker``, which has ``count`` tasks of ``wish`` for others."""
        lists = self._lists(now, wish)
        if wish.spreads:
            return self._everybody_in_turn(asker, wish, lists)
        most = self._limits.candidates_most
        left = max(count, min(CHOICE * count, CHOICE_MOST))
        ready: list[NodeRow] = []
        named: list[int] = []
        for node in lists.ready.turns():
            if node == asker:
                continue
            row = self.rows[node]
            before = lists.named.get(node, 0)
            share = min(left, slots_now(row, wish) - before)
            ready.append(row)
            named.append(share)
            left -= share
            lists.named[node] = before + share
            self._sort(wish, lists, row)
            if len(ready) >= most or left <= 0:
                break
        able: list[NodeRow] = []
        if left > 0 and len(ready) < most:
            chosen = {row.node for row in ready}
            for node in lists.able.turns():
                if node != asker and node not in chosen:
                    row = self.rows[node]
                    able.append(row)
                    share = max(1, slots_ever(row, wish) // 4)
                    lists.named[node] = lists.named.get(node, 0) + share
                    self._sort(wish, lists, row)
                if len(ready) + len(able) >= most:
                    break
        return Candidates(wish, tuple(ready), tuple(able), tuple(named), lists.known)

    def _everybody_in_turn(self, asker: str, wish: Wish, lists: _Lists) -> Candidates:
        most = self._limits.candidates_most
        ready: list[NodeRow] = []
        able: list[NodeRow] = []
        for ring, rows in ((lists.ready, ready), (lists.able, able)):
            if len(ready) + len(able) >= most:
                break
            for node in ring.turns():
                if node != asker:
                    rows.append(self.rows[node])
                if len(ready) + len(able) >= most:
                    break
        named = tuple(slots_now(row, wish) for row in ready)
        return Candidates(wish, tuple(ready), tuple(able), named, lists.known)

    def _lists(self, now: float, wish: Wish) -> _Lists:
        lists = self._wishes.get(wish)
        if lists is None:
            lists = self._wishes[wish] = _Lists()
            for row in self.rows.values():
                self._sort(wish, lists, row)
        lists.asked_at = now
        self._wishes.move_to_end(wish)
        oldest = next(iter(self._wishes))
        is_idle = now - self._wishes[oldest].asked_at > self._limits.wish_idle_s
        if is_idle or len(self._wishes) > self._limits.wishes_most:
            del self._wishes[oldest]
        return lists

    def validate(self) -> None:
        """Assert the invariants at the top of this module."""
        self._view.validate()
        assert len(self._wishes) <= self._limits.wishes_most
        for wish, lists in self._wishes.items():
            assert not set(lists.ready.nodes) & set(lists.able.nodes)
            for node in (*lists.ready.nodes, *lists.able.nodes):
                assert slots_ever(self.rows[node], wish) > 0
            for node in lists.ready.nodes:
                assert slots_now(self.rows[node], wish) > lists.named.get(node, 0)
            assert not lists.spent & {*lists.ready.nodes, *lists.able.nodes}
            for node in (*lists.able.nodes, *lists.spent):
                is_spent = lists.named.get(node, 0) >= CROWD * slots_ever(self.rows[node], wish)
                assert is_spent == (node in lists.spent) or wish.spreads
            fitting = sum(slots_ever(row, wish) > 0 for row in self.rows.values())
            assert fitting == lists.known
