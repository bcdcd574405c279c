"""Threaded actors through the public API: calls of one plain class that run side by side."""

from __future__ import annotations

import os
import pathlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import shoal
from shoal import errors
from tests.torture.processes import eventually


@pytest.fixture(autouse=True)
def _session() -> None:
    shoal.init(num_cpus=2)


@shoal.remote
def double(x: int) -> int:
    return 2 * x


@shoal.remote(max_concurrency=4)
class Threaded:
    def __init__(self) -> None:
        self.barrier = threading.Barrier(4)
        self.lock = threading.Lock()
        self.now = self.most = 0

    def meet(self) -> int:
        self.barrier.wait(20)
        return threading.get_ident()

    def busy(self) -> int:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.002)
        with self.lock:
            self.now -= 1
        return self.most

    def nested(self, x: int) -> int:
        return shoal.get(double.remote(x))

    def context(self) -> tuple[str | None, str | None]:
        before = shoal.get_runtime_context().get_task_id()
        self.barrier.wait(20)
        return before, shoal.get_runtime_context().get_task_id()

    def touch_and_wait(self, path: str) -> None:
        pathlib.Path(path).touch()
        while not pathlib.Path(path).with_suffix(".go").exists():
            time.sleep(0.01)

    def numbers(self, n: int) -> Iterator[int]:
        yield from range(n)

    def fail(self) -> None:
        raise OSError("broken")

    def leave(self) -> None:
        shoal.exit_actor()

    def crash(self) -> None:
        os._exit(9)


def test_calls_run_side_by_side_in_threads() -> None:
    actor = Threaded.remote()
    assert len(set(shoal.get([actor.meet.remote() for _ in range(4)]))) == 4


def test_no_more_than_max_concurrency() -> None:
    actor = Threaded.remote()
    assert max(shoal.get([actor.busy.remote() for _ in range(100)])) == 4


def test_each_call_knows_itself_and_what_it_submits() -> None:
    actor = Threaded.remote()
    pairs = shoal.get([actor.context.remote() for _ in range(4)])
    assert all(before == after for before, after in pairs)
    assert len({before for before, _ in pairs}) == 4
    assert shoal.get([actor.nested.remote(i) for i in range(20)]) == [2 * i for i in range(20)]


def test_generators_and_errors() -> None:
    actor = Threaded.remote()
    numbers = actor.numbers.options(num_returns="streaming")
    for refs in [numbers.remote(4) for _ in range(3)]:
        assert [shoal.get(ref) for ref in refs] == [0, 1, 2, 3]
    with pytest.raises(OSError, match="broken"):
        shoal.get(actor.fail.remote())


def test_a_late_argument_holds_back_only_its_own_call(tmp_path: pathlib.Path) -> None:
    @shoal.remote
    def late() -> int:
        while not (tmp_path / "go").exists():
            time.sleep(0.01)
        return 21

    actor = Threaded.remote()
    waits = actor.nested.remote(late.remote())
    assert shoal.get(actor.busy.remote(), timeout=30) == 1
    (tmp_path / "go").touch()
    assert shoal.get(waits) == 42


def test_a_serial_actor_may_be_out_of_order_too(tmp_path: pathlib.Path) -> None:
    @shoal.remote
    def late() -> int:
        while not (tmp_path / "go").exists():
            time.sleep(0.01)
        return 1

    @shoal.remote
    class Serial:
        def take(self, x: int) -> int:
            return x

    free = Serial.options(allow_out_of_order_execution=True).remote()
    first = free.take.remote(late.remote())
    assert shoal.get(free.take.remote(2), timeout=30) == 2
    ordered = Serial.remote()
    held = ordered.take.remote(first)
    assert shoal.wait([ordered.take.remote(3)], timeout=0.2)[0] == []
    (tmp_path / "go").touch()
    assert shoal.get([first, held]) == [1, 1]


def test_a_failed_argument_ends_only_its_own_call() -> None:
    @shoal.remote
    def broken() -> int:
        raise ZeroDivisionError

    actor = Threaded.remote()
    with pytest.raises(ZeroDivisionError):
        shoal.get(actor.nested.remote(broken.remote()))
    assert shoal.get(actor.nested.remote(1)) == 2


def test_a_crash_with_several_running_calls(tmp_path: pathlib.Path) -> None:
    actor = Threaded.remote()
    paths = [str(tmp_path / f"{i}.begun") for i in range(3)]
    running = [actor.touch_and_wait.remote(path) for path in paths]
    eventually(lambda: len(list(tmp_path.iterdir())) == 3, 30, "all three run")
    actor.crash.remote()
    for ref in running:
        with pytest.raises(errors.ActorDiedError):
            shoal.get(ref)


def test_running_calls_end_before_an_actor_that_leaves(tmp_path: pathlib.Path) -> None:
    actor = Threaded.remote()
    running = actor.touch_and_wait.remote(str(tmp_path / "one.begun"))
    eventually((tmp_path / "one.begun").exists, 30, "it runs")
    with pytest.raises(errors.ActorDiedError, match="exit_actor"):
        shoal.get(actor.leave.remote())
    (tmp_path / "one.go").touch()
    assert shoal.get(running) is None


def test_a_limit_of_waiting_calls(tmp_path: pathlib.Path) -> None:
    @shoal.remote(max_pending_calls=3)
    class Limited:
        def work(self) -> int:
            while not (tmp_path / "go").exists():
                time.sleep(0.01)
            return 1

        def other(self) -> int:
            return 2

    actor = Limited.remote()
    refs: list[Any] = [actor.work.remote() for _ in range(2)] + [actor.other.remote()]
    for method in (actor.work, actor.other, actor.work.options(num_returns=1)):
        with pytest.raises(errors.PendingCallsLimitError) as caught:
            method.remote()
        assert caught.value.limit == 3
    (tmp_path / "go").touch()
    assert shoal.get(refs) == [1, 1, 2]
    assert shoal.get([actor.other.remote() for _ in range(3)]) == [2, 2, 2]


def test_calls_without_returns_are_counted_too(tmp_path: pathlib.Path) -> None:
    @shoal.remote(max_pending_calls=2)
    class Limited:
        def work(self) -> None:
            while not (tmp_path / "go").exists():
                time.sleep(0.01)

    actor = Limited.remote()
    silent = actor.work.options(num_returns=0)
    assert silent.remote() is None and silent.remote() is None
    with pytest.raises(errors.PendingCallsLimitError):
        silent.remote()
    (tmp_path / "go").touch()

    def is_taken() -> bool:
        try:
            return shoal.get(actor.work.remote()) is None
        except errors.PendingCallsLimitError:
            return False

    eventually(is_taken, 30, "what has ended counts no more")
    assert silent.remote() is None and silent.remote() is None
