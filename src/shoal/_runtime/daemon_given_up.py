"""Values that are given up as there is no room, done to memory: what ``_core.evicting`` decides.

A value that is given up has a block word as a lost one has: who reads it sleeps, and asks for it,
and ``daemon_lineage`` has it made again. Until then the daemon holds what its task needs and is
there: so a later run needs no more than is known now.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from shoal._base import clock
from shoal._core import evicting, lineage, spilling
from shoal._native import Memory

_ArgumentRow = tuple[int, bool, bool, int, int, int]
RecipeRow = tuple[
    int, bool, int, int, int, int, bool, bool, list[_ArgumentRow], list[int], bool, int
]
"""As ``Memory.recipe`` gives it."""


class GivenUp:
    """Gives values up; ``make_stub`` has memory for what stays of one, ``in_use`` are arguments of
    rebuilds: were they given up, rebuilds could wait for each other."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self.make_stub: Callable[[], None] = lambda: None
        self.in_use: Callable[[], set[int]] = set
        self.evicted_bytes = 0
        self._evictions = evicting.Evictions()
        self._slots: dict[int, int] = {}
        """Slots of values that were given up -> their keys."""
        self._spared: dict[int, list[object]] = {}
        """By value that was given up: refs to what its task needs, and is there."""

    def evict(self, n_extents: int) -> float:
        """Give the memory of values back that can be made again; extents that became free."""
        memory = self._memory
        known: dict[int, lineage.Recipe | None] = {}
        needed, in_use = set(memory.needed()), self.in_use()
        units = []
        for place, extents, keys, mark in memory.spillable():
            runs = [self._runs_for(key, known) for key in keys]
            if extents >= 1 and all(runs) and in_use.isdisjoint(keys):
                is_needed = not needed.isdisjoint(keys)
                units.append(
                    evicting.Unit(place, extents, tuple(keys), mark, tuple(runs), is_needed)
                )
        left = {name: _runs_left(recipe) for name, recipe in known.items() if recipe is not None}
        freed = 0.0
        for unit in self._evictions.choose(clock.now(), n_extents, units, left):
            if sum(self._give_up(key, known) for key in unit.keys) == len(unit.keys):
                freed += unit.n_extents
        return freed

    def _give_up(self, key: int, known: dict[int, lineage.Recipe | None]) -> bool:
        self.make_stub()
        bytes_freed = self._memory.evict(key)
        self.evicted_bytes += bytes_freed
        if not bytes_freed:
            self._evictions.back(key)
            return False
        if (former := self._slots.get(key & spilling.SLOT)) is not None:
            self.back(former)
        self._slots[key & spilling.SLOT] = key
        recipes = [known[name] for name in self._evictions.out[key]]
        self._spared[key] = [
            self._memory.ref(argument.key)
            for recipe in recipes
            if recipe is not None
            for argument in recipe.arguments
            if argument.is_live
        ]
        return True

    def back(self, key: int) -> None:
        """It is there again, or nobody will have it."""
        if self._spared.pop(key, None) is not None:
            self._evictions.back(key)
            del self._slots[key & spilling.SLOT]

    def keys(self) -> Collection[int]:
        """Values that are not in memory, as their tasks can make them again."""
        return self._spared.keys()

    def look(self, key: int) -> None:
        """A slot out of the inbox: maybe nobody wants a value any more."""
        seen = self._slots.get(key & spilling.SLOT)
        if seen is not None and not self._memory.is_live(seen):
            self.back(seen)

    def recipes(self) -> list[int]:
        """Those that such values count on."""
        return sorted({name for runs in self._evictions.out.values() for name in runs})

    def sweep(self) -> None:
        """Whoever freed a value may have died before it told."""
        for key in [key for key in self._spared if not self._memory.is_live(key)]:
            self.back(key)

    def _runs_for(self, key: int, known: dict[int, lineage.Recipe | None]) -> tuple[int, ...]:
        """The recipes that must run for a value; none: it cannot be given up."""
        row = self._memory.recipe_of(key)
        if row is None:
            return ()
        known.setdefault(row[0], to_recipe(row))
        runs = [row[0]]
        for name in runs:  # grows while it is walked
            if name not in known:
                found = self._memory.recipe(name)
                known[name] = None if found is None else to_recipe(found)
            recipe = known[name]
            if recipe is None or recipe.is_call or recipe.is_generator:
                return ()  # making an item again takes all that come before it
            if not (recipe.is_kept and recipe.has_queue):
                return ()
            for argument in recipe.arguments:
                if argument.is_live or argument.recipe in runs:
                    continue
                if not argument.recipe or len(runs) == evicting.MOST_RUNS:
                    return ()
                runs.append(argument.recipe)
        return tuple(runs)

    def close(self) -> None:
        """Let go of everything, before memory is closed."""
        self._spared.clear()


def _runs_left(recipe: lineage.Recipe) -> int:
    return -1 if recipe.max_retries < 0 else max(0, recipe.max_retries - recipe.charged)


def to_recipe(row: RecipeRow) -> lineage.Recipe:
    """As ``_core.lineage`` knows it."""
    known = tuple(lineage.Argument(*argument) for argument in row[8])
    return lineage.Recipe(*row[:8], known, tuple(row[9]), row[10], row[11])
