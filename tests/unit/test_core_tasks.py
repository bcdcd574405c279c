"""What becomes of tasks whose process has died, row by row."""

from __future__ import annotations

import pytest

from shoal._base import records
from shoal._base.config import Limits
from shoal._core import causes
from shoal._core import commands as do
from shoal._core.events import ProcessDied, RunningTask
from shoal._core.tasks import Crashes, Death


def task(key: int = 1, max_retries: int = 3, charged: int = 0) -> RunningTask:
    return RunningTask(key, charged + 1, max_retries, charged, 0, 5)


def die(
    crashes: Crashes,
    *running: RunningTask,
    pid: int = 100,
    is_ours: bool = False,
    job_record: bytes | None = None,
) -> list[do.Command]:
    event = ProcessDied(2, None, 11, ("oops",), running)
    commands = crashes.decide(Death(pid, event, is_ours, job_record))
    crashes.validate()
    ended = [c.parents for c in commands if isinstance(c, do.EndChildren)]
    assert ended == ([] if job_record else [(task.key,) for task in running])
    return [c for c in commands if not isinstance(c, do.EndChildren)]


def name_of(command: do.Command) -> str:
    assert isinstance(command, do.Fail)
    return records.unpack(command.record)[0]


@pytest.mark.parametrize(
    ("max_retries", "charged", "expected"),
    [
        (3, 0, "again"),
        (3, 3, "WorkerCrashedError"),
        (0, 0, "WorkerCrashedError"),
        (-1, 99, "again"),
        (1, 1, "WorkerCrashedError"),
    ],
)
def test_innermost_is_charged(max_retries: int, charged: int, expected: str) -> None:
    (command,) = die(Crashes(Limits()), task(1, max_retries, charged))
    if expected == "again":
        assert command == do.Requeue(0, 1, charged=True, front=False)
    else:
        assert name_of(command) == expected


def test_the_facts_are_in_the_record() -> None:
    (command,) = die(Crashes(Limits()), task(1, 0))
    assert isinstance(command, do.Fail)
    fields = records.unpack(command.record)[1]
    assert fields["signal"] == 11 and fields["pid"] == 100 and fields["stderr"] == ["oops"]
    assert fields["attempt"] == 1 and fields["exit_code"] is None


def test_only_the_innermost_is_charged() -> None:
    inner, middle, outer = task(1), task(2), task(3, max_retries=0)
    first, second, third = die(Crashes(Limits()), inner, middle, outer)
    assert first == do.Requeue(0, 1, charged=True, front=False)
    assert second == do.Requeue(0, 2, charged=False, front=False)
    assert name_of(third) == "WorkerCrashedError"


def test_poison_after_three_workers_whatever_max_retries() -> None:
    crashes = Crashes(Limits())
    for pid in (100, 101):
        assert isinstance(die(crashes, task(1, -1), pid=pid)[0], do.Requeue)
    (command,) = die(crashes, task(1, -1), pid=102)
    assert name_of(command) == "PoisonTaskError"
    assert isinstance(command, do.Fail)
    assert records.unpack(command.record)[1]["pids"] == [100, 101, 102]


def test_what_lies_below_is_not_poisoned() -> None:
    crashes = Crashes(Limits())
    for pid in range(100, 110):
        commands = die(crashes, task(pid), task(1, -1), pid=pid)
        assert commands[1] == do.Requeue(0, 1, charged=False, front=False)


def test_nobody_is_charged_for_what_the_daemon_did() -> None:
    crashes = Crashes(Limits())
    for pid in range(100, 110):
        (command,) = die(crashes, task(1, 3, 3), pid=pid, is_ours=True)
        assert command == do.Requeue(0, 1, charged=False, front=False)


def test_job_that_is_over() -> None:
    record = causes.job_ended(1, "gone")
    commands = die(Crashes(Limits()), task(1), task(2), job_record=record)
    assert commands == [do.Fail(1, record), do.Fail(2, record)]


def test_memory_of_crashes_is_bounded() -> None:
    crashes = Crashes(Limits(crash_memory_most=5))
    for key in range(50):
        die(crashes, task(key, -1))
    crashes.validate()
