"""The home of an actor moves to another node, because its own is being drained: what the daemons of
both, and of those who call the actor, do for that.

``_core.reactions_homes`` says who moves, and what that means for the actor. Its calls stay in
order, since who calls waits until all that it had sent has come back::

    former home                           who calls it          next home
    HomeLeaves to the machine
    HomeMoves ------------------------->  calls wait in their queue
    its process ends; calls that are here go back, and later ones are refused
    GiveActor ----------------------------------------------->  class, arguments: twins of them
                                                                ActorGiven to the machine
    ActorTaken <----------------------------------------------  the next lifetime object
    HomeMoves(lifetime) --------------->  a *successor* of the former one: calls go there
    its own calls go there too

1. A successor is held by whoever has a handle with the former lifetime object, for as long: so the
   actor ends with its last handle, whichever lifetime object that has.
2. The former home answers nobody who calls in vain before he has been told where to.
3. An actor that is not taken stays stopped, and is given away again, until the node leaves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from shoal._base import clock
from shoal._core import commands, events, guests
from shoal._core.actors import GONE, Abroad, Actor
from shoal._core.node import NodeMachine
from shoal._core.reactions_homes import is_stopped, leaving
from shoal._native import ObjectRef
from shoal._proto import bridge as rows
from shoal._proto.holds import Name
from shoal._runtime.bridge.around import HomeRow
from shoal._runtime.bridge.bridging import Bridging
from shoal._runtime.daemon_actors_abroad import ActorsAbroad
from shoal._runtime.daemon_cluster import ClusterNode
from shoal._runtime.daemon_loop import Loop

AGAIN_S = 0.5
"""Until one that was not taken is given away again."""
LOOK_S = 0.02
"""How often it is looked whether everything is there for one that comes."""


class Homes:
    """Actors whose home this node was, or is to be, or that it calls."""

    def __init__(
        self,
        loop: Loop,
        machine: NodeMachine,
        cluster: ClusterNode,
        actors: ActorsAbroad,
        post: Callable[[events.AnyEvent], None],
    ) -> None:
        self._loop = loop
        self._machine = machine
        self._cluster = cluster
        self._actors = actors
        self._post = post
        self._me = machine.tables.config.node_id.hex()
        self.bridging: Bridging | None = None
        self._told: dict[tuple[int, bool], set[str]] = {}
        """By lifetime object, and whether that was its next home: who has heard it."""
        self._ending: set[str] = set()
        """Actors on other nodes that were told to end for it."""
        self._given: dict[int, tuple[str, float]] = {}
        """By lifetime object: to whom, or until when nobody is asked."""
        actors.ended = self._ended
        actors.called_in_vain = self._tell

    # ---- the former home
    def perform_give_away(self, command: commands.GiveAway) -> None:
        """Until it is another node's, or has ended."""
        actor = self._machine.tables.actors.living.get(command.actor_id)
        if actor is None or actor.moves == GONE:
            self._post(events.GivenAway(command.ticket))
            return
        if self.bridging is not None:
            self._go_on(self.bridging, actor)
        self._loop.call_later(LOOK_S, lambda: self.perform_give_away(command))

    def look(self) -> None:
        """This node is being drained: go on with all that are to have another home."""
        if self.bridging is None:
            return
        for actor in leaving(self._machine.tables):
            if not actor.moves:
                self._post(events.HomeLeaves(actor.actor_id))
            if actor.moves:
                self._go_on(self.bridging, actor)
        for actor in self._machine.tables.actors.living.values():
            if actor.moves == GONE:
                self._tell(actor)

    def _go_on(self, bridging: Bridging, actor: Actor) -> None:
        key = actor.spec.arguments
        self._tell(actor)
        if isinstance(actor.phase, Abroad):
            self._stop_abroad(bridging, actor)
            return
        if not is_stopped(actor):
            return
        for queue in actor.queues:
            bridging.actors.bring_home(queue)  # what another node has given back
        node, until = self._given.get(key, ("", 0.0))
        is_empty = not bridging.visiting.give_back_calls(self._me, key)
        if is_empty and not node and clock.now() >= until:
            self._give(bridging, actor)

    def _stop_abroad(self, bridging: Bridging, actor: Actor) -> None:
        for queue in actor.queues:
            bridging.actors.move(queue, "")
        is_quiet = all(bridging.actors.is_unlent(queue) for queue in actor.queues)
        if is_quiet and actor.actor_id not in self._ending:
            self._ending.add(actor.actor_id)
            body = rows.EndActor(self._me, actor.spec.arguments, is_moving=True)
            bridging.send(actor.host, body)

    def _give(self, bridging: Bridging, actor: Actor) -> None:
        tables, proxies = self._machine.tables, bridging.proxies
        job = tables.jobs.running[actor.job]
        node, number = job.home or (self._cluster.rows.head_node(), 0)
        if not bridging.has_joined(node):
            return
        key = actor.spec.arguments
        body = rows.GiveActor(
            actor_id=actor.actor_id,
            job=number,
            root=job.root_actor or "",
            place=guests.describe_job(tables, actor.job, actor.env),
            spec=msgspec.structs.replace(actor.spec, function=0, arguments=0),
            namespace=actor.namespace,
            incarnation=actor.incarnation,
            restarts=actor.restarts,
            function=proxies.name_of(actor.spec.function),
            lifetime=Name(*proxies.me, key),
            checkpoint=proxies.name_of(actor.checkpoint) if actor.checkpoint else None,
        )
        self._given[key] = (node, 0.0)
        proxies.send(node, body, rows.names_in(body))

    def _taken(self, node: str, body: rows.ActorTaken, refs: list[ObjectRef[Any]]) -> None:
        key, bridging = body.former.key, self.bridging
        if bridging is None or self._given.get(key, ("", 0.0))[0] != node:
            return
        if not refs:
            self._given[key] = ("", clock.now() + AGAIN_S)
            return
        actor = self._machine.tables.actors.by_key.get(key)
        if actor is None or actor.is_dead:  # somebody has ended it meanwhile
            name = bridging.proxies.name_of(refs[0].key)
            bridging.send(node, rows.EndActor(node, name.key))
            return
        bridging.proxies.successors[key] = refs[0]
        self._post(events.HomeFound(actor.actor_id, node))
        for queue in actor.queues:
            bridging.actors.move(queue, node)
        self._told.setdefault((key, True), set()).add(node)
        self._tell(actor)

    def _tell(self, actor: Actor) -> None:
        """All that have handles: that they are to wait, or where to call from now on."""
        bridging, key = self.bridging, actor.spec.arguments
        if bridging is None:
            return
        told = self._told.setdefault((key, actor.moves == GONE), set())
        for node in bridging.proxies.refs.owned.holders(key):
            if node in told or not bridging.has_joined(node):
                continue
            told.add(node)
            lifetime = bridging.proxies.name_of(key) if actor.moves == GONE else None
            body = rows.HomeMoves(Name(*bridging.proxies.me, key), lifetime)
            bridging.proxies.send(node, body, rows.names_in(body))

    def _ended(self, key: int) -> None:
        if self.bridging is not None:
            self.bridging.proxies.successors.pop(key, None)

    # ---- rows
    def came(self, node: str, body: HomeRow, refs: list[ObjectRef[Any]]) -> None:
        """What another node says of an actor whose home moves."""
        match body:
            case rows.GiveActor():
                self._comes(node, body, refs)
            case rows.ActorTaken():
                self._taken(node, body, refs)
            case rows.HomeMoves():
                self._moved(body, refs)

    def _moved(self, body: rows.HomeMoves, refs: list[ObjectRef[Any]]) -> None:
        bridging = self.bridging
        key = None if bridging is None else bridging.proxies.key_of(body.former)
        if bridging is None or key is None:
            return
        node = ""
        if refs:
            bridging.proxies.successors[key] = refs[0]
            node = bridging.proxies.home_name(key).node
        self._actors.callers.moves(key, node)

    # ---- nodes
    def node_lost(self, node: str) -> None:
        """What was given to it, and not taken, is given to another one."""
        for key, (to, _) in list(self._given.items()):
            if to == node:
                del self._given[key]

    def end(self) -> None:
        """The epoch of this node is over."""
        self.bridging = None
        self._told.clear()
        self._given.clear()
        self._ending.clear()

    # ---- the next home
    def _comes(self, node: str, body: rows.GiveActor, refs: list[ObjectRef[Any]]) -> None:
        """Have all that it is made from here first."""
        bridging, former = self.bridging, refs[1]
        assert bridging is not None
        self._actors.twins.bring(
            bridging,
            refs,
            lambda twins: self._look(bridging, node, body, former, twins),
            lambda: self.bridging is bridging and bridging.has_joined(node),
        )

    def _look(
        self,
        bridging: Bridging,
        node: str,
        body: rows.GiveActor,
        former: ObjectRef[Any],
        twins: list[ObjectRef[Any]],
    ) -> None:
        """Take it as soon as none of our calls is at its former home."""
        if self.bridging is not bridging or not bridging.has_joined(node):
            return
        place = (bridging, node, body, former, twins)
        queues = self._actors.callers.queues_of(former.key)
        opening = self._machine.tables.callers.get(body.actor_id)
        is_opened = opening is None or bool(queues)
        if is_opened and all(bridging.actors.is_unlent(queue) for queue in queues):
            self._take(*place)
        else:
            self._loop.call_later(LOOK_S, lambda: self._look(*place))

    def _take(
        self,
        bridging: Bridging,
        node: str,
        body: rows.GiveActor,
        former: ObjectRef[Any],
        twins: list[ObjectRef[Any]],
    ) -> None:
        function, lifetime, *kept = twins
        given = events.ActorGiven(
            node=node,
            actor_id=body.actor_id,
            job=body.job,
            root=body.root,
            place=body.place,
            spec=msgspec.structs.replace(body.spec, function=function.key, arguments=lifetime.key),
            namespace=body.namespace,
            incarnation=body.incarnation,
            restarts=body.restarts,
            checkpoint=kept[0].key if kept else 0,
        )
        self._post(given)
        is_ours = lifetime.key in self._machine.tables.actors.by_key
        if is_ours:
            bridging.proxies.successors[former.key] = lifetime
            self._actors.callers.came_home(former.key)
        next = Name(*bridging.proxies.me, lifetime.key) if is_ours else None
        answer = rows.ActorTaken(body.lifetime, next)
        bridging.proxies.send(node, answer, rows.names_in(answer))
