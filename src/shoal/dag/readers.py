"""Who reads the results of a compiled graph, and who is told that one has come.

One thread reads at a time (``take_turn`` ... ``give_turn_back``); what it reads on its way to its
own result is kept for others, and they are told after each: nobody stands behind a wait for a later
result. With one thread all of this is one lock that is free.

``watch`` is for who waits for other things too (``shoal.wait``): a thread reads as long as there is
anything to be watched, and calls back.

Invariants:

1. Who waits for a turn is counted before it looks whether it needs one; who reads looks at the
   count after it has read, and after it has given the turn back. So no news is lost.
2. Callbacks are called once, by any thread, without a lock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from shoal import errors
from shoal._base import clock
from shoal._runtime.session import NATIVE_ERRORS


class Readers:
    """The threads that want results of one graph; ``Results`` is one, and no cycle with it."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._news = threading.Condition()
        self.n_waiting = 0
        self.watchers: dict[int, list[Callable[[], object]]] = {}
        self._thread: threading.Thread | None = None
        self.give_turn_back = self._turn.release

    def is_settled(self, number: int) -> bool:
        """Whether nothing has to be waited for to know about an execution."""
        raise NotImplementedError

    def read_any(self, deadline: float | None) -> bool:
        """Have the next execution read into this process; False if every one was read."""
        raise NotImplementedError

    # ---- reading in turn

    def take_turn(self, number: int, deadline: float | None) -> bool:
        """Become the one who reads; False if an execution has been read meanwhile.

        Raises:
            ChannelTimeoutError: neither has come about until the deadline.
        """
        if self._turn.acquire(blocking=False):
            return True
        with self._news:
            self.n_waiting += 1
            try:
                while not self.is_settled(number):
                    if self._turn.acquire(blocking=False):
                        return True
                    left_s = None if deadline is None else max(0.0, deadline - clock.now())
                    if left_s == 0.0:
                        raise errors.ChannelTimeoutError(what="a turn to read", timeout_s=0.0)
                    self._news.wait(left_s)
            finally:
                self.n_waiting -= 1
        return False

    def tell(self) -> None:
        """Something was read, or the turn is free, or the graph has ended."""
        if self.n_waiting:
            with self._news:
                self._news.notify_all()
        if self.watchers:
            self._call_back()

    # ---- being called back

    def watch(self, number: int, call: Callable[[], object]) -> None:
        """Have ``call`` called as soon as an execution was read, or never will be."""
        with self._news:
            self.watchers.setdefault(number, []).append(call)
            if self._thread is None and not self.is_settled(number):
                self._thread = threading.Thread(
                    target=self._serve, name="shoal-graph-watch", daemon=True
                )
                self._thread.start()
        self._call_back()

    def unwatch(self, number: int, call: Callable[[], object]) -> None:
        """Nobody waits any more."""
        with self._news:
            calls = self.watchers.get(number, [])
            if call in calls:
                calls.remove(call)
            if not calls:
                self.watchers.pop(number, None)

    def _call_back(self) -> None:
        with self._news:
            over = [number for number in self.watchers if self.is_settled(number)]
            calls = [call for number in over for call in self.watchers.pop(number)]
        for call in calls:
            call()

    def _serve(self) -> None:
        while True:
            with self._news:
                if not self.watchers:
                    self._thread = None
                    return
            try:
                self.read_any(None)
            except (errors.ShoalError, *NATIVE_ERRORS):
                break  # the graph has ended, or the session: whoever asks for a result is told
        with self._news:
            calls = [call for waiting in self.watchers.values() for call in waiting]
            self.watchers.clear()
            self._thread = None
        for call in calls:
            call()
