"""Node memory under ``FailQueued``: what waits in a queue fails, what runs or comes later does
not."""

from __future__ import annotations

import os
import pickle
from typing import Any

import pytest

from shoal import _native

ERROR = b"\x92\xa5Error\x80"


class Failed(Exception):
    """What ``get`` raises for an error value."""


def hooked(memory: Any) -> Any:
    memory.set_hooks(
        loads=pickle.loads,
        error=lambda _format, data, _ref: Failed(bytes(data)),
        help=None,
        future=lambda ref: ref,
        wait=lambda ref: ref,
        escaped=lambda ref: ref,
    )
    return memory


def attached(daemon: Any) -> tuple[Any, int]:
    index = daemon.open_process(2)
    fds = os.dup(daemon.fd), os.dup(daemon.eventfd)
    return hooked(_native.Memory.attach(*fds, index)), index


def test_only_what_waits_is_failed() -> None:
    daemon = hooked(_native.Memory.create(32 << 20, 2, b"fail-queued", 64))
    daemon.populate(16 << 20, 1 << 40)
    queue, generation = daemon.new_queue(_native.QUEUE_CLASS, 1)
    caller, _ = attached(daemon)
    worker, index = attached(daemon)
    template = _native.Template(
        function=0,
        queue=queue,
        queue_generation=generation,
        job=1,
        n_returns=1,
        flags=_native.FLAG_HELP,
    )
    refs = [caller.submit(template, b"payload", []) for _ in range(5)]
    daemon.assign(index, queue)
    assert worker.take(1.0) == queue, "the assignment comes first"
    running = worker.take(1.0)
    assert daemon.fail_queued(queue, ERROR) == 4
    assert daemon.fail_queued(queue, ERROR) == 0
    for ref in refs[1:]:
        with pytest.raises(Failed):
            caller.get(ref, 0)
    with pytest.raises(TimeoutError):
        caller.get(refs[0], 0)
    late = caller.submit(template, b"payload", [])
    del ref, refs
    again = worker.take(1.0)
    assert again.key == late.key, "the queue lives on"
    assert running.key != again.key
    audit = daemon.audit()
    assert audit["wrong_counts"] == 0 and audit["leaked_blocks"] == 0
    assert audit["specs"] == 2


def test_no_task_waits_for_a_slot_that_nobody_may_seal() -> None:
    """A pending slot becomes an argument once it has a value."""
    daemon = hooked(_native.Memory.create(32 << 20, 2, b"pending", 64))
    daemon.populate(16 << 20, 1 << 40)
    queue, generation = daemon.new_queue(_native.QUEUE_CLASS, 1)
    caller, _ = attached(daemon)
    template = _native.Template(
        function=0, queue=queue, queue_generation=generation, job=1, n_returns=1, flags=0
    )
    cell = caller.new_pending()
    with pytest.raises(ValueError, match="pending"):
        caller.submit(template, b"payload", [cell])
    assert caller.seal_pending(cell)
    ref = caller.submit(template, b"payload", [cell])
    assert daemon.fail_queued(queue, ERROR) == 1
    del ref, cell
    assert set(daemon.audit().values()) == {0}


@pytest.mark.parametrize(
    ("record", "bare"),
    [
        (b"\x92\xb2WorkerCrashedError\x81\xa4text\xc6", b"\x92\xb2WorkerCrashedError\x80"),
        (b"no record", b"\x92\xb4ObjectStoreFullError\x80"),
    ],
)
def test_an_error_without_room_keeps_its_class(record: bytes, bare: bytes) -> None:
    daemon = hooked(_native.Memory.create(32 << 20, 2, b"bare", 64))
    daemon.populate(16 << 20, 1 << 40)
    queue, generation = daemon.new_queue(_native.QUEUE_CLASS, 1)
    caller, _ = attached(daemon)
    template = _native.Template(
        function=0,
        queue=queue,
        queue_generation=generation,
        job=1,
        n_returns=1,
        flags=_native.FLAG_HELP,
    )
    ref = caller.submit(template, b"payload", [])
    larger_than_the_store = record + bytes(33 << 20)
    assert daemon.fail_queued(queue, larger_than_the_store) == 1
    with pytest.raises(Failed) as caught:
        caller.get(ref)
    assert caught.value.args == (bare,)
    del ref
    caller.close()
    daemon.close()
