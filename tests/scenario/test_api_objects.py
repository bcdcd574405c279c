"""Values through the public API: immutability, waiting, asyncio, futures, completion order."""

from __future__ import annotations

import asyncio
import gc
import pickle
import time
import warnings
import weakref
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import shoal
from shoal import errors


@shoal.remote
def after(seconds: float, value: Any = None) -> Any:
    time.sleep(seconds)
    return value


@shoal.remote
def make(value: Any) -> Any:
    return value


def test_arrays_are_read_only_at_any_depth() -> None:
    value = {"a": [np.arange(10), (np.zeros((300, 300)),)], "b": np.ones(3)}
    for ref in (shoal.put(value), make.remote(value)):
        got = shoal.get(ref)
        for array in (got["a"][0], got["a"][1][0], got["b"]):
            assert not array.flags.writeable
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 1
        copy = got["b"].copy()
        copy[0] = 5
        assert shoal.get(ref)["b"][0] == 1


def test_values_are_read_in_place() -> None:
    ref = shoal.put(np.zeros(1_000_000))
    a, b = shoal.get(ref), shoal.get(ref)
    assert a.__array_interface__["data"][0] == b.__array_interface__["data"][0]


def test_arrays_outlive_their_refs() -> None:
    array = shoal.get(shoal.put(np.arange(300_000)))
    gc.collect()
    others = [shoal.put(np.zeros(300_000)) for _ in range(5)]
    assert array[-1] == 299_999 and len(others) == 5


def test_orders_and_types_of_arrays() -> None:
    for array in (
        np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        np.arange(100)[::3],
        np.array(["a", "bc"]),
        np.array([1, None], dtype=object),
        np.zeros((0, 3)),
        np.arange(5).astype("datetime64[s]"),
        np.float32(3),
    ):
        got = shoal.get(make.remote(array))
        assert np.array_equal(got, array) and got.dtype == array.dtype


def test_pandas_and_arrow() -> None:
    frame = pd.DataFrame({"x": np.arange(1000), "y": np.arange(1000) / 2, "z": ["t"] * 1000})
    pd.testing.assert_frame_equal(shoal.get(make.remote(frame)), frame)
    table = pa.table({"x": list(range(1000))})
    assert shoal.get(make.remote(table)).equals(table)
    with pytest.raises(ValueError, match="read-only"):
        shoal.get(shoal.put(frame)).x.to_numpy()[0] = 1


def test_wait_keeps_order_and_limit() -> None:
    refs = [shoal.put(i) for i in range(5)]
    ready, rest = shoal.wait(refs, num_returns=2)
    assert ready == refs[:2] and rest == refs[2:]
    slow = after.remote(30)
    ready, rest = shoal.wait([slow, *refs], num_returns=6, timeout=0.05)
    assert ready == refs and rest == [slow]
    assert shoal.wait([slow], timeout=0) == ([], [slow])
    assert shoal.wait([]) == ([], [])
    began = time.monotonic()
    ready, rest = shoal.wait([slow, after.remote(0.1), slow_put()], num_returns=2)
    assert len(ready) == 2 and time.monotonic() - began < 10


def slow_put() -> Any:
    return after.remote(0.05)


def test_get_of_lists_and_timeouts() -> None:
    assert shoal.get([]) == []
    assert shoal.get((shoal.put(1), shoal.put(2))) == (1, 2)
    ref = after.remote(0.2, "late")
    with pytest.raises(errors.GetTimeoutError, match="not ready after 0") as caught:
        shoal.get(ref, timeout=0)
    assert isinstance(caught.value, TimeoutError)
    with pytest.raises(TimeoutError):
        shoal.get([ref, ref], timeout=0.01)
    assert shoal.get(ref, timeout=30) == "late"


def test_as_completed_yields_by_completion() -> None:
    refs = [after.remote(t, t) for t in (0.4, 0.0)]
    done = shoal.put("there")
    order = list(shoal.as_completed([*refs, done]))
    assert set(order) == {*refs, done} and len(order) == 3
    late = after.remote(600, "late")
    assert next(shoal.as_completed([late, done])) == done
    with pytest.raises(errors.GetTimeoutError):
        list(shoal.as_completed([after.remote(30)], timeout=0.05))
    assert list(shoal.as_completed([])) == []


def test_as_completed_over_many() -> None:
    refs = [make.remote(i) for i in range(5000)]
    assert sorted(shoal.get(list(shoal.as_completed(refs)))) == list(range(5000))


def test_await_and_gather() -> None:
    async def main() -> Any:
        ref = after.remote(0.05, "x")
        pair = asyncio.gather(ref, after.remote(0.02, "y"), shoal.put("z"))
        with pytest.raises(ZeroDivisionError):
            await divide.remote(1, 0)
        many = await asyncio.gather(*[make.remote(i) for i in range(300)])
        return await pair, await ref, many

    @shoal.remote
    def divide(a: int, b: int) -> float:
        return a / b

    assert asyncio.run(main()) == (["x", "y", "z"], "x", list(range(300)))
    assert asyncio.run(main())[1] == "x"


def test_futures() -> None:
    future = after.remote(0.05, 5).future()
    assert future.result(timeout=30) == 5
    assert shoal.put(1).future().result() == 1
    seen: list[Any] = []
    other = after.remote(0.05, 6).future()
    other.add_done_callback(lambda f: seen.append(f.result()))
    assert other.result(timeout=30) == 6 and seen == [6]


def test_refs_hash_and_compare() -> None:
    ref = shoal.put(1)
    again = shoal.get(shoal.put([ref]))[0]
    assert ref == again and ref != shoal.put(1) and len({ref, again}) == 1
    assert len(ref.hex()) == 64 and ref.binary().hex() == ref.hex()


def test_refs_inside_values_keep_what_they_name() -> None:
    inner = shoal.put(np.arange(1000))
    outer = shoal.put({"deep": [inner]})
    del inner
    gc.collect()
    assert shoal.get(shoal.get(outer)["deep"][0])[-1] == 999
    returned = make.remote([shoal.put("of the driver")])
    assert shoal.get(shoal.get(returned)[0]) == "of the driver"


def test_a_ref_pickled_outside_warns_and_is_kept() -> None:
    ref = shoal.put("kept")
    with pytest.warns(UserWarning, match="outside"):
        data = pickle.dumps(ref)
    del ref
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert shoal.get(pickle.loads(data)) == "kept"


def test_memory_is_empty_after_the_last_ref() -> None:
    shoal.init(num_cpus=2)

    @shoal.remote
    def work(a: Any, b: Any) -> Any:
        return [shoal.put(a), b]

    memory = shoal.lowlevel.memory()
    refs = [work.remote(np.ones(20_000), shoal.put([i])) for i in range(20)]
    shoal.get(refs)
    used = memory.usage()[0]
    del refs
    gc.collect()
    assert memory.usage()[0] < used
    deadline = time.monotonic() + 30
    while len([o for o in shoal.state.objects() if o.size_bytes > 10_000]) > 0:
        assert time.monotonic() < deadline, shoal.state.objects()
        time.sleep(0.02)


def test_refs_can_be_referred_to_weakly_and_cost_the_collector_nothing() -> None:
    ref = shoal.put(1)
    gone: list[object] = []
    weak = weakref.ref(ref, gone.append)
    table = weakref.WeakKeyDictionary({ref: "kept"})
    assert weak() is ref and table[ref] == "kept" and not gc.is_tracked(ref)
    del ref
    assert weak() is None and len(table) == 0 and gone == [weak]
