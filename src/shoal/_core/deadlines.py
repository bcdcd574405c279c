"""When each of many things is due, without looking at all of them.

A node has thousands of workers and actors, and nearly all of them wait for nothing; after every
event the machine must know the earliest moment at which any of them does. Looking through them
would make each event cost as much as there are, and the end of a thousand actors a million looks.
So who waits says so here, and only they are looked at.

A heap with lazy deletion: a key that is moved or taken out leaves its old entry behind, which is
dropped when it comes to the top, or when more than half of the heap is such entries.

1. A key is due at one moment only: a later word about it replaces the earlier one.
2. ``next`` and ``due`` cost what was moved since, never the number of keys.
3. Keys that are due at the same moment come in the order in which they were set.
"""

from __future__ import annotations

import heapq
from typing import Generic, TypeVar

K = TypeVar("K", int, str)

STALE_MOST = 64
"""Entries left behind that are not worth a new heap."""


class Deadlines(Generic[K]):
    """Moments by key."""

    def __init__(self) -> None:
        self._entry: dict[K, tuple[float, int, K]] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._number = 0

    def __len__(self) -> int:
        return len(self._entry)

    def __contains__(self, key: K) -> bool:
        return key in self._entry

    def at(self, key: K) -> float | None:
        """When ``key`` is due."""
        entry = self._entry.get(key)
        return None if entry is None else entry[0]

    def set(self, key: K, at: float | None) -> None:
        """``key`` is due at ``at`` and at no other time; None: never."""
        known = self._entry.get(key)
        if at is None:
            if known is not None:
                del self._entry[key]
                self._drop_stale()
            return
        if known is not None and known[0] == at:
            return
        self._number += 1
        entry = self._entry[key] = (at, self._number, key)
        heapq.heappush(self._heap, entry)
        self._drop_stale()

    def _drop_stale(self) -> None:
        if len(self._heap) > 2 * len(self._entry) + STALE_MOST:
            self._heap = sorted(self._entry.values())

    def next(self) -> float | None:
        """The earliest moment."""
        heap = self._heap
        while heap and self._entry.get(heap[0][2]) is not heap[0]:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def due(self, now: float) -> list[K]:
        """Take out and return everything that is due by ``now``, the earliest first."""
        keys = []
        while (at := self.next()) is not None and at <= now:
            _, _, key = heapq.heappop(self._heap)
            del self._entry[key]
            keys.append(key)
        return keys

    def validate(self) -> None:
        """Assert the invariants."""
        entries = set(self._heap)
        assert all(entry in entries for entry in self._entry.values())
        assert len(self._heap) <= 2 * len(self._entry) + STALE_MOST + 1
