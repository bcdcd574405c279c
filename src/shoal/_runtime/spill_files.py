"""Files that hold values for which node memory has no room.

::

    <place>/<session>-<n>.spill         records one after the other, up to FILE_BYTES
    record = magic 8 | number 8 | length 8 | checksum 4 | zeros 4 | bytes

Values are written one behind the other into large files (a file per value would cost a disk more
for its directory than for its bytes), each with a checksum that is looked at when it is read: bytes
that have changed are an error, never a value. A file goes when the last of its records is dropped.

Several places (``spill_places``) take turns; one that is full (some of a disk is left to others) or
broken is passed over, and is asked again with the next batch.

Invariants: a number is never used twice; what ``write`` has returned can be read until it is
dropped; nothing is left behind by ``close``. All of it runs in one thread (``daemon_spill``).
"""

from __future__ import annotations

import errno
import zlib
from collections.abc import Sequence
from struct import Struct
from typing import Any

import msgspec

from shoal._runtime.spill_places import SUFFIX, Place, SpillFile

FILE_BYTES = 256 << 20
LOOKED_AT = 1000
_HEAD = Struct("<8sQQII")
_MAGIC = b"SHOALSP1"


class SpillError(OSError):
    """A value could not be written or read; the text says where and why, for people."""


class Record(msgspec.Struct):
    """Where a value stands."""

    file: SpillFile
    offset: int
    size: int


def _is_there(number: int, record: Record) -> bool:
    """Whether its head and its last byte are; what stands between only its checksum knows."""
    head, last = bytearray(_HEAD.size), bytearray(1)
    end = record.offset + _HEAD.size + record.size - 1
    try:
        found = record.file.place.read_into(record.file, record.offset, memoryview(head))
        found += record.file.place.read_into(record.file, end, memoryview(last))
    except OSError:
        return False
    return found == _HEAD.size + 1 and _HEAD.unpack(head)[:2] == (_MAGIC, number)


class SpillFiles:
    """Writes values, finds them again. ``prefix`` begins every file's name."""

    def __init__(self, places: Sequence[Place], prefix: str, file_bytes: int = FILE_BYTES) -> None:
        self.places = list(places)
        self.close_s = max(place.close_s for place in places)
        self._prefix = prefix
        self._file_bytes = file_bytes
        self._files: list[SpillFile] = []
        self._current: dict[int, SpillFile] = {}
        """The file that is being written, by place."""
        self._turn = 0
        self._number = 0
        self.records: dict[int, Record] = {}
        self.bytes_live = 0
        """Of values that are still needed."""

    def write(self, values: Sequence[memoryview]) -> list[int]:
        """Write values behind each other; the number of each.

        Raises:
            SpillError: no place can take them.
        """
        problems = []
        for k in range(len(self.places)):
            index = (self._turn + k) % len(self.places)
            try:
                numbers = self._write_again(index, values)
            except OSError as error:
                problems.append(f"{self.places[index]}: {error.strerror or error}")
                continue
            self._turn = index + 1
            return numbers
        raise SpillError("; ".join(problems) or "there is no place for files")

    def _write_again(self, index: int, values: Sequence[memoryview]) -> list[int]:
        """If not behind the others, then in a file of their own: the last one may be damaged."""
        is_begun = index in self._current
        try:
            return self._write_to(index, values)
        except OSError:
            self._give_up_file(index)
            if not is_begun:
                raise
        try:
            return self._write_to(index, values)
        except OSError:
            self._give_up_file(index)
            raise

    def _write_to(self, index: int, values: Sequence[memoryview]) -> list[int]:
        place = self.places[index]
        needed = sum(_HEAD.size + value.nbytes for value in values)
        room = place.room()
        if room is not None and room < needed:
            raise OSError(errno.ENOSPC, f"only {room >> 20} MiB are free for files")
        file = self._current.get(index)
        if file is None:
            self._number += 1
            file = SpillFile(place, f"{self._prefix}-{self._number}{SUFFIX}")
            self._current[index] = file
        parts: list[Any] = []
        records = []
        at = file.size
        for value in values:
            self._number += 1
            head = _HEAD.pack(_MAGIC, self._number, value.nbytes, zlib.crc32(value), 0)
            parts += (head, value)
            records.append((self._number, Record(file, at, value.nbytes)))
            at += _HEAD.size + value.nbytes
        place.append(file, parts)
        file.size = at
        file.live += len(records)
        if file not in self._files:
            self._files.append(file)
        self.records.update(records)
        self.bytes_live += sum(value.nbytes for value in values)
        if file.size >= self._file_bytes or not place.can_append:
            self._give_up_file(index)
        return [number for number, _ in records]

    def _give_up_file(self, index: int) -> None:
        """The next batch begins another file."""
        file = self._current.pop(index, None)
        if file is not None and not file.live:
            self._remove(file.place, file)

    def read_into(self, number: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with a value and look at its checksum.

        Raises:
            SpillError: the file is gone, too short, or holds other bytes than were written.
        """
        record = self.records[number]
        where = f"{record.file.place}/{record.file.name}"
        head = bytearray(_HEAD.size)
        try:
            place = record.file.place
            found = place.read_into(record.file, record.offset, memoryview(head), buffer)
        except OSError as error:
            raise SpillError(f"{where} cannot be read: {error.strerror or error}") from error
        if found < len(head) + buffer.nbytes:
            raise SpillError(f"{where} is too short: {found} bytes of a value of {buffer.nbytes}")
        magic, its_number, size, checksum, _ = _HEAD.unpack(head)
        is_it = (magic, its_number, size) == (_MAGIC, number, buffer.nbytes)
        if not is_it or zlib.crc32(buffer) != checksum:
            raise SpillError(f"{where} was changed: its bytes do not agree with their checksum")

    def gone_with(self, number: int) -> list[int]:
        """Records of the same file that are not there either: who finds one missing looks for more
        (at most ``LOOKED_AT``), as what is needed to make values again may make several at once."""
        file = self.records[number].file
        rows = [(n, record) for n, record in self.records.items() if record.file is file]
        return [n for n, record in rows[:LOOKED_AT] if n != number and not _is_there(n, record)]

    def file_of(self, number: int) -> str:
        """Where record ``number`` stands, for people; "" if it is not there any more."""
        record = self.records.get(number)
        return "" if record is None else f"{record.file.place}/{record.file.name}"

    def drop(self, number: int) -> None:
        """A value is not needed any more."""
        record = self.records.pop(number, None)
        if record is None:
            return
        record.file.live -= 1
        self.bytes_live -= record.size
        if record.file.live:
            record.file.place.forget(record.file, record.offset, _HEAD.size + record.size)
        if record.file.live == 0:
            self._current = {i: f for i, f in self._current.items() if f is not record.file}
            self._remove(record.file.place, record.file)

    def _remove(self, place: Place, *files: SpillFile) -> None:
        gone = {*files}
        self._files = [file for file in self._files if file not in gone]
        try:
            place.remove(*files)
        except OSError:
            pass  # what does not answer is asked again with the next file

    def close(self) -> None:
        """Leave nothing."""
        files = {*self._files, *self._current.values()}
        for place in self.places:
            self._remove(place, *(file for file in files if file.place is place))
            try:
                place.close()
            except OSError:
                pass  # it has been told before that it does not answer
        self.records.clear()
        self._current.clear()
