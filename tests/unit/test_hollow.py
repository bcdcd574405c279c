"""Memory is given back: inside extents in use (what stays in one keeps its own bytes only), and of
extents that nobody uses."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Callable
from typing import Any

from shoal import _native

EXTENT = _native.EXTENT_BYTES
STORE = 8 * EXTENT
PIECE = 128 << 10
PLENTY = 1 << 40


def hooked(memory: Any) -> Any:
    memory.set_hooks(
        loads=pickle.loads,
        error=lambda _format, data, _ref: ValueError(bytes(data)),
        help=None,
        future=lambda ref: ref,
        wait=lambda ref: ref,
        escaped=lambda ref: ref,
    )
    return memory


class Store:
    """A daemon, which does nothing by itself, and one process beside it."""

    def __init__(self) -> None:
        self.daemon = hooked(_native.Memory.create(STORE, 2, b"hollow", 64))
        self.daemon.spills = 1
        self.daemon.populate(2 * STORE, PLENTY)
        index = self.daemon.open_process(1)
        fds = os.dup(self.daemon.fd), os.dup(self.daemon.eventfd)
        self.process = hooked(_native.Memory.attach(*fds, index))

    def put(self, fill: int, size: int) -> Any:
        """The ref of a value that is looked at in place."""
        buffers: list[Any] = []
        data = pickle.dumps(
            pickle.PickleBuffer(bytes([fill]) * size), protocol=5, buffer_callback=buffers.append
        )
        put = self.process.put
        return self.serve(lambda: put(_native.FORMAT_PICKLE, data, [b.raw() for b in buffers], ()))

    def serve(self, call: Callable[[], Any]) -> Any:
        """The outcome of ``call`` in another thread, whom this one gives memory."""
        done: list[Any] = []
        thread = threading.Thread(target=lambda: done.append(call()))
        thread.start()
        while thread.is_alive():
            missing = self.daemon.shortage(PLENTY)
            if missing:
                self.daemon.hollow_out(missing)
            if missing and self.daemon.shortage(PLENTY):
                self.daemon.answer_room(False)
            else:
                self.daemon.answer_room(True)
                self.daemon.populate(2 * STORE, PLENTY)
            thread.join(0.001)
        return done[0] if done else None

    def real_bytes(self) -> int:
        """What the kernel has given for values."""
        return os.fstat(self.daemon.fd).st_blocks * 512


def test_what_is_free_between_values_that_stay_can_be_used() -> None:
    store = Store()
    refs = [store.put(i % 256, PIECE - 512) for i in range(6 * 16)]
    kept = {i: store.process.get(refs[i]) for i in range(0, len(refs), 16)}
    before = store.real_bytes()
    refs = [ref for i, ref in enumerate(refs) if i in kept]
    large = store.put(7, 5 * EXTENT)
    assert large is not None, "six pieces that stay left no room for it"
    assert store.real_bytes() <= max(before, STORE) + EXTENT + PIECE
    assert memoryview(store.process.get(large))[:3] == b"\7\7\7"
    for i, value in kept.items():
        assert bytes(value) == bytes([i % 256]) * (PIECE - 512)
    audit = store.daemon.audit()
    assert audit["leaked_blocks"] == 0 and audit["wrong_counts"] == 0
    del kept, refs, large, value
    assert store.put(1, 7 * EXTENT - 4096) is not None, "all of it is there again"
    assert store.daemon.audit()["bytes"] == 0


def test_what_is_behind_a_value_can_be_used() -> None:
    store = Store()
    refs = [store.put(i, EXTENT // 2 + 4096) for i in range(6)]
    kept = [store.process.get(ref) for ref in refs]
    more = [store.put(10 + i, EXTENT // 2 + 4096) for i in range(6)]
    assert None not in more, "twelve of one megabyte in sixteen"
    for i, value in enumerate([*kept, *map(store.process.get, more)]):
        fill = i if i < 6 else i + 4
        assert bytes(value) == bytes([fill]) * (EXTENT // 2 + 4096)
    del kept, refs, more, value
    assert store.put(1, 7 * EXTENT - 4096) is not None
    assert store.real_bytes() <= STORE + 2 * EXTENT


def test_nothing_is_given_back_twice() -> None:
    store = Store()
    refs = [store.put(i, PIECE - 512) for i in range(16)]
    kept = store.process.get(refs[3])
    refs = refs[3:4]
    populated = store.daemon.usage()[1]
    for _ in range(3):
        store.daemon.hollow_out(8)
    assert populated - EXTENT <= store.daemon.usage()[1] <= populated
    assert bytes(kept) == b"\3" * (PIECE - 512)
    real = store.real_bytes()
    more = [store.put(i, PIECE - 512) for i in range(16)]
    assert store.real_bytes() <= real + 16 * PIECE, "holes are not filled again"
    del kept, refs, more
    assert store.put(1, 7 * EXTENT - 4096) is not None


def test_what_nobody_uses_is_given_to_who_needs_memory_and_comes_back() -> None:
    store = Store()
    kept = store.put(1, EXTENT // 2)
    free = [store.put(2, EXTENT - 4096) for _ in range(6)]
    del free
    real = store.real_bytes()
    given = store.daemon.give_back(0)
    assert 3 * EXTENT <= given <= 6 * EXTENT
    assert real - given - 65536 <= store.real_bytes() <= real - given
    assert store.daemon.give_back(0) == 0, "two stay warm"
    assert bytes(store.process.get(kept)) == b"\1" * (EXTENT // 2)
    assert store.put(3, 5 * EXTENT) is not None
