"""What generators have yielded is made again: the generator runs as far as the last lost item.

The store has 32 MB here, values 1 MB, as in ``test_lineage``. Each run leaves a mark in a
directory, so that tests can tell how often it was.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import AsyncIterator, Iterator
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


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A session, and the directory that its values go to."""
    path = tmp_path_factory.mktemp("items")
    with shoal.init(num_cpus=2, object_store_memory=STORE, object_spilling_directory=str(path)):
        yield path


@pytest.fixture(autouse=True)
def _end_session() -> Iterator[None]:
    """One session for all of them: ``files`` ends it."""
    yield


@pytest.fixture(autouse=True)
def leaves_nothing(files: Path) -> Iterator[None]:
    yield
    gc.collect()
    deadline = time.monotonic() + 30
    while any(row.size_bytes >= ONE // 2 for row in shoal.state.objects()) or kept_bytes():
        assert time.monotonic() < deadline, (shoal.state.objects(), kept_bytes())
        time.sleep(0.02)


def kept_bytes() -> int:
    return int(cluster.table("session")[0]["lineage"]["bytes"])


def array(i: int) -> Any:
    return np.full(ONE // 8 - 100, i + 1, dtype=np.int64)


def values(refs: list[Any]) -> list[int]:
    out = []
    for ref in refs:
        value = shoal.get(ref)
        assert value[0] == value[-1]
        out.append(int(value[0]) - 1)
        del value
    return out


def mark(directory: str) -> None:
    """One more run of a generator."""
    attempt = shoal.get_runtime_context().attempt
    Path(directory, f"{attempt}-{time.monotonic_ns()}").touch()


def runs(directory: Path) -> list[int]:
    """The attempts that were, in order."""
    return sorted(int(path.name.split("-")[0]) for path in directory.iterdir())


@shoal.remote(num_returns="streaming", max_retries=2)
def counted(n: int, directory: str) -> Iterator[Any]:
    mark(directory)
    for i in range(n):
        yield array(i)


@shoal.remote(max_retries=2)
def plus(value: Any, i: int) -> Any:
    return value + i


def test_lost_items_are_made_by_one_more_run(files: Path, tmp_path: Path) -> None:
    refs = list(counted.remote(6, str(tmp_path)))
    assert len(refs) == 6
    lose(files, refs)
    assert values(refs) == [0, 1, 2, 3, 4, 5]
    assert runs(tmp_path) == [1, 2]


def test_only_what_is_lost_is_made_and_no_further(files: Path, tmp_path: Path) -> None:
    @shoal.remote(num_returns="streaming", max_retries=1)
    def told(directory: str) -> Iterator[Any]:
        for i in range(5):
            Path(directory, f"{i}-{time.monotonic_ns()}").touch()
            # Memory of their own: what shares it with something that is looked at stays too.
            yield np.full(3 * ONE // 8, i)

    refs = list(told.remote(str(tmp_path)))
    last = shoal.get(refs[4])  # looked at: it stays
    lose(files, [refs[1]])
    assert shoal.get(refs[1])[7] == 1
    made = sorted(int(path.name.split("-")[0]) for path in tmp_path.iterdir())
    assert made[:4] == [0, 0, 1, 1] and made.count(4) == 1, made
    assert shoal.get(refs[4]).ctypes.data == last.ctypes.data
    del last


def test_items_that_nobody_has_taken_yet(files: Path, tmp_path: Path) -> None:
    stream = counted.remote(5, str(tmp_path))
    taken = [next(stream), next(stream)]
    shoal.wait([stream.completed()])
    lose(files, taken)  # and what is behind them
    assert values([*taken, *stream]) == [0, 1, 2, 3, 4]
    assert runs(tmp_path)[0] == 1 and 2 in runs(tmp_path)


def test_items_while_their_generator_still_runs(files: Path, tmp_path: Path) -> None:
    @shoal.remote(num_returns="streaming", max_retries=2)
    def slow(directory: str) -> Iterator[Any]:
        mark(directory)
        for i in range(4):
            yield array(i)
            go = Path(directory).parent / "go"
            deadline = time.monotonic() + 30
            while i == 2 and not go.exists() and time.monotonic() < deadline:
                time.sleep(0.005)

    (marks := tmp_path / "marks").mkdir()
    stream = slow.remote(str(marks))
    refs = [next(stream) for _ in range(3)]
    lose(files, refs)
    assert values(refs) == [0, 1, 2]
    (tmp_path / "go").touch()
    assert values(list(stream)) == [3]
    assert runs(marks) == [1, 2]


def test_what_was_made_of_items_that_are_gone(files: Path, tmp_path: Path) -> None:
    out = [plus.remote(item, 100) for item in counted.remote(4, str(tmp_path))]
    lose(files, out)
    assert values(out) == [100, 101, 102, 103]
    lose(files, out[1:2])
    assert values(out) == [100, 101, 102, 103]


def test_items_are_arguments_that_are_lost(files: Path, tmp_path: Path) -> None:
    refs = list(counted.remote(4, str(tmp_path)))
    lose(files, refs)
    assert values([plus.remote(ref, 10) for ref in refs]) == [10, 11, 12, 13]
    assert values(refs) == [0, 1, 2, 3]


def test_dynamic_items(files: Path) -> None:
    @shoal.remote(num_returns="dynamic", max_retries=1)
    def split(n: int) -> Iterator[Any]:
        for i in range(n):
            yield array(10 * i)

    refs = list(shoal.get(split.remote(4)))
    lose(files, refs)
    assert values(refs) == [0, 10, 20, 30]


@pytest.mark.parametrize("is_call", [False, True], ids=["task", "call"])
def test_a_long_list_of_dynamic_items(files: Path, is_call: bool) -> None:
    """The list itself is large enough to leave memory: it is made again, with new items."""

    def split(n: int) -> Iterator[Any]:
        for i in range(n):
            yield array(i) if i % 1000 == 0 else i

    class Splits:
        def split(self, n: int) -> Iterator[Any]:
            yield from split(n)

    options = {"num_returns": "dynamic"}
    if is_call:
        actor = shoal.remote(Splits).options(max_task_retries=2).remote()
        whole = actor.split.options(**options).remote(3000)
    else:
        whole = shoal.remote(split).options(max_retries=2, **options).remote(3000)
    refs = list(shoal.get(whole))
    assert len(refs) == 3000
    lose(files, [whole, *refs[::1000]])
    again = list(shoal.get(whole))
    assert len(again) == 3000 and shoal.get(again[1:4]) == [1, 2, 3]
    assert values(again[::1000]) == values(refs[::1000]) == [0, 1000, 2000]
    del again
    lose(files, [whole])
    assert len(list(shoal.get(shoal.remote(lambda items: items).remote(whole)))) == 3000
    lose(files, [whole])
    with pytest.raises(errors.RebuildsUsedUpError):
        shoal.get(whole)
    assert shoal.get(refs[2999]) == 2999


@shoal.remote(num_returns="streaming", max_retries=1)
def varies(first: int, second: int) -> Iterator[Any]:
    attempt = shoal.get_runtime_context().attempt
    for i in range(first if attempt == 1 else second):
        yield array(i)


def test_a_generator_that_yields_fewer_items_the_second_time(files: Path) -> None:
    refs = list(varies.remote(4, 2))
    lose(files, refs)
    for ref in reversed(refs[2:]):
        with pytest.raises(errors.ReplayDiffersError, match=r"yielded 2 item\(s\)"):
            shoal.get(ref)
    more = list(varies.remote(2, 4))
    lose(files, more)
    assert values(more) == [0, 1]


def test_a_generator_that_raises_the_second_time(files: Path) -> None:
    @shoal.remote(num_returns="streaming", max_retries=1)
    def raises_later() -> Iterator[Any]:
        for i in range(4):
            if i == 2 and shoal.get_runtime_context().attempt > 1:
                raise LookupError("no third")
            yield array(i)

    refs = list(raises_later.remote())
    lose(files, refs)
    with pytest.raises(LookupError, match="no third"):
        shoal.get(refs[3])
    assert values(refs[:2]) == [0, 1]


def test_each_item_has_its_retries_and_no_more(files: Path, tmp_path: Path) -> None:
    refs = list(counted.remote(3, str(tmp_path)))
    for _ in range(2):
        lose(files, refs)
        assert values(refs) == [0, 1, 2]
    lose(files, refs[:2])
    for ref in refs[:2]:
        with pytest.raises(errors.RebuildsUsedUpError, match=r"3 times .*max_retries=2"):
            shoal.get(ref)


def test_a_generator_that_may_run_once_says_so(files: Path, tmp_path: Path) -> None:
    refs = list(counted.options(max_retries=0).remote(2, str(tmp_path)))
    lose(files, refs)
    with pytest.raises(errors.ObjectLostError, match="a generator that may not run again"):
        shoal.get(refs[0])


def test_a_worker_that_dies_while_it_makes_items_again(files: Path) -> None:
    @shoal.remote(num_returns="streaming", max_retries=3)
    def dies() -> Iterator[Any]:
        for i in range(3):
            if i == 1 and shoal.get_runtime_context().attempt == 2:
                os._exit(1)
            yield array(i)

    refs = list(dies.remote())
    lose(files, refs)
    assert values(refs) == [0, 1, 2]


def test_a_rebuild_of_items_has_the_time_of_its_task(files: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"

    @shoal.remote(num_returns="streaming", max_retries=2)
    def lingers(directory: str) -> Iterator[Any]:
        yield array(0)
        if shoal.get_runtime_context().attempt > 1:
            Path(directory, "again").touch()
            time.sleep(60)
        yield array(1)

    for timeout_s in (1, 5, 20):  # more where the machine is too busy to begin in time
        with pytest.raises(errors.DeadlineExceededError):
            refs = list(lingers.options(timeout_s=timeout_s).remote(str(tmp_path)))
            assert values(refs) == [0, 1]
            lose(files, refs)
            shoal.get(refs[1])
        if again.exists():
            break
    assert again.exists()


class Counts:
    def items(self, n: int) -> Iterator[Any]:
        for i in range(n):
            yield array(i)

    def here(self) -> bool:
        return True


class CountsLater:
    async def items(self, n: int) -> AsyncIterator[Any]:
        for i in range(n):
            yield array(i)

    async def here(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("cls", "options"),
    [(Counts, {}), (Counts, {"max_concurrency": 2}), (CountsLater, {})],
    ids=["serial", "threads", "asyncio"],
)
def test_items_of_actors(files: Path, cls: Any, options: dict[str, Any]) -> None:
    actor = shoal.remote(cls).options(max_task_retries=2, **options).remote()
    refs = list(actor.items.options(num_returns="streaming").remote(3))
    assert len(refs) == 3
    lose(files, refs)
    assert values(refs) == [0, 1, 2]
    once = list(actor.items.options(num_returns="streaming", max_task_retries=0).remote(1))
    lose(files, once)
    with pytest.raises(errors.ObjectLostError, match="may not run again"):
        shoal.get(once[0])
    shoal.kill(actor)
    with pytest.raises(errors.ActorDiedError):
        shoal.get(actor.here.remote())
    lose(files, refs)
    with pytest.raises(errors.ObjectNotRebuiltError, match="the actor whose method returned it"):
        shoal.get(refs[0])


def test_several_results_of_one_task_come_back_by_one_run(files: Path, tmp_path: Path) -> None:
    @shoal.remote(num_returns=5, max_retries=1)
    def five(directory: str) -> list[Any]:
        mark(directory)
        return [array(i) for i in range(5)]

    refs = five.remote(str(tmp_path))
    lose(files, refs)
    assert values(refs) == [0, 1, 2, 3, 4]
    assert runs(tmp_path) == [1, 2]
