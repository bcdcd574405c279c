"""Queues and pools of actors under our own names; their stories are told in `tests/parity`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

import shoal
from shoal.util import ActorPool
from shoal.util.queue import Empty, Full, Queue


@pytest.fixture(autouse=True)
def session() -> Iterator[None]:
    with shoal.init(num_cpus=2):
        yield


@shoal.remote
class Doubler:
    def double(self, x: int) -> int:
        return 2 * x


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
