"""The table of actors of the control store, and its indexes: who waits, who is where, on disk.

Nothing here decides (``placing_actors`` does); a change of an actor's place or phase goes through
here, so that every index agrees with it.

* On disk is every lasting actor (named, detached or restartable), whoever is ENDING (what was
  decided and not yet done must not be forgotten), and *graves*: whoever is DEAD while the node that
  asked for it may not have heard that it ever was. That node would ask again after a restart of the
  store, and the actor would have another first life.
* Others are told again by the nodes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

import msgspec

from shoal._base.config import Limits
from shoal._core.deadlines import Deadlines
from shoal._core.members.nodes import NOBODY, Creator, NodeTable
from shoal._core.members.outgoing import Outgoing
from shoal._proto import membership as m

ACTORS = "members.actors"
UNSETTLED, UNKNOWN, WAITING, PAUSING = "unsettled", "unknown", "waiting", "pausing"
OFFERED, STARTING, ALIVE, ENDING = "offered", "starting", "alive", "ending"
PLACED = (UNKNOWN, OFFERED, STARTING, ALIVE, ENDING)

_encode = msgspec.msgpack.encode


class ActorRecord(msgspec.Struct, frozen=True, array_like=True):
    """What is on disk of an actor."""

    spec: m.RegisterActor
    incarnation: int
    restarts: int
    node: str
    epoch: int
    cause: bytes | None
    """Why it is to be no more; with no node it is a grave."""
    creator: Creator = NOBODY


decode_record = msgspec.msgpack.Decoder(ActorRecord).decode


def is_lasting(spec: m.RegisterActor) -> bool:
    """Whether the store must know of it after a restart, whatever nodes say."""
    return bool(spec.name or spec.detached or spec.max_restarts)


class PlacedActor:
    """One actor in all its lives."""

    __slots__ = (
        "avoid",
        "cause",
        "crashes",
        "creator",
        "epoch",
        "incarnation",
        "is_known",
        "is_new",
        "node",
        "order",
        "phase",
        "restarts",
        "since",
        "spec",
        "watchers",
    )

    def __init__(self, spec: m.RegisterActor, phase: str) -> None:
        self.spec = spec
        self.phase = phase
        self.incarnation = 0
        self.restarts = 0
        self.node = ""
        """Who alone can have its last incarnation; "": nobody has it."""
        self.epoch = 0
        self.cause: bytes | None = None
        self.order = 0
        """The offer, or the order to end, that is not answered."""
        self.crashes = 0
        self.since = 0.0
        self.avoid: dict[str, float] = {}
        """Nodes that have refused it -> until when they are not asked again."""
        self.watchers: dict[str, None] = {}
        self.creator = NOBODY
        self.is_new = False
        """No former life of the store was asked for it."""
        self.is_known = False
        """The creator has heard that it is more than asked for."""

    @property
    def state(self) -> str:
        """The state as people know it."""
        if self.cause is not None:
            return "DEAD"
        if self.phase == ALIVE:
            return "ALIVE"
        return "RESTARTING" if self.restarts else "PENDING"

    def facts(self, created: bool = True) -> m.ActorFacts:
        """What others are told."""
        return m.ActorFacts(
            actor_id=self.spec.actor_id,
            state=self.state,
            incarnation=self.incarnation,
            restarts=self.restarts,
            node=self.node,
            epoch=self.epoch,
            name=self.spec.name,
            namespace=self.spec.namespace,
            cause=self.cause or b"",
            record=self.spec.record,
            created=created,
        )

    def record(self) -> ActorRecord:
        """What is on disk of it."""
        return ActorRecord(
            self.spec,
            self.incarnation,
            self.restarts,
            self.node,
            self.epoch,
            self.cause,
            self.creator,
        )


class ActorTable:
    """All actors of a cluster."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.actors: dict[str, PlacedActor] = {}
        self.tombstones: OrderedDict[str, m.ActorFacts] = OrderedDict()
        self.by_name: dict[tuple[str, str], str] = {}
        self.on_node: dict[str, dict[str, None]] = {}
        self.of_root: dict[tuple[str, int], dict[str, None]] = {}
        self.watched_by: dict[str, dict[str, None]] = {}
        self.waiting: dict[str, None] = {}
        self.pauses: Deadlines[str] = Deadlines()
        self._kept: set[str] = set()
        """Living ones that are on disk."""
        self._graves: dict[str, ActorRecord] = {}

    def find(self, actor_id: str) -> m.ActorFacts | None:
        """What is known of it."""
        actor = self.actors.get(actor_id)
        return actor.facts() if actor is not None else self.tombstones.get(actor_id)

    def at(self, node: str, actor_id: str, incarnation: int) -> PlacedActor | None:
        """The actor, if that node alone can have that incarnation, which is its last."""
        actor = self.actors.get(actor_id)
        if actor is None or actor.node != node or actor.incarnation != incarnation:
            return None
        return actor

    def add(self, spec: m.RegisterActor, creator: Creator) -> PlacedActor:
        """It is asked for, or has been found."""
        actor = self.actors[spec.actor_id] = PlacedActor(spec, UNSETTLED)
        actor.creator = creator
        if spec.name:
            self.by_name[spec.namespace, spec.name] = spec.actor_id
        if spec.root:
            roots = self.of_root.setdefault((spec.root, spec.root_epoch), {})
            roots[spec.actor_id] = None
        return actor

    def wait(self, actor: PlacedActor) -> None:
        """It is to have a place as soon as there is one."""
        actor.phase = WAITING
        self.waiting[actor.spec.actor_id] = None

    def pause(self, actor: PlacedActor, until: float) -> None:
        """The same, but not before."""
        self.waiting.pop(actor.spec.actor_id, None)
        actor.phase = PAUSING
        self.pauses.set(actor.spec.actor_id, until)

    def place(self, actor: PlacedActor, node: str, epoch: int, phase: str) -> None:
        """From now on only that node can have it."""
        actor.node, actor.epoch, actor.phase = node, epoch, phase
        self.waiting.pop(actor.spec.actor_id, None)
        self.pauses.set(actor.spec.actor_id, None)
        self.on_node.setdefault(node, {})[actor.spec.actor_id] = None

    def unplace(self, actor: PlacedActor) -> None:
        """Nobody has its last incarnation any more; a phase without a node follows."""
        self.on_node[actor.node].pop(actor.spec.actor_id)
        actor.node, actor.epoch = "", 0

    def watch(self, actor: PlacedActor, node: str, nodes: NodeTable) -> None:
        """The node is told each change from now on."""
        found = nodes.nodes.get(node)
        if found is not None and found.is_living:
            actor.watchers[node] = None
            self.watched_by.setdefault(node, {})[actor.spec.actor_id] = None

    def keep(self, actor: PlacedActor, out: Outgoing) -> None:
        """It has changed: on disk too, if it is to be there."""
        if is_lasting(actor.spec) or actor.phase == ENDING:
            self._kept.add(actor.spec.actor_id)
            out.keep(ACTORS, actor.spec.actor_id, _encode(actor.record()))

    def bury(self, actor: PlacedActor, nodes: NodeTable, out: Outgoing, is_settled: bool) -> bool:
        """A tombstone is left; whether its name is free now that was not."""
        spec = actor.spec
        assert actor.cause is not None and not actor.node
        del self.actors[spec.actor_id]
        self.waiting.pop(spec.actor_id, None)
        self.pauses.set(spec.actor_id, None)
        if spec.root:
            self.of_root.get((spec.root, spec.root_epoch), {}).pop(spec.actor_id, None)
        for node in actor.watchers:
            self.watched_by.get(node, {}).pop(spec.actor_id, None)
        was_kept = spec.actor_id in self._kept
        self._kept.discard(spec.actor_id)
        is_claimed = actor.creator != NOBODY or is_settled
        if not actor.is_known and not (is_claimed and nodes.is_over(*actor.creator)):
            grave = self._graves[spec.actor_id] = actor.record()
            out.keep(ACTORS, spec.actor_id, _encode(grave))
        elif was_kept:
            out.erase(ACTORS, spec.actor_id)
        self.remember(actor.facts(), out)
        place = (spec.namespace, spec.name)
        return bool(spec.name) and self.by_name.pop(place, "") == spec.actor_id

    def remember(self, facts: m.ActorFacts, out: Outgoing) -> None:
        """A tombstone."""
        self.tombstones[facts.actor_id] = facts
        while len(self.tombstones) > self._limits.tombstones_most:
            oldest, _ = self.tombstones.popitem(last=False)
            self.level(oldest, out)

    def level(self, actor_id: str, out: Outgoing) -> None:
        """Whoever asked for it knows, or is gone: it need not be on disk any more."""
        if self._graves.pop(actor_id, None) is not None:
            out.erase(ACTORS, actor_id)

    def dig(self, actor_id: str, incarnation: int, out: Outgoing) -> None:
        """A node says that it has ended, and nobody here knows it: whoever asked for it may speak
        later, and must not get another one."""
        dead = PlacedActor(m.RegisterActor(actor_id), ENDING)
        dead.incarnation, dead.cause = incarnation, b""
        grave = self._graves[actor_id] = dead.record()
        out.keep(ACTORS, actor_id, _encode(grave))
        self.remember(dead.facts(), out)

    def claim(self, actor_id: str, creator: Creator) -> None:
        """A node asks for what is dead: it has to hear that before it is forgotten."""
        if (grave := self._graves.get(actor_id)) is not None and grave.creator == NOBODY:
            self._graves[actor_id] = msgspec.structs.replace(grave, creator=creator)

    def graves_of(self, node: str) -> list[str]:
        """Those that a node may not have heard of."""
        return [name for name, grave in self._graves.items() if grave.creator[0] == node]

    def restore(self, record: ActorRecord, out: Outgoing) -> PlacedActor | None:
        """It was on disk; None for a grave."""
        if record.cause is not None and not record.node:
            self._graves[record.spec.actor_id] = record
            dead = PlacedActor(record.spec, ENDING)
            dead.cause, dead.incarnation = record.cause, record.incarnation
            dead.restarts = record.restarts
            self.remember(dead.facts(), out)
            return None
        actor = self.add(record.spec, record.creator)
        actor.incarnation, actor.restarts = record.incarnation, record.restarts
        actor.cause = record.cause
        self._kept.add(record.spec.actor_id)
        if record.node:
            phase = UNKNOWN if actor.cause is None else ENDING
            self.place(actor, record.node, record.epoch, phase)
        else:
            self.wait(actor)
        return actor

    def contents(self) -> Iterator[tuple[tuple[str, bytes], bytes]]:
        """All of it that is lasting."""
        for actor_id in self._kept:
            yield (ACTORS, actor_id.encode()), _encode(self.actors[actor_id].record())
        for actor_id, grave in self._graves.items():
            yield (ACTORS, actor_id.encode()), _encode(grave)

    def validate(self) -> None:
        """Assert that every index agrees."""
        for actor_id, actor in self.actors.items():
            spec = actor.spec
            assert spec.actor_id == actor_id and actor_id not in self.tombstones
            assert bool(actor.node) == (actor.phase in PLACED), (actor_id, actor.phase)
            assert (actor_id in self.waiting) == (actor.phase == WAITING)
            assert actor.phase != ENDING or actor_id in self._kept
            assert (actor.cause is not None) == (actor.phase == ENDING)
            assert actor.phase != OFFERED or actor.order
            assert not actor.node or actor_id in self.on_node[actor.node]
            assert not is_lasting(spec) or actor_id in self._kept
            if spec.name:
                assert self.by_name[spec.namespace, spec.name] == actor_id
        assert all(actor_id in self.actors for actor_id in self.by_name.values())
        for node, actors in self.on_node.items():
            assert all(self.actors[actor_id].node == node for actor_id in actors)
        assert self._kept <= set(self.actors)
        assert set(self._graves) <= set(self.tombstones)
        self.pauses.validate()
