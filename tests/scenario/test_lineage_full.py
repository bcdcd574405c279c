"""A full store whose values may leave for no file: what can be made again is given up.

The store has 32 MB, values 1 MB.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from shoal import errors
from shoal._runtime import cluster

STORE = 32 << 20
ONE = 1 << 20


@pytest.fixture(scope="module", autouse=True)
def without_files() -> Iterator[None]:
    with shoal.init(num_cpus=2, object_store_memory=STORE, object_spilling_directory=False):
        yield


@pytest.fixture(autouse=True)
def _end_session() -> Iterator[None]:
    """One session for all of them: ``without_files`` ends it."""
    yield


def array(i: int) -> Any:
    made = np.full(ONE // 8 - 100, i, dtype=np.int64)
    made[1] = -1  # zeros alone would survive a file that is cut and grows again
    return made


@shoal.remote(max_retries=3)
def made(i: int) -> Any:
    return array(i)


@shoal.remote(max_retries=3)
def plus(values: Any, i: int) -> Any:
    return values + i


@shoal.remote(max_retries=0)
def made_once(i: int) -> Any:
    return array(i)


@shoal.remote(max_retries=2)
def counted(directory: str, i: int) -> Any:
    with open(Path(directory, str(i)), "a") as file:
        file.write(".")
    return array(i)


def counts() -> dict[str, int]:
    found: dict[str, int] = cluster.table("session")[0]["lineage"]
    return found


def is_soon(what: Any) -> bool:
    deadline = time.monotonic() + 30
    while not what() and time.monotonic() < deadline:
        time.sleep(0.01)
    return bool(what())


def test_values_of_many_times_the_store_are_given_up_and_made_again() -> None:
    before = counts()
    refs = [made.remote(i) for i in range(150)]
    shoal.wait(refs, num_returns=150)
    assert counts()["evicted_bytes"] - before["evicted_bytes"] > 100 * ONE
    for i in range(0, 150, 3):
        value = shoal.get(refs[i])
        assert value[0] == value[-1] == i
        del value
    assert counts()["rebuilt"] > before["rebuilt"] and counts()["given_up"] == 0
    del refs
    assert is_soon(lambda: counts()["bytes"] == 0)


def test_what_a_value_is_made_of_stays_until_it_is_back() -> None:
    first = [made.remote(i) for i in range(5)]
    second = [plus.remote(ref, 100) for ref in first]
    shoal.wait(second, num_returns=5)
    more = [made.remote(i) for i in range(60)]
    shoal.wait(more, num_returns=60)
    del first
    assert [int(shoal.get(ref)[3]) for ref in second] == [100, 101, 102, 103, 104]


def test_what_may_not_run_again_stays_and_a_full_store_is_an_error() -> None:
    kept = [made_once.remote(i) for i in range(20)]
    shoal.wait(kept, num_returns=20)
    others = [made.remote(i) for i in range(20)]
    shoal.wait(others, num_returns=20)
    assert [int(shoal.get(ref)[0]) for ref in kept] == list(range(20))
    with pytest.raises(errors.ObjectStoreFullError):
        for _ in range(20):
            kept.append(shoal.put(array(1)))
    del kept
    assert [int(shoal.get(ref)[0]) for ref in others] == list(range(20))


def test_a_put_finds_the_room_of_results() -> None:
    refs = [made.remote(i) for i in range(24)]
    shoal.wait(refs, num_returns=24)
    puts = [shoal.put(array(i)) for i in range(16)]
    assert [int(shoal.get(ref)[0]) for ref in puts] == list(range(16))
    del puts
    assert [int(shoal.get(ref)[0]) for ref in refs] == list(range(24))


def test_no_more_runs_than_a_task_has(tmp_path: Path) -> None:
    refs = [counted.remote(str(tmp_path), i) for i in range(4)]
    shoal.wait(refs, num_returns=4)
    for _ in range(5):
        more = [made.remote(i) for i in range(40)]
        shoal.wait(more, num_returns=40)
        del more
        assert [int(shoal.get(ref)[0]) for ref in refs] == [0, 1, 2, 3]
    assert counts()["given_up"] == 0
    for i in range(4):
        assert 1 <= (tmp_path / str(i)).stat().st_size <= 3
