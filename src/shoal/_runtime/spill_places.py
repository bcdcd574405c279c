"""Where the files of spilled values are written: directories, and what fsspec knows.

::

    "/data/spilled"          Directory    appended to, read in place
    "s3://bucket/prefix"     Remote       one object per batch, read by ranges

A file of a directory is locked as long as its session lives (``flock``, which also holds between
containers): so who comes later knows the files of sessions that were killed, and removes them.

The place that is chosen where nobody has said any: a directory of the session, or, where that is
memory itself (a tmpfs, which would only move the bytes from one budget to the other), one below
``/var/tmp``; if that is memory too there is none, and whoever asks for room is told so.

Invariants: ``append`` has written everything or raised; what is read is looked at by who reads it
(``spill_files``), never trusted. All of it runs in the one thread of ``daemon_spill``.
"""

from __future__ import annotations

import errno
import fcntl
import math
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar, cast

import msgspec

from shoal._base import clock
from shoal._native import punch_hole

T = TypeVar("T")

PAGE = 4096
SUFFIX = ".spill"
SPARE = 0.02
"""Of a disk is left to others, at most ``SPARE_MOST_BYTES``."""
SPARE_MOST_BYTES = 1 << 30
ANSWER_S = 60.0
"""What goes through a network is given up then."""
PAUSE_S = 30.0
PAUSE_LEAST_S = 0.1
PAUSE_MOST_S = 5.0
PIECE_BYTES = 16 << 20
"""Go through a network at a time. S3 takes no smaller pieces than 5 MiB, and at most 10,000."""
_IN_MEMORY = ("tmpfs", "ramfs", "devtmpfs")


class SpillFile(msgspec.Struct, eq=False):
    """One file and how many of its records are still needed."""

    place: Place
    name: str
    fd: int = -1
    size: int = 0
    live: int = 0


class Place(Protocol):
    """Somewhere to write files."""

    can_append: bool
    """Else each file is written once."""
    close_s: float
    """The end of the session waits for it so long, in seconds."""

    def append(self, file: SpillFile, parts: Sequence[Any]) -> None:
        """Write ``parts`` at the end of ``file``. Raises OSError, and has then written nothing."""

    def read_into(self, file: SpillFile, offset: int, *buffers: memoryview) -> int:
        """Fill ``buffers``, one behind the other, from ``offset`` on; how many bytes there were."""

    def remove(self, *files: SpillFile) -> None:
        """These files are not needed any more."""

    def close(self) -> None:
        """The session ends: nothing that was to be removed may stay. Raises OSError: it does."""

    def forget(self, file: SpillFile, offset: int, size: int) -> None:
        """This part of a file is not needed any more, others are."""

    def room(self) -> int | None:
        """Bytes that may be written; None: nobody knows."""


class Directory:
    """A directory of a disk."""

    can_append = True
    close_s = 5.0

    def __init__(self, path: str) -> None:
        self.path = path
        os.makedirs(path, mode=0o700, exist_ok=True)
        self._remove_forgotten()

    def __str__(self) -> str:
        return self.path

    def append(self, file: SpillFile, parts: Sequence[Any]) -> None:
        """As ``Place``."""
        if file.fd < 0:
            self._open(file)
        elif os.fstat(file.fd).st_nlink == 0:
            raise OSError(errno.ENOENT, f"{file.name} was deleted")
        at = file.size
        for part in parts:
            view = memoryview(part).cast("B")
            while view.nbytes:
                written = os.pwrite(file.fd, view, at)
                at += written
                view = view[written:]

    def _open(self, file: SpillFile) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(os.path.join(self.path, file.name), flags, 0o600)
        file.fd = fd
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pass  # a file system without locks: then nobody takes it for forgotten either

    def _remove_forgotten(self) -> None:
        """Files of sessions that were killed: their locks went with them."""
        for entry in os.scandir(self.path):
            if not entry.name.endswith(SUFFIX) or not entry.is_file(follow_symlinks=False):
                continue
            try:
                fd = os.open(entry.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            except OSError:
                continue  # it is another user's, or has just gone
            try:
                # What is empty may have been made this moment, and not be locked yet.
                if os.fstat(fd).st_size:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(entry.path)
            except OSError:
                pass  # it is in use
            finally:
                os.close(fd)

    def read_into(self, file: SpillFile, offset: int, *buffers: memoryview) -> int:
        """As ``Place``. By its name: a file that was deleted or replaced is not read on."""
        fd = os.open(os.path.join(self.path, file.name), os.O_RDONLY | os.O_CLOEXEC)
        try:
            done = 0
            while left := _behind(buffers, done):
                count = os.preadv(fd, left, offset + done)
                if count == 0:
                    break
                done += count
            os.posix_fadvise(fd, offset, done, os.POSIX_FADV_DONTNEED)
            return done
        finally:
            os.close(fd)

    def remove(self, *files: SpillFile) -> None:
        """As ``Place``."""
        for file in files:
            try:
                os.unlink(os.path.join(self.path, file.name))
            except OSError:
                pass  # somebody has tidied up, or a disk that is gone has taken it along
            if file.fd >= 0:
                os.close(file.fd)
                file.fd = -1

    def close(self) -> None:
        """As ``Place``: nothing is put off."""

    def forget(self, file: SpillFile, offset: int, size: int) -> None:
        """As ``Place``: the disk has its whole pages back."""
        begin, end = -(-offset // PAGE) * PAGE, (offset + size) // PAGE * PAGE
        if file.fd >= 0 and end > begin:
            punch_hole(file.fd, begin, end - begin)

    def room(self) -> int | None:
        """As ``Place``."""
        found = os.statvfs(self.path)
        spare = min(SPARE_MOST_BYTES, int(SPARE * found.f_blocks * found.f_frsize))
        return max(0, found.f_bavail * found.f_frsize - spare)


class Remote:
    """A prefix of what fsspec knows: ``s3://``, ``gs://``, ``file://`` and others.

    Bytes go and come in pieces of ``PIECE_BYTES``, each of which has ``ANSWER_S``: a large value on
    a slow line is not taken for silence, and takes no memory of its own size.
    """

    can_append = False
    close_s = 20.0

    def __init__(self, uri: str) -> None:
        try:
            import fsspec
        except ImportError:
            text = f"{uri} needs the package fsspec. What to do: pip install 'shoal[env]'"
            raise OSError(errno.ENOPKG, text) from None
        self.uri = uri.rstrip("/")
        try:
            self._system, self._path = fsspec.core.url_to_fs(self.uri)
        except Exception as error:
            raise OSError(errno.EIO, f"{uri} cannot be used: {error}") from error
        self._unwanted: list[str] = []
        """Files that are to go, and have not gone yet."""
        self._has_answered = False
        self._silent_since = math.inf
        """When a value could not be read, and none could since."""
        self._problem = ""
        self._again_at = 0.0
        """Nothing is written or removed before this: the last time it could not be done."""

    def __str__(self) -> str:
        return self.uri

    def append(self, file: SpillFile, parts: Sequence[Any]) -> None:
        """As ``Place``. One that has failed is not asked again for ``PAUSE_S``: those who wait for
        room would wait through all its tries."""
        if clock.now() < self._again_at:
            raise OSError(errno.EIO, self._problem)
        try:
            self._write(f"{self._path}/{file.name}", parts)
        except OSError as error:
            self._pause(error)
            raise

    def _write(self, path: str, parts: Sequence[Any]) -> None:
        out = _within(ANSWER_S, lambda: self._open(path))
        try:
            for piece in _pieces(parts):
                _within(ANSWER_S, partial(out.write, piece))
            _within(ANSWER_S, out.close)
        except OSError as error:
            if self._has_answered:
                self._unwanted.append(path)  # it may be there though nobody has said so
            if error.errno != errno.ETIMEDOUT:  # else it would not answer to this either
                _within(ANSWER_S, lambda: _abandon(out))
            raise
        self._has_answered = True

    def _open(self, path: str) -> Any:
        """A directory is made only where one is missed: what has buckets needs none, and would make
        a bucket of a name with a mistake in it."""
        try:
            return self._system.open(path, "wb", block_size=PIECE_BYTES)
        except FileNotFoundError:
            self._system.makedirs(self._path, exist_ok=True)
            return self._system.open(path, "wb", block_size=PIECE_BYTES)

    def _pause(self, error: OSError) -> None:
        self._problem = error.strerror or str(error)
        self._again_at = clock.now() + PAUSE_S

    def read_into(self, file: SpillFile, offset: int, *buffers: memoryview) -> int:
        """As ``Place``."""
        name, done = f"{self._path}/{file.name}", 0
        end = offset + sum(buffer.nbytes for buffer in buffers)
        for begin in range(offset, end, PIECE_BYTES):
            wanted = min(PIECE_BYTES, end - begin)
            found = self._read(name, begin, begin + wanted)
            at = 0
            for left in _behind(buffers, done):
                part = found[at : at + left.nbytes]
                left[: len(part)] = part
                at += len(part)
            done += len(found)
            if len(found) < wanted:
                break
        return done

    def _read(self, name: str, begin: int, end: int) -> bytes:
        """What cannot be read is lost for good: one who does not answer is asked again, for
        ``ANSWER_S`` from when he was silent first."""
        pause = PAUSE_LEAST_S
        while True:
            try:
                found = _within(
                    ANSWER_S, lambda: bytes(self._system.cat_file(name, start=begin, end=end))
                )
            except FileNotFoundError:
                raise
            except OSError as error:
                now = clock.now()
                self._silent_since = min(self._silent_since, now)
                late = self._silent_since + ANSWER_S
                if isinstance(error.__cause__, PermissionError) or now + pause > late:
                    raise
                time.sleep(pause)
                pause = min(2 * pause, PAUSE_MOST_S)
            else:
                self._silent_since = math.inf
                return found

    def remove(self, *files: SpillFile) -> None:
        """As ``Place``. What could not be written is not there; what cannot be removed now is
        removed with the next one."""
        self._unwanted += [f"{self._path}/{file.name}" for file in files if file.size]
        if not self._unwanted or clock.now() < self._again_at:
            return
        names = tuple(self._unwanted)
        try:
            _within(ANSWER_S, lambda: self._remove(names))
        except OSError as error:
            self._pause(error)
            raise
        self._unwanted.clear()

    def _remove(self, names: Sequence[str]) -> None:
        if len(names) > 1:
            try:
                self._system.rm([*names])
                return
            except Exception:
                pass  # one of them was not there, or it can only be asked for one at a time
        for name in names:
            try:
                self._system.rm_file(name)
            except FileNotFoundError:
                pass  # somebody has tidied up

    def close(self) -> None:
        """As ``Place``. Asked even if it did not answer before: what stays now stays for ever."""
        self._again_at = 0.0
        self.remove()

    def forget(self, file: SpillFile, offset: int, size: int) -> None:
        """As ``Place``: an object goes as a whole."""

    def room(self) -> int | None:
        """As ``Place``."""
        return None


def _abandon(out: Any) -> None:
    """Half of a file must not be left, nor finished by the collector of garbage."""
    for step in ("discard", "closed", "close"):
        try:
            if step == "closed":
                out.closed = True
            else:
                getattr(out, step)()
        except Exception:
            pass  # each kind of file has some of these


def _behind(buffers: Sequence[memoryview], done: int) -> list[memoryview]:
    """What of ``buffers`` is not filled yet, when the first ``done`` bytes are."""
    left = []
    for buffer in buffers:
        if done < buffer.nbytes:
            left.append(buffer[done:])
        done = max(0, done - buffer.nbytes)
    return left


def _pieces(parts: Sequence[Any]) -> Iterator[bytes]:
    """The bytes of all parts, ``PIECE_BYTES`` at a time, copied: what is abandoned must not hold
    the values themselves."""
    piece = bytearray()
    for part in parts:
        view = memoryview(part).cast("B")
        while view.nbytes:
            count = PIECE_BYTES - len(piece)
            piece += view[:count]
            view = view[count:]
            if len(piece) == PIECE_BYTES:
                yield bytes(piece)
                piece.clear()
    if piece:
        yield bytes(piece)


def _within(seconds: float, step: Callable[[], T]) -> T:
    """What ``step`` returns, if it does so in time; else it is left alone, in a thread of its own.

    Raises:
        OSError: it raised, or there is no answer; the text says which.
    """
    ended: queue.SimpleQueue[tuple[T | None, Exception | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            ended.put((step(), None))
        except Exception as error:
            ended.put((None, error))

    threading.Thread(target=run, name="shoal-spill-remote", daemon=True).start()
    try:
        value, error = ended.get(timeout=seconds)
    except queue.Empty:
        raise OSError(errno.ETIMEDOUT, f"there is no answer for {seconds:.0f} s") from None
    if isinstance(error, FileNotFoundError):
        raise error
    if error is not None:
        raise OSError(errno.EIO, f"{type(error).__name__}: {error}") from error
    return cast(T, value)


def file_system_of(path: str, mounts: str = "/proc/self/mountinfo") -> str:
    """The kind of file system that ``path`` stands on, such as "ext4"; empty: nobody knows."""
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with open(mounts, encoding="utf-8") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            if before.split()[2] == wanted:
                return after.split(" ", 1)[0]
    return ""


def choose(given: Sequence[str] | None, session_directory: str) -> list[Place]:
    """The places to write to: what was given, else one on a disk.

    Raises:
        OSError: there is none; the text says why.
    """
    if given is None:
        return [_own(session_directory)]
    places: list[Place] = []
    problems: list[str] = []
    for where in given:
        try:
            places.append(Remote(where) if "://" in where else Directory(where))
        except OSError as error:
            problems.append(f"{where}: {error.strerror or error}")
    if not places:
        raise OSError(errno.ENOENT, "; ".join(problems))
    return places


def _own(session_directory: str, other: str = "/var/tmp") -> Directory:
    if file_system_of(session_directory) not in _IN_MEMORY:
        return Directory(os.path.join(session_directory, "spilled"))
    if not os.path.isdir(other) or file_system_of(other) in _IN_MEMORY:
        raise OSError(
            errno.ENODEV,
            f"{session_directory} and {other} are in memory. What to do: give"
            " init(object_spilling_directory=) a directory on a disk",
        )
    path = os.path.join(other, f"shoal-{os.geteuid()}")
    os.makedirs(path, mode=0o700, exist_ok=True)
    found = os.lstat(path)
    if found.st_uid != os.geteuid() or not os.path.isdir(path) or os.path.islink(path):
        raise OSError(errno.EPERM, f"{path} is not a directory of yours")
    return Directory(path)
