"""A generator stands still until its items are taken, and who takes them waits for a lost value
that only the generator's process, or what its task has been granted, can make again.

The store has 32 MB here, values 1 MB, the node one CPU and one pen.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from tests.scenario.losing import lose

ONE = 1 << 20
LIMIT = {"num_returns": "streaming", "_generator_backpressure_num_objects": 2}
MANY = 1_000_000
"""Items: a generator that went on without its consumer would not end in time."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A session, and the directory that its values go to."""
    path = tmp_path_factory.mktemp("standing")
    with shoal.init(
        num_cpus=1,
        resources={"pen": 1},
        object_store_memory=32 << 20,
        object_spilling_directory=str(path),
    ):
        yield path


@pytest.fixture(autouse=True)
def _end_session() -> Iterator[None]:
    """One session for all of them: ``files`` ends it."""
    yield


@pytest.fixture(autouse=True)
def leaves_nothing(files: Path) -> Iterator[None]:
    yield
    gc.collect()
    deadline = time.monotonic() + 20
    while any(row.size_bytes >= ONE // 2 for row in shoal.state.objects()):
        assert time.monotonic() < deadline, shoal.state.objects()
        time.sleep(0.02)


def array(i: int) -> Any:
    return np.full(ONE // 8 - 100, i, dtype=np.int64)


def first_of(ref: Any) -> int:
    value = shoal.get(ref)
    assert value[0] == value[-1]
    return int(value[0])


@shoal.remote(max_retries=2, resources={"pen": 1}, **LIMIT)
def items() -> Iterator[Any]:
    for i in range(MANY):
        yield array(i)


@shoal.remote(num_cpus=0)
def read(refs: list[Any]) -> list[int]:
    return [first_of(ref) for ref in refs]


class Maker:
    def __init__(self) -> None:
        self.calls = 0

    def items(self) -> Iterator[Any]:
        for i in range(MANY):
            yield array(i)

    def other(self) -> Any:
        self.calls += 1
        return array(1000 + self.calls)

    def dying(self, directory: str) -> Iterator[Any]:
        """The process that makes its items again dies once."""
        attempt = shoal.get_runtime_context().attempt
        for i in range(MANY):
            if i == 1 and attempt > 1 and not Path(directory, "died").exists():
                Path(directory, "died").touch()
                os._exit(1)
            yield array(i)


def test_a_task_that_has_what_the_rebuild_needs(files: Path) -> None:
    stream = items.remote()
    refs = [next(stream), next(stream)]
    lose(files, refs)
    assert [first_of(ref) for ref in refs] == [0, 1]
    assert [first_of(next(stream)) for _ in range(4)] == [2, 3, 4, 5]


@pytest.mark.parametrize("calls_at_once", [1, 2])
def test_an_actor_all_of_whose_calls_stand(files: Path, calls_at_once: int) -> None:
    actor = shoal.remote(Maker).options(max_task_retries=2, max_concurrency=calls_at_once).remote()
    other = actor.other.remote()
    assert first_of(other) == 1001
    streams = [actor.items.options(**LIMIT).remote() for _ in range(calls_at_once)]
    refs = [next(stream) for stream in streams for _ in range(2)]
    lose(files, [*refs, other])
    assert first_of(refs[0]) == 0
    assert shoal.get(read.remote(refs)) == [0, 1] * calls_at_once
    assert first_of(other) == 1002
    for stream in streams:
        assert [first_of(next(stream)) for _ in range(3)] == [2, 3, 4]


def test_a_process_that_dies_while_it_makes_what_stands_behind_it(
    files: Path, tmp_path: Path
) -> None:
    actor = shoal.remote(Maker).options(max_task_retries=3, max_restarts=3).remote()
    stream = actor.dying.options(**LIMIT).remote(str(tmp_path))
    refs = [next(stream), next(stream)]
    lose(files, refs)
    assert [first_of(ref) for ref in refs] == [0, 1]
    assert (tmp_path / "died").exists()
    assert [first_of(next(stream)) for _ in range(3)] == [2, 3, 4]
