"""Workers that die before they have done anything harm what needs them, and nothing else."""

from __future__ import annotations

from shoal._core import commands as do
from shoal._core import events as seen
from shoal._core.crash_loops import FIRST_PAUSE_S, HOPELESS, MOST_PAUSE_S, CrashLoops
from shoal._proto import messages as m
from tests.unit.test_core_node import DRIVER, Node, kinds, reply

BROKEN, SOUND = 5, 7


def test_a_row_doubles_its_pause_and_ends() -> None:
    loops = CrashLoops()
    assert [loops.died(0.0, 5) for _ in range(3)] == [1, 2, 3]
    assert loops.died(0.0, "python") == 1, "rows do not know each other"
    assert loops.is_paused(4 * FIRST_PAUSE_S - 0.001, 5)
    assert not loops.is_paused(4 * FIRST_PAUSE_S, 5) and not loops.is_paused(0.0, 6)
    for _ in range(20):
        loops.died(0.0, 5)
    assert loops.next_deadline(FIRST_PAUSE_S) == MOST_PAUSE_S
    loops.ended_well(5)
    assert not loops.is_paused(0.0, 5)
    loops.validate()


def node_with_two_classes() -> Node:
    """An actor that lives, a class whose workers die at once, and one that is quiet."""
    node = Node(place=1.0)
    node.tell(seen.Began())
    node.driver()
    node.living_actor(40, 6, hold={"place": 1.0}, place={})
    for ticket, queue, amounts in ((2, BROKEN, {"CPU": 1.0}), (3, SOUND, {"CPU": 0.5})):
        node.ask(DRIVER, m.OpenQueue(amounts))
        node.tell(seen.QueueCreated(ticket, queue, 1))
    node.tell(seen.Looked((seen.QueueState(BROKEN, 3, 0),)))
    return node


def worker_dies(node: Node, index: int) -> list[do.Command]:
    """The next worker of the broken class comes and dies; what the machine says to that."""
    for _ in range(5):
        if node.starts:
            break
        node.tell(seen.AlarmRang(), after=MOST_PAUSE_S)
    assigned = node.worker(index)
    for _ in range(5):
        if do.Assign(index, BROKEN) in assigned:
            return node.tell(seen.ProcessDied(index, 3, None, ("no library",)))
        assigned += node.tell(seen.AlarmRang(), after=MOST_PAUSE_S)
    raise AssertionError("the class got no worker")


def test_only_the_class_whose_workers_die_is_failed() -> None:
    node = node_with_two_classes()
    waits = reply(node.actor(8, hold={"place": 1.0}, place={}), m.ActorInfo)
    out: list[do.Command] = []
    for index in range(10, 10 + HOPELESS):
        assert "FailQueued" not in kinds(out)
        out = worker_dies(node, index)
        node.tell(seen.Looked((seen.QueueState(BROKEN, 3, 0),)))
    failed = [c for c in out if isinstance(c, do.FailQueued)]
    assert [c.queue for c in failed] == [BROKEN]
    assert "EndJobTasks" not in kinds(out) and "KillQueue" not in kinds(out)
    assert node.state(waits.actor_id).state == "PENDING", "its worker has not been tried"


def test_another_class_gets_its_worker_during_the_pause() -> None:
    node = node_with_two_classes()
    worker_dies(node, 10)
    node.tell(seen.Looked((seen.QueueState(SOUND, 1, 0),)))
    assert node.machine.tables.crash_loops.is_paused(node.now, BROKEN)
    out = node.worker(20)
    assert do.Assign(20, SOUND) in out and do.Assign(20, BROKEN) not in out


def test_what_has_a_worker_goes_on_when_none_can_start() -> None:
    """They die before they are told what they are for: nobody new can be served, others go on."""
    node = node_with_two_classes()
    at_work = node.worker(20)
    assert do.Assign(20, BROKEN) in at_work
    node.tell(seen.Looked((seen.QueueState(BROKEN, 2, 1),)))
    waits = reply(node.actor(8, hold={}, place={}), m.ActorInfo)
    node.ask(DRIVER, m.OpenQueue({"CPU": 0.25}))
    node.tell(seen.QueueCreated(5, 9, 1))
    node.tell(seen.Looked((seen.QueueState(9, 1, 0),)))
    out: list[do.Command] = []
    for index in range(30, 30 + HOPELESS):
        while not node.starts:
            node.tell(seen.AlarmRang(), after=MOST_PAUSE_S)
        node.tell(seen.WorkerForked(node.starts.pop(0), index, 1000 + index))
        node.tell(seen.WorkerJoined(index, 1, 1000 + index))
        out = node.tell(seen.ProcessDied(index, 3, None, ("no library",)))
    assert [c.queue for c in out if isinstance(c, do.FailQueued)] == [9]
    assert node.state(waits.actor_id).state == "DEAD"
    assert "EndJobTasks" not in kinds(out)
