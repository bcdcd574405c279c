"""Hogs in a memory cgroup: a session whose node is a small group around it.

    python -m tests.chaos.hogs watched | kernel

is the part that runs inside of the group. ``watched``: tasks that take far more than there is,
each beside some that do not, and an actor that leaks; the node daemon must end the hogs before the
kernel ends anybody (RELIABILITY M1, M2). ``kernel``: nobody watches, so the kernel ends the hog,
and its error must say that this is what happened. Prints what it found as one line of JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from typing import Any

import shoal
from shoal import errors
from shoal._runtime import cluster
from tests.torture.drivers import ROOT
from tests.torture.group import Group

MB = 1 << 20
HOGS = 4
LATE_S = 120.0
PIECE = 4 * MB
SLOW_S = 0.01
"""After each piece: 400 MB/s, so that the watch has most of a second between its limit and the
group's."""
SETTINGS = {
    "watched": {"SHOAL_MEMORY_THRESHOLD": "0.5"},
    "kernel": {"SHOAL_MEMORY_REFRESH_MS": "0"},
}


def run_in(group: Group, kind: str) -> dict[str, Any]:
    """Run that program in ``group``; what it printed."""
    program = [sys.executable, "-m", "tests.chaos.hogs", kind]
    process = subprocess.run(
        ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group.path / "cgroup.procs"), *program],
        cwd=ROOT,
        env={**os.environ, **SETTINGS[kind]},
        capture_output=True,
        text=True,
        timeout=3 * LATE_S,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-4000:]
    found: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return found


@shoal.remote(max_retries=0)
def hog(pause_s: float) -> None:
    """It takes more and more."""
    kept = []
    while True:
        kept.append(b"x" * PIECE)
        time.sleep(pause_s)


@shoal.remote(max_retries=0)
def calm(number: int) -> int:
    kept = b"x" * PIECE
    return number * len(kept)


@shoal.remote(memory=60 * MB, max_restarts=-1, num_cpus=0)
class Leaking:
    """Every call leaves something behind."""

    def __init__(self) -> None:
        self.kept: list[bytes] = []

    def leak(self) -> tuple[int, int]:
        self.kept.append(b"x" * PIECE)
        time.sleep(SLOW_S)
        return os.getpid(), len(self.kept) * PIECE


def meet_hogs(chance: random.Random, pause_s: float, count: int) -> list[dict[str, Any]]:
    """One after the other, beside others; what their errors say."""
    found = []
    for number in range(count):
        others = [calm.remote(number) for _ in range(chance.randint(1, 20))]
        began = time.monotonic()
        try:
            shoal.get(hog.remote(pause_s), timeout=LATE_S)
        except errors.OutOfMemoryError as error:
            row = {"kind": error.kind, "task": error.task, "limit": error.limit_bytes}
            row |= {"peak": error.peak_bytes, "text": str(error)}
            found.append({**row, "took_s": round(time.monotonic() - began, 3)})
        assert shoal.get(others, timeout=LATE_S) == [number * PIECE] * len(others)
    return found


def meet_leak() -> tuple[int, int]:
    """(processes that the leaking actor has had, the most that one of them kept)."""
    leaking = Leaking.remote()
    pids: set[int] = set()
    most = 0
    end = time.monotonic() + LATE_S
    while len(pids) < 3 and time.monotonic() < end:
        with contextlib.suppress(errors.ActorUnavailableError):
            pid, kept = shoal.get(leaking.leak.remote(), timeout=LATE_S)
            pids.add(pid)
            most = max(most, kept)
    return len(pids), most


def main() -> None:
    is_watched = sys.argv[1] == "watched"
    chance = random.Random(11)
    shoal.init(num_cpus=2, object_store_memory=32 * MB, log_to_driver=False)
    (before,) = cluster.table("session")
    hogs = meet_hogs(chance, SLOW_S if is_watched else 0.0, HOGS if is_watched else 1)
    processes, most = meet_leak() if is_watched else (0, 0)
    (after,) = cluster.table("session")
    same = (before["pid"], before["store_pid"]) == (after["pid"], after["store_pid"])
    shoal.shutdown()
    print(json.dumps({"hogs": hogs, "processes": processes, "most": most, "same": same}))


if __name__ == "__main__":
    main()
