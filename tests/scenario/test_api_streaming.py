"""Streaming generators: order, back-pressure, errors in the middle, deaths, consumers that go."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from shoal import errors
from shoal._runtime import session as sessions
from tests.torture.processes import eventually


@shoal.remote
def count(n: int) -> Iterator[int]:
    yield from range(n)


def numbers(path: Path) -> list[int]:
    """What generators below have written down."""
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def note(path: Path, number: int) -> None:
    with path.open("a") as file:
        file.write(f"{number}\n")


def test_a_generator_function_streams_by_itself() -> None:
    refs = list(count.remote(4))
    assert all(isinstance(ref, shoal.ObjectRef) for ref in refs)
    assert shoal.get(refs) == [0, 1, 2, 3]
    assert list(count.remote(0)) == []
    assert list(count(3)) == [0, 1, 2], "called here it is the plain generator"


def test_values_of_every_kind() -> None:
    @shoal.remote
    def several() -> Iterator[Any]:
        yield None
        yield "x" * 1000
        yield np.arange(100_000)
        yield shoal.put(5)
        yield [shoal.put(6)]

    nothing, text, array, ref, refs = (shoal.get(r) for r in several.remote())
    assert nothing is None and text == "x" * 1000
    assert array.sum() == 4_999_950_000 and not array.flags.writeable
    assert shoal.get(ref) == 5 and shoal.get(refs) == [6]


def test_an_item_is_there_while_the_task_still_runs(tmp_path: Path) -> None:
    @shoal.remote
    def waits(path: Path) -> Iterator[str]:
        yield "first"
        while not path.exists():
            time.sleep(0.01)
        yield "second"

    go_on = tmp_path / "go"
    stream = waits.remote(go_on)
    assert shoal.get(next(stream)) == "first"
    assert not stream.next_ready() and not stream.is_finished()
    with pytest.raises(errors.GetTimeoutError):
        stream._next_sync(timeout_s=0.05)
    go_on.touch()
    assert shoal.get(next(stream)) == "second"
    with pytest.raises(StopIteration):
        next(stream)
    assert stream.is_finished() and stream.next_ready()
    assert stream.completed().is_sealed()


def test_the_generator_pauses_while_too_much_waits(tmp_path: Path) -> None:
    @shoal.remote(_generator_backpressure_num_objects=2)
    def noting(path: Path) -> Iterator[int]:
        for i in range(6):
            note(path, i)
            yield i

    path = tmp_path / "made"
    stream = noting.remote(path)
    eventually(lambda: len(numbers(path)) == 2, 30, "two items are made")
    for taken in range(1, 4):
        assert shoal.get(next(stream)) == taken - 1
        eventually(lambda taken=taken: len(numbers(path)) == 2 + taken, 30, "room for one more")
    assert shoal.get(list(stream)) == [3, 4, 5]


def test_an_error_is_the_last_item() -> None:
    @shoal.remote
    def breaks() -> Iterator[int]:
        yield 1
        raise ValueError("in the middle")

    first, second = breaks.remote()
    assert shoal.get(first) == 1
    with pytest.raises(ValueError, match="in the middle") as caught:
        shoal.get(second)
    assert "breaks" in caught.value.remote_traceback  # type: ignore[attr-defined]


def test_a_retry_goes_on_where_the_dead_one_was(tmp_path: Path) -> None:
    @shoal.remote(max_retries=2)
    def dies(path: Path) -> Iterator[tuple[int, int]]:
        for i in range(5):
            if i == 3 and len(numbers(path)) < 2:
                note(path, os.getpid())
                os._exit(1)
            yield i, os.getpid()

    pids = tmp_path / "pids"
    items = shoal.get(list(dies.remote(pids)))
    assert [i for i, _ in items] == [0, 1, 2, 3, 4]
    dead = numbers(pids)
    assert {pid for _, pid in items[:3]} == {dead[0]}
    assert not {pid for _, pid in items[3:]} & set(dead)


def test_a_death_without_retries_is_the_last_item() -> None:
    @shoal.remote(max_retries=0)
    def dies() -> Iterator[int]:
        yield 1
        os.kill(os.getpid(), signal.SIGKILL)

    first, second = dies.remote()
    assert shoal.get(first) == 1
    with pytest.raises(errors.WorkerCrashedError):
        shoal.get(second)


def test_exceptions_are_retried_from_the_first_item_that_is_missing(tmp_path: Path) -> None:
    @shoal.remote(retry_exceptions=True, max_retries=2)
    def flaky(path: Path) -> Iterator[int]:
        note(path, 0)
        yield 10
        if len(numbers(path)) < 3:
            raise OSError("once more")
        yield 20

    path = tmp_path / "attempts"
    assert shoal.get(list(flaky.remote(path))) == [10, 20]
    assert len(numbers(path)) == 3


def test_items_nobody_has_seen_are_freed_with_the_generator() -> None:
    @shoal.remote
    def arrays() -> Iterator[Any]:
        for _ in range(20):
            yield np.zeros(100_000)

    stream = arrays.remote()
    shoal.get(stream.completed())
    memory = sessions.current().memory
    shoal.get(next(stream))
    assert memory.usage()[0] > 15 * 800_000
    del stream
    eventually(lambda: memory.usage()[0] < 2_000_000, 30, "the arrays are freed")


def test_items_that_were_seen_and_dropped_are_freed_while_it_runs() -> None:
    @shoal.remote(_generator_backpressure_num_objects=2)
    def arrays() -> Iterator[Any]:
        for _ in range(40):
            yield np.zeros(1_000_000)

    memory = sessions.current().memory if shoal.is_initialized() else None
    most = 0
    for ref in arrays.remote():
        assert shoal.get(ref).size == 1_000_000
        memory = memory or sessions.current().memory
        most = max(most, memory.usage()[0])
    assert most < 64 << 20, f"{most:,} bytes of 320 MB were there at once"


def test_async_iteration() -> None:
    @shoal.remote
    async def ticks(n: int) -> AsyncIterator[int]:
        for i in range(n):
            await asyncio.sleep(0.001)
            yield i

    async def take(stream: Any) -> list[Any]:
        return [await ref async for ref in stream]

    async def main() -> list[list[Any]]:
        return await asyncio.gather(*[take(f.remote(3)) for f in (ticks, count, ticks)])

    assert asyncio.run(main()) == [[0, 1, 2]] * 3


def test_methods_of_actors_stream() -> None:
    @shoal.remote
    class Store:
        def __init__(self) -> None:
            self.calls = 0

        def items(self, n: int) -> Iterator[int]:
            self.calls += 1
            for i in range(n):
                yield i * i

        @shoal.method(num_returns="streaming")
        def made(self) -> Iterator[int]:
            return (i for i in range(self.calls))

    store = Store.remote()
    assert shoal.get(list(store.items.remote(4))) == [0, 1, 4, 9]
    assert shoal.get(list(store.made.remote())) == [0]
    with pytest.raises(ValueError, match="as for a generator"):
        shoal.get(list(store.__ray_ready__.options(num_returns="streaming").remote()))


def test_dynamic_returns() -> None:
    with pytest.warns(DeprecationWarning, match="streaming"):
        dynamic = count.options(num_returns="dynamic")
    refs = shoal.get(dynamic.remote(3))
    assert isinstance(refs, shoal.DynamicObjectRefGenerator) and len(refs) == 3
    assert shoal.get(list(refs)) == [0, 1, 2]

    @shoal.remote
    def breaks() -> Iterator[int]:
        yield 1
        raise KeyError("gone")

    with pytest.warns(DeprecationWarning):
        first, second = shoal.get(breaks.options(num_returns="dynamic").remote())
    assert shoal.get(first) == 1
    with pytest.raises(KeyError):
        shoal.get(second)


def test_a_dynamic_generator_is_tried_again_as_every_task(tmp_path: Path) -> None:
    attempts = tmp_path / "attempts"

    @shoal.remote(max_retries=1, retry_exceptions=[ConnectionError])
    def breaks(kind: type[Exception], heals: bool) -> Iterator[int]:
        note(attempts, attempt := shoal.get_runtime_context().attempt)
        yield attempt
        if attempt == 1 or not heals:
            raise kind("gone")

    with pytest.warns(DeprecationWarning):
        dynamic = breaks.options(num_returns="dynamic")
    assert shoal.get(list(shoal.get(dynamic.remote(ConnectionError, True)))) == [2]
    assert numbers(attempts) == [1, 2]
    first, second = shoal.get(dynamic.remote(ConnectionError, False))
    assert shoal.get(first) == 2  # the last attempt's items, and what ended it
    with pytest.raises(ConnectionError):
        shoal.get(second)
    first, second = shoal.get(dynamic.remote(KeyError, True))
    assert shoal.get(first) == 1
    with pytest.raises(KeyError):
        shoal.get(second)


def test_an_asynchronous_dynamic_generator_keeps_what_came_before_its_error() -> None:
    @shoal.remote
    async def breaks() -> AsyncIterator[int]:
        yield 1
        raise KeyError("gone")

    with pytest.warns(DeprecationWarning):
        first, second = shoal.get(breaks.options(num_returns="dynamic").remote())
    assert shoal.get(first) == 1
    with pytest.raises(KeyError):
        shoal.get(second)


def test_a_fixed_number_of_returns_from_a_generator() -> None:
    three = count.options(num_returns=3)
    assert shoal.get(three.remote(3)) == [0, 1, 2]
    first, _, third = three.remote(2)
    assert shoal.get(first) == 0
    with pytest.raises(ValueError, match="yielded 2 values"):
        shoal.get(third)
    with pytest.raises(ValueError, match="more values"):
        shoal.get(three.remote(4))
    with pytest.raises(TypeError, match="has one return"):
        shoal.get(count.options(num_returns=1).remote(2))
    assert shoal.get(list(count.options(num_returns=None).remote(2))) == [0, 1]


def test_wait_takes_generators_and_refs_together(tmp_path: Path) -> None:
    @shoal.remote
    def waits(path: Path) -> Iterator[int]:
        while not path.exists():
            time.sleep(0.01)
        yield 1

    go_on = tmp_path / "go"
    slow, quick, ref = waits.remote(go_on), count.remote(1), shoal.put(1)
    assert shoal.wait([slow, quick, ref], num_returns=2) == ([quick, ref], [slow])
    assert shoal.wait([slow], timeout=0.05) == ([], [slow])
    go_on.touch()
    assert shoal.wait([slow], timeout=30) == ([slow], [])
    assert shoal.get(slow) is slow
    with pytest.raises(errors.NotARefError):
        shoal.wait([slow, 5])


def test_a_generator_stays_in_its_process() -> None:
    stream = count.remote(2)
    with pytest.raises(TypeError, match="can not be passed on"):
        pickle.dumps(stream)
    with pytest.raises(TypeError, match="can not be passed on"):
        shoal.put([stream])


def test_a_stream_that_can_never_run_says_why() -> None:
    stream = count.options(resources={"nothing has this": 1}).remote(2)
    (ref,) = stream
    with pytest.raises(errors.UnschedulableError):
        shoal.get(ref)


def test_nested_streams_with_one_cpu() -> None:
    shoal.init(num_cpus=1)

    @shoal.remote
    def outer(n: int) -> Iterator[int]:
        for ref in count.remote(n):
            yield shoal.get(ref) + 1

    assert shoal.get(list(outer.remote(3))) == [1, 2, 3]


def test_many_items_leave_nothing() -> None:
    assert sum(1 for _ in count.remote(5_000)) == 5_000
    memory = sessions.current().memory

    def few() -> bool:
        return memory.audit()["slots"] < 20

    eventually(few, 30, "cells and items are freed")
    audit = memory.audit()
    assert audit["wrong_counts"] == 0 and audit["leaked_blocks"] == 0
