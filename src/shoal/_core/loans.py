"""What one queue of this node has lent to others, and how much each of them may still get.

An *outlet* is one other node, as one queue sees it::

    limit = window           if that node has said how much it takes (with what came back from it)
            slots of its row if it has only been named by the control store
            0                if it has sent something back, for a while

    room  = limit - (lent and not back) - (asked for and not yet lent)

A *source* is one queue, with what it looks like here, its outlets, and what the daemon itself holds
of it: tasks that must be placed one by one, since their strategy or their arguments say where, or
since they have been back once.

Invariants, asserted by ``validate``:

1. A task is lent to one node or held, never both, and never twice.
2. ``open`` has the outlets with room, no others; so one with room is found in one step.
3. A task goes out at most twice; the second time it is final: nobody sends it back because he is
   busy, and it is not recalled.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping

from shoal._base.config import ForwardingLimits
from shoal._core.forwarding_events import QueueLooked
from shoal._core.policies.local_first import Here
from shoal._core.policies.recall import Outstanding
from shoal._core.policies.ring import Bag
from shoal._proto.messages import Default, NodeAffinity, Strategy
from shoal._proto.views import Wish

SMOOTHING = 0.25
"""Weight of what was just seen in the mean of how long tasks take."""
WINDOW_KEPT_S = 1.0
"""A node counts who has sent it something within this time; what it allowed before is over."""


ANYWHERE = Default()
Line = tuple[str, str]
"""What tasks that go, or do not go, together have in common: what decides, and the node that it
names. If the first of a line finds no place, those behind it find none either."""


class Held:
    """A task that the daemon places itself."""

    __slots__ = ("bytes_at", "key", "line", "outings", "since", "strategy")

    def __init__(
        self,
        key: int,
        since: float,
        strategy: Strategy = ANYWHERE,
        bytes_at: Mapping[str, int] | None = None,
        outings: int = 0,
    ) -> None:
        self.key = key
        self.since = since
        """When it came, or came back."""
        self.strategy = strategy
        self.bytes_at = bytes_at or {}
        """Where how many bytes of its arguments are."""
        self.outings = outings
        """How often it has been out."""
        self.line: Line = (type(strategy).__name__, "")
        if isinstance(strategy, NodeAffinity):
            self.line = ("NodeAffinity", strategy.node_id)
        elif self.bytes_at:
            self.line = ("bytes", max(self.bytes_at, key=self.bytes_at.__getitem__))


class Outlet:
    """Another node, as one queue sees it."""

    __slots__ = (
        "asked",
        "closed_s",
        "closed_until",
        "guess",
        "heard_at",
        "leaves",
        "loans",
        "node",
        "recalled",
        "slots",
        "window",
    )

    def __init__(self, node: str, now: float) -> None:
        self.node = node
        self.loans: dict[int, Held] = {}
        """What it has, the one that was sent last at the end."""
        self.recalled: dict[int, None] = {}
        """What has been asked back and not been answered."""
        self.asked = 0
        """What is to be taken out of the queue for it."""
        self.window: int | None = None
        self.guess = 0
        self.slots = 1
        """How many tasks of the queue it can run at once."""
        self.heard_at = now
        """When something last went there or came back."""
        self.leaves = False
        """It is being drained, and takes nothing."""
        self.closed_until = float("-inf")
        self.closed_s = 0.0

    @property
    def used(self) -> int:
        """What it has, or is about to get."""
        return len(self.loans) + self.asked

    def room(self, now: float) -> int:
        """How many more it may get."""
        if now < self.closed_until or self.leaves:
            return 0
        limit = self.guess if self.window is None else self.window
        return max(0, limit - self.used)

    def fullness(self) -> float:
        """How much it has for what it can run."""
        return self.used / self.slots

    def named(self, now: float, slots_now: int, slots: int) -> None:
        """The store says that it has room. What it says itself is newer, as long as it has
        something to say: what runs long there says nothing, and the row knows of it by then."""
        self.slots = max(1, slots)
        is_old = now - self.heard_at > WINDOW_KEPT_S
        if is_old or (not self.used and not self.window):
            self.window, self.guess = None, self.used + slots_now
            if self.used:
                self.reopen()  # it is not overdue: what it has is running

    def allowed(self, now: float, window: int | None) -> None:
        """It has said how much it takes."""
        self.heard_at = now
        if window is not None:
            self.window = window

    def reopen(self) -> None:
        """It gets on with what it has."""
        self.closed_s, self.closed_until = 0.0, float("-inf")

    def close(self, now: float, limits: ForwardingLimits) -> None:
        """It has sent something back because it was busy, or is overdue."""
        self.closed_s = min(max(limits.closed_s, 2 * self.closed_s), limits.closed_most_s)
        self.closed_until = now + self.closed_s

    def outstanding(self, now: float, task_s: float | None) -> Outstanding:
        """As the policy of recalls asks for it."""
        count = len(self.loans) - len(self.recalled)
        return Outstanding(count, self.slots, now - self.heard_at, task_s)


class Source:
    """One queue of this node that others may help with."""

    def __init__(self, queue: int, wish: Wish) -> None:
        self.queue = queue
        self.wish = wish
        self.here = Here(0, 0, 0, None, False)
        self.takes = 0
        self.looked_at = 0.0
        self.moved_at = 0.0
        """When something of it was last taken here, or it was empty, or nobody served it."""
        self.stands_since = 0.0
        """When something of it was last taken here, or it was empty."""
        self.outlets: dict[str, Outlet] = {}
        self.open = Bag()
        """Outlets that had room when they were last looked at."""
        self.able = Bag()
        """Nodes that could run its tasks but have nothing free."""
        self.held: dict[int, Held] = {}
        self.lines: OrderedDict[Line, dict[int, Held]] = OrderedDict()
        """The same by lines, each in the order in which they came; there is no empty one."""
        self.kept: set[int] = set()
        """What has been out and is in the queue here again: it stays."""
        self.turn = 0
        """Whose turn it is, for SPREAD."""
        self.part = 0
        """Of what waits here so much is this node's own part, for SPREAD."""
        self.wanted = 0
        """For how many tasks nobody was found."""
        self.asked_at = float("-inf")
        """When candidates were last asked for."""
        self.has_more = False
        """The store has named as many with room as it may at once: there may be more of them."""
        self.recalled_at = float("-inf")

    # ---- how long tasks take
    def seen(self, now: float, look: QueueLooked) -> None:
        """What a look at the queue shows."""
        entries, takes, attached = look.entries, look.takes, look.attached
        task_s = self.here.task_s
        moved, passed = takes - self.takes, now - self.looked_at
        if moved > 0 or not entries or not self.here.entries:
            self.stands_since = now
        if moved > 0 and self.here.attached and passed > 0:
            # As long as there was something in it all workers were busy.
            if self.here.entries and entries:
                task_s = _mean(task_s, passed * self.here.attached / moved, moved)
            self.moved_at = now
        elif not entries or not attached:
            self.moved_at = now
        elif task_s is None or now - self.moved_at > 2 * task_s:
            task_s = max(task_s or 0.0, now - self.moved_at) or None
        if not entries:
            self.kept.clear()
        self.takes, self.looked_at = takes, now
        self.here = Here(entries, look.startable, attached, task_s, look.is_feasible, look.movable)

    def ran(self, ran_s: float, count: int) -> None:
        """So long ``count`` tasks together have run elsewhere."""
        if count:
            mean = _mean(self.here.task_s, ran_s / count, count)
            self.here = self.here._replace(task_s=mean)

    # ---- what is held
    def hold(self, task: Held) -> None:
        """It waits for a place."""
        assert task.key not in self.held
        self.held[task.key] = task
        self.lines.setdefault(task.line, {})[task.key] = task

    def let_go(self, key: int) -> None:
        """It has one, or needs none any more."""
        task = self.held.pop(key, None)
        if task is not None:
            line = self.lines[task.line]
            del line[key]
            if not line:
                del self.lines[task.line]

    def keep(self, task: Held) -> None:
        """It goes into the queue here; if it has been out, it does not leave it again."""
        if task.outings:
            self.kept.add(task.key)
        here = self.here
        if here.startable:
            self.here = here._replace(startable=here.startable - 1)
        else:
            self.here = here._replace(entries=here.entries + 1)

    # ---- outlets
    def outlet(self, node: str, now: float) -> Outlet:
        """That node; made if it was not known."""
        found = self.outlets.get(node)
        if found is None:
            found = self.outlets[node] = Outlet(node, now)
        return found

    def sort(self, outlet: Outlet, now: float) -> None:
        """Whether it has room may have changed."""
        if outlet.room(now) > 0:
            self.open.add(outlet.node)
        else:
            self.open.discard(outlet.node)

    def lend(self, outlet: Outlet, held: Iterable[Held], now: float) -> None:
        """They go there."""
        outlet.heard_at = now
        for task in held:
            assert task.key not in outlet.loans and task.outings < 2
            task.outings += 1
            outlet.loans[task.key] = task
        self.sort(outlet, now)

    def stay(self, node: str, keys: Iterable[int], now: float) -> None:
        """They were asked back too late."""
        outlet = self.outlets.get(node)
        if outlet is not None:
            outlet.heard_at = now
            for key in keys:
                outlet.recalled.pop(key, None)

    def forget(self, outlet: Outlet) -> None:
        """It is gone, and with it all that it had."""
        self.outlets.pop(outlet.node, None)
        self.open.discard(outlet.node)
        self.able.discard(outlet.node)

    def tidy(self, now: float) -> None:
        """Let go of outlets that have nothing and have not been used for a while. With SPREAD only
        what they took is forgotten: they have their turns as long as they live."""
        for outlet in list(self.outlets.values()):
            if outlet.used or now - outlet.heard_at <= WINDOW_KEPT_S:
                continue
            if self.wish.spreads:
                outlet.window, outlet.guess = None, 0
                self.sort(outlet, now)
            else:
                del self.outlets[outlet.node]
                self.open.discard(outlet.node)

    @property
    def is_busy(self) -> bool:
        """Whether somebody has to look at it again, if nothing of it is lent."""
        return bool(self.demand or (self.here.entries if self.wish.spreads else self.outlets))

    @property
    def demand(self) -> int:
        """For how many tasks it would use other nodes."""
        return self.wanted + len(self.held)

    def validate(self, now: float) -> None:
        """Assert the invariants at the top of this module."""
        self.open.validate()
        self.able.validate()
        lent: set[int] = set()
        for node, outlet in self.outlets.items():
            assert outlet.node == node and outlet.asked >= 0
            assert not lent & set(outlet.loans)
            lent |= set(outlet.loans)
            assert set(outlet.recalled) <= set(outlet.loans)
            assert all(1 <= task.outings <= 2 for task in outlet.loans.values())
            assert not any(outlet.loans[key].outings > 1 for key in outlet.recalled)
            if outlet.room(now) > 0:
                assert node in self.open or now >= outlet.closed_until
        assert not lent & set(self.held)
        assert {key for line in self.lines.values() for key in line} == set(self.held)
        assert all(self.lines.values())
        assert set(self.open.nodes) <= set(self.outlets)


def _mean(known: float | None, seen: float, count: int) -> float:
    """The moving mean: one task counts a little, many at once count as what they are."""
    if known is None:
        return seen
    weight = 1 - (1 - SMOOTHING) ** min(count, 32)
    return known + weight * (seen - known)
