"""One node of a scale simulation: real deciding machines, and as little as possible around them.

``Forwarding`` and ``Hosting`` are those of the daemon. Simulated are its workers
(``scale_workers``), and the daemon itself, which is one process: what it reads and writes takes its
time, one message after the other.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from shoal._base import clock
from shoal._base.config import ForwardingLimits
from shoal._core import forwarding_events as ev
from shoal._core import hosting as host
from shoal._core.forwarding import Forwarding
from shoal._core.hosting import Hosting
from shoal._core.policies.view import slots
from shoal._core.resources import CPU, Amounts
from shoal._proto.views import Candidates, NodeRow
from shoal.testing.sim.scale_checkers import ScaleViolation
from shoal.testing.sim.scale_tasks import Task
from shoal.testing.sim.scale_workers import WorkerLayer

if TYPE_CHECKING:
    from shoal.testing.sim.scale_cluster import ScaleCluster


class ScaleNode(WorkerLayer):
    """A node."""

    def __init__(self, cluster: ScaleCluster, index: int, total: Amounts) -> None:
        super().__init__(cluster, index, total)
        limits: ForwardingLimits = cluster.limits
        self.machine = Forwarding(self.name, limits, cluster.seed * 1_000_003 + index)
        self.hosting = Hosting(limits)
        self.held: dict[int, Task] = {}
        """Of this node's own tasks those that its daemon places one by one."""
        self.busy_until = 0.0
        self.decisions = 0
        self.spent_s = 0.0
        """Real seconds in the machines."""
        self._done: dict[int, list[tuple[Task, float]]] = {}
        """Results to be written, by home."""
        self._is_look_planned = False
        self._row_number = 0
        self._row_times = (-1.0, -1.0)
        self._is_row_planned = False
        self._row: object = None
        self._timer: float | None = None

    # ---- the daemon, one process
    def after_work(self, messages: int, tasks: int) -> float:
        """When the daemon is done with so much more."""
        costs = self.cluster.costs
        cost = messages * costs.message_s + tasks * costs.task_s
        begin = max(self.cluster.now, self.busy_until, self.is_stopped_until)
        self.busy_until = begin + cost
        return self.busy_until

    def send(self, to: ScaleNode, tasks: int, what: str, *arguments: object) -> None:
        """One message, which calls a method of the other node when its daemon has read it."""
        self.cluster.messages[what] += 1
        leaves = self.after_work(1, tasks)
        self.cluster.at(
            leaves + self.cluster.costs.one_way_s, _arrive, to, self, tasks, what, arguments
        )

    def step(self, event: ev.Event) -> None:
        """Tell the machine, and do what it says."""
        if self.is_dead:
            return
        began = clock.cpu()
        commands = self.machine.step(self.cluster.now, event)
        self.spent_s += clock.cpu() - began
        if self.cluster.is_checked:
            self.machine.validate()
        for command in commands:
            self.perform(command)
        due = self.machine.next_deadline()
        if due is not None and (self._timer is None or self._timer <= self.cluster.now):
            self._timer = due
            self.cluster.at(due, self.tick)

    def tick(self) -> None:
        """Time has passed."""
        self._timer = None
        if self.machine.next_deadline() is not None:
            self.step(ev.TimePassed())

    def perform(self, command: ev.Command) -> None:
        """As the daemon's shell would."""
        nodes = self.cluster.by_name
        match command:
            case ev.Forward(queue, node, count):
                self.decisions += 1
                tasks = self.take_out(queue, count, self.machine.may_leave)
                keys = tuple(task.key for task in tasks)
                self.step(ev.Forwarded(queue, node, count, keys))
                if tasks:
                    self._lend(nodes[node], queue, tasks, False)
            case ev.ForwardTasks(queue, node, keys, is_final):
                self.decisions += len(keys)
                tasks = [_let_go(self, key) for key in keys]
                self._lend(nodes[node], queue, tasks, is_final)
            case ev.Keep(queue, keys):
                self.decisions += len(keys)
                for key in keys:
                    task = _let_go(self, key)
                    self.pinned[queue] += task.outings > 0
                    self.bring(task)
                self.start(queue)
            case ev.Recall(queue, node, keys):
                self.decisions += 1
                self.send(nodes[node], len(keys), "recalled", queue, keys)
            case ev.AskCandidates(wish, count):
                self.cluster.messages["ask"] += 1
                self.after_work(1, 0)
                self.cluster.store_is_asked(self, wish, count)

    def _lend(self, to: ScaleNode, queue: int, tasks: list[Task], is_final: bool) -> None:
        for task in tasks:
            self.cluster.checker.lent(task, to.name, is_final)
        self.cluster.messages["tasks"] += len(tasks)
        self.send(to, len(tasks), "visit", queue, tasks, is_final)

    # ---- what is submitted here
    def submit(self, tasks: list[Task]) -> None:
        """A driver of this node submits."""
        seen: set[int] = set()
        for task in tasks:
            task.waits_since = self.cluster.now
            if task.queue not in seen:
                seen.add(task.queue)
                if task.is_single:
                    self.look_at(task.queue)
            if task.is_single:
                self.held[task.key] = task
                self.step(ev.TaskArrived(task.queue, task.key, task.strategy, task.bytes_at))
            else:
                self.queues[task.queue].push(task)
        for queue in seen:
            self.start(queue)
        self.plan_look()
        self.touch_row()

    # ---- what runs here
    def has_run(self, task: Task) -> None:
        """The result goes home, with others that end about now."""
        if task.home == self.index:
            self.cluster.finished(task)
            return
        rows = self._done.setdefault(task.home, [])
        if not rows:
            at = self.cluster.now + self.cluster.costs.gather_s
            self.cluster.at(at, self._write_done, task.home)
        rows.append((task, task.length_s))

    def _write_done(self, home: int) -> None:
        if self.is_dead:
            return
        rows = self._done.pop(home, [])
        by_queue: dict[int, list[tuple[Task, float]]] = {}
        for task, ran_s in rows:
            by_queue.setdefault(task.queue, []).append((task, ran_s))
        to = self.cluster.nodes[home]
        for queue, some in by_queue.items():
            keys = tuple(task.key for task, _ in some)
            self._host(host.VisitorsEnded(queue, to.name, keys))
            self.look_for_visitors(queue)
            window = self.hosting.window(queue, to.name)
            ran = sum(ran_s for _, ran_s in some)
            self.send(to, len(keys), "done", queue, keys, ran, window)

    # ---- looks
    def plan_look(self) -> None:
        """Soon, unless it is planned."""
        if not self._is_look_planned:
            self._is_look_planned = True
            self.cluster.at(self.cluster.now + self.cluster.costs.look_s, self._look)

    def _look(self) -> None:
        self._is_look_planned = False
        if self.is_dead or self.cluster.now < self.is_stopped_until:
            return
        has_more = False
        for queue in range(len(self.queues)):
            if self.queues[queue].entries(self.index) or queue in self.machine.sources:
                self.look_at(queue)
                has_more = has_more or bool(self.queues[queue].entries(self.index))
        if has_more:
            self._is_look_planned = True
            self.cluster.at(self.cluster.now + 10 * self.cluster.costs.look_s, self._look)

    def look_at(self, queue: int) -> None:
        """What the daemon sees of one queue."""
        q, fits = self.queues[queue], self.fits[queue]
        wish = self.cluster.load.wishes[queue]
        is_open = not q.lines and self.cluster.now >= self.slots_stopped_until
        startable = slots(self.free, (), wish.amounts) if is_open else 0
        entries = q.entries(self.index)
        movable = entries - self.pinned[queue]
        # What is being fetched for the queue waits in it as well.
        entries += self.fetching[queue]
        startable = max(0, startable - self.fetching[queue])
        look = ev.QueueLooked(
            queue, wish, entries, movable, q.takes, startable, q.running, fits > 0
        )
        self.step(look)

    def look_for_visitors(self, queue: int) -> None:
        """... and as ``Hosting`` is told."""
        # What could never run here does not wait for slots of this node.
        own = sum(q.entries(self.index) for q, fits in zip(self.queues, self.fits) if fits)
        own += sum(self.fits[task.queue] > 0 for task in self.held.values())
        task_s = self.mean_s
        self._host(host.QueueLookedAt(queue, self.fits[queue], own, task_s, self.fits[queue] > 0))

    def _host(self, event: host.Event) -> list[host.Command]:
        began = clock.cpu()
        commands = self.hosting.step(self.cluster.now, event)
        self.spent_s += clock.cpu() - began
        if self.cluster.is_checked:
            self.hosting.validate()
        return commands

    # ---- messages of other nodes
    def visit(self, home: ScaleNode, queue: int, tasks: list[Task], is_final: bool) -> None:
        """Tasks of ``home`` have come."""
        by_key = {task.key: task for task in tasks}
        self.look_for_visitors(queue)
        self.decisions += 1
        is_needy = home.fits[queue] == 0
        event = host.VisitorsCame(queue, home.name, tuple(by_key), is_final, is_needy)
        for command in self._host(event):
            match command:
                case host.Accept(_, _, keys):
                    for key in keys:
                        self.bring(by_key[key])
                    self.start(queue)
                    self.cluster.checker.hosted(self, queue)
                case host.SendBack(_, _, keys):
                    window = self.hosting.window(queue, home.name)
                    self.send(home, len(keys), "sent_back", queue, keys, window)

    def done(
        self, node: ScaleNode, queue: int, keys: tuple[int, ...], ran_s: float, window: int
    ) -> None:
        """``node`` has run them."""
        self.step(ev.Done(queue, node.name, keys, ran_s, window))
        for key in keys:
            task = self.cluster.tasks[key]
            if task.lent_to == node.name:
                task.lent_to = None
                self.cluster.finished(task)
        self.plan_look()

    def sent_back(self, node: ScaleNode, queue: int, keys: tuple[int, ...], window: int) -> None:
        """``node`` does not run them."""
        for key in keys:
            task = self.cluster.tasks[key]
            self.cluster.checker.came_back(task, node.name)
            self.held[key] = task
        self.step(ev.Returned(queue, node.name, keys, window))
        self.plan_look()

    def recalled(self, home: ScaleNode, queue: int, keys: tuple[int, ...]) -> None:
        """``home`` wants them back, if they have not begun."""
        wanted = set(keys)
        line = self.queues[queue].lines.get(home.index)
        back = [task.key for task in line or () if task.key in wanted]
        if line is not None:
            rest = deque(task for task in line if task.key not in wanted)
            if rest:
                self.queues[queue].lines[home.index] = rest
            else:
                del self.queues[queue].lines[home.index]
        if back:
            self._host(host.VisitorsEnded(queue, home.name, tuple(back)))
            window = self.hosting.window(queue, home.name)
            self.send(home, len(back), "sent_back", queue, tuple(back), window)
        stay = tuple(wanted - set(back))
        if stay:
            self.send(home, len(stay), "runs_there", queue, stay)

    def runs_there(self, node: ScaleNode, queue: int, keys: tuple[int, ...]) -> None:
        """The answer to a recall that came too late."""
        self.step(ev.Running(queue, node.name, keys))

    # ---- the view
    def row(self) -> NodeRow:
        """This node as it is."""
        self._row_number += 1
        waiting = sum(len(line) for q in self.queues for line in q.lines.values())
        cpus = self.total.get(CPU, 0) / 10_000 or 1.0
        wait_s = waiting * (self.mean_s or 0.0) / cpus
        return NodeRow(
            self.name,
            1,
            self._row_number,
            total=self.total,
            free=self.free_now(),
            wait_s=wait_s,
            demand=self.machine.demand(),
        )

    def touch_row(self) -> None:
        """Something has changed: a row goes, at most 10/s (RULES S-12)."""
        if not self._is_row_planned and not self.is_dead:
            self._is_row_planned = True
            # Two may follow each other at once: that something began, and what is wanted for it.
            at = max(self.cluster.now, min(self._row_times) + 2 * self.cluster.row_gap_s)
            self.cluster.at(at, self._write_row)

    def _write_row(self) -> None:
        self._is_row_planned = False
        if self.is_dead:
            return
        content = (self.free_now(), self.machine.demand())
        if content == self._row:
            return
        self._row = content
        self._row_times = (self._row_times[1], self.cluster.now)
        self.cluster.messages["row"] += 1
        self.after_work(1, 0)
        self.cluster.store_hears(self.row())

    def candidates(self, found: Candidates) -> None:
        """The store's answer to a row."""
        if not self.is_dead:
            self.after_work(1, 0)
            self.step(ev.CandidatesHeard(found))

    def lost(self, node: ScaleNode) -> None:
        """``node`` is gone: what it had is tried again, which is a new attempt."""
        for task in self.cluster.tasks.values():
            if task.lent_to == node.name and task.home == self.index:
                self.cluster.checker.tried_again(task)
                self.queues[task.queue].push(task)
        self.step(ev.NodeLost(node.name))
        self.plan_look()


def _arrive(
    to: ScaleNode, sender: ScaleNode, tasks: int, what: str, arguments: tuple[object, ...]
) -> None:
    """The message is there; it is read when the daemon has time."""
    if not to.is_dead:
        to.cluster.at(to.after_work(1, tasks), _read, to, sender, what, arguments)


def _read(to: ScaleNode, sender: ScaleNode, what: str, arguments: tuple[object, ...]) -> None:
    if not to.is_dead:
        getattr(to, what)(sender, *arguments)


def _let_go(node: ScaleNode, key: int) -> Task:
    task = node.held.pop(key, None)
    if task is None:
        raise ScaleViolation(f"task {key} is placed by {node.name}, which does not have it")
    return task
