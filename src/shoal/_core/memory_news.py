"""Which workers have not heard yet that a function is heavy, and what waits for that.

Workers hear of it by a message, and take tasks from node memory without one: a task that is queued
again could begin before its worker has heard that it must ask first. So the end of a process that
was ended for its memory is taken in only when everybody has heard, or after ``WAIT_MOST_S``: a
worker that is stopped keeps nobody waiting for longer.
"""

from __future__ import annotations

from shoal._core.events import ProcessDied

WAIT_MOST_S = 5.0


class MemoryNews:
    """Messages on their way, and ends of processes that wait for them."""

    def __init__(self) -> None:
        self.unheard: dict[int, int] = {}
        """How many messages each worker has not answered."""
        self.until: float | None = None
        """Longest wait for all of that."""
        self._ends: dict[int, ProcessDied] = {}
        """By worker."""

    def sent(self, now: float, index: int) -> None:
        """A worker is told; one whose end waits here will not answer."""
        if index in self._ends:
            return
        self.unheard[index] = self.unheard.get(index, 0) + 1
        self.until = now + WAIT_MOST_S

    def heard(self, index: int) -> None:
        """It has answered."""
        left = self.unheard.get(index, 0) - 1
        if left > 0:
            self.unheard[index] = left
        else:
            self.gone(index)

    def gone(self, index: int) -> None:
        """It will not answer any more."""
        self.unheard.pop(index, None)
        if not self.unheard:
            self.until = None

    def keep(self, event: ProcessDied) -> bool:
        """Whether this end waits; it comes back from ``due``."""
        self.gone(event.index)  # it may have been told of what its own end has shown
        if self.unheard:
            self._ends[event.index] = event
        return bool(self.unheard)

    def due(self, now: float) -> list[ProcessDied]:
        """Ends that have waited for long enough."""
        if self.until is not None and self.until <= now:
            self.unheard.clear()
            self.until = None
        if self.unheard or not self._ends:
            return []
        ends, self._ends = self._ends, {}
        return [*ends.values()]

    def validate(self) -> None:
        """Assert what must hold."""
        assert bool(self.unheard) == (self.until is not None)
        assert all(count > 0 for count in self.unheard.values())
        assert not self.unheard.keys() & self._ends.keys()
