"""Tasks and values as rows for people: what node memory and the events of all processes say.

On one machine the program that asks reads them itself, and disturbs nobody. In a cluster each
node's daemon does (``daemon_listings``): it knows which of its tasks another node has, and which
it runs for another one.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from typing import Any

from shoal import _native
from shoal._base import typed_ids
from shoal._native import Memory
from shoal._runtime import history
from shoal._runtime.event_ids import EventIds
from shoal._runtime.event_names import Names

STATES = {1: "HELD", 2: "QUEUED", 3: "RUNNING"}
DAEMON = 0
ERRORS = (_native.FORMAT_ERROR_PICKLE, _native.FORMAT_ERROR_RECORD)
Row = dict[str, Any]


class TaskRows:
    """One reading of a node's tasks.

    Args:
        memory: Of the node.
        node_id: Its id.
        names: Of functions and methods.
        places: Ids of the nodes that have tasks, or had them to their end, by key.
    """

    def __init__(
        self, memory: Memory, node_id: bytes, names: Names, places: Mapping[int, str] | None = None
    ) -> None:
        self._memory = memory
        self._node_id = node_id
        self._names = names
        self._places = places or {}
        self.told = history.read(memory.list_events(history.ALL))
        self._ids = EventIds(memory, node_id, self.told)

    def unended(self, most: int) -> Iterator[Row]:
        """Rows of tasks that have not ended."""
        for row in self._memory.list_tasks(most):
            yield self._unended(row)

    def ended(self, but: Container[str]) -> Iterator[Row]:
        """Of the last that have ended, the last one first; none of those with the ids ``but``."""
        for task in history.ended(self.told):
            row = self._ended(task)
            if row["task_id"] not in but:
                yield row

    def _unended(self, row: tuple[int, ...]) -> Row:
        key, number, attempt, worker, about, queue, job, parent, caller, id_job = row
        known = self.told.get(key) or history.Told(key)
        function, state = self._names.of(about), STATES.get(number, str(number))
        if state == "RUNNING" and worker == DAEMON:
            state = "FORWARDED"
        is_running = state == "RUNNING"
        actor = history.actor_of(about)
        return {
            "key": key,
            "task_id": typed_ids.task_id(self._node_id, key, actor, id_job),
            "name": known.name or function,
            "function": function,
            "state": state,
            "attempt": attempt,
            "worker": worker if is_running else -1,
            "job": job,
            "queue": queue,
            "parent": self._parent(parent, caller, job),
            "actor_id": self._actor_id(actor, id_job),
            "error": "",
            "submitted_s": _seconds(known.submitted_ns),
            "started_s": _seconds(known.taken_ns) if is_running else None,
            "ended_s": None,
            "node": "",
            "node_id": self._place_of(key) if state == "FORWARDED" else self._node_id.hex(),
        }

    def _ended(self, task: history.Told) -> Row:
        function = self._names.of(task.about)
        return {
            "key": task.key,
            "task_id": self._ids.task(task.key),
            "name": task.name or function,
            "function": function,
            "state": "FAILED" if task.is_failed or task.error else "FINISHED",
            "attempt": task.attempt,
            "worker": task.worker if task.worker != DAEMON else -1,
            "job": task.job,
            "queue": 0,
            "parent": self._ids.parent(task),
            "actor_id": self._actor_id(task.actor or 0, task.job),
            "error": task.error,
            "submitted_s": _seconds(task.submitted_ns),
            "started_s": _seconds(task.taken_ns),
            "ended_s": _seconds(task.sealed_ns),
            "node": "",
            "node_id": self._place_of(task.key) if task.worker == DAEMON else self._node_id.hex(),
        }

    def _place_of(self, key: int) -> str:
        return self._places.get(key) or self._node_id.hex()

    def _parent(self, parent: int, caller: int, job: int) -> str:
        return typed_ids.task_id(self._node_id, parent, caller, job) if parent or caller else ""

    def _actor_id(self, key: int, job: int) -> str:
        return typed_ids.actor_id(self._node_id, key, job) if key else ""


def of_values(
    memory: Memory, node_id: bytes, limit: int, but: frozenset[int] = frozenset()
) -> Iterator[Row]:
    """Rows of the values in node memory, and of those to come; none of those with the keys
    ``but``."""
    ids = EventIds(memory, node_id, {})
    for key, format, size, refs, pins, owner in memory.list_objects(limit + len(but)):
        if key not in but:
            yield {
                "key": key,
                "object_id": ids.value(key),
                "state": "PENDING" if not format else "ERROR" if format in ERRORS else "VALUE",
                "size_bytes": size,
                "refs": refs,
                "pins": pins,
                "owner": owner,
                "node_id": node_id.hex(),
            }


def _seconds(ns: int) -> float | None:
    return ns / 1e9 if ns else None
