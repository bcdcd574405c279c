"""What happened around a violation: the events and commands that name what it names.

A violation is a sentence with ids in it ("task 107", "queue 3", ``FakeProcess(index=4, ...)``); an
event is a record whose fields say what their numbers are. Both become sets of (kind, id), and what
shares one belongs to the story. A line is written for somebody who does not know the machines::

    31.021958  > store written: ticket 4, answer (answered: sequence 32)
    31.021958  < reply: index 51, request 1, body (welcome: job 5, ...)
    31.500000  ! fault: driver killed
"""

from __future__ import annotations

import functools
import os
import re
import traceback
from collections.abc import Iterable, Iterator, Reversible
from itertools import islice

import msgspec

from shoal._base import records
from shoal._core import commands, lineage, spilling

COMMANDS = (
    commands.Command,
    *lineage.AnyCommand.__args__,
    *spilling.AnyCommand.__args__,
)

STORY_MOST = 60
LINE_COLUMNS = 200

_FIELDS = {
    **dict.fromkeys(("key", "keys", "tasks", "parents", "gone"), "task"),
    **dict.fromkeys(("queue", "queues", "dead"), "queue"),
    **dict.fromkeys(("index", "worker", "workers"), "process"),
    **dict.fromkeys(("actor_id",), "actor"),
    **dict.fromkeys(("group_id", "group"), "group"),
}
_NAMED = (
    ("task", re.compile(r"(?:task |call |value |FakeTask\(key=)(\d+)")),
    ("queue", re.compile(r"(?:queue |queue=)(\d+)")),
    ("process", re.compile(r"(?:process |worker |FakeProcess\(index=)(\d+)")),
    ("actor", re.compile(r"actor (?:'?)([0-9a-f]{16,})")),
    ("group", re.compile(r"group '?(group-\d+)")),
)


def about(log: Reversible[tuple[float, object]], violation: str) -> list[str]:
    """The last lines of the log about whatever ``violation`` names; without names, the last."""
    wanted = {(kind, found) for kind, pattern in _NAMED for found in pattern.findall(violation)}
    chosen = (
        (at, what)
        for at, what in reversed(log)
        if not wanted or isinstance(what, str) or not wanted.isdisjoint(_names(what))
    )
    return lines(islice(chosen, STORY_MOST))[::-1]


def place_of(violation: BaseException) -> str:
    """Which checker or machine has found it."""
    frames = traceback.extract_tb(violation.__traceback__)
    if not frames:
        return "no code"
    last = frames[-1]
    return f"{os.path.basename(last.filename)}, line {last.lineno}, in {last.name}: {last.line}"


def lines(log: Iterable[tuple[float, object]]) -> list[str]:
    """All of it."""
    return [_line(at, what) for at, what in log]


LEGEND = '(virtual seconds; ">" a machine is told, "<" it decides, "!" a fault or a note)'


def _line(at: float, what: object) -> str:
    if isinstance(what, str):
        return f"{at:11.6f}  ! {what}"
    mark = "<" if isinstance(what, COMMANDS) else ">"
    return f"{at:11.6f}  {mark} {_words(what)}"[:LINE_COLUMNS]


def _words(what: object) -> str:
    """A record as words, without what is as it always is."""
    if isinstance(what, msgspec.Struct):
        name = re.sub("(?<=[a-z])(?=[A-Z])", " ", type(what).__name__).lower()
        given = [
            f"{field.name} {_inside(value)}"
            for field in _fields(type(what))
            if not _is_usual(field, value := getattr(what, field.name))
        ]
        return f"{name}: {', '.join(given)}" if given else name
    if isinstance(what, bytes):
        return _bytes(what)
    if isinstance(what, tuple | list):
        return f"[{', '.join(_inside(each) for each in what)}]"
    return repr(what)


@functools.cache
def _fields(kind: type[msgspec.Struct]) -> tuple[msgspec.structs.FieldInfo, ...]:
    return msgspec.structs.fields(kind)


def _inside(value: object) -> str:
    text = _words(value)
    return f"({text})" if isinstance(value, msgspec.Struct) else text


def _is_usual(field: msgspec.structs.FieldInfo, value: object) -> bool:
    if value in ((), [], {}, "", b"", None):
        return True
    return field.default is not msgspec.NODEFAULT and value == field.default


def _bytes(data: bytes) -> str:
    try:
        return f"<{records.unpack(data)[0]}>"
    except (msgspec.MsgspecError, ValueError, TypeError, IndexError):
        return repr(data)


def _names(what: object, kind: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(what, msgspec.Struct):
        for field in what.__struct_fields__:
            yield from _names(getattr(what, field), _FIELDS.get(field, ""))
    elif isinstance(what, tuple | list):
        for each in what:
            yield from _names(each, kind)
    elif kind and isinstance(what, int | str):
        yield kind, str(what)
