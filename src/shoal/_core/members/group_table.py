"""The table of placement groups of the control store, their parts, and what is on disk of them.

Nothing here decides (``groups`` does).

On disk are detached groups, those that have been resized (what their creator asked for is not what
they are), those that are being removed (what was decided and not yet done must not be forgotten),
and *graves*: removed ones whose creator may not have heard of it, and would ask
for them again after a restart of the store. Never where they are.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence

import msgspec

from shoal._base.config import Limits
from shoal._core.deadlines import Deadlines
from shoal._core.members.nodes import Creator, NodeTable
from shoal._core.members.outgoing import Outgoing
from shoal._proto import membership as m

GROUPS = "members.groups"
ASKED, PREPARED, COMMITTING, COMMITTED, RELEASING = (
    "asked",
    "prepared",
    "committing",
    "committed",
    "releasing",
)
HOLDING = (PREPARED, COMMITTING, COMMITTED)

_encode = msgspec.msgpack.encode


class GroupRecord(msgspec.Struct, frozen=True, array_like=True):
    """What is on disk of a group."""

    spec: m.GroupSpec
    is_removed: bool
    creator: Creator


decode_record = msgspec.msgpack.Decoder(GroupRecord).decode


class Part:
    """What one node has of a group under one request."""

    __slots__ = ("indexes", "node", "order", "request", "state")

    def __init__(self, node: str, request: int, indexes: list[int], state: str) -> None:
        self.node = node
        self.request = request
        self.indexes = indexes
        self.state = state
        self.order = 0
        """The order that is not answered."""

    def loses_all(self, wanted: Sequence[int]) -> bool:
        """It goes on without the bundles that were removed; whether there was no other."""
        if self.state != RELEASING:
            self.indexes = [index for index in self.indexes if index in wanted]
        return not self.indexes and self.state != RELEASING


class PlacedGroup:
    """One group."""

    __slots__ = (
        "creator",
        "had",
        "is_known",
        "is_removed",
        "is_settled",
        "parts",
        "spec",
        "told",
        "tries",
        "was_created",
        "was_there",
        "watchers",
    )

    def __init__(self, spec: m.GroupSpec, creator: Creator, is_settled: bool) -> None:
        self.spec = spec
        self.creator = creator
        self.is_settled = is_settled
        """Every node that could have a part of it has spoken."""
        self.parts: dict[tuple[str, int], Part] = {}
        """(node, request) -> part."""
        self.had: set[int] = set()
        """Bundles that have been committed."""
        self.is_removed = False
        self.is_known = False
        """The creator has heard that it is removed."""
        self.was_created = False
        """It has passed 2 with all of its bundles."""
        self.was_there = False
        """All of its bundles have been committed."""
        self.tries = 0
        self.told: m.GroupFacts | None = None
        self.watchers: dict[str, None] = {}

    def held(self, states: Sequence[str]) -> dict[int, str]:
        """Bundle -> node, of parts in one of these states."""
        return {
            index: part.node
            for part in self.parts.values()
            if part.state in states
            for index in part.indexes
        }

    @property
    def wanted(self) -> list[int]:
        """Its bundles, without those that were removed."""
        return [index for index, bundle in enumerate(self.spec.bundles) if bundle]

    @property
    def missing(self) -> list[int]:
        """Bundles that no part has or is asked for."""
        held = self.held((ASKED, *HOLDING))
        return [index for index in self.wanted if index not in held]

    @property
    def is_lasting(self) -> bool:
        """Whether it is on disk."""
        return self.spec.detached or self.is_removed or self.spec.revision > 0

    @property
    def state(self) -> str:
        """The state as people know it."""
        if self.is_removed:
            return "REMOVED"
        if len(self.held((COMMITTED,))) == len(self.wanted):
            return "CREATED"
        return "RESCHEDULING" if self.was_there else "PENDING"

    def facts(self) -> m.GroupFacts:
        """What others are told."""
        held = {} if self.is_removed else self.held((COMMITTED,))
        places = [held.get(index, "") for index in range(len(self.spec.bundles))]
        return m.GroupFacts(self.spec.group_id, self.state, places, self.spec)


class GroupTable:
    """All groups of a cluster."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.groups: dict[str, PlacedGroup] = {}
        """Also those that are being removed."""
        self.tombstones: OrderedDict[str, m.GroupFacts] = OrderedDict()
        self.by_name: dict[tuple[str, str], str] = {}
        self.waiting: dict[str, None] = {}
        """Those that need places."""
        self.pauses: Deadlines[str] = Deadlines()
        """And those that will."""
        self.on_node: dict[str, dict[str, None]] = {}
        self._graves: dict[str, GroupRecord] = {}
        self._kept: set[str] = set()

    def add(self, spec: m.GroupSpec, creator: Creator, is_settled: bool) -> PlacedGroup:
        """It is asked for, or has been found."""
        group = self.groups[spec.group_id] = PlacedGroup(spec, creator, is_settled)
        if spec.name:
            self.by_name[spec.namespace, spec.name] = spec.group_id
        if is_settled:
            self.waiting[spec.group_id] = None
        return group

    def put(self, group: PlacedGroup, part: Part) -> Part:
        """A node has it, or is asked for it."""
        group.parts[part.node, part.request] = part
        self.on_node.setdefault(part.node, {})[group.spec.group_id] = None
        return part

    def drop(self, group: PlacedGroup, part: Part) -> None:
        """The node does not have it."""
        del group.parts[part.node, part.request]
        if all(other.node != part.node for other in group.parts.values()):
            self.on_node[part.node].pop(group.spec.group_id, None)

    def at(self, node: str, group_id: str, request: int) -> tuple[PlacedGroup | None, Part | None]:
        """What a node speaks of."""
        group = self.groups.get(group_id)
        return group, None if group is None else group.parts.get((node, request))

    def bundle_nodes(self, group_id: str, bundle: int) -> list[str] | None:
        """Who has that bundle (-1: any); None if the group is gone."""
        group = self.groups.get(group_id)
        if group is None or group.is_removed:
            return None if group is not None or group_id in self.tombstones else []
        held = group.held((COMMITTED,))
        if bundle >= 0:
            return [held[bundle]] if bundle in held else []
        return list(dict.fromkeys(held.values()))

    def watch(self, group: PlacedGroup, node: str, nodes: NodeTable) -> None:
        """The node is told each change from now on."""
        found = nodes.nodes.get(node)
        if found is not None and found.is_living:
            group.watchers[node] = None

    def remove(self, group: PlacedGroup) -> None:
        """It is to be no more; its name is free."""
        spec = group.spec
        group.is_removed = True
        self.waiting.pop(spec.group_id, None)
        self.pauses.set(spec.group_id, None)
        if spec.name and self.by_name.get((spec.namespace, spec.name)) == spec.group_id:
            del self.by_name[spec.namespace, spec.name]

    def keep(self, group: PlacedGroup, out: Outgoing) -> None:
        """It has changed: on disk too, if it is to be there."""
        spec = group.spec
        if group.is_lasting:
            self._kept.add(spec.group_id)
            record = GroupRecord(spec, group.is_removed, group.creator)
            out.keep(GROUPS, spec.group_id, _encode(record))

    def bury(self, group: PlacedGroup, nodes: NodeTable, out: Outgoing) -> None:
        """A tombstone is left."""
        spec = group.spec
        assert group.is_removed and not group.parts
        del self.groups[spec.group_id]
        self._kept.discard(spec.group_id)
        self._graves[spec.group_id] = GroupRecord(spec, True, group.creator)
        self.tombstones[spec.group_id] = group.facts()
        if group.is_known or nodes.is_over(*group.creator):
            self.level(spec.group_id, out)
        while len(self.tombstones) > self._limits.group_tombstones_most:
            oldest, _ = self.tombstones.popitem(last=False)
            self.level(oldest, out)

    def graves_of(self, node: str) -> list[str]:
        """Those that a node may not have heard of."""
        return [name for name, grave in self._graves.items() if grave.creator[0] == node]

    def level(self, group_id: str, out: Outgoing) -> None:
        """Whoever asked for it knows that it is gone, or is gone too."""
        if self._graves.pop(group_id, None) is not None:
            out.erase(GROUPS, group_id)

    # ---- the disk
    def contents(self) -> Iterator[tuple[tuple[str, bytes], bytes]]:
        """All of it that is lasting."""
        for group_id in self._kept:
            group = self.groups[group_id]
            record = GroupRecord(group.spec, group.is_removed, group.creator)
            yield (GROUPS, group_id.encode()), _encode(record)
        for group_id, grave in self._graves.items():
            yield (GROUPS, group_id.encode()), _encode(grave)

    def restore(self, record: GroupRecord) -> None:
        """It was on disk; where it is the nodes will tell."""
        group = self.add(record.spec, record.creator, is_settled=False)
        self._kept.add(record.spec.group_id)
        if record.is_removed:
            self.remove(group)

    def validate(self) -> None:
        """Assert that everything agrees."""
        for group_id, group in self.groups.items():
            assert group.spec.group_id == group_id and group_id not in self.tombstones
            assert all(group_id in self.on_node[part.node] for part in group.parts.values())
            assert group.is_lasting == (group_id in self._kept)
            if group.is_settled:
                self._validate_parts(group)
        for place, group_id in self.by_name.items():
            spec = self.groups[group_id].spec
            assert (spec.namespace, spec.name) == place
        assert set(self.waiting) <= set(self.groups)
        assert set(self._graves) <= set(self.tombstones)
        self.pauses.validate()

    def _validate_parts(self, group: PlacedGroup) -> None:
        parts = list(group.parts.values())
        indexes = [i for part in parts if part.state != RELEASING for i in part.indexes]
        assert len(indexes) == len(set(indexes)), "a bundle in two parts"
        assert group.is_removed or set(indexes) <= set(group.wanted), "a part of what was removed"
        states = {part.state for part in parts}
        assert not group.is_removed or states <= {RELEASING}
        is_open = not states & {ASKED, PREPARED, RELEASING}
        if is_open and group.missing and not group.is_removed:
            group_id = group.spec.group_id
            assert group_id in self.waiting or group_id in self.pauses, "forgotten"
