"""Forwarding of whole queues: SPREAD, what is final, and nodes that are busy for long."""

from __future__ import annotations

from shoal._base.config import ForwardingLimits
from shoal._core import forwarding_events as ev
from shoal._core.forwarding import Forwarding
from shoal._core.resources import parse
from shoal._proto.views import Candidates, NodeRow, Wish

WISH = Wish(parse({"CPU": 1}))


def row(node: str, free: int, number: int = 1) -> NodeRow:
    return NodeRow(node, 1, number, {"CPU": 40_000}, {"CPU": free * 10_000})


class Queue:
    """One queue at home; whatever is sent can be taken out of it."""

    def __init__(self, wish: Wish, is_feasible: bool = True) -> None:
        self.machine = Forwarding("home", ForwardingLimits(), 7)
        self.wish, self.is_feasible = wish, is_feasible
        self.now, self.next_key = 0.0, 0
        self.sent: dict[str, list[tuple[int, bool]]] = {}
        self.recalled: list[int] = []

    def step(self, event: ev.Event) -> None:
        for command in self.machine.step(self.now, event):
            if isinstance(command, ev.Forward):
                keys = tuple(range(self.next_key, self.next_key + command.most))
                self.next_key += command.most
                its = self.sent.setdefault(command.node, [])
                its += [(key, command.is_final) for key in keys]
                self.step(ev.Forwarded(1, command.node, command.most, keys, command.is_final))
            elif isinstance(command, ev.Recall):
                self.recalled += command.keys
        self.machine.validate()

    def look(self, entries: int, startable: int = 0) -> None:
        its = (entries, entries, 0, startable, 4 if self.is_feasible else 0, self.is_feasible)
        self.step(ev.QueueLooked(1, self.wish, *its))

    def hear(self, *rows: NodeRow) -> None:
        slots = (4,) * len(rows)
        self.step(ev.CandidatesHeard(Candidates(self.wish, rows, (), slots, len(rows))))

    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now += 0.05
            self.step(ev.TimePassed())

    def counts(self) -> dict[str, int]:
        return {node: len(keys) for node, keys in self.sent.items()}


def spread_queue(is_feasible: bool = True) -> Queue:
    queue = Queue(Wish(WISH.amounts, (), "", True), is_feasible)
    queue.look(0)
    queue.hear(row("a", 0), row("b", 4))
    return queue


def test_spread_gives_equal_parts_to_the_full_too_and_keeps_its_own() -> None:
    queue = spread_queue()
    queue.look(30)
    assert queue.counts() == {"a": 10, "b": 10}
    queue.look(10)
    assert queue.counts() == {"a": 10, "b": 10}, "what is left is its own part"
    assert all(is_final for keys in queue.sent.values() for _, is_final in keys)


def test_spread_where_it_cannot_run_keeps_nothing() -> None:
    queue = spread_queue(is_feasible=False)
    queue.look(10)
    assert queue.counts() == {"a": 5, "b": 5}


def test_single_tasks_spread_too() -> None:
    queue = spread_queue()
    for _ in range(30):
        queue.look(1)  # the one before has been taken, here or by who was sent it
        queue.look(0)
    counts = queue.counts()
    assert 8 <= counts["a"] <= 12 and 8 <= counts["b"] <= 12, counts


def test_whose_turn_it_was_has_turns_after_a_pause_too() -> None:
    queue = spread_queue()
    queue.look(30)
    for node in list(queue.sent):
        keys = tuple(key for key, _ in queue.sent[node])
        queue.step(ev.Done(1, node, keys, 0.1, 8))
    queue.look(0)
    queue.wait(60.0)
    assert queue.machine.next_deadline() is None, "nothing waits: nobody needs to look"
    queue.look(30)
    assert queue.counts() == {"a": 20, "b": 20}
    queue.step(ev.NodeLost("a"))
    queue.look(0)
    queue.look(30)
    assert queue.counts() == {"a": 20, "b": 35}, "who is lost has none"


def test_its_own_part_leaves_when_it_stands_still_and_others_have_room() -> None:
    """All of this node may be taken for long: by actors, by groups, by other programs."""
    queue = spread_queue()
    queue.look(30)
    queue.wait(0.9)
    queue.look(10)
    queue.hear(row("a", 0, number=2), row("b", 4, number=2))
    assert queue.counts() == {"a": 10, "b": 10}, "that was no second"
    queue.wait(0.2)
    queue.look(10)
    queue.hear(row("a", 0, number=3), row("b", 4, number=3))
    assert queue.counts()["a"] == 10 and queue.counts()["b"] > 10


def test_what_is_final_is_not_asked_back() -> None:
    queue = spread_queue()
    queue.look(30)
    queue.wait(60.0)
    queue.look(0, startable=4)
    assert queue.recalled == []


def test_what_runs_long_does_not_keep_a_node_from_getting_more() -> None:
    queue = Queue(WISH, is_feasible=False)
    queue.look(2)
    queue.hear(row("a", 1))
    assert queue.counts() == {"a": 1}
    queue.wait(30.0)
    queue.look(1)
    assert queue.counts() == {"a": 1}, "it was not heard to have room"
    queue.hear(row("a", 1, number=2))
    assert queue.counts() == {"a": 2}
