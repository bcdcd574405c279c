"""Arrays come back as NumPy's own pickle would bring them, from fewer bytes."""

from __future__ import annotations

import copyreg
import pickle
import sys
from typing import Any

import numpy as np
import pytest

from shoal._runtime import array_pickles


class Kelvin(np.ndarray):
    """A subclass has a pickle of its own."""


def read_only(parts: list[pickle.PickleBuffer]) -> list[bytes]:
    return [bytes(part.raw()) for part in parts]


def there_and_back(value: Any) -> tuple[Any, int]:
    parts: list[pickle.PickleBuffer] = []
    data = array_pickles.dumps(value, parts.append)
    return pickle.loads(data, buffers=read_only(parts)), len(data)


def as_numpy_does(value: Any) -> tuple[Any, int]:
    parts: list[pickle.PickleBuffer] = []
    data = pickle.dumps(value, 5, buffer_callback=parts.append)
    return pickle.loads(data, buffers=read_only(parts)), len(data)


SHORT = [
    *[np.arange(6).astype(code) for code in np.typecodes["All"] if code not in "SUVOMm"],
    np.array(5.0),
    np.zeros(0),
    np.zeros((0, 3)),
    np.zeros((3, 0)),
    np.arange(24).reshape(2, 3, 4),
    np.arange(10)[3:7],
]
AS_EVER = [
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.arange(10)[::2],
    np.broadcast_to(np.ones(1), (4,)),
    np.array([1, 2], ">i8"),
    np.array(["a", "bc"]),
    np.array(["2020-01-01"], "M8[D]"),
    np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
    np.array([[], [1], None, "x"], dtype=object),
    np.arange(3).view(Kelvin),
    np.ma.masked_array([1, 2], mask=[True, False]),
]


@pytest.mark.parametrize("array", SHORT + AS_EVER, ids=lambda a: f"{a.dtype} {a.shape}")
def test_an_array_is_what_numpy_would_bring(array: np.ndarray) -> None:
    found, _ = there_and_back(array)
    expected, _ = as_numpy_does(array)
    assert type(found) is type(expected) and found.shape == expected.shape
    assert found.dtype == expected.dtype and found.flags.writeable == expected.flags.writeable
    assert found.tolist() == expected.tolist()
    assert found.flags.f_contiguous == expected.flags.f_contiguous


@pytest.mark.parametrize("array", SHORT, ids=lambda a: f"{a.dtype} {a.shape}")
def test_it_takes_less_than_half(array: np.ndarray) -> None:
    assert there_and_back(array)[1] * 2 < as_numpy_does(array)[1]


def test_one_array_in_two_places_stays_one() -> None:
    array = np.arange(3)
    (first, second), _ = there_and_back((array, [array]))
    assert first is second[0]


def test_whoever_registered_a_reducer_of_arrays_keeps_it() -> None:
    copyreg.pickle(np.ndarray, lambda array: (list, (array.tolist(),)))
    try:
        assert there_and_back(np.arange(3))[0] == [0, 1, 2]
    finally:
        del copyreg.dispatch_table[np.ndarray]


@pytest.mark.parametrize(
    ("value", "are_meant"),
    [
        (np.zeros(1), True),
        ((np.zeros(1),), True),
        ([1, {"a": np.zeros(1)}], True),
        ({"a": 1, "b": np.zeros(1)}, True),
        (([], {"a": np.zeros(1)}), True),
        ([[[np.zeros(1)]]], True),
        (Kelvin((1,)), True),
        ([1, "a", None], False),
        ((), False),
        ({"a": 1.0, "b": b""}, False),
        ("text", False),
    ],
)
def test_what_may_hold_arrays_is_seen_by_a_look(value: Any, are_meant: bool) -> None:
    has_tensors = "torch" in sys.modules  # then all go this way
    assert array_pickles.are_meant(value) is (are_meant or has_tensors)
