"""A call of a sync actor that is cancelled runs on, and nobody waits for it any more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal import errors, state
from shoal._runtime.cancelling import INSIST_MOST_S
from tests.torture.processes import eventually

SOON_S = 30.0
"""What is given up ends at once, else only when a file is there that nobody makes before."""


@shoal.remote
class Sleeper:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def sleep(self) -> str:
        (self.folder / "runs").touch()
        eventually((self.folder / "go").exists, 60, "the test goes on")
        return "slept"

    def pair(self) -> tuple[str, str]:
        return self.sleep(), "too"

    def items(self) -> Iterator[int]:
        yield 1
        self.sleep()

    def echo(self, x: Any = "awake") -> Any:
        return x


@shoal.remote
def echo(x: Any) -> Any:
    return x


@pytest.fixture
def sleeper(tmp_path: Path) -> Any:
    shoal.init(num_cpus=2)
    return Sleeper.remote(tmp_path)


def runs(folder: Path) -> None:
    eventually((folder / "runs").exists, 30, "the call runs")


def fails(ref: Any) -> None:
    with pytest.raises(errors.TaskCancelledError):
        shoal.get(ref, timeout=SOON_S)


def test_every_way_to_wait_ends_at_once(sleeper: Any, tmp_path: Path) -> None:
    ref = sleeper.sleep.remote()
    future = ref.future()
    runs(tmp_path)
    assert shoal.wait([ref], timeout=0) == ([], [ref])

    async def awaited() -> float:
        waiting = asyncio.ensure_future(ref.as_future())
        also = asyncio.ensure_future(loop_wait(ref))
        await asyncio.sleep(0)
        begun = time.monotonic()
        shoal.cancel(ref)
        for task in (waiting, also):
            with pytest.raises(errors.TaskCancelledError):
                await asyncio.wait_for(task, SOON_S)
        return time.monotonic() - begun

    async def loop_wait(ref: Any) -> Any:
        return await ref

    assert asyncio.run(awaited()) < SOON_S
    with pytest.raises(errors.TaskCancelledError):
        future.result(SOON_S)
    assert shoal.wait([ref], timeout=SOON_S) == ([ref], [])
    assert list(shoal.as_completed([ref], timeout=SOON_S)) == [ref]
    with pytest.raises(errors.TaskCancelledError):
        ref.future().result(SOON_S)
    fails(ref)
    assert state.tasks(state="RUNNING"), "it runs on: an actor is not ended for a call"
    (tmp_path / "go").touch()
    assert shoal.get(sleeper.echo.remote()) == "awake"
    fails(ref)


def test_what_depends_on_it_fails_too(sleeper: Any, tmp_path: Path) -> None:
    before = len(state.objects())
    other = Sleeper.remote(tmp_path)
    ref, second = sleeper.pair.options(num_returns=2).remote()
    runs(tmp_path)
    task, call = echo.remote(second), other.echo.remote(ref)
    below, nested, behind = echo.remote(task), echo.remote([ref]), other.echo.remote()
    shoal.cancel(ref)
    for failed in (task, call, below):
        fails(failed)
    assert shoal.get(nested, timeout=SOON_S) == [ref]
    later_task, later_call = echo.remote(ref), other.echo.remote(second)
    fails(later_task)
    fails(later_call)
    (tmp_path / "go").touch()
    assert shoal.get(behind, timeout=SOON_S) == "awake", "the order of its caller goes on"
    assert shoal.get(other.echo.remote(), timeout=SOON_S) == "awake"
    assert shoal.get(sleeper.echo.remote(), timeout=SOON_S) == "awake"
    del ref, second, task, call, below, nested, behind, failed, later_task, later_call, other
    end = time.monotonic() + 30
    while len(rows := state.objects()) > before + 1:
        assert time.monotonic() < end, f"not let go: {rows}, with {state.tasks()}"
        time.sleep(0.01)


def test_a_stream_that_was_given_up_ends_with_the_error(sleeper: Any, tmp_path: Path) -> None:
    items = sleeper.items.options(num_returns="streaming").remote()
    assert shoal.get(next(items)) == 1
    runs(tmp_path)
    shoal.cancel(items)
    fails(next(items))
    (tmp_path / "go").touch()


def test_a_call_that_ends_long_after_it_was_cancelled_has_no_value(
    sleeper: Any, tmp_path: Path
) -> None:
    ref = sleeper.sleep.remote()
    runs(tmp_path)
    shoal.cancel(ref)
    time.sleep(INSIST_MOST_S + 0.2)
    (tmp_path / "go").touch()
    assert shoal.get(sleeper.echo.remote(), timeout=SOON_S) == "awake"
    fails(ref)


def test_a_deadline_ends_waiting_as_well(sleeper: Any, tmp_path: Path) -> None:
    ref = sleeper.sleep.options(timeout_s=0.2).remote()
    below = echo.remote(ref)
    assert shoal.wait([ref], timeout=SOON_S) == ([ref], [])
    for late in (ref, below):
        with pytest.raises(errors.DeadlineExceededError):
            shoal.get(late, timeout=SOON_S)
    (tmp_path / "go").touch()
