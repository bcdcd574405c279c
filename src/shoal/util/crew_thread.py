"""The thread of a crew: it is told what is ready, and lives while something may become so.

While it is *hasty* it is called every ``HASTE_S`` also if there is nothing to tell.

Invariants:

1. There is at most one at a time, and there is one while a word is expected.
2. It goes after ``LINGER_S`` without anything to expect: an idle pool costs no thread, and a
   program that ends waits only for jobs.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

from shoal import errors, lowlevel

LINGER_S = 0.05
HASTE_S = 0.002


class CrewThread:
    """What calls ``land`` with everything that has become ready.

    Args:
        land: Called in the thread.
        is_lasting: Whether the interpreter waits at its end for what is expected.
    """

    def __init__(self, land: Callable[[list[Any]], None], is_lasting: bool) -> None:
        self._land = land
        self._is_lasting = is_lasting
        self.is_hasty = False
        self._inbox = lowlevel.Arrivals()
        self._lock = threading.Lock()
        self._expected = 0
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()

    def watch(self, ref: Any, word: Any) -> None:
        """Have ``word`` landed when ``ref`` is ready."""
        with self._lock:
            self._expected += 1
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._serve, name="shoal-crew", daemon=not self._is_lasting
                )
                self._thread.start()
        try:
            self._inbox.add(ref, word)
        except errors.ShoalError:  # the session has ended: looking at the ref says so
            self._inbox.put(word)

    def hurry(self) -> None:
        """Be hasty, until ``is_hasty`` is taken back."""
        if not self.is_hasty:
            self.is_hasty = True
            with self._lock:
                self._expected += 1
            self._inbox.put(None)

    def is_this(self) -> bool:
        """Whether the thread that asks is the crew's."""
        return threading.current_thread() is self._thread

    def check_process(self) -> None:
        """Raise ``ForkedProcessError`` in a process that was forked from the crew's."""
        if os.getpid() != self._pid:
            raise errors.ForkedProcessError()

    def _serve(self) -> None:
        while True:
            patience_s = None if self._expected else LINGER_S
            words = self._inbox.take(HASTE_S if self.is_hasty else patience_s)
            with self._lock:
                self._expected -= len(words)
                if not words and not self._expected:
                    self._thread = None
                    return
            self._land(words)
            words.clear()
