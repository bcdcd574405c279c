"""Both halves of forwarding: single decisions, and any order of events against a naive model."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shoal._base.config import ForwardingLimits
from shoal._core import forwarding_events as ev
from shoal._core import hosting as host
from shoal._core.forwarding import Forwarding
from shoal._core.hosting import Hosting
from shoal._core.resources import parse
from shoal._proto.messages import Default, LabelRule, NodeAffinity, NodeLabels, Spread, Strategy
from shoal._proto.views import Candidates, Demand, NodeRow, Wish

LIMITS = ForwardingLimits()
WISH = Wish(parse({"CPU": 1}))
MB = 1_000_000
ANYWHERE = Default()


def row(node: str, free: int, total: int = 4, number: int = 1, **more: object) -> NodeRow:
    cpus = {"CPU": total * 10_000}
    return NodeRow(node, 1, number, cpus, {"CPU": free * 10_000}, **more)  # type: ignore[arg-type]


def named(ready: Sequence[NodeRow], able: Sequence[NodeRow] = ()) -> Candidates:
    """What the store says if nobody else asks."""
    slots = tuple(one.free["CPU"] // 10_000 for one in ready)
    return Candidates(WISH, tuple(ready), tuple(able), slots)


class Home:
    """A machine and a queue of long tasks, four of which run."""

    def __init__(self, is_feasible: bool = True, limits: ForwardingLimits = LIMITS) -> None:
        self.machine = Forwarding("home", limits, seed=1)
        self.is_feasible = is_feasible
        self.now = 0.0
        self.takes = 0
        self.next_key = 1
        self.at: dict[str, tuple[int, ...]] = {}
        """What was last taken out of the queue for whom."""

    def step(self, event: ev.Event) -> list[ev.Command]:
        commands = self.machine.step(self.now, event)
        for command in list(commands):
            if isinstance(command, ev.Forward):
                keys = tuple(range(self.next_key, self.next_key + command.most))
                self.next_key += command.most
                self.at[command.node] = keys
                answer = ev.Forwarded(command.queue, command.node, command.most, keys)
                commands += self.machine.step(self.now, answer)
        self.machine.validate()
        return commands

    def look(
        self, entries: int, startable: int = 0, movable: int | None = None
    ) -> list[ev.Command]:
        attached = 4 if self.is_feasible else 0
        moves = entries if movable is None else movable
        return self.step(
            ev.QueueLooked(
                1, WISH, entries, moves, self.takes, startable, attached, self.is_feasible
            )
        )

    def hear(self, *ready: NodeRow, able: Sequence[NodeRow] = ()) -> list[ev.Command]:
        return self.step(ev.CandidatesHeard(named(ready, able)))

    def arrive(self, strategy: Strategy = ANYWHERE, **bytes_at: int) -> list[ev.Command]:
        key, self.next_key = self.next_key, self.next_key + 1
        return self.step(ev.TaskArrived(1, key, strategy, bytes_at))


def sent(commands: list[ev.Command]) -> dict[str, int]:
    """How many tasks go to whom."""
    counts: dict[str, int] = {}
    for command in commands:
        if isinstance(command, ev.Forward):
            counts[command.node] = counts.get(command.node, 0) + command.most
        elif isinstance(command, ev.ForwardTasks):
            counts[command.node] = counts.get(command.node, 0) + len(command.keys)
    return counts


# ---- queues
def test_what_can_start_here_stays_and_what_cannot_is_asked_for() -> None:
    home = Home()
    assert home.look(3, startable=3) == []
    assert home.machine.next_deadline() is None, "nothing is due while nothing is wanted"
    assert home.look(5, startable=3) == [ev.AskCandidates(WISH, 2)]
    assert home.machine.demand() == (Demand(WISH, 2),)
    assert home.look(6, startable=3) == [], "ten times a second are enough"


def test_free_slots_elsewhere_are_filled_at_once() -> None:
    home = Home()
    home.look(100)
    assert sent(home.hear(row("a", 4), row("b", 2))) == {"a": 4, "b": 2}
    assert sent(home.look(94)) == {}, "nobody has said that there is more room"
    done = ev.Done(1, "a", home.at["a"][:2], 2.0, window=4)
    assert sent(home.step(done)) == {"a": 2}


def test_only_so_many_as_are_for_others_go() -> None:
    home = Home()
    home.look(6, startable=3)
    assert sum(sent(home.hear(row("a", 4), row("b", 4))).values()) == 3


def test_what_may_not_leave_stays() -> None:
    home = Home()
    home.look(50, movable=2)
    assert sum(sent(home.hear(row("a", 4))).values()) == 2


def test_short_tasks_stay_unless_they_never_run_here() -> None:
    home = Home()
    home.look(5000)
    home.now, home.takes = 0.001, 1000  # 4 us each on four workers
    home.look(4000)
    assert sent(home.hear(row("a", 4))) == {}
    elsewhere = Home(is_feasible=False)
    elsewhere.look(5000)
    assert sent(elsewhere.hear(row("a", 4))) == {"a": 4}


def test_nobody_can_start_it_so_the_wait_decides() -> None:
    home = Home()
    home.look(4000)
    home.now, home.takes = 1.0, 40  # 100 ms each: the last of 4000 waits for 99 s
    home.look(3960)
    assert sent(home.hear(able=[row("a", 0, wait_s=70.0)])) == {}
    assert sent(home.hear(able=[row("b", 0, wait_s=3.0)])).keys() == {"b"}


def test_who_sends_back_is_closed_for_a_while_that_doubles() -> None:
    home = Home()
    home.look(100)
    home.hear(row("a", 4))
    keys = (1, 2, 3, 4)
    assert not sent(home.step(ev.Returned(1, "a", keys, window=4)))
    home.now += LIMITS.closed_s + 1e-6
    assert not [c for c in home.step(ev.TimePassed()) if isinstance(c, ev.ForwardTasks)]
    again = home.hear(row("b", 4))
    finals = [c for c in again if isinstance(c, ev.ForwardTasks)]
    assert [(c.node, c.keys, c.is_final) for c in finals] == [("b", keys, True)], "to stay"


def test_what_has_been_back_does_not_leave_the_queue_again() -> None:
    home = Home()
    home.look(100)
    home.hear(row("a", 2))
    home.step(ev.Returned(1, "a", (1, 2), window=0))
    home.now += 0.1
    (kept,) = [c for c in home.look(0, startable=2) if isinstance(c, ev.Keep)]
    assert set(kept.keys) == {1, 2}
    assert not home.machine.may_leave(1, 1) and home.machine.may_leave(1, 77)


def test_what_a_silent_node_has_is_asked_back_if_others_could_start_it() -> None:
    home = Home()
    home.look(10)
    home.hear(row("a", 4))
    home.now = 5.0
    assert not [c for c in home.step(ev.TimePassed()) if isinstance(c, ev.Recall)]
    recalls = [c for c in home.look(0, startable=2) if isinstance(c, ev.Recall)]
    assert [len(c.keys) for c in recalls] == [2] and set(recalls[0].keys) <= {1, 2, 3, 4}
    assert not [c for c in home.look(0, startable=2) if isinstance(c, ev.Recall)], "asked already"
    first, second = recalls[0].keys
    home.step(ev.Running(1, "a", (first,)))
    (kept,) = home.step(ev.Returned(1, "a", (second,)))
    assert kept == ev.Keep(1, (second,))


def test_a_lost_node_has_nothing_and_late_news_of_it_is_not_read() -> None:
    home = Home()
    home.look(10)
    home.hear(row("a", 4))
    home.step(ev.NodeLost("a"))
    assert home.machine.next_deadline() is not None, "tasks still wait for somebody"
    assert home.step(ev.Done(1, "a", (1, 2), 1.0, 4)) == []
    assert home.step(ev.Returned(1, "a", (3,), 4)) == []
    assert sent(home.hear(row("a", 4))) == {}, "its epoch is over"
    home.machine.step(home.now, ev.QueueGone(1))
    assert home.machine.demand() == ()


# ---- tasks that are placed one by one
def test_spread_takes_turns_and_counts_this_node() -> None:
    home = Home()
    home.look(0, startable=3)
    home.hear(row("a", 3), row("b", 3))
    counts: dict[str, int] = {}
    for _ in range(9):
        commands = home.arrive(Spread())
        for node, count in sent(commands).items():
            counts[node] = counts.get(node, 0) + count
        kept = sum(len(c.keys) for c in commands if isinstance(c, ev.Keep))
        counts["home"] = counts.get("home", 0) + kept
    assert counts == {"a": 3, "b": 3, "home": 3}
    assert not sent(home.arrive(Spread())), "nobody has room"


def test_affinity_waits_for_its_node_or_goes_anywhere() -> None:
    home = Home()
    home.look(0, startable=1)
    home.hear(row("a", 0), able=[row("b", 0)])
    (command,) = [c for c in home.arrive(NodeAffinity("b")) if isinstance(c, ev.ForwardTasks)]
    assert command.node == "b" and command.is_final, "full or not"
    assert not sent(home.arrive(NodeAffinity("x")))
    assert sent(home.hear(row("x", 1))) == {"x": 1}, "it has joined"
    kept = home.arrive(NodeAffinity("y", soft=True))
    assert [c for c in kept if isinstance(c, ev.Keep)]
    assert [c for c in home.arrive(NodeAffinity("home")) if isinstance(c, ev.Keep)]


def test_soft_labels_are_preferred() -> None:
    home = Home()
    home.look(0)
    home.hear(*(row(name, 1) for name in "abc"), row("eu", 1, labels={"zone": "eu"}))
    soft = NodeLabels((), (LabelRule("zone", "in", ("eu",)),))
    assert sent(home.arrive(soft)) == {"eu": 1}
    assert len(sent(home.arrive(soft))) == 1, "there is none any more: anywhere"


def test_bytes_draw_a_task_until_it_would_wait_longer_than_they_need_to_move() -> None:
    home = Home()
    home.look(0, startable=4)
    home.hear(row("a", 4), row("b", 4, wait_s=0.0))
    assert sent(home.arrive(b=5 * MB)) == {"b": 1}
    kept = home.arrive(b=MB // 2)
    assert [c for c in kept if isinstance(c, ev.Keep)], "too little to draw anybody"
    home.step(ev.RowHeard(row("b", 0, number=2, wait_s=1.0)))
    assert "b" not in sent(home.arrive(b=5 * MB)), "25 ms to move, a second to wait"
    assert not sent(home.arrive(b=5000 * MB)), "it has not said how much it takes"
    assert sent(home.step(ev.Done(1, "b", (1,), 0.01, window=2))) == {"b": 1}


# ---- the other half
def test_the_window_is_what_runs_and_a_round_trip_more() -> None:
    hosting = Hosting(LIMITS)
    hosting.step(0.0, host.QueueLookedAt(1, 4, 0, None))
    assert hosting.window(1, "a") == 4, "nothing is known of its tasks"
    hosting.step(0.0, host.QueueLookedAt(1, 4, 0, 0.001))
    assert hosting.window(1, "a") == 4, "nothing has ended here"
    for key in range(40):
        hosting.step(0.0, host.VisitorsCame(1, "a", (key,)))
        hosting.step(0.0, host.VisitorsEnded(1, "a", (key,)))
    assert hosting.window(1, "a") == 4 + 4 * 5
    hosting.step(0.0, host.QueueLookedAt(1, 4, 0, 10.0))
    assert hosting.window(1, "a") == 4
    hosting.step(0.0, host.QueueLookedAt(1, 4, 2, 10.0))
    assert hosting.window(1, "a") == 0, "its own tasks wait"


def test_homes_share_and_who_needs_little_leaves_the_rest() -> None:
    hosting = Hosting(LIMITS)
    hosting.step(0.0, host.QueueLookedAt(1, 12, 0, 10.0))
    hosting.step(0.0, host.VisitorsCame(1, "a", tuple(range(12))))
    assert hosting.window(1, "b") == 6
    hosting.step(0.0, host.VisitorsCame(1, "b", tuple(range(100, 106))))
    assert hosting.window(1, "a") == 6 and hosting.window(1, "c") == 4
    hosting.step(0.0, host.VisitorsEnded(1, "b", tuple(range(100, 105))))
    assert hosting.window(1, "a") == 11
    hosting.step(0.0, host.HomeLost("b"))
    assert hosting.window(1, "a") == 12


def test_too_much_is_sent_back_but_never_what_is_final() -> None:
    hosting = Hosting(LIMITS)
    hosting.step(0.0, host.QueueLookedAt(1, 2, 0, 10.0))
    assert hosting.step(0.0, host.VisitorsCame(1, "a", tuple(range(6)))) == [
        host.Accept(1, "a", (0, 1, 2, 3)),
        host.SendBack(1, "a", (4, 5)),
    ]
    final = host.VisitorsCame(1, "a", (7, 8), is_final=True)
    assert hosting.step(0.0, final) == [host.Accept(1, "a", (7, 8))]
    hosting.step(0.0, host.DrainBegun())
    assert hosting.window(1, "a") == 0
    late = host.VisitorsCame(1, "b", (9,))
    assert hosting.step(0.0, late) == [host.SendBack(1, "b", (9,))]
    hosting.step(0.0, host.QueueLookedAt(2, 0, 0, None, is_feasible=False))
    never = host.VisitorsCame(2, "b", (10,), is_final=True)
    assert hosting.step(0.0, never) == [host.SendBack(2, "b", (10,))]
    hosting.validate()


# ---- any order of events
class AnyOrder(RuleBasedStateMachine):
    """One home and three peers that do as they like; the model is who has which task."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = Forwarding("home", LIMITS, seed=5)
        self.now = 0.0
        self.ring: list[int] = []
        self.pinned: set[int] = set()
        self.held: set[int] = set()
        self.at: dict[int, str] = {}
        self.outings: dict[int, int] = {}
        self.asked_back: set[int] = set()
        self.takes = 0
        self.number = 0
        self.epochs = dict.fromkeys("abc", 1)
        self.next_key = 1
        self.is_there = False

    def step(self, event: ev.Event) -> None:
        for command in self.machine.step(self.now, event):
            self.perform(command)
        self.machine.validate()

    def perform(self, command: ev.Command) -> None:
        match command:
            case ev.Forward(queue, node, count):
                assert node in self.epochs and count > 0
                free = [k for k in self.ring if self.machine.may_leave(queue, k)]
                assert not set(free) & self.pinned
                keys = tuple(free[:count])
                self.ring = [key for key in self.ring if key not in keys]
                self.lend(keys, node)
                self.step(ev.Forwarded(queue, node, count, keys))
            case ev.ForwardTasks(_, node, keys, is_final):
                assert set(keys) <= self.held
                self.held -= set(keys)
                assert is_final or not any(self.outings.get(key) for key in keys)
                self.lend(keys, node)
            case ev.Keep(_, keys):
                assert set(keys) <= self.held
                self.held -= set(keys)
                self.ring += keys
                self.pinned |= {key for key in keys if self.outings.get(key)}
            case ev.Recall(_, node, keys):
                assert all(self.at[key] == node for key in keys)
                assert not self.asked_back & set(keys)
                assert all(self.outings[key] == 1 for key in keys), "a final one stays"
                self.asked_back |= set(keys)

    def lend(self, keys: Sequence[int], node: str) -> None:
        for key in keys:
            assert key not in self.at
            self.at[key] = node
            self.outings[key] = self.outings.get(key, 0) + 1
            assert self.outings[key] <= 2

    def new_key(self) -> int:
        self.next_key += 1
        return self.next_key

    @rule(count=st.integers(0, 40), startable=st.integers(0, 4), ran=st.integers(0, 5))
    def look(self, count: int, startable: int, ran: int) -> None:
        self.ring += [self.new_key() for _ in range(count)]
        for key in self.ring[:ran]:
            self.pinned.discard(key)
            self.takes += 1
        self.ring = self.ring[ran:]
        self.is_there = True
        movable = len(self.ring) - len(self.pinned & set(self.ring))
        entries = len(self.ring)
        startable = 0 if entries else startable
        self.step(ev.QueueLooked(1, WISH, entries, movable, self.takes, startable, 4, True))

    @precondition(lambda self: self.is_there)
    @rule(
        strategy=st.sampled_from([Default(), Spread(), NodeAffinity("a"), NodeAffinity("b", True)])
    )
    def arrive(self, strategy: Strategy) -> None:
        key = self.new_key()
        self.held.add(key)
        self.step(ev.TaskArrived(1, key, strategy))

    @precondition(lambda self: self.is_there)
    @rule(node=st.sampled_from("abc"), size=st.integers(0, 50 * MB))
    def arrive_with_bytes(self, node: str, size: int) -> None:
        key = self.new_key()
        self.held.add(key)
        self.step(ev.TaskArrived(1, key, Default(), {node: size}))

    @rule(rows=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 4), st.floats(0, 5))))
    def hear(self, rows: list[tuple[str, int, float]]) -> None:
        ready, able = [], []
        for node, free, wait_s in rows:
            self.number += 1
            cpus = {"CPU": 40_000}
            one = NodeRow(
                node, self.epochs[node], self.number, cpus, {"CPU": free * 10_000}, wait_s=wait_s
            )
            (ready if free else able).append(one)
        self.step(ev.CandidatesHeard(named(ready, able)))

    @precondition(lambda self: self.at)
    @rule(data=st.data(), window=st.none() | st.integers(0, 12))
    def done(self, data: st.DataObject, window: int | None) -> None:
        keys, node = self.some(data)
        for key in keys:
            del self.at[key]
            self.asked_back.discard(key)
        self.step(ev.Done(1, node, keys, 0.01 * len(keys), window))

    @precondition(lambda self: any(self.outings[key] == 1 for key in self.at))
    @rule(data=st.data(), window=st.none() | st.integers(0, 12))
    def returned(self, data: st.DataObject, window: int | None) -> None:
        keys, node = self.some(data)
        keys = tuple(key for key in keys if self.outings[key] == 1)
        for key in keys:
            del self.at[key]
            self.asked_back.discard(key)
            self.held.add(key)
        self.step(ev.Returned(1, node, keys, window))

    @precondition(lambda self: self.asked_back)
    @rule(data=st.data())
    def running(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.asked_back)))
        self.asked_back.discard(key)
        self.step(ev.Running(1, self.at[key], (key,)))

    def some(self, data: st.DataObject) -> tuple[tuple[int, ...], str]:
        node = data.draw(st.sampled_from(sorted(set(self.at.values()))))
        there = sorted(key for key, at in self.at.items() if at == node)
        return tuple(there[: data.draw(st.integers(1, len(there)))]), node

    @rule(node=st.sampled_from("abc"))
    def lost(self, node: str) -> None:
        for key in [key for key, at in self.at.items() if at == node]:
            del self.at[key]
            self.asked_back.discard(key)
            # Another attempt, under the same key: it may leave again.
            self.outings[key] = 0
            self.ring.append(key)
        self.epochs[node] += 1
        self.step(ev.NodeLost(node))

    @rule(passed=st.floats(0, 3))
    def wait(self, passed: float) -> None:
        self.now += passed
        due = self.machine.next_deadline()
        if due is not None and due <= self.now:
            self.step(ev.TimePassed())

    @invariant()
    def nobody_is_forgotten(self) -> None:
        """What is lent or held in the model is in the machine, and the other way round."""
        source = self.machine.sources.get(1)
        if source is None:
            assert not self.at and not self.held
            return
        assert set(source.held) == self.held
        lent = {k: o.node for o in source.outlets.values() for k in o.loans}
        assert lent == self.at
        assert {k for o in source.outlets.values() for k in o.recalled} == self.asked_back


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)


class AnyVisitors(RuleBasedStateMachine):
    """Homes that come and go; the model is who has which visitor."""

    def __init__(self) -> None:
        super().__init__()
        self.hosting = Hosting(LIMITS)
        self.here: dict[int, str] = {}
        self.now = 0.0
        self.next_key = 1

    @rule(slots=st.integers(1, 8), own=st.integers(0, 1), task_s=st.none() | st.floats(1e-4, 10))
    def look(self, slots: int, own: int, task_s: float | None) -> None:
        self.now += 0.3
        self.hosting.step(self.now, host.QueueLookedAt(1, slots, own, task_s))

    @rule(home=st.sampled_from("abc"), count=st.integers(1, 30), is_final=st.booleans())
    def come(self, home: str, count: int, is_final: bool) -> None:
        keys = tuple(range(self.next_key, self.next_key + count))
        self.next_key += count
        answered: list[int] = []
        event = host.VisitorsCame(1, home, keys, is_final)
        for command in self.hosting.step(self.now, event):
            answered += command.keys
            if isinstance(command, host.Accept):
                self.here.update(dict.fromkeys(command.keys, home))
            else:
                assert not is_final
        assert tuple(answered) == keys

    @precondition(lambda self: self.here)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.here)))
        self.hosting.step(self.now, host.VisitorsEnded(1, self.here.pop(key), (key,)))

    @rule(home=st.sampled_from("abc"))
    def lost(self, home: str) -> None:
        self.hosting.step(self.now, host.HomeLost(home))
        self.here = {key: other for key, other in self.here.items() if other != home}

    @invariant()
    def counts(self) -> None:
        self.hosting.validate()
        assert self.hosting.visitors(1) == len(self.here)


TestAnyVisitors = AnyVisitors.TestCase
TestAnyVisitors.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize("seed", range(3))
def test_the_same_events_give_the_same_decisions(seed: int) -> None:
    def run() -> list[ev.Command]:
        machine = Forwarding("home", LIMITS, seed)
        commands = machine.step(0.0, ev.QueueLooked(1, WISH, 50, 50, 0, 0, 4, True))
        rows = tuple(row(f"n{at}", 4) for at in range(20))
        return commands + machine.step(0.0, ev.CandidatesHeard(named(rows)))

    assert run() == run()
