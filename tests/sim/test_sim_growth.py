"""A node that has served long knows no more than one that has served for a while.

Every table of the deciding machine that remembers what is over has a limit. Here the limits are
small, and jobs come, lose workers and end, again and again: once the tables are full, the number of
objects that can be reached from the machine must stay as it is.
"""

from __future__ import annotations

import gc
from types import BuiltinFunctionType, FunctionType, ModuleType

from shoal._base.config import Limits, NodeConfig
from shoal.testing.sim.programs import Program
from shoal.testing.sim.world import World
from tests.sim.lives import kill_somebody

LIMITS = Limits(
    story_most=100,
    tombstones_most=10,
    crash_memory_most=10,
    jobs_ended_most=3,
    queues_kept=2,
    queue_idle_s=1.0,
)
FILLING = 8
MORE = 16
JITTER = 40
"""Tables are as full as their limits allow, give or take what their last rows refer to."""


def reachable(root: object) -> int:
    """How many objects, other than code, can be reached from `root`."""
    seen, stack = {id(root)}, [root]
    while stack:
        for found in gc.get_referents(stack.pop()):
            code = isinstance(found, type | ModuleType | FunctionType | BuiltinFunctionType)
            if not code and id(found) not in seen:
                seen.add(id(found))
                stack.append(found)
    return len(seen)


def serve(world: World, life: int) -> None:
    """Two programs come, five processes die, and both programs end."""
    programs: list[Program] = []
    for number in range(2):
        name = f"driver {life}.{number}"
        world.after(0.1, lambda name=name: programs.append(Program(world, name, 4, chaos=1.0)))
    for number in range(5):
        world.after(0.2 + number / 20, lambda: kill_somebody(world))
    begin = world.now
    world.run(begin + 20.0)
    for program in programs:
        world.die(program.process, signal=15)
    world.run(begin + 22.0)
    for program in programs:
        program.drop_everything()
    world.run(begin + 60.0)


def test_a_node_that_serves_on_does_not_grow() -> None:
    config = NodeConfig(
        session="sim",
        directory="/nowhere",
        node_id=b"simulated node 1",
        total={"CPU": 4.0, "GPU": 2.0, "disk": 1.0, "memory": 1e9},
        cores=4,
        started=True,
        limits=LIMITS,
    )
    world = World(5, config)
    sizes = []
    for life in range(FILLING + MORE):
        serve(world, life)
        sizes.append(reachable(world.machine))
    full = max(sizes[:FILLING])
    assert max(sizes[-4:]) <= full + JITTER, sizes
