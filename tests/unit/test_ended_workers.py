"""How a worker has ended: who tells the daemon, and what it makes of a word that comes late."""

from __future__ import annotations

import os
import pathlib
import socket
import subprocess
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from shoal import _native
from shoal._core import commands, events
from shoal._runtime import daemon_processes
from shoal._runtime.daemon_processes import Processes
from shoal._runtime.log_budget import LogBudget
from shoal._runtime.worker_groups import WorkerGroups


@pytest.fixture(autouse=True)
def _no_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the tests run, workers have no cgroups of their own here."""
    monkeypatch.setattr(WorkerGroups, "make", lambda: WorkerGroups("", "none is asked for"))


class SlowLoop:
    """A daemon's loop in which things happen when the test says so."""

    def __init__(self) -> None:
        self.watched: dict[int, Callable[[int], None]] = {}
        self.timers: list[SimpleNamespace] = []

    def watch(self, fd: int, callback: Callable[[int], None], events: int = 0) -> None:
        self.watched[fd] = callback

    def unwatch(self, fd: int) -> None:
        self.watched.pop(fd, None)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> SimpleNamespace:
        timer = SimpleNamespace(callback=callback)
        timer.cancel = lambda: self.timers.remove(timer)
        self.timers.append(timer)
        return timer

    call_at = call_later

    def pass_time(self) -> None:
        """All timers go off that are waited for now."""
        due, self.timers = self.timers, []
        for timer in due:
            timer.callback()


class OneWorker:
    """A worker that has joined, as the daemon sees it; the test is its zygote."""

    def __init__(self, folder: pathlib.Path, program: str) -> None:
        memory = _native.Memory.create(16 << 20, 1, b"12345678")
        self.loop: Any = SlowLoop()
        self.died: list[Any] = []
        budget = LogBudget(1 << 20, 1e6, lambda delay_s, callback: None)
        self.processes = Processes(
            self.loop, memory, (str(folder), budget), self.post, lambda index, lines: None
        )
        listeners = self.processes.listeners(lambda: None, frozenset)
        zygote: Any = SimpleNamespace(fork=lambda asked, ends: [os.close(fd) for fd in ends])
        self.processes.use(zygote, self.let_in)
        self.processes.perform_start_worker(commands.StartWorker(1))
        self.process = subprocess.Popen(["sh", "-c", program], stdin=subprocess.PIPE)
        self.pidfd = os.pidfd_open(self.process.pid)
        listeners.on_forked(1, self.process.pid, self.pidfd)

    def let_in(self, link: socket.socket, pid: int) -> Any:
        return SimpleNamespace(pid=pid, index=None, read_rest=lambda: None, close=link.close)

    def post(self, event: Any) -> None:
        if isinstance(event, events.ProcessDied):
            self.died.append((event.code, event.signal))

    def end(self) -> int:
        """It ends, which its pidfd tells; the status, which nobody else has heard yet."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        status = os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        assert status is not None
        self.loop.watched[self.pidfd](1)
        return status.si_status

    def reap(self) -> None:
        self.process.wait()


def test_the_word_of_the_zygote_may_come_late(tmp_path: pathlib.Path) -> None:
    worker = OneWorker(tmp_path, "read line; exit 3")
    status = worker.end() << 8
    worker.reap()
    worker.loop.pass_time()
    worker.loop.pass_time()
    assert worker.died == [], "it is on its way"
    worker.processes.ended(worker.process.pid, status)
    assert worker.died == [(3, None)]
    worker.loop.pass_time()
    assert worker.died == [(3, None)], "once"


def test_who_was_not_reaped_is_looked_at(tmp_path: pathlib.Path) -> None:
    worker = OneWorker(tmp_path, "read line; kill -9 $$")
    worker.end()
    worker.loop.pass_time()
    assert worker.died == [(None, 9)]
    worker.reap()


def test_a_word_that_never_comes_is_waited_for_no_longer(tmp_path: pathlib.Path) -> None:
    worker = OneWorker(tmp_path, "read line")
    worker.end()
    worker.reap()
    for _ in range(daemon_processes.STATUS_LOOKS - 1):
        worker.loop.pass_time()
        assert worker.died == []
    worker.loop.pass_time()
    assert worker.died == [(None, None)]
    assert not worker.loop.timers


@pytest.mark.parametrize("status", [0, 3 << 8, 9])
def test_a_word_that_came_first_is_enough(tmp_path: pathlib.Path, status: int) -> None:
    worker = OneWorker(tmp_path, "read line")
    worker.processes.ended(worker.process.pid, status)
    worker.end()
    assert worker.died == [daemon_processes.exit_of(status)]
    worker.reap()
