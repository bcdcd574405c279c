"""Values whose file is damaged are made again by their task, or say why they cannot be.

The store has 32 MB here, values 1 MB. A value is lost by pushing it into a file (``ballast`` fills
the store twice), and cutting all files.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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
    path = tmp_path_factory.mktemp("lineage")
    with shoal.init(num_cpus=2, object_store_memory=STORE, object_spilling_directory=str(path)):
        yield path


@pytest.fixture(autouse=True)
def _end_session() -> Iterator[None]:
    """One session for all of them: ``files`` ends it."""
    yield


@pytest.fixture(autouse=True)
def leaves_nothing(files: Path) -> Iterator[None]:
    yield
    deadline = time.monotonic() + 30
    while any(row.size_bytes >= ONE // 2 for row in shoal.state.objects()) or counts()["bytes"]:
        assert time.monotonic() < deadline, (shoal.state.objects(), counts())
        time.sleep(0.02)


def counts() -> dict[str, int]:
    found: dict[str, int] = cluster.table("session")[0]["lineage"]
    return found


def array(i: int, size: int = ONE) -> Any:
    found = np.full(size // 8 - 100, i, dtype=np.int64)
    found[-2] = -1  # zeros alone would survive a file that is cut and grows again
    return found


def attempt() -> int:
    return shoal.get_runtime_context().attempt


@shoal.remote(max_retries=3)
def made(i: int) -> Any:
    return array(i)


@shoal.remote(max_retries=3)
def plus(values: Any, i: int) -> Any:
    return values + i


def test_lost_results_are_made_again(files: Path) -> None:
    before = counts()["rebuilt"]
    refs = [made.remote(i) for i in range(20)]
    lose(files, refs)
    for i, ref in enumerate(refs):
        value = shoal.get(ref)
        assert value[0] == value[-1] == i and value.shape == array(i).shape
        del value
    assert counts()["rebuilt"] - before >= 15


def test_what_was_dropped_on_the_way_is_made_again_too(files: Path) -> None:
    ref = made.remote(1)
    for i in range(10):
        ref = plus.remote(ref, i)  # nobody keeps what is in between
    lose(files, [ref])
    value = shoal.get(ref)
    assert value[0] == value[-1] == 46
    del value
    lose(files, [ref])
    assert shoal.get(ref)[7] == 46


@shoal.remote(max_retries=3)
def small() -> Any:
    return array(0, 48_000)


def test_a_long_chain_is_made_again_for_three_readers(files: Path) -> None:
    ref = small.remote()
    for _ in range(300):
        ref = plus.remote(ref, 1)
        shoal.wait([ref])  # so that memory is never full, and all recipes are there
    lose(files, [ref])
    before = counts()["rebuilt"]
    with ThreadPoolExecutor(3) as readers:
        found = readers.map(lambda _: int(shoal.get(ref)[0]), range(3))
        assert list(found) == [300, 300, 300]
    assert counts()["rebuilt"] == before + 1


def test_lost_arguments_are_made_again_first(files: Path) -> None:
    first = [made.remote(i) for i in range(4)]
    second = [plus.remote(ref, 100) for ref in first]
    third = [plus.remote(ref, 1000) for ref in second]
    lose(files, [*first, *second, *third])
    assert [int(shoal.get(ref)[3]) for ref in third] == [1100, 1101, 1102, 1103]
    assert [int(shoal.get(ref)[3]) for ref in first] == [0, 1, 2, 3]
    assert [int(shoal.get(ref)[3]) for ref in second] == [100, 101, 102, 103]


def test_a_task_waits_for_a_lost_argument_while_its_cpu_is_lent(files: Path) -> None:
    refs = [made.remote(i) for i in range(6)]
    lose(files, refs)
    assert [int(shoal.get(plus.remote(ref, 10))[0]) for ref in refs] == [10, 11, 12, 13, 14, 15]


def test_arguments_that_nobody_else_has_are_kept(files: Path) -> None:
    ref = plus.remote(array(5), 1)  # the array is a value of its own, that only lineage knows then
    lose(files, [ref])
    try:
        assert shoal.get(ref)[0] == 6
    except errors.ObjectLostError as error:  # it was in a file as well
        assert "made by put" in str(error)


@shoal.remote(num_returns=3, max_retries=2)
def three(i: int, directory: str) -> Any:
    Path(directory, f"ran-{i}-{attempt()}").touch()
    # Memory of their own: what shares it with something that is looked at stays too.
    return array(i, 3 * ONE), i, array(i + 1, 3 * ONE)


def test_of_several_returns_only_the_lost_are_replaced(files: Path, tmp_path: Path) -> None:
    a, b, c = three.remote(5, str(tmp_path))
    kept = shoal.get(c)  # looked at: it stays
    lose(files, [a])
    assert shoal.get(a)[0] == 5 and shoal.get(b) == 5
    assert shoal.get(c)[0] == 6 and shoal.get(c).ctypes.data == kept.ctypes.data
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ran-5-1", "ran-5-2"]
    del kept


@shoal.remote(max_retries=2)
def who() -> Any:
    context = shoal.get_runtime_context()
    return np.frombuffer(f"{attempt()} {context.get_task_id()} ".encode() * 20000, dtype=np.uint8)


def test_attempts_are_counted_and_are_of_the_same_task(files: Path) -> None:
    ref = who.remote()
    first = shoal.get(ref)[:100].tobytes().split()
    for number in (b"2", b"3"):
        lose(files, [ref])
        assert shoal.get(ref)[:100].tobytes().split()[:2] == [number, first[1]]
    lose(files, [ref])
    with pytest.raises(errors.ObjectLostError, match=r"run 3 times already, and max_retries=2"):
        shoal.get(ref)


@shoal.remote(max_retries=0)
def made_once(i: int) -> Any:
    return array(i)


@shoal.remote
class Maker:
    def make(self, i: int) -> Any:
        return array(i)


@shoal.remote(max_task_retries=2)
class Counter:
    def __init__(self) -> None:
        self.calls = 0

    def next(self, values: Any = None) -> Any:
        self.calls += 1
        return array(1000 * attempt() + self.calls + (0 if values is None else int(values[0])))

    def total(self) -> int:
        return self.calls


def test_results_of_actors_are_made_again_where_calls_may_be_repeated(files: Path) -> None:
    counter = Counter.remote()
    first = counter.next.remote()
    second = counter.next.remote(first)
    assert [int(shoal.get(ref)[0]) for ref in (first, second)] == [1001, 2003]
    lose(files, [first])
    assert shoal.get(first)[0] == 2003  # the third call, and the second attempt of the first
    assert shoal.get(counter.total.remote()) == 3
    once = counter.next.options(max_task_retries=0).remote()
    lose(files, [once])
    with pytest.raises(errors.ObjectLostError, match="max_task_retries=0"):
        shoal.get(once)
    assert shoal.get(counter.total.remote()) == 4


def test_results_of_actors_have_their_retries_and_no_more(files: Path) -> None:
    counter = Counter.options(max_concurrency=2).remote()
    ref = counter.next.remote()
    for number in (2, 3):
        lose(files, [ref])
        assert shoal.get(ref)[0] == 1000 * number + number
    lose(files, [ref])
    with pytest.raises(errors.ObjectLostError, match=r"3 times already, and max_task_retries=2"):
        shoal.get(ref)


def test_what_an_ended_actor_has_returned_is_lost(files: Path) -> None:
    counter = Counter.remote()
    ref = counter.next.remote()
    shoal.wait([ref])
    shoal.kill(counter)
    with pytest.raises(errors.ActorDiedError):
        shoal.get(counter.total.remote())
    lose(files, [ref])
    with pytest.raises(errors.ObjectLostError, match="the actor whose method returned it"):
        shoal.get(ref)


@shoal.remote(max_retries=2)
def lingers(directory: str) -> Any:
    if attempt() > 1:
        Path(directory, "again").touch()
        time.sleep(60)
    return array(4)


def test_a_rebuild_has_the_time_of_its_task(files: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    for timeout_s in (1, 5, 20):  # more where the machine is too busy to begin in time
        ref = lingers.options(timeout_s=timeout_s).remote(str(tmp_path))
        with pytest.raises(errors.DeadlineExceededError):
            shoal.get(ref)
            lose(files, [ref])
            shoal.get(ref)
        if again.exists():
            break
    assert again.exists()


def test_what_cannot_be_made_again_says_why(files: Path) -> None:
    maker = Maker.remote()
    once, put, called = made_once.remote(1), shoal.put(array(2)), maker.make.remote(3)
    lose(files, [once, put, called])
    for ref, why in (
        (once, "max_retries=0"),
        (put, "made by put"),
        (called, "an actor's method returned it"),
    ):
        with pytest.raises(errors.ObjectLostError, match=why) as caught:
            shoal.get(ref)
        told = str(caught.value)
        assert ref.hex() in told and re.search("spill (is too short|was changed)", told), told
        with pytest.raises(errors.ObjectLostError, match=why):
            shoal.get(plus.remote(ref, 1))


@shoal.remote(max_retries=1)
def fails_later(i: int) -> Any:
    if attempt() > 1:
        raise ValueError(f"no {i}")
    return array(i)


def test_a_rebuild_that_fails_gives_its_error(files: Path) -> None:
    ref = fails_later.remote(7)
    after = plus.remote(ref, 1)
    shoal.wait([after])
    lose(files, [ref, after])
    with pytest.raises(ValueError, match="no 7"):
        shoal.get(ref)
    with pytest.raises((ValueError, errors.ObjectLostError)):
        shoal.get(after)


@shoal.remote(max_retries=3)
def dies_once(directory: str) -> Any:
    if attempt() == 2:
        Path(directory, "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return array(attempt())


def test_a_worker_that_dies_in_a_rebuild(files: Path, tmp_path: Path) -> None:
    ref = dies_once.remote(str(tmp_path))
    lose(files, [ref])
    assert shoal.get(ref)[0] == 3 and (tmp_path / "died").exists()


@shoal.remote(max_retries=2)
def slow(directory: str) -> Any:
    if attempt() > 1:
        deadline = time.monotonic() + 60
        while not Path(directory, "go").exists() and time.monotonic() < deadline:
            time.sleep(0.005)
    return array(9)


def test_a_get_with_a_timeout_does_not_wait_for_the_rebuild(files: Path, tmp_path: Path) -> None:
    ref = slow.remote(str(tmp_path))
    lose(files, [ref])
    for _ in range(2):
        with pytest.raises(errors.GetTimeoutError):
            shoal.get(ref, timeout=0.1)
    (tmp_path / "go").touch()
    assert shoal.get(ref)[0] == 9


@shoal.remote(max_retries=2)
def holder() -> Any:
    return {"inner": shoal.put(77), "bytes": array(1)}


def test_refs_inside_a_value_are_made_again(files: Path) -> None:
    ref = holder.remote()
    lose(files, [ref])
    value = shoal.get(ref)
    assert shoal.get(value["inner"]) == 77 and value["bytes"][0] == 1
    del value


@shoal.remote(num_cpus=2)
def outer(i: int) -> int:
    """Has all CPUs, and reads what has to be made again with one."""
    refs = [made.remote(i) for _ in range(40)]
    return sum(int(shoal.get(ref)[0]) for ref in refs)


def test_lineage_of_nested_tasks(files: Path) -> None:
    assert shoal.get(outer.remote(3)) == 120
