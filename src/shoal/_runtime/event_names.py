"""What events are about, by name: functions and methods, of the tables that the daemon keeps.

Invariant: nothing is asked of the daemon twice for one reading of the rings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from shoal import _native, errors
from shoal._proto import messages
from shoal._runtime import cluster, history
from shoal._runtime import session as sessions
from shoal._runtime.actor_method import MethodRow
from shoal._runtime.history import METHODS, SLOT_BITS


class Names:
    """What an event is about: functions by key, methods by the actor that they belong to."""

    def __init__(self) -> None:
        self._functions = {row["key"]: row for row in cluster.table("functions")}
        self._actors = {row["key"]: row for row in cluster.table("actors")}
        self._methods: dict[str, list[str]] = {}

    def of(self, about: int) -> str:
        """Name of the function, or ``Class.method``."""
        if not about & _native.EVENT_METHOD:
            return str(self._functions[about]["name"]) if about in self._functions else "task"
        actor = self.actor(about)
        number = about >> SLOT_BITS & METHODS
        if not actor:
            return f"method {number}" if number < METHODS else "method"
        actor_id = actor["actor_id"]
        if actor_id not in self._methods:
            self._methods[actor_id] = _methods_of(actor_id)
        names = self._methods[actor_id]
        name = names[number] if number < len(names) else f"method {number}"
        return f"{actor['class_name']}.{name}"

    def actor(self, about: int) -> Mapping[str, Any]:
        """The row of its actor; empty for plain tasks, and if it is not known any more."""
        if not about & _native.EVENT_METHOD:
            return {}
        return self._actors.get(history.actor_of(about), {})


def _methods_of(actor_id: str) -> list[str]:
    try:
        body = messages.DescribeActor(actor_id)
        answer = sessions.current().request(body, messages.ActorInfo)
    except errors.ActorNotFoundError:  # it has gone since
        return []
    rows = msgspec.msgpack.decode(answer.spec.methods, type=tuple[MethodRow, ...])
    return [row.name for row in rows]
