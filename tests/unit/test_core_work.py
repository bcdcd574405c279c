"""What one event costs, in lines of the deciding machine that are run: never a matter of how many
actors, workers and tasks there are.

Lines are counted by the interpreter's trace, so the figures are the same on every machine. A loop
over a thousand actors shows as a thousand lines; what runs in C (a copy of a dict) does not, and
is cheap enough not to.
"""

from __future__ import annotations

import itertools
import pathlib
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from shoal._base.config import Limits, NodeConfig
from shoal._core import commands as do
from shoal._core import events as seen
from shoal._core import node as node_module
from shoal._core.node import NodeMachine
from shoal._proto import messages as m

CORE = str(pathlib.Path(node_module.__file__).parent)
DRIVER = 1
FEW, MANY = 20, 400
SLACK_LINES = 40
"""For what differs by chance: a number that has more digits, a heap that is one level deeper."""
LINES_PER_CLASS = 80
"""One look at a scheduling class that waits."""
LINES_PER_DRAIN = 30
"""One look at an actor whose last handle is gone."""


def lines_of(step: Callable[[], object]) -> int:
    """How many lines of ``_core`` run in ``step``."""
    count = 0

    def local(frame: FrameType, what: str, argument: Any) -> Any:
        nonlocal count
        count += what == "line"
        return local

    def trace(frame: FrameType, what: str, argument: Any) -> Any:
        return local if frame.f_code.co_filename.startswith(CORE) else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        step()
    finally:
        sys.settrace(before)
    return count


class Crowded:
    """A node with as much of everything as a test wants, and what its next events cost."""

    def __init__(self) -> None:
        limits = Limits(prestart_most=0)
        total = {"CPU": 1.0}
        self.machine = NodeMachine(NodeConfig("s", "/d", bytes(16), total, 2, limits=limits))
        self.now = 0.0
        self.requests = itertools.count(10)
        self.indexes = itertools.count(2)
        self.queues = itertools.count(5)
        self.keys = itertools.count(1000)
        self.starts: list[int] = []
        self.cost: dict[str, int] = {}
        self.out: list[do.Command] = []
        self.tell(seen.Began())
        self.tell(seen.DriverJoined(DRIVER, 1, 100, m.JobConfig()))

    def tell(self, event: seen.Event, name: str = "") -> list[do.Command]:
        """One step; what it cost stands in ``cost`` under the event's name."""
        body = event.body if isinstance(event, seen.Requested) else event
        lines = lines_of(lambda: self._step(event))
        self.cost[name or type(body).__name__] = lines
        self.starts += [c.start for c in self.out if isinstance(c, do.StartWorker)]
        return self.out

    def _step(self, event: seen.Event) -> None:
        self.out = self.machine.step(self.now, event)

    def ask(self, index: int, body: m.Message) -> list[do.Command]:
        return self.tell(seen.Requested(index, next(self.requests), body))

    def worker(self) -> int:
        """The worker that was asked for first joins and says what it is for."""
        index = next(self.indexes)
        self.tell(seen.WorkerForked(self.starts.pop(0), index, 1000 + index))
        self.tell(seen.WorkerJoined(index, 1, 1000 + index))
        self.ask(index, m.GetAssignment())
        return index

    def asking(self, hold: dict[str, float], index: int = DRIVER) -> m.ActorInfo:
        """An actor that has been asked for."""
        key = next(self.keys)
        spec = m.ActorSpec(1, key, "C", b"", None, "", False, False, hold, hold)
        self.ask(index, m.CreateActor(spec))
        (ticket,) = [c.ticket for c in self.out if isinstance(c, do.NewQueue)]
        self.tell(seen.QueueCreated(ticket, next(self.queues), 1))
        (info,) = [c.body for c in self.out if isinstance(c, do.Reply)]
        assert isinstance(info, m.ActorInfo)
        return info

    def living(self, hold: dict[str, float] | None = None) -> tuple[m.ActorInfo, int]:
        """An actor that has been constructed, and its worker."""
        info = self.asking(hold or {})
        index = self.worker()
        self.ask(index, m.ActorStarted(info.actor_id))
        return info, index

    def busy_class(self) -> None:
        """A job whose tasks wait for the only CPU."""
        driver = next(self.indexes)
        self.tell(seen.DriverJoined(driver, 1, 1000 + driver, m.JobConfig()))
        self.ask(driver, m.OpenQueue({"CPU": 1.0}))
        (ticket,) = [c.ticket for c in self.out if isinstance(c, do.NewQueue)]
        queue = next(self.queues) + 4096
        self.tell(seen.QueueCreated(ticket, queue, 1))
        self.tell(seen.Looked((seen.QueueState(queue, 100, 0),), ()))

    def one_life(self) -> dict[str, int]:
        """What each event in the life of one more actor, and the daemon's own, cost."""
        self.cost.clear()
        info, index = self.living()
        self.ask(DRIVER, m.DescribeActor(info.actor_id))
        self.ask(DRIVER, m.KillActor(info.actor_id, True))
        self.tell(seen.BellRang((info.spec.arguments,), ()))
        self.tell(seen.ProcessDied(index, None, 9, (), ()))
        free, index = self.living()
        self.tell(seen.BellRang((free.spec.arguments,), ()), "LastHandle")
        state = seen.QueueState(free.queue, 0, 7)
        idle = seen.WorkerState(index, free.queue, 0, 0, False)
        self.tell(seen.Looked((state,), (idle,)), "Drain")
        self.tell(seen.Looked((state,), (idle,)), "Drained")
        self.tell(seen.ProcessDied(index, 0, None, (), ()), "Left")
        self.now += 0.01
        self.machine.tables.alarm_at = None
        self.tell(seen.AlarmRang())
        self.machine.validate()
        return dict(self.cost)


def living_actors(node: Crowded, count: int) -> None:
    for _ in range(count):
        node.living()


def actors_that_wait_for_a_cpu(node: Crowded, count: int) -> None:
    node.living({"CPU": 1.0})
    for _ in range(count):
        node.asking({"CPU": 1.0})


def actors_that_end(node: Crowded, count: int) -> None:
    for _ in range(count):
        info, _ = node.living()
        node.ask(DRIVER, m.KillActor(info.actor_id, True))


def actors_that_are_drained(node: Crowded, count: int) -> None:
    for _ in range(count):
        info, _ = node.living()
        node.now += 1e-6
        node.tell(seen.BellRang((info.spec.arguments,), ()))


@pytest.mark.parametrize(
    "fill",
    [living_actors, actors_that_wait_for_a_cpu, actors_that_end, actors_that_are_drained],
)
def test_an_event_costs_the_same_on_a_crowded_node(fill: Callable[[Crowded, int], None]) -> None:
    costs = []
    for count in (FEW, MANY):
        node = Crowded()
        fill(node, count)
        node.now += 0.0001
        costs.append(node.one_life())
    few, many = costs
    assert few.keys() == many.keys() and len(few) >= 12
    if fill is actors_that_are_drained:
        # The alarm rings for all of them: each is looked at.
        many["AlarmRang"] -= (MANY - FEW) * LINES_PER_DRAIN
    grown = {k: (few[k], many[k]) for k in few if many[k] > few[k] + SLACK_LINES}
    assert not grown


def test_one_look_at_each_class_that_waits() -> None:
    """A hundred jobs with tasks that wait: an event looks at each once, whatever they have."""
    costs = []
    for count in (10, 100):
        node = Crowded()
        node.living({"CPU": 1.0})
        for _ in range(count):
            node.busy_class()
        costs.append(node.one_life())
    few, many = costs
    grown = {k: many[k] - few[k] for k in few if many[k] > few[k] + 90 * LINES_PER_CLASS}
    assert not grown


def test_starts_asked_for_are_those_that_can_be_made() -> None:
    """A thousand actors at once: as many starts as may run, and each step asks for few more."""
    node = Crowded()
    for _ in range(1000):
        node.asking({})
    most = node.machine.tables.limits.starting_most
    assert len(node.starts) == most
    costs = []
    for number in range(3 * most):
        before = len(node.starts)
        node.worker()
        costs.append(node.cost["GetAssignment"])
        assert len(node.starts) - before <= 1, number
    assert max(costs) - min(costs) <= SLACK_LINES
