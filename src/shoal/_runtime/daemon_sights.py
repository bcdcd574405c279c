"""What the machine wants to see for an explanation: node memory, and whether a process is stopped.

Read only; each look is a few native calls and one small file of the kernel per process. Of an error
its headline is read, which stands in front of what is pickled: nothing is unpickled here.
"""

from __future__ import annotations

from collections.abc import Callable

from shoal import _native
from shoal._base import records
from shoal._core import commands, events
from shoal._core.events import AnyEvent, QueueState
from shoal._core.sight_rows import ProcessSight, TaskSight
from shoal._native import Memory
from shoal._runtime.daemon_away import Whereabouts
from shoal._runtime.session_dir import is_stopped

STAGES = ("", "held", "queued", "running")
RUNNING = STAGES.index("running")
DAEMON = 0
"""Process index of the daemon: what it runs, another node has."""
ERRORS = (_native.FORMAT_ERROR_PICKLE, _native.FORMAT_ERROR_RECORD)
_PROTO, _FRAME, _MARK, _SHORT_TEXT, _TEXT = 0x80, 0x95, 0x28, 0x8C, 0x58
"""Of a pickle: how it begins, and how a text in it does."""
HOLDS_MOST = 200_000
WAITS_FOR_ROOM = 2**64 - 1
PROCESS = 0
"""Kind of a row of ``list_holds``."""


class Sights:
    """Performs ``Inspect``."""

    def __init__(
        self,
        memory: Memory,
        post: Callable[[AnyEvent], None],
        pid_of: Callable[[int], int],
        places: Whereabouts,
    ) -> None:
        self._memory = memory
        self._post = post
        self._pid_of = pid_of
        self._places = places

    def perform_inspect(self, command: commands.Inspect) -> None:
        used, _, capacity = self._memory.usage()
        self._post(
            events.Inspected(
                command.ticket,
                tuple(task_sight(self._memory, key, self._places) for key in command.tasks),
                tuple(self._process(index) for index in command.processes),
                tuple(self._queue(queue) for queue in command.queues),
                used,
                capacity,
                held_bytes(self._memory) if command.has_holders else None,
            )
        )

    def _queue(self, queue: int) -> QueueState:
        entries, takes, _ = self._memory.queue_state(queue)
        return QueueState(queue, entries, takes)

    def _process(self, index: int) -> ProcessSight:
        waits_for, waits_since, _, running, watched = self._memory.process_sight(index)
        is_blocked = self._memory.process_state(index)[3]
        pid = self._pid_of(index)
        return ProcessSight(
            index,
            pid,
            0 if waits_for == WAITS_FOR_ROOM else waits_for,
            waits_since,
            waits_for == WAITS_FOR_ROOM,
            tuple(running),
            tuple(watched),
            is_blocked,
            is_stopped(pid),
        )


def task_sight(memory: Memory, key: int, places: Whereabouts) -> TaskSight:
    """What node memory says of ``key`` now."""
    row = memory.sight(key)
    if row is None:
        return TaskSight(key, is_gone=True)
    task, format, state, attempt, worker, flags, about, queue, job, parent, *rest = row
    dependency, predecessor, is_cell, deadline, submitted, taken, _, owner, *ancestry = rest
    by, actor, of_job, index = ancestry
    elsewhere = places.away(key) if format else None
    is_lent = state == RUNNING and worker == DAEMON
    has_error = format in ERRORS and elsewhere is None
    return TaskSight(
        key,
        task=task,
        format=format,
        is_error=format in ERRORS,
        error=_headline_of(memory, key) if has_error else "",
        stage=STAGES[state],
        attempt=attempt,
        worker=worker,
        is_call=bool(flags & _native.FLAG_ACTOR),
        is_stream=bool(flags & _native.FLAG_STREAM),
        about=about,
        queue=queue,
        job=job,
        parent=parent,
        dependency=dependency,
        predecessor=predecessor,
        is_cell=bool(is_cell),
        deadline=deadline / 1e9,
        submitted=submitted / 1e9,
        taken=taken / 1e9,
        owner=owner,
        ancestry=(by, actor, of_job, index),
        away=elsewhere,
        lent=places.lent(key) if is_lent else None,
        stays=places.stays(flags),
        home="" if format or task else places.home(key),
    )


def _headline_of(memory: Memory, key: int) -> str:
    """Class and first line of an error; "" if it is gone or can not be told."""
    ref = memory.ref(key)
    found = None if ref is None else memory.peek(ref)
    if found is None:
        return ""
    format, data = found
    if format == _native.FORMAT_ERROR_PICKLE:
        return first_text(data)
    try:
        name, fields = records.unpack(data)
    except ValueError:  # cut, where there was no room for all of it
        return ""
    first = str(fields.get("message", "")).strip().partition("\n")[0]
    return f"{name}: {first}" if first else name


def first_text(data: bytes) -> str:
    """The text with which a pickled tuple begins; "" if it begins with something else."""
    at = 2 if data[:1] == bytes([_PROTO]) else 0
    if data[at : at + 1] == bytes([_FRAME]):
        at += 9
    at += data[at : at + 1] == bytes([_MARK])
    width = {_SHORT_TEXT: 1, _TEXT: 4}.get(data[at] if at < len(data) else 0, 0)
    if not width:
        return ""
    begin = at + 1 + width
    size = int.from_bytes(data[at + 1 : begin], "little")
    return data[begin : begin + size].decode(errors="replace")


def held_bytes(memory: Memory) -> tuple[tuple[int, int], ...]:
    """(process, bytes of the values that it has refs to)."""
    sizes = {key: size for key, _, size, *_ in memory.list_objects(HOLDS_MOST)}
    found: dict[int, int] = {}
    for key, kind, holder, _, _ in memory.list_holds(HOLDS_MOST):
        if kind == PROCESS and holder:
            found[holder] = found.get(holder, 0) + sizes.get(key, 0)
    return tuple(found.items())
