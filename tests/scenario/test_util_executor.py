"""What the standard library documents of `concurrent.futures`, for its executor and for ours."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import gc
import itertools
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, as_completed, wait
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal import errors, lowlevel
from shoal.util.executor import BrokenCrewError, PoolExecutor, WorkerLostError
from tests.torture.processes import eventually


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    with shoal.init(num_cpus=2):
        with PoolExecutor(1) as executor:
            executor.submit(abs, 1).result()  # what the session keeps of functions is there
        yield


@pytest.fixture(autouse=True)
def _end_session() -> None:
    """One session serves the file."""


@pytest.fixture(autouse=True)
def _nothing_is_left(session: None) -> Iterator[None]:
    before = left()
    yield
    gc.collect()
    eventually(lambda: left() <= before, 30, "the story leaves values")


def left() -> tuple[int, int]:
    audit = lowlevel.memory().audit()
    assert audit["leaked_blocks"] == audit["wrong_counts"] == 0
    return audit["bytes"], audit["specs"]


def add(x: int, y: int = 1) -> int:
    return x + y


def fail(x: int) -> None:
    raise KeyError(x)


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


_state: list[Any] = []


def remember(*words: Any) -> None:
    _state.append(words)


def recall(_: Any) -> Any:
    return str(_state)


def refuse() -> None:
    raise OSError("no disk")


def process(_: Any) -> int:
    return os.getpid()


def story_submit(make: Callable[..., Any]) -> Any:
    with make(max_workers=2) as executor:
        future = executor.submit(add, 1, y=2)
        return future.result(timeout=60), future.done(), future.cancelled(), future.exception()


def story_exceptions(make: Callable[..., Any]) -> Any:
    with make(2) as executor:
        future = executor.submit(fail, 5)
        error = future.exception(60)
        with pytest.raises(KeyError) as raised:
            future.result()
        with pytest.raises(TypeError):
            executor.submit(add, 1, 2, 3).result(60)
        assert raised.value is error and "fail" in str(error.__cause__)
        return type(error), error.args


def story_map(make: Callable[..., Any]) -> Any:
    with make(2) as executor:
        ends = executor.map(fail, [1, 2])
        with pytest.raises(KeyError, match="1"):
            next(ends)
        with pytest.raises(StopIteration):
            next(ends)
        with pytest.raises(ValueError):
            executor.map(add, [1], chunksize=0)
        return [
            list(executor.map(add, range(5))),
            list(executor.map(add, range(5), [10, 20, 30])),
            list(executor.map(add, iter(range(7)), chunksize=3)),
            list(executor.map(add, [])),
        ]


def story_map_timeout(make: Callable[..., Any]) -> Any:
    with make(1) as executor:
        results = executor.map(nap, [0.0, 1.0], timeout=0.5)
        with pytest.raises(TimeoutError):
            list(results)
        with pytest.raises(TimeoutError):
            executor.submit(nap, 0.5).result(timeout=0.01)
    return "timed out twice"


def story_waiting(make: Callable[..., Any]) -> Any:
    with make(2) as executor:
        futures = [executor.submit(add, i) for i in range(5)]
        values = sorted(future.result() for future in as_completed(futures, timeout=60))
        slow = executor.submit(nap, 1.5)
        first = wait([slow, executor.submit(add, 7)], return_when=FIRST_COMPLETED, timeout=60)
        done = wait(futures)
        return values, {future.result() for future in first.done - {slow}}, len(done.not_done)


def story_callbacks(make: Callable[..., Any]) -> Any:
    seen: list[Any] = []
    with make(1) as executor:
        future = executor.submit(add, 1)
        future.add_done_callback(lambda future: seen.append(future.result()))
        future.result(60)
    future.add_done_callback(lambda future: seen.append("at once"))
    return seen


def story_cancel(make: Callable[..., Any]) -> Any:
    with make(1) as executor:
        futures = [executor.submit(nap, 0.2) for _ in range(12)]
        cancelled = futures[-1].cancel()
        with pytest.raises(CancelledError):
            futures[-1].result()
        executor.shutdown(wait=True, cancel_futures=True)
        ends = [future.done() for future in futures]
        assert not futures[0].cancelled() and sum(f.cancelled() for f in futures) > 6
        return cancelled, all(ends)


def story_shutdown(make: Callable[..., Any]) -> Any:
    executor = make(2)
    futures = [executor.submit(add, i) for i in range(6)]
    executor.shutdown()
    with pytest.raises(RuntimeError, match="shutdown"):
        executor.submit(add, 1)
    with pytest.raises(RuntimeError, match="shutdown"):
        executor.map(add, [1])
    executor.shutdown()
    return [future.result(0) for future in futures]


def story_initializer(make: Callable[..., Any]) -> Any:
    with make(2, initializer=remember, initargs=("once",)) as executor:
        told = set(executor.map(recall, range(10)))
    with make(1, initializer=refuse) as broken:
        with pytest.raises(BrokenExecutor):
            broken.submit(add, 1).result(60)
        with pytest.raises(BrokenExecutor):
            broken.submit(add, 1).result(60)
    return told


def story_deaths(make: Callable[..., Any]) -> Any:
    with make(1) as executor:
        with pytest.raises(concurrent.futures.process.BrokenProcessPool):
            executor.submit(os._exit, 1).result(60)
    return "broken"


def story_asyncio(make: Callable[..., Any]) -> Any:
    async def main() -> Any:
        loop = asyncio.get_running_loop()
        with make(2) as executor:
            calls = [loop.run_in_executor(executor, add, i) for i in range(4)]
            wrapped = asyncio.wrap_future(executor.submit(add, 10))
            return await asyncio.gather(*calls, wrapped)

    return asyncio.run(main())


def story_left_alone(make: Callable[..., Any]) -> Any:
    """The end of the `with` waits for everything, whether its results are taken or not."""
    read = []

    def items() -> Iterator[int]:
        for i in range(40):
            read.append(i)
            yield i

    with make(2) as executor:
        executor.map(add, items())
        executor.map(add, [1, 2])
    return read


def story_arguments(make: Callable[..., Any]) -> Any:
    for wrong in ({"max_workers": 0}, {"max_workers": 1, "max_tasks_per_child": 0}):
        with pytest.raises(ValueError):
            make(**wrong)
    with pytest.raises(TypeError):
        make(1, initializer="no function")
    return "refused"


STORIES = [value for name, value in sorted(globals().items()) if name.startswith("story_")]


def standard(*args: Any, **kwargs: Any) -> Any:
    # Forked from a program with threads, as users do; a child of its own start would cost 100 ms.
    fork = multiprocessing.get_context(None if "max_tasks_per_child" in kwargs else "fork")
    return concurrent.futures.ProcessPoolExecutor(*args, mp_context=fork, **kwargs)


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__[6:])
def test_as_the_standard_library(story: Callable[..., Any]) -> None:
    assert story(PoolExecutor) == story(standard)


# ---- where ours is meant to be better


def test_after_a_death_the_executor_goes_on() -> None:
    with PoolExecutor(2) as executor:
        lost = executor.submit(os._exit, 3)
        others = [executor.submit(add, i) for i in range(10)]
        with pytest.raises(WorkerLostError, match="exit code 3"):
            lost.result(60)
        assert [future.result(60) for future in others] == list(range(1, 11))


def test_a_map_of_endless_input_reads_a_little_ahead() -> None:
    read = itertools.count()
    with PoolExecutor(2) as executor:
        results = executor.map(add, (next(read) for _ in itertools.count()))
        assert list(itertools.islice(results, 10)) == list(range(1, 11))
        del results
    assert next(read) < 2000


def test_a_broken_initializer_is_named() -> None:
    with PoolExecutor(1, initializer=refuse) as executor:
        with pytest.raises(BrokenCrewError, match="no disk") as raised:
            executor.submit(add, 1).result(60)
        assert isinstance(raised.value.__cause__, OSError)


def test_processes_are_replaced_after_so_many_calls() -> None:
    with PoolExecutor(1, max_tasks_per_child=2) as executor:
        pids = list(executor.map(process, range(6)))
    assert [len(list(group)) for _, group in itertools.groupby(pids)] == [2, 2, 2]


def test_no_thread_per_future_and_none_when_idle() -> None:
    with PoolExecutor(2) as executor:
        futures = [executor.submit(add, i) for i in range(200)]
        names = [thread.name for thread in threading.enumerate()]
        assert names.count("shoal-crew") <= 1 and len(names) < 10
        assert sum(future.result(60) for future in futures) == sum(range(1, 201))
        eventually(
            lambda: "shoal-crew" not in [thread.name for thread in threading.enumerate()],
            20,
            "an idle executor keeps its thread",
        )
        assert executor.submit(add, 1).result(60) == 2


def test_values_that_do_not_travel() -> None:
    with PoolExecutor(1) as executor:
        with pytest.raises(errors.SerializationError, match="lock"):
            executor.submit(add, threading.Lock()).result(60)
        with pytest.raises(errors.SerializationError, match="lock"):
            executor.submit(functools.partial(add, threading.Lock())).result(60)
        with pytest.raises(errors.NotSupportedError):
            shoal.put(executor)
        assert executor.submit(add, 1).result(60) == 2


def test_a_program_that_ends_waits_for_its_calls(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import shoal\n"
        "from shoal.util.executor import PoolExecutor\n"
        "shoal.init(num_cpus=1)\n"
        "for i in range(3):\n"
        "    executor = PoolExecutor(1)\n"
        "    executor.submit(lambda i=i: open(\n"
        f"        {str(tmp_path)!r} + f'/done{{i}}', 'w').close())\n"
    )
    subprocess.run([sys.executable, str(program)], timeout=60, check=True)
    assert {f"done{i}" for i in range(3)} <= {path.name for path in tmp_path.iterdir()}
