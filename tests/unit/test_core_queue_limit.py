"""Queues of scheduling classes when there are as many as node memory has room for."""

from __future__ import annotations

import itertools

from shoal._core import commands as do
from shoal._core import events as seen
from shoal._proto import messages as m
from tests.unit.test_core_node import DRIVER, Node, reply


def full_node() -> tuple[Node, int]:
    """A node with as many idle queues as there may be, the oldest of them first; how many."""
    node = Node(CPU=2.0)
    node.driver()
    most = node.machine.tables.limits.queues_most
    numbers = itertools.count(1)
    for _ in range(most):
        opened(node, next(numbers))
    return node, most


def opened(node: Node, number: int) -> list[do.Command]:
    """Ask for the queue of a class of its own, and have it made."""
    out = node.ask(DRIVER, m.OpenQueue({"CPU": 1.0, f"kind_{number}": 0.5}), after=0.001)
    made = [c for c in out if isinstance(c, do.NewQueue)]
    for command in made:
        node.tell(seen.QueueCreated(command.ticket, number, 1))
    return out


def test_one_more_class_takes_the_place_of_the_one_that_is_idle_for_longest() -> None:
    node, most = full_node()
    out = opened(node, most + 1)
    assert [type(c).__name__ for c in out if not isinstance(c, do.SetAlarm)] == [
        "FreeQueue", "NewQueue",
    ]  # fmt: skip
    assert do.FreeQueue(1) in out
    tables = node.machine.tables
    assert len(tables.scheduler.held.queues) == most and 1 not in tables.scheduler.held.queues
    (job,) = tables.jobs.running.values()
    assert len(job.queues) == most
    tables.validate()


def sifted(node: Node) -> do.SiftQueues:
    """What is asked about idle queues when it is time to."""
    limits = node.machine.tables.limits
    out = node.tell(seen.AlarmRang(), after=limits.queue_idle_s + limits.housekeeping_s)
    (asked,) = [c for c in out if isinstance(c, do.SiftQueues)]
    return asked


def test_idle_queues_go_unless_lost_values_could_need_them() -> None:
    node, most = full_node()
    kept = node.machine.tables.limits.queues_kept
    asked = sifted(node)
    assert set(asked.queues) == set(range(1, most + 1))
    out = node.tell(seen.QueuesSifted((), asked.queues))
    assert not any(isinstance(c, do.FreeQueue) for c in out)
    needed, spare = asked.queues[:10], asked.queues[10:]
    freed = [c for c in node.tell(seen.QueuesSifted(spare, needed)) if type(c) is do.FreeQueue]
    assert len(freed) == most - kept and not {c.queue for c in freed} & set(needed)
    assert node.tell(seen.QueuesSifted(spare, needed)) == [], "there are not too many any more"
    node.machine.tables.validate()


def test_where_there_is_no_other_one_a_queue_goes_that_lost_values_could_need() -> None:
    node, most = full_node()
    asked = sifted(node)
    needed = tuple(number for number in asked.queues if number != 7)
    node.machine.tables.needed_queues = frozenset(needed)
    assert do.FreeQueue(7) in opened(node, most + 1)
    for queue in node.machine.tables.scheduler.held.queues.values():
        if queue.queue not in needed:
            queue.idle_since = None
    assert do.FreeQueue(1) in opened(node, most + 2)


def test_who_knows_a_queue_that_has_gone_gets_another() -> None:
    node, most = full_node()
    opened(node, most + 1)
    assert do.FreeQueue(2) in opened(node, 1), "its class has no queue any more"


def test_a_class_too_many_is_refused_while_none_is_idle() -> None:
    node, _ = full_node()
    for queue in node.machine.tables.scheduler.held.queues.values():
        queue.idle_since = None
    out = node.ask(DRIVER, m.OpenQueue({"CPU": 1.0, "one_more": 0.5}))
    assert "fewer different amounts" in str(reply(out, m.Failure).record)
