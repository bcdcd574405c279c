"""Ids of what stands in the events, the same bytes as ``ObjectRef.hex()`` and the context give.

An event has a key of 64 bits. The rest of the id (``_base/typed_ids.py``) is looked up in this
order: other events of the same key, the object's slot if it lives, and nowhere else: an id of which
a part is not known any more is "".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from shoal import _native
from shoal._base import typed_ids
from shoal._native import Memory
from shoal._runtime import history

PUT = 4
Ancestry = tuple[int, int, int, int]
"""(task, actor, job, number of the return), see ``Memory.ancestry``."""


class EventIds:
    """Texts of ids, while somebody looks at one reading of the rings."""

    def __init__(
        self,
        memory: Memory,
        node_id: bytes,
        told: Mapping[int, history.Told],
        rows: Iterable[history.Row] = (),
    ) -> None:
        self._node_id = node_id
        self._memory = memory
        self._told = told
        self._puts = {row[3]: row for row in rows if row[2] == PUT}

    def task(self, key: int) -> str:
        """Id of a task or call."""
        told = self._told.get(key)
        if told is not None and told.actor is not None:
            return typed_ids.task_id(self._node_id, key, told.actor, told.job)
        lives = self._memory.ancestry(key)
        return typed_ids.task_id(self._node_id, key, lives[1], lives[2]) if lives else ""

    def parent(self, told: history.Told) -> str:
        """Id of the task that submitted it; "" for the driver's."""
        if not told.parent:
            return ""
        found = self.task(told.parent)
        if found or told.is_by_actor or told.actor:
            return found
        return typed_ids.task_id(self._node_id, told.parent, 0, told.job)

    def value(self, key: int) -> str:
        """Id of an object."""
        ancestry = self._memory.ancestry(key) or self._ended(key)
        return typed_ids.object_id(self._node_id, key, ancestry) if ancestry else ""

    def _ended(self, key: int) -> Ancestry | None:
        """The ancestry of an object that has gone, if events tell it."""
        told = self._told.get(key)
        if told is not None and told.actor is not None:
            return key, told.actor, told.job, 1
        if key not in self._puts:
            return None
        _, _, _, _, about, _, job, is_by_actor = self._puts[key]
        if not is_by_actor:
            return about, 0, job, 0
        if about & _native.EVENT_METHOD:
            return 0, history.actor_of(about), job, 0
        maker = self._told.get(about)
        return (about, maker.actor, job, 0) if maker is not None and maker.actor else None
