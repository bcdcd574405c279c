"""A channel against a naive queue: one writer, two readers, kept arrays, refs, closing, deaths.

The model is a list of what was written, and for each message who has yet to acknowledge it. A death
is: the process's view becomes inert, and the daemon repairs its index, as after ``kill -9`` between
two operations. Its successor goes on; what the dead kept stays owed, which can be half of the
slots at most.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import select
import threading
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shoal import _native, errors

READERS = 2
SLOTS = 4
CAPACITY = 60_000


class Failed(Exception):
    """What an error message raises."""


def attach(daemon: Any) -> Any:
    fds = os.dup(daemon.fd), os.dup(daemon.eventfd)
    memory = _native.Memory.attach(*fds, daemon.open_process(2))
    memory.set_hooks(
        loads=pickle.loads, error=lambda _format, _data, _ref: Failed(), help=None,
        future=lambda ref: ref, wait=lambda ref: ref, escaped=lambda ref: ref,
    )  # fmt: skip
    return memory


class Channels(RuleBasedStateMachine):
    """Process 0 keeps the channel, 1 writes, 2 and 3 read."""

    def __init__(self) -> None:
        super().__init__()
        self.daemon = _native.Memory.create(32 << 20, 2, b"channels", 64)
        self.is_over = False
        self.populator = threading.Thread(target=self._populate, daemon=True)
        self.populator.start()
        self.memories = [attach(self.daemon) for _ in range(2 + READERS)]
        self.keeper = self.memories[0].channel(CAPACITY, SLOTS, READERS, 2.0)
        self.channels = [self.keeper, *(self._open(m) for m in self.memories[1:])]
        self.written: list[Any] = []
        self.owed: list[set[int]] = []
        self.next = [0] * READERS
        self.kept: list[dict[int, Any]] = [{} for _ in range(READERS)]
        self.places_of_arrays: set[int] = set()
        self.is_closed = False

    def _populate(self) -> None:
        bell = select.poll()  # select takes no descriptor above 1,023
        bell.register(self.daemon.eventfd, select.POLLIN)
        while not self.is_over:
            self.daemon.populate(64 << 20, 1 << 40)
            bell.poll(1000)
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self.daemon.eventfd)

    def _open(self, memory: Any) -> Any:
        return _native._open_channel(memory.ref(self.keeper.ref.key))

    @rule(kind=st.sampled_from(["number", "bytes", "array", "ref", "error"]))
    def write(self, kind: str) -> None:
        number, channel = len(self.written), self.channels[1]
        value: Any = {
            "number": number, "bytes": bytes([number % 250]) * 3000, "error": Failed(),
            "array": np.full(6000, number), "ref": [self.memories[1].put_simple(number)],
        }[kind]  # fmt: skip
        send = channel.write_error if kind == "error" else channel.write
        has_room = sum(map(bool, self.owed)) < SLOTS
        try:
            send(value, 0)
        except errors.ChannelClosedError:
            assert self.is_closed
        except errors.ChannelTimeoutError:
            assert not has_room and not self.is_closed
        else:
            assert has_room and not self.is_closed
            self.written.append("ref" if kind == "ref" else value)
            self.owed.append(set(range(READERS)))

    @rule(reader=st.integers(0, READERS - 1), keeps=st.booleans())
    def read(self, reader: int, keeps: bool) -> None:
        number, memory = self.next[reader], self.memories[2 + reader]
        try:
            found = self.channels[2 + reader].read(reader, 0)
        except errors.ChannelTimeoutError:
            assert number == len(self.written) and not self.is_closed
            return
        except errors.ChannelClosedError:
            assert number == len(self.written) and self.is_closed
            return
        except Failed:
            found = None
            assert isinstance(self.written[number], Failed)
        self.next[reader] += 1
        expected = self.written[number]
        is_view = isinstance(found, np.ndarray) and not isinstance(found.base, bytes)
        if isinstance(found, np.ndarray):
            assert (found == expected).all() and not found.flags.writeable
            others = {n for n in self.places_of_arrays if self.owed[n] and n != number}
            assert is_view == (2 * (len(others) + 1) <= SLOTS)
        elif expected == "ref":
            assert memory.get(found[0], 0) == number
        elif found is not None:
            assert found == expected
        if is_view:
            self.places_of_arrays.add(number)
        if is_view and keeps:
            self.kept[reader][number] = found
        else:
            self.owed[number].discard(reader)

    @rule(reader=st.integers(0, READERS - 1))
    def drop(self, reader: int) -> None:
        """The oldest array that it keeps."""
        for number in list(self.kept[reader])[:1]:
            array = self.kept[reader].pop(number)
            assert (array == number).all()
            self.owed[number].discard(reader)

    @rule(process=st.integers(1, 1 + READERS))
    def kill(self, process: int) -> None:
        self._end(process)
        if process >= 2:
            self.kept[process - 2].clear()  # what it kept stays owed
        self.memories[process] = attach(self.daemon)
        self.channels[process] = self._open(self.memories[process])

    def _end(self, process: int) -> None:
        memory = self.memories[process]
        memory.close()
        self.channels[process] = None
        self.daemon.repair(memory.index)
        self.daemon.close_process(memory.index)

    @precondition(lambda self: len(self.written) > 6)
    @rule(process=st.integers(0, 1 + READERS), has_reason=st.booleans())
    def close(self, process: int, has_reason: bool) -> None:
        self.channels[process].close(Failed() if has_reason else None)
        self.is_closed = True

    @invariant()
    def counts_are_exact(self) -> None:
        audit = self.daemon.audit()
        assert audit["wrong_counts"] == 0 and audit["leaked_blocks"] == 0
        for reader, number in enumerate(self.next):
            assert self.keeper.unread(reader) == len(self.written) - number

    def teardown(self) -> None:
        for kept in self.kept:
            kept.clear()
        self.keeper = None
        for process in range(2 + READERS):
            self._end(process)
        gc.collect()
        assert not any(self.daemon.audit().values())
        self.is_over = True
        os.eventfd_write(self.daemon.eventfd, 1)
        self.populator.join()
        self.daemon.close()
        # Others close theirs as they leave; a daemon's stay open, and hundreds are made here.
        os.close(self.daemon.fd)
        os.close(self.daemon.eventfd)


Channels.TestCase.settings = settings(
    max_examples=25, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestChannels = Channels.TestCase


def test_rights_of_the_dead_are_free_before_anybody_hears_of_the_death() -> None:
    """What the daemon tells of a death it tells after ``repair``, and before ``close_process``."""
    world = Channels()
    successor = world._open(world.memories[1])
    ended: list[BaseException] = []

    def read() -> None:
        try:
            world.channels[2].read(0, 30)
        except errors.ChannelClosedError as error:
            ended.append(error)

    reading = threading.Thread(target=read)
    reading.start()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            successor.read(0, 0)
        except RuntimeError:  # the other one has the right
            break
        except errors.ChannelTimeoutError:
            time.sleep(0.001)
    else:
        raise AssertionError("nobody reads")
    world.daemon.repair(world.memories[2].index)
    with pytest.raises(errors.ChannelTimeoutError):
        successor.read(0, 0)
    world.keeper.close(None)
    reading.join()
    assert len(ended) == 1
    del successor
    world.teardown()
