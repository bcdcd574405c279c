"""What goes wrong with values: their disk, their files, and the memory that others take."""

from __future__ import annotations

import random
from collections.abc import Callable

from shoal.testing.sim.world import World


def _spill_disk_full(world: World, chance: random.Random) -> None:
    world.values.disk.is_full = True

    def freed() -> None:
        world.values.disk.is_full = False

    world.later(chance.choice((0.1, 1.0, 5.0)), freed)


def _spill_disk_slow(world: World, chance: random.Random) -> None:
    world.values.disk.slowness_s = 0.05

    def over() -> None:
        world.values.disk.slowness_s = 0.0

    world.later(chance.choice((0.3, 3.0)), over)


def _spill_disk_hangs(world: World, chance: random.Random) -> None:
    disk = world.values.disk
    disk.stopped_until = max(disk.stopped_until, world.now + chance.choice((0.1, 1.0, 10.0)))


def _spill_disk_fails(world: World, chance: random.Random) -> None:
    """EIO, for writing and for reading."""
    world.values.disk.is_failing = True

    def over() -> None:
        world.values.disk.is_failing = False

    world.later(chance.choice((0.1, 1.0)), over)


def _bits_flip(world: World, chance: random.Random) -> None:
    """A part of what is there, and of what is written for a while, has other bytes."""
    disk = world.values.disk
    disk.flip_some(chance)
    disk.flip_rate = chance.choice((0.2, 1.0))

    def over() -> None:
        disk.flip_rate = 0.0

    world.later(chance.choice((0.1, 1.0)), over)


def _file_cut(world: World, chance: random.Random) -> None:
    world.values.disk.cut(chance)


def _memory_taken(world: World, chance: random.Random) -> None:
    """Somebody else needs half of the machine's memory for a while."""
    world.values.taken = world.values.extents // 2

    def given_back() -> None:
        world.values.taken = 0
        world.values.warm()

    world.later(chance.choice((0.1, 1.0, 5.0)), given_back)


VALUE_FAULTS: dict[str, tuple[str, Callable[[World, random.Random], None]]] = {
    "spill disk full": ("S1", _spill_disk_full),
    "spill disk slow": ("S4", _spill_disk_slow),
    "spill disk hangs": ("S4", _spill_disk_hangs),
    "spill disk fails": ("S1, S3", _spill_disk_fails),
    "spilled value flipped": ("S3", _bits_flip),
    "spill file cut": ("S3", _file_cut),
    "memory taken": ("S2", _memory_taken),
}
"""As ``faults.FAULTS``."""
