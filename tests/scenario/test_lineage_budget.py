"""What lineage may keep, and values that are given up because they can be made again."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from shoal import errors
from shoal._runtime import cluster
from tests.scenario.losing import lose

STORE = 32 << 20
ONE = 1 << 20


def array(i: int) -> Any:
    made = np.full(ONE // 8 - 100, i, dtype=np.int64)
    made[1] = -1  # zeros alone would survive a file that is cut and grows again
    return made


@shoal.remote(max_retries=3)
def made(i: int) -> Any:
    return array(i)


def counts() -> dict[str, int]:
    found: dict[str, int] = cluster.table("session")[0]["lineage"]
    return found


def is_soon(what: Any) -> bool:
    deadline = time.monotonic() + 30
    while not what() and time.monotonic() < deadline:
        time.sleep(0.01)
    return bool(what())


def test_the_oldest_lineage_is_dropped_first_and_says_so(tmp_path: Path) -> None:
    place = {"object_store_memory": STORE, "object_spilling_directory": str(tmp_path)}
    with shoal.init(num_cpus=2, lineage_bytes=10_000, **place):
        first = made.remote(1)  # not 0: a file that is cut and then grows again has zeros there
        shoal.wait([first])  # what ended first is dropped first: a slow worker could end it last
        between = [made.remote(i) for i in range(2, 99)]
        shoal.wait(between, num_returns=97)
        last = made.remote(99)
        shoal.wait([last])
        assert is_soon(lambda: counts()["dropped"] > 0 and counts()["bytes"] <= 10_000)
        lose(tmp_path, [first, last])
        with pytest.raises(errors.LineageDroppedError, match=r"lineage was dropped.* 10,000 bytes"):
            shoal.get(first)
        assert shoal.get(last)[0] == 99
        del first, between, last
        assert is_soon(lambda: counts()["bytes"] == 0)


def test_without_a_budget_nothing_is_kept(tmp_path: Path) -> None:
    place = {"object_store_memory": STORE, "object_spilling_directory": str(tmp_path)}
    with shoal.init(num_cpus=2, lineage_bytes=0, **place):
        ref = made.remote(1)
        shoal.wait([ref])
        assert counts()["bytes"] == 0
        lose(tmp_path, [ref])
        with pytest.raises(errors.ObjectLostError, match="lineage_bytes=0"):
            shoal.get(ref)


def test_what_can_be_made_again_leaves_where_no_file_can_be_written(tmp_path: Path) -> None:
    place = tmp_path / "no directory"
    with shoal.init(num_cpus=2, object_store_memory=STORE, object_spilling_directory=str(place)):
        place.write_text("")
        refs = [made.remote(i) for i in range(80)]
        shoal.wait(refs, num_returns=80)
        assert counts()["evicted_bytes"] > 0
        for i in range(0, 80, 5):
            value = shoal.get(refs[i])
            assert value[0] == value[-1] == i
            del value
        assert counts()["rebuilt"] > 0 and counts()["given_up"] == 0


def test_the_option_is_looked_at() -> None:
    with pytest.raises(ValueError, match="lineage_bytes"):
        shoal.init(lineage_bytes=-1)
