"""What a worker prints says which task printed it.

Many tasks run in one worker, and the daemon is never told which: that would cost a message per
task. So the streams themselves note a change, and only when something is printed: a mark
(``log_records``), which the daemon takes out again. Output of C code and of other programs carries
the last mark.

Where calls run side by side, on threads or on an event loop, lines of several are open at a time:
each is put together here and leaves whole, with a mark of its own. There is no lock: a line is one
``write``.

A crash in C code prints the Python stack, which stands in the error then.

Records of ``logging`` carry their level: it is in a local variable of the frame that writes them.
"""

from __future__ import annotations

import faulthandler
import io
import sys
from typing import TYPE_CHECKING, TextIO

import msgspec

from shoal._runtime import context
from shoal._runtime.log_records import NOBODY, Label, mark

if TYPE_CHECKING:
    from shoal import _native

OPEN_LENGTH_MOST = 32 << 10
"""A line that is longer leaves in pieces."""
_MARKS_KEPT = 1000
_STDERR = 2
_running = context.running.get
_put = io.TextIOWrapper.write
"""A third of the price of ``super().write``, twice for each ``print``."""


def _label(task: _native.Task) -> Label:
    name = context.function_name(task)
    if not task.actor:
        name = name.rsplit(".", 1)[-1]
    return Label(name, context.id_of(task), task.attempt)


def _level() -> str:
    """The level of the record that a handler of ``logging`` writes right now, two frames up; "" if
    it is somebody else who writes."""
    frame = sys._getframe(2)
    if frame.f_code.co_name != "emit":
        return ""
    level = getattr(frame.f_locals.get("record"), "levelname", "")
    return level if isinstance(level, str) and level.isalnum() else ""


class LabelledStream(io.TextIOWrapper):
    """A text stream that notes whose output begins; one task prints at a time."""

    _key = 0
    _label = NOBODY
    _level = ""

    def write(self, text: str, /) -> int:
        """Write ``text``, behind a mark if another task has begun to print."""
        # ``print`` ends its line with a write of its own, a handler of ``logging`` does not.
        if text == "\n":
            return _put(self, text)
        level = _level() if text[-1:] == "\n" else ""
        label, task = self._label, _running()
        if task is not None and (task.key != self._key or task.attempt != label.attempt):
            label, self._key = _label(task), task.key
        elif not level and not self._level:
            return _put(self, text)
        self._level = level
        self._label = label = msgspec.structs.replace(label, level=level)
        _put(self, mark(label) + text)
        return len(text)


class SideBySideStream(io.TextIOWrapper):
    """A text stream of many calls at a time: whole lines, each marked."""

    def __init__(self, buffer: io.BufferedWriter, encoding: str, errors: str | None) -> None:
        super().__init__(buffer, encoding, errors, line_buffering=True)
        self._open: dict[int, str] = {}
        """Lines without an end, by the key of their task; 0: of code outside tasks."""
        self._marks: dict[tuple[int, int, str], str] = {}

    def write(self, text: str, /) -> int:
        """Write the lines that ``text`` completes, and keep the rest."""
        task = _running()
        key = task.key if task is not None else 0
        level = _level() if len(text) > 1 and text[-1] == "\n" else ""
        whole, end, rest = text.rpartition("\n")
        if not end and len(rest) < OPEN_LENGTH_MOST:
            rest = self._open.pop(key, "") + rest
            if len(rest) < OPEN_LENGTH_MOST:
                self._open[key] = rest
                return len(text)
            whole, rest = rest, ""
        whole = self._open.pop(key, "") + whole + end
        if rest:
            self._open[key] = rest
        _put(self, self._mark(task, level) + whole)
        return len(text)

    def flush(self) -> None:
        """Let the unfinished line of this call go; outside calls, all of them."""
        task = _running()
        if task is None:
            for key in list(self._open):
                _put(self, self._open.pop(key, ""))
        elif part := self._open.pop(task.key, ""):
            _put(self, self._mark(task, "") + part)
        super().flush()

    def _mark(self, task: _native.Task | None, level: str) -> str:
        known = (task.key, task.attempt, level) if task is not None else (0, 0, level)
        found = self._marks.get(known)
        if found is None:
            label = NOBODY if task is None else _label(task)
            found = mark(msgspec.structs.replace(label, level=level))
            if len(self._marks) >= _MARKS_KEPT:
                self._marks.clear()
            self._marks[known] = found
        return found


def _labelled(stream: TextIO, side_by_side: bool) -> TextIO:
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    stream.flush()
    # Opened anew: the old buffer remembers of what kind its descriptor was before the fork.
    buffer = open(stream.fileno(), "wb", closefd=False)  # noqa: SIM115
    if side_by_side:
        return SideBySideStream(buffer, stream.encoding, stream.errors)
    return LabelledStream(buffer, stream.encoding, stream.errors, line_buffering=True)


def install(side_by_side: bool = False) -> None:
    """Replace this process's streams; ``side_by_side``: several calls run at a time."""
    # Of this thread alone: the last lines of the dead are few, and the user's words are among them.
    faulthandler.enable(_STDERR, all_threads=False)
    stdout, stderr = (_labelled(each, side_by_side) for each in (sys.stdout, sys.stderr))
    sys.stdout = sys.__stdout__ = stdout  # type: ignore[misc,assignment]
    sys.stderr = sys.__stderr__ = stderr  # type: ignore[misc,assignment]
