"""Actors, as the control store places them: which incarnation is offered to which node.

::

               1 registered                2 offered            3 accepted         4 alive
    (unknown) -------------> WAITING ----------------> OFFERED ---------> STARTING ------> ALIVE
                             ^  ^  ^                      |                  |               |
                             |  |  +------ 5 refused -----+                  |               |
                             |  +--- 6 back-off --- PAUSING <---- 7 its process or node died +
                             |                                               |               |
    restart of the store: UNKNOWN -- its node reports --> STARTING, ALIVE, WAITING           |
                                                                             |               |
                                    8 it is to be no more: ENDING -----------+---------------+
                                                             | 9 its node says it is gone,
                                                             v   or is over
                                                           DEAD (tombstone)

1. The name is taken in the same step, and is on disk before anybody hears of it (RULES K-8).
2. The offer (incarnation and place) is on disk before it leaves. So after a restart of the store
   it is known who alone can have the last incarnation, and nobody else need be waited for.
3. A node may refuse (5): that costs nothing, and the incarnation was none (A-19).
7. Restarts left: incarnation + 1, elsewhere or there; a life that a drain ended is not charged.
8. For everybody else the actor is DEAD from here on. Its name is free after 9 only.

An incarnation is offered to one node at a time. It is offered to another one only after the first
refused it, said that it is gone, is over, or has told its whole state without it to this life of
the store, and so follows no order of a former one.

An actor that is not lasting, and that this life of the store has not seen, may be with any node:
it is placed only after every node that could have it has spoken (``UNSETTLED``). If one of those
was lost before it spoke, and the actor was asked for in a former life of the store, it may have
lived there: that counts as a life, so that what may run once does not run twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import msgspec

from shoal._base.config import LeaseTimes, Limits
from shoal._core import causes
from shoal._core.members.actor_table import (
    ALIVE,
    ENDING,
    OFFERED,
    STARTING,
    UNKNOWN,
    UNSETTLED,
    ActorTable,
    PlacedActor,
    decode_record,
    is_lasting,
)
from shoal._core.members.nodes import NOBODY, NodeTable, units
from shoal._core.members.outgoing import Outgoing
from shoal._proto import membership as m
from shoal._proto.messages import Done, Failure, InGroup
from shoal._proto.views import NodeRow

ChooseActor = Callable[[m.RegisterActor, Mapping[str, NodeRow]], str]
"""The node for it among these rows; "" if there is none now."""


class Scene(msgspec.Struct, frozen=True):
    """What a reaction may look at and say, beside its own tables."""

    now: float
    nodes: NodeTable
    out: Outgoing
    is_settled: bool
    """Every node that could hold something has said what it holds."""
    bundle_nodes: Callable[[str, int], list[str] | None]
    """Who has that bundle (-1: any) of a group; None if the group is gone."""


class ActorPlaces:
    """Decides about the actors of a cluster."""

    def __init__(self, times: LeaseTimes, limits: Limits, choose: ChooseActor) -> None:
        self._times = times
        self._limits = limits
        self._choose = choose
        self.table = ActorTable(limits)
        self._strays: dict[tuple[str, int], tuple[str, int]] = {}
        """(actor, incarnation) that nobody should have -> node, order to end it."""
        self._name_waiters: dict[tuple[str, str], list[m.Ask]] = {}
        self._is_one_lost = False
        """A node was lost before it had told this life of the store what it has."""

    # ---- asks
    def register(self, ask: m.Ask, spec: m.RegisterActor, scene: Scene) -> m.ToldBody | None:
        """Edge 1; None: it is answered later."""
        table = self.table
        if (known := table.find(spec.actor_id)) is not None:
            if (living := table.actors.get(spec.actor_id)) is not None:
                if living.creator == NOBODY:
                    living.creator = (ask.node, ask.epoch)
                table.watch(living, ask.node, scene.nodes)
            else:
                table.claim(spec.actor_id, (ask.node, ask.epoch))
                scene.out.news(ask.node, known)
            return known
        if spec.root and scene.nodes.is_over(spec.root, spec.root_epoch):
            return Failure(causes.job_ended(0, "the node of its driver is gone"))
        place = (spec.namespace, spec.name)
        if spec.name and place in table.by_name:
            holder = table.actors[table.by_name[place]]
            if holder.cause is not None:
                self._name_waiters.setdefault(place, []).append(ask)
                return None
            if spec.get_if_exists:
                return holder.facts(created=False)
            return Failure(causes.name_taken(spec.name, spec.namespace))
        actor = table.add(spec, (ask.node, ask.epoch))
        actor.is_new = ask.first_store == ask.store
        table.watch(actor, ask.node, scene.nodes)
        if is_lasting(spec) or scene.is_settled:
            table.wait(actor)
            table.keep(actor, scene.out)
        return actor.facts()

    def look_up(self, ask: m.Ask, body: m.FindActor, scene: Scene) -> m.ToldBody | None:
        """Who has that name or id, and each change from now on."""
        table = self.table
        actor_id = body.actor_id or table.by_name.get((body.namespace, body.name), "")
        actor = table.actors.get(actor_id)
        if actor is not None and (actor.cause is None or body.actor_id):
            table.watch(actor, ask.node, scene.nodes)
            return actor.facts()
        if (buried := table.tombstones.get(body.actor_id)) is not None:
            return buried
        if body.actor_id and not scene.is_settled:
            scene.out.again.append(ask)
            return None
        return Failure(causes.actor_not_found(body.name, body.namespace, body.actor_id))

    def kill(self, ask: m.Ask, body: m.KillActor, scene: Scene) -> m.ToldBody | None:
        """Edge 8, or a crash on purpose."""
        actor = self.table.actors.get(body.actor_id)
        if actor is None or actor.phase == UNSETTLED:
            if scene.is_settled or body.actor_id in self.table.tombstones:
                return Done()
            scene.out.again.append(ask)
            return None
        if body.incarnation not in (-1, actor.incarnation) or actor.cause is not None:
            return Done()
        if body.no_restart:
            self.end(actor, body.cause or _cause(actor, "killed"), scene)
        elif actor.phase in (STARTING, ALIVE) and not actor.order:
            crash = m.EndActor(body.actor_id, actor.incarnation, "crashed", body.cause)
            actor.order = scene.out.order(actor.node, crash)
        return Done()

    def took(self, node: str, facts: m.ActorFacts, scene: Scene) -> None:
        """A node has heard this news."""
        if facts.state == "PENDING":
            return
        actor = self.table.actors.get(facts.actor_id)
        if actor is not None and actor.creator[0] == node:
            actor.is_known = True
        if facts.actor_id in self.table.graves_of(node):
            self.table.level(facts.actor_id, scene.out)

    # ---- facts
    def answered(self, node: str, fact: m.OfferAnswered, scene: Scene) -> None:
        """Edges 3 and 5."""
        actor = self.table.actors.get(fact.actor_id)
        if actor is None or actor.order != fact.order or actor.phase != OFFERED:
            return
        actor.order = 0
        if fact.is_accepted:
            actor.phase = STARTING
            self._tell_watchers(actor, scene)
            return
        actor.avoid[node] = scene.now + self._times.place_retry_most_s
        self._never_ran(actor)
        self.table.pause(actor, scene.now + self._times.place_retry_s)
        self.table.keep(actor, scene.out)

    def alive(self, node: str, fact: m.ActorAlive, scene: Scene) -> None:
        """Edge 4."""
        actor = self.table.at(node, fact.actor_id, fact.incarnation)
        if actor is not None and actor.phase == STARTING:
            actor.phase, actor.since = ALIVE, scene.now
            self._tell_watchers(actor, scene)

    def gone(self, node: str, fact: m.ActorGone, scene: Scene) -> None:
        """Edges 7 and 9: there is no process of that incarnation."""
        stray = self._strays.pop((fact.actor_id, fact.incarnation), None)
        if stray is not None:
            scene.out.settle(*stray)
        actor = self.table.at(node, fact.actor_id, fact.incarnation)
        if actor is None:
            if not scene.is_settled and fact.how not in ("refused", "unknown"):
                self._gone_before(fact, scene)
            return
        scene.out.settle(node, actor.order)
        actor.order = 0
        self.table.unplace(actor)
        if actor.cause is not None:
            self._bury(actor, scene)
        elif fact.how in ("final", "killed"):
            self.end(actor, fact.cause or _cause(actor, "killed"), scene)
        elif fact.how == "refused":
            actor.incarnation -= 1
            self.table.pause(actor, scene.now + self._times.place_retry_s)
            self.table.keep(actor, scene.out)
        elif fact.how == "drained" and actor.spec.max_restarts:
            self.table.wait(actor)
            self.table.keep(actor, scene.out)
            self._tell_watchers(actor, scene)
        else:
            self._restart(actor, fact.cause, scene, pauses=fact.how == "crashed")

    def _gone_before(self, fact: m.ActorGone, scene: Scene) -> None:
        """Its end was not heard by the former life of the store, nor that there was one."""
        actor = self.table.actors.get(fact.actor_id)
        if actor is None and fact.actor_id not in self.table.tombstones:
            self.table.dig(fact.actor_id, fact.incarnation, scene.out)
        elif actor is not None and actor.phase == UNSETTLED:
            actor.incarnation = fact.incarnation
            self.end(actor, fact.cause or _cause(actor, "crashed"), scene)

    # ---- nodes
    def node_lost(self, node: str, epoch: int, scene: Scene) -> None:
        """It is over: nothing of it acts any more."""
        table = self.table
        lost = scene.nodes.nodes[node]
        if not scene.is_settled and not lost.is_reported and lost.record.role == m.ROLE_NODE:
            self._is_one_lost = True
        for actor_id in table.watched_by.pop(node, ()):
            table.actors[actor_id].watchers.pop(node, None)
        for actor_id in table.graves_of(node):
            table.level(actor_id, scene.out)
        for actor_id in list(table.on_node.get(node, ())):
            actor = table.actors[actor_id]
            actor.order = 0
            table.unplace(actor)
            if actor.cause is not None:
                self._bury(actor, scene)
            else:
                self._restart(actor, _cause(actor, "node_lost"), scene, pauses=False)
        for key in [key for key, (where, _) in self._strays.items() if where == node]:
            del self._strays[key]
        for actor_id in list(table.of_root.pop((node, epoch), ())):
            if (owned := table.actors.get(actor_id)) is not None and owned.cause is None:
                self.end(owned, causes.job_ended(0, "the node of its driver is gone"), scene)

    def reported(self, node: str, epoch: int, whole: m.Whole, scene: Scene) -> None:
        """What a node has, told to this life of the store for the first time."""
        table = self.table
        for end in whole.gone:
            self.gone(node, end, scene)
        here = {actor.spec.actor_id: actor for actor in whole.actors}
        for actor_id in list(table.on_node.get(node, ())):
            actor = table.actors[actor_id]
            assert actor.phase in (UNKNOWN, ENDING)
            if actor_id not in here or here[actor_id].incarnation != actor.incarnation:
                scene.out.settle(node, actor.order)
                actor.order = 0
                self._never_ran(actor)
                if actor.cause is not None:
                    self._bury(actor, scene)
                else:
                    table.wait(actor)
                    table.keep(actor, scene.out)
        for found in whole.actors:
            self._found(node, epoch, found, scene)
        claimed = set(whole.watched)
        for actor_id in whole.watched:
            if (watched := table.actors.get(actor_id)) is not None:
                table.watch(watched, node, scene.nodes)
                scene.out.news(node, watched.facts())
            elif actor_id in table.tombstones:
                scene.out.news(node, table.tombstones[actor_id])
        for actor_id in table.graves_of(node):
            if actor_id not in claimed:
                table.level(actor_id, scene.out)
        for actor in table.actors.values():
            if actor.creator[0] == node and actor.spec.actor_id not in claimed:
                actor.is_known = True

    def _found(self, node: str, epoch: int, found: m.ActorHere, scene: Scene) -> None:
        """A node has it: adopt it, or have it ended (RULES K-6)."""
        spec, table = found.spec, self.table
        actor = table.actors.get(spec.actor_id)
        if actor is None and not is_lasting(spec) and spec.actor_id not in table.tombstones:
            actor = table.add(spec, NOBODY)
        if actor is None or (actor.phase != UNSETTLED and actor.node != node):
            body = m.EndActor(spec.actor_id, found.incarnation, "killed")
            key = (spec.actor_id, found.incarnation)
            self._strays[key] = (node, scene.out.order(node, body))
            return
        if actor.phase == UNSETTLED:
            actor.incarnation, actor.restarts = found.incarnation, found.restarts
            table.place(actor, node, epoch, UNKNOWN)
        assert actor.incarnation == found.incarnation
        if actor.cause is None:
            actor.phase = ALIVE if found.is_alive else STARTING
            actor.since = scene.now
            if spec.root and scene.nodes.is_over(spec.root, spec.root_epoch):
                self.end(actor, causes.job_ended(0, "the node of its driver is gone"), scene)
            else:
                self._tell_watchers(actor, scene)

    def settled(self, scene: Scene) -> None:
        """Whoever is not known by now is nowhere; what nobody has asked for nobody will."""
        for actor_id in self.table.graves_of(NOBODY[0]):
            self.table.level(actor_id, scene.out)
        for actor in list(self.table.actors.values()):
            if actor.phase != UNSETTLED:
                continue
            if self._is_one_lost and not actor.is_new:
                actor.incarnation = 1
                self._restart(actor, _cause(actor, "node_lost"), scene, pauses=False)
            else:
                self.table.wait(actor)

    # ---- placing
    def place(self, scene: Scene) -> None:
        """Offer whom there is room for. Of those that ask for the same, the first that finds none
        speaks for the others."""
        table = self.table
        for actor_id in table.pauses.due(scene.now):
            table.wait(table.actors[actor_id])
        if not table.waiting:
            return
        rooms = scene.nodes.rooms()
        hopeless: set[object] = set()
        for actor_id in list(table.waiting):
            actor = table.actors[actor_id]
            spec = actor.spec
            crowd = (tuple(spec.place.items()), tuple(spec.hold.items()), spec.strategy)
            if crowd in hopeless:
                continue
            allowed = self._allowed(actor, rooms, scene)
            if allowed is None:
                record = causes.group_removed(_group_of(spec), "", "it was removed")
                self.end(actor, record, scene)
                continue
            node = self._choose(spec, allowed) if allowed else ""
            if node:
                self._offer(actor, node, scene)
                rooms[node] = scene.nodes.nodes[node].room()
            elif actor.avoid:
                table.pause(actor, min(actor.avoid.values()))
            else:
                hopeless.add(crowd)

    def _allowed(
        self, actor: PlacedActor, rooms: Mapping[str, NodeRow], scene: Scene
    ) -> Mapping[str, NodeRow] | None:
        strategy = actor.spec.strategy
        if isinstance(strategy, InGroup):
            nodes = scene.bundle_nodes(strategy.group_id, strategy.bundle)
            if nodes is None:
                return None
            rooms = {node: rooms[node] for node in nodes if node in rooms}
        if actor.avoid:
            actor.avoid = {node: at for node, at in actor.avoid.items() if at > scene.now}
            rooms = {node: row for node, row in rooms.items() if node not in actor.avoid}
        return rooms

    def _offer(self, actor: PlacedActor, node: str, scene: Scene) -> None:
        """Edge 2."""
        spec = actor.spec
        actor.incarnation += 1
        self.table.place(actor, node, scene.nodes.nodes[node].record.epoch, OFFERED)
        body = m.OfferActor(spec, actor.incarnation, actor.restarts, _group_of(spec))
        is_inside = isinstance(spec.strategy, InGroup)
        actor.order = scene.out.order(node, body, {} if is_inside else units(spec.hold))
        self.table.keep(actor, scene.out)

    # ---- ends
    def end(self, actor: PlacedActor, cause: bytes, scene: Scene) -> None:
        """Edge 8."""
        assert actor.cause is None
        actor.cause = cause
        scene.out.settle(actor.node, actor.order)
        actor.order = 0
        if not actor.node:
            self._bury(actor, scene)
            return
        actor.phase = ENDING
        body = m.EndActor(actor.spec.actor_id, actor.incarnation, "killed", cause)
        actor.order = scene.out.order(actor.node, body)
        self.table.keep(actor, scene.out)
        self._tell_watchers(actor, scene)

    def _restart(self, actor: PlacedActor, cause: bytes, scene: Scene, pauses: bool) -> None:
        """Edge 7: a life was lost."""
        spec = actor.spec
        if spec.max_restarts >= 0 and actor.restarts >= spec.max_restarts:
            self.end(actor, cause or _cause(actor, "crashed"), scene)
            return
        actor.restarts += 1
        if pauses:
            limits = self._limits
            if scene.now - actor.since >= limits.restart_quiet_s:
                actor.crashes = 0
            pause_s = limits.restart_backoff_s * 2 ** min(actor.crashes, 16)
            actor.crashes += 1
            self.table.pause(actor, scene.now + min(pause_s, limits.restart_backoff_most_s))
        else:
            self.table.wait(actor)
        self.table.keep(actor, scene.out)
        self._tell_watchers(actor, scene)

    def _never_ran(self, actor: PlacedActor) -> None:
        self.table.unplace(actor)
        actor.incarnation -= 1

    def _bury(self, actor: PlacedActor, scene: Scene) -> None:
        """Edge 9: the name is free."""
        self._tell_watchers(actor, scene)
        if self.table.bury(actor, scene.nodes, scene.out, scene.is_settled):
            place = (actor.spec.namespace, actor.spec.name)
            scene.out.again += self._name_waiters.pop(place, [])

    def _tell_watchers(self, actor: PlacedActor, scene: Scene) -> None:
        for node in actor.watchers:
            scene.out.news(node, actor.facts())

    # ---- the disk
    def restore(self, rows: Iterable[bytes], scene: Scene) -> None:
        """Become what was on disk, after the nodes have; what was decided before goes on."""
        for data in rows:
            record, nodes = decode_record(data), scene.nodes
            actor = self.table.restore(record, scene.out)
            spec = record.spec
            if actor is None:
                if record.creator != NOBODY and nodes.is_over(*record.creator):
                    self.table.level(spec.actor_id, scene.out)
                continue
            if actor.node and nodes.is_over(actor.node, actor.epoch):
                self.table.unplace(actor)
                if actor.cause is not None:
                    self._bury(actor, scene)
                    continue
                self._restart(actor, _cause(actor, "node_lost"), scene, pauses=False)
            if actor.cause is not None:
                if actor.node and not actor.order:
                    body = m.EndActor(spec.actor_id, actor.incarnation, "killed", actor.cause)
                    actor.order = scene.out.order(actor.node, body)
            elif spec.root and nodes.is_over(spec.root, spec.root_epoch):
                self.end(actor, causes.job_ended(0, "the node of its driver is gone"), scene)

    def validate(self) -> None:
        """Assert the invariants."""
        self.table.validate()


def _group_of(spec: m.RegisterActor) -> str:
    return spec.strategy.group_id if isinstance(spec.strategy, InGroup) else ""


def _cause(actor: PlacedActor, reason: str) -> bytes:
    spec = actor.spec
    named = {"actor_id": spec.actor_id, "name": spec.name, "incarnation": actor.incarnation}
    return causes.actor_died(named, reason)
