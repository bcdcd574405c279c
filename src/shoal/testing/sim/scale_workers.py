"""The workers of one node of a scale simulation: rings, slots, and what arguments take to come.

A free slot takes the next task at once, jobs in turn. A job is here what one node submits, so
fairness between jobs is fairness between submitters. What the daemon does stands in
``scale_nodes``, the layer above.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from shoal._core.policies.view import slots
from shoal._core.resources import Amounts
from shoal.testing.sim.scale_tasks import Task, name_of

if TYPE_CHECKING:
    from shoal.testing.sim.scale_cluster import ScaleCluster


class Queue:
    """One class queue of one node: lines of tasks, one for each job."""

    __slots__ = ("lines", "running", "takes")

    def __init__(self) -> None:
        self.lines: OrderedDict[int, deque[Task]] = OrderedDict()
        """By the node that submitted; no line is empty."""
        self.running = 0
        self.takes = 0

    def push(self, task: Task) -> None:
        """At the end of its line."""
        self.lines.setdefault(task.home, deque()).append(task)

    def pop(self) -> Task:
        """The next one of the line whose turn it is."""
        home, line = self.lines.popitem(last=False)
        task = line.popleft()
        if line:
            self.lines[home] = line
        return task

    def entries(self, home: int) -> int:
        """Tasks of one job that wait."""
        return len(self.lines.get(home, ()))


class WorkerLayer:
    """What runs on a node."""

    def __init__(self, cluster: ScaleCluster, index: int, total: Amounts) -> None:
        self.cluster = cluster
        self.index = index
        self.name = name_of(index)
        self.total = dict(total)
        self.free = dict(total)
        self.queues = [Queue() for _ in cluster.load.wishes]
        self.fits = [slots(self.total, (), wish.amounts) for wish in cluster.load.wishes]
        self.pinned = [0 for _ in self.queues]
        """Tasks in each ring that have been out."""
        self.fetching = [0 for _ in self.queues]
        """Own tasks whose arguments are on their way."""
        self.is_stopped_until = 0.0
        self.slots_stopped_until = 0.0
        self.is_dead = False
        self.mean_s: float | None = None
        """How long tasks take here."""
        self._network_free_at = 0.0

    # ---- the layer above
    def has_run(self, task: Task) -> None:
        """A task has ended."""
        raise NotImplementedError

    def plan_look(self) -> None:
        """The daemon is to look at the queues."""
        raise NotImplementedError

    def touch_row(self) -> None:
        """What is free has changed."""
        raise NotImplementedError

    # ---- slots
    def start(self, queue: int) -> None:
        """Free slots take what is next."""
        if self.cluster.now < self.slots_stopped_until:
            return
        q = self.queues[queue]
        amounts = self.cluster.load.wishes[queue].amounts
        while q.lines and slots(self.free, (), amounts):
            task = q.pop()
            for name, units in amounts:
                self.free[name] -= units
            q.running += 1
            q.takes += 1
            if task.home == self.index and task.outings:
                self.pinned[queue] -= 1
            self.cluster.checker.started(task, self.name)
            self.cluster.at(self.cluster.now + task.length_s, self.ended, task)
        if self.free != self.total:
            self.touch_row()

    def ended(self, task: Task) -> None:
        """A task has run."""
        if self.is_dead:
            return
        q = self.queues[task.queue]
        for name, units in self.cluster.load.wishes[task.queue].amounts:
            self.free[name] += units
        q.running -= 1
        self.cluster.checker.ended(task, self.name)
        known = self.mean_s
        self.mean_s = task.length_s if known is None else known + 0.1 * (task.length_s - known)
        self.has_run(task)
        for queue, other in enumerate(self.queues):
            if other.lines:
                self.start(queue)
        if not q.lines:
            self.plan_look()
        self.touch_row()

    def stop(self, for_s: float, is_busy: bool) -> None:
        """Nothing begins here for a while, nor is anything read if it is not only busy; what runs
        goes on."""
        self.slots_stopped_until = self.cluster.now + for_s
        if not is_busy:
            self.is_stopped_until = self.cluster.now + for_s
        self.cluster.at(self.slots_stopped_until, self._go_on)

    def _go_on(self) -> None:
        for queue in range(len(self.queues)):
            self.start(queue)
        self.plan_look()

    def free_now(self) -> dict[str, int]:
        """What could start something: nothing while its slots are stopped."""
        if self.cluster.now < self.slots_stopped_until:
            return dict.fromkeys(self.free, 0)
        return dict(self.free)

    # ---- rings
    def take_out(self, queue: int, count: int, may_leave: Callable[[int, int], bool]) -> list[Task]:
        """From the end of the ring, where what would wait longest stands."""
        line = self.queues[queue].lines.get(self.index)
        taken: list[Task] = []
        stay: list[Task] = []
        while line and len(taken) < count:
            task = line.pop()
            (taken if may_leave(queue, task.key) else stay).append(task)
        if line is not None:
            line.extend(reversed(stay))
            if not line:
                del self.queues[queue].lines[self.index]
        return taken

    def bring(self, task: Task) -> None:
        """Its arguments come first, if they are elsewhere."""
        if not task.bytes_at or self.name in task.bytes_at:
            self.queues[task.queue].push(task)
            return
        size = max(task.bytes_at.values())
        self.cluster.moved_bytes += size
        begin = max(self.cluster.now, self._network_free_at)
        self._network_free_at = begin + size / self.cluster.costs.bytes_per_s
        self.fetching[task.queue] += task.home == self.index
        self.cluster.at(self._network_free_at, self._fetched, task)

    def _fetched(self, task: Task) -> None:
        if not self.is_dead:
            self.fetching[task.queue] -= task.home == self.index
            self.queues[task.queue].push(task)
            self.start(task.queue)
