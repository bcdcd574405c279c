"""What must hold of any way to spread tasks over nodes; looks at tasks and nodes only, never at the
books of the machines.

* A task runs once, and is with one node at a time.
* It goes out at most twice for each attempt, and comes back at most once: no ping-pong.
* It waits at home only while nobody could run it: if a node has had a free slot for it for
  ``idle_s``, and it could have gone there all that time, that is a violation (work conserving).
  A daemon that writes all the time cannot do more.
* Nobody gets more than he can soon run: visitors that wait on a node are at most ``crowd`` for each
  slot, and the share of tasks that are sent back stays below ``back_share`` (no herd).
* Who submits as much as others gets as much as others (``jain``; asked by the tests).
* At the end every task has run, and no machine has anything left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shoal._core.policies.view import slots
from shoal._proto.messages import Default
from shoal.testing.sim.scale_tasks import Task

if TYPE_CHECKING:
    from shoal.testing.sim.scale_cluster import ScaleCluster
    from shoal.testing.sim.scale_nodes import ScaleNode


class ScaleViolation(AssertionError):
    """A rule is broken."""


class ScaleChecker:
    """Watches one simulated cluster."""

    def __init__(
        self, cluster: ScaleCluster, idle_s: float, crowd: float, back_share: float
    ) -> None:
        self._cluster = cluster
        self._idle_s = idle_s
        self._crowd = crowd
        self._back_share = back_share
        self.outings = 0
        self.backs = 0
        self.most_waiting = 0.0
        """The most visitors that waited on a node, for each slot."""
        self._idle_since: dict[tuple[str, int], float] = {}

    # ---- as it happens
    def lent(self, task: Task, to: str, is_final: bool) -> None:
        """A task leaves its home."""
        if task.lent_to is not None:
            raise ScaleViolation(f"task {task.key} goes to {to} and is on {task.lent_to}")
        if task.runs:
            raise ScaleViolation(f"task {task.key} has run and goes to {to}")
        task.lent_to = to
        task.outings += 1
        self.outings += 1
        if task.outings > 2:
            raise ScaleViolation(f"task {task.key} goes out for the {task.outings}th time")

    def came_back(self, task: Task, node: str) -> None:
        """It has not run there."""
        if task.lent_to != node:
            raise ScaleViolation(f"task {task.key} comes back from {node}: {task.lent_to}")
        task.lent_to = None
        task.backs += 1
        task.waits_since = self._cluster.now
        self.backs += 1
        if task.backs > 1:
            raise ScaleViolation(f"task {task.key} comes back for the {task.backs}th time")

    def tried_again(self, task: Task) -> None:
        """Its node was lost: another attempt."""
        task.lent_to, task.ran_on = None, None
        task.runs = task.outings = task.backs = 0
        task.waits_since = self._cluster.now

    def started(self, task: Task, node: str) -> None:
        """It runs."""
        task.runs += 1
        where = task.lent_to or self._cluster.nodes[task.home].name
        if task.runs > 1 or where != node:
            raise ScaleViolation(f"task {task.key} starts on {node}, {task.runs} times, of {where}")
        task.ran_on = node

    def ended(self, task: Task, node: str) -> None:
        """It has run."""
        if task.ran_on != node or task.ended_at is not None:
            raise ScaleViolation(f"task {task.key} ends on {node}")

    def hosted(self, node: ScaleNode, queue: int) -> None:
        """Visitors were taken in."""
        waiting = sum(
            len(line) for home, line in node.queues[queue].lines.items() if home != node.index
        )
        fits = max(1, node.fits[queue])
        self.most_waiting = max(self.most_waiting, waiting / fits)

    # ---- now and then
    def look(self) -> None:
        """Whether somebody waits while somebody else has nothing to do."""
        cluster, now = self._cluster, self._cluster.now
        waiting: set[int] = set()
        for node in cluster.nodes:
            for queue, q in enumerate(node.queues):
                line = q.lines.get(node.index)
                if line and self._has_waited(node, line[0]):
                    waiting.add(queue)
            for task in node.held.values():
                is_anywhere = isinstance(task.strategy, Default) and not task.bytes_at
                if is_anywhere and self._has_waited(node, task):
                    waiting.add(task.queue)
        for node in cluster.nodes:
            for queue, wish in enumerate(cluster.load.wishes):
                has_room = not node.is_dead and now >= node.slots_stopped_until
                has_room = has_room and slots(node.free, (), wish.amounts) > 0
                since = self._idle_since.setdefault((node.name, queue), now)
                if not has_room or queue not in waiting:
                    self._idle_since[node.name, queue] = now
                elif now - since > self._idle_s:
                    raise ScaleViolation(
                        f"{node.name} has had room for queue {queue} for {now - since:.2f} s, and"
                        f" tasks of it wait elsewhere"
                    )

    def _has_waited(self, node: ScaleNode, task: Task) -> bool:
        # What has been out stays; who is stopped, or has more to write than he can, cannot send.
        is_movable = task.outings == 0 and not node.is_dead
        is_movable = is_movable and node.busy_until <= self._cluster.now
        is_awake = self._cluster.now - node.is_stopped_until > self._idle_s
        return is_movable and is_awake and self._cluster.now - task.waits_since > self._idle_s

    def finish(self) -> None:
        """Everything is over."""
        cluster = self._cluster
        left = [task.key for task in cluster.tasks.values() if task.ended_at is None]
        if left:
            raise ScaleViolation(f"{len(left)} tasks never ended, the first are {left[:5]}")
        for node in cluster.nodes:
            if node.is_dead:
                continue
            if node.held or node.machine.demand() or any(q.lines for q in node.queues):
                raise ScaleViolation(f"{node.name} has something left")
            if node.free != node.total:
                raise ScaleViolation(f"{node.name} has not got back what it gave")
            for queue in range(len(node.queues)):
                if node.hosting.visitors(queue):
                    raise ScaleViolation(f"{node.name} still counts visitors")
            if node.machine.next_deadline() is not None:
                raise ScaleViolation(f"{node.name} still has something lent or wanted")
            node.machine.validate()
        if self.most_waiting > self._crowd:
            raise ScaleViolation(f"{self.most_waiting:.1f} visitors waited for each slot of a node")
        if self.backs > max(20, self._back_share * len(cluster.tasks)):
            raise ScaleViolation(f"{self.backs} of {len(cluster.tasks)} tasks were sent back")
