"""A session whose workers have cgroups of their own, in a group that is delegated to it.

    python -m tests.chaos.grouped

is the part that runs inside of the group; it prints what it found as one line of JSON. The group
must be a cgroup v2 with the memory controller: `make_delegated` makes one, or says why there is
none here.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import shoal
from shoal import errors, state
from shoal._runtime import cluster, machine_facts
from tests.torture.drivers import ROOT
from tests.torture.processes import is_running

MB = 1 << 20
ASKED = 60 * MB
LATE_S = 120.0
ESCAPES = (
    "import os, sys, time; os.setsid()\n"
    "if os.fork(): os._exit(0)\n"
    "kept = b'x' * (int(sys.argv[1]) << 20)\n"
    "open(sys.argv[2], 'w').write(str(os.getpid()))\n"
    "time.sleep(600)"
)
"""A program that leaves its parent, its group and its environment, and takes so many MB."""


def make_delegated() -> Path | str:
    """A group that belongs to who is started in it; or why that can not be had here."""
    why = "no cgroup v2 is mounted"
    for parent in machine_facts.enclosing_groups("memory"):
        if not parent.is_v2:
            continue
        path = Path(parent.path) / f"shoal-test-{os.getpid()}"
        try:
            path.mkdir()
        except OSError as error:
            why = f"no cgroup v2 can be made here: {error.strerror}"
            continue
        if "memory" in (path / "cgroup.controllers").read_text().split():
            os.setxattr(path, "user.delegate", b"1")
            return path
        path.rmdir()
        why = "cgroup v2 has no memory controller here"
    return why


def run_in(group: Path, folder: Path) -> dict[str, Any]:
    """Run that program in ``group``; what it printed."""
    program = [sys.executable, "-m", "tests.chaos.grouped", str(folder)]
    process = subprocess.run(
        ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group / "cgroup.procs"), *program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=6 * LATE_S,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-4000:]
    found: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return found


def wait_for(what: Callable[[], object]) -> bool:
    """Whether that came true in time."""
    end = time.monotonic() + LATE_S
    while not what():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


@shoal.remote
def take(megabytes: int) -> int:
    """At once, and no longer than it has to."""
    return len(b"x" * (megabytes * MB))


@shoal.remote
def look(array: Any) -> int:
    """At every page of a value in node memory."""
    return int(array[::512].sum())


@shoal.remote
def start_escaping(megabytes: int, told: str) -> int:
    """What escapes lives on; who started it waits until it is there."""
    command = [sys.executable, "-c", ESCAPES, str(megabytes), told]
    subprocess.run(command, env={}, check=True)
    wait_for(lambda: Path(told).exists() and Path(told).read_text())
    time.sleep(LATE_S if megabytes > 10 else 0)
    return os.getpid()


@shoal.remote
class Keeper:
    """An actor that keeps what it takes."""

    def __init__(self) -> None:
        self.kept: list[bytes] = []

    def keep(self, megabytes: int) -> int:
        self.kept.append(b"x" * (megabytes * MB))
        return len(self.kept)


def error_of(ref: Any) -> dict[str, Any]:
    """What its error says; nothing: it has a value."""
    try:
        shoal.get(ref, timeout=LATE_S)
    except errors.OutOfMemoryError as error:
        facts = (error.kind, error.limit_bytes, error.peak_bytes)
        return {"error": type(error).__name__, "facts": facts}
    return {}


def groups_below(path: str) -> list[str]:
    """Names of groups in that group."""
    return sorted(entry.name for entry in os.scandir(path) if entry.is_dir())


def meet_limits(folder: Path) -> dict[str, Any]:
    """Tasks and actors with ``memory=``, and others in the same processes."""
    import numpy as np

    asked = take.options(memory=ASKED, max_retries=0)
    told = folder / "hungry"
    hungry = start_escaping.options(memory=ASKED, max_retries=0).remote(150, str(told))
    found: dict[str, Any] = {"escaped": error_of(hungry)}
    pid = int(told.read_text() or 0) if told.exists() else 0
    found["escaped_is_gone"] = wait_for(lambda: not pid or not is_running(pid))
    found["fits"] = shoal.get(asked.remote(20), timeout=LATE_S)
    found["hog"] = error_of(asked.remote(1000))
    found["others"] = shoal.get([take.remote(120) for _ in range(3)], timeout=LATE_S)
    keeper = Keeper.options(memory=ASKED).remote()
    found["kept"] = shoal.get(keeper.keep.remote(20), timeout=LATE_S)
    found["actor"] = error_of(keeper.keep.remote(1000))
    array = shoal.put(np.ones(25 * MB // 2))
    found["looked"] = shoal.get(look.options(memory=ASKED).remote(array), timeout=LATE_S)
    return found


def leave_somebody(folder: Path) -> tuple[int, int]:
    """(who escaped, the worker that started him), both living when the job ends."""
    told = folder / "calm"
    worker = shoal.get(start_escaping.remote(5, str(told)), timeout=LATE_S)
    return int(told.read_text()), worker


def session() -> dict[str, Any]:
    (row,) = cluster.table("session")
    return row


def main() -> None:
    folder = Path(sys.argv[1])
    (group,) = [each.path for each in machine_facts.enclosing_groups("memory") if each.is_v2][:1]
    shoal.init(num_cpus=2, object_store_memory=200 * MB, log_to_driver=False)
    source = session()["processes_memory"]
    found: dict[str, Any] = {"source": source["source"], "path": source["source_why"]}
    found["workers"] = len(state.workers())
    found |= meet_limits(folder)
    escaped, worker = leave_somebody(folder)
    os.kill(worker, signal.SIGKILL)
    found["outlives_its_worker"] = wait_for(lambda: not is_running(worker)) and is_running(escaped)
    during = groups_below(group)
    shoal.shutdown()
    found["outlives_its_job"] = is_running(escaped)
    found["during"], found["after"] = during, groups_below(group)

    shoal.init(num_cpus=2, object_store_memory=32 * MB, log_to_driver=False)
    found["again"] = session()["processes_memory"]["source"]
    pid = shoal.get(start_escaping.remote(5, str(folder / "last")), timeout=LATE_S)
    os.kill(session()["pid"], signal.SIGKILL)
    wait_for(lambda: not groups_below(group))
    found["after_kill"] = groups_below(group)
    found["worker_lives"] = is_running(pid)
    print(json.dumps(found), flush=True)
    os._exit(0)  # its session was lost on purpose


if __name__ == "__main__":
    main()
