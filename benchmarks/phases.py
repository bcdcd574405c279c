"""What calls need when nobody waits: submitting, running and collecting one after another.

The CPU budget of a case with waiting in it is twice what its calls need. That need is measured by
taking the same calls apart in time, so that no process ever looks for something that is not there
yet: the workers are held (each reads from a pipe of its own, asleep), the driver submits, lets the
workers go and sleeps until everything is done, and then collects what is ready. The CPU seconds of
all processes together, divided by the number of calls, are the need of one call.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LOOK_AGAIN_S = 0.002


def hold_until_closed(path: str) -> None:
    """Runs in a worker: asleep until the driver lets go of the other end."""
    with open(path, "rb") as gate:
        gate.read()


class Gates:
    """Holds one worker for each function of `hold`, again and again."""

    def __init__(self, hold: list[Callable[[str], Any]]) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._hold = hold
        self.held: list[Any] = []
        """Refs of the last holds: they are ready when the workers are free again."""
        self._paths = [str(Path(self._folder.name) / str(i)) for i in range(len(hold))]
        for path in self._paths:
            os.mkfifo(path)

    def close(self) -> list[int]:
        """Hold all; their ends, to be closed to let them go."""
        ends = []
        self.held.clear()
        for start, path in zip(self._hold, self._paths, strict=True):
            self.held.append(start(path))
            ends.append(os.open(path, os.O_WRONLY))  # returns when the worker has opened it too
        return ends


def sleep_until_ready(api: Any, refs: list[Any]) -> None:
    """Wait for all of them without helping or spinning; the last ones are the last to be ready."""
    while not api.wait(refs[-1:], timeout=0)[0]:
        time.sleep(LOOK_AGAIN_S)
    api.wait(refs, num_returns=len(refs))


def in_phases(
    api: Any,
    gates: Gates,
    submit: Callable[[], list[Any]],
    collect: Callable[[list[Any]], object],
) -> int:
    """One batch in three phases; the number of calls."""
    ends = gates.close()
    refs = submit()
    n = len(refs)
    for end in ends:
        os.close(end)
    sleep_until_ready(api, refs)
    collect(refs)
    # A worker that is late might take the next hold's end for its own, and never let go.
    sleep_until_ready(api, gates.held)
    return n
