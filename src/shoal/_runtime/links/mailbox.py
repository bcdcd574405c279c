"""How other threads reach the loop: calls that they leave, and one descriptor that wakes it.

Bulk transfers and the resolving of names run in threads; everything they have to say to the daemon
is a call that its own loop makes. ``post`` may be called from any thread, also after ``close``.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable

from shoal._runtime.daemon_loop import Loop

CALLS_AT_ONCE = 64


class Mailbox:
    """Calls for one loop."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._calls: deque[Callable[[], None]] = deque()
        self._lock = threading.Lock()
        """Between a ``post`` and the closing of the descriptor that it writes to."""
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._is_closed = False
        loop.watch(self._fd, self._ready)

    def post(self, call: Callable[[], None]) -> None:
        """Have the loop make a call; nothing happens once the mailbox is closed."""
        self._calls.append(call)
        with self._lock:
            if not self._is_closed:
                os.eventfd_write(self._fd, 1)

    def close(self) -> None:
        """Make no more calls."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            self._loop.unwatch(self._fd)
            os.close(self._fd)
        self._calls.clear()

    def _ready(self, events: int) -> None:
        os.eventfd_read(self._fd)
        for _ in range(CALLS_AT_ONCE):
            if not self._calls:
                return
            self._loop.guard(self._calls.popleft())
        with self._lock:
            if not self._is_closed:
                os.eventfd_write(self._fd, 1)
