"""What goes wrong in a simulated cluster, each fault with its line of the table of faults.

A fault is planned from the seed alone (``Fault``: when, which, and a number that its own choices
come from), so that a run with fewer faults is otherwise the same plan: that is how a failing seed
is made small. To add one, write a function and put it into ``FAULTS``.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec

from shoal.testing.sim import store
from shoal.testing.sim.memory_faults import MEMORY_FAULTS
from shoal.testing.sim.value_faults import VALUE_FAULTS
from shoal.testing.sim.world import World


class Fault(msgspec.Struct, frozen=True):
    """One thing that goes wrong."""

    at: float
    """Virtual seconds since the session began."""
    kind: str
    draw: int
    """Seed of what is left to chance: whom it hits, and for how long."""


def _worker_killed(world: World, chance: random.Random) -> None:
    workers = [each for each in world.processes.values() if not each.is_driver]
    if workers:
        world.die(chance.choice(workers), signal=9)


def _busy_worker_killed(world: World, chance: random.Random) -> None:
    busy = [each for each in world.processes.values() if each.running]
    if busy:
        world.die(chance.choice(busy), signal=9)


def _actor_killed(world: World, chance: random.Random) -> None:
    actors = [each for each in world.processes.values() if each.actor is not None]
    if actors:
        world.die(chance.choice(actors), signal=chance.choice((9, 11)))


def _driver_killed(world: World, chance: random.Random) -> None:
    drivers = [each for each in world.processes.values() if each.is_driver]
    if drivers:
        world.die(chance.choice(drivers), signal=9)


def _zygote_killed(world: World, chance: random.Random) -> None:
    world.lose_zygote()


def _daemon_killed(world: World, chance: random.Random) -> None:
    world.restart_node()


def _process_stopped(world: World, chance: random.Random) -> None:
    if world.processes:
        process = world.processes[chance.choice(sorted(world.processes))]
        world.stop(process, chance.choice((0.01, 0.3, 2.0)))


def _clock_jumps(world: World, chance: random.Random) -> None:
    world.suspend(chance.choice((0.05, 1.0, 30.0)))


def _starts_fail(world: World, chance: random.Random) -> None:
    world.start_failure_rate = 0.5

    def over() -> None:
        world.start_failure_rate = 0.0

    world.later(chance.choice((0.1, 1.0)), over)


def _store_killed(world: World, chance: random.Random) -> None:
    """At one of its steps, soon."""
    world.store.kill_at = (chance.choice(store.STEPS), chance.choice((0, 0, 1, 5)))


def _store_away(world: World, chance: random.Random) -> None:
    world.store.stay_away(chance.choice((0.5, 5.0, 60.0)))


def _store_stopped(world: World, chance: random.Random) -> None:
    world.store.stop(chance.choice((0.05, 1.0, 20.0)))


def _link_broken(world: World, chance: random.Random) -> None:
    world.store.break_link()


def _disk_full(world: World, chance: random.Random) -> None:
    world.store.disk.is_full = True

    def freed() -> None:
        world.store.disk.is_full = False

    world.later(chance.choice((0.1, 1.0, 10.0)), freed)


def _disk_slow(world: World, chance: random.Random) -> None:
    world.store.disk.slowness_s = 0.05

    def over() -> None:
        world.store.disk.slowness_s = 0.0

    world.later(chance.choice((0.3, 3.0)), over)


def _journal_torn(world: World, chance: random.Random) -> None:
    """A bit flip in the log: what was acknowledged last cannot be read by the next store."""
    world.store.disk.lose_tail(chance.choice((1, 3)))
    world.store.kill()


def _older_copy(world: World, chance: random.Random) -> None:
    """Somebody has put a backup back."""
    world.store.disk.lose_tail(chance.choice((5, 20)))
    world.store.kill()


FAULTS: dict[str, tuple[str, Callable[[World, random.Random], None]]] = {
    "worker killed": ("W1", _worker_killed),
    "busy worker killed": ("W1", _busy_worker_killed),
    "actor killed": ("A1, A2", _actor_killed),
    "driver killed": ("R1", _driver_killed),
    "zygote killed": ("W1", _zygote_killed),
    "daemon killed": ("D1", _daemon_killed),
    "process stopped": ("D2", _process_stopped),
    "clock jumps": ("C2", _clock_jumps),
    "starts fail": ("F4", _starts_fail),
    "store killed": ("G1", _store_killed),
    "store away": ("G2", _store_away),
    "store stopped": ("G2", _store_stopped),
    "link broken": ("N9", _link_broken),
    "disk full": ("S1, G3", _disk_full),
    "disk slow": ("S4", _disk_slow),
    "journal torn": ("G3", _journal_torn),
    "older journal": ("G4", _older_copy),
    **VALUE_FAULTS,
    **MEMORY_FAULTS,
}
"""Name -> (lines of the table of faults, what it does)."""


def strike(world: World, fault: Fault) -> None:
    """It happens now."""
    FAULTS[fault.kind][1](world, random.Random(fault.draw))
