r"""What workers print: from their pipes to files and to the driver that wants to see it.

::

    worker fd 1, 2 --pipe--> WorkerLog --> logs/worker-<index>-<pid>-<n>.jsonl   (``log_budget``)
                                      \--> LogLines to the driver of the job   (per ``assign``,
                                      |                  here or on another node: daemon_lines)
                                      \--> the last lines of stderr            (crash records)

One ``WorkerLog`` per worker process; both descriptors are non-blocking and watched by the
daemon's loop. A worker that prints faster than the daemon reads waits in ``write``, as it would
on a terminal. Files have one record per line (``log_records``), both streams in the order in which
they were read.

Invariants:

1. Files have every line but the marks of progress bars, or say how many there was no room for.
   Whether a driver that does not read is sent more is decided by ``forward``.
2. Pipes outlive their worker if a program that it started holds them: they are read until their
   end.
3. After ``drain`` everything is in the files that was in the pipes before.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from shoal._base import clock
from shoal._proto.messages import PROGRESS_MARK, LogLines
from shoal._runtime import log_records
from shoal._runtime.daemon_lines import Home
from shoal._runtime.daemon_loop import Loop
from shoal._runtime.log_budget import LogBudget, LogFile
from shoal._runtime.log_records import LABEL_MARK, NOBODY, Label, Origin

LINE_BYTES_MOST = 32 << 10
LAST_LINES = 20
READ_BYTES = 64 << 10
BATCH_LINES = 1000
"""Lines of one write: a record is longer than the shortest line by far."""
UNSAID_MOST = 100
"""Processes that ended on a full disk and are remembered: each may hold a descriptor."""
STREAMS = ("stdout", "stderr")
SHOAL = "shoal"
"""In the place of a stream: what is said about lines that are missing."""
_MARK = PROGRESS_MARK.encode()
NO_DRIVER = -1
Group = tuple[Label, list[str]]


class Stream:
    """One pipe of a worker: cuts what comes into lines, in groups of who printed them."""

    __slots__ = ("_label", "_partial", "fd", "last", "name")

    def __init__(self, name: str, fd: int) -> None:
        self.name = name
        self.fd = fd
        self.last: deque[str] = deque(maxlen=LAST_LINES)
        self._label = NOBODY
        """Who prints, as the worker itself has said."""
        self._partial = b""

    def feed(self, data: bytes) -> list[Group]:
        """Take bytes, return the lines that are complete; ``b""`` (the end) completes the last
        one."""
        whole, has_end, rest = (self._partial + data).rpartition(b"\n")
        lines = whole.decode(errors="replace").split("\n") if has_end else []
        while len(rest) > LINE_BYTES_MOST or (rest and not data):
            piece = _piece(rest)
            lines.append(piece.decode(errors="replace"))
            rest = rest[len(piece) :]
        self._partial = rest
        if b"\r" in whole or len(whole) > LINE_BYTES_MOST:
            lines = [piece for line in lines for piece in _pieces(line.rstrip("\r"))]
        groups = self._grouped(lines)
        for _, said in groups:
            self.last.extend(said[-LAST_LINES:])
        return groups

    def _grouped(self, lines: list[str]) -> list[Group]:
        if not any(LABEL_MARK in line for line in lines):
            return [(self._label, lines)] if lines else []
        groups: list[Group] = [(self._label, [])]
        for each in lines:
            line = each
            while LABEL_MARK in line:
                line, label, after = log_records.marked(line)
                if label is None:
                    break
                if line:  # somebody else has begun it, and has not ended it
                    groups[-1][1].append(line)
                groups.append((label, []))
                self._label = label
                line = after
            groups[-1][1].append(line)
        return [group for group in groups if group[1]]


def _piece(data: bytes) -> bytes:
    """The beginning of a line that is too long: no character is cut in two."""
    end = LINE_BYTES_MOST
    while end < len(data) and end > LINE_BYTES_MOST - 4 and data[end] & 0xC0 == 0x80:
        end -= 1
    return data[:end]


def _pieces(line: str) -> list[str]:
    if len(line) <= LINE_BYTES_MOST:
        return [line]
    return [line[at : at + LINE_BYTES_MOST] for at in range(0, len(line), LINE_BYTES_MOST)]


class WorkerLog:
    """Both streams of one worker process."""

    def __init__(
        self,
        loop: Loop,
        budget: LogBudget,
        base: str,
        worker: tuple[int, int],
        pipes: tuple[int, int],
        forward: Callable[[int | Home, LogLines], None],
    ) -> None:
        """``base`` is the directory of its files, ``worker`` is (index, pid), ``pipes`` the read
        ends of stdout and stderr; ``forward(driver index or home, lines)`` sends."""
        index, self.pid = worker
        self.origin = Origin(index, self.pid)
        self._loop = loop
        self._budget = budget
        self._file = LogFile(os.path.join(base, f"worker-{index}-{self.pid}"), budget)
        self._forward = forward
        self._reader_of: int | Home = NO_DRIVER
        self._has_bars = False
        self._streams: dict[str, Stream] = {}
        for name, fd in zip(STREAMS, pipes, strict=True):
            os.set_blocking(fd, False)
            stream = self._streams[name] = Stream(name, fd)
            loop.watch(fd, self._reader(stream))

    def assign(self, to: int | Home, job: int, actor: str, label: str) -> None:
        """From now on lines are of ``job`` (and ``actor``), and go to process ``to`` (-1: to
        nobody), or to that of a job of another node, under ``label``."""
        self._reader_of = to
        self.origin.job, self.origin.actor, self.origin.name = job, actor, label

    def last_stderr(self) -> tuple[str, ...]:
        """Read what is there and return the last lines of stderr (the worker is dead)."""
        for stream in list(self._streams.values()):
            while stream.fd >= 0 and self._read(stream):
                pass
        return tuple(self._streams["stderr"].last)

    def drain(self) -> None:
        """Read what has been printed so far; what comes meanwhile has its turn later."""
        for stream in self._streams.values():
            for _ in range(2):  # a pipe holds as much as one read takes
                if stream.fd >= 0:
                    self._read(stream)

    def let_go(self) -> None:
        """The worker is gone: what its children still write goes to the files only, until they
        end."""
        self._reader_of = NO_DRIVER

    def _reader(self, stream: Stream) -> Callable[[int], None]:
        def read(_: int) -> None:
            self._read(stream)

        return read

    def _read(self, stream: Stream) -> bool:
        """Move one piece; False if nothing was there."""
        try:
            data = os.read(stream.fd, READ_BYTES)
        except BlockingIOError:
            return False
        has_bars = _MARK in data
        for label, lines in stream.feed(data):
            kept = [line for line in lines if PROGRESS_MARK not in line] if has_bars else lines
            self._keep(label, stream.name, kept)
            if self._reader_of != NO_DRIVER:
                shown = self.origin.name or label.name
                self._forward(self._reader_of, LogLines(self.pid, shown, stream.name, lines))
            self._has_bars = self._has_bars or has_bars
        if not data:
            if self._has_bars and not isinstance(self._reader_of, int):
                self._forward(self._reader_of, LogLines(self.pid, "", stream.name, []))
            self._close(stream)
        return bool(data)

    def _keep(self, label: Label, stream: str, lines: Sequence[str]) -> None:
        now = clock.wall()
        for at in range(0, len(lines), BATCH_LINES):
            batch = lines[at : at + BATCH_LINES]
            data = log_records.encode(now, self.origin, label, stream, batch)
            n = len(batch)
            if self._file.lost_lines:
                data = self._missing() + data
            if self._file.write(data, n):
                self._file.lost_lines = 0
                if self._budget.unsaid:
                    self._budget.found_room()
            elif self._reader_of != NO_DRIVER and self._budget.may_tell(clock.now()):
                text = "there is no room for logs on the disk: what is shown here is not kept"
                self._forward(self._reader_of, LogLines(self.pid, SHOAL, "stderr", [text]))

    def _missing(self) -> bytes:
        lost = self._file.lost_lines
        text = f"{lost} lines are missing here: there was no room for them on the disk"
        return log_records.encode(clock.wall(), self.origin, NOBODY, SHOAL, [text])

    def _say_missing(self) -> bool:
        """After the end: True if it is said now."""
        if not self._file.write(self._missing(), 0):
            return False
        self._file.lost_lines = 0
        self._file.close()
        return True

    def _close(self, stream: Stream) -> None:
        if stream.fd >= 0:
            self._loop.unwatch(stream.fd)
            os.close(stream.fd)
            stream.fd = -1
            if all(each.fd < 0 for each in self._streams.values()):
                self._file.close()
                if self._file.lost_lines and len(self._budget.unsaid) < UNSAID_MOST:
                    self._budget.unsaid.append(self._say_missing)


class _Printing(Protocol):
    log: WorkerLog | None


def rows(budget: LogBudget, processes: Iterable[_Printing]) -> list[dict[str, object]]:
    """The files of a node, the oldest first; what was printed before stands in them."""
    for process in processes:
        if process.log is not None:
            process.log.drain()
    budget.found_room()
    passed_s = clock.wall() - clock.now()
    return [
        {
            "file": os.path.basename(segment.path),
            "size_bytes": segment.size_bytes,
            "written": segment.written_at + passed_s,
            "open": segment.log is not None,
        }
        for segment in budget.segments()
    ]
