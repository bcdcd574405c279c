"""Simulated node memory for values: places, and who waits for room.

A value has a place: some extents of its own, or a part of one that small values share. Who finds
none says how much it wants and sleeps, until the daemon has looked (``warm``) and all that sleep
try again, or are told that there will be no room. As in ``native/block.cpp``.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shoal._core import spilling
from shoal.testing.sim import value_checkers
from shoal.testing.sim.clock import Clock

if TYPE_CHECKING:
    from shoal.testing.sim.recipes import FakeRecipe

PARTS = 4
"""Small values that share an extent."""
WARM_S = 0.0003
COUNTED = (
    *("read", "left", "came back", "refused", "lost", "evicted", "rebuilt", "given up"),
    "recipes dropped",
)
"""What is counted."""

Owner = tuple[int, int]
"""(process, task): who pins, or asks for room."""


@dataclass(eq=False)
class Place:
    """Memory: for one value of some extents, or for ``PARTS`` small ones."""

    number: int
    n_extents: int
    is_shared: bool
    tenants: list[FakeValue] = field(default_factory=list)


@dataclass(eq=False)
class FakeValue:
    """One value of node memory."""

    key: int
    size: float
    """In extents; below 1: a part of one."""
    content: int
    expected: int
    is_sealed: bool = False
    record: bytes = b""
    """It is an error."""
    place: Place | None = None
    number: int = 0
    """Of its record, while it is in the files only; 0 and no place: it is lost."""
    holds: int = 0
    pins: dict[Owner, int] = field(default_factory=dict)
    looks: int = 0
    recipe: FakeRecipe | None = None
    is_freed: bool = False

    @property
    def is_away(self) -> bool:
        """Sealed, and in no memory."""
        return self.is_sealed and not self.record and self.place is None

    @property
    def is_lost(self) -> bool:
        """And in no file."""
        return self.is_away and not self.number


@dataclass(eq=False)
class Wish:
    """Somebody sleeps until there is room, or until a value is there."""

    owner: Owner
    action: Callable[[str], None]
    """Called with what is wrong, or nothing."""
    size: float = 0.0
    tenant: FakeValue | None = None
    value: FakeValue | None = None
    since: float = 0.0


class FakeRoom:
    """All places, and who waits for one."""

    def __init__(self, world: Clock, extents: int, chance: random.Random) -> None:
        self._world = world
        self.chance = chance
        self.told: Callable[[object], None] = lambda what: None
        """Takes events and commands, for the story."""
        self.extents = extents
        self.taken = 0
        """Extents that others have for a while."""
        self.most_used = 0
        self.counts = dict.fromkeys(COUNTED, 0)
        self._begin()

    def _begin(self) -> None:
        """An empty session."""
        self.places: dict[int, Place] = {}
        self.want = 0
        """Extents that the largest of those needs who sleep."""
        self.wishes: list[Wish] = []
        self.claims: dict[Owner, list[tuple[FakeValue, Place]]] = {}
        """Room for values that are not written yet, of those who write them."""
        self._is_warming_due = False
        self._places = 0

    def since(self, at: float) -> float:
        """How long ago that was, undisturbed."""
        return self._world.since(at)

    @property
    def used(self) -> int:
        """Extents that are given out."""
        return sum(place.n_extents for place in self.places.values())

    def allocate(self, size: float, tenant: FakeValue) -> Place | None:
        """A place, if there is one now."""
        if size < 1:
            for place in self.places.values():
                if place.is_shared and len(place.tenants) < PARTS:
                    place.tenants.append(tenant)
                    return place
        n_extents = max(1, int(size))
        if self.used + n_extents > self.extents - self.taken:
            return None
        self._places += 1
        place = Place(self._places, n_extents, size < 1, [tenant])
        self.places[place.number] = place
        self.most_used = max(self.most_used, self.used)
        value_checkers.check_room(self)
        return place

    def give_back(self, place: Place, tenant: FakeValue) -> None:
        """It is free again, with the last who had a part of it."""
        place.tenants.remove(tenant)
        if not place.tenants:
            del self.places[place.number]
            self.warm()

    def ask_room(self, wish: Wish) -> None:
        """Sleep until there is room, or none will be."""
        self.wishes.append(wish)
        self.ask_for(wish.size)

    def ask_for(self, size: float) -> None:
        self.want = max(self.want, 1, int(size))
        self.warm()

    def warm(self) -> None:
        """The daemon looks after those who wait for room, soon."""
        if not self._is_warming_due:
            self._is_warming_due = True
            self._world.after(self._world.delay(WARM_S), self._warm)

    def _warm(self) -> None:
        self._is_warming_due = False
        if self.make_room() or not self.want:
            return
        self.want = 0
        for wish in list(self.wishes):
            assert wish.tenant is not None
            place = self.allocate(wish.size, wish.tenant)
            if place is None:
                self.ask_for(wish.size)
                continue
            self.wishes.remove(wish)
            self.claims.setdefault(wish.owner, []).append((wish.tenant, place))
            wish.action("")

    def shortage(self) -> int:
        """Extents that are missing for whoever wants the most."""
        have = self.extents - self.taken
        return max(0, self.want + self.used - have) if self.want else 0

    def units(self) -> tuple[spilling.Unit, ...]:
        """Memory that would be free if some values left."""
        out = []
        for place in self.places.values():
            if all(map(self.may_leave, place.tenants)):
                keys = tuple(value.key for value in place.tenants)
                mark = sum(value.looks for value in place.tenants)
                out.append(spilling.Unit(place.number, place.n_extents, keys, mark))
        return tuple(out)

    def may_leave(self, value: FakeValue) -> bool:
        is_there = value.is_sealed and value.place is not None and not value.record
        return is_there and not value.pins and not value.is_freed

    def refuse(self) -> None:
        """There will be no room for those who wait."""
        self.want = 0
        wishes, self.wishes = self.wishes, []
        self.counts["refused"] += len(wishes)
        for wish in wishes:
            wish.action("there is no room, and none can be made")

    def make_room(self) -> bool:
        """Whether room is being made (the layer of files)."""
        raise NotImplementedError
