"""The simulated disk under spilled values, and the one thread that writes and reads there.

Like the files of ``_runtime.spill_files`` it promises: a record that was written is read as it was
or not at all (each has a checksum), records of one batch stand in one file, a file goes with its
last record. Jobs are done one after the other, each in its time.

Faults: no room, slowness, a thread that does not answer for a while, reads that fail, a bit that
flips, a file that is cut short or deleted.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from shoal.testing.sim.checkers import Violation
from shoal.testing.sim.clock import Clock

JOB_S = 0.0005
FILE_RECORDS = 8


class Record(msgspec.Struct):
    """One value in a file."""

    key: int
    content: int
    checksum: int
    file: int
    is_gone: bool = False


class SpillDisk:
    """All files of one session."""

    def __init__(self, world: Clock, chance: random.Random) -> None:
        self._world = world
        self._chance = chance
        self.records: dict[int, Record] = {}
        self.is_full = False
        self.is_failing = False
        self.slowness_s = 0.0
        self.flip_rate = 0.0
        """How likely what is written is not what was to be written."""
        self.stopped_until = 0.0
        self.troubled_at = float("-inf")
        """When it last refused something."""
        self.counts = {"written": 0, "read": 0, "damaged": 0}
        self._jobs: deque[Callable[[], None]] = deque()
        self._is_busy = False
        self._number = 0
        self._file = (0, 0)
        """(number, records that were written into it)"""

    def give(self, job: Callable[[], None]) -> None:
        """The thread does it when it has done what came before."""
        self._jobs.append(job)
        if not self._is_busy:
            self._next()

    def _next(self) -> None:
        self._is_busy = bool(self._jobs)
        if not self._jobs:
            return
        took_s = self._chance.expovariate(1 / (JOB_S + self.slowness_s))
        self._world.after(took_s, self._do)

    def _do(self) -> None:
        if self.stopped_until > self._world.now:
            self._world.after(self.stopped_until - self._world.now, self._do)
            return
        self._jobs.popleft()()
        self._next()

    # ---- in the thread
    def write(self, values: Sequence[tuple[int, int]]) -> list[int]:
        """Write (key, content) of each; their numbers, none if there is no room."""
        if self.is_full or self.is_failing:
            self.troubled_at = self._world.now
            return []
        numbers = []
        number, count = self._file
        if count >= FILE_RECORDS or not count:
            self._number += 1
            number, count = self._number, 0
        for key, content in values:
            if any(record.key == key for record in self.records.values()):
                raise Violation(f"value {key} is written, and stands in the files already")
            self._number += 1
            is_flipped = self.flip_rate > 0 and self._chance.random() < self.flip_rate
            self.counts["damaged"] += is_flipped
            self.records[self._number] = Record(key, content ^ is_flipped, content, number)
            numbers.append(self._number)
        self._file = (number, count + len(values))
        self.counts["written"] += len(values)
        return numbers

    def read(self, number: int) -> tuple[int, str]:
        """(content, what is wrong with it)"""
        record = self.records.get(number)
        if record is None:
            raise Violation(f"record {number} is read, and was dropped")
        self.counts["read"] += 1
        if self.is_failing:
            self.troubled_at = self._world.now
            return 0, "simulated: it cannot be read"
        if record.is_gone:
            return 0, "simulated: the file is gone or too short"
        return record.content, self.problem_of(record)

    def problem_of(self, record: Record) -> str:
        """What the checksum says."""
        is_good = record.content == record.checksum
        return "" if is_good else "simulated: its bytes do not agree with their checksum"

    def drop(self, number: int) -> None:
        """Nobody needs it any more."""
        if self.records.pop(number, None) is None:
            raise Violation(f"record {number} is dropped, and is not there")
        if not self.records:
            self._file = (0, 0)

    def is_damaged(self, number: int) -> bool:
        """Whether this record cannot be read now."""
        record = self.records.get(number)
        return record is None or record.is_gone or self.is_failing or bool(self.problem_of(record))

    # ---- faults
    def flip_some(self, chance: random.Random) -> None:
        """Half of the values have other bytes."""
        for number in sorted(self.records):
            if chance.random() < 0.5:
                self.records[number].content ^= 1 << chance.randrange(30)
                self.counts["damaged"] += 1

    def cut(self, chance: random.Random) -> None:
        """The end of a file is gone, or all of it."""
        files = sorted({record.file for record in self.records.values()})
        if not files:
            return
        file = chance.choice(files)
        numbers = [n for n in sorted(self.records) if self.records[n].file == file]
        for number in numbers[chance.choice((0, len(numbers) // 2)) :]:
            self.records[number].is_gone = True
            self.counts["damaged"] += 1
