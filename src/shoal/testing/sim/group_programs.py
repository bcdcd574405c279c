"""Programs that make placement groups, also impossible ones, run things in them and outside of
them, and resize and remove them at any moment."""

from __future__ import annotations

from shoal._core import resources
from shoal._proto import messages as m
from shoal.testing.sim import checkers
from shoal.testing.sim.fakes import FakeGroup, FakeProcess
from shoal.testing.sim.programs import Program
from shoal.testing.sim.world import World

BUNDLES: tuple[list[dict[str, float]], ...] = (
    [{"CPU": 1.0}],
    [{"CPU": 1.0}, {"CPU": 1.0}],
    [{"CPU": 2.0}],
    [{"CPU": 1.0, "GPU": 1.0}],
    [{"CPU": 1.0, "GPU": 0.5}, {"CPU": 0.5, "GPU": 0.5}],
    [{"CPU": 1.0, "disk": 1.0}],
    [{"CPU": 1.0, "GPU": 0.75}, {"CPU": 0.5, "GPU": 0.75}, {"GPU": 0.5}],
)


def is_possible(world: World, bundles: list[dict[str, float]], strategy: str) -> bool:
    if strategy == "STRICT_SPREAD" and len(bundles) > 1:
        return False
    asked = resources.sum_of(map(resources.parse, bundles))
    total = dict(resources.parse(world.config.total))
    return all(units <= total.get(name, 0) for name, units in asked)


class GroupProgram(Program):
    """A driver that makes groups and runs half of what it does in them."""

    resizes = 0.2
    """How often it resizes one."""

    def __init__(self, world: World, name: str, bursts: int, chaos: float) -> None:
        self.groups: list[str] = []
        super().__init__(world, name, bursts * 2, chaos)

    def next_burst(self) -> None:
        is_busy = self.bursts > 0 and self.process.index in self.world.processes
        if is_busy and self.world.random.random() < 0.4:
            self.make()
        if is_busy and self.groups and self.world.random.random() < 0.2:
            self.remove(self.world.random.choice(self.groups))
        if is_busy and self.groups and self.resizes and self.world.random.random() < self.resizes:
            self.resize(self.world.random.choice(self.groups))
        super().next_burst()

    def strategy(self) -> m.Strategy:
        random = self.world.random
        if not self.groups or random.random() < 0.4:
            return m.Default()
        group_id = random.choice(self.groups)
        bundle = random.choice((-1, -1, 0))
        return m.InGroup(group_id, bundle, captures=random.random() < 0.3)

    def make(self) -> None:
        """Ask for a group, and be told when it is there."""
        world, random = self.world, self.world.random
        bundles = random.choice(BUNDLES)
        if random.random() < self.chaos * 0.1:
            bundles = [{"CPU": 1e6}]
        strategy = random.choice(("PACK", "PACK", "SPREAD", "STRICT_SPREAD"))
        group_id = f"group-{len(world.groups)}"
        possible = is_possible(world, bundles, strategy)
        group = FakeGroup(bundles, self.process.index, possible)
        world.groups[group_id] = group
        self.groups.append(group_id)

        def answered(body: m.Message) -> None:
            group.is_ready = isinstance(body, m.GroupAnswer) and body.is_ready

        body = m.CreateGroup(group_id, bundles, strategy, waits=True)
        world.request(self.process, body, answered)

    def resize(self, group_id: str) -> None:
        """By one bundle more, or by one less."""
        world, random, group = self.world, self.world.random, self.world.groups[group_id]
        if not group.is_ready:
            return
        bundles = [*group.bundles]
        others = [index for index, bundle in enumerate(bundles) if bundle and index]
        if others and random.random() < 0.5:
            bundles[random.choice(others)] = {}
        else:
            bundles.append({"CPU": 1.0})
        group.is_ready = False

        def resized(body: m.Message) -> None:
            if isinstance(body, m.GroupFacts):
                assert body.resized_by == "me" and body.bundles == bundles
                group.bundles, group.revision = bundles, body.revision
            if group.removed_at is None:
                world.request(self.process, m.WaitGroup(group_id, None), ready)

        def ready(body: m.Message) -> None:
            is_ready = isinstance(body, m.GroupAnswer) and body.is_ready
            # What ran in a removed bundle is being killed.
            world.after(2 * checkers.GROUP_END_S, lambda: setattr(group, "is_ready", is_ready))

        body = m.ResizeGroup(group_id, group.revision + 1, "me", bundles, [])
        world.request(self.process, body, resized)

    def remove(self, group_id: str) -> None:
        """It is over from the moment that somebody asks for it."""
        world = self.world
        self.groups.remove(group_id)
        world.groups[group_id].removed_at = world.now
        # Later than any request that is on its way: a stream keeps the order, this world does not.
        world.after(0.001, lambda: world.request(self.process, m.RemoveGroup(group_id)))

    def leave(self) -> None:
        while self.groups:
            self.remove(self.groups[0])
        super().leave()


class GroupWorld(World):
    """A node whose drivers take their groups along."""

    def die(self, process: FakeProcess, code: int | None = None, signal: int | None = None) -> None:
        if self.processes.get(process.index) is process:
            for group in self.groups.values():
                if group.maker == process.index and group.removed_at is None:
                    group.removed_at = self.now
        super().die(process, code, signal)


class Watched(GroupProgram):
    """Looks at the groups once more when nothing has happened for long."""

    def __init__(self, world: World, name: str, bursts: int, chaos: float) -> None:
        super().__init__(world, name, bursts, chaos)
        world.after(50.0, lambda: checkers.check_groups_progress(world))
