"""The disk of spilled values is really full: who finds no room is told why, nothing is lost, and it
goes on when there is room."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from shoal import errors
from tests.chaos import faults

ONE = 1 << 20
STORE = 96 << 20
DISK = 48 << 20
MOST = 200
"""Values; far more than both have room for."""
LONG_S = 100.0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk for spilled values."""
    with faults.small_disk(tmp_path / "disk", DISK) as is_small:
        if not is_small:
            pytest.skip("only who may mount has a disk to fill")
        yield tmp_path / "disk"
        shoal.shutdown()


def array(i: int) -> Any:
    return np.full(ONE // 8 - 100, i, dtype=np.int64)


@shoal.remote
def made(i: int) -> Any:
    return array(i)


def check(refs: list[Any]) -> None:
    for i, ref in enumerate(refs):
        value = shoal.get(ref, timeout=LONG_S)
        assert value[0] == value[-1] == i
        del value


def test_a_full_disk_is_named_nothing_is_lost_and_it_goes_on(disk: Path) -> None:
    with shoal.init(num_cpus=2, object_store_memory=STORE, object_spilling_directory=str(disk)):
        refs: list[Any] = []
        with pytest.raises(errors.ObjectStoreFullError) as caught:
            while len(refs) < MOST:
                refs.append(shoal.put(array(len(refs))))
        assert len(refs) * ONE > STORE + DISK // 2, "the disk was used first"
        assert str(disk) in caught.value.reason, caught.value.reason
        check(refs)
        # Half of it goes: then there is room again, for tasks too.
        refs[::2] = [None] * len(refs[::2])
        more = [made.remote(i) for i in range(len(refs) // 4)]
        check(more)
        for i, ref in enumerate(refs):
            if ref is not None:
                assert shoal.get(ref, timeout=LONG_S)[0] == i
        del refs, more, ref
    assert list(disk.iterdir()) == []
