"""Hogs in a memory cgroup: a session whose node is a small group around it.

    python -m tests.chaos.hogs                         twenty hogs, as figures (RELIABILITY M1)
    python -m tests.chaos.hogs watched COUNT | kernel  the part that runs inside of the group

``watched``: hogs of two kinds in turn, one that takes more than it asked for, and one that asked
for nothing and takes what the node has, each beside tasks and calls that do no harm; then an actor
that leaks (M2). The node daemon must end the hogs, nobody else, and before the kernel ends
anybody. ``kernel``: nobody watches, so the kernel ends the hog, and its error must say that this is
what happened. Prints what it found as one line of JSON.

A hog itself notes when it was over what it may have, and when it last lived: what lies between is
how long nobody did anything.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import shoal
from shoal import errors
from shoal._runtime import cluster, machine_facts
from tests.torture.drivers import ROOT
from tests.torture.group import LIMIT_BYTES, Group, make_group

MB = 1 << 20
HOGS = 4
HOGS_OF_FIGURES = 20
ASKED = 60 * MB
THRESHOLD = 0.5
LATE_S = 120.0
PIECE = 4 * MB
SLOW_S = 0.01
"""After each piece: 400 MB/s, so that the watch has most of a second between its limit and the
group's."""
SETTINGS = {
    "watched": {"SHOAL_MEMORY_THRESHOLD": str(THRESHOLD)},
    "kernel": {"SHOAL_MEMORY_REFRESH_MS": "0"},
}


def run_in(group: Group, kind: str, *arguments: str) -> dict[str, Any]:
    """Run that program in ``group``; what it printed."""
    program = [sys.executable, "-m", "tests.chaos.hogs", kind, *arguments]
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
def hog(pause_s: float, asked: int = 0, notes: str = "") -> None:
    """It takes more and more."""
    kept: list[bytes] = []
    node = machine_facts.Pressure()
    crossed = 0.0
    while True:
        kept.append(b"x" * PIECE)
        if notes:
            used, limit = (len(kept) * PIECE, asked) if asked else node.used_and_limit()
            now = time.monotonic()
            if not crossed and used > (1.0 if asked else THRESHOLD) * limit:
                crossed = now
            with open(notes, "r+b") as file:
                file.write(struct.pack("dd", crossed, now))
        time.sleep(pause_s)


@shoal.remote(max_retries=0)
def calm(number: int) -> int:
    kept = b"x" * PIECE
    return number * len(kept)


@shoal.remote(num_cpus=0)
class Counter:
    """An innocent actor that does not come back."""

    def __init__(self) -> None:
        self.count = 0

    def add(self) -> int:
        self.count += 1
        return self.count


@shoal.remote(memory=ASKED, max_restarts=-1, num_cpus=0)
class Leaking:
    """Every call leaves something behind."""

    def __init__(self) -> None:
        self.kept: list[bytes] = []

    def leak(self) -> tuple[int, int]:
        self.kept.append(b"x" * PIECE)
        time.sleep(SLOW_S)
        return os.getpid(), len(self.kept) * PIECE


def meet_hogs(chance: random.Random, folder: Path, count: int) -> dict[str, Any]:
    """One after the other, beside work that goes on all the time; what their errors say, and how
    long it took."""
    found: list[dict[str, Any]] = []
    counter = Counter.remote()
    calls = tasks = 0
    for number in range(count):
        asked = ASKED if number % 2 else 0
        notes = folder / f"hog {number}"
        notes.write_bytes(bytes(16))
        ref = hog.options(memory=asked or None).remote(SLOW_S, asked, str(notes))
        end = time.monotonic() + LATE_S
        while not shoal.wait([ref], timeout=0)[0] and time.monotonic() < end:
            others = [calm.remote(number) for _ in range(chance.randint(1, 20))]
            calls, tasks = calls + 1, tasks + len(others)
            assert shoal.get(counter.add.remote(), timeout=LATE_S) == calls
            assert shoal.get(others, timeout=LATE_S) == [number * PIECE] * len(others)
        crossed, lived = struct.unpack("dd", notes.read_bytes())
        late_s = lived - crossed if crossed else 0.0
        row: dict[str, Any] = {"asked": asked, "late_ms": round(1000 * late_s, 1)}
        try:
            shoal.get(ref, timeout=LATE_S)
        except errors.OutOfMemoryError as error:
            row |= {"kind": error.kind, "task": error.task, "limit": error.limit_bytes}
            row |= {"peak": error.peak_bytes, "text": str(error), "lived": lived > 0}
            found.append(row)
    return {"hogs": found, "innocent_tasks": tasks, "innocent_calls": calls}


def meet_kernel() -> dict[str, Any]:
    """A hog that nobody watches."""
    try:
        shoal.get(hog.remote(0.0), timeout=LATE_S)
    except errors.OutOfMemoryError as error:
        return {"hogs": [{"kind": error.kind, "task": error.task, "text": str(error)}]}
    return {"hogs": []}


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


def work(kind: str, count: int) -> None:
    """The part inside of the group."""
    shoal.init(num_cpus=2, object_store_memory=32 * MB, log_to_driver=False)
    (before,) = cluster.table("session")
    if kind == "watched":
        with tempfile.TemporaryDirectory() as folder:
            found = meet_hogs(random.Random(11), Path(folder), count)
        found["processes"], found["most"] = meet_leak()
    else:
        found = meet_kernel()
    (after,) = cluster.table("session")
    found["same"] = (before["pid"], before["store_pid"]) == (after["pid"], after["store_pid"])
    shoal.shutdown()
    print(json.dumps(found))


def figures() -> None:
    """Twenty hogs, for docs/reliability.md."""
    group = make_group()
    if isinstance(group, str):
        sys.exit(group)
    try:
        found = run_in(group, "watched", str(HOGS_OF_FIGURES))
        peak, kills = group.peak_bytes(), group.kills()
    finally:
        group.remove()
    print(f"a node of {LIMIT_BYTES >> 20} MB, of which {THRESHOLD:.0%} may be used")
    right = [row for row in found["hogs"] if row["task"] == "hog"]
    print(f"hogs ended: {len(right)} of {HOGS_OF_FIGURES}")
    done = f"{found['innocent_tasks']} tasks, {found['innocent_calls']} calls of an actor"
    print(f"innocent work beside them, all of it right: {done}")
    for kind in ("limit", "node"):
        late = sorted(row["late_ms"] for row in right if row["kind"] == kind)
        p50 = statistics.median(late)
        print(f"{kind}: over it for {p50} ms (median), {late[-1]} ms at most, n = {len(late)}")
    print(f"highest use of the node: {peak >> 20} MB; ended by the kernel: {kills}")
    print(f"an actor that leaks: {found['processes']} processes, {found['most'] >> 20} MB at most")


def main() -> None:
    if len(sys.argv) < 2:
        figures()
    else:
        work(sys.argv[1], int((sys.argv[2:] or ["1"])[0]))


if __name__ == "__main__":
    main()
