"""How long it takes until work goes on after a death (C26): from the signal to the answer.

===========  ======================================================================================
task         a worker is killed in a task -> the result of the next attempt is there
actor        an actor's process is killed -> the next call answers
store        the control store is killed -> a change is acknowledged by the next one
stall        the same -> the longest of the calls and tasks that are made meanwhile
===========  ======================================================================================
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import shoal
from shoal import lowlevel
from tests.chaos.loads import append_line
from tests.torture.processes import eventually, kill
from tests.torture.started import Started

LONG_S = 120.0


@shoal.remote(num_cpus=0, max_retries=-1)
def once_more(path: str) -> int:
    """Waits for its death in its first attempt."""
    append_line(path, str(os.getpid()))
    attempt = shoal.get_runtime_context().attempt
    while attempt == 1:
        time.sleep(1.0)
    return attempt


@shoal.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class Echo:
    def pid(self) -> int:
        return os.getpid()

    def echo(self, number: int) -> int:
        return number


@shoal.remote(num_cpus=0)
def echo(number: int) -> int:
    return number


class Probes:
    """Each method does one thing and answers with seconds."""

    def __init__(self, started: Started, folder: Path) -> None:
        self._started = started
        self._folder = folder
        self._number = 0
        self._echo: Any = None

    def task(self) -> float:
        self._number += 1
        path = self._folder / f"task-{self._number}"
        ref = once_more.remote(str(path))
        eventually(lambda: path.exists() and path.read_text().endswith("\n"), LONG_S, "it begins")
        begun = time.monotonic()
        kill(int(path.read_text().split()[0]))
        assert shoal.get(ref, timeout=LONG_S) > 1
        path.unlink()
        return time.monotonic() - begun

    def actor(self) -> float:
        # A new one each time: one that dies again and again waits longer and longer.
        self._echo = Echo.remote()
        pid = shoal.get(self._echo.pid.remote(), timeout=LONG_S)
        begun = time.monotonic()
        kill(pid)
        assert shoal.get(self._echo.echo.remote(7), timeout=LONG_S) == 7
        return time.monotonic() - begun

    def store(self) -> float:
        self._number += 1
        begun = self._kill_store()
        lowlevel.kv_put(b"recovery", str(self._number).encode())
        return time.monotonic() - begun

    def stall(self) -> float:
        """Until the next store has answered, and for some more calls."""
        if self._echo is None:
            self._echo = Echo.remote()
        shoal.get(self._echo.echo.remote(0), timeout=LONG_S)
        shoal.get(echo.remote(0), timeout=LONG_S)
        worst_s, more = 0.0, 50
        begun = self._kill_store()
        while more:
            before = time.monotonic()
            shoal.get([self._echo.echo.remote(1), echo.remote(2)], timeout=LONG_S)
            worst_s = max(worst_s, time.monotonic() - before)
            more -= time.monotonic() > begun + 0.3
        return worst_s

    def _kill_store(self) -> float:
        (pid,) = eventually(self._started.stores, LONG_S, "a store runs")
        begun = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        return begun


def figures(times: Iterable[float]) -> dict[str, float]:
    """How many, and the two percentiles in milliseconds."""
    rows = sorted(times)
    if not rows:
        return {"n": 0}
    return {
        "n": len(rows),
        "p50_ms": round(rows[len(rows) // 2] * 1e3, 1),
        "p99_ms": round(rows[int(len(rows) * 0.99)] * 1e3, 1),
        "most_ms": round(rows[-1] * 1e3, 1),
    }


def measure(
    probes: dict[str, Callable[[], float]], is_over: Callable[[], bool]
) -> dict[str, list[float]]:
    """All probes in turn, until it is over; once at least."""
    times: dict[str, list[float]] = {name: [] for name in probes}
    while True:
        for name, probe in probes.items():
            times[name].append(probe())
        if is_over():
            return times
