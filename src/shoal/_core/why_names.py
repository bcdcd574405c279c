"""How explanations name things: ids, functions, methods, processes, times.

An id is made of what was seen of an object (``TaskSight.ancestry``), so naming may need a look.
"""

from __future__ import annotations

from typing import Any

import msgspec

from shoal._base import typed_ids
from shoal._core.answers import elsewhere
from shoal._core.asks import Asked, GroupAsk
from shoal._core.queues import ClassQueue
from shoal._core.sight_rows import TaskSight
from shoal._core.sights import Need, Sights
from shoal._core.tables import NodeTables
from shoal._proto import reasons as r

METHOD_BIT = 1 << 63
SLOT_BITS = 22
METHODS = (1 << 10) - 1
"""How an event says which method of which actor (``method_event`` in native/layout.hpp)."""


class Names:
    """Names of what one explanation comes to."""

    def __init__(
        self, t: NodeTables, now: float, sights: Sights, is_last: bool = True, about: str = ""
    ) -> None:
        self.t = t
        self.now = now
        self.sights = sights
        self.is_last = is_last
        self.about = about
        """What was asked about: its id is known even if it is gone."""

    def id_of(self, key: int) -> str:
        """An object's id; "" of what is gone, and of what will not be seen any more."""
        sight = self._seen(key)
        return "" if sight is None else self.name_object(sight)

    def task_of(self, key: int) -> str:
        """The id of the task that makes the object, as ``id_of``."""
        sight = self._seen(key)
        return "" if sight is None or sight.is_gone else self.name_task(sight)

    def _seen(self, key: int) -> TaskSight | None:
        try:
            return self.sights.task(key)
        except Need:
            if not self.is_last:
                raise
            return None

    def name_object(self, sight: TaskSight) -> str:
        """An object's id; what was asked about has one even when it is gone."""
        if sight.is_gone:
            return self.about if typed_ids.key_of(self.about) == sight.key else ""
        return typed_ids.object_id(self.t.config.node_id, sight.key, sight.ancestry)

    def name_task(self, sight: TaskSight) -> str:
        """The id of the task that makes the object."""
        task, actor, job, _ = sight.ancestry
        return typed_ids.task_id(self.t.config.node_id, task, actor, job)

    def node_name(self, node: str) -> str:
        """What people call another node; "" for none."""
        known = self.t.elsewhere
        return node[:8] if known is None else known.name(node)

    def able(self, ask: ClassQueue | Asked) -> tuple[str, ...]:
        """Names of the other nodes that could ever run it."""
        if self.t.elsewhere is None:
            return ()
        return tuple(elsewhere().able(self.t, ask.amounts, ask.target))

    def lacks(self, ask: ClassQueue | Asked) -> str:
        """Why no node of the cluster can ever run it; "" where that is not known, or one could."""
        if self.t.elsewhere is None or ask.target.group or isinstance(ask, GroupAsk):
            return ""
        return "" if self.able(ask) else str(elsewhere().lacks(self.t, ask.amounts, ask.target))

    def stays_here(self, queue: ClassQueue) -> str:
        """Why a task of a kind that no other node runs waits for what only others have."""
        return str(elsewhere().stays_here(self.t, queue.amounts, queue.target))

    def ago(self, at: float) -> float | None:
        """Seconds since ``at``; 0 means that nobody knows."""
        return max(0.0, self.now - at) if at else None

    def name_of(self, about: int) -> str:
        """Name of a function, or ``Class.method``."""
        if not about & METHOD_BIT:
            for job in self.t.jobs.running.values():
                for key, name, _ in job.functions.values():
                    if key == about:
                        return name
            return "task"
        number = about >> SLOT_BITS & METHODS
        actor = self.t.actors.by_key.get(about & ~(METHOD_BIT | METHODS << SLOT_BITS))
        if actor is None:
            return f"method {number}"
        rows = msgspec.msgpack.decode(actor.spec.methods) if actor.spec.methods else []
        method = rows[number][0] if number < len(rows) else f"method {number}"
        return f"{actor.spec.class_name}.{method}"

    def task_facts(self, task: TaskSight | None, at: float = 0.0) -> dict[str, Any]:
        """The fields of ``OfTask``; none for an actor or group that waits for itself."""
        if task is None:
            return {"task": "", "since_s": self.ago(at)}
        return {
            "task": self.name_task(task),
            "name": self.name_of(task.about),
            "attempt": task.attempt,
            "since_s": self.ago(at or task.submitted),
            "ends_in_s": task.deadline - self.now if task.deadline else None,
        }

    def pid_of(self, index: int) -> int:
        """Of a worker or driver."""
        worker = self.t.pool.workers.get(index)
        job = self.t.jobs.by_driver.get(index)
        return worker.pid if worker is not None else job.pid if job is not None else 0

    def process_holder(self, index: int) -> r.Holder:
        """A process as whoever has something."""
        actor = self.t.actors.by_worker.get(index)
        if index in self.t.jobs.by_driver:
            name, kind = "the program", "process"
        else:
            name, kind = (actor.spec.class_name if actor is not None else ""), "worker"
        who = actor.actor_id if actor is not None else str(index)
        return r.Holder(kind=kind, id=who, name=name, worker=index, pid=self.pid_of(index))
