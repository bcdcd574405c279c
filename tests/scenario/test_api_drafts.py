"""Arrays that are made inside the store: `lowlevel.create_array` and `lowlevel.seal`."""

from __future__ import annotations

import numpy as np
import pytest

import shoal
from shoal import errors, lowlevel


@shoal.remote
def total(array: np.ndarray) -> float:
    assert not array.flags.writeable
    return float(array.sum())


def test_what_was_filled_in_place_is_the_value() -> None:
    array = lowlevel.create_array((100, 1000), np.float64)
    array[:] = 1.5
    ref = lowlevel.seal(array)
    found = shoal.get(ref)
    assert found.shape == (100, 1000) and found.dtype == np.float64
    assert shoal.get(total.remote(ref)) == 150_000.0
    # The same bytes through two mappings: nothing was copied.
    assert array.flags.writeable is False
    assert np.array_equal(array, found)


@pytest.mark.parametrize("shape", [(), 0, 1, (3, 0), (2, 3, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.complex128, [("a", "i4"), ("b", "f8")], "S5"])
def test_every_shape_and_dtype(shape: int | tuple[int, ...], dtype: object) -> None:
    array = lowlevel.create_array(shape, dtype)
    wanted = np.zeros(shape, dtype)
    array[...] = wanted
    found = shoal.get(lowlevel.seal(array))
    assert found.dtype == wanted.dtype and found.shape == wanted.shape
    assert found.tobytes() == wanted.tobytes()


def test_the_array_outlives_its_ref_and_the_session() -> None:
    array = lowlevel.create_array(1000, np.int64)
    array[:] = 7
    ref = lowlevel.seal(array)
    del ref
    others = [shoal.put(np.full(1000, i)) for i in range(50)]
    assert set(array.tolist()) == {7}
    del others
    shoal.shutdown()
    assert set(array.tolist()) == {7}


def test_an_unsealed_one_gives_its_memory_back() -> None:
    shoal.init(num_cpus=1)
    memory = lowlevel.memory()
    before = memory.audit()
    array = lowlevel.create_array(1_000_000, np.uint8)
    assert memory.audit()["bytes"] >= before["bytes"] + 1_000_000
    del array
    assert memory.audit() == before
    late = lowlevel.create_array(10, np.uint8)
    shoal.shutdown()
    late[:] = 1  # its pages are private now: writing there harms nobody
    with pytest.raises(errors.SessionEndedError):
        lowlevel.seal(late)


def test_only_whole_drafts_can_be_sealed_and_once() -> None:
    array = lowlevel.create_array((4, 4))
    array[:] = 0
    for wrong in (np.zeros(4), array[:2], [1.0]):
        with pytest.raises(ValueError, match="create_array"):
            lowlevel.seal(wrong)
    lowlevel.seal(array)
    with pytest.raises(ValueError, match="sealed already"):
        lowlevel.seal(array)


@pytest.mark.parametrize("dtype", [object, "M8[s]"])
def test_dtypes_that_cannot_be_filled_in_place(dtype: object) -> None:
    with pytest.raises(ValueError, match="use put"):
        lowlevel.create_array(3, dtype)


def test_no_room() -> None:
    shoal.init(num_cpus=1, object_store_memory=32 << 20)
    with pytest.raises(errors.ObjectStoreFullError):
        lowlevel.create_array(64 << 20, np.uint8)
