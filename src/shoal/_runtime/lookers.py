"""Children of the dead that still look at values.

User code forks while it looks at values; the child's views are the same pages of node memory. As
long as the parent lives it keeps them for the child (a pipe tells it of the child's end). When the
parent dies first, ``Memory.repair`` leaves what it looked at, and its process index is given back
only once no process that could look is left:

* a *looker* is a process that maps our node memory, is neither a driver nor a worker, and was not
  forked by a living one (that one keeps the values for it);
* each looker is watched through its pidfd; when one ends we look again, since it may have forked.

The look at /proc costs some ten microseconds per process of our user, and is taken only after the
death of a process that has forked.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from shoal._native import Memory
from shoal._runtime import descendants
from shoal._runtime.daemon_loop import Loop


class Lookers:
    """Process indexes that wait until nobody looks any more."""

    def __init__(self, loop: Loop, memory: Memory, known: Callable[[], frozenset[int]]) -> None:
        self._loop = loop
        self._memory = memory
        self._known = known
        self._waiting: set[int] = set()
        self._watched: dict[int, int] = {}
        """pidfd by pid."""

    def close_process(self, index: int) -> None:
        """Give a repaired process's index back, now or when its children are gone."""
        if not self._memory.has_forked(index):
            self._memory.close_process(index)
            return
        self._waiting.add(index)
        self._look()

    def is_anybody_left(self, indexes: Iterable[int]) -> bool:
        """Whether a child of those that wait, or of these, may look at values (at the end of a
        session)."""
        have_forked = self._waiting or any(self._memory.has_forked(index) for index in indexes)
        return bool(have_forked) and bool(self.find())

    def find(self) -> list[int]:
        """Pids of all lookers."""
        mark = f" {os.fstat(self._memory.fd).st_ino} "
        seen = {each.pid: each for each in descendants.list_processes()}
        served = self._known()
        mapping = {pid for pid in seen if pid != os.getpid() and _maps(pid, mark)}
        found = []
        for pid in mapping - served:
            above = seen[pid].parent
            # A program that was exec'd maps nothing: what is above it has not forked this one.
            while above in mapping and above not in served:
                above = seen[above].parent
            if above not in served:
                found.append(pid)
        return found

    def _look(self) -> None:
        lookers = self.find()
        for pid in lookers:
            if pid not in self._watched:
                self._watch(pid)
        if lookers:
            return
        for index in self._waiting:
            self._memory.release_pins(index)
            self._memory.close_process(index)
        self._waiting.clear()

    def _watch(self, pid: int) -> None:
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            # It has just ended: the next look does not find it.
            self._loop.call_later(0.0, self._look)
            return
        self._watched[pid] = pidfd
        self._loop.watch(pidfd, lambda _: self._gone(pid))

    def _gone(self, pid: int) -> None:
        pidfd = self._watched.pop(pid)
        self._loop.unwatch(pidfd)
        os.close(pidfd)
        self._look()


def _maps(pid: int, mark: str) -> bool:
    """Whether the process maps the memory file with this inode number."""
    try:
        if os.stat(f"/proc/{pid}").st_uid != os.geteuid():
            return False
        with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as file:
            return any(mark in line and "/memfd:shoal" in line for line in file)
    except OSError:
        return False
