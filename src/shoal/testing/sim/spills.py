"""The simulated daemon's part in spilling: the real ``Spilling`` machine, memory and a disk.

What ``_runtime.daemon_spill`` does, on naive memory: values leave for files when room is asked for,
and come back when somebody waits for them. Lost values are a matter of the layer above
(``rebuilds``).
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Collection, Iterable

from shoal._core import spilling
from shoal.testing.sim import value_checkers
from shoal.testing.sim.clock import Clock
from shoal.testing.sim.room import FakeValue, Place
from shoal.testing.sim.spill_disk import SpillDisk
from shoal.testing.sim.values import FakeValues

EXTENT_BYTES = 8 << 20


class FakeSpilling(FakeValues):
    """Values that leave for files, and come back."""

    def __init__(self, world: Clock, extents: int, chance: random.Random) -> None:
        self.disk = SpillDisk(world, chance)
        super().__init__(world, extents, chance)

    def _begin(self) -> None:
        super()._begin()
        self.machine = spilling.Spilling(self.extents, EXTENT_BYTES)
        self._moving: dict[int, tuple[FakeValue, Place | None]] = {}
        self._events: deque[spilling.AnyEvent] = deque()
        self._is_stepping = False

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

    def make_room(self) -> bool:
        """Whether room is being made for those who ask for it."""
        missing = self.shortage()
        if not missing:
            if self.machine.is_asked:
                self._post(spilling.RoomFound())
            return False
        self._post(spilling.RoomAsked(missing, self.units()))
        return self.machine.is_asked

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
        known = self.machine.known() or self._moving or self._events or self.given_up()
        self._has_records = bool(known)

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
            if value is None or not self.may_leave(value):
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
        is_out = value is not None and self.may_leave(value)
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
            self.ask_for(value.size)
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
            self.refuse()
        self.warm()

    # ---- the layer above
    def lost(self, key: int, problem: str) -> None:
        """A value is gone from its file."""
        raise NotImplementedError

    def evict(self, n_extents: int) -> float:
        """Give up values that can be made again; extents that became free."""
        raise NotImplementedError

    def given_up(self) -> Collection[int]:
        """Values that are not in memory, as their tasks can make them again."""
        raise NotImplementedError
