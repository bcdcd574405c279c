"""A worker that was asked to let go and does not: it is stopped, or has a long task."""

from __future__ import annotations

from shoal._core import commands as do
from shoal._core import events as seen
from shoal._core.scheduler import LET_GO_S
from shoal._proto import messages as m
from tests.unit.test_core_node import Node

FIRST, SECOND = 2, 3
OTHER_DRIVER = 4


def test_somebody_else_is_asked_when_the_first_does_not_let_go() -> None:
    node = Node()
    node.tell(seen.Began())
    node.driver()
    node.worker(FIRST)
    node.worker(SECOND)
    node.ask(1, m.OpenQueue({"CPU": 1.0}))
    node.tell(seen.QueueCreated(1, 5, 1))
    node.tell(seen.BellRang())
    out = node.tell(seen.Looked((seen.QueueState(5, 2, 0),)))
    busy = seen.WorkerState(FIRST, 5, 5, 1, False)
    out += node.tell(seen.Looked((seen.QueueState(5, 2, 0),), (busy,)), after=0.02)
    assert {c.index for c in out if isinstance(c, do.Assign)} == {FIRST, SECOND}
    idle = tuple(seen.WorkerState(index, 5, 5, 0, False) for index in (FIRST, SECOND))
    node.tell(seen.Looked((seen.QueueState(5, 0, 2),), idle))
    node.driver(OTHER_DRIVER)
    node.ask(OTHER_DRIVER, m.OpenQueue({"CPU": 1.0}))
    node.tell(seen.QueueCreated(2, 7, 1))
    waits = (seen.QueueState(5, 0, 2), seen.QueueState(7, 1, 0))

    def asked(after: float) -> set[int]:
        out = node.tell(seen.Looked(waits, idle), after=after)
        return {c.index for c in out if isinstance(c, do.Assign) and c.queue == 0}

    first = asked(0.001)
    assert len(first) == 1, "one is enough, as long as it may still answer"
    assert asked(LET_GO_S / 2) == set()
    assert asked(LET_GO_S) == {FIRST, SECOND} - first
