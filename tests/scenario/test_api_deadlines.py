"""Deadlines: ``timeout_s`` of tasks and calls, where the time went, and what children inherit."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal import errors

LONG_S = 40.0
"""Late or not, everything is over by then: what is ended here would take 50 s or more."""


@shoal.remote
def sleeps(seconds: float = 60) -> str:
    time.sleep(seconds)
    return "slept"


def late(ref: Any) -> errors.DeadlineExceededError:
    with pytest.raises(errors.DeadlineExceededError) as caught:
        shoal.get(ref, timeout=LONG_S)
    assert isinstance(caught.value, TimeoutError)
    return caught.value


def late_while_running(function: Any) -> errors.DeadlineExceededError:
    """Of a call that began in time: a machine that has much to do gets more time for it."""
    for timeout_s in (0.3, 1.5, 7):
        error = late(function.options(timeout_s=timeout_s).remote())
        if error.stage == "running":
            break
    assert error.stage == "running" and sum(error.stages_s.values()) > timeout_s - 0.05
    return error


def test_a_task_that_is_done_in_time() -> None:
    assert shoal.get(sleeps.options(timeout_s=30).remote(0.01)) == "slept"


def test_one_that_runs_too_long() -> None:
    error = late_while_running(sleeps)
    assert set(error.stages_s) == {"held", "queued", "running"}
    assert sum(error.stages_s.values()) < LONG_S
    assert "running" in str(error) and "timeout_s" in str(error)


def test_where_the_time_went() -> None:
    shoal.init(num_cpus=1)
    blocker = sleeps.remote(60)
    queued = sleeps.options(timeout_s=0.2).remote(0)

    @shoal.remote(timeout_s=0.2)
    def needs(value: Any) -> Any:
        return value

    held = needs.remote(blocker)
    error = late(queued)
    assert error.stage == "queued" and error.stages_s["queued"] > 0.15
    error = late(held)
    assert error.stage == "held" and set(error.stages_s) == {"held"}
    shoal.cancel(blocker)


def test_a_child_has_no_more_time_than_its_parent_had() -> None:
    @shoal.remote
    def parent() -> Any:
        time.sleep(0.2)
        return [sleeps.remote(), sleeps.options(timeout_s=50).remote()]

    children = []
    for timeout_s in (0.8, 4, 15):  # it ends in the first of them, where the machine is not busy
        with contextlib.suppress(errors.DeadlineExceededError):
            children = shoal.get(parent.options(timeout_s=timeout_s).remote())
            break
    assert len(children) == 2
    for child in children:
        late(child)


def test_a_coroutine_and_code_that_does_not_listen() -> None:
    @shoal.remote(timeout_s=0.2)
    async def awaits() -> None:
        await asyncio.sleep(60)

    @shoal.remote(timeout_s=0.2, max_retries=5)
    def ignores() -> None:
        while True:
            try:
                time.sleep(60)
            except KeyboardInterrupt:
                continue

    late(awaits.remote())
    late(ignores.remote())


def test_a_call_that_takes_too_long_leaves_its_actor_alone(tmp_path: Path) -> None:
    go_on = tmp_path / "go"

    @shoal.remote
    class Slow:
        def is_there(self) -> bool:
            return True

        def works(self) -> int:
            while not go_on.exists():
                time.sleep(0.01)
            return 1

        @shoal.method(timeout_s=0.2)
        def quick(self) -> int:
            return 2

    actor = Slow.remote()
    assert shoal.get(actor.is_there.remote())
    error = late_while_running(actor.works)
    assert "running" in error.stages_s
    error = late(actor.quick.remote())
    assert error.stage == "queued", "it waited behind the one that runs"
    go_on.touch()
    assert shoal.get(actor.quick.options(timeout_s=60).remote(), timeout=LONG_S) == 2


def test_a_wrong_one_is_refused() -> None:
    with pytest.raises(errors.OptionError, match="timeout_s"):
        sleeps.options(timeout_s=0)
