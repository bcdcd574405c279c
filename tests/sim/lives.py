"""Whole lives of a simulated node without its store: programs come, do things, go or die."""

from __future__ import annotations

import functools

from shoal._base.config import NodeConfig
from shoal.testing.sim import checkers
from shoal.testing.sim.programs import Program
from shoal.testing.sim.world import World


def config(seed: int, started: bool = True) -> NodeConfig:
    """A node, large or small."""
    cpus = (1.0, 2.0, 4.0, 16.0)[seed % 4]
    return NodeConfig(
        session="sim",
        directory="/nowhere",
        node_id=b"simulated node 1",
        total={"CPU": max(cpus, 2.0), "GPU": 2.0, "disk": 1.0, "memory": 1e9},
        cores=int(cpus),
        started=started,
    )


def live(seed: int, world: World | None = None, kind: type[Program] = Program) -> World:
    """Some drivers come, do things, go or die; then everything must be over."""
    world = world or World(seed, config(seed))
    random = world.random
    chaos = (0.0, 0.3, 1.0)[seed % 3]
    world.start_failure_rate = 0.05 * chaos
    programs: list[Program] = []

    def arrive(name: str, bursts: int) -> None:
        programs.append(kind(world, name, bursts, chaos))

    for number in range(random.choice((1, 2, 4))):
        begin = functools.partial(arrive, f"driver {number}", random.choice((2, 5, 10)))
        world.after(world.delay(0.2), begin)
    if chaos:
        for _ in range(random.choice((0, 3, 10))):
            world.after(world.delay(0.3), lambda: kill_somebody(world))
    world.run(5.0)
    world.start_failure_rate = 0.0
    world.run(60.0)
    checkers.check_progress(world)
    # Whoever still waits for something that will never come (an infeasible request in a started
    # session waits for ever) is ended now.
    for program in programs:
        world.die(program.process, signal=15)
    world.run(62.0)
    for program in programs:
        program.drop_everything()
    world.run(100.0)
    checkers.check_all_over(world)
    checkers.check_given_back(world)
    return world


def kill_somebody(world: World) -> None:
    """A worker dies, wherever it is."""
    workers = [p for p in world.processes.values() if not p.is_driver]
    if workers:
        world.die(world.random.choice(workers), signal=9)
