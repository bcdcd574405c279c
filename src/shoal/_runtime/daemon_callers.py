"""Calls from this node to actors of other nodes: a queue for each that has a handle here.

Its calls wait there like those to an actor of this node, and are drained to the actor's home, where
they are calls like any other (``bridge.actors``)::

    a handle has come here     OpenActor --> CallAbroad: queues, drained to the home
    its home does not know it  what waits fails, and whatever comes
    no handle is left here     the proxy of its lifetime object goes: so do the queues
    its home moves             what waits here stays, and goes to the next home (``daemon_homes``)

1. ``_queues`` is by what stands here for the lifetime object, from ``CallAbroad`` until that goes.
"""

from __future__ import annotations

from collections.abc import Callable

from shoal._core import commands, events
from shoal._core.node import NodeMachine
from shoal._proto import bridge as rows
from shoal._proto.holds import Name
from shoal._runtime.bridge.around import lost_actor
from shoal._runtime.bridge.bridging import Bridging


class Callers:
    """Calls of this node for actors that are other nodes'."""

    def __init__(
        self,
        machine: NodeMachine,
        drained: Callable[[], frozenset[str]],
        post: Callable[[events.AnyEvent], None],
    ) -> None:
        """``drained`` says which nodes have been drained."""
        self._machine = machine
        self._drained = drained
        self._post = post
        self._bridging: Bridging | None = None
        self._queues: dict[int, tuple[int, ...]] = {}
        self._moving: set[int] = set()
        """Lifetime objects whose actor has no home just now, as its former one has said."""

    def begin(self, bridging: Bridging) -> None:
        """A new epoch."""
        self._bridging = bridging
        bridging.actors.refused = self._call_refused
        released = bridging.proxies.released

        def gone(key: int, name: Name) -> None:
            released(key, name)
            self._proxy_gone(key)

        bridging.proxies.released = gone
        bridging.proxies.is_lifetime = self._queues.__contains__

    def end(self, node: str) -> None:
        """That epoch is over."""
        for key in list(self._queues):
            self._callers_end(key, self._lost(key, node))
        self._moving.clear()
        self._bridging = None

    def node_lost(self, node: str) -> None:
        """Actors of that node are lost."""
        assert self._bridging is not None
        for key in list(self._queues):
            if self._bridging.proxies.home_name(key).node == node:
                self._callers_end(key, self._lost(key, node))

    def perform_call_abroad(self, command: commands.CallAbroad) -> None:
        """Calls in these queues go to its home."""
        bridging = self._bridging
        self._queues[command.key] = command.queues
        node = "" if bridging is None else bridging.proxies.home_name(command.key).node
        if bridging is None or node not in self._machine.tables.others:
            record = self._lost(command.key, node)
            self._callers_end(command.key, record)
            if bridging is None or bridging.proxies.proxy_name(command.key) is None:
                del self._queues[command.key]
                self._post(events.CallersGone(command.key, record, is_unused=True))
            return
        bridging.proxies.adopted.discard(command.key)  # its home may move, and tells
        for queue in command.queues:
            bridging.actors.place(queue, "" if command.key in self._moving else node)

    def moves(self, key: int, node: str) -> None:
        """Calls to that actor go there from now on; empty: they wait until it has a home again."""
        (self._moving.discard if node else self._moving.add)(key)
        if self._bridging is not None:
            for queue in self._queues.get(key, ()):
                self._bridging.actors.move(queue, node)

    def queues_of(self, key: int) -> tuple[int, ...]:
        """Where calls of this node to that actor wait; none: nobody here calls it."""
        return self._queues.get(key, ())

    def came_home(self, key: int) -> None:
        """It is an actor of this node now, and has these queues."""
        self._queues.pop(key, None)
        self._moving.discard(key)

    def perform_kill_elsewhere(self, command: commands.KillElsewhere) -> None:
        """Somebody here kills an actor of another node."""
        bridging = self._bridging
        if bridging is None:
            return
        name = bridging.proxies.home_name(command.key)
        if name.node in self._machine.tables.others:
            body = rows.EndActor(name.node, name.key, may_restart=command.may_restart)
            bridging.send(name.node, body)

    def _call_refused(self, queue: int, node: str) -> None:
        """Of a caller: its home does not know the actor any more."""
        for key, queues in list(self._queues.items()):
            if queue in queues and key not in self._moving:
                self._callers_end(key, self._lost(key, node))

    def _lost(self, key: int, node: str) -> bytes:
        callers = self._machine.tables.callers.values()
        actor_id = next((caller.actor_id for caller in callers if caller.key == key), "")
        is_drained = node in self._drained()
        return lost_actor(node, actor_id=actor_id, reason="drained" if is_drained else "node_lost")

    def _callers_end(self, key: int, record: bytes) -> None:
        if self._bridging is not None:
            for queue in self._queues[key]:
                self._bridging.actors.remove(queue, record)
        self._post(events.CallersGone(key, record))

    def _proxy_gone(self, key: int) -> None:
        self._moving.discard(key)
        queues = self._queues.get(key)
        if queues is not None:
            record = self._lost(key, "")
            self._callers_end(key, record)
            del self._queues[key]
            self._post(events.CallersGone(key, record, is_unused=True))

    # ---- of a queue
    def number_of(self, queue: int) -> int | None:
        """Which of the actor's queues this is; None: it is no such queue."""
        found = [queues.index(queue) for queues in self._queues.values() if queue in queues]
        return found[0] if found else None

    def lost_call(self, queue: int, node: str) -> bytes:
        """What a call ends with that was lent from that queue to a node that is lost."""
        found = [key for key, queues in self._queues.items() if queue in queues]
        return self._lost(found[0], node) if found else lost_actor(node)
