"""One line of a worker's log, as it stands in a file: a JSON object per line.

::

    {"time": 1763791921.204817, "job": 1, "worker": 3, "pid": 4711, "actor": "...", "task": "...",
     "attempt": 1, "name": "train", "stream": "stdout", "level": "WARNING", "text": "loss 0.31"}

What a line has not stands not in it: plain tasks have no ``actor``; what a process prints outside
tasks has no ``task``; only lines of ``logging`` have a ``level``.

Who prints is said by the worker itself, within its stream, by a *mark* before the text
(``worker_output``)::

    \\x1e:task: name \\x1f task id \\x1f attempt \\x1f level \\x1e text

so it costs no message, and nothing where nothing is printed.

Invariant: a line of a file is complete or it is the last one, which ``read`` leaves for later.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import msgspec

SUFFIX = ".jsonl"
LABEL_MARK = "\x1e:task:"
LABEL_END = "\x1e"
FIELD_END = "\x1f"
READ_BYTES = 1 << 20


class LogLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line that a worker has printed."""

    time: float
    """Seconds since 1970 at which the daemon read it."""
    text: str
    """As it was printed, without its line end; what is longer than 32 KiB comes in pieces."""
    job: int = 0
    worker: int = 0
    pid: int = 0
    actor: str = ""
    """Id of the actor that lives there."""
    task: str = ""
    """Id of the task that printed it."""
    attempt: int = 0
    name: str = ""
    """Of the function or class."""
    stream: str = ""
    """stdout or stderr; "shoal" where lines are missing, and why."""
    level: str = ""
    """Of lines of ``logging``."""


class Label(msgspec.Struct, frozen=True):
    """Who prints, as the worker has said."""

    name: str = ""
    task: str = ""
    attempt: int = 0
    level: str = ""


class Origin(msgspec.Struct):
    """What is the same for all lines of a process."""

    worker: int
    pid: int
    job: int = 0
    actor: str = ""
    name: str = ""
    """Of the actor."""


NOBODY = Label()
_text = msgspec.json.Encoder().encode


def mark(label: Label) -> str:
    """What a stream says before the text of ``label``."""
    fields = (label.name, label.task, str(label.attempt), label.level)
    return f"{LABEL_MARK}{FIELD_END.join(fields)}{LABEL_END}"


def marked(line: str) -> tuple[str, Label | None, str]:
    """Split a line at its first mark: what is before it, who follows, and what follows. A user may
    print anything: what is no mark in spite of its beginning is text."""
    before, found, rest = line.partition(LABEL_MARK)
    head, has_end, after = rest.partition(LABEL_END)
    fields = head.split(FIELD_END)
    if not found or not has_end or len(fields) != 4 or not fields[2].isdecimal():
        return line, None, ""
    return before, Label(fields[0], fields[1], int(fields[2][:9]), fields[3]), after


def encode(time_s: float, origin: Origin, label: Label, stream: str, lines: Sequence[str]) -> bytes:
    """The records of ``lines``, which have all the rest in common."""
    head = _text(
        LogLine(
            round(time_s, 6),
            "",
            origin.job,
            origin.worker,
            origin.pid,
            origin.actor,
            label.task,
            label.attempt,
            label.name or origin.name,
            stream,
            label.level,
        )
    )
    # ``text`` stands second, so that all that differs between lines is one piece in the middle.
    before, _, after = head.partition(b'"text":""')
    before += b'"text":'
    after += b"\n"
    return before + (after + before).join(map(_text, lines)) + after


def read(path: str, offset: int = 0) -> Iterator[tuple[LogLine, int]]:
    """The records of a file from ``offset`` on, each with the offset of what follows it; nothing
    if the file has gone. What is no record is passed over."""
    decode = msgspec.json.Decoder(LogLine).decode  # here, as no daemon or worker reads at its start
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return
    with open(fd, "rb", buffering=READ_BYTES) as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            try:
                yield decode(line), offset
            except msgspec.DecodeError:
                continue
