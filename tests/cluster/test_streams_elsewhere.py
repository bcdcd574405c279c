"""Streams cross nodes: a generator runs on one node and is read on the other, with real daemons,
and the audit of both nodes after every test.

One pair of nodes serves the file (``two_nodes``). What one machine promises of streams stands in
``tests/scenario/test_api_streaming.py``; what becomes of them when their node is lost, in
``test_work_losses``.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from shoal import errors
from shoal.testing import Cluster
from shoal.testing.polling import wait_until
from tests.cluster import two_nodes
from tests.cluster.conftest import looked_around
from tests.cluster.two_nodes import HERE, THERE

LONG_S = 60.0


@pytest.fixture(scope="module", autouse=True)
def _nothing_is_left() -> Iterator[None]:
    with looked_around():
        yield


@pytest.fixture(scope="module")
def cluster(_nothing_is_left: None) -> Iterator[Cluster]:
    with two_nodes.made() as made:
        yield made


@pytest.fixture(autouse=True)
def _driver(cluster: Cluster) -> Iterator[None]:
    """Each test is a driver on the first node."""
    with two_nodes.driven(cluster.head, cluster.nodes):
        yield


def get(refs: Any) -> Any:
    return shoal.get(refs, timeout=LONG_S)


def following(stream: Any) -> Any:
    """The next item's ref, if it comes in time."""
    return stream._next_sync(LONG_S)


def rest(stream: Any) -> list[Any]:
    """What is still to come of a stream."""
    values = []
    while True:
        try:
            values.append(get(following(stream)))
        except StopIteration:
            return values


# Tasks name nothing of this module, or their workers would have to import it, and pytest with it.


@shoal.remote
def count(n: int) -> Iterator[int]:
    yield from range(n)


@shoal.remote
def noting(path: Path, n: int) -> Iterator[int]:
    """Writes down what it is about to yield."""
    for i in range(n):
        with path.open("a") as file:
            file.write(f"{i}\n")
        yield i


def noted(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()] if path.exists() else []


# ---- what arrives
def test_a_generator_runs_where_its_resource_is() -> None:
    @shoal.remote
    def where(n: int) -> Iterator[str]:
        for _ in range(n):
            yield str(shoal.get_runtime_context().get_node_id())

    names = two_nodes.names()
    for place, name in ((THERE, "node-2"), (HERE, "node-1")):
        assert [names[node] for node in rest(where.options(**place).remote(3))] == [name] * 3


def test_values_of_every_kind() -> None:
    @shoal.remote
    def several() -> Iterator[Any]:
        yield None
        yield "x" * 1000
        yield b"y" * 12_000
        yield np.arange(100)
        yield np.arange(500_000)
        yield shoal.put(5)
        yield [shoal.put(6), shoal.put(np.full(200_000, 7))]
        yield {"large": np.ones(300_000), "ref": shoal.put(np.full(200_000, 8))}

    values = rest(several.options(**THERE).remote())
    nothing, text, data, small, large, ref, refs, both = values
    assert (nothing, text, data) == (None, "x" * 1000, b"y" * 12_000)
    assert small.sum() == 4950 and large.sum() == sum(range(500_000))
    assert get(ref) == 5 and get(refs[0]) == 6 and get(refs[1]).sum() == 1_400_000
    assert both["large"].sum() == 300_000 and get(both["ref"]).sum() == 1_600_000


def test_items_are_values_as_any_other() -> None:
    """An item that lies there is read there, here, and by a task that is given what names it."""

    @shoal.remote
    def boxes() -> Iterator[Any]:
        for n in range(3):
            yield [np.full(200_000, n), shoal.put(np.full(200_000, 10 + n))]

    @shoal.remote
    def total(box: Any) -> int:
        return int(box[0].sum()) + int(shoal.get(box[1]).sum())

    refs = list(boxes.options(**THERE).remote())
    for place in (THERE, HERE, THERE):
        sums = get([total.options(**place).remote(ref) for ref in refs])
        assert sums == [200_000 * (10 + 2 * n) for n in range(3)]


@pytest.mark.parametrize("limit", [-1, 1, 50])
def test_many_items_in_their_order(limit: int) -> None:
    many = count.options(_generator_backpressure_num_objects=limit, **THERE)
    assert rest(many.remote(3000)) == list(range(3000))
    assert rest(many.remote(0)) == []


def test_several_streams_at_once() -> None:
    few = count.options(num_cpus=0.1, _generator_backpressure_num_objects=3, **THERE)
    streams = [few.remote(20) for _ in range(8)]
    taken: list[list[Any]] = [[] for _ in streams]
    for _ in range(20):
        for values, stream in zip(taken, streams, strict=True):
            values.append(get(following(stream)))
    assert taken == [list(range(20))] * 8
    assert [rest(stream) for stream in streams] == [[]] * 8


def test_an_item_is_there_while_the_task_still_runs(tmp_path: Path) -> None:
    @shoal.remote(**THERE)
    def waits(path: Path) -> Iterator[str]:
        yield "first"
        while not path.exists():
            time.sleep(0.01)
        yield "second"

    go_on = tmp_path / "go"
    stream = waits.remote(go_on)
    assert get(following(stream)) == "first"
    assert not stream.next_ready() and not stream.is_finished()
    with pytest.raises(errors.GetTimeoutError):
        stream._next_sync(timeout_s=0.05)
    go_on.touch()
    assert rest(stream) == ["second"]
    assert stream.is_finished() and get(stream.completed()) == 2


def test_async_iteration() -> None:
    @shoal.remote(**THERE)
    async def ticks(n: int) -> AsyncIterator[int]:
        for i in range(n):
            await asyncio.sleep(0.001)
            yield i

    async def take(stream: Any) -> list[Any]:
        return [await ref async for ref in stream]

    async def main() -> list[list[Any]]:
        streams = [ticks.remote(3), count.options(**THERE).remote(3)]
        return await asyncio.wait_for(asyncio.gather(*map(take, streams)), LONG_S)

    assert asyncio.run(main()) == [[0, 1, 2]] * 2


def test_a_dynamic_number_of_results() -> None:
    with pytest.warns(DeprecationWarning):
        dynamic = count.options(num_returns="dynamic", **THERE)
    assert get(list(get(dynamic.remote(3)))) == [0, 1, 2]


def test_streams_of_streams() -> None:
    """Each reads one that runs on the other node."""
    places = [HERE, THERE]

    @shoal.remote(_generator_backpressure_num_objects=2)
    def down(level: int, n: int) -> Iterator[int]:
        if level == 0:
            yield from range(n)
            return
        for ref in down.options(**places[level % 2]).remote(level - 1, n):
            yield shoal.get(ref) + 1

    assert rest(down.options(num_cpus=0.1, **HERE).remote(4, 30)) == list(range(4, 34))


# ---- back-pressure
def test_the_generator_pauses_while_too_much_waits(tmp_path: Path) -> None:
    path = tmp_path / "made"
    stream = noting.options(_generator_backpressure_num_objects=2, **THERE).remote(path, 6)
    assert wait_until(lambda: len(noted(path)) == 2, LONG_S)
    for taken in range(1, 4):
        assert get(following(stream)) == taken - 1
        assert wait_until(lambda taken=taken: len(noted(path)) == 2 + taken, LONG_S)
        time.sleep(0.05)
        assert len(noted(path)) == 2 + taken, "it goes on only when somebody has taken one"
    assert rest(stream) == [3, 4, 5]


def test_what_was_seen_and_dropped_is_freed_while_it_runs() -> None:
    @shoal.remote(_generator_backpressure_num_objects=2, **THERE)
    def arrays() -> Iterator[Any]:
        from shoal import lowlevel

        for _ in range(30):
            yield np.zeros(1_000_000), lowlevel.memory().usage()[0]

    here = there = 0
    stream = arrays.remote()
    for _ in range(30):
        array, used = get(following(stream))
        assert array.size == 1_000_000
        there = max(there, used)
        here = max(here, shoal.lowlevel.memory().usage()[0])
        del array
    assert here < 64 << 20 and there < 64 << 20, f"{here:,} and {there:,} of 240 MB were there"


# ---- errors, deaths, retries
def test_an_error_is_the_last_item() -> None:
    @shoal.remote(**THERE)
    def breaks() -> Iterator[int]:
        yield 1
        raise ValueError("in the middle")

    stream = breaks.remote()
    assert get(following(stream)) == 1
    last = following(stream)
    with pytest.raises(ValueError, match="in the middle") as caught:
        get(last)
    assert "breaks" in caught.value.remote_traceback  # type: ignore[attr-defined]
    with pytest.raises(StopIteration):
        following(stream)


@pytest.mark.parametrize("retries", [0, 2])
def test_a_worker_that_dies(tmp_path: Path, retries: int) -> None:
    """What the consumer has been given is not given again."""

    @shoal.remote(max_retries=retries, **THERE)
    def dies(path: Path) -> Iterator[tuple[int, int]]:
        for i in range(5):
            if i == 3 and len(path.read_text().split()) < 2:
                with path.open("a") as file:
                    file.write(f"{os.getpid()}\n")
                os._exit(1)
            yield i, os.getpid()

    path = tmp_path / "deaths"
    path.touch()
    stream = dies.remote(path)
    items = [get(following(stream)) for _ in range(3)]
    assert [i for i, _ in items] == [0, 1, 2]
    if not retries:
        last = following(stream)
        with pytest.raises(errors.WorkerCrashedError):
            get(last)
        assert rest(stream) == [] and len(noted(path)) == 1
        return
    more = rest(stream)
    assert [i for i, _ in more] == [3, 4]
    dead = noted(path)
    assert len(dead) == 2 and {pid for _, pid in items} == {dead[0]}
    assert not {pid for _, pid in more} & set(dead)


def test_exceptions_are_retried_from_the_first_item_that_is_missing(tmp_path: Path) -> None:
    @shoal.remote(retry_exceptions=True, max_retries=2, **THERE)
    def flaky(path: Path) -> Iterator[int]:
        with path.open("a") as file:
            file.write("0\n")
        yield 10
        if len(path.read_text().split()) < 3:
            raise OSError("once more")
        yield 20

    path = tmp_path / "attempts"
    assert rest(flaky.remote(path)) == [10, 20]
    assert len(noted(path)) == 3


def test_no_more_time() -> None:
    @shoal.remote(**THERE)
    def slow() -> Iterator[int]:
        yield 1
        time.sleep(600)

    assert rest(count.options(**THERE).remote(1)) == [0], "a worker is there now"
    stream = slow.options(timeout_s=4).remote()
    assert get(following(stream)) == 1
    last = following(stream)
    with pytest.raises(errors.DeadlineExceededError):
        get(last)


# ---- the end before the end
def test_cancel(tmp_path: Path) -> None:
    @shoal.remote(num_cpus=2, **THERE)
    def long() -> Iterator[int]:
        yield 1
        time.sleep(600)

    running = long.remote()
    assert get(following(running)) == 1
    queued = long.remote()
    for stream in (queued, running):
        shoal.cancel(stream)
        last = following(stream)
        with pytest.raises(errors.TaskCancelledError):
            get(last)
    assert rest(count.options(num_cpus=2, **THERE).remote(2)) == [0, 1], "its CPUs are free again"


@pytest.mark.parametrize("limit", [-1, 2])
def test_who_drops_the_generator_ends_it(tmp_path: Path, limit: int) -> None:
    ended = tmp_path / "ended"

    @shoal.remote(num_cpus=2, _generator_backpressure_num_objects=limit, **THERE)
    def endless() -> Iterator[Any]:
        try:
            while True:
                time.sleep(0.001)
                yield np.zeros(20_000)
        finally:
            ended.touch()

    stream = endless.remote()
    kept = following(stream)
    assert get(following(stream)).size == 20_000
    del stream
    assert wait_until(ended.exists, LONG_S)
    assert get(kept).size == 20_000, "an item lives as long as its ref"
    assert rest(count.options(num_cpus=2, **THERE).remote(1)) == [0]


def test_items_nobody_has_seen_are_freed_with_the_generator() -> None:
    @shoal.remote(**THERE)
    def arrays() -> Iterator[Any]:
        for _ in range(20):
            yield np.zeros(100_000)

    @shoal.remote(**THERE)
    def used() -> int:
        from shoal import lowlevel

        return int(lowlevel.memory().usage()[0])

    stream = arrays.remote()
    assert get(stream.completed()) == 20
    assert get(following(stream)).size == 100_000
    assert get(used.remote()) > 15 * 800_000
    del stream
    assert wait_until(lambda: get(used.remote()) < 4_000_000, LONG_S), "they are freed there"


def test_the_end_of_a_job_ends_its_streams(cluster: Cluster, tmp_path: Path) -> None:
    path = tmp_path / "made"
    stream = noting.options(_generator_backpressure_num_objects=3, **THERE).remote(path, 100)
    assert get(following(stream)) == 0
    shoal.shutdown()
    for node in cluster.nodes:
        two_nodes.audit(node)
    assert len(noted(path)) < 10
    shoal.init(cluster.head.address, log_to_driver=False)


# ---- methods of actors
class _Source:
    def items(self, n: int) -> Iterator[int]:
        yield from range(n)

    def arrays(self, n: int) -> Iterator[Any]:
        for i in range(n):
            yield [np.full(100_000, i), shoal.put(np.full(100_000, i))]

    def breaks(self) -> Iterator[int]:
        yield 1
        raise ValueError("not this one")

    def where(self) -> str:
        return str(shoal.get_runtime_context().get_node_id())


class _AsyncSource:
    async def items(self, n: int) -> AsyncIterator[int]:
        for i in range(n):
            await asyncio.sleep(0)
            yield i

    async def arrays(self, n: int) -> AsyncIterator[Any]:
        for i in range(n):
            yield [np.full(100_000, i), shoal.put(np.full(100_000, i))]


def by_value(source: type) -> Any:
    """As a program's own class: workers do not import this module."""
    body = {name: value for name, value in vars(source).items() if not name.startswith("__")}
    made = type(source.__name__.strip("_"), (), body)
    for each in (made, *body.values()):
        each.__module__ = "__main__"
    return shoal.remote(made)


Source, AsyncSource = by_value(_Source), by_value(_AsyncSource)


@shoal.remote
def read(handle: Any, n: int) -> tuple[list[Any], str]:
    stream = handle.items.options(_generator_backpressure_num_objects=2).remote(n)
    values = [shoal.get(ref, timeout=20) for ref in stream]
    for ref in handle.arrays.remote(3):
        array, inside = shoal.get(ref, timeout=20)
        values.append(int(array.sum() + shoal.get(inside, timeout=20).sum()))
    return values, str(shoal.get_runtime_context().get_node_id())


def test_methods_of_an_actor_that_lives_elsewhere() -> None:
    source = Source.options(**THERE).remote()
    assert two_nodes.names()[get(source.where.remote())] == "node-2"
    assert rest(source.items.remote(100)) == list(range(100))
    arrays = rest(source.arrays.remote(5))
    assert [int(array.sum()) for array, _ in arrays] == [100_000 * i for i in range(5)]
    assert [int(get(ref).sum()) for _, ref in arrays] == [100_000 * i for i in range(5)]
    stream = source.breaks.remote()
    assert get(following(stream)) == 1
    last = following(stream)
    with pytest.raises(ValueError, match="not this one"):
        get(last)
    assert rest(source.items.remote(2)) == [0, 1]


@pytest.mark.parametrize("kind", [Source, AsyncSource])
@pytest.mark.parametrize("place", [HERE, THERE])
def test_handles_that_were_passed_on(kind: Any, place: dict[str, Any]) -> None:
    """The caller is on either node, the actor as well: calls by way of its home too."""
    source = kind.options(num_cpus=0, **place).remote()
    names = two_nodes.names()
    for caller, name in ((HERE, "node-1"), (THERE, "node-2")):
        values, node = get(read.options(**caller).remote(source, 20))
        assert (values, names[node]) == ([*range(20), 0, 200_000, 400_000], name)
    assert rest(source.items.remote(3)) == [0, 1, 2]


@pytest.mark.parametrize("retries", [0, 1])
def test_the_process_of_an_actor_dies(tmp_path: Path, retries: int) -> None:
    path = tmp_path / "once"

    class Fragile:
        def items(self, path: Path) -> Iterator[int]:
            yield 0
            yield 1
            if not path.exists():
                path.touch()
                os._exit(1)
            yield 2

    fragile = shoal.remote(Fragile).options(
        max_restarts=1, max_task_retries=retries, num_cpus=0, **THERE
    )
    stream = fragile.remote().items.remote(path)
    assert [get(following(stream)) for _ in range(2)] == [0, 1]
    if retries:
        assert rest(stream) == [2]
        return
    last = following(stream)
    with pytest.raises(errors.ActorUnavailableError, match="exit code 1"):
        get(last)
