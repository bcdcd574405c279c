"""A virtual clock: one heap of (time, number, action), and the only chance there is."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable


class Clock:
    """Time that passes when it is told to."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.end_reason: str | None = None
        """Set when the session has ended: nothing happens any more."""
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        """Do ``action`` later."""
        self._number += 1
        heapq.heappush(self._heap, (self.now + delay_s, self._number, action))

    def run(self, until: float) -> None:
        """Let time pass."""
        while self._heap and self._heap[0][0] <= until and self.end_reason is None:
            at, _, action = heapq.heappop(self._heap)
            self.now = max(self.now, at)
            action()
        self.now = max(self.now, until)

    def delay(self, mean_s: float) -> float:
        """A random time."""
        return self.random.expovariate(1 / mean_s)
