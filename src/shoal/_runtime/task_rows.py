"""Tasks as rows for people: what node memory and the events of all processes say, put together.

What the daemon runs, another node has (``daemon_abroad``): its row says which, by the daemon's
table ``lent``, which is asked for only if there is such a task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shoal._base import typed_ids
from shoal._runtime import cluster, history
from shoal._runtime import session as sessions
from shoal._runtime.event_ids import EventIds
from shoal._runtime.event_names import Names

STATES = {1: "HELD", 2: "QUEUED", 3: "RUNNING"}
DAEMON = 0
Row = dict[str, Any]


def unended(
    found: Sequence[tuple[int, ...]], told: Mapping[int, history.Told], names: Names
) -> list[Row]:
    """Rows of ``Memory.list_tasks`` with their names."""
    lent: dict[object, str] = {}
    if any(row[3] == DAEMON and STATES.get(row[1]) == "RUNNING" for row in found):
        lent = {row["key"]: str(row["node"]) for row in cluster.table("lent")}
    return [_unended(row, told, names, lent) for row in found]


def _unended(
    row: tuple[int, ...],
    told: Mapping[int, history.Told],
    names: Names,
    lent: Mapping[object, str],
) -> Row:
    key, number, attempt, worker, about, queue, job, parent, caller, id_job = row
    node_id = sessions.current().node_id
    known = told.get(key) or history.Told(key)
    function, state = names.of(about), STATES.get(number, str(number))
    if state == "RUNNING" and worker == DAEMON:
        state = "FORWARDED"
    is_running = state == "RUNNING"
    return {
        "task_id": typed_ids.task_id(node_id, key, history.actor_of(about), id_job),
        "name": known.name or function,
        "function": function,
        "state": state,
        "attempt": attempt,
        "worker": worker if is_running else -1,
        "job": job,
        "queue": queue,
        "parent": typed_ids.task_id(node_id, parent, caller, job) if parent or caller else "",
        "actor_id": _actor_id(history.actor_of(about), id_job),
        "submitted_s": _seconds(known.submitted_ns),
        "started_s": _seconds(known.taken_ns) if is_running else None,
        "node": lent.get(key, "") if state == "FORWARDED" else "",
    }


def ended(task: history.Told, names: Names, ids: EventIds) -> Row:
    """One of the last that have ended."""
    function = names.of(task.about)
    return {
        "task_id": ids.task(task.key),
        "name": task.name or function,
        "function": function,
        "state": "FAILED" if task.is_failed or task.error else "FINISHED",
        "attempt": task.attempt,
        "worker": task.worker if task.worker != DAEMON else -1,
        "job": task.job,
        "queue": 0,
        "parent": ids.parent(task),
        "actor_id": _actor_id(task.actor or 0, task.job),
        "error": task.error,
        "submitted_s": _seconds(task.submitted_ns),
        "started_s": _seconds(task.taken_ns),
        "ended_s": _seconds(task.sealed_ns),
    }


def _actor_id(key: int, job: int) -> str:
    return typed_ids.actor_id(sessions.current().node_id, key, job) if key else ""


def _seconds(ns: int) -> float | None:
    return ns / 1e9 if ns else None
