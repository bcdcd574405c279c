"""The daemon's loop: one thread, one epoll, timers, and work for idle moments.

Why not asyncio: the daemon and the control store start before anything else can happen, and
``import asyncio`` (uvloop: the same, it imports asyncio) costs 55 ms there, this file 5 ms. What
they need is readiness of descriptors, timers and idle work; there is nothing to await, because
deciding is a synchronous ``step`` and every effect is one non-blocking call.

Invariants:

1. A callback that was removed (``unwatch``) is not called any more, also if its descriptor was
   ready in the same look; a descriptor number that was used again in that look waits for the next
   one.
2. With nothing to do the process sleeps in ``epoll_wait`` without a timeout: no ticks.
3. Idle work runs one call at a time, when a look found nothing ready or the last call was
   ``IDLE_PAUSE_MOST_S`` ago: a busy node still gets its memory warm.
4. An exception in a callback is written to the log and the loop goes on: one odd peer must not end
   everybody's session. ``ERRORS_IN_A_ROW_MOST`` of them without a success between end the loop,
   since a level-triggered descriptor that nobody reads would burn a core for ever.
5. A cancelled timer is forgotten long before its time: an alarm in an hour that is set anew with
   every event must not leave an hour of them behind.
"""

from __future__ import annotations

import heapq
import itertools
import select
import sys
from collections import deque
from collections.abc import Callable

from shoal._base import clock

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
ERRORS_IN_A_ROW_MOST = 100
IDLE_PAUSE_MOST_S = 0.01
STALE_TIMERS_LEAST = 64
"""So many timers are kept before the cancelled ones are looked for."""


class Timer:
    """One call in the future; ``cancel`` is allowed at any time."""

    __slots__ = ("at", "callback")

    def __init__(self, at: float, callback: Callable[[], None]) -> None:
        self.at = at
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Do not call it; nothing happens if it was called already."""
        self.callback = None


class Loop:
    """Calls back when descriptors are ready or times have come, until ``stop``."""

    def __init__(self) -> None:
        self._epoll = select.epoll(flags=select.EPOLL_CLOEXEC)
        self._watched: dict[int, tuple[int, Callable[[int], None]]] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._timers_most = STALE_TIMERS_LEAST
        self._idle: deque[Callable[[], None]] = deque()
        self._numbers = itertools.count()
        self._idle_ran_at = 0.0
        self._look = 0
        self._errors_in_a_row = 0
        self._is_running = True

    # ---- what to wait for
    def watch(self, fd: int, callback: Callable[[int], None], events: int = READ) -> None:
        """Call ``callback(ready events)`` whenever ``fd`` is ready."""
        self._epoll.register(fd, events)
        self._watched[fd] = (self._look, callback)

    def change(self, fd: int, events: int) -> None:
        """Wait for other events of a watched descriptor."""
        self._epoll.modify(fd, events)

    def unwatch(self, fd: int) -> None:
        """Forget ``fd``; call it before closing the descriptor."""
        if self._watched.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def call_at(self, at: float, callback: Callable[[], None]) -> Timer:
        """Call once when ``clock.now()`` has reached ``at``."""
        timer = Timer(at, callback)
        heapq.heappush(self._timers, (at, next(self._numbers), timer))
        if len(self._timers) > self._timers_most:
            self._forget_cancelled()
        return timer

    def _forget_cancelled(self) -> None:
        self._timers = [entry for entry in self._timers if entry[2].callback is not None]
        heapq.heapify(self._timers)
        self._timers_most = 2 * len(self._timers) + STALE_TIMERS_LEAST

    def sizes(self) -> dict[str, int]:
        """How much is waited for."""
        return {"descriptors": len(self._watched), "timers": len(self._timers)}

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """Call once in ``delay_s`` seconds."""
        return self.call_at(clock.now() + delay_s, callback)

    def call_when_idle(self, callback: Callable[[], None]) -> None:
        """Call once when nothing else is to be done."""
        self._idle.append(callback)

    def stop(self) -> None:
        """Let ``run`` return after the present callback."""
        self._is_running = False

    # ---- waiting
    def run(self) -> None:
        """Wait and call back until ``stop``."""
        while self._is_running:
            self._run_once()
        self._epoll.close()

    def _run_once(self) -> None:
        self._look += 1
        ready = self._epoll.poll(self._timeout_s())
        for fd, events in ready:
            look, callback = self._watched.get(fd, (self._look, None))
            if callback is not None and look < self._look and self._is_running:
                self._call(callback, events)
        had_timers = self._run_timers()
        if self._idle and self._is_running:
            is_quiet = not ready and not had_timers
            if is_quiet or clock.now() > self._idle_ran_at + IDLE_PAUSE_MOST_S:
                self._call(self._idle.popleft())
                self._idle_ran_at = clock.now()

    def _timeout_s(self) -> float | None:
        if self._idle:
            return 0.0
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        if not self._timers:
            return None
        # epoll counts in milliseconds and rounds up; a timer a moment late costs nothing here.
        return max(0.0, self._timers[0][0] - clock.now())

    def _run_timers(self) -> bool:
        if not self._timers:
            return False
        now = clock.now()
        due = []
        while self._timers and self._timers[0][0] <= now:
            due.append(heapq.heappop(self._timers)[2])
        for timer in due:
            callback, timer.callback = timer.callback, None
            if callback is not None and self._is_running:
                self._call(callback)
        return bool(due)

    def guard(self, callback: Callable[..., None], *arguments: object) -> Exception | None:
        """Call; an exception is written to the log, returned, and ends nothing (invariant 4)."""
        try:
            callback(*arguments)
        except Exception as error:
            # As ``traceback`` would print it, which takes 1.5 ms of every start to import.
            sys.__excepthook__(type(error), error, error.__traceback__)
            sys.stderr.flush()
            return error
        return None

    def _call(self, callback: Callable[..., None], *arguments: int) -> None:
        error = self.guard(callback, *arguments)
        self._errors_in_a_row = 0 if error is None else self._errors_in_a_row + 1
        if error is not None and self._errors_in_a_row >= ERRORS_IN_A_ROW_MOST:
            raise error
