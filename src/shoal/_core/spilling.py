"""Which values leave node memory for files, and which come back: the deciding machine of spilling.

::

    RoomAsked -> LookAgainAt            -> RoomAsked | RoomFound
    RoomAsked -> WriteOut, WriteOut ... -> (thread) -> WrittenOut -> LetGo -> Left
    Wanted    -> ReadBack               -> (thread) -> WasRead     -> the value is there

It owns what is known of values outside of memory (``out``) and of when values were last looked
at. Nothing tells it of a look: a look takes a pin, and a pin changes the mark of the memory that
the value stands in. So memory whose mark is another one than last time was used in between, and the
memory that has been unused for longest goes first (least recently used, by the times of our own
looks; equally old ones in the order of their places, which is about the order in which they came).

Rules:

0. Who asks for room waits first, as long as those who take values give memory back by themselves
   (``DRAIN_S`` between two looks, ``DRAIN_MOST_S`` in all): what is gone soon need not be written.
   Where that did not help, it is not tried for a while, twice as long each time.
1. Never more is written than is asked for and a share of the store beyond it (``AHEAD``): who comes
   next then finds room. Whole extents leave first; a part of one, beside what somebody looks at,
   leaves only for what is asked. Where not all of that could be written, as on a disk that is
   nearly full, it is tried once more with only what is asked for, piece by piece, and first with
   what has a record already (``_is_frugal``). What was asked for is answered when it is there, or
   when nothing that is on its way can make it so. If all of that was looked at just then,
   something else may leave.
2. A value is on its way out or in at most once. One that is wanted while it goes out is left where
   it is (native memory sees the pin), and one that is gone on its way is forgotten.
3. A value that cannot be read is lost, loudly; one for which there is no room yet is tried again.
4. Values never change: one that came back, or did not leave after all, keeps its record, and leaves
   later without being written. A record is dropped once: when its value was freed or lost.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

AHEAD = 0.1
"""Of the store, beyond what is asked for."""
BATCH_BYTES = 64 << 20
"""Written at once, so that room appears while the next is being written."""
SLOT = (1 << 32) - 1
"""Of a key: its lower half."""
RETRY_S = 0.05
"""Until a value is tried again for which there was no room."""
DRAIN_S = 0.02
DRAIN_MOST_S = 0.5
NO_DRAIN_S = 1.0
NO_DRAIN_MOST_S = 16.0
IN_VAIN_MOST = 8
"""Rounds in a row in which all that was to leave was looked at; then there is no room."""


class Unit(msgspec.Struct, frozen=True):
    """Memory that is free once some values have left."""

    place: int
    n_extents: float
    """Below 1: others in the extent stay, and what is free in it has to be taken out of it."""
    keys: tuple[int, ...]
    mark: int


class RoomAsked(msgspec.Struct, frozen=True):
    """So many extents are missing; what could leave."""

    n_extents: int
    units: tuple[Unit, ...]


class RoomFound(msgspec.Struct, frozen=True):
    """Nothing is missing any more."""


class WrittenOut(msgspec.Struct, frozen=True):
    """A batch is in the files: the number of each record; or why it is not."""

    keys: tuple[int, ...]
    numbers: tuple[int, ...]
    problem: str = ""


class Left(msgspec.Struct, frozen=True):
    """The block of a written value was given back, or is still looked at."""

    key: int
    number: int
    is_out: bool


class Wanted(msgspec.Struct, frozen=True):
    """Somebody waits for a spilled value."""

    key: int
    number: int


class WasRead(msgspec.Struct, frozen=True):
    """A value is back in memory, or ``problem`` says why it can not be read."""

    key: int
    number: int
    problem: str = ""


class NoRoomFor(msgspec.Struct, frozen=True):
    """There is no memory for a value that is wanted: room is being asked for."""

    key: int
    number: int


class Unwanted(msgspec.Struct, frozen=True):
    """Whoever wanted a value has gone; the value stays where it is."""

    key: int


class Gone(msgspec.Struct, frozen=True):
    """Nobody holds these spilled values any more."""

    keys: tuple[int, ...]


class TimeToRetry(msgspec.Struct, frozen=True):
    """The alarm of ``RetryAt``."""


AnyEvent = (
    RoomAsked
    | RoomFound
    | WrittenOut
    | Left
    | Wanted
    | WasRead
    | NoRoomFor
    | Unwanted
    | Gone
    | TimeToRetry
)


class WriteOut(msgspec.Struct, frozen=True):
    """Write these values into the files."""

    keys: tuple[int, ...]


class LetGo(msgspec.Struct, frozen=True):
    """Give the block of a written value back, if nobody looks at it."""

    key: int
    number: int


class ReadBack(msgspec.Struct, frozen=True):
    """Bring a value back into memory."""

    key: int
    number: int


class DropRecord(msgspec.Struct, frozen=True):
    """A record in the files is not needed any more."""

    number: int


class Lose(msgspec.Struct, frozen=True):
    """The value cannot be had any more; its readers are told why."""

    key: int
    problem: str


class Answer(msgspec.Struct, frozen=True):
    """Those who wait for room: it is there, or there will be none."""

    is_given: bool
    problem: str = ""


class RetryAt(msgspec.Struct, frozen=True):
    """Come back at that time."""

    at: float


class LookAgainAt(msgspec.Struct, frozen=True):
    """Look whether room is still missing at that time."""

    at: float


AnyCommand = WriteOut | LetGo | ReadBack | DropRecord | Lose | Answer | RetryAt | LookAgainAt


class Spilling:
    """Decides; ``capacity`` is the store's, in extents, ``extent_bytes`` the size of one;
    ``is_patient``: rule 0; ``can_write``: there are files."""

    def __init__(
        self, capacity: int, extent_bytes: int, *, is_patient: bool = True, can_write: bool = True
    ) -> None:
        self.out: dict[int, int] = {}
        """Number of the record of each value that is out."""
        self.copies: dict[int, int] = {}
        """... that is in memory, and in the files too."""
        self._keys: dict[int, int] = {}
        """The key of each of them by its slot."""
        self._capacity = capacity
        self._extent_bytes = extent_bytes
        self._can_write = can_write
        self._used_at: dict[int, tuple[int, float]] = {}
        """By place: its mark, and when it was first seen."""
        self._leaving: dict[int, float] = {}
        """Keys on their way out -> extents that the last of their unit frees (else 0)."""
        self._coming: set[int] = set()
        self._has_left = False
        """Some of what was to make room has."""
        self._in_vain = 0
        """Rounds in which nothing has."""
        self._waiting: dict[int, int] = {}
        """Wanted, and no room yet."""
        self.is_asked = False
        """Somebody waits for room that is on its way."""
        self._problem = ""
        self._is_frugal = False
        self._is_retry_due = False
        self._drain_at: float | None = None
        """Since when who asks waits for memory that others give back."""
        self._look_at = -math.inf
        self._missing = 0
        self._no_drain_s = 0.0
        self._no_drain_until = -math.inf if is_patient else math.inf

    def step(self, now: float, event: AnyEvent) -> list[AnyCommand]:
        """What has happened; what is to be done."""
        match event:
            case RoomAsked():
                return self._make_room(now, event)
            case RoomFound():
                return self._found()
            case WrittenOut():
                return self._written(now, event)
            case Left():
                return self._left(now, event)
            case Wanted():
                return self._want(event.key, event.number)
            case NoRoomFor():
                self._coming.discard(event.key)
                self._waiting[event.key] = event.number
                if self._is_retry_due:
                    return []
                self._is_retry_due = True
                return [RetryAt(now + RETRY_S)]
            case TimeToRetry():
                self._is_retry_due = False
                return self._retry()
            case Unwanted():
                self._coming.discard(event.key)
                return []
            case WasRead():
                return self._read(event)
            case Gone():
                return self._forget(event.keys)

    def key_in(self, slot: int) -> int | None:
        """The value with a record that has, or had, this slot."""
        return self._keys.get(slot)

    def known(self) -> tuple[int, ...]:
        """All values that have a record."""
        return tuple(self._keys.values())

    # ---- out
    def _make_room(self, now: float, event: RoomAsked) -> list[AnyCommand]:
        self.is_asked = True
        if not self._leaving:
            if now < self._look_at:
                return []
            if self._is_draining(now, event.n_extents):
                self._look_at = now + DRAIN_S
                return [LookAgainAt(self._look_at)]
        if not self._can_write:
            return self._answer(False)
        units = self._coldest_first(now, event.units)
        coming = sum(self._leaving.values())
        missing = event.n_extents - coming
        wanted = missing if self._is_frugal else missing + int(AHEAD * self._capacity)
        if self._is_frugal:
            units.sort(key=lambda unit: any(key not in self.copies for key in unit.keys))
        keys: list[int] = []
        found = 0.0
        for unit in units:
            if found >= (wanted if unit.n_extents >= 1 else missing):
                break
            found += unit.n_extents
            keys += unit.keys
            for key in unit.keys:
                self._leaving[key] = 0
            # What has a record leaves at once: the memory is free with the last that has none.
            fresh = [key for key in unit.keys if key not in self.copies]
            self._leaving[(fresh or unit.keys)[-1]] = unit.n_extents
        if not self._leaving:
            return self._answer(False)
        copied = {key: self.copies[key] for key in keys if key in self.copies}
        fresh = [key for key in keys if key not in copied]
        return [
            *(LetGo(key, number) for key, number in copied.items()),
            *(WriteOut(batch) for batch in self._batches(fresh)),
        ]

    def _is_draining(self, now: float, missing: int) -> bool:
        if now < self._no_drain_until:
            return False
        if self._drain_at is None:
            self._drain_at, self._missing = now, missing
            return True
        if missing < self._missing and now - self._drain_at < DRAIN_MOST_S:
            self._missing = missing
            return True
        self._drain_at = None
        self._no_drain_s = min(max(2 * self._no_drain_s, NO_DRAIN_S), NO_DRAIN_MOST_S)
        self._no_drain_until = now + self._no_drain_s
        return False

    def _found(self) -> list[AnyCommand]:
        if self._drain_at is not None:
            self._drain_at = None
            self._no_drain_s = 0.0
        if not self._leaving:
            self.is_asked = False
        return []

    def _coldest_first(self, now: float, units: Iterable[Unit]) -> list[Unit]:
        free = [
            unit
            for unit in units
            if not any(key in self._leaving or key in self._coming for key in unit.keys)
        ]
        before = self._used_at
        self._used_at = {}
        for unit in free:
            mark, at = before.get(unit.place, (None, now))
            self._used_at[unit.place] = (unit.mark, at if mark == unit.mark else now)
        return sorted(free, key=lambda u: (u.n_extents < 1, self._used_at[u.place][1], u.place))

    def _batches(self, keys: list[int]) -> Iterable[tuple[int, ...]]:
        """By extents, as the sizes of single values are not known here."""
        batch: list[int] = []
        extents = 0.0
        for key in keys:
            batch.append(key)
            extents += self._leaving[key]
            if extents * self._extent_bytes >= (1 if self._is_frugal else BATCH_BYTES):
                yield tuple(batch)
                batch, extents = [], 0.0
        if batch:
            yield tuple(batch)

    def _failed(self, now: float) -> list[AnyCommand]:
        """Not everything could be written."""
        if self._has_left or self._is_frugal or not self.is_asked:
            return self._answer(self._has_left)
        self._is_frugal = True
        return [LookAgainAt(now)]

    def _written(self, now: float, event: WrittenOut) -> list[AnyCommand]:
        if event.problem:
            self._problem = event.problem
            for key in event.keys:
                self._leaving.pop(key, None)
            return [] if self._leaving else self._failed(now)
        return [LetGo(key, number) for key, number in zip(event.keys, event.numbers, strict=True)]

    def _left(self, now: float, event: Left) -> list[AnyCommand]:
        self._leaving.pop(event.key, None)
        self._has_left |= event.is_out
        if event.number:
            self._keys[event.key & SLOT] = event.key
            self.copies.pop(event.key, None)
            (self.out if event.is_out else self.copies)[event.key] = event.number
        if self._leaving:
            return []
        if self._problem and not self._has_left:
            return self._failed(now)
        self._in_vain = 0 if self._has_left else self._in_vain + 1
        if self.is_asked and not self._problem and 0 < self._in_vain < IN_VAIN_MOST:
            return [LookAgainAt(now)]
        # Who waits for a value comes before who makes a new one.
        return [*(self._retry() if event.is_out else ()), *self._answer(self._has_left)]

    def _retry(self) -> list[AnyCommand]:
        waiting, self._waiting = self._waiting, {}
        return [c for key, number in waiting.items() for c in self._want(key, number)]

    def _answer(self, is_given: bool) -> list[AnyCommand]:
        if not self.is_asked:
            return []
        self.is_asked = False
        self._has_left = self._is_frugal = False
        self._in_vain = 0
        problem, self._problem = self._problem, ""
        return [Answer(is_given, problem)]

    # ---- back
    def _want(self, key: int, number: int) -> list[AnyCommand]:
        if key in self._coming or self.out.get(key) != number:
            return []
        self._waiting.pop(key, None)
        self._coming.add(key)
        return [ReadBack(key, number)]

    def _read(self, event: WasRead) -> list[AnyCommand]:
        self._coming.discard(event.key)
        if self.out.pop(event.key, None) is None:
            return []
        if event.problem:
            self._keys.pop(event.key & SLOT, None)
            return [Lose(event.key, event.problem), DropRecord(event.number)]
        self.copies[event.key] = event.number
        return []

    def _forget(self, keys: Iterable[int]) -> list[AnyCommand]:
        done: list[AnyCommand] = []
        for key in keys:
            number = self.out.pop(key, None) or self.copies.pop(key, None)
            self._keys.pop(key & SLOT, None)
            self._waiting.pop(key, None)
            self._coming.discard(key)
            if number is not None:
                done.append(DropRecord(number))
        return done
