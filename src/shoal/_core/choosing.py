"""Where one task (or a batch of equal ones) of one queue goes: the policies, put together.

``Chooser`` knows the rows and has the dice; what is lent stands in the ``Source`` it is asked
about, and it changes nothing but whose turn it is. The order of the policies:

1. what the strategy says: affinity, SPREAD, labels;
2. argument bytes, if some node has more than 1 MB more than this one;
3. here, if it can start here now;
4. the emptier of two nodes with room, taken at random;
5. the shorter wait of two, if it is worth it; else here.
"""

from __future__ import annotations

from shoal._base.config import ForwardingLimits
from shoal._core.loans import Held, Outlet, Source
from shoal._core.policies import affinity, argument_bytes, labels, local_first, spread
from shoal._core.policies.dice import Dice
from shoal._core.policies.view import View, slots_ever, slots_now
from shoal._proto.messages import NodeAffinity, NodeLabels, Spread
from shoal._proto.views import NodeRow


class Chooser:
    """Finds a node for a task of this node."""

    def __init__(self, node: str, limits: ForwardingLimits, dice: Dice) -> None:
        self.node = node
        self.view = View(limits.rows_most)
        self._limits = limits
        self._dice = dice

    # ---- what is known of others
    def name(self, now: float, source: Source, row: NodeRow, most: int) -> None:
        """The node of this row may have room for the source, for at most so many."""
        if row.node == self.node or row.node not in self.view.rows:
            return
        free = min(most, slots_now(row, source.wish))
        ever = slots_ever(row, source.wish)
        if free or (source.wish.spreads and ever):  # turns are everybody's, the full ones' too
            outlet = source.outlet(row.node, now)
            outlet.named(now, free, ever)
            source.able.discard(row.node)
            source.sort(outlet, now)

    def wait_at(self, now: float, source: Source, node: str) -> float | None:
        """How long a task of the queue would wait on that node; None: it can not run there."""
        if node == self.node:
            here = source.here
            if not here.is_feasible:
                return None
            return local_first.wait_s(here._replace(entries=here.entries + 1)) or 0.0
        row = self.view.rows.get(node)
        if row is None:
            # Its bytes are known and it is not: it has the last word.
            return 0.0
        slots = slots_ever(row, source.wish)
        if not slots:
            return None
        outlet = source.outlet(node, now)
        outlet.slots = slots
        behind = max(0, outlet.used + 1 - slots)
        return row.wait_s + behind * (source.here.task_s or 0.0) / slots

    def spread_out(self, source: Source) -> list[tuple[str, int]]:
        """SPREAD: who gets how much of what waits, busy or not; this node keeps its part."""
        here = source.here
        source.part = min(source.part, here.movable)
        new = here.movable - source.part
        nodes = sorted(node for node in source.outlets if node in self.view.rows)
        if not source.wish.spreads or not new or not nodes:
            return []
        shares, source.turn = spread.parts(new, len(nodes) + here.is_feasible, source.turn)
        source.part += shares[len(nodes)] if here.is_feasible else 0
        return [(node, share) for node, share in zip(nodes, shares) if share]

    # ---- one of two
    def emptier_of_two(self, now: float, source: Source) -> Outlet | None:
        """Of two outlets with room the one that has less for what it can run."""
        while source.open:
            first, second = (source.outlets[node] for node in self._dice.two(source.open.nodes))
            chosen = min(first, second, key=Outlet.fullness)
            if chosen.room(now) > 0:
                return chosen
            source.open.discard(chosen.node)
        return None

    def shorter_wait_of_two(self, now: float, source: Source) -> tuple[Outlet, float] | None:
        """Of two full nodes the one where a task waits for less."""
        if not source.able:
            return None
        found: tuple[float, str] | None = None
        for node in self._dice.two(source.able.nodes):
            wait = self.wait_at(now, source, node)
            if wait is not None and (found is None or wait < found[0]):
                found = wait, node
        if found is None:
            return None
        outlet = source.outlet(found[1], now)
        # Who has said how much it takes wants no more than that.
        is_open = now >= outlet.closed_until and not outlet.window
        return (outlet, found[0]) if is_open else None

    # ---- one task
    def place(self, now: float, source: Source, task: Held) -> str | None:
        """Where a held task goes now; None: it waits."""
        match task.strategy:
            case NodeAffinity():
                meant = affinity.resolve(
                    task.strategy,
                    lambda node: node == self.node or node in self.view.rows,
                    lambda node: self.wait_at(now, source, node) is not None,
                )
                if not meant.is_free:
                    return meant.node
            case Spread():
                return self._spread(now, source)
            case NodeLabels(_, soft) if soft:
                rows = [self.view.rows[n] for n in source.open.nodes if n in self.view.rows]
                liked = labels.preferred(rows, soft)
                if liked and len(liked) < len(rows):
                    return liked[self._dice.below(len(liked))].node
        if argument_bytes.is_drawn(task.bytes_at, self.node):
            return self._by_bytes(now, source, task)
        if local_first.has_place(source.here, self._limits):
            return self.node
        outlet = self.emptier_of_two(now, source)
        # What goes out to stay does not go to who has lately sent back or been overdue.
        if outlet is not None and not (task.outings and outlet.closed_s):
            return outlet.node
        if not task.outings or not source.here.is_feasible:
            return self._by_wait(now, source)
        # It has been sent back by who was full; here it still may go anywhere. But what goes on
        # coming must not be before it for ever.
        return self.node if now - task.since > self._limits.stall_s else None

    def _spread(self, now: float, source: Source) -> str | None:
        here = source.here

        def has_room(node: str) -> bool:
            if node == self.node:
                return here.startable > 0
            return source.outlets[node].room(now) > 0

        itself = self.node if here.is_feasible else ""
        nodes = source.open.nodes
        chosen, source.turn = spread.choose(nodes, source.turn, has_room, itself)
        return chosen

    def _by_bytes(self, now: float, source: Source, task: Held) -> str | None:
        others = list(self._dice.two(source.open.nodes)) if source.open else []
        node = argument_bytes.choose(
            task.bytes_at,
            [self.node, *others],
            lambda node: self.wait_at(now, source, node),
            self._limits.bytes_per_s,
        )
        if node is None or node == self.node:
            return node
        # What would wait there for more than a few milliseconds waits here as well, where a better
        # place can still be found; and few go before that node has said how much it takes, as it
        # may have what everybody wants.
        outlet = source.outlet(node, now)
        most = max(1, outlet.slots // 4)
        if outlet.window is not None:
            most = max(outlet.window, most)
        return node if outlet.used < most and now >= outlet.closed_until else None

    def _by_wait(self, now: float, source: Source) -> str | None:
        here = source.here
        found = self.shorter_wait_of_two(now, source)
        if here.is_feasible:
            wait_here = local_first.wait_s(here._replace(entries=here.entries + 1))
            if found is None or wait_here is None:
                return self.node
            is_worth = local_first.is_worth(wait_here, found[1], self._limits)
            return found[0].node if is_worth else self.node
        if found is None or found[0].used >= max(1, found[0].slots // 4):
            return None
        return found[0].node
