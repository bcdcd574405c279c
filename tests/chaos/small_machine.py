"""A container as people get them: 64 MB of ``/dev/shm``, all of it taken, and little memory.

    python -m tests.chaos.small_machine

is the part that runs inside. A session with nothing but defaults; tasks make ten times of what its
store holds, all of it is kept, other tasks read all of it, and so does the program. The kernel must
end nobody, and every answer must be right. Prints what it found as one line of JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import shoal
from shoal._runtime import cluster
from tests.torture.drivers import ROOT
from tests.torture.group import Group

SHM = Path("/dev/shm")
SHM_MB = 64
TIMES = 10
LENGTH = (1 << 17) - 100
LATE_S = 280.0
INSIDE = """
echo $$ > "$1" || exit 90
mount -t tmpfs -o size=64m tmpfs /dev/shm || exit 91
shift; exec "$@"
"""


def why_not() -> str:
    """Why this process may not have a ``/dev/shm`` of its own; empty: it may."""
    command = ["unshare", "-m", "mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(SHM)]
    try:
        made = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        return f"there is no unshare: {error}"
    return "" if made.returncode == 0 else f"nothing can be mounted here: {made.stderr.strip()}"


def run_in(group: Group) -> dict[str, Any]:
    """Run this program in ``group`` and behind mounts of its own; what it printed."""
    program = [sys.executable, "-m", "tests.chaos.small_machine"]
    entry = str(group.path / "cgroup.procs")
    process = subprocess.run(
        ["unshare", "-m", "sh", "-c", INSIDE, "sh", entry, *program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LATE_S,
        check=False,
    )
    assert process.returncode == 0, (process.returncode, process.stderr[-4000:])
    found: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return found


def fill(folder: Path) -> int:
    """Take all of a disk; how much that was."""
    with (folder / "filler").open("wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while True:
                file.write(bytes(1 << 20))
        return os.fstat(file.fileno()).st_size


@shoal.remote(max_retries=0)
def made(number: int) -> Any:
    return np.full(LENGTH, number)


@shoal.remote(max_retries=0)
def total(values: Any) -> int:
    return int(values.sum())


def main() -> None:
    taken = fill(SHM)
    began = time.monotonic()
    shoal.init(num_cpus=2, log_to_driver=False)
    (before,) = cluster.table("session")
    count = TIMES * int(before["memory_capacity_bytes"]) // (8 * LENGTH)
    refs = [made.remote(number) for number in range(count)]
    sums = shoal.get([total.remote(ref) for ref in refs])
    assert sums == [number * LENGTH for number in range(count)]
    for number in range(0, count, 5):
        value = shoal.get(refs[number])
        assert value[0] == value[-1] == number
    (after,) = cluster.table("session")
    found = {
        "shm_bytes": taken,
        "capacity": before["memory_capacity_bytes"],
        "bytes": 8 * LENGTH * count,
        "spilled": after["spilling"]["spilled_bytes"],
        "lost": after["spilling"]["lost"],
        "same": before["pid"] == after["pid"] and before["zygote_pid"] == after["zygote_pid"],
        "seconds": round(time.monotonic() - began, 3),
    }
    shoal.shutdown()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
