"""A started session of a test's own, with the test itself attached to it as one more driver."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import shoal
from shoal._runtime import cluster
from tests.torture.processes import is_running, is_worker, session_pids

SETTLED_LOOKS = 10


@dataclass(frozen=True)
class Started:
    """One session made by `shoal start`."""

    session: str
    environment: dict[str, str]
    """For drivers: finds this session and no other one."""

    def facts(self) -> dict[str, object]:
        """What the daemon says of itself."""
        (row,) = cluster.table("session")
        return row

    def daemon(self) -> int:
        return int(str(self.facts()["pid"]))

    def zygotes(self) -> set[int]:
        return {int(str(self.facts()["zygote_pid"]))}

    def stores(self) -> set[int]:
        """The control store is a process of its own in a started session."""
        pid = int(str(self.facts()["store_pid"]))
        return {pid} if is_running(pid) else set()

    def workers(self) -> set[int]:
        """Everything that serves tasks or an actor."""
        return {pid for pid in session_pids(self.session) if is_worker(pid)}

    def pids_of(self, kind: str) -> set[int]:
        """Living processes of one kind: worker, zygote, store or daemon."""
        if kind == "daemon":
            return {self.daemon()}
        kinds = {"worker": self.workers, "zygote": self.zygotes, "store": self.stores}
        return kinds[kind]()

    def settled_memory(self) -> dict[str, int]:
        """What the audit counts once it counts the same for a while."""
        counts = [shoal.lowlevel.memory().audit()]
        while len(counts) < SETTLED_LOOKS or any(c != counts[-1] for c in counts[-SETTLED_LOOKS:]):
            assert len(counts) < 20 * SETTLED_LOOKS, f"node memory does not settle: {counts[-5:]}"
            time.sleep(0.02)
            counts.append(shoal.lowlevel.memory().audit())
        return counts[-1]

    def wait_for_memory(self, expected: dict[str, int], deadline_s: float) -> None:
        """Until the audit, which recounts everything, finds exactly this in node memory."""
        end = time.monotonic() + deadline_s
        while (found := shoal.lowlevel.memory().audit()) != expected:
            assert time.monotonic() < end, f"in node memory: {found}, expected: {expected}"
            time.sleep(0.05)

    def wait_for_empty_memory(self, deadline_s: float) -> None:
        """Until the audit finds no byte, slot or spec in use."""
        self.wait_for_memory(dict.fromkeys(shoal.lowlevel.memory().audit(), 0), deadline_s)


COMMAND_S = 90.0
"""Longer than ``shoal start`` itself waits for the daemon that it has begun."""


def shoal_command(*arguments: str, environment: dict[str, str]) -> str:
    """Run `shoal ...` and return what it printed."""
    command = [sys.executable, "-m", "shoal", *arguments]
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=COMMAND_S
    )
    assert result.returncode == 0, f"{command}: {result.stdout}\n{result.stderr}"
    return result.stdout


@contextmanager
def start_session(folder: Path, num_cpus: int, *options: str) -> Iterator[Started]:
    """`shoal start` in a directory of the test's own; stopped at the end, also after a failure."""
    root = folder / "sessions-of-test"
    environment = {**os.environ, "SHOAL_DIR": str(root)}
    before = os.environ.get("SHOAL_DIR")
    shoal_command("start", "--num-cpus", str(num_cpus), *options, environment=environment)
    try:
        os.environ["SHOAL_DIR"] = str(root)
        (entry,) = (root / "sessions").glob("*.json")
        started = Started(json.loads(entry.read_text())["session"], environment)
        shoal.init(address=started.session)
        try:
            yield started
        finally:
            shoal.shutdown()
    finally:
        if before is None:
            del os.environ["SHOAL_DIR"]
        else:
            os.environ["SHOAL_DIR"] = before
        shoal_command("stop", environment=environment)
