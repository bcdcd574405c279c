"""Placement groups: resources reserved together, all or nothing.

::

    1 CreateGroup -> PENDING ---- 2 all bundles granted ----> CREATED
                        |             ^                          |
                        |             +-- 2 -- RESCHEDULING <-- 5 -+
                        +-------- 3 ----------> (ending) <-- 3 --+
                                                   | 4 its last process has been reaped
                                                   v
                                                REMOVED (tombstone)

1. The name is taken in the same step. A group that no node can ever have fails after a while
   (RULES S-13) and goes along 3.
2. The scheduler has granted all bundles in one step: each is an account of its own from now on,
   with its own GPU ids, and the rooms of the group are open.
3. ``RemoveGroup``, the end of the job that made it (unless it is detached), or it is infeasible.
   For everybody else it is REMOVED from this moment on: its name is free, its queues are dead, what
   runs in it is killed.
4. Only now do its bundles go back to the node: nobody may use twice what a process still has.
5. ``ResizeGroup``: more bundles, for which it stands in the line while the others go on; or some
   less, of which the same is true as of a removed group: dead queues, killed processes, and their
   accounts are *leaving* until nobody holds anything of them. Indexes stay; those of removed
   bundles are not used again.

Invariants:

* A group has a place, or is asked for in the scheduler, or has a record that says why it is gone.
* Its rooms have the accounts of its bundles while it is not gone; they are shared by all that asks
  in it. A room of a removed bundle has neither accounts nor sizes.
* Only living groups have names; tombstones are the last ``tombstones_most``.
* Who waits for a group stands in ``waits``; when the group has its place or is gone, nobody does.

In a cluster edge 2 is the control store's: see ``shared_groups``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar

import msgspec

from shoal._base.config import Limits
from shoal._core.deadlines import Deadlines
from shoal._core.resources import Account, Amounts, Room, Target
from shoal._proto.messages import CreateGroup, GroupFacts, ResizeGroup

if TYPE_CHECKING:
    from shoal._core.shared_groups import Part

STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")
ANY_BUNDLE = -1


class Group:
    """One placement group."""

    is_shared: ClassVar[bool] = False
    """Its bundles may be on several nodes: a ``SharedGroup``."""

    __slots__ = (
        "accounts",
        "amounts",
        "any_room",
        "created_at",
        "gates",
        "is_any_asked",
        "is_forgotten",
        "is_warned",
        "job",
        "name",
        "namespace",
        "reason",
        "record",
        "rooms",
        "spec",
        "was_used",
        "why",
    )

    def __init__(
        self, spec: CreateGroup, amounts: tuple[Amounts, ...], job: int, namespace: str, now: float
    ) -> None:
        self.spec = spec
        self.amounts = amounts
        self.job = job
        self.name = spec.name
        self.namespace = namespace
        self.created_at = now
        self.why = ""
        """Why it can have no place here, whatever is free."""
        self.rooms: list[Room] = []
        """By index."""
        self.any_room = Room(())
        """Of one bundle that is its room too, so that who runs in it helps with what may run in
        any, until the group is resized."""
        self.is_any_asked = False
        self.gates: dict[int, Room] = {}
        """For each revision that is waited for the node's room, open from when the group has its
        place: for ``ready()``."""
        self.accounts: dict[int, Account] = {}
        """By index."""
        self._make_rooms()
        self.record: bytes | None = None
        """Why it is gone."""
        self.reason = ""
        self.is_forgotten = False
        """It was here in an epoch that is over: others, or a later epoch of this node, go on with
        it."""
        self.was_used = False
        """Somebody has asked for a queue or an actor in it."""
        self.is_warned = False

    @property
    def group_id(self) -> str:
        """Its name in messages."""
        return self.spec.group_id

    @property
    def is_placed(self) -> bool:
        """Whether it has its bundles, and is not gone."""
        return self.record is None and not self.missing

    @property
    def state(self) -> str:
        """The state as people know it."""
        if self.record is not None:
            return "REMOVED"
        if self.is_placed:
            return "CREATED"
        return "RESCHEDULING" if self.accounts else "PENDING"

    @property
    def wanted(self) -> tuple[int, ...]:
        """Its bundles, without those that were removed."""
        return tuple(index for index, size in enumerate(self.amounts) if size)

    @property
    def missing(self) -> tuple[int, ...]:
        """Bundles that it has not."""
        return tuple(index for index in self.wanted if index not in self.accounts)

    def target(self, bundle: int, captures: bool) -> Target:
        """What "in this bundle" means."""
        self.is_any_asked = self.is_any_asked or bundle == ANY_BUNDLE
        room = self.any_room if bundle == ANY_BUNDLE else self.rooms[bundle]
        return Target(room, self.group_id, captures)

    def gated(self, node: Room, revision: int) -> Target:
        """Anywhere on the node, once the group has had its place as of a revision."""
        if revision not in self.gates:
            self.gates[revision] = Room(node.sizes, node.accounts if self.is_placed else ())
        return Target(self.gates[revision], self.group_id, binds=False)

    def is_gate(self, room: Room) -> bool:
        """Whether that is no bundle's."""
        return any(room is gate for gate in self.gates.values())

    def open(self, accounts: list[Account], node: Room) -> None:
        """Edge 2: what was missing."""
        assert self.record is None
        self.accounts.update(zip(self.missing, accounts, strict=True))
        self._furnish()
        self.open_gates(node)

    def open_gates(self, node: Room) -> None:
        """It has its place."""
        for gate in self.gates.values():
            gate.accounts = list(node.accounts)

    def resize(self, spec: CreateGroup, amounts: tuple[Amounts, ...]) -> list[int]:
        """Edge 5; bundles that were removed."""
        assert len(amounts) >= len(self.amounts) and any(amounts)
        removed = [index for index in self.wanted if not amounts[index]]
        self.spec, self.amounts = spec, amounts
        self._make_rooms()
        return removed

    def _make_rooms(self) -> None:
        is_first = not self.rooms
        self.rooms += [Room(()) for _ in self.amounts[len(self.rooms) :]]
        if is_first and len(self.rooms) == 1:
            self.any_room = self.rooms[0]
        elif self.any_room is self.rooms[0]:
            # What was asked for before goes on in any bundle if some of it may.
            self.any_room = self.rooms[0] if self.is_any_asked else Room(())
            self.rooms[0] = Room(()) if self.is_any_asked else self.rooms[0]
        for room, size in zip(self.rooms, self.amounts):
            room.sizes = (size,) if size else ()
        self.any_room.sizes = tuple(self.amounts[index] for index in self.wanted)

    def take(self, indexes: Iterable[int]) -> list[Account]:
        """The accounts of removed bundles: they are its own no more."""
        found = [self.accounts.pop(index) for index in indexes if index in self.accounts]
        self._furnish()
        return found

    def _furnish(self) -> None:
        for index, room in enumerate(self.rooms):
            room.accounts = [self.accounts[index]] if index in self.accounts else []
        self.any_room.accounts = [self.accounts[index] for index in sorted(self.accounts)]

    def close(self, record: bytes, reason: str) -> None:
        """Edge 3."""
        assert self.record is None
        self.record, self.reason = record, reason
        for room in (*self.rooms, self.any_room, *self.gates.values()):
            room.accounts = []

    def forget_rooms(self) -> None:
        """Edge 4: what is remembered of it is small."""
        self.accounts, self.rooms, self.amounts = {}, [], ()
        self.any_room, self.gates = Room(()), {}

    def facts(self) -> GroupFacts:
        """What handles know."""
        return facts_of(self.spec)

    def could_hold(self, room: Room, amounts: Amounts) -> bool:
        """Whether one of the bundles that ``room`` means is large enough."""
        return room.can_ever(amounts)

    def nodes_for(self, room: Room, amounts: Amounts) -> list[str]:
        """The nodes of those bundles, where they may be on others."""
        return []

    def slots_on(self, node: str, room: Room, amounts: Amounts) -> int:
        """How many of ``amounts`` those of another node hold."""
        return 0

    def row(self) -> dict[str, object]:
        """The row of the group table."""
        return {
            "group_id": self.group_id,
            "name": self.name,
            "namespace": self.namespace,
            "state": self.state,
            "strategy": self.spec.strategy,
            "bundles": self.spec.bundles,
            "job": self.job,
            "detached": self.spec.detached,
            "reason": self.reason or self.why,
        }

    def validate(self) -> None:
        """Assert the invariants."""
        assert set(self.accounts) <= set(self.wanted)
        self.validate_rooms()

    def validate_rooms(self) -> None:
        """Rooms and accounts agree."""
        for index, room in enumerate(self.rooms):
            assert room.accounts == [own for at, own in self.accounts.items() if at == index]
            assert not room.accounts or room.sizes
        assert self.any_room.accounts == [self.accounts[at] for at in sorted(self.accounts)]


def is_resize(before: Sequence[object], after: Sequence[object]) -> bool:
    """Whether ``after`` is ``before`` with some bundles removed (now empty) and some added."""
    if len(after) < len(before) or not any(after) or not all(after[len(before) :]):
        return False
    return all(not new or new == old for old, new in zip(before, after))


def facts_of(spec: CreateGroup) -> GroupFacts:
    """What handles know of a group."""
    return GroupFacts(spec.group_id, spec.bundles, spec.labels, spec.revision, spec.resized_by)


def resized(spec: CreateGroup, asked: ResizeGroup) -> CreateGroup:
    """What it is to be."""
    return msgspec.structs.replace(
        spec,
        bundles=asked.bundles,
        labels=asked.labels,
        revision=asked.revision,
        resized_by=asked.resized_by,
    )


class GroupRecord(msgspec.Struct, frozen=True):
    """What a detached group is made again from, after its node has ended."""

    spec: CreateGroup
    job: int
    namespace: str


class GroupWait(msgspec.Struct, frozen=True):
    """Process ``index`` waits for the answer to ``request``."""

    index: int
    request: int
    group_id: str


class GroupTable:
    """All placement groups of a session."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.living: dict[str, Group] = {}
        """PENDING or CREATED."""
        self.ending: dict[str, Group] = {}
        """REMOVED, but their bundles have not been given back."""
        self.tombstones: OrderedDict[str, Group] = OrderedDict()
        self.by_name: dict[tuple[str, str], Group] = {}
        self.leaving: list[Account] = []
        """Of bundles that were removed, until nobody holds anything of them."""
        self.waits: dict[int, GroupWait] = {}
        self._of_group: dict[str, dict[int, None]] = {}
        """Numbers of waits by group."""
        self.deadlines: Deadlines[int] = Deadlines()
        self._number = 0
        self.parts: dict[str, Part] = {}
        """Of groups of the cluster, by their names in the line."""
        self.part_deadlines: Deadlines[str] = Deadlines()
        """Until when those may stand in the line."""
        self.part_ends: set[str] = set()
        """Those that are to be given back."""

    def add(self, group: Group) -> None:
        """Edge 1."""
        self.living[group.group_id] = group
        if group.name and not group.is_shared:  # else the store has the names
            self.by_name[group.namespace, group.name] = group

    def find(self, group_id: str) -> Group | None:
        """The group, also a removed one that is still known."""
        found = self.living.get(group_id) or self.ending.get(group_id)
        return found or self.tombstones.get(group_id)

    def end(self, group: Group, record: bytes, reason: str) -> None:
        """Edge 3."""
        group.close(record, reason)
        del self.living[group.group_id]
        if group.name and not group.is_shared:
            del self.by_name[group.namespace, group.name]
        self.ending[group.group_id] = group

    def bury(self, group: Group) -> list[Group]:
        """Edge 4: its bundles are given back. Those that are forgotten now: itself, or tombstones
        that are too many."""
        group.forget_rooms()
        del self.ending[group.group_id]
        if group.is_forgotten:
            return [group]
        self.tombstones[group.group_id] = group
        forgotten = []
        while len(self.tombstones) > self._limits.group_tombstones_most:
            forgotten.append(self.tombstones.popitem(last=False)[1])
        return forgotten

    def of_job(self, job: int) -> list[Group]:
        """Those that end with the job."""
        return [g for g in self.living.values() if g.job == job and not g.spec.detached]

    # ---- who waits
    def wait(self, wait: GroupWait, deadline: float | None) -> None:
        """It is to be told when the group has its place, or is gone."""
        self._number += 1
        self.waits[self._number] = wait
        self._of_group.setdefault(wait.group_id, {})[self._number] = None
        self.deadlines.set(self._number, deadline)

    def answered(self, group_id: str) -> list[GroupWait]:
        """Everybody who waits for the group; they do not any more."""
        return [self._take(number) for number in list(self._of_group.get(group_id, ()))]

    def expire(self, now: float) -> list[GroupWait]:
        """Whose time is up."""
        return [self._take(number) for number in self.deadlines.due(now)]

    def end_process(self, index: int) -> None:
        """It waits for nothing any more."""
        for number in [n for n, wait in self.waits.items() if wait.index == index]:
            self._take(number)

    def _take(self, number: int) -> GroupWait:
        wait = self.waits.pop(number)
        self.deadlines.set(number, None)
        numbers = self._of_group[wait.group_id]
        del numbers[number]
        if not numbers:
            del self._of_group[wait.group_id]
        return wait

    def validate(self) -> None:
        """Assert the invariants."""
        for group_id, group in self.living.items():
            assert group.group_id == group_id and group.record is None
            group.validate()
        for group in (*self.ending.values(), *self.tombstones.values()):
            assert group.record is not None and not group.any_room.accounts
            assert not any(room.accounts for room in group.rooms)
        assert not any(group.accounts for group in self.tombstones.values())
        own = [g for g in self.living.values() if g.name and not g.is_shared]
        assert {(g.namespace, g.name): g for g in own} == self.by_name
        for wait in self.waits.values():
            assert not self.living[wait.group_id].is_placed
        numbers = {number for numbers in self._of_group.values() for number in numbers}
        assert numbers == set(self.waits) and len(self.deadlines) <= len(self.waits)
        assert len(self.tombstones) <= self._limits.group_tombstones_most
        self.deadlines.validate()
        assert all(part.who == key for key, part in self.parts.items())
        assert self.part_ends == {key for key, part in self.parts.items() if part.is_ending}
