"""The simulated disk under the control store's journal.

Like the journal (``_runtime.journal``) it promises: a transaction that was synced is there after a
kill, one that was not is there as a whole or not at all (each has a checksum, so one that is torn
counts as not there), and what was acknowledged is known apart, so that a loss is noticed and said.
Faults: no room for a while, slowness, an acknowledged tail that a bit flip has taken, an older
copy put in its place.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec

from shoal._core.store import Effect, Keep

Place = tuple[str, bytes]
SYNC_S = 0.0004
KEPT_MOST = 50
"""States that an older copy may be from."""


class State(msgspec.Struct):
    """All that is lasting, after one transaction."""

    rows: dict[Place, bytes] = {}
    epoch: int = 0
    sequence: int = 0


class FakeDisk:
    """One directory."""

    def __init__(self, chance: random.Random) -> None:
        self.states: list[State] = [State(rows={})]
        """After each synced transaction, the newest last."""
        self.acknowledged = (0, 0)
        """(epoch, sequence) of the last transaction that was synced, in a file of its own."""
        self.is_full = False
        self.slowness_s = 0.0
        self.syncs = 0
        self._chance = chance
        self._unsynced: State | None = None

    @property
    def newest(self) -> State:
        """What would be read now."""
        return self.states[-1]

    @property
    def is_behind(self) -> bool:
        """Whether it has lost something that was acknowledged."""
        return (self.newest.epoch, self.newest.sequence) < self.acknowledged

    def write(self, effects: Sequence[Effect], sequence: int, epoch: int) -> float | None:
        """Begin a transaction; how long its sync will take, None if there is no room."""
        rows = dict(self.newest.rows)
        for effect in effects:
            rows.pop((effect.kind, effect.key), None)
            if isinstance(effect, Keep):
                rows[effect.kind, effect.key] = effect.value
        return self.write_whole(rows, sequence, epoch)

    def write_whole(self, rows: dict[Place, bytes], sequence: int, epoch: int) -> float | None:
        """The same for a new file that has everything."""
        if self.is_full:
            return None
        self._unsynced = State(rows, epoch, sequence)
        return self._chance.expovariate(1 / (SYNC_S + self.slowness_s))

    def sync(self) -> None:
        """The transaction is there for good."""
        assert self._unsynced is not None
        self.states = [*self.states[-KEPT_MOST:], self._unsynced]
        self._unsynced = None
        self.acknowledged = (self.newest.epoch, self.newest.sequence)
        self.syncs += 1

    def crash(self) -> None:
        """The process that wrote is gone: what was not synced may be there all the same."""
        if self._unsynced is not None and self._chance.random() < 0.5:
            self.sync()
        self._unsynced = None

    def lose_tail(self, count: int) -> int:
        """The last so many transactions cannot be read any more; how many that were."""
        lost = min(count, len(self.states) - 1)
        if lost:
            del self.states[-lost:]
        return lost
