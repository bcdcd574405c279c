"""Lent tasks against a small world: every seed is another order of messages, ends, recalls and
deaths; the checks know nothing of how the machine decides, and broken machines must be caught."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import pytest

from shoal._core import bridge
from shoal._core.bridge import Bridge
from shoal._proto import bridge as rows
from shoal._proto.holds import Name

SEEDS = range(150)
NODES = ("a", "b", "c")
LARGE = rows.Result(8, 100_000)
SMALL = rows.Result(1, 0, False, b"")


def forwarded(number: int, key: int) -> rows.ForwardTask:
    return rows.ForwardTask(
        number=number, attempt=1, key=key, job=1, place=b"", function=None, actor=None, method=0,
        n_returns=1, flags=0, limit=0, left_s=-1.0, payload=b"",
    )  # fmt: skip


@dataclass
class Task:
    """A task at home: what the claim word would say, and how often it was begun anywhere."""

    retries: int
    state: str = "queued"
    charged: int = 0
    begun: int = 0
    unbegun: int = 0
    runs_at: set[str] = field(default_factory=set)


@dataclass
class Guest:
    """A visit as its node has it."""

    home: str
    number: int
    task: int
    stage: str = "arguments"


class World:
    """Three nodes and their links. Each message arrives in order, unless one of the two is dead."""

    def __init__(self, seed: int, machine: type[Bridge]) -> None:
        self.random = random.Random(seed)
        self.machines: dict[str, Bridge] = {node: machine() for node in NODES}
        self.links: dict[tuple[str, str], deque[Any]] = {}
        self.tasks: dict[str, dict[int, Task]] = {node: {} for node in NODES}
        self.guests: dict[str, dict[int, Guest]] = {node: {} for node in NODES}
        self.kept: dict[str, set[tuple[str, int]]] = {node: set() for node in NODES}
        self.dead: set[str] = set()
        self.keys = 0

    # ---- doing what machines want
    def post(self, node: str, event: bridge.Event) -> None:
        events = deque([event])
        while events:
            for order in self.machines[node].step(0.0, events.popleft()):
                events.extend(self.perform(node, order))
        self.machines[node].validate()

    def send(self, frm: str, to: str, body: Any) -> None:
        if to not in self.dead:
            self.links.setdefault((frm, to), deque()).append(body)

    def perform(self, node: str, order: bridge.Command) -> list[bridge.Event]:
        match order:
            case bridge.Send():
                self.send(node, order.node, order.body)
            case bridge.SendTask():
                self.send(node, order.node, forwarded(order.number, order.key))
            case bridge.TakeResults():
                self.end(node, order.key, "done")
                large = tuple(i for i, r in enumerate(order.results) if r.data is None)
                if large:  # as if somebody had looked at them and dropped them
                    self.send(node, order.node, rows.FreeResults(order.number, large))
            case bridge.RunAgain():
                self.tasks[node][order.key].charged += 1
                self.end(node, order.key, "queued")
            case bridge.PutBack():
                self.tasks[node][order.key].unbegun += 1
                self.end(node, order.key, "queued")
            case bridge.Fail():
                self.end(node, order.key, "failed")
            case bridge.Begin():
                self.keys += 1
                guest = Guest(order.node, order.body.number, order.body.key)
                self.guests[node][self.keys] = guest
            case bridge.Withdraw():
                return [self.withdraw(node, order)]
            case bridge.CancelHere():
                if order.key == 0:
                    self.drop(node, order.node, order.number)
                    return [bridge.Withdrawn(order.node, order.number, True)]
            case bridge.Report():
                guest = self.guests[node].pop(order.key)
                self.report(node, guest)
            case bridge.DropVisit():
                self.drop(node, order.node, order.number)
        return []

    def end(self, node: str, key: int, state: str) -> None:
        task = self.tasks[node][key]
        assert task.state == "lent", f"{state} after {task.state}"
        assert state == "failed" or not (task.runs_at - self.dead), "it runs there still"
        task.state = state

    def drop(self, node: str, home: str, number: int) -> None:
        for key, guest in list(self.guests[node].items()):
            if (guest.home, guest.number) == (home, number):
                self.stop(node, guest)
                del self.guests[node][key]

    def stop(self, node: str, guest: Guest) -> None:
        if guest.stage == "runs":
            self.tasks[guest.home][guest.task].runs_at.discard(node)

    def withdraw(self, node: str, order: bridge.Withdraw) -> bridge.Event:
        guest = self.guests[node].get(order.key)
        is_taken = guest is None or guest.stage == "queued"
        if is_taken:
            self.drop(node, order.node, order.number)
        return bridge.Withdrawn(order.node, order.number, is_taken)

    def report(self, node: str, guest: Guest) -> None:
        how = self.random.choice([rows.ENDED, rows.ENDED, rows.CRASHED, rows.RAISED])
        result = self.random.choice([LARGE, SMALL])
        if result is LARGE:
            self.kept[node].add((guest.home, guest.number))
        self.send(node, guest.home, rows.TaskEnded(guest.number, how, (result,)))

    # ---- what happens by itself
    def living(self) -> list[str]:
        return [node for node in NODES if node not in self.dead]

    def submit(self) -> None:
        node = self.random.choice(self.living())
        self.keys += 1
        self.tasks[node][self.keys] = Task(self.random.choice([0, 0, 1, 3, -1]))

    def lend(self, node: str, key: int) -> None:
        task = self.tasks[node][key]
        others = [other for other in self.living() if other != node]
        if task.state != "queued" or not others:
            return
        task.state = "lent"
        left = -1 if task.retries < 0 else task.retries - task.charged
        self.post(node, bridge.TaskLent(key, self.random.choice(others), left))

    def deliver(self) -> bool:
        full = [pair for pair, link in self.links.items() if link]
        if not full:
            return False
        frm, to = self.random.choice(full)
        body = self.links[frm, to].popleft()
        if isinstance(body, rows.FreeResults):
            self.kept[to].discard((frm, body.number))
        self.post(to, bridge.Heard(frm, body))
        return True

    def advance(self, node: str) -> None:
        """Something happens to one of the visits there."""
        if not self.guests[node]:
            return
        key = self.random.choice(list(self.guests[node]))
        guest = self.guests[node][key]
        if guest.stage == "arguments":
            if self.random.random() < 0.1:
                del self.guests[node][key]
                self.post(node, bridge.VisitRefused(guest.home, guest.number, "no room"))
                return
            guest.stage = "queued"
            self.post(node, bridge.VisitBegun(guest.home, guest.number, key))
        elif guest.stage == "queued":
            guest.stage = "runs"
            task = self.tasks[guest.home][guest.task]
            assert task.state == "lent" or guest.home in self.dead, "not lent, and begun"
            assert not (task.runs_at - self.dead), "it runs twice"
            task.runs_at.add(node)
            task.begun += 1
            assert task.retries < 0 or task.begun <= 1 + task.retries, "too many attempts"
        else:
            self.stop(node, guest)
            guest.stage = "ended"
            self.post(node, bridge.VisitEnded(key))

    def kill(self) -> None:
        if len(self.living()) == 1:
            return
        node = self.random.choice(self.living())
        for _ in range(self.random.randrange(4)):  # some of what it has sent arrives
            self.deliver()
        self.dead.add(node)
        for pair in [pair for pair in self.links if node in pair]:
            del self.links[pair]
        self.guests[node].clear()
        self.kept[node].clear()
        for other in self.living():
            self.kept[other] = {place for place in self.kept[other] if place[0] != node}
            self.post(other, bridge.NodeLost(node))

    def ask(self) -> None:
        """Home wants something of what it has lent."""
        node = self.random.choice(self.living())
        lent = [key for key, task in self.tasks[node].items() if task.state == "lent"]
        if lent:
            key = self.random.choice(lent)
            kind = bridge.RecallAsked if self.random.random() < 0.7 else bridge.CancelAsked
            self.post(node, kind(key))

    def move(self) -> None:
        choice = self.random.random()
        if choice < 0.12:
            self.submit()
        elif choice < 0.3:
            node = self.random.choice(self.living())
            if self.tasks[node]:
                self.lend(node, self.random.choice(list(self.tasks[node])))
        elif choice < 0.6:
            self.deliver()
        elif choice < 0.9:
            self.advance(self.random.choice(self.living()))
        elif choice < 0.995:
            self.ask()
        else:
            self.kill()

    def settle(self) -> None:
        """No more trouble: everything comes to its end."""
        for _ in range(20_000):
            busy = self.deliver()
            for node in self.living():
                busy = busy or bool(self.guests[node])
                self.advance(node)
            if not busy:
                return
        raise AssertionError("it goes on and on")

    def check(self) -> None:
        for node in self.living():
            assert all(task.state != "lent" for task in self.tasks[node].values()), "lent for ever"
            assert not self.machines[node].lendings and not self.machines[node].visits
            assert not self.kept[node], "bytes that nobody will come for"
            for task in self.tasks[node].values():
                assert task.state != "failed" or task.retries in (0, task.charged)


def run(seed: int, machine: type[Bridge] = Bridge) -> World:
    world = World(seed, machine)
    for _ in range(400):
        world.move()
    world.settle()
    world.check()
    return world


def test_every_order() -> None:
    worlds = [run(seed) for seed in SEEDS]
    tasks = [task for w in worlds for each in w.tasks.values() for task in each.values()]
    assert sum(task.state == "done" for task in tasks) > 500
    assert sum(task.state == "failed" for task in tasks) > 5
    assert sum(task.unbegun for task in tasks) > 100 and sum(task.charged for task in tasks) > 100


# ---- machines that are wrong
class TakesBackAtOnce(Bridge):
    """Home does not wait for the answer to a recall."""

    def _on_recall_asked(self, key: int) -> list[bridge.Command]:
        orders = super()._on_recall_asked(key)
        if orders:
            self._end_lending(self._number_of[key])
            orders.append(bridge.PutBack(key, ""))
        return orders


class GivesBackWhatRuns(Bridge):
    """A visit that could not be taken back is returned all the same."""

    def _on_withdrawn(self, event: bridge.Withdrawn) -> list[bridge.Command]:
        return super()._on_withdrawn(bridge.Withdrawn(event.node, event.number, True))


class ForgetsTheAnswer(Bridge):
    """What could not be taken back can not be recalled again, and stays recalled."""

    def _on_withdrawn(self, event: bridge.Withdrawn) -> list[bridge.Command]:
        return super()._on_withdrawn(event) if event.is_taken else []

    def validate(self) -> None:
        super().validate()
        assert sum(lent.is_recalled for lent in self.lendings.values()) < 3


class WaitsForTheDead(Bridge):
    """The loss of a node changes nothing at home."""

    def _on_node_lost(self, node: str, is_drained: bool) -> list[bridge.Command]:
        return [
            order
            for order in super()._on_node_lost(node, is_drained)
            if not isinstance(order, (bridge.RunAgain, bridge.Fail))
        ]


class RunsForTheDead(Bridge):
    """Visits of a lost home stay."""

    def _on_node_lost(self, node: str, is_drained: bool) -> list[bridge.Command]:
        visits, self.visits = self.visits, {}
        orders = super()._on_node_lost(node, is_drained)
        self.visits = visits
        return orders


class RetriesForEver(Bridge):
    """Nobody looks at how many retries are left."""

    def _on_lent(self, event: bridge.TaskLent) -> list[bridge.Command]:
        return super()._on_lent(bridge.TaskLent(event.key, event.node, -1))


class NeverRetries(Bridge):
    """What could run again fails with its node."""

    def _on_lent(self, event: bridge.TaskLent) -> list[bridge.Command]:
        return super()._on_lent(bridge.TaskLent(event.key, event.node, 0))


class KeepsBytes(Bridge):
    """Results of an attempt that does not count are never let go."""

    @staticmethod
    def _free_all(node: str, body: rows.TaskEnded) -> list[bridge.Command]:
        return []


class AnswersTwice(Bridge):
    """A refused visit stays, and is answered again."""

    def _end_visit(self, node: str, number: int) -> bridge.Visit:
        return self.visits[node, number]


class BeginsTwice(Bridge):
    """A visit that was withdrawn before it began is begun all the same."""

    def _on_visit_begun(self, event: bridge.VisitBegun) -> list[bridge.Command]:
        self.visits.setdefault((event.node, event.number), bridge.Visit())
        return super()._on_visit_begun(event)

    def _on_recalled(self, node: str, number: int) -> list[bridge.Command]:
        visit = self.visits.pop((node, number), None)
        if visit is None or visit.key:
            return []
        return [bridge.Send(node, rows.TaskReturned(number))]


BROKEN = (
    TakesBackAtOnce, GivesBackWhatRuns, ForgetsTheAnswer, WaitsForTheDead, RunsForTheDead,
    RetriesForEver, NeverRetries, KeepsBytes, AnswersTwice, BeginsTwice,
)  # fmt: skip


@pytest.mark.parametrize("machine", BROKEN)
def test_broken_machines_are_caught(machine: type[Bridge]) -> None:
    for seed in SEEDS:
        try:
            run(seed, machine)
        except (AssertionError, KeyError):
            return
    pytest.fail(f"{machine.__name__} looks right")


# ---- what the world does not ask
def test_what_is_not_known_is_passed_over() -> None:
    machine = Bridge()
    assert machine.step(0.0, bridge.Heard("b", rows.TaskReturned(7))) == []
    assert machine.step(0.0, bridge.Heard("b", rows.TaskRuns(7))) == []
    assert machine.step(0.0, bridge.Heard("b", rows.RecallTask(7))) == []
    assert machine.step(0.0, bridge.Heard("b", rows.CancelTask(7))) == []
    late = rows.TaskEnded(7, rows.ENDED, (SMALL, LARGE))
    assert machine.step(0.0, bridge.Heard("b", late)) == [
        bridge.Send("b", rows.FreeResults(7, (1,)))
    ]


def test_only_its_own_node_speaks_of_a_lending() -> None:
    machine = Bridge()
    (order,) = machine.step(0.0, bridge.TaskLent(11, "b", 0))
    assert order == bridge.SendTask("b", 1, 11)
    assert machine.step(0.0, bridge.Heard("c", rows.TaskEnded(1, rows.ENDED, (SMALL,)))) == []
    lending = machine.lending_of(11)
    assert lending is not None and lending.node == "b"
    ended = rows.TaskEnded(1, rows.ENDED, (SMALL,))
    assert machine.step(0.0, bridge.Heard("b", ended)) == [bridge.TakeResults(11, "b", 1, (SMALL,))]
    assert machine.lending_of(11) is None and not machine.is_lent(11)


def test_calls_come_back_in_the_order_in_which_they_went() -> None:
    machine = Bridge()
    for key in (30, 10, 20):
        machine.step(0.0, bridge.TaskLent(key, "b", 2, is_call=True))
    orders = machine.step(0.0, bridge.NodeLost("b"))
    assert [order.key for order in orders if isinstance(order, bridge.RunAgain)] == [30, 10, 20]


def test_the_refs_of_a_row_are_those_that_stand_in_it() -> None:
    names = [Name("a", 1, key) for key in range(5)]
    task = forwarded(1, 2)
    assert rows.names_in(task) == ()
    full = rows.ForwardTask(
        1,
        1,
        2,
        1,
        b"",
        names[0],
        names[1],
        0,
        1,
        0,
        0,
        -1.0,
        b"",
        (names[2],),
        (names[3], names[2]),
    )
    assert rows.names_in(full) == (names[0], names[1], names[2], names[3], names[2])
    result = rows.Result(8, 10, True, b"x", (names[4], names[4]))
    assert rows.names_in(rows.TaskEnded(1, 0, (result, SMALL))) == (names[4], names[4])
