"""A cluster of up to a thousand nodes on a virtual clock, to see how tasks spread over it.

It has no processes, values or failures of programs (that is what ``SimCluster`` is for), but as
many nodes as one likes, and time for every message: the way, the daemon that writes it, the daemon
that reads it, the control store. Rows go to the store on change, at most 10/s for each node, and
each second; answers name at most 32 candidates (RULES S-12).

The same seed is the same run, but for the real time that the machines needed (``spent_s``).
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from shoal._base import clock
from shoal._base.config import ForwardingLimits
from shoal._core.policies.candidates import CandidateIndex
from shoal._proto.views import NodeRow, Wish
from shoal.testing.sim.scale_checkers import ScaleChecker, ScaleViolation
from shoal.testing.sim.scale_nodes import ScaleNode
from shoal.testing.sim.scale_tasks import Costs, Load, Task, jain

LOOK_S = 0.02
RENEW_S = 1.0
LIMITS = ForwardingLimits()
COSTS = Costs()


@dataclass(frozen=True)
class ScaleReport:
    """What one run came to."""

    load: str
    nodes: int
    tasks: int
    drain_s: float
    floor_s: float
    decisions: int
    spent_s: float
    """Real seconds in the machines of all nodes."""
    store_spent_s: float
    """Real seconds in the store's index."""
    messages: dict[str, int]
    fairness: float
    """Jain's index over what submitters got: tasks for each second until their last result."""
    evenness: float
    """Jain's index over tasks run, for each CPU of a node."""
    at_bytes: float
    """Share of the tasks with an argument that ran where it was."""
    most_waiting: float
    backs: int

    @property
    def efficiency(self) -> float:
        """How near the time is to the floor."""
        return self.floor_s / self.drain_s

    @property
    def cost_us(self) -> float:
        """Real microseconds of deciding for each task, the store's share too."""
        return (self.spent_s + self.store_spent_s) / self.tasks * 1e6

    @property
    def decisions_per_s(self) -> float:
        """Decisions in each real second of deciding."""
        return self.decisions / (self.spent_s + self.store_spent_s)

    @property
    def messages_per_task(self) -> float:
        """All messages between nodes and with the store."""
        count = sum(n for kind, n in self.messages.items() if kind != "tasks")
        return count / self.tasks


@dataclass(frozen=True)
class Trouble:
    """What goes wrong when: node ``index`` stops for ``for_s``, or is lost (0: for ever)."""

    at: float
    index: int
    for_s: float = 0.0
    is_busy: bool = False
    """Only its slots are stopped, as if something else had them; its daemon goes on."""


class ScaleCluster:
    """All of it."""

    def __init__(
        self,
        load: Load,
        seed: int = 0,
        limits: ForwardingLimits = LIMITS,
        costs: Costs = COSTS,
        *,
        is_checked: bool = False,
        checker: Callable[[ScaleCluster], ScaleChecker] | None = None,
    ) -> None:
        """``is_checked``: the machines are validated after every step, which takes long."""
        self.load = load
        self.seed = seed
        self.limits = limits
        self.costs = costs
        self.is_checked = is_checked
        self.row_gap_s = limits.ask_gap_s
        self.now = 0.0
        self.random = random.Random(seed)
        self.tasks = {task.key: task for task in load.tasks}
        self.nodes = [ScaleNode(self, index, total) for index, total in enumerate(load.totals)]
        self.by_name = {node.name: node for node in self.nodes}
        self.index = CandidateIndex(limits)
        self.checker = (checker or default_checker)(self)
        self.messages: Counter[str] = Counter()
        self.moved_bytes = 0
        self.store_spent_s = 0.0
        self.store_away_until = 0.0
        self._store_busy_until = 0.0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._number = 0
        self._left = len(load.tasks)

    # ---- time
    def at(self, at: float, action: Callable[..., None], *arguments: object) -> None:
        """Do it then."""
        self._number += 1
        heapq.heappush(self._heap, (at, self._number, action, arguments))

    def run(self, most_s: float = 600.0, troubles: tuple[Trouble, ...] = ()) -> ScaleReport:
        """Let everything be done. Raises ScaleViolation."""
        by_home: dict[tuple[float, int], list[Task]] = {}
        for task in self.load.tasks:
            by_home.setdefault((task.arrives_at, task.home), []).append(task)
        for (at, home), tasks in by_home.items():
            self.at(at, self.nodes[home].submit, tasks)
        for node in self.nodes:
            self.store_hears(node.row())
            self.at(self.random.uniform(0, RENEW_S), self._renew, node)
        for trouble in troubles:
            self.at(trouble.at, self._strike, trouble)
        self.at(LOOK_S, self._look)
        while self._left and self._heap and self.now < most_s:
            self.now, _, action, arguments = heapq.heappop(self._heap)
            action(*arguments)
        drained_at = self.now
        quiet_until = self.now + 2.0
        while self._heap and self._heap[0][0] < quiet_until:
            self.now, _, action, arguments = heapq.heappop(self._heap)
            action(*arguments)
        self.checker.finish()
        return self._report(drained_at)

    def finished(self, task: Task) -> None:
        """Its home has the result."""
        if task.ended_at is not None:
            raise ScaleViolation(f"task {task.key} has two results")
        task.ended_at = self.now
        self._left -= 1

    def _look(self) -> None:
        if self._left:
            self.checker.look()
            self.at(self.now + LOOK_S, self._look)

    # ---- the control store
    def _renew(self, node: ScaleNode) -> None:
        if not node.is_dead:
            self.messages["row"] += 1
            self.store_hears(node.row())
            self.at(self.now + RENEW_S, self._renew, node)

    def store_hears(self, row: NodeRow) -> None:
        """A row is on its way to the store."""
        self._store_reads(self._hear, row)

    def store_is_asked(self, node: ScaleNode, wish: Wish, count: int) -> None:
        """A node wants candidates, and its row has not changed or may not go yet."""
        self._store_reads(self._answer, node, wish, count)

    def _store_reads(self, action: Callable[..., None], *arguments: object) -> None:
        arrives = max(self.now + self.costs.one_way_s, self._store_busy_until)
        self._store_busy_until = arrives + self.costs.store_s
        self.at(self._store_busy_until, action, *arguments)

    def _hear(self, row: NodeRow) -> None:
        node = self.by_name[row.node]
        if self.now < self.store_away_until or node.is_dead:
            return
        began = clock.cpu()
        self.index.heard(row)
        self.store_spent_s += clock.cpu() - began
        for demand in row.demand:
            self._answer(node, demand.wish, demand.count)

    def _answer(self, node: ScaleNode, wish: Wish, count: int) -> None:
        if self.now < self.store_away_until or node.is_dead:
            return
        began = clock.cpu()
        answer = self.index.candidates(self.now, node.name, wish, count)
        self.store_spent_s += clock.cpu() - began
        if self.is_checked:
            self.index.validate()
        if answer.ready or answer.able:
            self.messages["candidates"] += 1
            self.at(self.now + self.costs.one_way_s, node.candidates, answer)

    # ---- trouble
    def _strike(self, trouble: Trouble) -> None:
        node = self.nodes[trouble.index]
        if trouble.for_s:
            node.stop(trouble.for_s, trouble.is_busy)
            return
        node.is_dead = True
        self.index.lost(node.name)
        for other in self.nodes:
            if not other.is_dead:
                self.at(self.now + self.costs.one_way_s, other.lost, node)

    def _report(self, drained_at: float) -> ScaleReport:
        lasted: dict[int, float] = {}
        for task in self.load.tasks:
            took = (task.ended_at or 0.0) - task.arrives_at
            lasted[task.home] = max(took, lasted.get(task.home, 0.0))
        rates = [1.0 / took for took in lasted.values()]
        ran = Counter(task.ran_on for task in self.load.tasks)
        some = [task for task in self.load.tasks if task.bytes_at]
        at_bytes = sum(task.ran_on in task.bytes_at for task in some) / (len(some) or 1)
        return ScaleReport(
            load=self.load.name,
            nodes=len(self.nodes),
            tasks=len(self.tasks),
            drain_s=drained_at,
            floor_s=self.load.floor_s(self.costs),
            decisions=sum(node.decisions for node in self.nodes),
            spent_s=sum(node.spent_s for node in self.nodes),
            store_spent_s=self.store_spent_s,
            messages=dict(self.messages),
            fairness=jain(rates),
            evenness=jain([ran[n.name] / max(1, n.total.get("CPU", 0)) for n in self.nodes]),
            at_bytes=at_bytes,
            most_waiting=self.checker.most_waiting,
            backs=self.checker.backs,
        )


def default_checker(cluster: ScaleCluster) -> ScaleChecker:
    """With the bounds that the machines are held to."""
    return ScaleChecker(cluster, idle_s=0.5, crowd=40.0, back_share=0.05)
