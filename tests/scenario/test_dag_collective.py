"""Operations of several actors in graphs: results are NumPy's, errors and deaths reach all."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest

import shoal
from shoal import errors, lowlevel
from shoal.dag import CollectiveOutputNode, InputNode, MultiOutputNode
from shoal.dag.collective import ReduceOp, allgather, allreduce, reducescatter
from tests.torture.processes import eventually

LONG_S = 60.0


@shoal.remote(num_cpus=0)
class Worker:
    def __init__(self, rank: int = 0) -> None:
        self.rank = rank

    def make(self, x: Any) -> Any:
        """An array of its own, or something that spoils the operation on rank 1."""
        array = np.arange(12.0).reshape(6, 2) + self.rank
        if self.rank == 1:
            if x == "raises":
                raise KeyError("rank 1 has none")
            if x == "number":
                return 1.5
            if x == "shape":
                return array[:3]
            if x == "dtype":
                return array.astype("f4")
            if x == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
        return array * (x if isinstance(x, int) else 1)

    def tensor(self, x: Any) -> Any:
        import torch

        return torch.full((2, 3), float(self.rank + x), dtype=torch.bfloat16)

    def large(self, x: int) -> Any:
        return np.full(400_000, float(self.rank + x))

    def echo(self, x: Any, more: Any = None) -> Any:
        return x if more is None else (x, more)

    def summed(self, x: Any) -> float:
        return float(x.sum())

    def plain(self, x: int) -> int:
        return x + 1


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    with shoal.init(num_cpus=2):
        yield


@pytest.fixture(autouse=True)
def _end_session() -> None:
    """In the place of conftest's: one session for all tests of this module."""


@pytest.fixture(scope="module")
def workers(session: None) -> list[Any]:
    return [Worker.remote(rank) for rank in range(3)]


def of(workers: list[Any], operation: Any, method: str = "make") -> Any:
    """The operation on what a method of each returns."""
    with InputNode() as inp:
        given = [getattr(worker, method).bind(inp) for worker in workers]
        return MultiOutputNode(operation(given))


def expected(operation: Any, x: int, ranks: int = 3) -> list[Any]:
    """What NumPy says that each rank has."""
    arrays = [(np.arange(12.0).reshape(6, 2) + rank) * x for rank in range(ranks)]
    if operation == allgather.bind:
        return [np.concatenate(arrays)] * ranks
    total = np.sum(arrays, axis=0)
    return np.split(total, ranks) if operation == reducescatter.bind else [total] * ranks


BINDS = [allreduce.bind, allgather.bind, reducescatter.bind]


@pytest.mark.parametrize("operation", BINDS)
def test_results_are_those_of_numpy(workers: list[Any], operation: Any) -> None:
    graph = of(workers, operation)
    for got, wanted in zip(shoal.get(graph.execute(3)), expected(operation, 3), strict=True):
        np.testing.assert_array_equal(got, wanted)
    with graph.compile() as compiled:
        running = [compiled.execute(x) for x in range(1, 8)]
        for x, refs in enumerate(running, 1):
            for got, wanted in zip(shoal.get(refs), expected(operation, x), strict=True):
                np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("spoilt", ["raises", "number", "shape", "dtype"])
def test_what_goes_wrong_on_one_rank_is_raised_on_all(workers: list[Any], spoilt: str) -> None:
    kind, text = {
        "raises": (KeyError, "rank 1 has none"),
        "number": (TypeError, "not a float"),
        "shape": (ValueError, "one dtype and shape from all actors .*rank 1: .*\\(3, 2\\)"),
        "dtype": (errors.GraphError, "rank 0: .*float64.*rank 1: .*float32"),
    }[spoilt]
    graph = of(workers, allreduce.bind)
    for ref in graph.execute(spoilt):
        with pytest.raises(kind, match=text):
            shoal.get(ref, timeout=LONG_S)
    with graph.compile() as compiled:
        for _ in range(12):  # more often than there may be executions in flight
            for ref in compiled.execute(spoilt):
                with pytest.raises(kind, match=text):
                    shoal.get(ref, timeout=LONG_S)
        for got, wanted in zip(shoal.get(compiled.execute(2)), expected(allreduce.bind, 2)):
            np.testing.assert_array_equal(got, wanted)


def test_a_death_is_heard_by_all_and_the_others_are_free() -> None:
    workers = [Worker.remote(rank) for rank in range(3)]
    compiled = of(workers, allreduce.bind).compile()
    refs = compiled.execute("dies")
    for ref in refs:
        with pytest.raises(errors.ActorDiedError):
            shoal.get(ref, timeout=LONG_S)
    compiled.teardown()
    assert shoal.get([workers[r].plain.remote(1) for r in (0, 2)], timeout=LONG_S) == [2, 2]
    workers[1] = Worker.remote(1)
    refs = of(workers, allreduce.bind).execute("dies")
    for rank, kind in enumerate([errors.LostError, errors.ActorDiedError, errors.LostError]):
        with pytest.raises(kind, match="dead"):
            shoal.get(refs[rank], timeout=LONG_S)
    assert shoal.get(workers[0].plain.remote(1), timeout=LONG_S) == 2


def test_a_rank_that_comes_late_is_waited_for_and_teardown_ends_the_wait(
    workers: list[Any],
) -> None:
    with InputNode() as inp:
        sums = allreduce.bind([worker.make.bind(inp) for worker in workers[:2]])
        # Nobody asks for what the second one has: it takes part all the same.
        graph = workers[2].summed.bind(sums[0])
    compiled = graph.compile()
    assert shoal.get(compiled.execute(1)) == float(sum(expected(allreduce.bind, 1, 2)[0].ravel()))
    compiled.execute(1)
    compiled.teardown()
    assert shoal.get([w.plain.remote(0) for w in workers], timeout=LONG_S) == [1, 1, 1]


def test_several_lists_at_once_and_a_part_of_them(workers: list[Any]) -> None:
    with InputNode() as inp:
        first = [worker.make.bind(inp) for worker in workers]
        second = [worker.large.bind(inp) for worker in workers]
        out = allreduce.bind([first, second], ReduceOp.MAX)
        graph = MultiOutputNode([*out[0], workers[1].echo.bind(out[1][1], out[1][0])])
    small, large = np.arange(12.0).reshape(6, 2) + 2, np.full(400_000, 3.0)
    with graph.compile(buffer_size_bytes=8 << 20) as compiled:
        for got in (shoal.get(graph.execute(1)), shoal.get(compiled.execute(1))):
            np.testing.assert_array_equal(got[0], small)
            np.testing.assert_array_equal(got[1], large)
            np.testing.assert_array_equal(got[2][0], large)
            np.testing.assert_array_equal(got[2][1], small)


def test_operations_one_after_the_other_in_any_order_of_binds(workers: list[Any]) -> None:
    """Two operations cross: what the second needs of one actor comes from the first on another."""
    with InputNode() as inp:
        late: list[Any] = [inp]
        early = workers[1].echo.bind(late)
        one = allreduce.bind([worker.make.bind(inp) for worker in workers[:2]])
        late.append(one[0])  # a call that was bound before the operation needs it now
        two = allreduce.bind([workers[1].echo.bind(one[1]), workers[2].make.bind(inp)])
        graph = MultiOutputNode([early, *two])
    with graph.compile() as compiled:
        for x in (1, 2):
            (_, got), left, right = shoal.get(compiled.execute(x), timeout=LONG_S)
            both = expected(allreduce.bind, x, 2)[0]
            np.testing.assert_array_equal(got, both)
            third = (np.arange(12.0).reshape(6, 2) + 2) * x
            np.testing.assert_array_equal(left, both + third)
            np.testing.assert_array_equal(right, left)


def test_tensors_and_actors_that_the_graph_makes(workers: list[Any]) -> None:
    with of(workers[:2], partial(allreduce.bind, op=ReduceOp.AVG), "tensor").compile() as compiled:
        for got in shoal.get(compiled.execute(3)):
            assert str(got.dtype) == "torch.bfloat16" and got.tolist() == [[3.5] * 3] * 2
    with InputNode() as inp:
        made = [Worker.bind(rank) for rank in range(2)]
        graph = MultiOutputNode(allgather.bind([node.make.bind(inp) for node in made]))
    for got in shoal.get(graph.execute(2)):
        np.testing.assert_array_equal(got, expected(allgather.bind, 2, 2)[0])


def test_misuse_of_bind(workers: list[Any]) -> None:
    with InputNode() as inp:
        one, two = (worker.make.bind(inp) for worker in workers[:2])
        again = workers[0].large.bind(inp)
        wrong: list[tuple[Any, str]] = [
            (partial(allreduce.bind, []), "takes a list with one node"),
            (partial(allreduce.bind, one), "takes a list with one node"),
            (partial(allreduce.bind, [inp, one]), "values that methods of actors return"),
            (partial(allreduce.bind, [one, again]), "an actor stands twice"),
            (partial(allreduce.bind, [one, one]), "an actor stands twice"),
            (partial(allreduce.bind, [[one, two], [two, one]]), "the same order"),
            (partial(allreduce.bind, [[one, two], [one]]), "the same order"),
            (partial(allgather.bind, [[one, two], [one, two]]), "takes one list"),
            (partial(allreduce.bind, [one, two], "sum"), "must be a ReduceOp"),
        ]
    for call, text in wrong:
        with pytest.raises(errors.GraphError, match=text):
            call()
    with pytest.raises(errors.NotSupportedError, match="shared memory"):
        allreduce.bind([one, two], transport="nccl")
    node = allreduce.bind([one, two])[0]
    assert isinstance(node, CollectiveOutputNode) and node.label == "Worker.allreduce"
    assert "Worker.allreduce" in of(workers, allreduce.bind).visualize()


def test_rooms_leave_nothing() -> None:
    def large() -> list[Any]:
        gc.collect()
        return [row for row in shoal.state.objects() if row.size_bytes > 50_000]

    eventually(lambda: not large(), LONG_S, "rooms and arrays are freed")
    audit = lowlevel.memory().audit()
    assert audit["wrong_counts"] == audit["leaked_blocks"] == 0
