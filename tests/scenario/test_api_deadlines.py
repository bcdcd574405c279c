"""Deadlines: ``timeout_s`` of tasks and calls, where the time went, and what children inherit."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal import errors


@shoal.remote
def sleeps(seconds: float) -> str:
    time.sleep(seconds)
    return "slept"


def late(ref: Any) -> errors.DeadlineExceededError:
    with pytest.raises(errors.DeadlineExceededError) as caught:
        shoal.get(ref, timeout=20)
    assert isinstance(caught.value, TimeoutError)
    return caught.value


def test_a_task_that_is_done_in_time() -> None:
    assert shoal.get(sleeps.options(timeout_s=30).remote(0.01)) == "slept"


def test_one_that_runs_too_long() -> None:
    begun = time.monotonic()
    error = late(sleeps.options(timeout_s=0.3).remote(60))
    assert time.monotonic() - begun < 4
    assert error.stage == "running" and set(error.stages_s) == {"held", "queued", "running"}
    assert 0.25 < sum(error.stages_s.values()) < 3
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
    @shoal.remote(timeout_s=0.8)
    def parent() -> Any:
        time.sleep(0.2)
        return [sleeps.remote(60), sleeps.options(timeout_s=30).remote(60)]

    begun = time.monotonic()
    for child in shoal.get(parent.remote()):
        late(child)
    assert time.monotonic() - begun < 5


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
        def works(self) -> int:
            while not go_on.exists():
                time.sleep(0.01)
            return 1

        @shoal.method(timeout_s=0.2)
        def quick(self) -> int:
            return 2

    actor = Slow.remote()
    error = late(actor.works.options(timeout_s=0.2).remote())
    assert error.stage == "running" and "running" in error.stages_s
    error = late(actor.quick.remote())
    assert error.stage == "queued", "it waited behind the one that runs"
    go_on.touch()
    assert shoal.get(actor.quick.remote(), timeout=20) == 2


def test_a_wrong_one_is_refused() -> None:
    with pytest.raises(errors.OptionError, match="timeout_s"):
        sleeps.options(timeout_s=0)
