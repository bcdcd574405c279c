"""The one reader of the clock.

``now`` never goes back and goes on while the machine sleeps (CLOCK_BOOTTIME): leases, timers and
events use it, also those written by native code. ``wall`` is for people: log lines and tables.
``cpu`` is what work costs, however often others were served in between.
"""

from __future__ import annotations

import time


def now() -> float:
    """Seconds since boot, never going back."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def now_ns() -> int:
    """The same in nanoseconds, as in the rings of events."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def wall() -> float:
    """Seconds since 1970, for people."""
    return time.time()


def cpu() -> float:
    """CPU seconds of the calling thread."""
    return time.thread_time()
