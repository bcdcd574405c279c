"""Rebuilds that wait behind a task which runs, and who is told of them.

A rebuild that nobody has begun after ``FIRST_S`` may stand behind a generator that waits for its
consumer, who waits for what the rebuild makes. Every process that runs something of that queue is
told then, and again from time to time: it makes the rebuild itself if its generator stands
(``standing.py``), and else does nothing. Without a rebuild that waits there is no timer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from shoal._native import Memory
from shoal._proto import messages
from shoal._runtime.daemon_loop import Loop

FIRST_S = 0.1
MOST_S = 1.0
"""Between two times: they grow up to that."""
_QUEUED = 2
"""As of ``Memory.sight``."""


class Behind:
    """Has processes told of the rebuilds that wait for them."""

    def __init__(self, loop: Loop, memory: Memory, rebuilds: Collection[int]) -> None:
        """``rebuilds`` are the keys of those that have not ended, as they are at any time."""
        self._loop = loop
        self._memory = memory
        self._rebuilds = rebuilds
        self.tell: Callable[[int, messages.Message], None] = lambda index, body: None
        self.processes: Callable[[], Iterable[int]] = lambda: ()
        """Indexes of all processes."""
        self._delay_s = 0.0

    def begun(self) -> None:
        """There is one more."""
        if not self._delay_s:
            self._delay_s = FIRST_S
            self._loop.call_later(self._delay_s, self._look)

    def _look(self) -> None:
        if not self._rebuilds:
            self._delay_s = 0.0
            return
        by_queue: dict[int, list[int]] = {}
        for key in self._rebuilds:
            if (queue := self._queue(key, waits=True)) is not None:
                by_queue.setdefault(queue, []).append(key)
        for index in self.processes() if by_queue else ():
            running = self._memory.process_sight(index)[3]
            for queue in {self._queue(key) for key in running}:
                if queue in by_queue:
                    self.tell(index, messages.RunWhereYouStand(by_queue[queue]))
        self._delay_s = min(2 * self._delay_s, MOST_S)
        self._loop.call_later(self._delay_s, self._look)

    def _queue(self, key: int, waits: bool = False) -> int | None:
        row = self._memory.sight(key)
        return None if row is None or (waits and row[2] != _QUEUED) else row[7]
