"""Every reason that the deciding machine can give, from tables and sights that are made by hand."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any, get_args

import msgspec
import pytest

from shoal import errors
from shoal._base import typed_ids
from shoal._base.config import Limits, NodeConfig
from shoal._core import commands as do
from shoal._core import events as seen
from shoal._core.events import ProcessSight, TaskSight
from shoal._core.node import NodeMachine
from shoal._core.store import Joined, Report
from shoal._proto import messages as m
from shoal._proto import reasons as r
from shoal._proto.environments import Environment, Packages
from shoal.errors._why import Why, advice, unpacked
from tests.tidy.sources import ROOT

DRIVER = 1
NODE = bytes(range(16))
TASK, OTHER, THIRD = 1 << 32 | 7, 1 << 32 | 8, 1 << 32 | 9


MADE = Environment(key="e1", packages=Packages(digest="d"))


def oid(key: int) -> str:
    return typed_ids.object_id(NODE, key, (key, 0, 1, 1))


def tid(key: int) -> str:
    return typed_ids.task_id(NODE, key, 0, 1)


class Node:
    """A machine, and node memory as a test wants it to look."""

    def __init__(self, cpus: float = 1.0, started: bool = False, **total: float) -> None:
        limits = Limits(prestart_most=0)
        self.machine = NodeMachine(
            NodeConfig("s", "/d", NODE, {"CPU": cpus, **total}, 2, limits=limits, started=started)
        )
        self.now = 100.0
        self.numbers = itertools.count(10)
        self.tasks: dict[int, TaskSight] = {}
        self.processes: dict[int, ProcessSight] = {}
        self.entries: dict[int, int] = {}
        self.held: tuple[tuple[int, int], ...] = ()
        self.starts: list[int] = []
        self.tell(seen.Began())
        if started:
            (join,) = [c for c in self.tell(seen.StoreConnected()) if isinstance(c, do.WriteStore)]
            self.tell(seen.StoreWritten(join.ticket, Joined(1, 0, state=Report([]))))
        self.tell(seen.DriverJoined(DRIVER, 1, 100, m.JobConfig()))
        self.processes[DRIVER] = ProcessSight(DRIVER, 100)

    def tell(self, event: seen.Event) -> list[do.Command]:
        out = self.machine.step(self.now, event)
        self.starts += [c.start for c in out if isinstance(c, do.StartWorker)]
        return out

    def ask(self, body: m.Message, index: int = DRIVER) -> list[do.Command]:
        return self.tell(seen.Requested(index, next(self.numbers), body))

    def queue(self, amounts: dict[str, float], entries: int = 1, **more: Any) -> int:
        """A class queue with ``entries``."""
        out = self.ask(m.OpenQueue(amounts, **more))
        (ticket,) = [c.ticket for c in out if isinstance(c, do.NewQueue)]
        number = next(self.numbers)
        self.tell(seen.QueueCreated(ticket, number, 1))
        self.tell(seen.Looked((seen.QueueState(number, entries, 0),)))
        self.entries[number] = entries
        return number

    def worker(self) -> int:
        """The process that was asked for first is there."""
        index = next(self.numbers)
        self.tell(seen.WorkerForked(self.starts.pop(0), index, 1000 + index))
        self.tell(seen.WorkerJoined(index, 0, 1000 + index))
        self.ask(m.GetAssignment(), index)
        self.processes[index] = ProcessSight(index, 1000 + index)
        return index

    def runs(self, index: int, *keys: int, queue: int = 0, **more: Any) -> None:
        """Worker ``index`` runs these tasks, outermost first."""
        self.processes[index] = ProcessSight(index, 1000 + index, running=keys, **more)
        for key in keys:
            self.tasks[key] = TaskSight(
                key, task=key, stage="running", worker=index, queue=queue, taken=self.now - 3
            )

    def waits(self, key: int, queue: int, stage: str = "queued", **more: Any) -> None:
        self.tasks[key] = TaskSight(
            key, task=key, stage=stage, queue=queue, job=1, submitted=self.now - 2, **more
        )

    def actor(self, **spec: Any) -> m.ActorInfo:
        """An actor that has been asked for; its call is ``TASK``."""
        key = next(self.numbers)
        methods = msgspec.msgpack.encode([["one"], ["two"]])
        out = self.ask(m.CreateActor(m.ActorSpec(1, key, "Keeper", methods, **spec)))
        infos = [c.body for c in out if isinstance(c, do.Reply)]
        for ticket in [c.ticket for c in out if isinstance(c, do.NewQueue)]:
            out = self.tell(seen.QueueCreated(ticket, next(self.numbers), 1))
            infos += [c.body for c in out if isinstance(c, do.Reply)]
        actor = self.machine.tables.actors.by_key[key]
        about = 1 << 63 | key | 1 << 22
        self.waits(TASK, actor.queue, is_call=True, about=about)
        self.entries[actor.queue] = 2
        return actor.describe()

    def living(self, **spec: Any) -> tuple[m.ActorInfo, int]:
        info = self.actor(**spec)
        index = self.worker()
        self.ask(m.ActorStarted(info.actor_id), index)
        return info, index

    def group(self, cpus: float, group_id: str = "group-1") -> str:
        self.ask(m.CreateGroup(group_id, [{"CPU": cpus}], "PACK"))
        return group_id

    def why(self, about: int | str = TASK, index: int = DRIVER) -> Why:
        """Ask, and answer every look of the machine."""
        self.machine.validate()
        out = self.ask(m.AskWhy(about if isinstance(about, str) else oid(about)), index)
        for _ in range(100):
            answers = [c.body for c in out if isinstance(c, do.Reply)]
            if answers:
                (answer,) = answers
                if isinstance(answer, m.Failure):
                    raise LookupError(answer.record)
                assert isinstance(answer, m.WhyAnswer)
                assert not self.machine.tables.inquiries
                self.machine.validate()
                found = unpacked(answer.reason)
                assert str(found) and unpacked(r.pack(found.reason)) == found
                return found
            (look,) = [c for c in out if isinstance(c, do.Inspect)]
            out = self.tell(self.inspected(look))
        raise AssertionError("no answer")

    def sight(self, key: int) -> TaskSight:
        found = self.tasks.get(key, TaskSight(key, is_gone=True))
        return msgspec.structs.replace(found, ancestry=(key, 0, 1, 1))

    def inspected(self, look: do.Inspect) -> seen.Inspected:
        return seen.Inspected(
            look.ticket,
            tuple(self.sight(key) for key in look.tasks),
            tuple(self.processes[index] for index in look.processes),
            tuple(seen.QueueState(q, self.entries.get(q, 0), 0) for q in look.queues),
            90,
            100,
            self.held if look.has_holders else None,
        )


def chain(why: Why) -> list[str]:
    return [type(reason).__name__ for reason in why.chain]


CASES: dict[type[r.Reason], Callable[[], Why]] = {}


def makes(*kinds: type[r.Reason]) -> Callable[[Callable[[], Why]], Callable[[], Why]]:
    """The chain that a case gives."""

    def keep(case: Callable[[], Why]) -> Callable[[], Why]:
        def checked() -> Why:
            why = case()
            assert chain(why) == [kind.__name__ for kind in kinds]
            return why

        CASES[kinds[0]] = checked
        for kind in kinds[1:]:
            CASES.setdefault(kind, checked)
        return checked

    return keep


@makes(r.Gone)
def gone() -> Why:
    why = Node().why(OTHER)
    assert why.reason == r.Gone(id=oid(OTHER)) and "keep a ref" in str(why)
    return why


@makes(r.Ready)
def ready() -> Why:
    node = Node()
    node.tasks[TASK] = TaskSight(TASK, format=3, is_error=True)
    return node.why()


@makes(r.Nothing)
def nothing() -> Why:
    why = Node().why("")
    assert why.reason == r.Nothing(pid=100)
    return why


@makes(r.NoAnswer)
def no_answer() -> Why:  # the asker makes it: there is nobody else
    return Why(r.NoAnswer(pid=7, waited_s=2.0))


@makes(r.WaitsForArgument, r.Delivering)
def argument() -> Why:
    node = Node()
    queue = node.queue({"CPU": 1.0})
    node.worker()
    node.waits(OTHER, queue)
    node.waits(TASK, queue, "held", dependency=OTHER)
    why = node.why()
    assert why.reason.argument == oid(OTHER) and why.reason.since_s == 2
    return why


@makes(r.WaitsForEarlierCall, r.Submitting)
def lane() -> Why:
    node = Node()
    info = node.actor()
    node.waits(OTHER, info.queue, "held", is_call=True)
    node.waits(TASK, info.queue, "held", is_call=True, predecessor=OTHER)
    why = node.why()
    assert why.reason.earlier == tid(OTHER) == why.root.task
    return why


@makes(r.Running, r.Running)
def running() -> Why:
    node = Node()
    queue = node.queue({"CPU": 1.0})
    index = node.worker()
    node.runs(index, TASK, OTHER, queue=queue)
    why = node.why()
    assert why.reason.waits and (why.reason.worker, why.reason.pid) == (index, 1000 + index)
    assert (why.root.task, why.root.since_s, why.root.waits) == (tid(OTHER), 3, False)
    return why


@makes(r.WaitsForTurn, r.Running, r.Stopped)
def turn() -> Why:
    node = Node()
    queue = node.queue({"CPU": 1.0}, entries=3)
    index = node.worker()
    node.runs(index, OTHER, queue=queue, is_stopped=True)
    node.waits(TASK, queue)
    why = node.why()
    assert (why.reason.ahead, why.reason.workers) == (3, 1)
    assert why.root == r.Stopped(worker=index, pid=1000 + index) and "SIGCONT" in str(why)
    return why


@makes(r.WaitsForWorker)
def worker() -> Why:
    node = Node()
    queue = node.queue({"CPU": 1.0})
    node.waits(TASK, queue, deadline=node.now + 5)
    first = node.why().reason
    assert (first.starting, first.failures, first.ends_in_s) == (1, 0, 5)
    node.tell(seen.WorkerStartFailed(node.starts.pop(), "no memory"))
    why = node.why()
    assert why.reason.failures == 1 and why.reason.again_in_s > 0
    return why


@makes(r.TooManyProcesses)
def processes() -> Why:
    node = Node()
    node.machine.tables.pool.limits = Limits(prestart_most=0, workers_most=0)
    node.waits(TASK, node.queue({"CPU": 1.0}))
    return node.why()


@makes(r.WorkersCrash)
def crashing() -> Why:
    node = Node()
    queue = node.queue({"CPU": 1.0})
    index = node.worker()
    node.tell(seen.ProcessDied(index, 1))
    node.waits(TASK, queue)
    why = node.why()
    assert why.reason.deaths == 1 and why.reason.again_in_s > 0
    return why


@makes(r.WaitsForResources, r.Running)
def resources() -> Why:
    node = Node(cpus=2.0)
    first = node.queue({"CPU": 2.0})
    index = node.worker()
    node.runs(index, OTHER, queue=first)
    node.tell(seen.Looked((), (seen.WorkerState(index, first, first, 1, False, OTHER),)))
    node.waits(TASK, node.queue({"CPU": 1.0}))
    why = node.why()
    holder = r.Holder("task", tid(OTHER), "task", index, 1000 + index, {"CPU": 2.0}, 3.0)
    assert why.reason.holders == [holder] and why.reason.holders_count == 1
    assert why.reason.asked == {"CPU": 1} and why.reason.total == {"CPU": 2}
    return why


@makes(r.KeptForAnother)
def kept() -> Why:
    node = Node(cpus=4.0)
    busy = node.queue({"CPU": 3.0})
    node.runs(node.worker(), OTHER, queue=busy)
    large = node.queue({"CPU": 4.0})
    node.now += 2
    node.tell(seen.Looked((seen.QueueState(large, 1, 0),)))
    node.waits(TASK, node.queue({"CPU": 1.0}))
    why = node.why()
    assert why.reason.other == f"queue {large}" and why.reason.other_asked == {"CPU": 4}
    return why


@makes(r.Infeasible)
def infeasible() -> Why:
    node = Node()
    node.waits(TASK, node.queue({"CPU": 9.0}))
    why = node.why()
    assert why.reason.fails_in_s == 1 and why.reason.total == {"CPU": 1}
    started = Node(started=True)
    started.waits(TASK, started.queue({"CPU": 9.0}))
    assert started.why().reason.fails_in_s is None, "a node with that may join"
    return why


@makes(r.EnvironmentBuilding)
def building() -> Why:
    node, entry = _with_environment()
    node.now = entry.since + 4
    why = node.why()
    assert (why.reason.environment, why.reason.since_s) == ("e1", 4)
    return why


@makes(r.EnvironmentFailed)
def not_built() -> Why:
    node, _ = _with_environment()
    node.machine.tables.environments.failed(node.now, "e1", b"record")
    return node.why()


def _with_environment() -> tuple[Node, Any]:
    node = Node()
    queue = node.queue({"CPU": 1.0}, environment=MADE)
    node.waits(TASK, queue)
    return node, node.machine.tables.environments.entries["e1"]


@makes(r.GroupPending, r.WaitsForResources)
def group() -> Why:
    node = Node()
    info, _ = node.living(hold={"CPU": 1.0}, place={"CPU": 1.0})
    name = node.group(1.0)
    node.waits(TASK, node.queue({"CPU": 1.0}, strategy=m.InGroup(name)))
    why = node.why()
    assert why.reason.group == name and [h.id for h in why.root.holders] == [info.actor_id]
    assert chain(node.why(name)) == chain(why)
    return why


@makes(r.GroupRemoved)
def removed() -> Why:
    node = Node()
    name = node.group(1.0)
    assert node.why(name) == Why(r.Ready(id=name))
    node.ask(m.RemoveGroup(name))
    return node.why(name)


@makes(r.JobEnding)
def ending_job() -> Why:
    node = Node()
    node.waits(TASK, 999)
    return node.why()


@makes(r.ActorPending, r.WaitsForWorker)
def pending() -> Why:
    node = Node()
    info = node.actor()
    assert chain(node.why(info.actor_id)) == ["ActorPending", "WaitsForWorker"]
    why = node.why()
    assert (why.reason.name, why.reason.actor) == ("Keeper.two", info.actor_id)
    return why


@makes(r.ActorConstructing)
def constructing() -> Why:
    node = Node()
    node.actor()
    index = node.worker()
    why = node.why()
    assert (why.reason.worker, why.reason.pid) == (index, 1000 + index)
    return why


@makes(r.ActorRestarting)
def restarting() -> Why:
    node = Node()
    _, index = node.living(max_restarts=-1)
    node.tell(seen.ProcessDied(index, 1))
    why = node.why()
    assert (why.reason.restarts, why.reason.recently) == (1, 1) and why.reason.again_in_s > 0
    for _ in range(2):
        node.now += 10
        node.machine.tables.alarm_at = None
        node.tell(seen.AlarmRang())
        assert chain(node.why()) == ["ActorRestarting", "WaitsForWorker"]
        node.tell(seen.ProcessDied(node.worker(), 1))
    why = node.why()
    assert why.reason.recently == 3 and "third time in a minute" in str(why)
    return why


@makes(r.ActorBusy, r.Running)
def busy() -> Why:
    node = Node()
    info, index = node.living()
    node.runs(index, OTHER, queue=info.queue)
    why = node.why()
    assert (why.reason.call, why.reason.ahead) == (tid(OTHER), 2)
    assert why.root.actor == info.actor_id
    return why


@makes(r.ConcurrencyFull, r.Running)
def full() -> Why:
    node = Node()
    info, index = node.living(max_concurrency=1, groups={"io": 2})
    io = info.group_queues[0][0]
    node.runs(index, OTHER, THIRD, queue=io)
    node.waits(TASK, io, is_call=True)
    why = node.why()
    assert (why.reason.group, why.reason.limit) == ("io", 2)
    assert why.reason.calls == [tid(OTHER), tid(THIRD)]
    assert chain(node.why(info.actor_id))[0] == "ActorIdle", "its own group runs nothing"
    node.waits(TASK, info.queue, is_call=True)
    assert chain(node.why()) == ["Delivering"], "the other group has room"
    return why


@makes(r.ActorIdle)
def idle() -> Why:
    node = Node()
    info, index = node.living()
    why = node.why(info.actor_id)
    assert why.reason.worker == index
    return why


@makes(r.ActorEnding)
def ending() -> Why:
    node = Node()
    info, index = node.living()
    node.ask(m.KillActor(info.actor_id, True))
    why = node.why()
    assert why.reason.worker == index
    node.tell(seen.ProcessDied(index, None, 9))
    assert chain(node.why(info.actor_id)) == ["Gone"]
    return why


@makes(r.ControlStoreAway)
def store_away() -> Why:
    node = Node(started=True)
    info = node.actor(name="keeper")
    return node.why(info.actor_id)


@makes(r.WaitsForRoom)
def room() -> Why:
    node = Node()
    node.processes[DRIVER] = ProcessSight(DRIVER, 100, waits_for_room=True)
    node.held = ((DRIVER, 70),)
    why = node.why("")
    assert (why.reason.used_bytes, why.reason.capacity_bytes) == (90, 100)
    assert why.reason.holders[0].amounts == {"bytes": 70} and "shoal memory" in str(why)
    return why


@makes(r.Running, r.BackPressure)
def back_pressure() -> Why:
    node = Node()
    queue = node.queue({"CPU": 1.0})
    index = node.worker()
    node.runs(index, TASK, queue=queue, waits_for=OTHER)
    node.tasks[TASK] = msgspec.structs.replace(node.tasks[TASK], is_stream=True, owner=DRIVER)
    node.tasks[OTHER] = TaskSight(OTHER, is_cell=True, owner=index)
    why = node.why()
    assert why.root.stream == tid(TASK) and why.root.consumer.pid == 100
    return why


@makes(r.WaitsForLock)
def lock() -> Why:
    node = Node()
    _, index = node.living()
    node.ask(m.AcquireLock("door", "a", None), index)
    node.ask(m.AcquireLock("door", "b", None))
    why = node.why("")
    assert (why.reason.lock, why.reason.holder.pid) == ("door", 1000 + index)
    return why


@makes(r.WaitsForChannel)
def channel() -> Why:  # the asker makes it: no daemon knows of channels
    return Why(r.WaitsForChannel(what="the next message of the channel"))


@makes(r.TimeOver)
def time_over() -> Why:  # the error makes it
    error = errors.DeadlineExceededError(task="f", timeout_s=2.0, stages_s={"held": 2.0})
    assert "2 s held" in str(error.why)
    return error.why


@makes(r.NotSealed)
def not_sealed() -> Why:
    node = Node()
    node.tasks[TASK] = TaskSight(TASK, is_cell=True, owner=DRIVER)
    why = node.why()
    assert why.reason.object == oid(TASK) and why.reason.owner.pid == 100
    return why


@makes(r.Running, r.ActorBusy, r.Circular)
def circular() -> Why:
    node = Node()
    info, index = node.living()
    node.runs(index, OTHER, queue=info.queue, waits_for=TASK)
    why = node.why(OTHER)
    assert why.root.ids == [tid(OTHER), f"process {index}", tid(TASK), f"actor {info.actor_id}"]
    return why


KINDS = [x for x in get_args(r.AnyReason) if x not in (r.AdmissionPaused, r.WaitsForMemory)]
"""Those two: in test_core_why_memory.py."""


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_each_reason(kind: type[r.Reason]) -> None:
    why = CASES[kind]()
    assert kind in [type(reason) for reason in why.chain]
    assert str(why).count("\n") == len(why.lines()) - 1
    if advice(why.root):
        assert str(why).endswith(advice(why.root))


def test_who_asks_about_nothing_that_is_here_hears_so() -> None:
    node = Node()
    for about in ("nonsense", "0" * 32, "0" * 64, oid(TASK)[:-1] + "x"):
        with pytest.raises(LookupError, match="no id"):
            node.why(about)


def test_a_chain_that_needs_too_many_looks_ends_early() -> None:
    node = Node()
    queue = node.queue({"CPU": 1.0})
    for key in range(1000):
        node.waits(1 << 32 | key, queue, "held", dependency=1 << 32 | key + 1)
    out = node.ask(m.AskWhy(oid(1 << 32)))
    rounds = 0
    while not any(isinstance(c, do.Reply) for c in out):
        (look,) = [c for c in out if isinstance(c, do.Inspect)]
        out = node.tell(node.inspected(look))
        rounds += 1
    assert rounds < 400
    (answer,) = [c.body for c in out if isinstance(c, do.Reply)]
    assert 50 < len(unpacked(answer.reason).chain) < 400


def test_an_explanation_changes_nothing_and_asks_for_no_pass() -> None:
    node = Node()
    queue = node.queue({"CPU": 1.0})
    node.waits(TASK, queue)
    node.why()
    before = [repr(row) for row in node.machine.tables.scheduler.waiting]
    assert chain(node.why()) == ["WaitsForWorker"]
    assert [repr(row) for row in node.machine.tables.scheduler.waiting] == before


def test_the_page_lists_every_reason_with_facts_that_it_has() -> None:
    page = (ROOT / "docs/why.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \|([^|]*)\|$", page, re.M)
    kinds = {kind.__name__: kind for kind in get_args(r.AnyReason)}
    assert [name for name, _ in rows] == list(kinds)
    for name, facts in rows:
        assert set(re.findall(r"`(\w+)`", facts)) <= set(kinds[name].__struct_fields__), name
