"""What this node runs for others: whom it takes in, and where that waits.

::

    a task of another node    find_queue: one of a guest of its job (``_core.guests``)
                              admit: Hosting has room for it, or it goes back
    it has ended              how long it ran, and how many more of its kind may come

1. A task that was admitted is in ``_visits`` until it has ended, gone back, or its home is lost.
"""

from __future__ import annotations

from collections.abc import Callable

from shoal._base import clock
from shoal._base.config import ForwardingLimits
from shoal._core import events, guests
from shoal._core import hosting as visitors
from shoal._core.hosting import Hosting
from shoal._core.node import NodeMachine
from shoal._core.policies import view
from shoal._core.resources import GPU, UNIT
from shoal._proto.bridge import ForwardTask
from shoal._runtime.bridge.around import Place
from shoal._runtime.daemon_cluster import ClusterNode

NEWEST = 0.25
"""Weight of the last task in the mean of how long those of a queue run."""


class _Hosted:
    """Tasks of others in one queue of this node."""

    __slots__ = ("ended_at", "task_s")

    def __init__(self) -> None:
        self.task_s: float | None = None
        self.ended_at = 0.0

    def ran(self, now: float, begun_at: float, slots: int) -> float:
        """One has ended: about how long it ran. If others were before it, what it waited for them
        is not counted."""
        seconds = min(now - begun_at, max(0.0, now - self.ended_at) * slots)
        mean = seconds if self.task_s is None else self.task_s
        self.task_s, self.ended_at = mean + NEWEST * (seconds - mean), now
        return seconds


class Incoming:
    """Tasks of other nodes on this one."""

    def __init__(
        self,
        machine: NodeMachine,
        cluster: ClusterNode,
        post: Callable[[events.AnyEvent], None],
    ) -> None:
        self._machine = machine
        self._cluster = cluster
        self._post = post
        self._hosting = Hosting(ForwardingLimits())
        self._hosted: dict[int, _Hosted] = {}
        self._visits: dict[tuple[str, int], tuple[int, float]] = {}
        """Queue, and when it came."""

    def find_queue(self, node: str, job: int, place: bytes) -> Place | str | None:
        """Where such tasks wait here; made with the first one."""
        tables = self._machine.tables
        found = guests.find(tables, node, job, place)
        if found is None:
            self._post(events.GuestWanted(node, job, place))
            found = guests.find(tables, node, job, place)
        return found

    def admit(self, node: str, body: ForwardTask) -> str:
        """Whether this node takes that task in; if not, why."""
        found = self.find_queue(node, body.job, body.place)
        if isinstance(found, str):
            return found
        if found is None:
            return ""  # it waits for its queue, which is being made; at home it would wait longer
        number, now = found[0], clock.now()
        self._look_hosted(number)
        came = visitors.VisitorsCame(number, node, (body.number,), body.is_final, body.is_needy)
        for answer in self._hosting.step(now, came):
            if isinstance(answer, visitors.SendBack):
                return "the node is busy"
        self._visits[node, body.number] = (number, now)
        return ""

    def visit_over(self, node: str, number: int) -> tuple[float, int | None]:
        """How long a task ran that was admitted, and how many of its kind may come now."""
        queue, begun_at = self._visits.pop((node, number), (0, 0.0))
        if not queue:
            return 0.0, None
        now = clock.now()
        self._hosting.step(now, visitors.VisitorsEnded(queue, node, (number,)))
        ran_s = self._hosted.setdefault(queue, _Hosted()).ran(now, begun_at, self._slots(queue))
        self._look_hosted(queue)
        return ran_s, self._hosting.window(queue, node)

    def queue_made(self, queue: int) -> None:
        """The number is another queue's now."""
        self._hosting.step(clock.now(), visitors.QueueRemoved(queue))
        self._hosted.pop(queue, None)

    def node_lost(self, node: str) -> None:
        """Nobody waits for its tasks."""
        self._hosting.step(clock.now(), visitors.HomeLost(node))
        self._visits = {place: each for place, each in self._visits.items() if place[0] != node}

    def _slots(self, number: int) -> int:
        queue = self._machine.tables.scheduler.held.queues.get(number)
        if queue is None:
            return 1
        if queue.target.group:
            accounts = queue.target.room.accounts
            shares = ((each.total, tuple(each.gpu_shares.values())) for each in accounts)
            return max(1, sum(view.slots(*share, queue.amounts) for share in shares))
        total = self._machine.tables.account.total
        gpus = (UNIT,) * (total.get(GPU, 0) // UNIT)
        return max(1, view.slots(total, gpus, queue.amounts))

    def _look_hosted(self, number: int) -> None:
        """What ``Hosting`` is to know of a queue of guests."""
        tables = self._machine.tables
        queue = tables.scheduler.held.queues.get(number)
        if queue is None:
            self._hosting.step(clock.now(), visitors.QueueRemoved(number))
            self._hosted.pop(number, None)
            return
        own = sum(
            other.entries
            for other in tables.scheduler.held.wanting.values()
            if not other.target.hosts and other.target.group == queue.target.group
        )
        hosted = self._hosted.get(number)
        look = visitors.QueueLookedAt(
            number,
            self._slots(number),
            own,
            None if hosted is None else hosted.task_s,
            queue.is_feasible and not self._cluster.rows.is_draining,
        )
        self._hosting.step(clock.now(), look)
