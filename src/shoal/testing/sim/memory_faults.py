"""What goes wrong with the memory of processes: hogs, false and old readings, a kernel that kills.

Where nobody watches that memory they do nothing, but for the last.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from shoal.testing.sim.fakes import Appetite
from shoal.testing.sim.world import World


def _memory_used(world: World, chance: random.Random) -> None:
    """Something else on the machine takes most of it."""
    world.elsewhere_bytes = int(world.limit_bytes * chance.choice((0.5, 0.8)))
    world.kernel_looks()

    def over() -> None:
        world.elsewhere_bytes = 0

    world.later(chance.choice((0.3, 2.0, 5.0)), over)


def _task_hog(world: World, chance: random.Random) -> None:
    """What runs takes ten times as much as its function ever did."""
    meals = [world.meals[key] for key in sorted(world.meals)]
    if meals:
        meal = chance.choice(meals)
        old = meal.appetite
        meal.appetite = Appetite(old.function, 10 * old.grows_bytes, old.keeps_bytes)


def _reading_false(world: World, chance: random.Random) -> None:
    world.lie = chance.choice((0.0, 0.3, 3.0))

    def over() -> None:
        world.lie = 1.0

    world.later(chance.choice((0.1, 1.0, 3.0)), over)


def _reading_old(world: World, chance: random.Random) -> None:
    world.is_stale = True

    def over() -> None:
        world.is_stale = False

    world.later(chance.choice((0.3, 2.0)), over)


def _kernel_kills(world: World, chance: random.Random) -> None:
    """A group's limit that nobody has told of."""
    busy = [each for each in world.processes.values() if each.running and not each.is_driver]
    if busy:
        world.end_by_kernel(chance.choice(busy))


MEMORY_FAULTS: dict[str, tuple[str, Callable[[World, random.Random], None]]] = {
    "memory used elsewhere": ("M1", _memory_used),
    "memory hog": ("M1", _task_hog),
    "memory read false": ("M1", _reading_false),
    "memory read late": ("M1", _reading_old),
    "kernel kills": ("M1", _kernel_kills),
}
"""As ``faults.FAULTS``."""
