"""Shared blocks and channels between real processes, and what stays of them after deaths.

Blocks: words that wait and wake, buffers that all see, lives of blocks in values, the end of the
session, children of a fork. Channels: order, errors, capacity, timeouts, closing, refs in messages,
arrays that readers keep, writers and readers that are killed.
"""

from __future__ import annotations

import gc
import os
import pickle
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import shoal
from shoal import errors, lowlevel
from tests.torture.processes import eventually

LONG_S = 60.0


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """A session of two CPUs; in the end nothing of blocks, channels and messages is left in it."""
    shoal.init(num_cpus=2)
    yield
    gc.collect()
    memory = lowlevel.memory()
    if not memory.is_closed:
        large = eventually(
            lambda: [o for o in shoal.state.objects() if o.size_bytes > 10_000] == [], 10, "freed"
        )
        assert large and memory.audit()["wrong_counts"] == 0


class Peer:
    """The other side of whatever a test does."""

    def __init__(self) -> None:
        self.kept: list[Any] = []

    def pid(self) -> int:
        return os.getpid()

    def echo(self, there: Any, back: Any, n: int) -> int:
        for _ in range(n):
            back.write(there.read(timeout_s=LONG_S), LONG_S)
        return n

    def write(self, channel: Any, values: list[Any]) -> int:
        for value in values:
            channel.write(value, LONG_S)
        return len(values)

    def read(self, channel: Any, n: int, reader: int = 0) -> list[Any]:
        return [channel.read(reader, LONG_S) for _ in range(n)]

    def keep(self, channel: Any, n: int) -> list[bool]:
        """Read arrays and keep them; which of them are views of a slot."""
        begin = len(self.kept)
        self.kept += [channel.read(0, LONG_S) for _ in range(n)]
        return [is_view(array) for array in self.kept[begin:]]

    def sums(self) -> list[float]:
        return [float(array.sum()) for array in self.kept]

    def drop(self) -> None:
        self.kept.clear()

    def wait(self, block: Any, index: int, old: int) -> int:
        return int(block.wait(index, old, LONG_S))

    def add(self, block: Any, index: int, n: int) -> int:
        for _ in range(n):
            block.add(index, 1)
        return n


def is_view(array: Any) -> bool:
    """Does it stand in node memory? Copies stand in `bytes`."""
    base = array
    while getattr(base, "base", None) is not None:
        base = base.base
    return not isinstance(base, bytes)


def peer(**options: Any) -> Any:
    return shoal.remote(num_cpus=0, **options)(Peer).remote()


# ---- shared blocks


def test_a_block_is_one_memory_for_all() -> None:
    block = lowlevel.shared_block(1000)
    assert block.nbytes == 1000 and bytes(memoryview(block)) == bytes(1000)
    other = peer()
    calls = [other.add.remote(block, 3, 1000), peer().add.remote(block, 3, 1000)]
    assert shoal.get(calls) == [1000, 1000] and block.load(3) == 2000
    array = np.frombuffer(block, np.int64, 100)
    array[7] = -5
    assert block.load(7) == -5 and array.flags.writeable
    assert block.compare_swap(7, -5, 2**63 - 1) and not block.compare_swap(7, -5, 1)
    assert block.add(7, 1) == -(2**63)
    assert shoal.get(block.ref)[56:64] == (2**63).to_bytes(8, "little")
    for index in (-1, 125, 2**40):
        with pytest.raises(IndexError):
            block.load(index)
    with pytest.raises(errors.OptionError):
        lowlevel.shared_block(-1)
    with pytest.raises(errors.ObjectStoreFullError):
        lowlevel.shared_block(2**45)


def test_a_wait_ends_with_the_change() -> None:
    block = lowlevel.shared_block(64)
    assert block.wait(0, 1) == 0
    assert block.wait(0, 0, timeout_s=0.01) == 0
    waits = [peer().wait.remote(block, 0, 0) for _ in range(2)]
    shoal.wait(waits, timeout=0.2)
    block.store(0, 4)
    assert shoal.get(waits) == [4, 4]


# ---- channels


def test_values_of_every_kind_arrive_in_order() -> None:
    there, back = lowlevel.channel(100_000), lowlevel.channel(100_000, slots=5)
    values = [
        None, True, False, 0, -(2**63), 2**70, 1.5, "text", "ü" * 200, b"", b"b" * 99_000,
        [1, {"a": (2,)}], np.arange(10), {"array": np.arange(10_000), "two": np.ones(5)}, ...,
    ]  # fmt: skip
    other = peer()
    done = other.echo.remote(there, back, len(values))
    for value in values:
        there.write(value)
        found = back.read(timeout_s=LONG_S)
        assert pickle.dumps(found) == pickle.dumps(value)
    assert shoal.get(done) == len(values) and back.unread() == 0


def test_what_cannot_be_sent_is_refused_and_leaves_the_channel_usable() -> None:
    channel = lowlevel.channel(1000)
    with pytest.raises(errors.MessageTooLargeError) as large:
        channel.write(np.zeros(1000))
    assert isinstance(large.value, ValueError) and large.value.capacity_bytes == 1000
    assert large.value.size_bytes > 8000
    with pytest.raises(errors.SerializationError):
        channel.write(threading.Lock())
    with pytest.raises(errors.ChannelTimeoutError) as late:
        channel.read(timeout_s=0.01)
    assert isinstance(late.value, errors.GetTimeoutError) and isinstance(late.value, TimeoutError)
    channel.write(1)
    channel.write(2)
    with pytest.raises(errors.ChannelTimeoutError):
        channel.write(3, timeout_s=0.01)
    assert [channel.read(), channel.read()] == [1, 2]
    with pytest.raises(IndexError):
        channel.read(reader=1, timeout_s=0)
    for wrong in ({"slots": 0}, {"slots": 65}, {"readers": 0}, {"readers": 65}, {"slots": True}):
        with pytest.raises(errors.OptionError):
            lowlevel.channel(10, **wrong)


def test_errors_travel_and_closing_lets_everybody_out() -> None:
    channel = lowlevel.channel(5000, readers=2)
    other = peer()
    channel.write_error(KeyError("k"))
    for reader in (0, 1):
        with pytest.raises(KeyError) as wrong:
            channel.read(reader)
        assert isinstance(wrong.value, errors.TaskError)
    waiting = other.read.remote(channel, 1, 1)
    shoal.wait([waiting], timeout=0.2)
    channel.close(ValueError("enough"))
    with pytest.raises(errors.ChannelClosedError) as closed:
        shoal.get(waiting)
    assert "enough" in str(closed.value)
    with pytest.raises(errors.ChannelClosedError) as closed:
        channel.write(1)
    assert isinstance(closed.value.cause, ValueError)
    channel.close()
    assert channel.is_closed

    full = lowlevel.channel(1000, slots=1)
    full.write("last")
    blocked = other.write.remote(full, [1])
    shoal.wait([blocked], timeout=0.2)
    full.close()
    with pytest.raises(errors.ChannelClosedError):
        shoal.get(blocked)
    assert full.read() == "last"
    with pytest.raises(errors.ChannelClosedError):
        full.read()
