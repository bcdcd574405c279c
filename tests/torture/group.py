"""A whole session in a memory cgroup that is too small for its object store.

    python -m tests.torture.group FOLDER SEED SECONDS

is the part that runs inside of the group. The store is told that it may have `STORE_BYTES`, the
group allows `LIMIT_BYTES` in all: page after page of node memory would end in the kernel's OOM
killer, which ends the innocent (PROTOCOL B1). Instead the store must say that it is full before the
kernel does anything: no kill in the group's figures, every process alive, every answer right or
`ObjectStoreFullError`.

Both layouts of cgroups are tried; where neither lets us make a group, `make_group` says why and the
test is skipped (listed in tests/tidy/exceptions.toml).
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from shoal._runtime.machine_facts import enclosing_groups
from tests.torture import full
from tests.torture.drivers import ROOT
from tests.torture.kills import FINISH_S, Say
from tests.torture.started import start_session

LIMIT_BYTES = 640 << 20
STORE_BYTES = 2 << 30
WORKERS = 3


class Group(msgspec.Struct, frozen=True):
    """A memory cgroup of our own."""

    path: Path
    is_v2: bool

    def write(self, name: str, text: str) -> None:
        (self.path / name).write_text(text)

    def number(self, name: str) -> int:
        return int((self.path / name).read_text())

    def kills(self) -> int:
        """How many processes the kernel has ended in this group for want of memory."""
        name = "memory.events" if self.is_v2 else "memory.oom_control"
        rows = dict(line.split() for line in (self.path / name).read_text().splitlines())
        return int(rows["oom_kill"])

    def peak_bytes(self) -> int:
        return self.number("memory.peak" if self.is_v2 else "memory.max_usage_in_bytes")

    def remove(self) -> None:
        """Once nobody is in it any more."""
        end = time.monotonic() + 30
        while True:
            try:
                self.path.rmdir()
                return
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)


def make_group(limit_bytes: int = LIMIT_BYTES) -> Group | str:
    """A group below our own with that limit; or why there is none."""
    why = "no memory cgroup is mounted"
    for parent in enclosing_groups("memory"):
        path = Path(parent.path) / f"shoal-torture-{os.getpid()}"
        try:
            path.mkdir()
        except OSError as error:
            why = f"no cgroup can be made here: {error.strerror}"
            continue
        group = Group(path, parent.is_v2)
        try:
            name = "memory.max" if parent.is_v2 else "memory.limit_in_bytes"
            group.write(name, str(limit_bytes))
            group.kills()
            return group
        except (OSError, KeyError) as error:
            path.rmdir()
            why = f"a cgroup made here has no memory controller: {error}"
    return why


def run(folder: Path, seed: int, seconds: float, say: Say) -> dict[str, Any] | str:
    """One session in a small group from start to end; or why that is not possible here."""
    group = make_group()
    if isinstance(group, str):
        return group
    program = [sys.executable, "-m", "tests.torture.group", str(folder), str(seed), str(seconds)]
    try:
        # The shell joins the group and becomes the program: all that it starts is in there.
        process = subprocess.Popen(
            ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group.path / "cgroup.procs"), *program],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        output, _ = process.communicate(timeout=full.TRIES * seconds + FINISH_S + 60)
        *progress, last = output.splitlines() or [""]
        for line in progress:
            say(line)
        assert process.returncode == 0, f"it ended with {process.returncode}: {output[-4000:]}"
        kills, peak = group.kills(), group.peak_bytes()
        assert kills == 0, f"the kernel has ended {kills} processes of the group"
    finally:
        group.remove()
    found: dict[str, Any] = json.loads(last)
    assert found["full"] > 0, f"the store was never full: {found}"
    return {**found, "limit_bytes": LIMIT_BYTES, "peak_bytes": peak, "kernel_kills": kills}


def main() -> None:
    folder, seed, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    # Where values may leave for files nothing is full.
    none = ("--object-spilling-directory", "none")
    size = ("--object-store-memory", str(STORE_BYTES), *none)
    with start_session(folder, WORKERS, *size) as started:
        pids = (started.daemon(), *started.zygotes(), *started.stores())
        found = full.fill_up(started, folder, random.Random(seed), seconds, print)
        after = (started.daemon(), *started.zygotes(), *started.stores())
        assert pids == after, f"somebody has died: {pids} {after}"
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
