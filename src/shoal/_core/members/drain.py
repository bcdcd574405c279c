"""How a node leaves in peace (RULES A-15).

::

    (working) -- DrainNode --> HANDING OVER -- HandedOver, or its time is up --> RESTING
                                                                                   |
           nothing is left that the store must hear of, or it takes too long       v
                                                                                LEAVING

HANDING OVER: nothing new is accepted, queued work is recalled, values without another copy are
pushed, restartable actors stop between two calls and restart elsewhere, uncharged. All of that the
node's own machine does; it says ``HandedOver`` when nothing is left but what ends by itself.
RESTING: what still runs is ended (``EndRest``), and the store hears of each end: an actor that is
named in a fact has ended as drained, one that only goes with its node was lost with it.
LEAVING: every process ends, and the node says so (``Obituary``).
"""

from __future__ import annotations

WORKING, HANDING_OVER, RESTING, LEAVING = "working", "handing over", "resting", "leaving"

REST_MOST_S = 30.0
"""How long what is ended may take, and the store to hear of it."""


class Draining:
    """The drain of one node."""

    def __init__(self) -> None:
        self.phase = WORKING
        self._until = 0.0

    @property
    def is_closed(self) -> bool:
        """Whether nothing new is accepted."""
        return self.phase != WORKING

    def begin(self, now: float, deadline_s: float) -> bool:
        """It is asked for; whether that is news. A shorter time replaces a longer one."""
        until = now + deadline_s
        if self.phase == HANDING_OVER:
            self._until = min(self._until, until)
        if self.phase != WORKING:
            return False
        self.phase, self._until = HANDING_OVER, until
        return True

    def rest(self, now: float) -> None:
        """Everything is handed over, or there is no time left."""
        assert self.phase == HANDING_OVER
        self.phase, self._until = RESTING, now + REST_MOST_S

    def is_up(self, now: float) -> bool:
        """Whether the time of this phase is over."""
        return self.phase in (HANDING_OVER, RESTING) and now >= self._until

    def leave(self) -> None:
        """Nothing is left to wait for."""
        assert self.phase == RESTING
        self.phase = LEAVING

    def next_at(self) -> float | None:
        """When time is up."""
        return self._until if self.phase in (HANDING_OVER, RESTING) else None
