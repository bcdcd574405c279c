"""What user code does with `fork`: children that look at values which their parent has dropped.

Each child looks at one array until its time is over and writes one line into a file that all
children of a run share (one `write` with O_APPEND, so lines never mix):

    right|wrong  parent|worker|driver

`wrong` means that the bytes under the child have changed: a value was freed, and written over,
while somebody looked at it. The second word says whether the parent was still there, or what had
died: a worker or a driver.

The parent drops its view at once and stores others of the same size: without the guard that a fork
sets, they would be written over the one that the child still looks at (PROTOCOL B4).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

import shoal
from shoal._runtime import context

N = 60_000
"""Numbers in an array: 480 kB, far above what is stored inline."""
OTHERS = 4

_left: list[int] = []
"""Children that nobody has waited for yet."""


def array_of(number: int) -> Any:
    return np.full(N, number)


def look(array: Any, number: int, report: str, seconds: float, parent: int) -> None:
    """What a child of process `parent` does: every look must find the same."""
    end = time.monotonic() + seconds
    is_right = True
    while is_right and time.monotonic() < end:
        is_right = bool((array == number).all())
        time.sleep(0.005)
    whose = "worker" if context.process.is_worker else "driver"
    if os.getppid() == parent:
        whose = "parent"
    fd = os.open(report, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(fd, f"{'right' if is_right else 'wrong'} {whose}\n".encode())
    os.close(fd)


def fork_to_look(array: Any, number: int, report: str, seconds: float) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            look(array, number, report, seconds, parent)
        finally:
            os._exit(0)
    return pid


def overwrite() -> None:
    for i in range(OTHERS):
        shoal.get(shoal.put(array_of(-1 - i)))


def reap_left() -> None:
    for pid in list(_left):
        if os.waitpid(pid, os.WNOHANG)[0]:
            _left.remove(pid)


def fork_and_wait(number: int, report: str) -> None:
    """The child ends first."""
    array = shoal.get(shoal.put(array_of(number)))
    pid = fork_to_look(array, number, report, 0.03)
    del array
    overwrite()
    os.waitpid(pid, 0)


def fork_and_leave(number: int, report: str) -> None:
    """The child outlives the call, maybe its parent too."""
    reap_left()
    array = shoal.get(shoal.put(array_of(number)))
    _left.append(fork_to_look(array, number, report, 0.3))
    del array
    overwrite()


def fork_and_kill(number: int, report: str) -> None:
    """The child dies while it looks."""
    array = shoal.get(shoal.put(array_of(number)))
    pid = fork_to_look(array, number, report, 5.0)
    del array
    overwrite()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def fork_by_multiprocessing(number: int, report: str) -> None:
    array = shoal.get(shoal.put(array_of(number)))
    context = multiprocessing.get_context("fork")
    arguments = (array, number, report, 0.03, os.getpid())
    process = context.Process(target=look, args=arguments)
    process.start()
    del array
    overwrite()
    process.join(20)


def run_a_program(number: int, report: str) -> None:
    """fork and exec: nothing of the session may be left open in it."""
    array = shoal.get(shoal.put(array_of(number)))
    subprocess.run(["sleep", "0.01"], check=False)
    assert bool((array == number).all())


WAYS = [fork_and_wait, fork_and_leave, fork_and_kill, fork_by_multiprocessing, run_a_program]


@shoal.remote(max_retries=2)
def forking(way: int, number: int, report: str) -> bytes:
    """Fork in one of the ways inside of a task."""
    WAYS[way](number, report)
    return number.to_bytes(8, "little")


def read_report(report: Path) -> Counter[str]:
    """How often each kind of line was written."""
    return Counter(report.read_text().splitlines()) if report.exists() else Counter()
