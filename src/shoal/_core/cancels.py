"""Tasks that are to end before they are done: cancelled ones, and those whose time is over.

Node memory seals what has not started. What runs is asked first and ended later::

    CancelTask, deadline -> CancelTasks -> FoundRunning -> CancelAttempt (the process asks its code)
                                 ^                             |
                                 +----- once more after ``cancel_s``: still there? then Kill

Only the process of a plain task is ever ended; a call of an actor is asked, and that is all
(RULES Q-3). A killed task is not tried again: its death finds its record here.

1. What runs stands in ``running`` until a second look has found that it does not any more, so
   nothing stays for longer than that. A call stands in ``calls`` until somebody has looked whether
   it has ended: should its actor crash before, it is not tried again either.
2. A deadline is one moment per task. Nobody tells of tasks that end in time, and deadlines may be
   hours away: beyond ``TIMED_MOST`` of them, each new one has two older ones looked at, in turn, so
   that there are never more than about twice as many as tasks that live. Calls are sifted so, too.
"""

from __future__ import annotations

from collections import deque

import msgspec

from shoal._core.deadlines import Deadlines

TIMED_MOST = 256
LOOKS_PER_DEADLINE = 2


class Asked(msgspec.Struct, frozen=True):
    """``CancelTasks`` is under way."""

    key: int
    record: bytes
    """What those that run fail with."""
    is_forced: bool = False
    """Do not ask: end the process."""


class Running(msgspec.Struct, frozen=True):
    """An attempt of a plain task that was asked to end."""

    attempt: int
    worker: int
    record: bytes


class Cancels:
    """Who is to end, and when patience is over."""

    def __init__(self) -> None:
        self.asked: dict[int, Asked] = {}
        self.running: dict[int, Running] = {}
        self.patience: Deadlines[int] = Deadlines()
        """When an attempt that was asked is looked at again."""
        self.timed: Deadlines[int] = Deadlines()
        """When a task's own time is over."""
        self.calls: dict[int, bytes] = {}
        """Calls that were told to end, and the record of each."""
        self._turns: deque[int] = deque()
        """Keys of ``timed`` and ``calls``, now or once: the next to be looked at first."""

    def watch(self, key: int, at: float) -> tuple[int, ...]:
        """It has until then; those that are to be looked at for it, whether they have ended."""
        if key not in self.timed:
            self._turns.append(key)
        self.timed.set(key, at)
        return self._next_turns()

    def tell(self, key: int, record: bytes) -> tuple[int, ...]:
        """A call was told to end; as for ``watch``."""
        if key not in self.calls:
            self._turns.append(key)
        self.calls[key] = record
        return self._next_turns()

    def ended(self, key: int) -> None:
        """It was looked at, and has ended."""
        self.timed.set(key, None)
        self.calls.pop(key, None)

    def _next_turns(self) -> tuple[int, ...]:
        if len(self._turns) <= TIMED_MOST:
            return ()
        keys = [self._turns.popleft() for _ in range(LOOKS_PER_DEADLINE)]
        living = tuple(key for key in keys if key in self.timed or key in self.calls)
        self._turns.extend(living)
        return living

    def ask(self, key: int, running: Running, again_at: float) -> None:
        """It was told; it is looked at again then."""
        self.running[key] = running
        self.patience.set(key, again_at)

    def forget(self, key: int) -> Running | None:
        """It does not run any more."""
        self.patience.set(key, None)
        return self.running.pop(key, None)

    def next_deadline(self) -> float | None:
        """When somebody is due."""
        times = (self.patience.next(), self.timed.next())
        return min((at for at in times if at is not None), default=None)

    def validate(self) -> None:
        """Assert the invariants."""
        looked = {asked.key for asked in self.asked.values()}
        for key in self.running:
            assert key in self.patience or key in looked
        assert len(self.patience) <= len(self.running)
        self.patience.validate()
        self.timed.validate()
        assert len(self.timed) <= len(self._turns) and len(self.calls) <= len(self._turns)
