r"""What workers print: from their pipes to files and to the driver that wants to see it.

::

    worker fd 1, 2 --pipe--> WorkerLog --> logs/worker-<index>-<pid>.out, .err   (rotated, budgeted)
                                      \--> LogLines to the driver of the job   (per ``assign``)
                                      \--> the last lines of stderr            (crash records)

One ``WorkerLog`` per worker process; both descriptors are non-blocking and watched by the
daemon's loop. A worker that prints faster than the daemon reads waits in ``write``, as it would
on a terminal.

Invariants:

1. A worker's files hold at most twice ``FILE_BYTES_MOST`` each (the present one and ``.1``); of
   ended workers the last ``OLD_FILES_MOST`` files stay.
2. Files have every line but the marks of progress bars; whether a driver that does not read is
   sent more is decided by ``forward``.
3. Pipes outlive their worker if a program that it started holds them: they are read until their
   end.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable

from shoal._proto.messages import PROGRESS_MARK, LogLines
from shoal._runtime.daemon_loop import Loop

FILE_BYTES_MOST = 16 << 20
LINE_BYTES_MOST = 32 << 10
OLD_FILES_MOST = 1000
LAST_LINES = 20
LABEL_MARK = "\x1e:task:"
"""A line that begins so says which task prints what follows (``worker_output``)."""
_MARK = PROGRESS_MARK.encode()
_MARKED = re.compile(re.escape(_MARK) + rb"[^\n]*\n?")
READ_BYTES = 64 << 10
STREAMS = ("stdout", "stderr")
_SUFFIXES = {"stdout": "out", "stderr": "err"}


class LogFile:
    """An append-only file that starts anew, keeping one predecessor, when it has grown too
    large."""

    __slots__ = ("_fd", "_path", "_size_bytes")

    def __init__(self, path: str) -> None:
        self._path = path
        self._size_bytes = 0
        self._fd = -1

    def write(self, data: bytes) -> None:
        """Append ``data``; a full disk loses lines, it never stops the daemon."""
        if not data:
            return  # who prints nothing leaves no file
        try:
            if self._fd < 0:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
                self._fd = os.open(self._path, flags, 0o600)
            self._size_bytes += os.write(self._fd, data)
            if self._size_bytes >= FILE_BYTES_MOST:
                self.close()
                os.rename(self._path, self._path + ".1")
                self._size_bytes = 0
        except OSError:
            pass

    def paths(self) -> list[str]:
        """The present file and its predecessor, whether they exist or not."""
        return [self._path, self._path + ".1"]

    def close(self) -> None:
        """Close the descriptor; the next ``write`` opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class OldLogs:
    """Files of workers that have ended: the last ``OLD_FILES_MOST`` stay."""

    def __init__(self) -> None:
        self._paths: deque[str] = deque()

    def add(self, paths: list[str]) -> None:
        """These belong to a worker that has just ended; the oldest beyond the budget go."""
        self._paths.extend(path for path in paths if os.path.exists(path))
        while len(self._paths) > OLD_FILES_MOST:
            try:
                os.unlink(self._paths.popleft())
            except OSError:
                pass


class Stream:
    """One pipe of a worker: cuts what comes into lines."""

    __slots__ = ("_partial", "fd", "file", "label", "last", "name")

    def __init__(self, name: str, fd: int, path: str) -> None:
        self.name = name
        self.fd = fd
        self.file = LogFile(path)
        self.last: deque[str] = deque(maxlen=LAST_LINES)
        self.label = ""
        """Who prints, as the worker itself has said."""
        self._partial = b""

    def feed(self, data: bytes) -> list[str]:
        """Take bytes, return the lines that are complete; ``b""`` (the end) completes the last
        one."""
        return [line for _, lines in self.feed_labelled(data) for line in lines]

    def feed_labelled(self, data: bytes) -> list[tuple[str, list[str]]]:
        """The same, in groups of one label each."""
        self.file.write(_MARKED.sub(b"", data) if _MARK in data else data)
        pieces = (self._partial + data).split(b"\n")
        self._partial = pieces.pop()
        if self._partial and (not data or len(self._partial) > LINE_BYTES_MOST):
            pieces.append(self._partial)
            self._partial = b""
        lines = [piece[:LINE_BYTES_MOST].rstrip(b"\r").decode(errors="replace") for piece in pieces]
        groups: list[tuple[str, list[str]]] = [(self.label, [])]
        for line in lines:
            if line.startswith(LABEL_MARK):
                self.label = line.removeprefix(LABEL_MARK)
                groups.append((self.label, []))
            else:
                groups[-1][1].append(line)
                self.last.append(line)
        return [group for group in groups if group[1]]


class WorkerLog:
    """Both streams of one worker process."""

    def __init__(
        self,
        loop: Loop,
        directory: str,
        worker: tuple[int, int],
        pipes: tuple[int, int],
        forward: Callable[[int, LogLines], None],
    ) -> None:
        """``worker`` is (index, pid), ``pipes`` the read ends of stdout and stderr;
        ``forward(driver index, lines)`` sends."""
        index, self.pid = worker
        self._loop = loop
        self._forward = forward
        self._label = ""
        self._driver = -1
        self._streams: dict[str, Stream] = {}
        for name, fd in zip(STREAMS, pipes, strict=True):
            os.set_blocking(fd, False)
            path = os.path.join(directory, f"worker-{index}-{self.pid}.{_SUFFIXES[name]}")
            stream = self._streams[name] = Stream(name, fd, path)
            loop.watch(fd, self._reader(stream))

    def assign(self, driver: int, label: str) -> None:
        """From now on lines go to process ``driver`` (-1: to nobody) under ``label``."""
        self._driver = driver
        self._label = label

    def last_stderr(self) -> tuple[str, ...]:
        """Read what is there and return the last lines of stderr (the worker is dead)."""
        for stream in list(self._streams.values()):
            while stream.fd >= 0 and self._read(stream):
                pass
        return tuple(self._streams["stderr"].last)

    def paths(self) -> list[str]:
        """All files that this worker may have."""
        return [path for stream in self._streams.values() for path in stream.file.paths()]

    def let_go(self) -> None:
        """The worker is gone: what its children still write goes to the files only, until they
        end."""
        self._driver = -1

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
        groups = stream.feed_labelled(data)
        if not data:
            self._close(stream)
        if self._driver >= 0:
            for label, lines in groups:
                news = LogLines(self.pid, label or self._label, stream.name, lines)
                self._forward(self._driver, news)
        return bool(data)

    def _close(self, stream: Stream) -> None:
        if stream.fd >= 0:
            self._loop.unwatch(stream.fd)
            os.close(stream.fd)
            stream.fd = -1
            stream.file.close()
