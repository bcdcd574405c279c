"""What tasks may be given holds when they run again for a lost value: options, and being cancelled.

The store has 32 MB here, values 1 MB, as in ``test_lineage``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from shoal import errors
from shoal.util.placement_group import placement_group, remove_placement_group
from shoal.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from tests.scenario.losing import lose

STORE = 32 << 20
ONE = 1 << 20


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A session, and the directory that its values go to."""
    path = tmp_path_factory.mktemp("options")
    with shoal.init(
        num_cpus=2,
        object_store_memory=STORE,
        object_spilling_directory=str(path),
        resources={"gauge": 1},
    ):
        yield path


@pytest.fixture(autouse=True)
def _end_session() -> Iterator[None]:
    """One session for all of them: ``files`` ends it."""
    yield


def array(i: int) -> Any:
    return np.full(ONE // 8 - 100, i + 1, dtype=np.int64)


def attempt() -> int:
    return shoal.get_runtime_context().attempt


def until(path: Path) -> None:
    """Wait for a file; 30 s are more than any test should take."""
    deadline = time.monotonic() + 30
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.005)


@shoal.remote(max_retries=3)
def plus(value: Any, i: int) -> Any:
    return value + i


def test_a_worker_that_ends_after_each_call(files: Path) -> None:
    @shoal.remote(max_retries=2, max_calls=1)
    def once(i: int) -> Any:
        return array(10 * i + attempt())

    refs = [once.remote(i) for i in range(3)]
    lose(files, refs)
    assert [int(shoal.get(ref)[0]) - 1 for ref in refs] == [2, 12, 22]


def test_exceptions_in_a_rebuild_are_retried(files: Path) -> None:
    @shoal.remote(max_retries=3, retry_exceptions=[ValueError])
    def unsteady() -> Any:
        if attempt() == 2:
            raise ValueError("not now")
        return array(attempt())

    ref = unsteady.remote()
    lose(files, [ref])
    assert shoal.get(ref)[0] == 4


def test_resources_and_environment_are_those_of_the_first_run(files: Path) -> None:
    @shoal.remote(
        max_retries=1, resources={"gauge": 1}, runtime_env={"env_vars": {"SHOAL_TEST_COLOUR": "7"}}
    )
    def coloured() -> Any:
        return array(int(os.environ["SHOAL_TEST_COLOUR"]))

    ref = coloured.remote()
    assert shoal.get(plus.remote(ref, 0))[0] == 8
    lose(files, [ref])
    assert shoal.get(ref)[0] == 8


def test_a_group_that_was_removed_is_the_reason(files: Path) -> None:
    group = placement_group([{"CPU": 1}])
    shoal.get(group.ready())
    strategy = PlacementGroupSchedulingStrategy(group)
    ref = plus.options(scheduling_strategy=strategy).remote(array(1), 1)
    shoal.wait([ref])
    remove_placement_group(group)
    lose(files, [ref])
    with pytest.raises(errors.ObjectNotRebuiltError, match="its placement group was removed"):
        shoal.get(ref)


@shoal.remote(max_retries=2)
def slow(directory: str) -> Any:
    if attempt() > 1:
        Path(directory, "again").touch()
        until(Path(directory, "go"))
    return array(5)


def test_a_reader_that_is_cancelled_does_not_end_the_rebuild(files: Path, tmp_path: Path) -> None:
    ref = slow.remote(str(tmp_path))
    lose(files, [ref])
    reader = plus.remote(ref, 1)
    until(tmp_path / "again")
    shoal.cancel(reader)
    with pytest.raises(errors.TaskCancelledError):
        shoal.get(reader, timeout=20)
    assert not (tmp_path / "go").exists()
    (tmp_path / "go").touch()
    assert shoal.get(ref)[0] == 6


def test_what_has_been_made_once_is_not_cancelled(files: Path, tmp_path: Path) -> None:
    ref = slow.remote(str(tmp_path))
    lose(files, [ref])
    reader = plus.remote(ref, 1)
    until(tmp_path / "again")
    shoal.cancel(ref)  # its task has ended long ago
    (tmp_path / "go").touch()
    assert [int(shoal.get(each)[0]) for each in (ref, reader)] == [6, 7]


def test_a_lost_value_within_a_lost_value(files: Path) -> None:
    @shoal.remote(max_retries=2)
    def within(i: int) -> Any:
        return array(i + 100)

    @shoal.remote(max_retries=2)
    def outer(i: int) -> Any:
        return {"inner": within.remote(i), "bytes": array(i)}

    ref = outer.remote(3)
    inner = shoal.get(ref)["inner"]
    shoal.wait([inner])
    lose(files, [ref, inner])
    assert shoal.get(inner)[0] == 104
    value = shoal.get(ref)
    assert shoal.get(value["inner"])[0] == 104 and value["bytes"][0] == 4
    del value
