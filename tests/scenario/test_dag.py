"""Graphs that run: uncompiled ones, compiled ones, and what actors do beside their loops."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from shoal import errors, lowlevel
from shoal.dag import CompiledDAG, CompiledDAGRef, InputNode, MultiOutputNode
from tests.torture.processes import eventually

LONG_S = 60.0


@shoal.remote(num_cpus=0)
class Worker:
    def __init__(self, n: int = 0) -> None:
        self.n = n
        self.inside = 0
        self.most = 0

    def add(self, x: Any, more: Any = 1) -> Any:
        return x + more

    def count(self, _: Any = None) -> int:
        self.n += 1
        return self.n

    def inc(self, by: int) -> int:
        self.n += by
        return self.n

    def get(self) -> int:
        return self.n

    def echo(self, *given: Any, **named: Any) -> Any:
        if named:
            return given, named
        return given[0] if len(given) == 1 else given

    def fail(self, x: Any) -> Any:
        if x == "bad":
            raise KeyError("no such thing")
        return x

    def overtime(self, x: Any) -> Any:
        raise errors.ChannelTimeoutError("mine")

    def cores(self, x: list[set[int]]) -> list[set[int]]:
        return [*x, os.sched_getaffinity(0)]

    def slowly(self, x: Any) -> Any:
        self.inside += 1
        self.most = max(self.most, self.inside)
        time.sleep(0.002)
        self.inside -= 1
        return x

    def overlaps(self) -> int:
        return self.most

    @shoal.method(num_returns=2)
    def pair(self, x: Any) -> Any:
        return (x, x + 1) if x >= 0 else x

    def total(self, array: Any) -> float:
        return float(array.sum())

    def double(self, array: Any) -> Any:
        return 2 * array

    def is_writable(self, array: Any) -> bool:
        return bool(array.flags.writeable)


@shoal.remote(num_cpus=0)
class Aio:
    async def add(self, x: int) -> int:
        await asyncio.sleep(0)
        return x + 1

    def thread(self, _: Any) -> str:
        return threading.current_thread().name

    @shoal.method(thread=True)
    def aside(self, _: Any) -> str:
        return threading.current_thread().name


@shoal.remote(num_cpus=0.5)
def plus(x: int, more: int = 1) -> int:
    return x + more


@shoal.remote(num_cpus=0.5)
def values_of(refs: Any) -> Any:
    return shoal.get(refs)


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    with shoal.init(num_cpus=2):
        yield


@pytest.fixture(autouse=True)
def _end_session() -> None:
    """In the place of conftest's: one session for all tests of this module."""


@pytest.fixture
def workers() -> list[Any]:
    return [Worker.remote() for _ in range(3)]


def compiled(make: Any, **options: Any) -> CompiledDAG:
    with InputNode() as inp:
        graph = make(inp)
    return graph.compile(**options)


# ---- uncompiled


def test_tasks_and_new_actors() -> None:
    node = Worker.bind(10)
    node.inc.bind(2)
    node.inc.bind(6)
    graph = node.get.bind()
    assert [shoal.get(graph.execute()) for _ in range(2)] == [18, 18]
    with InputNode() as inp:
        actor = Worker.bind(inp.start)
        outputs = MultiOutputNode(
            [plus.bind(plus.bind(inp[0]), more=inp[1]), actor.inc.bind(inp[0])]
        )
    assert shoal.get(outputs.execute(1, 10, start=100)) == [12, 101]
    assert isinstance(Worker.bind(1).execute(), shoal.ActorHandle)


def test_refs_in_structures_stay_refs() -> None:
    with InputNode() as inp:
        graph = values_of.bind([plus.bind(inp), plus.bind(inp)])
    assert shoal.get(graph.execute(1)) == [2, 2]


def test_living_actors_and_parts(workers: list[Any]) -> None:
    with InputNode() as inp:
        one, two = workers[0].pair.bind(inp)
        graph = MultiOutputNode([two, workers[1].add.bind(one, more=two)])
    assert shoal.get(graph.execute(5)) == [6, 11]
    with pytest.raises(ValueError, match="exactly one object"):
        graph.execute(1, 2)


# ---- compiled


def test_a_chain_with_several_executions_in_flight(workers: list[Any]) -> None:
    a, b, c = workers
    with compiled(lambda i: c.add.bind(b.add.bind(a.add.bind(i)))) as graph:
        assert shoal.get(graph.execute(1)) == 4
        refs = [graph.execute(i) for i in range(10)]
        assert all(type(ref) is CompiledDAGRef for ref in refs)
        assert shoal.get(refs) == [i + 3 for i in range(10)]
        last, first = graph.execute(100), graph.execute(200)
        assert first.get() == 203 and last.get(timeout=LONG_S) == 103


def test_methods_run_on_every_core_wherever_their_loops_wait(workers: list[Any]) -> None:
    actors = [*workers, *(Worker.remote() for _ in range(3))]
    cores = os.sched_getaffinity(0)

    def chain(inp: Any) -> Any:
        for actor in actors:
            inp = actor.cores.bind(inp)
        return inp

    with compiled(chain) as graph:
        for n_at_once in (1, 3, 1):
            for _ in range(100):
                refs = [graph.execute([cores]) for _ in range(n_at_once)]
                assert shoal.get(refs) == [[cores] * 7] * n_at_once
    assert os.sched_getaffinity(0) == cores


def test_scatter_and_gather_with_constants_and_parts(workers: list[Any]) -> None:
    a, b, c = workers
    limit = shoal.put(1000)

    def make(i: Any) -> Any:
        one, two = a.pair.bind(i[0])
        same = a.add.bind(one, i.more)
        return MultiOutputNode(
            [b.echo.bind([two, {"x": i.more}], limit, y=(one,)), c.add.bind(same, same), one, one]
        )

    with compiled(make) as graph:
        for x in range(3):
            refs = graph.execute(x, more=10)
            assert shoal.get(refs) == [
                (([x + 1, {"x": 10}], 1000), {"y": (x,)}),
                2 * (x + 10),
                x,
                x,
            ]
        assert shoal.get(graph.execute({"more": 5, 0: 7})[3]) == 7


def test_ordinary_calls_are_served_meanwhile_and_one_at_a_time(workers: list[Any]) -> None:
    a = workers[0]
    with compiled(a.slowly.bind) as graph:
        refs = [graph.execute(i) for i in range(10)]
        others = [a.slowly.remote(i) for i in range(10)]
        assert shoal.get(refs) == shoal.get(others, timeout=LONG_S) == list(range(10))
        assert shoal.get(a.overlaps.remote()) == 1
    assert shoal.get(a.slowly.remote(5)) == 5


def test_two_graphs_share_an_actor(workers: list[Any]) -> None:
    a, b, _ = workers
    with compiled(a.slowly.bind) as one:
        with compiled(lambda i: b.add.bind(a.slowly.bind(i))) as other:
            refs = [(one.execute(i), other.execute(i)) for i in range(8)]
            assert [(x.get(), y.get()) for x, y in refs] == [(i, i + 1) for i in range(8)]
        assert shoal.get(one.execute(3)) == 3
        assert shoal.get(a.overlaps.remote()) == 1


def test_arrays_are_views_and_may_be_kept(workers: list[Any]) -> None:
    a, b, _ = workers

    def make(i: Any) -> Any:
        return MultiOutputNode([b.total.bind(i), a.double.bind(i), a.is_writable.bind(i)])

    with compiled(make, buffer_size_bytes=1 << 21) as graph:
        kept = []
        for n in range(8):
            total, doubled, writable = shoal.get(graph.execute(np.full(100_000, float(n))))
            kept.append(doubled)
            assert (total, writable) == (100_000.0 * n, False)
        assert [float(array[5]) for array in kept] == [2.0 * n for n in range(8)]
        assert not kept[0].flags.writeable


def test_errors_travel_and_leave_the_graph_usable(workers: list[Any]) -> None:
    a, b, c = workers

    def make(i: Any) -> Any:
        failed = a.fail.bind(i)
        return MultiOutputNode([b.count.bind(failed), a.echo.bind(failed), c.echo.bind(i)])

    with compiled(make) as graph:
        good, bad, again = graph.execute(1), graph.execute("bad"), graph.execute(2)
        assert shoal.get(good) == [1, 1, 1]
        for ref in bad[:2]:
            with pytest.raises(KeyError, match="no such thing") as raised:
                shoal.get(ref)
            error = raised.value
            assert isinstance(error, errors.TaskError) and error.task == "Worker.fail"
            assert error.remote_traceback.count("in fail") == 1
            assert "shoal/" not in error.remote_traceback
        assert shoal.get(bad[2]) == "bad"
        assert shoal.get(again) == [2, 2, 2], "count ran for the good ones only"


def test_methods_of_asyncio_and_threaded_actors(workers: list[Any]) -> None:
    aio = Aio.remote()
    threaded = Worker.options(max_concurrency=2).remote()

    def make(i: Any) -> Any:
        return MultiOutputNode(
            [aio.add.bind(i), aio.thread.bind(i), aio.aside.bind(i), threaded.add.bind(i)]
        )

    with compiled(make) as graph:
        for x in range(3):
            got = shoal.get(graph.execute(x))
            assert got == [x + 1, "MainThread", "shoal-background", x + 1]
        assert shoal.get([aio.add.remote(1), threaded.add.remote(1)]) == [2, 2]


def test_dropped_refs_give_their_places_back(workers: list[Any]) -> None:
    a = workers[0]
    with compiled(a.count.bind, max_inflight_executions=3) as graph:
        for i in range(20):
            graph.execute(i)
        kept = graph.execute(None)
        assert shoal.get(kept) == 21


def test_more_in_flight_than_the_channels_hold(workers: list[Any]) -> None:
    a, b, _ = workers
    most = 40
    with compiled(lambda i: b.add.bind(a.add.bind(i)), max_inflight_executions=most) as graph:
        refs = [graph.execute(i) for i in range(most)]
        with pytest.raises(errors.GraphCapacityError, match="40 executions"):
            graph.execute(0)
        assert shoal.get(refs[::-1]) == [i + 2 for i in range(most)][::-1]
        assert shoal.get(graph.execute(0)) == 2


def test_two_threads_execute_in_turn(workers: list[Any]) -> None:
    a = workers[0]
    wrong = []
    with compiled(a.add.bind, max_inflight_executions=4) as graph:

        def use(start: int) -> None:
            for i in range(start, start + 100):
                one, other = graph.execute(i), graph.execute(-i)
                if (other.get(), one.get()) != (1 - i, 1 + i):
                    wrong.append(i)

        threads = [threading.Thread(target=use, args=(1000 * n,)) for n in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LONG_S)
        assert not any(thread.is_alive() for thread in threads) and not wrong


def test_asyncio(workers: list[Any]) -> None:
    a, b, _ = workers

    async def main() -> None:
        async def one(i: int) -> int:
            future = await graph.execute_async(i)
            result: int = await future
            return result

        assert await asyncio.gather(*(one(i) for i in range(8))) == [i + 2 for i in range(8)]
        futures = [await graph.execute_async(i) for i in range(8)]
        assert [await future for future in reversed(futures)] == [i + 2 for i in range(8)][::-1]
        with pytest.raises(errors.GraphError, match="taken already"):
            await futures[0]
        with pytest.raises(TypeError):
            await (await graph.execute_async("text"))
        held = [await graph.execute_async(i) for i in range(8)]
        with pytest.raises(errors.GraphCapacityError):
            await graph.execute_async(9)
        held.clear()
        for i in range(20):
            await graph.execute_async(i)
        assert await one(5) == 7
        waiting = asyncio.ensure_future(one(1))
        await asyncio.sleep(0)
        await asyncio.to_thread(graph.teardown)
        with pytest.raises(errors.GraphEndedError):
            await asyncio.gather(waiting, one(2))

    graph = compiled(
        lambda i: b.add.bind(a.add.bind(i)), enable_asyncio=True, max_inflight_executions=8
    )
    with pytest.raises(errors.GraphError, match="execute_async"):
        graph.execute(1)
    asyncio.run(main())
    names = [thread.name for thread in threading.enumerate()]
    assert (
        eventually(lambda: "shoal-graph-results" not in names, 30, "the thread has ended") or names
    )


def test_compiled_inside_an_actor(workers: list[Any]) -> None:
    @shoal.remote(num_cpus=0)
    class Driver:
        def run(self, worker: Any) -> Any:
            with compiled(worker.add.bind) as graph:
                return shoal.get([graph.execute(i) for i in range(5)])

    assert shoal.get(Driver.remote().run.remote(workers[0])) == [1, 2, 3, 4, 5]


def test_the_names_of_ray(workers: list[Any]) -> None:
    with InputNode() as inp:
        graph = (
            workers[0]
            .add.bind(inp)
            .experimental_compile(
                _submit_timeout=-1, _buffer_size_bytes=1000, _max_inflight_executions=2
            )
        )
    assert graph.options.buffer_size_bytes == 1000 and graph.options.submit_timeout_s is None
    assert shoal.get(graph.execute(1)) == 2
    text = graph.visualize(format="ascii", channel_details=True)
    assert "<= [1] input (channel 0, 1,000 bytes)" in text
    graph.teardown()
    assert graph.is_teardown


def test_graphs_leave_nothing(workers: list[Any]) -> None:
    def run() -> None:
        graph = compiled(lambda i: workers[1].add.bind(workers[0].add.bind(i)))
        shoal.get(graph.execute(np.zeros(50_000)))
        graph.execute(1)  # nobody takes it

    shoal.get([worker.get.remote() for worker in workers])
    memory = lowlevel.memory()
    run()
    gc.collect()
    eventually(
        lambda: not [o for o in shoal.state.objects() if o.size_bytes > 500_000], 30, "freed"
    )
    before = memory.audit()
    for _ in range(3):
        run()
    gc.collect()

    def difference() -> dict[str, int]:
        now = memory.audit()
        return {name: now[name] - before[name] for name in now if now[name] != before[name]}

    eventually(lambda: difference().get("bytes", 0) <= 0, 30, "the audit finds what it found")
    assert memory.audit()["wrong_counts"] == memory.audit()["leaked_blocks"] == 0
    names = shoal.get(
        workers[0].__ray_call__.remote(lambda _: [t.name for t in threading.enumerate()])
    )
    assert not [name for name in names if "graph" in name or "background" in name]


def test_outputs_that_fail_together_give_their_places_back(workers: list[Any]) -> None:
    """``get`` of a list raises for the first: nobody takes the others, and nothing keeps them."""
    with compiled(lambda i: MultiOutputNode([w.fail.bind(i) for w in workers])) as graph:
        for _ in range(25):  # more often than executions may be in flight
            with pytest.raises(KeyError):
                shoal.get(graph.execute("bad"))
        assert shoal.get(graph.execute("good")) == ["good"] * 3


@shoal.remote(num_cpus=0)
class Gate:
    """Lets values through when a file says so."""

    def hold(self, x: str) -> str:
        eventually(lambda: os.path.exists(x), LONG_S, x)
        return x


@shoal.remote(num_cpus=0)
def held(x: str) -> str:
    eventually(lambda: os.path.exists(x), LONG_S, x)
    return x


def test_wait_for_results_of_graphs_beside_refs(tmp_path: Path) -> None:
    """Of two graphs and a task, in whatever order they come."""
    files = [tmp_path / name for name in "abcd"]
    graphs = [compiled(Gate.remote().hold.bind) for _ in range(2)]
    given = [str(file) for file in files]
    first, second = graphs[0].execute(given[0]), graphs[0].execute(given[1])
    refs = [first, second, graphs[1].execute(given[2]), held.remote(given[3])]
    assert shoal.wait(refs, timeout=0) == ([], refs)
    assert shoal.wait(refs, timeout=0.02) == ([], refs)
    for at, ready in [(2, [refs[2]]), (3, refs[2:]), (0, [first, *refs[2:]])]:
        files[at].touch()
        found, rest = shoal.wait(refs, num_returns=len(ready), timeout=LONG_S)
        assert found == ready and rest == [ref for ref in refs if ref not in ready]
        assert shoal.wait(refs, num_returns=4, timeout=0)[0] == ready
    threading.Timer(0.05, files[1].touch).start()
    assert shoal.wait(refs, num_returns=4, timeout=LONG_S) == (refs, [])
    assert shoal.get(refs, timeout=LONG_S) == given
    running = graphs[0].execute(str(tmp_path / "never"))
    threading.Timer(0.05, graphs[0].teardown).start()
    assert shoal.wait([running, shoal.put(1)], num_returns=2, timeout=LONG_S)[1] == []
    with pytest.raises(errors.GraphEndedError):
        shoal.get(running)
    graphs[1].teardown()
    eventually(
        lambda: not [t for t in threading.enumerate() if t.name == "shoal-graph-watch"],
        LONG_S,
        "nobody watches any more",
    )


def test_nobody_stands_behind_a_wait_for_a_later_result(tmp_path: Path) -> None:
    file = tmp_path / "later"
    gate, aside = Gate.remote(), tmp_path / "now"
    aside.touch()
    with compiled(gate.hold.bind) as graph:
        early, later = graph.execute(str(aside)), graph.execute(str(file))
        got: list[str] = []
        thread = threading.Thread(target=lambda: got.append(shoal.get(later)))
        thread.start()
        assert shoal.get(early, timeout=LONG_S) == str(aside)
        assert not got
        file.touch()
        thread.join(LONG_S)
        assert got == [str(file)]


def test_a_method_that_raises_an_error_of_time_is_not_late(workers: list[Any]) -> None:
    with compiled(workers[0].overtime.bind) as graph:
        for _ in range(2):
            ref = graph.execute(1)
            with pytest.raises(errors.TaskError, match="mine") as caught:
                shoal.get(ref, timeout=LONG_S)
            assert isinstance(caught.value, errors.ChannelTimeoutError)
            with pytest.raises(errors.GraphError, match="taken already"):
                shoal.get(ref)


def test_what_wait_has_no_say_about(workers: list[Any]) -> None:
    with compiled(workers[0].echo.bind) as graph:
        ref = graph.execute(1)
        with pytest.raises(ValueError, match="each ref once"):
            shoal.wait([ref, ref])
        with pytest.raises(errors.NotARefError, match="for get and wait"):
            list(shoal.as_completed([ref]))  # type: ignore[list-item]
        assert shoal.get(ref) == 1


def test_compiling_on_an_event_loop_is_no_reason_to_warn(workers: list[Any]) -> None:
    async def main() -> Any:
        with compiled(workers[0].echo.bind, enable_asyncio=True) as graph:
            return await (await graph.execute_async(3))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert asyncio.run(main()) == 3


def test_a_timeout_below_zero_is_none_as_in_ray(tmp_path: Path) -> None:
    file = tmp_path / "a"
    with compiled(Gate.remote().hold.bind) as graph:
        ref = graph.execute(str(file))
        threading.Timer(0.05, file.touch).start()
        assert ref.get(timeout=-1) == str(file)
