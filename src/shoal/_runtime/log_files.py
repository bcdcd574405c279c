"""Reading the logs of a session: what was printed, by whom, in the order of time.

Files are read where they are, without the daemon, which keeps no line in memory; it is only asked
to read the pipes of workers first, so that what was printed before a result is there with it.

``follow`` looks at the end of each file ten times a second: it belongs to somebody who watches,
and ends with the session at the latest.
"""

from __future__ import annotations

import heapq
import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from shoal import errors
from shoal._base import clock
from shoal._runtime import cluster, log_records, session_dir
from shoal._runtime import session as sessions
from shoal._runtime.log_records import SUFFIX, LogLine

FOLLOW_S = 0.1
_JOB_HEX, _ACTOR_HEX, _TASK_HEX, _OBJECT_HEX = 8, 32, 48, 64
_FILE = re.compile(r"worker-(\d+)-(\d+)-(\d+)" + re.escape(SUFFIX))


class Wanted(msgspec.Struct, frozen=True):
    """Which lines; what is empty or None does not matter."""

    job: int | None = None
    actor: str = ""
    task: str = ""
    attempt: int | None = None
    worker: int | None = None
    pid: int | None = None
    stream: str = ""
    level: str = ""
    since: float | None = None
    """Seconds since 1970."""
    grep: str = ""
    """A regular expression that is found somewhere in the text."""

    def matcher(self) -> Callable[[LogLine], bool]:
        """Whether a line is wanted.

        Raises:
            OptionError: ``grep`` is no regular expression.
        """
        exact = [
            (name, value)
            for name in ("job", "actor", "task", "attempt", "worker", "pid", "stream", "level")
            if (value := getattr(self, name)) not in (None, "")
        ]
        try:
            found = re.compile(self.grep).search if self.grep else None
        except re.error as error:
            text = f"grep must be a regular expression, not {self.grep!r}: {error}"
            raise errors.OptionError(text, option="grep") from None
        since = self.since

        def matches(line: LogLine) -> bool:
            return (
                all(getattr(line, name) == value for name, value in exact)
                and (since is None or line.time >= since)
                and (found is None or found(line.text) is not None)
            )

        return matches


def meaning(text: str) -> dict[str, object]:
    """The fields of ``Wanted`` that an id means.

    Raises:
        OptionError: it is no id of something that prints.
    """
    kind, _, number = text.partition(" ")
    if kind in ("worker", "job", "pid") and number.isdecimal():
        return {kind: int(number)}
    is_hex = re.fullmatch("[0-9a-f]+", text) is not None
    if is_hex and len(text) in (_TASK_HEX, _OBJECT_HEX):  # an object's id begins with its task's
        return {"task": text[:_TASK_HEX]}
    if is_hex and len(text) == _ACTOR_HEX:
        return {"actor": text}
    if is_hex and len(text) == _JOB_HEX:
        return {"job": int(text, 16)}
    if text.isdecimal():
        return {"pid": int(text)}
    raise errors.OptionError(
        f"{text!r} is no id of a task, object, actor or job, no pid, and not like 'worker 3'",
        option="about",
    )


def paths(directory: str, wanted: Wanted) -> list[str]:
    """The files of a session that may have such lines, those of a process in their order."""
    logs = session_dir.logs(directory)
    try:
        names = os.listdir(logs)
    except OSError:  # the session has ended
        return []
    found = []
    for name in names:
        match = _FILE.fullmatch(name)
        if match is None:
            continue
        worker, pid, number = map(int, match.groups())
        if wanted.worker in (None, worker) and wanted.pid in (None, pid):
            found.append((worker, pid, number, os.path.join(logs, name)))
    return [row[-1] for row in sorted(found)]


def read(directory: str, wanted: Wanted) -> Iterator[LogLine]:
    """The lines of a session, the oldest first."""
    matches = wanted.matcher()
    rows = [_lines(path, matches) for path in paths(directory, wanted)]
    return heapq.merge(*rows, key=lambda line: line.time)


def _lines(path: str, matches: Callable[[LogLine], bool]) -> Iterator[LogLine]:
    return (line for line, _ in log_records.read(path) if matches(line))


def last(lines: Iterable[LogLine], tail: int | None) -> list[LogLine]:
    """The last ``tail`` of them; None: all."""
    return list(lines) if tail is None else list(deque(lines, maxlen=max(0, tail)))


class Follower:
    """Reads on where it has been."""

    def __init__(self, directory: str, wanted: Wanted) -> None:
        self._directory = directory
        self._wanted = wanted
        self._matches = wanted.matcher()
        self._offsets: dict[str, int] = {}

    @property
    def is_over(self) -> bool:
        """Whether the session has ended."""
        return not os.path.isdir(self._directory)

    def news(self) -> Iterator[LogLine]:
        """What has come since the last time."""
        rows = [self._lines(path) for path in paths(self._directory, self._wanted)]
        return heapq.merge(*rows, key=lambda line: line.time)

    def _lines(self, path: str) -> Iterator[LogLine]:
        for line, offset in log_records.read(path, self._offsets.get(path, 0)):
            self._offsets[path] = offset
            if self._matches(line):
                yield line


def follow(followers: Iterable[Follower], tail: int | None) -> Iterator[LogLine]:
    """The last ``tail`` lines, and then what comes, until all their sessions have ended."""
    present = list(followers)
    news = last(heapq.merge(*(each.news() for each in present), key=lambda line: line.time), tail)
    while True:
        yield from news
        present = [each for each in present if not each.is_over]
        if not present:
            return
        time.sleep(FOLLOW_S)
        news = [line for each in present for line in each.news()]


# ---- asked from a program (``shoal.state``)
class LogPart(msgspec.Struct, frozen=True):
    """A file with lines that workers of this node have printed."""

    file: str
    """Its name, in the directory ``logs`` of the session's."""
    size_bytes: int = 0
    written: float = 0.0
    """Seconds since 1970 of its last line."""
    open: bool = False
    """Whether more lines will come into it."""


def log_files() -> list[LogPart]:
    """Return the files of workers' logs, the oldest first.

    Example:
        >>> shoal.state.log_files()
        []
    """
    return [LogPart(**row) for row in cluster.table("logs")]


def logs(
    about: str = "", *, tail: int | None = None, since: float | None = None, **fields: Any
) -> list[LogLine]:
    """Return what workers have printed, the oldest line first.

    What a task printed before its result was there is among the lines.

    Args:
        about: Id of a task, object, actor or job; "worker 3" and "pid 4711" are ids too.
        tail: The last lines only, so many.
        since: Lines of the last so many seconds only.
        **fields: ``job``, ``actor``, ``task``, ``attempt``, ``worker``, ``pid``, ``stream``,
            ``level``: what a line must have; ``grep``: a regular expression that its text must
            match somewhere.

    Raises:
        OptionError: there is no such field, or the id is none.

    Example:
        >>> @shoal.remote
        ... def speak():
        ...     print("hello")
        >>> ref = speak.remote()
        >>> shoal.get(ref)
        >>> [line.text for line in shoal.state.logs(ref.hex())]
        ['hello']
    """
    wanted = _wanted(about, since, fields)
    log_files()  # the daemon reads what stands in the pipes
    return last(read(sessions.current().directory, wanted), tail)


def follow_logs(
    about: str = "", *, tail: int | None = None, since: float | None = None, **fields: Any
) -> Iterator[LogLine]:
    """Yield what workers have printed, and then what they print, until the session ends.

    Args:
        about: As for ``logs``, and so are the others.
        tail: With how many of the lines that are there already it begins; None: all.
        since: Lines of the last so many seconds only.
        **fields: What a line must have.

    Raises:
        OptionError: there is no such field, or the id is none.

    Example:
        >>> for line in shoal.state.follow_logs("worker 3"):
        ...     print(line.text)
    """
    follower = Follower(sessions.current().directory, _wanted(about, since, fields))
    return follow([follower], tail)


def _wanted(given: str, since: float | None, fields: dict[str, Any]) -> Wanted:
    return wanted(**{**(meaning(given) if given else {}), **fields}, since=since)


def wanted(*, since: float | None = None, **fields: Any) -> Wanted:
    """``Wanted`` of what somebody has written; ``since`` is how many seconds ago.

    Raises:
        OptionError: there is no such field, or it is of another kind.
    """
    valid = [name for name in Wanted.__struct_fields__ if name != "since"]
    for name in fields:
        if name not in valid:
            text = f"lines of logs have no field {name!r}. Valid: {', '.join(valid)}"
            raise errors.OptionError(text, option=name, valid=valid)
    at = None if since is None else clock.wall() - since
    try:
        found = msgspec.convert({**fields, "since": at}, Wanted)
    except msgspec.ValidationError as error:
        raise errors.OptionError(f"of lines of logs: {error}", option="logs") from None
    found.matcher()
    return found
