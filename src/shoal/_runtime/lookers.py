"""Children of the dead: processes that user code forked may still look at values of their parent.

A child that user code forked has the parent's read-only view of node memory. While the parent
lives it keeps what the child can see (PROTOCOL B4). When it has died, or left, ``repair`` keeps the
values that it had pinned, its process index stays taken, and this file finds out when nobody can
see them any more::

    the parent forks while it looks at values
      -> its ``forked`` word, and one page mapped without any access: its *mark*
    the parent is dead and repaired, ``has_forked``
      -> a look through /proc/*/maps for its mark: every child, and child of a child, has it
      -> a pidfd for each; when the last one found has ended, another look, since they fork too
      -> nobody found: ``release_pins``, ``close_process``

Invariants:

1. Nothing happens, and nothing is paid, for a process that never forked while it looked at values.
2. A look that finds nobody is right. It lists /proc until a list names no process that it has not
   read already. Numbers of processes are listed in ascending order, so whoever is forked during a
   list stands in it or in the next one. (But for a machine that runs through all its numbers
   meanwhile.)
3. A look takes at most ``SLICE_S`` of the daemon's loop at a time, and one look serves all who
   wait.
4. ``exec`` ends what a child can see, and no descriptor tells of it. So the children that were
   found are read again after ``AGAIN_S``, then after twice that, up to ``AGAIN_MOST_S``. This is
   the one place where something is looked at without having been rung for; it happens only while
   a dead process has a child that still sees its values.

More may be kept than the children can see (pins that the dead made after its last fork), never
less.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator

from shoal._base import clock
from shoal._native import Memory
from shoal._runtime.daemon_loop import Loop, Timer

SLICE_S = 0.002
AGAIN_S = 1.0
AGAIN_MOST_S = 64.0


class Marks:
    """Reads from /proc whose children processes are."""

    def __init__(self, memory: Memory) -> None:
        file = os.stat(memory.fd)
        device = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}"
        self._pattern = re.compile(f" ---s ([0-9a-f]+) {device} {file.st_ino} ".encode())

    def of(self, pid: int) -> set[int]:
        """The marks that ``pid`` has mapped: none if it has ended, or is another user's.

        Raises:
            OSError: it cannot be said, for want of descriptors.
        """
        try:
            with open(f"/proc/{pid}/maps", "rb", buffering=0) as file:
                return {int(found, 16) for found in self._pattern.findall(file.read())}
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            return set()

    def look(self, spared: frozenset[int]) -> Iterator[tuple[int, set[int]]]:
        """Yield every process but ``spared`` with its marks, until no unread one is left."""
        read = set(spared)
        while True:
            listed = {int(name) for name in os.listdir("/proc") if name.isdigit()}
            if listed <= read:
                return
            for pid in sorted(listed - read):
                yield pid, self.of(pid)
            read |= listed


class Lookers:
    """The dead whose children are looked for, and those children."""

    def __init__(
        self, loop: Loop, memory: Memory, known_pids: Callable[[], frozenset[int]]
    ) -> None:
        """``known_pids`` are the living processes of the session: they are nobody's children."""
        self._loop = loop
        self._memory = memory
        self._known_pids = known_pids
        self._marks = Marks(memory)
        self._asked: set[int] = set()
        """Dead indexes that the next look is for."""
        self._children: dict[int, set[int]] = {}
        """Pids of the children that were found, by dead index."""
        self._pidfds: dict[int, int] = {}
        self._is_looking = False
        self._pause_s = AGAIN_S
        self._timer: Timer | None = None

    def close_process(self, index: int) -> None:
        """Give a repaired process's index back, now or when its children have gone."""
        if not self._memory.has_forked(index):
            self._memory.close_process(index)
            return
        self._children[index] = set()
        self._ask(index)

    @property
    def waiting(self) -> int:
        """How many dead and children of theirs are waited for."""
        return len(self._children) + len(self._pidfds)

    def is_anybody_left(self, indexes: Iterable[int]) -> bool:
        """Whether a child lives of those that wait, or of these: one look, made at once, for the
        end of the session."""
        forked = [index for index in (*indexes, *self._children) if self._memory.has_forked(index)]
        marks = {self._memory.fork_mark(index) for index in forked}
        if not marks:
            return False
        return any(not found.isdisjoint(marks) for _, found in self._marks.look(frozenset()))

    # ---- looking
    def _ask(self, index: int) -> None:
        self._asked.add(index)
        if not self._is_looking:
            self._is_looking = True
            # Later, so that those who die together are served by one look.
            self._loop.call_later(0.0, self._begin_look)

    def _begin_look(self) -> None:
        self._pause_s = AGAIN_S
        dead = {self._memory.fork_mark(index): index for index in self._asked}
        self._asked.clear()
        spared = self._known_pids() | {os.getpid()}
        self._go_on(dead, self._marks.look(spared))

    def _go_on(self, dead: dict[int, int], look: Iterator[tuple[int, set[int]]]) -> None:
        until = clock.now() + SLICE_S
        try:
            for pid, marks in look:
                for mark in marks & dead.keys():
                    self._found(dead[mark], pid)
                if clock.now() > until:
                    self._loop.call_later(0.0, lambda: self._go_on(dead, look))
                    return
        except OSError:  # no descriptor is left: ask again when there may be one
            self._asked.update(dead.values())
            self._loop.call_later(AGAIN_S, self._begin_look)
            return
        self._end_look(dead)

    def _end_look(self, dead: dict[int, int]) -> None:
        for index in dead.values():
            if not self._children[index]:
                self._asked.discard(index)
                del self._children[index]
                self._memory.release_pins(index)
                self._memory.close_process(index)
        self._is_looking = bool(self._asked)
        if self._asked:
            self._loop.call_later(0.0, self._begin_look)
        elif self._pidfds and self._timer is None:
            self._timer = self._loop.call_later(self._pause_s, self._read_again)

    def _found(self, index: int, pid: int) -> None:
        if pid not in self._pidfds:
            try:
                self._pidfds[pid] = os.pidfd_open(pid)
            except ProcessLookupError:
                return
            self._loop.watch(self._pidfds[pid], lambda _: self._gone(pid))
        self._children[index].add(pid)

    # ---- their ends
    def _gone(self, pid: int) -> None:
        """``pid`` has ended, or sees nothing any more."""
        pidfd = self._pidfds.pop(pid)
        self._loop.unwatch(pidfd)
        os.close(pidfd)
        for index, children in self._children.items():
            if pid in children:
                children.discard(pid)
                if not children:
                    self._ask(index)

    def _read_again(self) -> None:
        self._timer = None
        with contextlib.suppress(OSError):  # no descriptor is left: next time
            for pid in list(self._pidfds):
                of = (index for index, pids in self._children.items() if pid in pids)
                looks_at = {self._memory.fork_mark(index) for index in of}
                if self._marks.of(pid).isdisjoint(looks_at):
                    self._gone(pid)
        if self._pidfds:
            self._pause_s = min(2 * self._pause_s, AGAIN_MOST_S)
            self._timer = self._loop.call_later(self._pause_s, self._read_again)
