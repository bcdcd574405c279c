"""What is seen of one task, value or process, for an explanation: rows without behaviour.

The shell reads them out of node memory and of what its parts know (``daemon_sights``), the machine
gets them in ``events.Inspected``, and ``why`` follows them from one to the next.

Invariant: a row says what was seen at one moment, and is true of that moment only.
"""

from __future__ import annotations

import msgspec


class Away(msgspec.Struct, frozen=True):
    """A value that is there, but not in memory."""

    file: str = ""
    """Its path; "": no file has it."""
    is_wanted: bool = False
    """Somebody waits for it to come back."""
    problem: str = ""
    """Why no file has it."""
    attempt: int = 0
    """Of the task that makes it again; 0: none does, now."""
    attempts_most: int = 0
    """0: any number."""
    task: int = 0
    """Key of a result of the task that runs for it now; 0: none does."""
    before: int = 0
    """Other tasks that run before it."""
    node: str = ""
    """The other node that has its bytes."""


class Lent(msgspec.Struct, frozen=True):
    """A task that another node runs, or is to run."""

    node: str = ""
    """Which; "": it has come back from one, and waits for room on the next."""
    since: float = 0.0
    runs: bool = False
    """It has said so; else it may still wait there."""


class TaskSight(msgspec.Struct, frozen=True):
    """``Memory.sight``: one object, and the task whose result it is."""

    key: int
    is_gone: bool = False
    task: int = 0
    """Key of the task, 0: no task makes it."""
    format: int = 0
    """0: it has no value yet."""
    is_error: bool = False
    error: str = ""
    """Its class and first line, where it is an error in memory."""
    stage: str = ""
    """held, queued or running; "": none of them."""
    attempt: int = 1
    worker: int = -1
    is_call: bool = False
    is_stream: bool = False
    about: int = 0
    """What it runs, as in an event of a take."""
    queue: int = 0
    job: int = 0
    parent: int = 0
    dependency: int = 0
    """The argument that a held task waits for."""
    predecessor: int = 0
    """The earlier call that a held call waits for."""
    is_cell: bool = False
    """It is given by a process, not by a task."""
    deadline: float = 0.0
    submitted: float = 0.0
    taken: float = 0.0
    owner: int = -1
    ancestry: tuple[int, int, int, int] = (0, 0, 0, 0)
    """``Memory.ancestry``, of which its id is made."""
    away: Away | None = None
    lent: Lent | None = None
    stays: bool = False
    """A task of a kind that no other node runs."""
    home: str = ""
    """Another node that gives the value, which has none yet."""


class ProcessSight(msgspec.Struct, frozen=True):
    """``Memory.process_sight``, and what the kernel says."""

    index: int
    pid: int = 0
    waits_for: int = 0
    """Key of what it sleeps for; 0: nothing."""
    waits_since: float = 0.0
    waits_for_room: bool = False
    running: tuple[int, ...] = ()
    """Its running tasks, outermost first."""
    watched: tuple[int, ...] = ()
    """Keys that it wants to hear of."""
    is_blocked: bool = False
    is_stopped: bool = False
