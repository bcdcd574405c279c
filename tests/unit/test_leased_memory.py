"""Node memory of a node whose lease is over: nobody begins anything, however long its queue is."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from shoal import _native
from shoal._base import clock
from tests.unit.test_core_fail_queued import attached, hooked

LONG_S = 50.0


class Node:
    """A daemon, a worker on a queue, and who submits to it."""

    def __init__(self, kind: int = _native.QUEUE_CLASS) -> None:
        self.daemon = hooked(_native.Memory.create(32 << 20, 2, b"leased!!", 64))
        self.daemon.populate(16 << 20, 1 << 40)
        self.queue, generation = self.daemon.new_queue(kind, 1)
        self.caller, self.caller_index = attached(self.daemon)
        self.worker, self.index = attached(self.daemon)
        self.template = _native.Template(
            function=0,
            queue=self.queue,
            queue_generation=generation,
            job=1,
            n_returns=1,
            flags=_native.FLAG_HELP,
        )
        self.daemon.assign(self.index, self.queue)
        assert self.worker.take(1.0) == self.queue, "the assignment comes first"

    def submit(self) -> Any:
        return self.caller.submit(self.template, b"payload", [])

    def over(self) -> None:
        self.daemon.set_lease(clock.now() - 1.0)

    def good(self) -> None:
        self.daemon.set_lease(clock.now() + LONG_S)


@pytest.fixture
def node() -> Iterator[Node]:
    yield Node()


def test_a_queue_is_left_alone_and_nothing_of_it_is_lost(node: Node) -> None:
    refs = [node.submit() for _ in range(2)]
    node.over()
    assert node.worker.take(0.12) is None, "longer than one nap"
    assert node.worker.take_many([(node.queue, 2)], 0, 0.0) == []
    assert node.daemon.queue_state(node.queue)[0] == 2
    node.good()
    assert {node.worker.take(1.0).key, node.worker.take(1.0).key} == {ref.key for ref in refs}


def test_who_sleeps_meanwhile_goes_on_when_the_lease_is_good_again(node: Node) -> None:
    node.over()
    ref = node.submit()
    taken: list[Any] = []
    sleeper = threading.Thread(target=lambda: taken.append(node.worker.take(LONG_S)))
    sleeper.start()
    sleeper.join(0.1)
    assert sleeper.is_alive() and not taken
    node.good()
    sleeper.join(LONG_S)
    assert [task.key for task in taken] == [ref.key]


def test_other_orders_are_heard(node: Node) -> None:
    node.over()
    node.daemon.assign(node.index, 0)
    assert node.worker.take(1.0) == 0


def test_the_daemon_takes_what_it_sends_to_other_nodes(node: Node) -> None:
    """It would look for ever for what is there and never comes."""
    refs = [node.submit() for _ in range(3)]
    node.over()
    assert node.daemon.set_hungry(node.queue, True), "something is there"
    last = node.daemon.claim(refs[2].key)
    taken = node.daemon.take_many([(node.queue, 3)], 1, 0.0)
    assert [task.key for task in (*taken, last)] == [ref.key for ref in refs]
    assert not node.daemon.set_hungry(node.queue, True)


def test_the_lease_ends_while_somebody_waits(node: Node) -> None:
    until = clock.now() + 0.05
    node.daemon.set_lease(until)
    assert node.worker.take(0.1) is None
    assert clock.now() > until
    node.submit()
    assert node.worker.take(0.0) is None


def test_nobody_helps_either(node: Node) -> None:
    ref = node.submit()
    node.over()
    assert node.worker.claim(ref.key) is None
    assert node.daemon.claim(ref.key) is not None, "the daemon gives it to another node"


def test_who_has_only_the_descriptor_reads_it_too(node: Node) -> None:
    assert _native.lease_of(node.daemon.fd) == 0.0
    until = clock.now() + 10.0
    node.daemon.set_lease(until)
    assert _native.lease_of(node.daemon.fd) == pytest.approx(until, abs=1e-6)
    node.daemon.set_leased(node.index, 4711)
    assert _native.leased_processes(node.daemon.fd) == [4711]
    node.daemon.close_process(node.index)
    assert _native.leased_processes(node.daemon.fd) == []
    node.daemon.set_lease(0.0)
    assert _native.lease_of(node.daemon.fd) == 0.0
    for ask in (_native.lease_of, _native.leased_processes):
        fd = os.memfd_create("none")
        with pytest.raises(RuntimeError, match="not node memory"):
            ask(fd)
        os.close(fd)


def test_moments_that_are_none(node: Node) -> None:
    for moment in (float("inf"), 1e300, float("nan")):
        node.daemon.set_lease(moment)
        ref = node.submit()
        assert node.worker.take(0.0).key == ref.key, moment
    node.daemon.set_lease(-1.0)
    assert _native.lease_of(node.daemon.fd) == 0.0
