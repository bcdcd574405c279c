"""What must be true of an autoscaled cluster, looked at from outside.

* An instance whose node runs something or holds a primary copy is never taken back, unless that
  node had not been visible as joined when that was decided.
* Nodes that somebody else started are never touched.
* Of no type there are more instances than ``max_count``; altogether not more than ``nodes_most``.
* Not more nodes are on their way at once than the speed allows.
* No node is drained that something ran on within ``idle_timeout_s`` (less what rows are late).
* A provider that fails is not asked again and again.
* Without faults everything that fits a type finds a place, and what nobody needs goes.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from shoal._core import autoscaler as core
from shoal._core.autoscaler_fitting import Demand, GroupDemand, why_not

if TYPE_CHECKING:
    from shoal.testing.sim.autoscaler import FakeCluster, FakeInstance, FakeNode

VIEW_S = 5.0
"""How old what was seen can be when something is done about it."""
REQUESTS_PER_PAUSE = 9


class Violation(AssertionError):
    """The autoscaler does what it must not."""


class Checks:
    """Told of everything that is about to happen."""

    def __init__(self, cluster: FakeCluster) -> None:
        self._cluster = cluster
        self._living: deque[tuple[float, int]] = deque()
        self._failing: list[float] = []

    @property
    def _now(self) -> float:
        return self._cluster.clock.now

    def stepped(self, commands: Sequence[core.Command]) -> None:
        """The machine wants this."""
        cluster = self._cluster
        living = sum(node.state == core.ALIVE for node in cluster.nodes)
        self._living.append((self._now, living))
        while self._living[0][0] < self._now - VIEW_S:
            self._living.popleft()
        names = [each.instance for each in commands if isinstance(each, core.Terminate)]
        if strange := [name for name in names if name not in cluster.instances]:
            raise Violation(f"{strange} are no instances of the provider")
        new = [each for each in commands if isinstance(each, core.Launch)]
        if fresh := [each for each in new if each.request not in cluster.requests]:
            self._check_speed(len(fresh))
            self._check_pauses(len(fresh))

    def _check_speed(self, new: int) -> None:
        cluster, settings = self._cluster, self._cluster.settings
        starting = sum(each.state == core.STARTING for each in cluster.instances.values())
        most = max(settings.launches_least, settings.speed * max(n for _, n in self._living))
        least = sum(each.min_count for each in settings.types)
        if new > most + least or starting + new > most + least + VIEW_S:
            raise Violation(f"{new} new launches while {starting} are on their way; most {most}")

    def _check_pauses(self, new: int) -> None:
        """While the provider fails, each type pauses longer and longer."""
        cluster = self._cluster
        if self._now >= cluster.fails_until:
            self._failing.clear()
            return
        self._failing += [self._now] * new
        pauses = 2 + (self._now - self._failing[0]) / cluster.settings.backoff_s
        if len(self._failing) > REQUESTS_PER_PAUSE * pauses**0.5 + REQUESTS_PER_PAUSE:
            raise Violation(f"{len(self._failing)} requests to a provider that fails")

    def launched(self, new: FakeInstance) -> None:
        """The provider has made one more."""
        settings = self._cluster.settings
        living = [i for i in self._cluster.instances.values() if i.state != core.ENDED]
        count = Counter(each.node_type for each in living)
        most = {each.name: each.max_count for each in settings.types}
        if count[new.node_type] > most[new.node_type]:
            raise Violation(f"{count[new.node_type]} instances of {new.node_type}")
        if len(living) > settings.nodes_most:
            raise Violation(f"{len(living)} instances altogether")

    def drained(self, node: FakeNode) -> None:
        """It is asked to take nothing any more."""
        if not node.request:
            raise Violation(f"{node.name} was started by somebody else")
        since = self._now - self._cluster.settings.idle_timeout_s + VIEW_S
        visible = [at for at in node.uses if since < at < self._now - VIEW_S]
        if visible:
            idle_s = self._now - visible[-1]
            raise Violation(f"{node.name} is drained, and was in use {idle_s:.1f} s ago")

    def terminated(self, instance: FakeInstance, decided_at: float) -> None:
        """It is taken back now."""
        node = instance.node
        if node is None or node.state == core.DEAD or node.joined_at > decided_at - VIEW_S:
            return
        if node.works or node.primaries:
            raise Violation(
                f"{node.name} is taken back with {len(node.works)} running and"
                f" {node.primaries} values"
            )

    def served(self) -> None:
        """Nothing has gone wrong for long."""
        settings = self._cluster.settings
        for work in self._cluster.waiting:
            what = (
                GroupDemand(work.bundles, work.strategy)
                if work.strategy
                else Demand(work.bundles[0])
            )
            if not why_not(what, settings.types):
                raise Violation(f"{what} waits, and could run")

    def shrunk(self) -> None:
        """Nothing has wanted anything for long."""
        cluster = self._cluster
        living = [i for i in cluster.instances.values() if i.state != core.ENDED]
        count = Counter(each.node_type for each in living)
        for each in cluster.settings.types:
            if count[each.name] != each.min_count:
                raise Violation(f"{count[each.name]} instances of {each.name} stay")
