"""What events are about, by name: functions and methods, of the tables that the daemon keeps.

A program asks its daemon for these tables (``cluster.names``), the daemon has them.

Invariant: nothing is asked twice for one reading of the rings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from shoal import _native
from shoal._runtime import history
from shoal._runtime.history import METHODS, SLOT_BITS


class NamedActor(msgspec.Struct, frozen=True):
    """An actor whose calls stand in events."""

    actor_id: str
    class_name: str


class Names:
    """What an event is about: functions by key, methods by the actor that they belong to."""

    def __init__(
        self,
        functions: Mapping[int, str],
        actors: Mapping[int, NamedActor],
        methods_of: Callable[[str], bytes],
    ) -> None:
        """``methods_of``: the methods of the actor with that id, as its handles have them."""
        self._functions = functions
        self._actors = actors
        self._methods_of = methods_of
        self._methods: dict[str, list[str]] = {}

    def of(self, about: int) -> str:
        """Name of the function, or ``Class.method``."""
        if not about & _native.EVENT_METHOD:
            return self._functions.get(about, "task")
        actor = self.actor(about)
        number = about >> SLOT_BITS & METHODS
        if actor is None:
            return f"method {number}" if number < METHODS else "method"
        if actor.actor_id not in self._methods:
            methods = self._methods_of(actor.actor_id)
            rows = msgspec.msgpack.decode(methods) if methods else ()
            self._methods[actor.actor_id] = [row[0] for row in rows]
        names = self._methods[actor.actor_id]
        name = names[number] if number < len(names) else f"method {number}"
        return f"{actor.class_name}.{name}"

    def actor(self, about: int) -> NamedActor | None:
        """Its actor; None for plain tasks, and if it is not known any more."""
        if not about & _native.EVENT_METHOD:
            return None
        return self._actors.get(history.actor_of(about))
