"""``shoal debug``: join a task that stands at a breakpoint, or run a failed one again, here."""

from __future__ import annotations

import os
import sys

from shoal import errors
from shoal._base import clock
from shoal._runtime import console, debugging, driver, terminals, wire
from shoal._runtime.terminals import Stop
from shoal.cli import report

KEY_HEX = 32
"""What is longer, and hexadecimal, is the id of an object."""


def stops(sockets: list[str]) -> list[tuple[Stop, str]]:
    """All tasks that stand at a breakpoint in these sessions."""
    return [row for path in sockets for row in terminals.stops(os.path.dirname(path))]


def print_stops(found: list[tuple[Stop, str]]) -> None:
    """One row per task."""
    now = clock.now()
    rows: list[dict[str, object]] = [
        {
            "id": stop.name,
            "task": stop.task,
            "attempt": stop.attempt,
            "pid": stop.pid,
            "line": f"{stop.file}:{stop.line}",
            "since": report.duration(now - stop.began),
        }
        for stop, _ in found
    ]
    report.print_rows("breakpoints", rows)


def find(found: list[tuple[Stop, str]], about: str) -> list[tuple[Stop, str]]:
    """Those that ``about`` means: an id of the list, a pid, or an id of a task."""
    return [
        (stop, path)
        for stop, path in found
        if about in (stop.name, str(stop.pid), stop.task_id) or not about
    ]


def join(path: str) -> bool:
    """Talk to the task behind ``path`` until it goes on; False if it has done so already."""
    try:
        client = wire.connect(path)
    except OSError:
        return False
    with client:
        console.talk(client)
    return True


def run_again(sockets: list[str], object_id: str) -> None:
    """Run the failed task whose result has that id.

    Raises:
        ShoalError: no session knows it, or it can not be run again.
    """
    sys.path.insert(0, os.getcwd())
    refused: errors.ShoalError | None = None
    for path in sockets:
        with driver.open_session(os.path.dirname(path), {}, None):
            try:
                debugging.debug(object_id)
            except errors.UsageError as error:
                refused = error
            else:
                return
    if refused is not None:
        raise refused
