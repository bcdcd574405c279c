"""Placement groups of a cluster: what one node knows of a group, and what it has of its bundles.

The control store decides which node has which bundle (``members.groups``, where the two phases
stand); every node that a group concerns has a ``SharedGroup`` of it, and those that reserve for it
have *parts*::

    a program makes it         AskStore(CreateGroup) --> GroupTold(PENDING), (CREATED), ...
    somebody here names it     AskStore(GetGroup)    --> GroupTold, and from then on each change
    it is resized              AskStore(ResizeGroup) --> GroupTold, here and to all who know it
    bundles are to be here     BundlesWanted -- a place in the line --> SayReserved
                               BundlesOpened: what waits in them may run
                               BundlesUnwanted: what runs in them ends --> SayGivenBack

    part:  asked for --> reserved --> open --> ending --> (gone)

A queue or an actor in a bundle draws from the account of that bundle if it is here; if it is on
another node, it goes there (``wish_of``, ``nodes_for``), where the same bundle is an account.

1. A part has accounts from when it is reserved until nobody holds anything of them any more.
2. A room of the group has the accounts of its bundles in the open parts here, and their sizes: so
   what this node can never run in the group changes with its parts.
3. What is asked of the line and not granted within ``RESERVE_S`` is refused: then another node may
   be found, and nobody keeps bundles elsewhere for it.
4. What is known of where bundles are is what the store said last; before it has said anything
   (``is_watched``) nobody uses the group.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from shoal._core.groups import ANY_BUNDLE, Group
from shoal._core.policies import view
from shoal._core.resources import GPU, UNIT, Account, Amounts, Room
from shoal._proto.messages import CreateGroup

RESERVE_S = 2.0
"""Idle workers let go in milliseconds; tasks are not waited for longer than this."""
PENDING, CREATED, REMOVED = "PENDING", "CREATED", "REMOVED"


class Part:
    """What this node has, or is asked to have, of a group under one request of the store."""

    __slots__ = ("accounts", "indexes", "is_ending", "is_open", "order", "request", "spec")

    def __init__(self, spec: CreateGroup, order: int, request: int, indexes: Sequence[int]) -> None:
        self.spec = spec
        self.order = order
        """Of the store, to be answered."""
        self.request = request
        self.indexes = tuple(indexes)
        self.accounts: list[Account] = []
        self.is_open = False
        self.is_ending = False

    @property
    def who(self) -> str:
        """Its name in the scheduler's line."""
        return part_name(self.spec.group_id, self.request)

    def trim(self, wanted: Sequence[int]) -> list[Account]:
        """It goes on without the bundles that were removed; their accounts."""
        pairs = list(zip(self.indexes, self.accounts, strict=True))
        kept = [pair for pair in pairs if pair[0] in wanted]
        self.indexes = tuple(index for index, _ in kept)
        self.accounts = [account for _, account in kept]
        return [account for index, account in pairs if index not in wanted]

    @property
    def is_held(self) -> bool:
        """Whether somebody has something of its accounts."""
        return any(account.grants for account in self.accounts)


def part_name(group_id: str, request: int) -> str:
    """How the part of a group is called in the scheduler's line."""
    return f"{group_id}/{request}"


class SharedGroup(Group):
    """One placement group, as this node knows it."""

    __slots__ = ("is_watched", "nodes", "told_state")

    is_shared = True

    def __init__(
        self, spec: CreateGroup, amounts: tuple[Amounts, ...], job: int, now: float
    ) -> None:
        """``job`` is 0 for a group that was not made here."""
        super().__init__(spec, amounts, job, spec.namespace, now)
        self.nodes: tuple[str, ...] = ("",) * len(amounts)
        """The node of each bundle."""
        self.told_state = PENDING
        self.is_watched = False
        """The store has told of it, and will of each change."""
        self.arrange(())

    @property
    def is_placed(self) -> bool:
        """Whether all bundles have nodes now."""
        return self.record is None and self.told_state == CREATED and not self.missing

    @property
    def missing(self) -> tuple[int, ...]:
        """Bundles that no node has, as far as the store has said."""
        return tuple(index for index in self.wanted if not self.nodes[index])

    @property
    def state(self) -> str:
        """The state as people know it."""
        return REMOVED if self.record is not None else self.told_state

    def told(self, state: str, nodes: Sequence[str], node: Room) -> None:
        """The store says where it is; ``node`` is this node's room."""
        self.told_state, self.nodes = state, tuple(nodes)
        if state == CREATED:
            self.open_gates(node)

    def resize(self, spec: CreateGroup, amounts: tuple[Amounts, ...]) -> list[int]:
        """There is a newer revision; where new bundles are the store will say."""
        removed = super().resize(spec, amounts)
        self.nodes += ("",) * (len(amounts) - len(self.nodes))
        return removed

    def arrange(self, parts: Iterable[Part]) -> None:
        """These are its parts here."""
        self.accounts = {}
        for part in parts:
            if part.is_open and not part.is_ending:
                self.accounts.update(zip(part.indexes, part.accounts))
        self._furnish()
        for index, room in enumerate(self.rooms):
            room.sizes = (self.amounts[index],) if room.accounts else ()
        self.any_room.sizes = tuple(self.amounts[index] for index in sorted(self.accounts))

    def close(self, record: bytes, reason: str) -> None:
        """It is gone; its parts here end by themselves."""
        super().close(record, reason)
        self.accounts, self.nodes = {}, ("",) * len(self.nodes)

    # ---- where its bundles are
    def bundle_of(self, room: Room) -> int:
        """Which bundle a target of the group means."""
        found = (index for index, own in enumerate(self.rooms) if own is room)
        return ANY_BUNDLE if room is self.any_room else next(found)

    def _places(self, room: Room, amounts: Amounts) -> list[tuple[str, Amounts]]:
        """Nodes and sizes of the bundles that ``room`` means and that could hold ``amounts``."""
        if self.is_gate(room):
            return []
        bundle = self.bundle_of(room)
        indexes = [at for at in self.wanted if bundle in (ANY_BUNDLE, at)]
        sizes = [(self.nodes[index], self.amounts[index]) for index in indexes]
        return [(node, size) for node, size in sizes if Room([size]).can_ever(amounts)]

    def could_hold(self, room: Room, amounts: Amounts) -> bool:
        """Whether one of those bundles is large enough, wherever it is."""
        return self.is_gate(room) or bool(self._places(room, amounts))

    def nodes_for(self, room: Room, amounts: Amounts) -> list[str]:
        """The nodes of those bundles, each once."""
        if self.record is not None:
            return []
        return sorted({node for node, _ in self._places(room, amounts) if node})

    def slots_on(self, node: str, room: Room, amounts: Amounts) -> int:
        """How many of ``amounts`` the bundles hold that are on a node."""
        count = 0
        for place, size in self._places(room, amounts):
            if place == node:
                have = dict(size)
                whole, rest = divmod(have.get(GPU, 0), UNIT)
                gpus = (UNIT,) * whole + ((rest,) if rest else ())
                count += view.slots(have, gpus, amounts)
        return min(count, view.SLOTS_MOST)

    def row(self) -> dict[str, object]:
        """The row of the group table."""
        return {**super().row(), "nodes": list(self.nodes)}

    def validate(self) -> None:
        """Assert the invariants."""
        if self.record is not None:
            assert not self.accounts and not self.any_room.accounts
            return
        self.validate_rooms()
        for room in (*self.rooms, self.any_room):
            assert len(room.sizes) == len(room.accounts)
        assert len(self.nodes) == len(self.amounts) == len(self.rooms)
