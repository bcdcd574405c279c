"""What happened around a violation: the events and commands that name what it names.

A violation is a sentence with ids in it ("task 107", "queue 3", ``FakeProcess(index=4, ...)``); an
event is a record whose fields say what their numbers are. Both become sets of (kind, id), and what
shares one belongs to the story.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import msgspec

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


def about(log: Iterable[tuple[float, object]], violation: str) -> list[str]:
    """The last lines of the log about whatever ``violation`` names; without names, the last."""
    wanted = {(kind, found) for kind, pattern in _NAMED for found in pattern.findall(violation)}
    chosen = [
        _line(at, what)
        for at, what in log
        if not wanted or isinstance(what, str) or wanted & set(_names(what))
    ]
    return chosen[-STORY_MOST:]


def lines(log: Iterable[tuple[float, object]]) -> list[str]:
    """All of it."""
    return [_line(at, what) for at, what in log]


def _line(at: float, what: object) -> str:
    return f"{at:11.6f}  {what}"[:LINE_COLUMNS]


def _names(what: object, kind: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(what, msgspec.Struct):
        for field in what.__struct_fields__:
            yield from _names(getattr(what, field), _FIELDS.get(field, ""))
    elif isinstance(what, tuple | list):
        for each in what:
            yield from _names(each, kind)
    elif kind and isinstance(what, int | str):
        yield kind, str(what)
