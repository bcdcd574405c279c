"""Simulated values that are given up as there is no room: the real ``Evictions`` on naive memory.

What ``_runtime.daemon_given_up`` does. A value that is given up is lost until somebody reads it;
then its task makes it again. Until that has happened what its task needs, and is there, is held.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from shoal._core import evicting
from shoal._core.lineage import Lineage, Recipe
from shoal.testing.sim import value_checkers
from shoal.testing.sim.fakes import FakeTask
from shoal.testing.sim.recipes import FakeRecipes
from shoal.testing.sim.room import FakeValue


class FakeGivenUp(FakeRecipes):
    """Values that left memory for nowhere."""

    def _begin(self) -> None:
        super()._begin()
        self.evictions = evicting.Evictions()
        self._spared: dict[int, list[FakeValue]] = {}
        """By value that was given up: what its task needs, and is there."""

    lineage: Lineage

    def arguments_in_use(self) -> set[int]:
        """Of tasks that make something again now (the layer above)."""
        raise NotImplementedError

    def tasks_not_over(self) -> Iterable[FakeTask]:
        """All tasks that may still read what they were given."""
        return [task for task in self._memory.tasks.values() if not task.is_over]

    def needed(self) -> set[int]:
        """What a task that has not ended was given."""
        return {value.key for task in self.tasks_not_over() for value in task.script.inputs}

    def counted_on(self) -> set[int]:
        return {name for runs in self.evictions.out.values() for name in runs}

    def given_up(self) -> Collection[int]:
        return self._spared.keys()

    def evict(self, n_extents: int) -> float:
        known: dict[int, Recipe] = {}
        needed, in_use = self.needed(), self.arguments_in_use()
        units = []
        for unit in self.units():
            runs = tuple(self.runs_for(self.values[key], known) for key in unit.keys)
            if all(runs) and in_use.isdisjoint(unit.keys):
                is_needed = not needed.isdisjoint(unit.keys)
                units.append(
                    evicting.Unit(unit.place, unit.n_extents, unit.keys, unit.mark, runs, is_needed)
                )
        left = {
            name: -1 if row.max_retries < 0 else max(0, row.max_retries - row.charged)
            for name, row in known.items()
        }
        chosen = self.evictions.choose(self._world.now, n_extents, units, left)
        self.evictions.validate()
        value_checkers.check_choice(self, chosen, n_extents)
        for each in chosen:
            for key in each.keys:
                self._give_up(self.values[key])
        value_checkers.check_runs_set_aside(self)
        return sum(each.n_extents for each in chosen)

    def runs_for(self, value: FakeValue, known: dict[int, Recipe]) -> tuple[int, ...]:
        """The recipes that must run for it; none: it cannot be given up."""
        if value.recipe is None:
            return ()
        runs = [value.recipe.key]
        for name in runs:  # grows while it is walked
            recipe = self.recipes.get(name)
            if recipe is None:
                return ()
            row = known.setdefault(name, self.row(recipe))
            if not (row.is_kept and row.has_queue):
                return ()
            for argument in row.arguments:
                if argument.is_live or argument.recipe in runs:
                    continue
                if not argument.recipe or len(runs) == evicting.MOST_RUNS:
                    return ()
                runs.append(argument.recipe)
        return tuple(runs)

    def _give_up(self, value: FakeValue) -> None:
        assert value.place is not None
        value_checkers.check_given_away(self, value)
        spared = [
            found
            for name in self.evictions.out[value.key]
            for key, _, _ in self.recipes[name].arguments
            if (found := self.values.get(key)) is not None
        ]
        for each in spared:
            self.hold(each)
        self._spared[value.key] = spared
        place, value.place, value.number = value.place, None, 0
        self.give_back(place, value)
        self.counts["evicted"] += 1

    def back(self, key: int) -> None:
        """It is there again, or nobody will have it."""
        spared = self._spared.pop(key, None)
        if spared is not None:
            self.evictions.back(key)
            for value in spared:
                self.hold(value, -1)

    def look(self, keys: Iterable[int]) -> None:
        keys = list(keys)
        gone = self._spared if self._has_overflown else keys
        for key in [key for key in gone if key not in self.values]:
            self.back(key)
        super().look(keys)
