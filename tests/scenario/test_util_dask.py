"""Dask on Shoal: results are those of Dask's own scheduler."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from typing import Any

import dask
import dask.array
import dask.dataframe
import numpy
import pandas
import pytest
from dask.diagnostics import CacheProfiler, Profiler, ProgressBar

import shoal
from shoal import lowlevel
from shoal.util.dask import (
    ShoalDaskCallback,
    disable_dask_on_shoal,
    enable_dask_on_shoal,
    shoal_dask_get,
    shoal_dask_get_sync,
)
from tests.torture.processes import eventually


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    with shoal.init(num_cpus=2, resources={"disk": 1}):
        yield


@pytest.fixture(autouse=True)
def _end_session() -> None:
    """One session serves the file."""


@dask.delayed
def inc(x: int) -> int:
    return x + 1


@dask.delayed
def fail(x: int) -> None:
    raise KeyError(x)


def both(collection: Any) -> tuple[Any, Any]:
    return (
        collection.compute(scheduler=shoal_dask_get),
        collection.compute(scheduler="synchronous"),
    )


def frame() -> pandas.DataFrame:
    return pandas.DataFrame({"k": numpy.arange(200) % 7, "v": numpy.arange(200.0)})


def test_an_array() -> None:
    x = dask.array.random.RandomState(0).random((300, 300), chunks=(100, 100))
    for collection in (x, x.T @ x, (x + x.T).mean(axis=0), x[::3, 5:].std(), x.rechunk(150)):
        ours, theirs = both(collection)
        # Not to the last bit: a matrix product adds up in an order that its operands' addresses
        # decide, and those of values differ from those of arrays in private memory.
        numpy.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_an_array_of_a_large_constant_that_is_put_once() -> None:
    x = dask.array.from_array(numpy.arange(200_000.0), chunks=50_000)
    ours, theirs = both((x * 2).sum())
    assert ours == theirs
    eventually(lambda: lowlevel.memory().audit()["bytes"] < 1e5, 30, "the constant stays")


def test_a_data_frame_and_its_shuffle() -> None:
    whole = frame()
    parts = dask.dataframe.from_pandas(whole, npartitions=4)
    for collection in (parts.groupby("k").v.sum(), parts.v.mean(), parts[parts.k == 3]):
        ours, theirs = both(collection)
        if isinstance(ours, pandas.Series | pandas.DataFrame):
            assert ours.sort_index().equals(theirs.sort_index())
        else:
            assert ours == theirs
    with enable_dask_on_shoal():
        shuffled = parts.shuffle("k")
        where = shuffled.map_partitions(lambda part: part.k.drop_duplicates()).compute()
        assert sorted(where) == list(range(7)), "each key is in one partition"
        assert shuffled.compute().sort_index().equals(whole)
        assert parts.set_index("v").k.compute().equals(whole.set_index("v").k)
        joined = parts.merge(parts, on="v").compute()
    assert len(joined) == 200


def test_persisted_values_stay_in_the_store() -> None:
    x = dask.array.ones(200_000, chunks=50_000)
    kept = (x + 1).persist(scheduler=shoal_dask_get)
    eventually(lambda: lowlevel.memory().audit()["bytes"] > 1.5e6, 30, "results are put")
    assert float(kept.sum().compute(scheduler=shoal_dask_get)) == 400_000
    assert float(kept.sum().compute(scheduler="threads")) == 400_000
    with enable_dask_on_shoal():
        (again,) = dask.persist(kept * 2)
        assert float(again.sum().compute()) == 800_000
    del kept, again
    eventually(lambda: lowlevel.memory().audit()["bytes"] < 1e5, 30, "they stay for nobody")


def test_graphs_by_hand() -> None:
    graph = {"x": 1, "y": (inc_now, "x"), "z": (sum, ["x", "y", 10]), "same": "z"}
    assert shoal_dask_get(graph, "z") == 13
    assert shoal_dask_get(graph, [["x", "y"], "same"]) == [[1, 2], 13]
    assert list(shoal_dask_get_sync(graph, ["z"])) == [13]
    with pytest.raises(ValueError, match="nowhere"):
        shoal_dask_get(graph, ["nowhere"])


def inc_now(x: int) -> int:
    return x + 1


def test_delayed_and_their_errors() -> None:
    assert both(inc(inc(1))) == (3, 3)
    with pytest.raises(KeyError) as raised:
        inc(fail(7)).compute(scheduler=shoal_dask_get)
    assert type(raised.value) is KeyError and raised.value.args == (7,)
    assert isinstance(raised.value.__cause__, shoal.errors.TaskError)
    values = dask.compute(inc(1), {"a": [inc(2)]}, 5, scheduler=shoal_dask_get)
    assert values == (2, {"a": [3]}, 5)


def test_annotations_are_options() -> None:
    @dask.delayed
    def held() -> Any:
        return shoal.get_runtime_context().get_assigned_resources()

    with dask.annotate(num_cpus=2, resources={"disk": 0.5}):
        both_of = held()
    with dask.annotate(remote_args={"num_cpus": 0.25}):
        little = held()
    get = shoal_dask_get
    assert dask.compute(both_of, little, scheduler=get) == (
        {"CPU": 2.0, "disk": 0.5},
        {"CPU": 0.25},
    )
    assert held().compute(scheduler=get, remote_args={"num_cpus": 0.5}) == {"CPU": 0.5}


def test_the_usual_scheduler() -> None:
    @dask.delayed
    def process() -> int:
        return os.getpid()

    with enable_dask_on_shoal():
        assert process().compute() != os.getpid()
        with disable_dask_on_shoal():
            assert process().compute() == os.getpid()


def test_callbacks() -> None:
    seen: list[Any] = []

    class Notes(ShoalDaskCallback):
        def _presubmit(self, task: Any, key: Any, refs: list[Any]) -> Any:
            return 100 if str(key).startswith("first") else None

        def _postsubmit(self, task: Any, key: Any, refs: list[Any], ref: Any) -> None:
            seen.append(str(key).partition("-")[0])

        def _pretask(self, key: Any, values: Any) -> Any:
            return "state"

        def _posttask(self, key: Any, result: Any, state: Any) -> None:
            assert state == "state"

        def _finish(self, results: Any) -> None:
            seen.append(results)

    first = inc(1, dask_key_name="first")
    with Notes():
        assert inc(first, dask_key_name="second").compute(scheduler=shoal_dask_get) == 101
    assert seen == ["second", [101]]
    with pytest.raises(TypeError, match="presubmit"):
        ShoalDaskCallback(before=print)
    text = io.StringIO()
    with ProgressBar(out=text):
        assert inc(1).compute(scheduler=shoal_dask_get) == 2
    assert "100% Completed" in text.getvalue()


def test_a_graph_inside_of_a_task() -> None:
    @shoal.remote
    def nested() -> float:
        return float(dask.array.ones(100, chunks=10).sum().compute(scheduler=shoal_dask_get))

    assert shoal.get([nested.remote() for _ in range(3)], timeout=60) == [100.0] * 3


def test_a_cycle_is_told() -> None:
    for graph in (
        {"a": (inc_now, "b"), "b": (inc_now, "a")},
        {"a": (inc_now, "b"), "b": (inc_now, "a"), "c": (inc_now, "a"), "d": (sum, ["c", "b"])},
    ):
        with pytest.raises(RuntimeError, match="Cycle"):
            shoal_dask_get(graph, "a")


def test_odd_graphs() -> None:
    get = shoal_dask_get
    assert get({}, []) == [] and get({"x": None}, ["x"]) == [None]
    keys = [("x", 1), [("x", 0), []]]
    assert get({("x", 0): 1, ("x", 1): (inc_now, ("x", 0))}, keys) == [2, [1, []]]
    assert dask.compute(scheduler=get) == dask.persist(scheduler=get) == ()
    assert get({1: (inc_now, (inc_now, 5))}, 1) == 7
    assert dask.array.zeros((0, 3), chunks=(1, 3)).compute(scheduler=get).shape == (0, 3)
    assert len(dask.dataframe.from_pandas(frame()[:0], npartitions=1).compute(scheduler=get)) == 0


def test_refs_have_names_in_hashes_of_dask(recwarn: pytest.WarningsRecorder) -> None:
    ref = shoal.put(numpy.ones(50_000))
    token = dask.base.tokenize(ref)
    assert token == dask.base.tokenize(ref) != dask.base.tokenize(shoal.put(1))
    summed = dask.delayed(lambda one: float(shoal.get(one).sum()))(ref)
    assert summed.compute(scheduler=shoal_dask_get) == 50_000
    del ref, summed
    eventually(lambda: lowlevel.memory().audit()["bytes"] < 1e5, 30, "hashing keeps values")
    assert not [one for one in recwarn if "pickled outside" in str(one.message)]


def test_profilers_of_dask() -> None:
    with Profiler() as times, CacheProfiler() as sizes:
        assert dask.array.ones(10, chunks=2).sum().compute(scheduler=shoal_dask_get) == 10
    assert times.results and sizes.results
