"""Tables of a session: what they say of tasks that wait, run, have ended and have failed."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import shoal
from shoal import errors, state
from shoal.compat.ray import states
from tests.torture.processes import eventually


@pytest.fixture(autouse=True)
def _session() -> None:
    shoal.init(num_cpus=1)


@shoal.remote
def half(x: int) -> float:
    if x % 2:
        raise ArithmeticError(f"{x} is odd")
    return x / 2


@shoal.remote
def waits_for(path: Path) -> bool:
    eventually(path.exists, 30, "the test goes on")
    return True


@shoal.remote
class Counter:
    def count(self) -> int:
        return 1


def named(name: str) -> state.Task:
    """The one task that is called so."""
    (task,) = state.tasks(name=name)
    return task


def test_tasks_that_have_ended_stay_for_a_while() -> None:
    ref = half.options(name="good").remote(4)
    assert shoal.get(ref) == 2
    with pytest.raises(ArithmeticError):
        shoal.get(half.options(name="bad").remote(5))
    good, bad = named("good"), named("bad")
    assert (good.task_id, good.state, good.error) == (ref.task_id().hex(), "FINISHED", "")
    assert (bad.state, bad.error, bad.attempt) == ("FAILED", "ArithmeticError", 1)
    assert good.function == bad.function == "half"
    assert good.submitted_s and good.started_s and good.ended_s and bad.ended_s
    assert good.submitted_s <= good.started_s <= good.ended_s <= bad.ended_s
    assert time.clock_gettime(time.CLOCK_BOOTTIME) - bad.ended_s < 60
    assert [task.name for task in state.tasks(limit=1)] == ["bad"], "the last to end comes first"
    assert state.tasks(state="FINISHED", function="half") == [good]


def test_calls_are_told_by_class_and_method_also_after_their_actor() -> None:
    counter = Counter.remote()
    assert shoal.get([counter.count.remote(), counter.count.options(name="named").remote()])
    plain, other = named("Counter.count"), named("named")
    assert plain.function == other.function == "Counter.count"
    assert plain.actor_id == other.actor_id == counter._actor_id.hex()
    assert plain.state == "FINISHED" and plain.job == 1
    shoal.kill(counter)
    assert named("Counter.count") == plain


def test_what_waits_and_what_runs_come_before_what_has_ended(tmp_path: Path) -> None:
    assert shoal.get(half.remote(2)) == 1
    go = tmp_path / "go"
    running = waits_for.options(name="runs").remote(go)
    eventually(lambda: state.tasks(state="RUNNING"), 30, "it runs")
    half.remote(running)
    queued = half.options(name="waits").remote(2)
    rows = [(task.name, task.state) for task in state.tasks()]
    assert sorted(rows[:3]) == [("half", "HELD"), ("runs", "RUNNING"), ("waits", "QUEUED")]
    assert rows[3:] == [("half", "FINISHED")]
    assert named("runs").started_s and named("waits").started_s is None
    shoal.cancel(queued)
    cancelled = named("waits")
    assert (cancelled.state, cancelled.error) == ("FAILED", "TaskCancelledError")
    assert cancelled.function == "half", "though nobody ran it"
    go.touch()
    assert shoal.get(running)


def test_a_task_whose_process_died_has_failed() -> None:
    @shoal.remote(max_retries=0)
    def dies() -> None:
        import os

        os._exit(1)

    with pytest.raises(errors.WorkerCrashedError):
        shoal.get(dies.options(name="dies").remote())
    task = named("dies")
    assert (task.state, task.error) == ("FAILED", "WorkerCrashedError")


def test_rays_rows_and_summaries_tell_the_same() -> None:
    counter = Counter.remote()
    shoal.get([half.options(name="four").remote(4), counter.count.remote()])
    with pytest.raises(ArithmeticError):
        shoal.get(half.remote(5))
    (four,) = states.list_tasks(filters=[("name", "=", "four")])
    assert (four.state, four.type, four.func_or_class_name) == ("FINISHED", "NORMAL_TASK", "half")
    assert abs(four.end_time_ms / 1000 - time.time()) < 60
    assert states.get_task(four.task_id) == four
    (bad,) = states.list_tasks(filters=[("state", "=", "FAILED")], limit=5, detail=True)
    assert (bad.error_type, bad.error_message) == ("TASK_EXECUTION_EXCEPTION", "ArithmeticError")
    summary = states.summarize_tasks()["cluster"]
    assert summary["summary"]["half"]["state_counts"] == {"FAILED": 1}
    assert summary["summary"]["Counter.count"]["type"] == "ACTOR_TASK"
    assert (summary["total_tasks"], summary["total_actor_tasks"]) == (2, 1)
    actors = states.summarize_actors()["cluster"]
    assert actors["summary"]["Counter"]["state_counts"] == {"ALIVE": 1}
    assert states.summarize_objects()["cluster"]["total_objects"] == len(state.objects())
