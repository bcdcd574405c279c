"""Shared blocks and channels between real processes, and what stays of them after deaths.

Blocks: words that wait and wake, buffers that all see, lives of blocks in values, the end of the
session, children of a fork. Channels: order, errors, capacity, timeouts, closing, refs in messages,
arrays that readers keep, writers and readers that are killed.
"""

from __future__ import annotations

import gc
import os
import pickle
import signal
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
            lambda: [o for o in shoal.state.objects() if o.size_bytes > 10_000] == [], 30, "freed"
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

    def follow(self, leader: Any, back: Any, n: int) -> list[set[int]]:
        """Echo, waiting where the leader says; on which cores this may run, before and after."""
        cores = [os.sched_getaffinity(0)]
        leader.follow(leader)
        back.follow(leader)
        self.echo(leader, back, n)
        return [*cores, os.sched_getaffinity(0)]

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


def test_a_view_outlives_the_session_and_may_still_be_written() -> None:
    block, channel = lowlevel.shared_block(5000), lowlevel.channel(200_000)
    array = np.frombuffer(block, np.int64)
    array[3] = 5
    channel.write(np.full(20_000, 7))
    kept = channel.read()
    assert is_view(kept)
    shoal.shutdown()
    array[4] = array[3] + 1
    assert array[3:5].tolist() == [5, 6] and kept.sum() == 140_000
    for use in (
        lambda: block.add(0, 1),
        lambda: channel.read(timeout_s=1),
        channel.close,
    ):
        with pytest.raises(errors.SessionEndedError):
            use()
    with pytest.raises(BufferError):
        memoryview(block)


def test_children_of_a_fork_see_what_the_parent_saw() -> None:
    block, channel = lowlevel.shared_block(5000), lowlevel.channel(200_000)
    array = np.frombuffer(block, np.int64)
    channel.write(np.full(20_000, 7))
    kept = channel.read()
    ready, goes_on = os.pipe()
    child = os.fork()
    if child == 0:  # must not return into pytest
        try:
            os.read(ready, 1)
            ok = kept.sum() == 140_000 and array[1] == 11
            array[2] = 12
            try:
                block.load(0)
            except errors.ForkedProcessError:
                os._exit(0 if ok else 1)
        finally:
            os._exit(2)
    array[1] = 11
    del kept  # the child looks at it: the slot stays taken until it has gone
    gc.collect()
    channel.write(1)
    with pytest.raises(errors.ChannelTimeoutError):
        channel.write(2, timeout_s=0.05)
    os.write(goes_on, b"x")
    assert os.waitpid(child, 0)[1] == 0 and array[2] == 12
    assert channel.read() == 1
    channel.write(np.zeros(1))
    channel.read()
    channel.write(2)
    channel.write(3, timeout_s=LONG_S)
    assert [channel.read(), channel.read()] == [2, 3]


def test_a_signal_ends_a_wait() -> None:
    block, channel = lowlevel.shared_block(8), lowlevel.channel(10)
    for wait in (lambda: block.wait(0, 0), channel.read):
        timer = threading.Timer(0.2, signal.raise_signal, [signal.SIGINT])
        with pytest.raises(KeyboardInterrupt):
            timer.start()  # in here: a busy machine may take longer than that to begin to wait
            wait()
        timer.join()
    channel.write(1)
    assert channel.read() == 1


def test_a_task_that_waits_lends_its_cpu_and_can_be_cancelled() -> None:
    shoal.shutdown()
    shoal.init(num_cpus=1)
    channel = lowlevel.channel(100)
    reader = shoal.remote(lambda channel: channel.read())
    writer = shoal.remote(lambda channel: channel.write(5))
    reading = reader.remote(channel)
    shoal.wait([reading], timeout=0.2)
    assert shoal.get([reading, writer.remote(channel)], timeout=LONG_S) == [5, None]
    reading = reader.remote(channel)
    shoal.wait([reading], timeout=0.2)
    shoal.cancel(reading)
    with pytest.raises(errors.TaskCancelledError):
        shoal.get(reading, timeout=LONG_S)
    channel.write(1)
    assert channel.read() == 1


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


def test_refs_in_messages_live_until_they_are_read() -> None:
    channel, block = lowlevel.channel(100_000, slots=1, readers=2), lowlevel.shared_block(8)
    value, array = shoal.put([1, 2, 3]), np.arange(5000)
    channel.write({"ref": value, "array": array, "block": block, "handle": peer()})
    del value
    gc.collect()
    before = lowlevel.memory().audit()["slots"]
    for reader in (0, 1):
        found = channel.read(reader)
        assert shoal.get(found["ref"]) == [1, 2, 3] and (found["array"] == array).all()
        assert shoal.get(found["handle"].add.remote(found["block"], 0, 3)) == 3
        del found
    gc.collect()
    eventually(lambda: lowlevel.memory().audit()["slots"] < before, 30, "the message is let go")
    assert block.load(0) == 6
    with pytest.raises(ValueError, match="itself"):
        channel.write([channel])
    unread = lowlevel.channel(1000)
    unread.write([shoal.put(np.ones(20_000))])
    del unread  # and what nobody has read with it


def test_kept_arrays_never_block_the_writer() -> None:
    channel, other = lowlevel.channel(10 << 20, slots=2), peer()
    keeping = other.keep.remote(channel, 4)
    for number in range(4):
        channel.write(np.full(10 << 17, float(number)), LONG_S)
    assert shoal.get(keeping) == [True, False, False, False]
    for number in range(4, 8):  # they are what they were, whatever is written meanwhile
        keeping = other.keep.remote(channel, 1)
        channel.write(np.full(10 << 17, float(number)), LONG_S)
        assert shoal.get(keeping) == [False]
    assert shoal.get(other.sums.remote()) == [float(n) * (10 << 17) for n in range(8)]
    shoal.get(other.drop.remote())
    keeping = other.keep.remote(channel, 1)
    channel.write(np.ones(10 << 17), LONG_S)
    assert shoal.get(keeping) == [True]


def test_readers_together_keep_half() -> None:
    channel = lowlevel.channel(100_000, slots=4, readers=2)
    kept: list[Any] = []
    for number in range(20):
        channel.write(np.full(10_000, number), LONG_S)
        kept += [channel.read(0), channel.read(1)]
        del kept[:: 7 if number % 3 else 100]
    for array in kept:
        assert len(set(array.tolist())) == 1


def test_readers_wait_where_the_leader_says_and_only_as_long_as_they_wait() -> None:
    there, back = (lowlevel.channel(100, slots=2) for _ in range(2))
    cores = os.sched_getaffinity(0)
    ways = [(True, False), (True, True), (False, False)]
    echoed = peer().follow.remote(there, back, 150 * len(ways))
    there.follow(there)
    back.follow(there)
    for is_alone, may_look in ways:
        for i in range(150):
            there.lead(is_alone, may_look)
            there.write(i, LONG_S)
            assert back.read(0, LONG_S) == i
        with pytest.raises(errors.ChannelTimeoutError):  # for so long nobody stays on one core
            back.read(0, 0.05)
        assert os.sched_getaffinity(0) == cores
    before, after = shoal.get(echoed, timeout=LONG_S)
    assert before == after == cores
    with pytest.raises(ValueError, match="follows one already"):
        back.follow(there)
    with pytest.raises(ValueError, match="the leader follows another"):
        lowlevel.channel(100, slots=1).follow(back)


def test_one_writes_and_one_reads_at_a_time() -> None:
    channel = lowlevel.channel(10)
    reading = threading.Thread(target=lambda: channel.read(timeout_s=LONG_S))
    reading.start()
    eventually(lambda: _is_busy(channel), 30, "the thread reads")
    channel.write(1)
    reading.join()
    channel.write(2)
    assert channel.read() == 2


def _is_busy(channel: Any) -> bool:
    try:
        channel.read(timeout_s=0)
    except RuntimeError as error:
        return "another thread" in str(error)
    except errors.ChannelTimeoutError:
        return False
    raise AssertionError("a message out of nothing")


@pytest.mark.parametrize("victim", ["writer", "reader"])
def test_a_death_leaves_whole_messages_and_closing_lets_the_other_out(victim: str) -> None:
    channel = lowlevel.channel(2 << 20, slots=3)
    writer, reader = peer(max_restarts=0), peer(max_restarts=0)
    pids = {"writer": shoal.get(writer.pid.remote()), "reader": shoal.get(reader.pid.remote())}
    arrays = [np.full(1 << 18, n) for n in range(30)]
    writing = writer.write.remote(channel, arrays)
    first = reader.keep.remote(channel, 3)
    reading = reader.keep.remote(channel, 30)
    assert len(shoal.get(first)) == 3
    os.kill(pids[victim], signal.SIGKILL)
    dead, alive = (writing, reading) if victim == "writer" else (reading, writing)
    with pytest.raises(errors.ActorDiedError):
        shoal.get(dead)
    if victim == "writer":
        shoal.wait([alive], timeout=0.2)
        channel.close(RuntimeError("its writer died"))
        with pytest.raises(errors.ChannelClosedError, match="its writer died"):
            shoal.get(alive)
        sums = shoal.get(reader.sums.remote())
        assert sums == [float(n << 18) for n in range(len(sums))]
    else:  # a successor goes on at the first message that the dead had not acknowledged
        first = channel.read(timeout_s=LONG_S)
        assert len(set(first[:: 1 << 10].tolist())) == 1
        channel.close()
        with pytest.raises(errors.ChannelClosedError):
            shoal.get(alive)
