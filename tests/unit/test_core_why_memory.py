"""Reasons that have to do with the memory of processes; the others stand in test_core_why.py."""

from __future__ import annotations

from shoal._core import events as seen
from shoal._core.memory_admission import Rules
from shoal._core.memory_watch import MemoryWatch
from shoal._proto import messages as m
from shoal._proto import reasons as r
from tests.unit.why_node import OTHER, TASK, Node

MB = 1 << 20


def watching_node() -> Node:
    node = Node(cpus=2.0)
    node.machine.tables.memory = MemoryWatch(Rules(1000 * MB))
    return node


def test_nothing_begins_while_little_memory_is_left() -> None:
    node = watching_node()
    busy = node.queue({"CPU": 1.0})
    index = node.worker()
    node.runs(index, OTHER, queue=busy)
    large = seen.ProcessMemory(index, 930 * MB, OTHER, 7)
    node.tell(seen.MemoryRead(940 * MB, 1000 * MB, (large,)))
    node.now += 2
    node.waits(TASK, node.queue({"CPU": 0.5}))
    why = node.why()
    assert isinstance(why.reason, r.AdmissionPaused)
    assert (why.reason.used_bytes, why.reason.paused_s) == (940 * MB, 2)
    (holder,) = why.reason.holders
    assert (holder.worker, holder.amounts) == (index, {"memory": 930.0 * MB})
    assert "has 975,175,680)" in str(why), "and who has it"
    assert "985,661,440 of 1,048,576,000 bytes of memory" in str(why) and "memory=" in str(why)


def test_a_task_that_needs_much_waits_until_there_is_enough() -> None:
    node = watching_node()
    queue = node.queue({"CPU": 1.0})
    first = node.worker()
    node.queue({"CPU": 0.5})
    second = node.worker()
    large = seen.ProcessMemory(first, 600 * MB, OTHER, 7)
    node.tell(seen.MemoryRead(610 * MB, 1000 * MB, (large, seen.ProcessMemory(second, 0))))
    node.ask(m.AdmitMemory(7), first)
    node.ask(m.AdmitMemory(7, 2), second)
    node.runs(second, TASK, queue=queue)
    why = node.why()
    assert isinstance(why.reason, r.Running) and why.reason.waits
    assert isinstance(why.root, r.WaitsForMemory) and why.root.needs_bytes == 600 * MB
    assert [holder.worker for holder in why.root.holders] == [first]
    assert "629,145,600 bytes of memory" in str(why)
    (again,) = node.machine.tables.memory.peaks.rows.values()
    again.ends, again.ended_at = 1, node.now + 2.8
    assert "runs again in 3 s" in str(node.why())
