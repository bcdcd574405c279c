"""``shoal.lock``: mutual exclusion by name, first come first served.

A holder is (process index, token): the token tells the lock objects and threads of one process
apart. A lock that nobody holds or waits for does not exist here.

1. The head of the line holds the lock; everybody behind it waits in order of asking.
2. When a process ends, it leaves every line; locks that it held go to the next.
3. Asking twice with the same holder is an error of the caller, not a deadlock.
4. A wait with a timeout ends at its deadline with ``held=False``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import msgspec


class Waiter(msgspec.Struct):
    """One request in the line of one lock."""

    index: int
    token: str
    request: int
    deadline: float | None


class LockTable:
    """All locks of a session."""

    def __init__(self) -> None:
        self._lines: dict[str, deque[Waiter]] = {}
        self._names: dict[int, dict[str, int]] = {}
        """For each process the locks in whose lines it stands, and how often."""
        self.awaited: dict[int, str] = {}
        """In a cluster, where the head has the lines: what processes of this node wait for ..."""
        self.held: dict[str, int] = {}
        """... and which of them has what."""

    def acquire(self, name: str, waiter: Waiter, is_try: bool) -> bool | None:
        """True: held now. False: refused (``is_try`` and somebody holds it). None: waits.

        Raises ``ValueError`` if the same holder stands in the line already.
        """
        line = self._lines.get(name)
        if line is None:
            self._lines[name] = deque([waiter])
            self._count(waiter.index, name, 1)
            return True
        if any(w.index == waiter.index and w.token == waiter.token for w in line):
            raise ValueError(f"lock {name!r} is held or waited for by this very holder")
        if is_try:
            return False
        line.append(waiter)
        self._count(waiter.index, name, 1)
        return None

    def release(self, name: str, index: int, token: str) -> Waiter | None:
        """The next holder, if there is one. Raises ``ValueError`` if the caller does not hold
        it."""
        line = self._lines.get(name)
        if line is None or line[0].index != index or line[0].token != token:
            raise ValueError(f"lock {name!r} is not held by the one who releases it")
        line.popleft()
        self._count(index, name, -1)
        return self._head(name)

    def expire(self, now: float) -> list[Waiter]:
        """Take everybody out whose deadline has passed; who."""
        late = []
        for name in list(self._lines):
            line = self._lines[name]
            for waiter in list(line)[1:]:
                if waiter.deadline is not None and waiter.deadline <= now:
                    line.remove(waiter)
                    self._count(waiter.index, name, -1)
                    late.append(waiter)
        return late

    def end_process(self, index: int) -> list[Waiter]:
        """The process is gone: who holds a lock now that it did not hold before."""
        promoted = []
        for name in list(self._names.get(index, ())):
            line = self._lines[name]
            was_head = line[0].index == index
            stays = deque(w for w in line if w.index != index)
            self._count(index, name, len(stays) - len(line))
            if not stays:
                del self._lines[name]
                continue
            self._lines[name] = stays
            if was_head:
                stays[0].deadline = None
                promoted.append(stays[0])
        return promoted

    def is_locked(self, name: str) -> bool:
        """Whether somebody holds it."""
        return name in self._lines

    def awaited_by(self, index: int) -> tuple[str, int, int] | None:
        """(lock, process that holds it, how many stand before it) of what a process waits for; -1:
        one of another node."""
        if (name := self.awaited.get(index)) is not None:
            return name, self.held.get(name, -1), 1
        for name in self._names.get(index, ()):
            line = self._lines[name]
            for ahead, waiter in enumerate(line):
                if ahead and waiter.index == index:
                    return name, line[0].index, ahead
        return None

    def next_deadline(self) -> float | None:
        """The earliest deadline of a waiter."""
        return min(self._deadlines(), default=None)

    def _deadlines(self) -> Iterator[float]:
        for line in self._lines.values():
            for position, waiter in enumerate(line):
                if position and waiter.deadline is not None:
                    yield waiter.deadline

    def _head(self, name: str) -> Waiter | None:
        line = self._lines[name]
        if line:
            # A holder has no deadline any more.
            line[0].deadline = None
            return line[0]
        del self._lines[name]
        return None

    def _count(self, index: int, name: str, change: int) -> None:
        counts = self._names.setdefault(index, {})
        counts[name] = counts.get(name, 0) + change
        if not counts[name]:
            del counts[name]
            if not counts:
                del self._names[index]

    def validate(self) -> None:
        """Assert the invariants."""
        counts: dict[tuple[int, str], int] = {}
        for name, line in self._lines.items():
            assert line, name
            holders = [(w.index, w.token) for w in line]
            assert len(set(holders)) == len(holders), name
            for waiter in line:
                counts[waiter.index, name] = counts.get((waiter.index, name), 0) + 1
        assert counts == {
            (index, name): count
            for index, names in self._names.items()
            for name, count in names.items()
        }
