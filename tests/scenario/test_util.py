"""Queues and pools of actors under our own names; their stories are told in `tests/parity`."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal.util import ActorPool
from shoal.util.executor import PoolExecutor
from shoal.util.multiprocessing import Pool
from shoal.util.queue import Empty, Full, Queue


@pytest.fixture(autouse=True)
def session() -> Iterator[None]:
    with shoal.init(num_cpus=2):
        yield


@shoal.remote
class Doubler:
    def double(self, x: int) -> int:
        return 2 * x

    def die_at(self, x: int, moment: int) -> int:
        if x == moment:
            os._exit(1)
        return x


def test_a_named_queue_is_shared() -> None:
    queue: Queue = Queue(actor_options={"name": "jobs"})
    queue.put({"n": 1})
    same = shoal.get(shoal.put(queue))
    assert same.get() == {"n": 1}
    assert shoal.get(shoal.get_actor("jobs").size.remote()) == 0


def test_errors_of_a_queue_are_plain() -> None:
    queue = Queue(maxsize=1)
    with pytest.raises(Empty) as empty:
        queue.get_nowait()
    queue.put(1)
    with pytest.raises(Full) as full:
        queue.put_nowait_batch([2])
    for error in (empty.value, full.value):
        assert not isinstance(error, shoal.errors.TaskError)
        assert error.__cause__ is None
    with pytest.raises(TypeError, match="several items"):
        queue.put_nowait_batch("text")
    with pytest.raises(ValueError, match="negative"):
        queue.get_nowait_batch(-1)
    with pytest.raises(TypeError, match="integer"):
        queue.get_nowait_batch("1")  # type: ignore[arg-type]


def test_who_gives_up_takes_nothing_along() -> None:
    async def main() -> list[int]:
        queue = Queue()
        for _ in range(20):
            with pytest.raises(Empty):
                await queue.get_async(timeout=0.001)
        await queue.put_async(1)
        return [await queue.get_async(timeout=10)]

    assert asyncio.run(main()) == [1]


def test_graceful_end_of_a_queue() -> None:
    queue = Queue()
    queue.put(1)
    queue.shutdown()
    with pytest.raises(shoal.errors.ActorDiedError):
        queue.size()


def test_results_of_a_pool_in_two_ways() -> None:
    pool = ActorPool([Doubler.remote(), Doubler.remote()])
    for i in range(4):
        pool.submit(lambda actor, x: actor.double.remote(x), i)
    first = pool.get_next_unordered()
    rest = [pool.get_next() for _ in range(3)]
    assert sorted([first, *rest]) == [0, 2, 4, 6]
    assert not pool.has_next()


def test_a_new_map_forgets_old_results() -> None:
    pool = ActorPool([Doubler.remote()])
    double = lambda actor, x: actor.double.remote(x)  # noqa: E731
    pool.submit(double, 100)
    assert list(pool.map(double, [1, 2])) == [2, 4]
    assert sorted(pool.map_unordered(double, [3])) == [6]


# ---- bad input and what dies


def test_everybody_at_a_queue_whose_actor_dies_is_told() -> None:
    queue = Queue(maxsize=1)
    queue.put("first")
    told: list[BaseException] = []

    def wait_to_put() -> None:
        try:
            queue.put("second")
        except shoal.errors.ActorDiedError as error:
            told.append(error)

    async def wait_to_take(empty: Queue) -> None:
        taking = asyncio.create_task(empty.get_async())
        await asyncio.sleep(0)
        await empty.put_async("one")
        assert await taking == "one"
        taking = asyncio.create_task(empty.get_async())
        await asyncio.sleep(0)
        assert await asyncio.to_thread(empty.size) == 0
        shoal.kill(empty.actor)
        with pytest.raises(shoal.errors.ActorDiedError, match="kill"):
            await taking

    putting = threading.Thread(target=wait_to_put)
    putting.start()
    asyncio.run(wait_to_take(Queue()))
    shoal.kill(queue.actor)
    putting.join(60)
    assert len(told) == 1 and "QueueHolder" in str(told[0])
    for use in (
        queue.size,
        queue.get,
        queue.get_nowait,
        queue.full,
        lambda: queue.put(1, timeout=1),
    ):
        with pytest.raises(shoal.errors.ActorDiedError):
            use()
    queue.shutdown()


def test_items_that_do_not_travel_are_not_put() -> None:
    queue = Queue(maxsize=2)
    for put in (queue.put, queue.put_nowait, lambda item: queue.put_nowait_batch([1, item])):
        with pytest.raises(shoal.errors.SerializationError, match="lock"):
            put(threading.Lock())
    with pytest.raises(shoal.errors.SerializationError, match="lock"):
        asyncio.run(queue.put_async(threading.Lock()))
    assert queue.empty()


def test_producers_and_consumers_share_each_item_once() -> None:
    queue = Queue(maxsize=3)

    @shoal.remote(num_cpus=0.25)
    def produce(first: int) -> None:
        for i in range(first, first + 20):
            queue.put(i, timeout=60)

    @shoal.remote(num_cpus=0.25)
    def consume() -> list[int]:
        return [queue.get(timeout=60) for _ in range(20)]

    made = [produce.remote(first) for first in (0, 100, 200)]
    taken = [consume.remote() for _ in range(3)]
    shoal.get(made, timeout=60)
    lists = shoal.get(taken, timeout=60)
    assert sorted(x for part in lists for x in part) == [
        first + i for first in (0, 100, 200) for i in range(20)
    ]
    for part in lists:  # of each producer, in its order
        for first in (0, 100, 200):
            own = [x for x in part if first <= x < first + 20]
            assert own == sorted(own)


def test_pools_whose_session_ends_say_so() -> None:
    pool, executor = Pool(2), PoolExecutor(1)
    calls = [pool.apply_async(time.sleep, (60,)) for _ in range(4)]
    futures = [executor.submit(time.sleep, 60) for _ in range(3)]
    endless = pool.imap(time.sleep, itertools.repeat(60))
    shoal.shutdown()
    takes: list[Any] = [calls[0].get, calls[3].get, futures[0].result, futures[2].result]
    takes += [endless.next, lambda: pool.map(abs, [1]), lambda: executor.submit(abs, 1).result()]
    for take in takes:
        with pytest.raises(shoal.errors.SessionEndedError):
            take()
    pool.close()
    pool.join()
    executor.shutdown()


def test_an_interrupt_ends_the_wait_and_the_pool(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import os, signal, threading, time\n"
        "from shoal.util.multiprocessing import Pool\n"
        "began, caught = threading.Event(), threading.Event()\n"
        "def items():\n"
        "    yield 60\n"
        "    began.set()\n"
        "    yield 60\n"
        "def interrupt():\n"
        "    began.wait()\n"
        "    while not caught.wait(2):  # one that comes just before a wait is seen after it\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "threading.Thread(target=interrupt).start()\n"
        "try:\n"
        "    with Pool(2) as pool:\n"
        "        list(pool.imap(time.sleep, items()))\n"
        "except KeyboardInterrupt:\n"
        "    caught.set()\n"
        "    print('interrupted')\n"
    )
    result = subprocess.run(
        [sys.executable, str(program)], timeout=50, check=True, capture_output=True, text=True
    )
    assert result.stdout.split() == ["interrupted"]


def die_at(moment: int) -> Any:
    return lambda actor, x: actor.die_at.remote(x, moment)


def test_an_actor_that_dies_leaves_the_pool_with_its_item() -> None:
    pool = ActorPool([Doubler.remote(), Doubler.remote()])
    for i in range(6):
        pool.submit(die_at(2), i)
    taken: list[Any] = []
    while pool.has_next():
        try:
            taken.append(pool.get_next())
        except shoal.errors.ActorDiedError:
            taken.append("died")
    assert taken == [0, 1, "died", 3, 4, 5]
    assert pool.pop_idle() is not None and pool.pop_idle() is None


def test_a_pool_without_actors_says_so_and_takes_another() -> None:
    pool = ActorPool([Doubler.remote()])
    for i in range(4):
        pool.submit(die_at(0), i)
    for match in ("its process died", "none is left"):
        with pytest.raises(shoal.errors.ActorDiedError, match=match):
            pool.get_next_unordered()
    pool.push(Doubler.remote())
    assert [pool.get_next(), pool.get_next()] == [2, 3]
    assert not pool.has_next()


def test_an_item_that_does_not_travel_is_its_own_error() -> None:
    double = lambda actor, x: actor.double.remote(x)  # noqa: E731
    pool = ActorPool([Doubler.remote()])
    with pytest.raises(shoal.errors.SerializationError):
        pool.submit(double, threading.Lock())
    for item in (1, threading.Lock(), 3):
        pool.submit(double, item)
    assert pool.get_next() == 2
    with pytest.raises(shoal.errors.SerializationError):
        pool.get_next()
    assert pool.get_next() == 6
    with pytest.raises(shoal.errors.NotARefError, match="function returned"):
        pool.submit(lambda actor, x: x, 1)
    assert pool.has_free()
