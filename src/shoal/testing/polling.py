"""Waiting for a condition that nobody announces: looks again and again, until a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable

from shoal._base import clock

PAUSE_S = 0.01


def wait_until(condition: Callable[[], object], timeout_s: float) -> bool:
    """Whether ``condition`` became true in time; it is looked at least once."""
    until = clock.now() + timeout_s
    while not condition():
        if clock.now() > until:
            return False
        time.sleep(PAUSE_S)
    return True
