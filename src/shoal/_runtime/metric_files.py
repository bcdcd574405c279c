"""Where the figures of a session's metrics stand: one file per process, mapped into its memory.

An update is a store into memory and no message. The file belongs to the kernel's page cache, so
what a process has counted outlives it, also ``kill -9``; who wants the figures reads all files and
adds them up, whether it is part of the session or not (``shoal metrics``).

::

    <session directory>/metrics/
      <pid>-<start time>.bin     of one process: segments, one after another
      folded.bin                 sums of processes that have ended
      lock                       flock: shared for readers, exclusive for who folds

    segment   "shoalmt1" | bytes of the segment u64 | bytes in use u64 | entry ...
    entry     bytes of the definition u32 | cells u32 | definition and 0 to 7 bytes | cell f64 ...

A counter has one cell, a gauge one; a histogram one per bucket and the sum of what was observed.

Invariants:

1. A cell has one writing process and is stored as one aligned 8-byte word: readers see each value
   whole, and a counter never goes back. (The buckets and the sum of a histogram are several words:
   a reader may see an observation in one of them only.)
2. *Bytes in use* is stored after the entry it covers: readers see whole entries only.
3. The figures of an ended process stay: once there are more than ``MOST_ENDED`` such files, the
   next process that begins one folds them into ``folded.bin``. That file names those it contains
   until they are removed, so that a fold that is killed half-way counts nothing twice.
4. Gauges of an ended process are gone: nobody would ever set them again.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import msgspec

from shoal._runtime import session_dir

FOLDER = "metrics"
MOST_ENDED = 32
SEGMENT_BYTES = 16 << 10
MOST_SERIES = 100_000
"""Of one process: each value of a tag is a series, and tags of endless values eat memory."""

_MAGIC = b"shoalmt1"
_HEAD = struct.Struct("<8sQQ")
_ENTRY = struct.Struct("<II")
_FOLDED = "folded.bin"
_ENDING = ".bin"


class Definition(msgspec.Struct, frozen=True, array_like=True):
    """What a metric is."""

    kind: str
    """counter, gauge or histogram."""
    name: str
    description: str
    tag_keys: tuple[str, ...] = ()
    boundaries: tuple[float, ...] = ()

    @property
    def cells(self) -> int:
        """How many words a series of it has."""
        return len(self.boundaries) + 2 if self.kind == "histogram" else 1

    def is_like(self, other: Definition) -> bool:
        """Whether both count the same thing; descriptions may differ."""
        return (self.kind, self.tag_keys, self.boundaries) == (
            other.kind,
            other.tag_keys,
            other.boundaries,
        )


class _Key(msgspec.Struct, frozen=True, array_like=True):
    definition: Definition
    values: tuple[str, ...]


class Reading(msgspec.Struct, frozen=True):
    """One series, as it was read."""

    definition: Definition
    values: tuple[str, ...]
    """Of the tags, in the order of their keys."""
    cells: list[float]
    pid: int = 0
    """The living process of a gauge; 0 for what is a sum."""


class Book:
    """The series of this process, in a file or, without ``directory``, in its own memory."""

    def __init__(self, directory: str = "") -> None:
        """Begin the file of this process.

        Raises:
            OSError: there is no room for it.
        """
        self._descriptor = -1
        self._size = self._used = self._room = 0
        self._segment = memoryview(b"")
        self._series: dict[_Key, memoryview[float]] = {}
        if directory:
            folder = os.path.join(directory, FOLDER)
            os.makedirs(folder, mode=0o700, exist_ok=True)
            fold(folder)
            pid = os.getpid()
            name = f"{pid}-{session_dir.process_start_time(pid)}{_ENDING}"
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self._descriptor = os.open(os.path.join(folder, name), flags, 0o600)
            self._size = os.fstat(self._descriptor).st_size  # of an earlier session's end: go on

    def cells(self, definition: Definition, values: tuple[str, ...]) -> memoryview[float]:
        """The words of one series; zero at first.

        Raises:
            OSError: there is no room for it.
            ValueError: this process has ``MOST_SERIES`` series.
        """
        key = _Key(definition, values)
        found = self._series.get(key)
        if found is not None:
            return found
        if len(self._series) >= MOST_SERIES:
            raise ValueError(
                f"this process has {MOST_SERIES} series of metrics; metric {definition.name!r} may"
                " have a tag with endlessly many values"
            )
        text = msgspec.msgpack.encode(key)
        begin = _ENTRY.size + _padded(len(text))
        size = begin + 8 * definition.cells
        if self._used + size > self._room:
            self._begin_segment(_HEAD.size + size)
        start = self._used
        _ENTRY.pack_into(self._segment, start, len(text), definition.cells)
        self._segment[start + _ENTRY.size :][: len(text)] = text
        self._used = start + size
        _HEAD.pack_into(self._segment, 0, _MAGIC, self._room, self._used)
        found = self._segment[start + begin : self._used].cast("d")
        self._series[key] = found
        return found

    def take(self, other: Book) -> None:
        """Add what ``other`` has counted; its gauges replace ours."""
        for key, cells in other._series.items():
            mine = self.cells(key.definition, key.values)
            is_sum = key.definition.kind != "gauge"
            for i, value in enumerate(cells):
                mine[i] = mine[i] + value if is_sum else value

    def write(self, readings: Iterable[Reading]) -> None:
        """Add series that were read."""
        for row in readings:
            cells = self.cells(row.definition, row.values)
            for i, value in enumerate(row.cells):
                cells[i] += value

    def bytes(self) -> bytes:
        """The last segment, as it would stand in a file."""
        return bytes(self._segment)

    def close(self) -> None:
        """Let go of the file; its cells stay as long as somebody has them."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _begin_segment(self, least: int) -> None:
        size = max(SEGMENT_BYTES, -(-least // mmap.PAGESIZE) * mmap.PAGESIZE)
        if self._descriptor < 0:
            # The former segments live on in the cells that look into them.
            self._segment = memoryview(bytearray(size))
        else:
            # Room is taken now: a store into a full disk would end the process by SIGBUS.
            os.posix_fallocate(self._descriptor, self._size, size)
            self._segment = memoryview(mmap.mmap(self._descriptor, size, offset=self._size))
            self._size += size
        self._room, self._used = size, _HEAD.size
        _HEAD.pack_into(self._segment, 0, _MAGIC, size, self._used)


def read(directory: str) -> list[Reading]:
    """All series of the session of ``directory``, summed over its processes, also ended ones.

    Gauges are not summed: each living process has its own.
    """
    folder = os.path.join(directory, FOLDER)
    try:
        with _locked(folder, fcntl.LOCK_SH):
            return _summed(_files(folder))
    except FileNotFoundError:
        return []


def fold(folder: str) -> None:
    """Make one file of those of ended processes, if they are many."""
    ended = [name for name in _names(folder) if not _is_alive(name)]
    if len(ended) <= MOST_ENDED:
        return
    with _locked(folder, fcntl.LOCK_EX):
        gone, former = _read_folded(folder)
        for name in gone:
            _remove(os.path.join(folder, name))
        ended = [name for name in _names(folder) if not _is_alive(name)]
        rows = former + [row for name in ended for row in _parse(folder, name)]
        names = msgspec.msgpack.encode(ended)
        _replace(folder, len(names).to_bytes(8, "little") + names + _packed(_summed([(0, rows)])))
        for name in ended:
            _remove(os.path.join(folder, name))


def _packed(rows: list[Reading]) -> bytes:
    """Segments that hold ``rows``."""
    parts = []
    for row in rows:
        book = Book()
        book.write([row])
        parts.append(book.bytes()[: book._used])
    # Each has a segment of its own size: the head says how long it is.
    return b"".join(_HEAD.pack(_MAGIC, len(part), len(part)) + part[_HEAD.size :] for part in parts)


def _replace(folder: str, text: bytes) -> None:
    path = os.path.join(folder, _FOLDED)
    with open(path + ".new", "wb") as file:
        file.write(text)
    os.replace(path + ".new", path)


def _files(folder: str) -> Iterator[tuple[int, list[Reading]]]:
    """(pid of a living process or 0, its series) of each file."""
    gone, rows = _read_folded(folder)
    yield 0, rows
    for name in _names(folder):
        if name not in gone:
            yield int(name.partition("-")[0]) if _is_alive(name) else 0, _parse(folder, name)


def _summed(files: Iterable[tuple[int, list[Reading]]]) -> list[Reading]:
    sums: dict[tuple[object, ...], Reading] = {}
    gauges = []
    for pid, rows in files:
        for row in rows:
            what = row.definition
            if what.kind == "gauge":
                if pid:
                    gauges.append(Reading(what, row.values, row.cells, pid))
                continue
            key = (what.kind, what.name, what.tag_keys, what.boundaries, row.values)
            former = sums.get(key)
            cells = row.cells
            if former is not None:
                what = former.definition
                cells = [a + b for a, b in zip(former.cells, cells)]
            sums[key] = Reading(what, row.values, cells)
    found = [*sums.values(), *gauges]
    return sorted(found, key=lambda row: (row.definition.name, row.values, row.pid))


def _names(folder: str) -> list[str]:
    try:
        listed = os.listdir(folder)
    except FileNotFoundError:
        return []
    return sorted(name for name in listed if name.endswith(_ENDING) and name != _FOLDED)


def _is_alive(name: str) -> bool:
    pid, _, start = name.removesuffix(_ENDING).partition("-")
    return session_dir.is_alive(int(pid), int(start))


def _read_folded(folder: str) -> tuple[set[str], list[Reading]]:
    try:
        with open(os.path.join(folder, _FOLDED), "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return set(), []
    end = 8 + int.from_bytes(data[:8], "little")
    return set(msgspec.msgpack.decode(data[8:end], type=list[str])), list(_entries(data[end:]))


def _parse(folder: str, name: str) -> list[Reading]:
    try:
        with open(os.path.join(folder, name), "rb") as file:
            return list(_entries(file.read()))
    except FileNotFoundError:
        return []


def _entries(data: bytes) -> Iterator[Reading]:
    begin = 0
    while begin + _HEAD.size <= len(data):
        magic, size, used = _HEAD.unpack_from(data, begin)
        if magic != _MAGIC:
            return  # its process has taken the room and not begun the segment
        at, end = begin + _HEAD.size, begin + used
        while at < end:
            length, cells = _ENTRY.unpack_from(data, at)
            at += _ENTRY.size
            key = msgspec.msgpack.Decoder(_Key).decode(data[at : at + length])
            at += _padded(length)
            values = list(struct.unpack_from(f"<{cells}d", data, at))
            at += 8 * cells
            yield Reading(key.definition, key.values, values)
        begin += size


def _padded(length: int) -> int:
    """As long, and a multiple of 8: cells are aligned."""
    return -(-length // 8) * 8


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


@contextmanager
def _locked(folder: str, how: int) -> Iterator[None]:
    descriptor = os.open(os.path.join(folder, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)
