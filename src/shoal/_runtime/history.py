"""What tasks have left behind: the events of all processes, read as tasks that have ended.

Every process writes small events into a ring of its own in node memory, always (4,096 of them, a
plain task leaves three). Nobody keeps a table of ended tasks: whoever asks reads the rings, so the
history costs nothing while nobody does, is bounded, and begins where the rings do::

    SUBMITTED    by who called: when, and the task it ran in
    NAME         after it, if the call was given a name of its own
    TAKEN        by who runs it: when, which attempt, which function or method
    ERROR        the class of what it raised, or of the record that it was failed with
    SEALED       the end, by who ran it; by the daemon, or by who failed, if nobody did; of a short
                 task it is read out of the record of TAKEN

1. A key is one task for ever, so events of one key are about one task, in the order of time.
2. A task whose beginning has been overwritten is told with what is left; one of which only the end
   is left is not told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from shoal import _native

ALL = 1 << 24
"""More events than there can be."""
SUBMITTED, TAKEN, SEALED, NAME, ERROR = 1, 2, 3, _native.EVENT_NAME, _native.EVENT_ERROR

Row = tuple[int, int, int, int, int, int, int, bool]
"""(ns, process, kind, key, about, number, job, whether by an actor), see ``Memory.list_events``."""

SLOT_BITS = 22
METHODS = (1 << 32 - SLOT_BITS) - 1
_FAILED = (_native.FORMAT_ERROR_PICKLE, _native.FORMAT_ERROR_RECORD)


class Told(msgspec.Struct):
    """What the events say of one task."""

    key: int
    about: int = 0
    """What it runs, for ``Names``; 0: not known any more."""
    worker: int = -1
    attempt: int = 0
    parent: int = 0
    submitted_ns: int = 0
    taken_ns: int = 0
    sealed_ns: int = 0
    name: str = ""
    """Of the call, if it was given one."""
    error: str = ""
    """Name of the class."""
    is_failed: bool = False
    job: int = 0
    """That its id names; 0: not known any more."""
    actor: int | None = None
    """Key of the actor that is called, 0: none; None: not known any more."""
    by: int = -1
    """The process that submitted it; -1: not known any more."""
    is_by_actor: bool = False
    """Whether an actor submitted it."""


def read(rows: Iterable[Row]) -> dict[int, Told]:
    """What ``rows``, oldest first, say of each task."""
    found: dict[int, Told] = {}
    texts: dict[tuple[int, int], dict[int, bytes]] = {}
    for ns, process, kind, key, about, number, job, is_by_actor in rows:
        if kind not in (SUBMITTED, TAKEN, SEALED, NAME, ERROR):
            continue
        told = found.get(key)
        if told is None:
            told = found[key] = Told(key, job=job)
        if kind == SUBMITTED:
            told.submitted_ns, told.by = ns, process
            told.parent, told.is_by_actor = about, is_by_actor
        elif kind == TAKEN:
            told.taken_ns, told.worker, told.about, told.attempt = ns, process, about, number
            told.actor = actor_of(about)
        elif kind == SEALED:
            told.sealed_ns, told.is_failed = ns, number in _FAILED
            told.about = told.about or about
            told.actor = actor_of(told.about)
        else:
            texts.setdefault((key, kind), {})[number] = about.to_bytes(8, "little")
    for (key, kind), pieces in texts.items():
        joined = b"".join(pieces[place] for place in sorted(pieces)).rstrip(b"\0")
        text = joined.decode(errors="ignore")
        if kind == NAME:
            found[key].name = text
        else:
            found[key].error = text
    return found


def ended(told: Mapping[int, Told]) -> list[Told]:
    """Those that have ended, the last one first."""
    over = [task for task in told.values() if task.sealed_ns and (task.about or task.submitted_ns)]
    return sorted(over, key=lambda task: -task.sealed_ns)


def actor_of(about: int) -> int:
    """Key of the actor in an event's ``about``; 0 for what runs a function."""
    if not about & _native.EVENT_METHOD:
        return 0
    return about & ~(_native.EVENT_METHOD | METHODS << SLOT_BITS)
