"""The mark of a job on all that its workers have started, and who is ended by it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shoal._runtime import strays
from tests.torture.processes import eventually

STARTS_ONE = """
import subprocess, sys
from shoal._runtime import strays
strays.mark(7)
strays.mark(9)  # too late: it has one
print(subprocess.Popen(["env", "-i", "sleep", "600"], start_new_session=True).pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def parent() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", STARTS_ONE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


class Later:
    """Stands for the daemon's loop: what is to be called, and after how long."""

    def __init__(self) -> None:
        self.timers: list[Any] = []

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Later.Timer:
        self.timers.append(Later.Timer(self, delay_s, callback))
        return self.timers[-1]

    class Timer:
        def __init__(self, loop: Later, delay_s: float, callback: Callable[[], None]) -> None:
            self.loop, self.delay_s, self.callback = loop, delay_s, callback

        def cancel(self) -> None:
            self.loop.timers.remove(self)

    def run_next(self) -> float:
        (timer,) = self.timers
        self.timers.clear()
        timer.callback()
        return float(timer.delay_s)


def is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_only_marked_children_of_jobs_that_have_ended_are_ended(
    parent: subprocess.Popen[str],
) -> None:
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert strays.job_of(pid) == 7 and strays.job_of(parent.pid) == 7
    assert strays.job_of(os.getpid()) == -1
    assert strays.children(parent.pid) == [pid] and parent.pid in strays.children(os.getpid())

    loop, running, known = Later(), {7}, {pid, parent.pid}
    looking = strays.Strays(loop, running, lambda: known)  # type: ignore[arg-type]

    def look() -> bool:
        """Whether somebody was ended, so that there is another look."""
        looking.look_soon(parent.pid)
        looking.look_soon(parent.pid)  # the same round: one look
        assert loop.run_next() == 0.0
        return bool(loop.timers)

    running.clear()
    assert not look(), "the daemon knows it"
    known.remove(pid)
    running.add(7)
    assert not look(), "its job runs"
    running.clear()
    assert look() and loop.timers[0].delay_s == strays.FIRST_PAUSE_S
    eventually(lambda: is_zombie(pid), 60, "it has ended")
    loop.run_next()
    assert not loop.timers and parent.poll() is None, "who is dead is nobody"
