"""The files that workers' logs may take on a node: how many bytes, and how old.

A log is a row of *segments*, numbered files that are written once, one after the other; only the
last one of each log is open. What leaves is always a whole segment: the one that was written least
lately.

::

    write -> segment full              -> closed, the log goes on in the next one
          -> all together > bytes_most -> the oldest goes
          -> no room on the disk       -> the oldest goes, else lines are lost: counted, told once
    timer -> last line older than age  -> it goes

Invariants:

1. Nothing here raises for what a disk does, and nothing waits for room.
2. After each write all segments together have at most ``bytes_most``, or are the one that was just
   written.
3. There is a timer only while there are segments.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable

from shoal._base import clock
from shoal._base.environment import Environment
from shoal._runtime import session_dir
from shoal._runtime.launch import NodeSettings
from shoal._runtime.log_records import SUFFIX

SEGMENT_BYTES_MOST = 16 << 20
SEGMENT_BYTES_LEAST = 16 << 10
PARTS = 8
"""Of the budget: so many segments at least, so that little of the past leaves at once."""
TELL_S = 60.0
"""Who prints is told of a full disk at most so often."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Segment:
    """One file of one log."""

    __slots__ = ("begun_at", "log", "path", "size_bytes", "written_at")

    def __init__(self, path: str, log: LogFile, now: float) -> None:
        self.path = path
        self.log: LogFile | None = log
        """None: it is closed."""
        self.size_bytes = 0
        self.begun_at = self.written_at = now


class LogBudget:
    """All segments of a node."""

    def __init__(
        self,
        bytes_most: int,
        age_s: float,
        call_later: Callable[[float, Callable[[], None]], object],
    ) -> None:
        self.bytes_most = max(1, bytes_most)
        self.age_s = age_s
        self.segment_bytes = min(
            SEGMENT_BYTES_MOST, max(SEGMENT_BYTES_LEAST, self.bytes_most // PARTS)
        )
        self.total_bytes = 0
        self.lost_lines = 0
        """Lines that no file has, as there was no room for them."""
        self.unsaid: list[Callable[[], bool]] = []
        """Of processes that ended while there was no room: each says how much is missing, if it
        can now."""
        self._told_at = -TELL_S
        self._closed: dict[str, Segment] = {}
        self._open: dict[str, Segment] = {}
        self._call_later = call_later
        self._has_timer = False

    def segments(self) -> list[Segment]:
        """All of them, the one that was written least lately first."""
        every = [*self._closed.values(), *self._open.values()]
        return sorted(every, key=lambda each: each.written_at)

    def opened(self, segment: Segment) -> None:
        """A log has begun a segment."""
        self._open[segment.path] = segment
        self._start_timer(self.age_s / PARTS)

    def may_tell(self, now: float) -> bool:
        """Whether somebody should hear of a full disk now; says yes at most once a minute."""
        if now - self._told_at < TELL_S:
            return False
        self._told_at = now
        return True

    def found_room(self) -> None:
        """There is room again: those that have ended meanwhile say what is missing."""
        waiting, self.unsaid = self.unsaid, []
        self.unsaid = [say for say in waiting if not say()]

    def closed(self, segment: Segment) -> None:
        """A log has gone on to its next segment, or has ended."""
        segment.log = None
        del self._open[segment.path]
        self._closed[segment.path] = segment

    def wrote(self, segment: Segment, size_bytes: int, now: float) -> None:
        """``size_bytes`` more stand in ``segment``; the oldest go if that is too much."""
        segment.size_bytes += size_bytes
        segment.written_at = now
        self.total_bytes += size_bytes
        while self.total_bytes > self.bytes_most and self.drop_oldest(segment):
            pass

    def drop_oldest(self, but: Segment | None = None) -> bool:
        """Remove a segment; False if there is none besides ``but``."""
        found = [each for each in self._open.values() if each is not but]
        found += itertools.islice(self._closed.values(), 1)
        segment = min(found, key=lambda each: each.written_at, default=None)
        if segment is None:
            return False
        self._drop(segment)
        return True

    def _drop(self, segment: Segment) -> None:
        if segment.log is not None:
            segment.log.close()
        del self._closed[segment.path]
        self.total_bytes -= segment.size_bytes
        try:
            os.unlink(segment.path)
        except OSError:  # somebody has tidied up
            pass

    # ---- age
    def _start_timer(self, delay_s: float) -> None:
        if not self._has_timer:
            self._has_timer = True
            self._call_later(max(delay_s, 0.0), self._look)

    def _look(self) -> None:
        """Let go of what is too old, and close what goes on for a large part of that time."""
        self._has_timer = False
        now = clock.now()
        for segment in self.segments():
            if now - segment.written_at >= self.age_s:
                self._drop(segment)
            elif segment.log is not None and now - segment.begun_at >= self.age_s / PARTS:
                segment.log.close()
        if left := self.segments():
            due_s = min(each.written_at for each in left) + self.age_s - now
            self._start_timer(min(due_s, self.age_s / PARTS) if self._open else due_s)


def of_node(
    settings: NodeSettings,
    seen: Environment,
    call_later: Callable[[float, Callable[[], None]], object],
) -> tuple[str, LogBudget]:
    """Where a node's logs are, and what they may take: as it was told, or as its environment
    says."""
    bytes_most = seen.log_bytes if settings.log_bytes is None else settings.log_bytes
    age_s = seen.log_age_s if settings.log_age_s is None else settings.log_age_s
    return session_dir.logs(settings.directory), LogBudget(bytes_most, age_s, call_later)


class LogFile:
    """The log of one process: appends to its last segment."""

    __slots__ = ("_base", "_budget", "_fd", "_number", "_segment", "lost_lines")

    def __init__(self, base: str, budget: LogBudget) -> None:
        """``base`` is the path without number and suffix; without lines there is no file."""
        self._base = base
        self._budget = budget
        self._fd = -1
        self._number = 0
        self._segment: Segment | None = None
        self.lost_lines = 0
        """Since the last write that found room."""

    def write(self, data: bytes, lines: int) -> bool:
        """Append ``lines`` whole records, or nothing; False if they are lost."""
        while reason := self._append(data):
            if reason not in _NO_ROOM or not self._budget.drop_oldest(self._segment):
                self.lost_lines += lines
                self._budget.lost_lines += lines
                return False
        return True

    def _append(self, data: bytes) -> int:
        """Zero, or the ``errno`` for which nothing was written."""
        now = clock.now()
        try:
            segment = self._segment or self._open(now)
            written = os.write(self._fd, data)
            if written != len(data):
                os.ftruncate(self._fd, segment.size_bytes)
                return errno.ENOSPC
        except OSError as error:
            return error.errno or errno.EIO
        self._budget.wrote(segment, written, now)
        if segment.size_bytes >= self._budget.segment_bytes:
            self.close()
        return 0

    def _open(self, now: float) -> Segment:
        number = self._number + 1
        path = f"{self._base}-{number:04d}{SUFFIX}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._fd = os.open(path, flags, 0o600)
        self._number = number
        self._segment = Segment(path, self, now)
        self._budget.opened(self._segment)
        return self._segment

    def close(self) -> None:
        """End the present segment; the next ``write`` begins another one."""
        if self._segment is not None:
            os.close(self._fd)
            self._fd = -1
            self._budget.closed(self._segment)
            self._segment = None
