"""Every reason that the deciding machine can give, from tables and sights that are made by hand."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, get_args

import msgspec
import pytest

from shoal import errors
from shoal._base.config import Limits
from shoal._core import commands as do
from shoal._core import events as seen
from shoal._core.resources import UNIT
from shoal._core.sight_rows import Away, ProcessSight, TaskSight
from shoal._proto import messages as m
from shoal._proto import reasons as r
from shoal._proto.views import NodeRow
from shoal.errors._why import Why, advice, unpacked
from tests.tidy.sources import ROOT
from tests.unit.why_node import DRIVER, MADE, OTHER, TASK, THIRD, Node, oid, tid


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


@makes(r.WaitsForNode)
def of_another_node() -> Why:
    node = Node.of_a_driver()
    node.waits(TASK, node.queue({"CPU": 1.0}))
    row = NodeRow("b" * 32, total={"CPU": 2 * UNIT})
    known = seen.KnownNode("node-2", row)
    node.tell(seen.NodesChanged(frozenset({row.node}), (known,)))
    why = node.why()
    assert why.reason.nodes == ["node-2"] and why.reason.asked == {"CPU": 1}
    node.tell(seen.NodesChanged(frozenset()))
    reason = node.why().reason
    assert isinstance(reason, r.Infeasible) and reason.fails_in_s is None
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
    assert (why.reason.restarts, why.reason.recently) == (1, 1)
    assert why.reason.again_in_s == 0.0, "there is no pause before the first"
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
    asked = node.why("").reason
    assert isinstance(asked, r.ControlStoreAway) and asked.what == "jobs"
    return node.why(info.actor_id)


@makes(r.Restoring)
def restoring() -> Why:
    node = Node()
    node.processes[DRIVER] = ProcessSight(DRIVER, 100, waits_for=TASK)
    node.tasks[TASK] = TaskSight(TASK, format=3, away=Away("/disk/1.spill", is_wanted=True))
    why = node.why("")
    assert "/disk/1.spill" in str(why)
    node.tasks[TASK] = TaskSight(TASK, format=3, away=Away("/disk/1.spill"))
    unread = node.why()
    assert unread.reason == r.Ready(id=oid(TASK), file="/disk/1.spill") and "on disk" in str(unread)
    node.tasks[TASK] = TaskSight(TASK, format=3, away=Away())
    assert node.why().reason == r.Ready(id=oid(TASK), is_evicted=True)
    return why


@makes(r.Rebuilding, r.Running)
def rebuilding() -> Why:
    node = Node()
    queue = node.queue({"CPU": 1.0})
    index = node.worker()
    node.processes[index] = ProcessSight(index, 1000, running=(OTHER,))
    node.waits(OTHER, queue, "running", worker=index)
    away = Away("", True, "its file was changed", attempt=2, attempts_most=4, task=OTHER, before=1)
    node.tasks[TASK] = TaskSight(TASK, format=3, away=away)
    why = node.why()
    assert "attempt 2 of 4, because its file was changed; another task runs before it" in str(why)
    return why


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


ELSEWHERE = (r.OnNode, r.ActorOnNode, r.Arriving, r.MadeElsewhere)
"""In test_core_elsewhere.py."""
MEMORY = (r.AdmissionPaused, r.WaitsForMemory)
"""In test_core_why_memory.py."""
LEASE = (r.LeaseOver,)
"""In test_core_lease.py."""
KINDS = [x for x in get_args(r.AnyReason) if x not in (*MEMORY, *ELSEWHERE, *LEASE)]


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


def test_what_has_just_come_or_gone_is_waited_for_by_nobody() -> None:
    node = Node()
    node.processes[DRIVER] = ProcessSight(DRIVER, 100, waits_for=TASK)
    assert chain(node.why("")) == ["Nothing"], "it is gone"
    node.tasks[TASK] = TaskSight(TASK, format=3)
    assert chain(node.why("")) == ["Nothing"], "it is there"


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
