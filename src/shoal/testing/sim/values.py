"""Simulated node memory for values: room, refs, pins, and what leaves for files and comes back.

The real ``Spilling`` machine is inside; around it what ``_runtime.daemon_spill`` does, on naive
memory: a value has a place (some extents, or a part of one that small values share), holders, and
readers, who pin it. What a process has asked for goes with it when it dies. Lost values are a
matter of the layer above (``rebuilds``).

A value's content is a number that follows from what it was made of, so whoever reads it knows what
it must be.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shoal._core import spilling
from shoal.testing.sim import value_checkers
from shoal.testing.sim.clock import Clock
from shoal.testing.sim.spill_disk import SpillDisk

if TYPE_CHECKING:
    from shoal.testing.sim.rebuilds import FakeRecipe

PARTS = 4
"""Small values that share an extent."""
EXTENT_BYTES = 8 << 20
INBOX_MOST = 32
BELL_S = 20e-6
COUNTED = (
    *("read", "left", "came back", "refused", "lost", "evicted", "rebuilt", "given up"),
    "recipes dropped",
)
"""What is counted."""
WARM_S = 0.0003
PATIENCE_S = 15.0
"""Who waits for a value for which there is never room is told so."""
ASK_AGAIN_S = 0.5
"""Who sleeps looks again, in case that its words were lost."""

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


class FakeValues:
    """What is kept, and the daemon's part in it."""

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
        self.disk = SpillDisk(world, chance)
        self._begin()

    def _begin(self) -> None:
        """An empty session."""
        self.values: dict[int, FakeValue] = {}
        self.places: dict[int, Place] = {}
        self.want = 0
        """Extents that the largest of those needs who sleep."""
        self.wishes: list[Wish] = []
        self.readers: list[Wish] = []
        self.machine = spilling.Spilling(self.extents, EXTENT_BYTES)
        self.claims: dict[Owner, list[tuple[FakeValue, Place]]] = {}
        """Room for values that are not written yet, of those who write them."""
        self._moving: dict[int, tuple[FakeValue, Place | None]] = {}
        self._inbox: list[int] = []
        self._has_overflown = False
        self._has_records = False
        """Whoever frees a value says so."""
        self._is_bell_due = self._is_warming_due = False
        self._events: deque[spilling.AnyEvent] = deque()
        self._is_stepping = False
        self._places = 0

    def restart(self) -> None:
        """The daemon was killed: memory and files go with the session."""
        disk = SpillDisk(self._world, self.chance)
        disk.counts, disk.is_full, disk.slowness_s = (
            self.disk.counts,
            self.disk.is_full,
            self.disk.slowness_s,
        )
        self.disk = disk
        self._begin()

    def since(self, at: float) -> float:
        """How long ago that was, undisturbed."""
        return self._world.since(at)

    # ---- room
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
        self._ask_for(wish.size)

    def _ask_for(self, size: float) -> None:
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
                self._ask_for(wish.size)
                continue
            self.wishes.remove(wish)
            self.claims.setdefault(wish.owner, []).append((wish.tenant, place))
            wish.action("")

    def shortage(self) -> int:
        """Extents that are missing for whoever wants the most."""
        have = self.extents - self.taken
        return max(0, self.want + self.used - have) if self.want else 0

    def make_room(self) -> bool:
        """Whether room is being made for those who ask for it."""
        missing = self.shortage()
        if not missing:
            if self.machine.is_asked:
                self._post(spilling.RoomFound())
            return False
        self._post(spilling.RoomAsked(missing, self.units()))
        return self.machine.is_asked

    def units(self) -> tuple[spilling.Unit, ...]:
        """Memory that would be free if some values left."""
        out = []
        for place in self.places.values():
            if all(map(self._may_leave, place.tenants)):
                keys = tuple(value.key for value in place.tenants)
                mark = sum(value.looks for value in place.tenants)
                out.append(spilling.Unit(place.number, place.n_extents, keys, mark))
        return tuple(out)

    def _may_leave(self, value: FakeValue) -> bool:
        is_there = value.is_sealed and value.place is not None and not value.record
        return is_there and not value.pins and not value.is_freed

    def _refuse(self) -> None:
        """There will be no room for those who wait."""
        self.want = 0
        wishes, self.wishes = self.wishes, []
        self.counts["refused"] += len(wishes)
        for wish in wishes:
            wish.action("there is no room, and none can be made")

    # ---- values
    def seal(self, value: FakeValue, record: bytes = b"") -> None:
        """It is there, or an error."""
        assert not value.is_sealed
        value.is_sealed, value.record = True, record
        self.tell(value)

    def add(self, value: FakeValue) -> None:
        """It will be there."""
        self.values[value.key] = value

    def seal_here(self, value: FakeValue, owner: Owner, recipe: FakeRecipe | None) -> None:
        """It is written where its owner has room for it."""
        claims = self.claims[owner]
        value.place = next(place for claimed, place in claims if claimed is value)
        claims.remove((value, value.place))
        if not claims:
            del self.claims[owner]
        if recipe is not None:
            recipe.users += 1
            value.recipe = recipe
        self.seal(value)

    def hold(self, value: FakeValue, count: int = 1) -> None:
        """One more or fewer who keep it."""
        value.holds += count
        assert value.holds >= 0, value
        self._free_if_last(value)

    def _free_if_last(self, value: FakeValue) -> None:
        if value.holds or value.pins or value.is_freed:
            return
        value.is_freed = True
        if value.place is not None:
            self.give_back(value.place, value)
            value.place = None
        self.values.pop(value.key, None)
        self.on_freed(value)
        if self._has_records:
            self.ring(value.key)

    def pin(self, value: FakeValue, owner: Owner) -> None:
        """Somebody looks at it."""
        value.pins[owner] = value.pins.get(owner, 0) + 1
        value.looks += 1

    def unpin(self, value: FakeValue, owner: Owner) -> None:
        """And does not any more."""
        value.pins[owner] -= 1
        if not value.pins[owner]:
            del value.pins[owner]
        self._free_if_last(value)

    def read(self, value: FakeValue, owner: Owner, action: Callable[[str], None]) -> None:
        """Pin it, and go on when it is there; its reader checks what it reads."""
        self.pin(value, owner)
        if value.is_sealed and not value.is_away:
            action("")
            return
        wish = Wish(owner, action, value=value, since=self._world.now)
        self.readers.append(wish)
        if value.is_away:
            self._ask_back(wish)

    def _ask_back(self, wish: Wish) -> None:
        value = wish.value
        assert value is not None
        self.ring(value.key)

        def again() -> None:
            if not value.is_away or wish not in self.readers:
                return
            if value.is_lost:
                wish.since = self._world.now
            if self._world.since(wish.since) < PATIENCE_S:
                self._ask_back(wish)
            else:
                self.readers.remove(wish)
                wish.action("there was no room for it")

        self._world.after(ASK_AGAIN_S, again)

    def tell(self, value: FakeValue) -> None:
        """Its readers go on."""
        for wish in [each for each in self.readers if each.value is value]:
            self.readers.remove(wish)
            wish.action("")

    def gone(self, is_his: Callable[[Owner], bool]) -> None:
        """A process, or one task of it, has ended: nothing is kept for it any more."""
        self.wishes = [wish for wish in self.wishes if not is_his(wish.owner)]
        self.readers = [wish for wish in self.readers if not is_his(wish.owner)]
        for owner in [owner for owner in self.claims if is_his(owner)]:
            for value, place in self.claims.pop(owner):
                self.give_back(place, value)
        for value in list(self.values.values()):
            for owner in [owner for owner in value.pins if is_his(owner)]:
                del value.pins[owner]
                self._free_if_last(value)

    # ---- what the daemon sees
    def ring(self, key: int) -> None:
        """Into the inbox, and the bell."""
        if len(self._inbox) < INBOX_MOST:
            self._inbox.append(key)
        else:
            self._has_overflown = True
        if not self._is_bell_due:
            self._is_bell_due = True
            self._world.after(self._world.delay(BELL_S), self._bell_rang)

    def _bell_rang(self) -> None:
        self._is_bell_due = False
        keys, self._inbox = self._inbox, []
        self.look(keys)

    def look(self, keys: Iterable[int]) -> None:
        """Somebody wants a value back, or nobody has it any more."""
        for seen in keys:
            key = self.machine.key_in(seen & spilling.SLOT)
            value = None if key is None else self.values.get(key)
            if key is None:
                continue
            if value is None:
                self._post(spilling.Gone((key,)))
            elif value.is_away and value.pins:
                self._post(spilling.Wanted(key, value.number))
        if self._has_overflown:
            self._has_overflown = False
            gone = tuple(key for key in self.machine.known() if key not in self.values)
            if gone:
                self._post(spilling.Gone(gone))

    # ---- decisions
    def _post(self, event: spilling.AnyEvent) -> None:
        self._events.append(event)
        if self._is_stepping:
            return
        self._is_stepping = True
        while self._events:
            self._step(self._events.popleft())
        self._is_stepping = False
        value_checkers.check_values(self)

    def _step(self, event: spilling.AnyEvent) -> None:
        self.told(event)
        for command in self.machine.step(self._world.now, event):
            self.told(command)
            self._perform(command)
        self._has_records = bool(self.machine.known() or self._moving or self._events)

    def _perform(self, command: spilling.AnyCommand) -> None:
        match command:
            case spilling.WriteOut():
                self._write_out(command.keys)
            case spilling.LetGo():
                self._let_go(command.key, command.number)
            case spilling.ReadBack():
                self._read_back(command.key, command.number)
            case spilling.DropRecord():
                self.disk.give(lambda: self.disk.drop(command.number))
            case spilling.Lose():
                self.counts["lost"] += 1
                self.lost(command.key, command.problem)
            case spilling.Answer():
                self._answer(command)
            case spilling.RetryAt():
                at = command.at - self._world.now
                self._world.after(at, lambda: self._post(spilling.TimeToRetry()))
            case spilling.LookAgainAt():
                self._world.after(command.at - self._world.now, self.warm)

    def _write_out(self, keys: tuple[int, ...]) -> None:
        held = []
        for key in keys:
            value = self.values.get(key)
            if value is None or not self._may_leave(value):
                self._events.append(spilling.Left(key, 0, False))
                continue
            value_checkers.check_moves_once(self._moving, value)
            self.hold(value)
            self._moving[key] = (value, None)
            held.append(value)
        if held:
            rows = [(value.key, value.content) for value in held]
            self.disk.give(lambda: self._written(rows))

    def _written(self, rows: list[tuple[int, int]]) -> None:
        numbers = self.disk.write(rows)
        keys = tuple(key for key, _ in rows)
        if not numbers:
            for key in keys:
                self.hold(self._moving.pop(key)[0], -1)
        problem = "" if numbers else "simulated: no space left"
        self._post(spilling.WrittenOut(keys, tuple(numbers), problem))

    def _let_go(self, key: int, number: int) -> None:
        moving = self._moving.pop(key, None)
        value = moving[0] if moving is not None else self.values.get(key)
        is_out = value is not None and self._may_leave(value)
        if value is not None and is_out:
            assert value.place is not None
            value_checkers.check_leaves(value)
            place, value.place, value.number = value.place, None, number
            self.give_back(place, value)
            self.counts["left"] += 1
        self._events.append(spilling.Left(key, number, is_out))
        if moving is not None:
            self.hold(moving[0], -1)

    def _read_back(self, key: int, number: int) -> None:
        value = self.values.get(key)
        if value is None or not value.is_away:
            self._events.append(spilling.Gone((key,)))
            return
        if not value.pins:
            self._events.append(spilling.Unwanted(key))
            return
        place = self.allocate(value.size, value)
        if place is None:
            self._ask_for(value.size)
            self._events.append(spilling.NoRoomFor(key, number))
            return
        value_checkers.check_moves_once(self._moving, value)
        self.hold(value)
        self._moving[key] = (value, place)
        self.disk.give(lambda: self._was_read(key, number))

    def _was_read(self, key: int, number: int) -> None:
        content, problem = self.disk.read(number)
        value, place = self._moving.pop(key)
        assert place is not None
        if problem:
            self.give_back(place, value)
        else:
            value.place, value.content = place, content
            self.counts["came back"] += 1
            self.tell(value)
        self._post(spilling.WasRead(key, number, problem))
        self.hold(value, -1)

    def _answer(self, command: spilling.Answer) -> None:
        missing = 0 if command.is_given else self.shortage()
        if missing and self.evict(missing) < missing:
            value_checkers.check_refusal(self, missing)
            self._refuse()
        self.warm()

    # ---- the layer above
    def lost(self, key: int, problem: str) -> None:
        """A value is gone from its file."""
        raise NotImplementedError

    def evict(self, n_extents: int) -> int:
        """Give up values that can be made again; extents that became free."""
        return 0

    def on_freed(self, value: FakeValue) -> None:
        """Nobody has it any more."""
