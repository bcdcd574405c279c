"""A virtual clock: one heap of (time, number, action), and the only chance there is.

What a node and its processes will do is bound to the node's life: when its daemon is killed, none
of it happens any more (``end_life``). What comes from outside (faults, new programs, the store's
disk) is ``later``, whoever lives then.

Rules about times hold for a machine that runs. ``suspend`` makes the clock jump, as when a laptop
was closed: everything that was due meanwhile happens at once, and whoever checks how long something
took counts from ``disturbed_at`` (``since``).
"""

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
        self.disturbed_at = float("-inf")
        """When processes were last kept from doing what they were due to do."""
        self._heap: list[tuple[float, int, int, Callable[[], None]]] = []
        self._number = 0
        self._life = 1

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        """Do ``action`` then, if this life of the node lasts that long."""
        self._plan(delay_s, self._life, action)

    def later(self, delay_s: float, action: Callable[[], None]) -> None:
        """Do ``action`` then in any case."""
        self._plan(delay_s, 0, action)

    def _plan(self, delay_s: float, life: int, action: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._heap, (self.now + delay_s, self._number, life, action))

    def end_life(self) -> None:
        """The node's daemon is gone, and every process of its session with it."""
        self._life += 1

    def run(self, until: float) -> None:
        """Let time pass."""
        while self._heap and self._heap[0][0] <= until and self.end_reason is None:
            at, _, life, action = heapq.heappop(self._heap)
            if life in (0, self._life):
                self.now = max(self.now, at)
                action()
        self.now = max(self.now, until)

    def suspend(self, for_s: float) -> None:
        """Time passes and nobody runs."""
        self.now += for_s
        self.disturb()

    def disturb(self, for_s: float = 0.0) -> None:
        """Somebody does not run for so long: rules about times begin anew."""
        self.disturbed_at = max(self.disturbed_at, self.now + for_s)

    def since(self, at: float) -> float:
        """How long undisturbed time has passed since ``at``, at most."""
        return self.now - max(at, self.disturbed_at)

    def delay(self, mean_s: float) -> float:
        """A random time."""
        return self.random.expovariate(1 / mean_s)
