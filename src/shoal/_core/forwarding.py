"""What one node forwards to others, to whom, how many at a time, and what it takes back.

It decides for what was submitted here (this node is *home*); what it does with tasks of others
stands in ``hosting``. Which task it is about is a key; what a queue asks for is a wish. It never
sees a task that starts here: those are taken from rings, and nobody is asked (S-1).

::

    QueueLooked: so many wait here --> local_first: so many are for others
        --> Forward(node, count) to one of two outlets with room, until there is none  (start now)
        --> else Forward to who has the shorter wait, if it is worth it               (S-11)
        --> else AskCandidates: the store hears what is wanted, names up to 32 nodes   (S-12)
    TaskArrived: a task whose place its strategy or its arguments say, or that cannot run here
        --> ForwardTasks, Keep, or held until somebody has room                        (S-5)

A task that is lent is in one of these::

                 +---------- Returned (first time): held, then Keep or out once more
                 |
    (queue) -- lent --- Done
                 |  \\
                 |   +- Recall -- Returned | Running
                 +----- NodeLost: home's retries decide, not this machine

**How many at a time.** Each node says with what it sends back how many tasks of the class this home
may have there (``window``, made by ``hosting``): as many as it can run, and as many more as it runs
in ``ahead_s``, shared among the homes that use it. Before it has said anything the free slots of
its row are believed. So what waits elsewhere is a few milliseconds' worth: late binding, which
needs neither exact views nor many recalls, and a task waits where it can still go anywhere.

**No herd, no ping-pong.** What is named to one home is not named to the next (``candidates``); who
sends something back, or nothing at all, is closed for a while that doubles; a task that has been
back once goes out at most once more and then stays (``is_final``); equal waits move nothing
(``local_first``).

**More candidates.** Rows go ten times a second at most, and 32 nodes in a tenth of a second are too
few for who has work for a thousand. So who was named 32 that were all ready, and has filled them,
asks for the next ones after ``ask_more_gap_s``; an ask is a wish and a count, not a row. One
submitter on 100 nodes is done in 0.25 s instead of 0.36 s, for eight asks.

What was tried: sending to shorter waits by as much as makes the waits equal, at each event: all who
saw the same rows sent the same way, and of 3,000 tasks of 20 nodes that all submit 1,284 came back;
now it is a few to each of eight nodes once for each view, and one came back. Windows of 0 where a
node's own tasks wait, for everybody: who can run his tasks nowhere else then sent blindly, and
2,047 of 5,000 came back on 64 mixed nodes; with a share for them, 4. Figures of today are in
``docs/scheduling.md``.

Invariants: those of ``loans``, and

1. ``Forward`` is answered by ``Forwarded`` before the next look at that queue.
2. Every lent key stands in ``loans`` with its queue and node, and no other does.
3. Each event costs a number of steps that depends on what it moves, not on how many nodes there
   are; only ``TimePassed`` looks at all outlets that are in use.
4. Nothing is due while nothing is lent, held or wanted: idle costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from shoal._base.config import ForwardingLimits
from shoal._core.choosing import Chooser
from shoal._core.forwarding_events import (
    AskCandidates,
    CandidatesHeard,
    Command,
    Done,
    Event,
    Forward,
    Forwarded,
    ForwardTasks,
    Keep,
    NodeLeaves,
    NodeLost,
    QueueGone,
    QueueLooked,
    Recall,
    Returned,
    RowHeard,
    Running,
    TaskArrived,
    TaskEnded,
    TimePassed,
)
from shoal._core.loans import Held, Line, Outlet, Source
from shoal._core.policies import local_first, recall
from shoal._core.policies.dice import Dice
from shoal._core.policies.view import SLOTS_MOST
from shoal._proto.views import Candidates, Demand, NodeRow, Wish

LOOK_S = 0.05
"""How often outlets are looked at while something is lent or wanted."""
WAITS_COMPARED = 8
"""Moves by waiting time in one step."""
LINES_TRIED = 16
"""Lines of held tasks that one step looks at, in turn."""
LINES_TRIED_MORE = 2
"""... beside the one that it is about."""


class Forwarding:
    """The forwarding half of one node."""

    def __init__(self, node: str, limits: ForwardingLimits, seed: int) -> None:
        self.node = node
        self._limits = limits
        self._dice = Dice(seed)
        self._chooser = Chooser(node, limits, self._dice)
        self.view = self._chooser.view
        self.sources: dict[int, Source] = {}
        self._of_wish: dict[Wish, dict[int, Source]] = {}
        self._loans: dict[int, tuple[Source, Outlet]] = {}
        self._due_at: float | None = None
        self._now = 0.0
        self._out: list[Command] = []

    # ---- the one entry
    def step(self, now: float, event: Event) -> list[Command]:
        """Take in what happened; what to do now."""
        self._now = now
        match event:
            case QueueLooked():
                self._queue_looked(event)
            case QueueGone(queue):
                self._queue_gone(queue)
            case TaskArrived(queue, key, strategy, bytes_at):
                task = Held(key, now, strategy, bytes_at)
                assert key not in self._loans
                source = self.sources[queue]
                source.hold(task)
                if len(source.lines[task.line]) == 1:
                    self._place_held(source, task.line, 0)
                self._ask_store(source)
            case TaskEnded(queue, key):
                if queue in self.sources:
                    self.sources[queue].let_go(key)
            case CandidatesHeard(candidates, queue):
                self._candidates_heard(candidates, queue)
            case RowHeard(row):
                self._row_heard(row)
            case Forwarded():
                self._forwarded(event)
            case Returned(queue, node, keys, window):
                self._returned(queue, node, keys, window)
            case Running(queue, node, keys):
                if queue in self.sources:
                    self.sources[queue].stay(node, keys, now)
            case Done(queue, node, keys, ran_s, window):
                self._done(queue, node, keys, ran_s, window)
            case NodeLost(node):
                self._node_gone(node)
            case NodeLeaves(node):
                self._node_gone(node, is_lost=False)
            case TimePassed():
                self._time_passed()
        self._set_due()
        commands, self._out = self._out, []
        return commands

    def next_deadline(self) -> float | None:
        """When ``TimePassed`` is due."""
        return self._due_at

    def demand(self) -> tuple[Demand, ...]:
        """What the row of this node says of what waits here for others."""
        counts: dict[Wish, int] = {}
        for source in self.sources.values():
            if source.demand:
                counts[source.wish] = counts.get(source.wish, 0) + source.demand
        return tuple(Demand(wish, count) for wish, count in counts.items())

    def may_leave(self, queue: int, key: int) -> bool:
        """Whether a task of the queue may be taken out for ``Forward``: it has not been out."""
        source = self.sources.get(queue)
        return source is not None and key not in source.kept

    # ---- queues
    def _queue_looked(self, event: QueueLooked) -> None:
        source = self.sources.get(event.queue)
        if source is None:
            source = self.sources[event.queue] = Source(event.queue, event.wish)
            self._of_wish.setdefault(event.wish, {})[event.queue] = source
            source.takes, source.looked_at = event.takes, self._now
            source.moved_at = self._now
            source.turn = self._dice.below(1 << 16)
        assert not any(outlet.asked for outlet in source.outlets.values())
        source.seen(self._now, event)
        self._flow(source)
        self._take_back_when_idle(source)

    def _queue_gone(self, queue: int) -> None:
        source = self.sources.pop(queue, None)
        if source is None:
            return
        for outlet in source.outlets.values():
            for key in outlet.loans:
                del self._loans[key]
        others = self._of_wish[source.wish]
        del others[queue]
        if not others:
            del self._of_wish[source.wish]

    # ---- what is known of others
    def _candidates_heard(self, candidates: Candidates, queue: int) -> None:
        for row in (*candidates.ready, *candidates.able):
            self.view.hear(row)
        is_full = len(candidates.ready) >= self._limits.candidates_most
        for source in list(self._of_wish.get(candidates.wish, {}).values()):
            if queue not in (0, source.queue):
                continue
            source.has_more = is_full
            for row, most in zip(candidates.ready, candidates.slots):
                self._chooser.name(self._now, source, row, most)
                if queue and row.node in source.outlets:
                    source.outlets[row.node].slots = max(1, most)
            for row in candidates.able:
                if row.node != self.node and row.node in self.view.rows:
                    source.able.add(row.node)
            self._flow(source, is_new_view=True)

    def _row_heard(self, row: NodeRow) -> None:
        if self.view.hear(row):
            for source in self.sources.values():
                if row.node in source.outlets:
                    self._chooser.name(self._now, source, row, SLOTS_MOST)
                    self._flow(source)

    def _node_gone(self, node: str, *, is_lost: bool = True) -> None:
        """Nothing goes there any more. What a node that is being drained has comes back, or ends
        there."""
        self.view.lose(node)
        for source in self.sources.values():
            source.able.discard(node)
            outlet = source.outlets.get(node)
            if outlet is not None and is_lost:
                for key in outlet.loans:
                    del self._loans[key]
                source.forget(outlet)
            elif outlet is not None:
                outlet.leaves = True
                source.sort(outlet, self._now)

    # ---- what comes of what was sent
    def _forwarded(self, event: Forwarded) -> None:
        source = self.sources[event.queue]
        outlet = source.outlets.get(event.node)
        if outlet is None:
            return
        outlet.asked = max(0, outlet.asked - event.asked)
        assert not any(key in self._loans for key in event.keys)
        # Who is final is not recalled, as if it had been out already.
        tasks = [Held(key, self._now, outings=int(event.is_final)) for key in event.keys]
        source.lend(outlet, tasks, self._now)
        for key in event.keys:
            self._loans[key] = (source, outlet)

    def _land(self, queue: int, node: str, keys: Iterable[int]) -> tuple[Outlet | None, list[Held]]:
        """They are not lent any more; late news of others is not read."""
        source = self.sources.get(queue)
        outlet = None if source is None else source.outlets.get(node)
        if outlet is None:
            return None, []
        landed = []
        for key in keys:
            task = outlet.loans.pop(key, None)
            if task is not None:
                landed.append(task)
                outlet.recalled.pop(key, None)
                del self._loans[key]
        return outlet, landed

    def _returned(self, queue: int, node: str, keys: tuple[int, ...], window: int | None) -> None:
        source = self.sources.get(queue)
        outlet = None if source is None else source.outlets.get(node)
        if source is None or outlet is None:
            return
        was_refused = any(key in outlet.loans and key not in outlet.recalled for key in keys)
        landed = self._land(queue, node, keys)[1]
        outlet.allowed(self._now, window)
        if was_refused:
            outlet.close(self._now, self._limits)
        source.sort(outlet, self._now)
        for task in landed:
            # A final one comes back only from who can never run it: its place is chosen anew.
            task.outings, task.since = 1, self._now
            source.hold(task)
        self._flow(source)

    def _done(
        self, queue: int, node: str, keys: tuple[int, ...], ran_s: float, window: int | None
    ) -> None:
        outlet, landed = self._land(queue, node, keys)
        if outlet is None:
            return
        source = self.sources[queue]
        source.ran(ran_s, len(landed))
        outlet.allowed(self._now, window)
        outlet.reopen()
        source.sort(outlet, self._now)
        self._flow(source, ("bytes", node))

    # ---- who gets what
    def _flow(
        self, source: Source, first: Line | None = None, *, is_new_view: bool = False
    ) -> None:
        """Move what can be moved now; of what is held, what stands in ``first`` at first."""
        if source.held:
            self._place_held(source, first, LINES_TRIED if first is None else LINES_TRIED_MORE)
        for node, share in self._chooser.spread_out(source):
            self._ask(source, source.outlets[node], share, is_final=True)
        surplus = local_first.surplus(source.here, self._limits)
        stands_s = self._now - source.stands_since
        if source.wish.spreads and source.here.is_feasible and stands_s <= self._limits.stall_s:
            surplus = 0  # what is left is this node's own part, as long as that gets on
        rest = self._send_to_room(source, surplus)
        # What could run here moves to a shorter wait once for each view: between two views the
        # waits are as wrong as before, and all who see them would move the same way.
        is_time = is_new_view and not source.wish.spreads
        if rest > 0 and (is_time or not source.here.is_feasible):
            rest = self._send_by_wait(source, rest)
        source.wanted = max(0, rest)
        self._ask_store(source)

    def _ask_store(self, source: Source) -> None:
        limits = self._limits
        gap = limits.ask_more_gap_s if source.has_more and not source.open else limits.ask_gap_s
        if source.demand and self._now - source.asked_at >= gap:
            source.asked_at = self._now
            self._out.append(AskCandidates(source.wish, source.demand))

    def _send_to_room(self, source: Source, rest: int) -> int:
        """To those that could start them now, or nearly."""
        while rest > 0:
            outlet = self._chooser.emptier_of_two(self._now, source)
            if outlet is None:
                break
            count = min(rest, outlet.room(self._now), self._limits.batch_most)
            free = outlet.slots - outlet.used
            if free > 0:
                count = min(count, free)
            self._ask(source, outlet, count)
            rest -= count
        return rest

    def _send_by_wait(self, source: Source, rest: int) -> int:
        """Nobody can start them now: to those where they wait for less."""
        here = source.here
        for _ in range(WAITS_COMPARED):
            wait_here = local_first.wait_s(here._replace(entries=rest))
            found = self._chooser.shorter_wait_of_two(self._now, source)
            if wait_here is None or found is None or rest <= 0:
                break
            outlet, wait_there = found
            if not local_first.is_worth(wait_here, wait_there, self._limits):
                break
            # A few at first, as others see the same; it answers with how much it takes.
            count = max(1, outlet.slots // 4) - outlet.used
            if here.is_feasible:
                assert here.task_s is not None
                share = local_first.share_by_wait(wait_here, wait_there, outlet.slots, here.task_s)
                count = min(count, share)
            count = min(rest, count, self._limits.batch_most)
            if count <= 0:
                break
            self._ask(source, outlet, count)
            rest -= count
        return rest

    def _ask(self, source: Source, outlet: Outlet, count: int, *, is_final: bool = False) -> None:
        outlet.asked += count
        here = source.here
        source.here = here._replace(entries=here.entries - count, movable=here.movable - count)
        source.sort(outlet, self._now)
        self._out.append(Forward(source.queue, outlet.node, count, is_final))

    # ---- tasks that are placed one by one
    def _place_held(self, source: Source, first: Line | None, count: int) -> None:
        """Find places for what is held: of ``first``, and of other lines up to ``count``."""
        kept: list[int] = []
        sent: dict[tuple[str, bool], list[int]] = {}
        lines = [] if first is None else [first]
        for _ in range(min(count, len(source.lines))):
            lines.append(next(iter(source.lines)))
            source.lines.move_to_end(lines[-1])
        left = self._limits.batch_most
        for line in dict.fromkeys(lines):
            while left and line in source.lines:
                task = next(iter(source.lines[line].values()))
                node = self._chooser.place(self._now, source, task)
                if node is None:
                    break
                left -= 1
                source.let_go(task.key)
                if node == self.node:
                    kept.append(task.key)
                    source.keep(task)
                    continue
                # Who must run there, or whose bytes are there, waits there.
                is_final = task.outings > 0 or node in task.line or node in task.bytes_at
                sent.setdefault((node, is_final), []).append(task.key)
                outlet = source.outlet(node, self._now)
                source.lend(outlet, [task], self._now)
                self._loans[task.key] = (source, outlet)
        if kept:
            self._out.append(Keep(source.queue, tuple(kept)))
        for (node, is_final), keys in sent.items():
            self._out.append(ForwardTasks(source.queue, node, tuple(keys), is_final))

    # ---- what is taken back, and time
    def _take_back_when_idle(self, source: Source) -> None:
        """This node could start what others have in their queues."""
        here = source.here
        if here.entries or here.startable <= 0 or not here.is_feasible or source.held:
            return
        if self._now - source.recalled_at < self._limits.closed_s:
            return
        source.recalled_at = self._now
        longest = max(
            source.outlets.values(),
            key=lambda outlet: (len(outlet.loans) - len(outlet.recalled)) / outlet.slots,
            default=None,
        )
        if longest is not None:
            there = longest.outstanding(self._now, here.task_s)
            self._recall(source, longest, recall.how_many(there, here.startable, self._limits))

    def _recall(self, source: Source, outlet: Outlet, count: int) -> None:
        keys: list[int] = []
        for key in reversed(outlet.loans):
            if len(keys) >= count:
                break
            if outlet.loans[key].outings == 1 and key not in outlet.recalled:
                keys.append(key)
        if keys:
            outlet.recalled.update(dict.fromkeys(keys))
            self._out.append(Recall(source.queue, outlet.node, tuple(keys)))

    def _time_passed(self) -> None:
        for source in self.sources.values():
            for outlet in list(source.outlets.values()):
                source.sort(outlet, self._now)
                there = outlet.outstanding(self._now, source.here.task_s)
                if recall.is_stalled(there, self._limits):
                    # Nor does it get more, until something comes back from it.
                    outlet.close(self._now, self._limits)
                    source.sort(outlet, self._now)
                    startable = source.here.startable + len(source.open)
                    count = recall.how_many(there, startable, self._limits)
                    self._recall(source, outlet, count)
            source.tidy(self._now)
            self._flow(source)

    def _set_due(self) -> None:
        is_busy = bool(self._loans) or any(source.is_busy for source in self.sources.values())
        if not is_busy:
            self._due_at = None
        elif self._due_at is None or self._due_at <= self._now:
            self._due_at = self._now + LOOK_S

    def validate(self) -> None:
        """Assert the invariants at the top of this module."""
        self.view.validate()
        lent = 0
        for queue, source in self.sources.items():
            assert source.queue == queue and self._of_wish[source.wish][queue] is source
            source.validate(self._now)
            assert self.node not in source.outlets and self.node not in source.able
            for outlet in source.outlets.values():
                lent += len(outlet.loans)
                for key in outlet.loans:
                    assert self._loans[key] == (source, outlet)
        assert lent == len(self._loans)
        assert self._due_at is not None or not self._loans
