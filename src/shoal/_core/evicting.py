"""Which values are given up where no file can take them: those that their tasks can make again.

The last thing before a full store is an error. It owns the runs that are *set aside*: a value that
is given up counts on one more run of its task, and of each task whose result is gone already and
is needed for that.

Rules:

1. A value is given up only if every run that it needs is left to its task (``max_retries``), beside
   those that other values count on. So what we choose to give up is never lost by that choice.
2. What a task that has not ended was given goes last: it would be made again at once.
3. Of the others the one that was unused for longest goes first; nothing tells of a look, but a look
   changes the mark of the memory (see ``spilling``).
4. No more than is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

MOST_RUNS = 16
"""A value that needs more tasks than these stays: reading it again would take too long."""


class Unit(msgspec.Struct, frozen=True):
    """Memory that is free once these values are given up."""

    place: int
    n_extents: float
    keys: tuple[int, ...]
    mark: int
    runs: tuple[tuple[int, ...], ...]
    """For each value the recipes that must run for it."""
    is_needed: bool
    """A task that has not ended was given one of them."""


class Evictions:
    """Decides what is given up, and remembers what counts on which run."""

    def __init__(self) -> None:
        self.out: dict[int, tuple[int, ...]] = {}
        """Values that were given up -> the recipes that they count on."""
        self._aside: dict[int, int] = {}
        self._used_at: dict[int, tuple[int, float]] = {}

    def choose(
        self, now: float, n_extents: int, units: Iterable[Unit], runs_left: Mapping[int, int]
    ) -> list[Unit]:
        """What to give up for ``n_extents``; ``runs_left`` of recipes, negative: any number."""
        chosen: list[Unit] = []
        found = 0.0
        for unit in self._in_order(now, units):
            if found >= n_extents:
                break
            if self._set_aside(unit, runs_left):
                chosen.append(unit)
                found += unit.n_extents
        return chosen

    def back(self, key: int) -> None:
        """The value is there again, or did not leave, or nobody wants it any more."""
        for recipe in self.out.pop(key, ()):
            self._aside[recipe] -= 1
            if not self._aside[recipe]:
                del self._aside[recipe]

    def _in_order(self, now: float, units: Iterable[Unit]) -> list[Unit]:
        before, self._used_at = self._used_at, {}
        known = list(units)
        for unit in known:
            mark, at = before.get(unit.place, (None, now))
            self._used_at[unit.place] = (unit.mark, at if mark == unit.mark else now)
        return sorted(known, key=lambda u: (u.is_needed, self._used_at[u.place][1], u.place))

    def _set_aside(self, unit: Unit, runs_left: Mapping[int, int]) -> bool:
        taken: dict[int, int] = {}
        for runs in unit.runs:
            for recipe in runs:
                taken[recipe] = taken.get(recipe, 0) + 1
        for recipe, n in taken.items():
            left = runs_left[recipe]
            if 0 <= left < self._aside.get(recipe, 0) + n:
                return False
        for key, runs in zip(unit.keys, unit.runs, strict=True):
            self.out[key] = runs
        for recipe, n in taken.items():
            self._aside[recipe] = self._aside.get(recipe, 0) + n
        return True

    def validate(self) -> None:
        """Assert what must hold between steps."""
        counted: dict[int, int] = {}
        for runs in self.out.values():
            for recipe in runs:
                counted[recipe] = counted.get(recipe, 0) + 1
        assert counted == self._aside
