"""Simulated values: who holds one, who looks at it, who waits for it.

A value's content is a number that follows from what it was made of, so whoever reads it knows what
it must be. It goes with the last who holds it or looks at it, and what a process has asked for and
looks at goes with the process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from shoal.testing.sim.room import FakeRoom, FakeValue, Owner, Wish

if TYPE_CHECKING:
    from shoal.testing.sim.recipes import FakeRecipe

INBOX_MOST = 32
BELL_S = 20e-6
PATIENCE_S = 15.0
"""Who waits for a value for which there is never room is told so."""
ASK_AGAIN_S = 0.5
"""Who sleeps looks again, in case that its words were lost."""


class FakeValues(FakeRoom):
    """All values of node memory."""

    def _begin(self) -> None:
        super()._begin()
        self.values: dict[int, FakeValue] = {}
        self.readers: list[Wish] = []
        self._inbox: list[int] = []
        self._has_overflown = False
        self._has_records = False
        """Whoever frees a value says so."""
        self._is_bell_due = False

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

    def ring(self, key: int) -> None:
        """Into the inbox, and the bell."""
        if len(self._inbox) < INBOX_MOST:
            self._inbox.append(key)
        else:
            self._has_overflown = True
        if not self._is_bell_due:
            self._is_bell_due = True
            self._world.after(self._world.delay(BELL_S), self._bell_rang)

    # ---- the layers above
    def _bell_rang(self) -> None:
        raise NotImplementedError

    def on_freed(self, value: FakeValue) -> None:
        """Nobody has it any more."""
        raise NotImplementedError
