"""A simulated provider of nodes, a cluster that grows and shrinks, and programs that want room.

The machine is the real ``AutoscalerMachine``; everything around it is made to be late, lost or
wrong. What it sees is old: rows of nodes and of demand are published once a second and arrive
later, the provider's list is older still. What it says is lost now and then: a launch may not
arrive, or arrive and not be confirmed; so may drains, terminations and refusals. Nodes boot slowly,
never join, die, or are drained by people while they work; the provider fails for a while; the
autoscaler is killed and begins another life, or stops for longer than it may.

``run`` has three phases: trouble, then a time without faults in which everything that fits some
type must find a place, then one without demand in which only ``min_count`` nodes must stay. The
checkers (``autoscaler_checkers``) read what really happens, never the machine's books.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from shoal._core import autoscaler as core
from shoal._core.autoscaler import AutoscalerMachine, InstanceRow, NodeRow, Settings
from shoal._core.autoscaler_fitting import Demand, GroupDemand, NodeType
from shoal._core.resources import Amounts, parse
from shoal.testing.sim import autoscaler_checkers as checkers
from shoal.testing.sim.clock import Clock

LOOK_S = 0.5
PUBLISH_S = 1.0
VIEW_LATE_S = 1.0
"""Rows of nodes and demand arrive up to so late."""
LIST_LATE_S = 1.5
"""The provider's list is up to so old."""
BOOT_S = 8.0
TROUBLE_S = 500.0
SERVED_S = 400.0
SHRUNK_S = 400.0
LOST_SHARE = 0.15
SETTINGS = Settings(
    types=(
        NodeType("small", parse({"CPU": 4}), min_count=1, max_count=6),
        NodeType("large", parse({"CPU": 16}), (("zone", "a"),), max_count=3),
        NodeType("accelerated", parse({"CPU": 8, "GPU": 2}), max_count=2),
    ),
    nodes_most=9,
    idle_timeout_s=30.0,
    patience_s=3.0,
    gap_s=10.0,
    launches_least=3,
    join_timeout_s=60.0,
    repeat_s=5.0,
    backoff_s=5.0,
    backoff_most_s=40.0,
    lost_s=20.0,
)
SHAPES = ({"CPU": 1}, {"CPU": 2}, {"CPU": 6}, {"CPU": 2, "GPU": 1}, {"GPU": 0.5}, {"CPU": 12})
GROUPS = (
    (({"CPU": 2}, {"CPU": 2}), "STRICT_SPREAD"),
    (({"CPU": 6}, {"CPU": 6}), "STRICT_PACK"),
    (({"CPU": 3}, {"CPU": 3}, {"CPU": 3}), "PACK"),
)
FAULTS = ("provider fails", "node dies", "person drains", "killed", "stopped", "hangs")


@dataclass(eq=False)
class Work:
    """A task, or a group with all its bundles: wants room, has it for a while, is gone."""

    bundles: tuple[Amounts, ...]
    strategy: str = ""
    for_s: float = 1.0
    value_s: float = 0.0
    """What it leaves behind is needed for so long: a primary copy."""


@dataclass(eq=False)
class FakeNode:
    """What really is."""

    name: str
    total: dict[str, int]
    request: str = ""
    node_type: str = ""
    state: str = core.ALIVE
    free: dict[str, int] = field(default_factory=dict)
    works: list[Work] = field(default_factory=list)
    primaries: int = 0
    joined_at: float = 0.0
    uses: list[float] = field(default_factory=list)
    """When something began or ended to run or be held there."""

    @property
    def used_at(self) -> float:
        """The last time of these."""
        return self.uses[-1] if self.uses else self.joined_at

    def fits(self, amounts: Amounts) -> bool:
        return all(self.free.get(name, 0) >= units for name, units in amounts)

    def row(self, settings: Settings, now: float) -> NodeRow:
        labels = next((t.labels for t in settings.types if t.name == self.node_type), ())
        return NodeRow(
            node=self.name,
            total=tuple(self.total.items()),
            free=tuple(self.free.items()),
            state=self.state,
            request=self.request,
            node_type=self.node_type,
            labels=labels,
            is_busy=bool(self.works),
            primaries=self.primaries,
            idle_s=now - self.used_at,
        )


@dataclass(eq=False)
class FakeInstance:
    """What the provider really has."""

    name: str
    request: str
    node_type: str
    state: str = core.STARTING
    node: FakeNode | None = None
    gone_at: float | None = None

    def row(self) -> InstanceRow:
        return InstanceRow(self.name, self.request, self.node_type, self.state)


class FakeCluster:
    """Provider, nodes, programs and the autoscaler, on one virtual clock."""

    def __init__(self, seed: int, settings: Settings = SETTINGS, loads: bool = True) -> None:
        self.clock = Clock(seed)
        self.settings = settings
        self.random = self.clock.random
        self.nodes: list[FakeNode] = []
        self.instances: dict[str, FakeInstance] = {}
        self.waiting: list[Work] = []
        self._places: dict[Work, list[FakeNode]] = {}
        self.counts = dict.fromkeys((*FAULTS, "launches", "failed", "terminated", "refused"), 0)
        self.requests: dict[str, str] = {}
        """Every request ever made, and its type."""
        self.has_faults = loads
        self.has_loads = loads
        self.fails_until = 0.0
        self.hangs_until = 0.0
        self.stopped_until = 0.0
        self.checks = checkers.Checks(self)
        self._published: tuple[tuple[NodeRow, ...], tuple[Demand | GroupDemand, ...]] = ((), ())
        self._lives = 0
        self.begin_life()
        self.join("head", {"CPU": 20_000}, "", "")
        self._every(PUBLISH_S, self._publish)
        self._every(LOOK_S, self._look)
        self._every(0.2, self._schedule)
        self._every(15.0, self._arrive)
        self._every(40.0, self._trouble)

    def _every(self, mean_s: float, action: object) -> None:
        def again() -> None:
            action()  # type: ignore[operator]
            self.clock.later(mean_s * self.random.uniform(0.5, 1.5), again)

        self.clock.later(mean_s * self.random.random(), again)

    # ---- the autoscaler
    def begin_life(self) -> None:
        self._lives += 1
        self.machine = AutoscalerMachine(self.settings, f"life{self._lives}")

    def _look(self) -> None:
        if self.clock.now < self.stopped_until:
            return
        nodes, wanted = self._published
        late_s = self.random.uniform(0, LIST_LATE_S)
        rows = tuple(each.row() for each in self.instances.values())
        machine = self.machine

        def seen() -> None:
            if machine is self.machine and self.clock.now >= self.stopped_until:
                self.tell(core.Looked(nodes, rows, wanted))

        self.clock.later(late_s, seen)

    def tell(self, event: core.Event) -> None:
        """One step, and what follows from it."""
        commands = self.machine.step(self.clock.now, event)
        self.machine.validate()
        self.checks.stepped(commands)
        for command in commands:
            match command:
                case core.Launch(request, node_type):
                    self._launch(request, node_type)
                case core.Drain(node):
                    self._drain(node)
                case core.Terminate(instance):
                    self._terminate(instance)

    def _is_lost(self) -> bool:
        return self.has_faults and self.random.random() < LOST_SHARE

    # ---- the provider
    def _launch(self, request: str, node_type: str) -> None:
        self.requests.setdefault(request, node_type)
        self.counts["launches"] += 1
        if self._is_lost():
            return
        if self.clock.now < self.fails_until:
            self.counts["failed"] += 1
            self.clock.later(0.5, lambda: self.tell(core.LaunchFailed(request, "no capacity")))
            return
        if any(each.request == request for each in self.instances.values()):
            return
        instance = FakeInstance(f"i{len(self.instances)}", request, node_type)
        self.instances[instance.name] = instance
        self.checks.launched(instance)
        if self.clock.now >= self.hangs_until:
            self.clock.later(self.clock.delay(BOOT_S), lambda: self._boot(instance))

    def _boot(self, instance: FakeInstance) -> None:
        if instance.state != core.STARTING:
            return
        if self.has_faults and self.random.random() < 0.1:
            instance.state, instance.gone_at = core.ENDED, self.clock.now
            return
        instance.state = core.RUNNING
        total = next(t.total for t in self.settings.types if t.name == instance.node_type)
        name = f"n-{instance.name}"
        instance.node = self.join(name, dict(total), instance.request, instance.node_type)

    def join(self, name: str, total: dict[str, int], request: str, node_type: str) -> FakeNode:
        node = FakeNode(name, total, request, node_type, free=dict(total))
        node.joined_at = self.clock.now
        self.nodes.append(node)
        return node

    def _terminate(self, name: str) -> None:
        decided_at = self.clock.now
        if self._is_lost():
            return

        def end() -> None:
            instance = self.instances[name]
            if instance.state in (core.STARTING, core.RUNNING):
                self.checks.terminated(instance, decided_at)
                self.counts["terminated"] += 1
                instance.state = core.ENDING
                if instance.node is not None:
                    self.lose(instance.node)
                self.clock.later(self.clock.delay(3.0), lambda: self._gone(instance))

        self.clock.later(self.clock.delay(1.0), end)

    def _gone(self, instance: FakeInstance) -> None:
        instance.state, instance.gone_at = core.ENDED, self.clock.now

    # ---- nodes
    def lose(self, node: FakeNode) -> None:
        """It is no more; what ran there wants room again."""
        node.state = core.DEAD
        for work in dict.fromkeys(node.works):
            for at, amounts in zip(self._places.pop(work), work.bundles):
                self._give(at, amounts)
                at.works.remove(work)
            self.waiting.append(work)

    def _drain(self, name: str) -> None:
        node = next(each for each in self.nodes if each.name == name)
        self.checks.drained(node)
        if self._is_lost():
            return

        def decide() -> None:
            if node.works or node.primaries:
                self.counts["refused"] += 1
                if not self._is_lost():
                    self.clock.later(0.2, lambda: self.tell(core.DrainRefused(name)))
            elif node.state == core.ALIVE:
                node.state = core.DRAINED

        self.clock.later(self.clock.delay(0.5), decide)

    def _publish(self) -> None:
        nodes = tuple(node.row(self.settings, self.clock.now) for node in self.nodes)
        demands: dict[Amounts, int] = {}
        groups = []
        for work in self.waiting:
            if work.strategy:
                groups.append(GroupDemand(work.bundles, work.strategy))
            else:
                demands[work.bundles[0]] = demands.get(work.bundles[0], 0) + 1
        rows = [Demand(amounts, count) for amounts, count in demands.items()]
        wanted: tuple[Demand | GroupDemand, ...] = (*groups, *rows)
        late_s = self.random.uniform(0, VIEW_LATE_S)

        def arrive() -> None:
            self._published = (nodes, wanted)

        self.clock.later(late_s, arrive)

    # ---- programs
    def want(self, work: Work) -> None:
        """A program has something to run."""
        self.waiting.append(work)

    def _arrive(self) -> None:
        if not self.has_loads:
            return
        if self.random.random() < 0.3:
            bundles, strategy = self.random.choice(GROUPS)
            parsed = tuple(parse(each) for each in bundles)
            self.want(Work(parsed, strategy, self.clock.delay(20.0)))
            return
        amounts = parse(self.random.choice(SHAPES))
        for _ in range(self.random.randrange(1, 12)):
            value_s = self.clock.delay(30.0) if self.random.random() < 0.3 else 0.0
            self.want(Work((amounts,), "", self.clock.delay(10.0), value_s))

    def _schedule(self) -> None:
        """Whatever fits starts; a group with all its bundles."""
        for work in list(self.waiting):
            places = self._find(work)
            if places is None:
                continue
            self.waiting.remove(work)
            for node, amounts in zip(places, work.bundles):
                for name, units in amounts:
                    node.free[name] -= units
                node.works.append(work)
                node.uses.append(self.clock.now)
            self._places[work] = places
            self._begin(work, places)

    def _begin(self, work: Work, places: list[FakeNode]) -> None:
        def end() -> None:
            if self._places.get(work) is not places:
                return  # it was lost on the way, and runs elsewhere or waits
            del self._places[work]
            for node, amounts in zip(places, work.bundles):
                self._give(node, amounts)
                node.works.remove(work)
                node.uses.append(self.clock.now)
            if work.value_s:
                self._hold(places[0], work.value_s)

        self.clock.later(work.for_s, end)

    def _hold(self, node: FakeNode, for_s: float) -> None:
        def drop() -> None:
            node.primaries -= 1
            node.uses.append(self.clock.now)

        node.primaries += 1
        self.clock.later(for_s, drop)

    def _give(self, node: FakeNode, amounts: Amounts) -> None:
        for name, units in amounts:
            node.free[name] += units

    def _find(self, work: Work) -> list[FakeNode] | None:
        alive = [node for node in self.nodes if node.state == core.ALIVE]
        taken: list[tuple[FakeNode, Amounts]] = []
        for amounts in work.bundles:
            for node in alive:
                apart = work.strategy != "STRICT_SPREAD" or all(n is not node for n, _ in taken)
                together = work.strategy != "STRICT_PACK" or all(n is node for n, _ in taken)
                if apart and together and node.fits(amounts):
                    for name, units in amounts:
                        node.free[name] -= units
                    taken.append((node, amounts))
                    break
        for node, amounts in taken:
            self._give(node, amounts)
        return [node for node, _ in taken] if len(taken) == len(work.bundles) else None

    # ---- trouble
    def _trouble(self) -> None:
        if not self.has_faults:
            return
        kind = self.random.choice(FAULTS)
        self.counts[kind] += 1
        now = self.clock.now
        ours = [node for node in self.nodes if node.request and node.state == core.ALIVE]
        match kind:
            case "provider fails":
                self.fails_until = now + self.clock.delay(30.0)
            case "hangs":
                self.hangs_until = now + self.clock.delay(15.0)
            case "node dies" if ours:
                node = self.random.choice(ours)
                self.lose(node)
                if self.random.random() < 0.5:
                    self._gone(next(i for i in self.instances.values() if i.node is node))
            case "person drains" if ours:
                self.random.choice(ours).state = core.DRAINED
            case "killed":
                self.stopped_until = now + self.clock.delay(5.0)
                self.begin_life()
            case "stopped":
                self.stopped_until = now + self.clock.delay(40.0)


def run(seed: int, settings: Settings = SETTINGS) -> FakeCluster:
    """Trouble, service, and shrinking; raises ``checkers.Violation``."""
    cluster = FakeCluster(seed, settings)
    cluster.clock.run(TROUBLE_S)
    cluster.has_faults = cluster.has_loads = False
    cluster.fails_until = cluster.hangs_until = cluster.stopped_until = 0.0
    cluster.clock.run(TROUBLE_S + SERVED_S)
    cluster.checks.served()
    cluster.clock.run(TROUBLE_S + SERVED_S + SHRUNK_S)
    cluster.checks.shrunk()
    return cluster


def steady(seed: int, works: Sequence[tuple[float, Work]], for_s: float) -> FakeCluster:
    """Given work at given times, nothing goes wrong."""
    cluster = FakeCluster(seed, loads=False)
    for at, work in works:
        cluster.clock.later(at, lambda work=work: cluster.want(work))  # type: ignore[misc]
    cluster.clock.run(for_s)
    return cluster
