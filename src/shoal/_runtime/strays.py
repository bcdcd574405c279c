"""Ending what left its worker's process group (``setsid``), when the job that it belongs to ends.

What a worker has started ends with the worker (``descendants.reap``), but for what left its group:
that may live on, as long as its job. When its parent dies it becomes a child of the zygote or of
the node daemon, which are subreapers. Whose it is must then be told by itself, though it may have
an empty environment, another program, name and descriptors, and a parent that is long gone. So a
worker *marks* itself once it has a job: with a limit on processor time without a pause, in
microseconds, of 9 years and as many as the number of its job. Limits are inherited by ``fork``,
kept by ``exec`` and can not be raised again.

1. A process is ended if it is a child of zygote or daemon, is nobody whom the daemon knows, and has
   the mark of a job that does not run.
2. A worker can mark itself once. Where somebody else has set that limit (a session below a worker
   of another one), nothing is marked, and what has left ends with the session.
3. One look for all deaths of a round: two short files if nobody is there.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Collection, Container
from typing import TYPE_CHECKING

from shoal._runtime import descendants

if TYPE_CHECKING:
    from shoal._runtime.daemon_loop import Loop, Timer

_BASE = 1 << 48
_LINE = b"Max realtime timeout"
FIRST_PAUSE_S, LAST_PAUSE_S = 0.02, 64.0
"""Between two looks while somebody does not end; doubled each time."""


def mark(job: int) -> None:
    """This process, and all that comes from it, belongs to ``job``."""
    _, most = resource.getrlimit(resource.RLIMIT_RTTIME)
    if most == resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_RTTIME, (_BASE + job, _BASE + job))


def job_of(pid: int) -> int:
    """The job by whose worker process ``pid`` was started, directly or not; -1: none that is known.

    Raises:
        OSError: the process is gone.
    """
    with open(f"/proc/{pid}/limits", "rb") as file:
        for line in file:
            if line.startswith(_LINE):
                most = line.split()[-2]
                return int(most) - _BASE if most.isdigit() and int(most) >= _BASE else -1
    return -1


def children(pid: int) -> list[int]:
    """Of the main thread of process ``pid``: who lost its parent comes to that one."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", "rb") as file:
            return [int(child) for child in file.read().split()]
    except FileNotFoundError:  # the process is gone, or the kernel does not say it so
        return [each.pid for each in descendants.list_processes() if each.parent == pid]
    except OSError:
        return []


class Strays:
    """Looks for them after each death."""

    def __init__(
        self, loop: Loop, running: Container[int], known: Callable[[], Collection[int]]
    ) -> None:
        """``running`` are the numbers of the jobs that go on; ``known`` are the processes that the
        daemon knows."""
        self._loop = loop
        self._running = running
        self._known = known
        self._timer: Timer | None = None
        self._pause_s = FIRST_PAUSE_S
        self.end_groups: Callable[[Container[int]], int] = lambda running: 0
        """Where workers have cgroups, these say more surely who is left of them."""

    def look_soon(self, zygote: int) -> None:
        """Somebody has died; process ``zygote`` may have got its children."""
        if self._timer is not None:
            self._timer.cancel()
        self._pause_s = FIRST_PAUSE_S
        self._timer = self._loop.call_later(0.0, lambda: self._look(zygote))

    def _look(self, zygote: int) -> None:
        self._timer = None
        left = self._end_them([*children(zygote), *children(os.getpid())])
        if not left + self.end_groups(self._running):
            return
        # Their own children come to us next; and one that is stuck in the kernel ends later.
        self._timer = self._loop.call_later(self._pause_s, lambda: self._look(zygote))
        self._pause_s = min(2 * self._pause_s, LAST_PAUSE_S)

    def _end_them(self, pids: list[int]) -> int:
        known = self._known()
        ended = 0
        for pid in pids:
            if pid in known:
                continue
            try:
                target = descendants.seen(pid)
                job = job_of(pid)
            except OSError:
                continue
            if target is not None and job >= 0 and job not in self._running:
                ended += descendants.kill(target)
        return ended
