"""Nodes that are started and ended by the ``shoal`` command, each with a directory of its own."""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from shoal._runtime import registry
from shoal._runtime.observer import Observer

Done = subprocess.CompletedProcess
COMMAND_S = 60.0
WAIT_S = 30.0


def until(what: Callable[[], Any], wait_s: float = WAIT_S) -> Any:
    """Wait until it is true, and return it."""
    deadline = time.monotonic() + wait_s
    while not (found := what()):
        assert time.monotonic() < deadline, f"{what} has not come within {wait_s:g} s"
        time.sleep(0.05)
    return found


class Machine:
    """What one machine of a cluster would be: a directory for its sessions."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.directory = directory
        self.python = sys.executable
        self.as_user: dict[str, Any] = {}
        """Arguments of ``subprocess.run``: who runs the command."""
        self.variables = {**os.environ, "SHOAL_DIR": str(directory)}

    def shoal(self, *words: str, given: str = "") -> Done[str]:
        """Run a command to its end."""
        command = [self.python, "-m", "shoal", *words]
        return subprocess.run(
            command,
            env=self.variables,
            input=given,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            **self.as_user,
        )

    def start(self, *words: str, given: str = "", command: str = "start") -> str:
        """Start a node that must start; what was printed."""
        small = ("--num-cpus", "1", "--object-store-memory", "64MiB")
        done = self.shoal(command, *small, *words, given=given)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def refused(self, *words: str, given: str = "", command: str = "start") -> str:
        """Start a node that must not start; what was said, which is no traceback."""
        done = self.shoal(command, "--object-store-memory", "64MiB", *words, given=given)
        assert done.returncode in (1, 2), done.stdout
        assert "Traceback" not in done.stderr, done.stderr
        assert [path for path in self.directory.glob("session-*") if path.is_dir()] == []
        return done.stderr

    def nodes(self) -> dict[str, dict[str, Any]]:
        """Rows of ``shoal list nodes`` by name; of several with one name, the one that lives."""
        done = self.shoal("list", "nodes", "--json")
        assert done.returncode == 0, done.stderr
        rows = sorted(json.loads(done.stdout), key=lambda row: bool(row["state"] == "ALIVE"))
        return {row["name"]: row for row in rows}

    def alive(self) -> set[str]:
        """Names of the nodes that live. Asked for again and again, so without a command, but for
        the session of another user."""
        if self.as_user:
            return {name for name, row in self.nodes().items() if row["state"] == "ALIVE"}
        (entry,) = registry.started_sessions(str(self.directory))
        with Observer(entry.socket_path) as observer:
            rows = observer.table("nodes")
        return {str(row["name"]) for row in rows if row["state"] == "ALIVE"}

    def program(self, text: str) -> Done[str]:
        """Run a program that joins the session of this machine."""
        return subprocess.run(
            [sys.executable, "-c", text],
            env={**self.variables, "SHOAL_ADDRESS": "auto"},
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
        )

    def stop(self) -> None:
        """End what was started here; nothing is left."""
        if self.directory.exists():
            assert self.shoal("stop").returncode == 0
            assert list(self.directory.glob("session-*")) == []


def listening_at(printed: str) -> str:
    """The address in what ``shoal start --head`` printed."""
    found = re.search(r"reach it at (\S+)", printed)
    assert found is not None, printed
    return found.group(1)
