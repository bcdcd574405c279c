"""Messages between a control store and nodes, in the worst order that a network has.

Nothing is promised: each message goes its own way, so that any two may arrive in any order; it may
be lost, doubled, or late by seconds. Ways are cut in one direction or in both. Who is stopped reads
later, all at once; who has died, never. A renewal that is not answered goes through another node.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from shoal.testing.sim.clock import Clock

STORE = "store"
TRANSIT_S = 0.003
DOUBLED = 0.01


class Network(Clock):
    """A clock, and the ways between processes."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.cut: dict[tuple[str, str], float] = {}
        """(from, to) -> until when nothing passes."""
        self.lossy_until = 0.0
        self.slow_until = 0.0
        self.is_plain = False
        """Every message takes the same time and none is lost."""
        self.sent = 0
        self.delivered = 0
        self.on_delivered: Callable[[], None] = lambda: None

    def is_open(self, here: str, there: str) -> bool:
        """Whether anything passes."""
        return self.cut.get((here, there), 0.0) <= self.now

    def send(self, way: tuple[str, ...], action: Callable[[], None]) -> None:
        """Carry something along the stations of ``way``, if it arrives."""
        self.sent += 1
        if self.is_plain:
            self.later(TRANSIT_S, lambda: self._arrive(way, action))
            return
        chance = self.random
        if self.now < self.lossy_until and chance.random() < 0.4:
            return
        for _ in range(2 if chance.random() < DOUBLED else 1):
            delay_s = self.delay(TRANSIT_S) * (len(way) - 1)
            if self.now < self.slow_until:
                delay_s += chance.uniform(0.0, 6.0)
            elif chance.random() < 0.02:
                delay_s += chance.uniform(0.0, 0.5)
            self.later(delay_s, lambda: self._arrive(way, action))

    def _arrive(self, way: tuple[str, ...], action: Callable[[], None]) -> None:
        if all(self.is_open(here, there) for here, there in pairwise(way)):
            self.delivered += 1
            action()
            self.on_delivered()
