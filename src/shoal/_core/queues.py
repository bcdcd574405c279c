"""One queue of one scheduling class: how many workers it should have.

Tiny tasks get slower with more workers, long ones need them all, and nobody says beforehand which
they are. So a queue says what it wants from what is seen of it (PROTOCOL W3)::

      quiet --(bell: entries)--> wants 1 --(attached)--> flowing --(1 ms: no take)--> wants the rest
        ^                                                  |   ^        |
        |                                                  |   +--------+ takes moved, but slowly:
        +-------(no entries: hungry is set again)----------+              wants as many again

* *quiet*: believed empty; ``hungry`` is set in node memory, so the next push that finds no idle
  worker rings the bell. Nothing is polled.
* *flowing*: it has workers and had entries when last looked at; it is looked at once more at
  ``recheck_at`` (1 ms, doubling to 10 ms while tasks move quickly).
* *wanting*: ``wants`` workers would be of use. Until they are attached there is no recheck: the
  scheduler looks at all wanting queues every 50 ms, and whenever something is released.

1. ``is_armed`` implies no recheck and no wants; wanting implies no recheck.
2. A dead queue wants nothing and is not armed.
3. Every attachment's grant is open in the account.
"""

from __future__ import annotations

from shoal._base.config import Limits
from shoal._core.events import QueueCreated, QueueState
from shoal._core.resources import CPU, UNIT, Amounts, Grant, Target, threads_of, units_of


class Attachment:
    """One worker on one queue, from ``Assign`` to its acknowledged end."""

    __slots__ = (
        "acked_at",
        "asked_at",
        "charged_at",
        "depth",
        "grant",
        "idle_since",
        "is_blocked",
        "is_leaving",
        "since",
        "worker",
    )

    def __init__(self, worker: int, grant: Grant, now: float) -> None:
        self.worker = worker
        self.grant = grant
        self.since = now
        self.acked_at: float | None = None
        """When the worker was first seen to have taken the queue up."""
        self.charged_at = now
        self.depth = 0
        self.idle_since = now
        """Since when every look has found it without a task."""
        self.is_blocked = False
        self.is_leaving = False
        self.asked_at = now
        """When it was asked back; means something only while it is leaving."""

    @property
    def is_idle(self) -> bool:
        """Attached and without a task when last looked at: counts as free (RULES S-2)."""
        return self.acked_at is not None and self.depth == 0


class ClassQueue:
    """What is known and wanted of one queue."""

    __slots__ = (
        "_base_at",
        "_base_takes",
        "_interval",
        "amounts",
        "attachments",
        "created_at",
        "dead_record",
        "entries",
        "entries_since",
        "env",
        "generation",
        "idle_since",
        "is_armed",
        "is_feasible",
        "is_new_in_line",
        "is_tiny",
        "is_warned",
        "job",
        "limits",
        "meant",
        "queue",
        "recheck_at",
        "served_s",
        "takes",
        "target",
        "threads",
        "wants",
        "wants_since",
    )

    def __init__(
        self,
        created: QueueCreated,
        job: int,
        amounts: Amounts,
        target: Target,
        now: float,
        limits: Limits,
    ) -> None:
        self.queue = created.queue
        self.generation = created.generation
        self.job = job
        self.amounts = amounts
        self.env = ""
        """Key of the runtime environment that its workers have."""
        self.target = self.meant = target
        """What holds now, and what its tasks have asked for (``shifting``)."""
        self.limits = limits
        self.threads = threads_of(amounts)
        self.is_tiny = units_of(amounts, CPU) < UNIT // 8
        self.is_feasible = True
        self.is_warned = False
        self.is_new_in_line = True
        """Has been idle: starts level with its job's other classes."""
        self.created_at = now
        self.attachments: dict[int, Attachment] = {}
        self.served_s = 0.0
        self.entries = 0
        self.takes = 0
        self.entries_since: float | None = None
        self.idle_since: float | None = now
        self.is_armed = False
        self.wants = 0
        self.wants_since: float | None = None
        self.recheck_at: float | None = None
        self.dead_record: bytes | None = None
        self._base_takes = 0
        self._base_at = now
        self._interval = limits.recheck_s

    # ---- what is seen
    def look(self, now: float, state: QueueState) -> bool:
        """Take in the state; True if ``hungry`` must be set (again)."""
        moved = state.takes != self.takes
        self.entries, self.takes = state.entries, state.takes
        if self.dead_record is not None:
            return False
        if state.entries == 0:
            self.entries_since = None
            self._want(now, 0)
            self.recheck_at = None
            if self.idle_since is None or moved:
                self.idle_since = now
            self.is_new_in_line = True
            must_arm = moved or not self.is_armed
            self.is_armed = True
            return must_arm
        self.is_armed = False
        self.idle_since = None
        if self.entries_since is None:
            self.entries_since = now
        if not self.is_feasible:
            return False
        if not self._staying():
            self._want(now, 1)
        elif self.wants:
            self._want(now, min(self.wants, state.entries))
        elif self.recheck_at is None:
            self._watch(now, self.limits.recheck_s)
        elif now >= self.recheck_at:
            self._recheck(now)
        return False

    def _recheck(self, now: float) -> None:
        staying = self._staying()
        takes = self.takes - self._base_takes
        if takes == 0:
            if not self._is_settled(now):
                self._watch(now, self._interval)
                return
            coming = sum(1 for a in staying if a.acked_at is None)
            self._want(now, max(0, self.entries - coming))
        else:
            task_s = (now - self._base_at) * len(staying) / takes
            if self.entries < takes:
                # It will be empty in less than another such pause: a caller that waits for each
                # result leaves a moment's entry behind now and then, and its worker is mostly idle.
                self._want(now, 0)
            elif task_s >= self.limits.recheck_s:
                self._want(now, self.entries)
            elif task_s > self.limits.quick_task_s:
                self._want(now, min(self.entries, len(staying)))
            else:
                self._want(now, 0)
        if not self.wants:
            self._watch(now, min(self._interval * 2, self.limits.recheck_most_s))

    def _is_settled(self, now: float) -> bool:
        """Whether the workers that it has had time to take something."""
        limits = self.limits
        return any(
            (a.acked_at is not None and now - a.acked_at >= limits.recheck_s)
            or now - a.since >= limits.settle_s
            for a in self._staying()
        )

    def _watch(self, now: float, interval: float) -> None:
        self._interval = interval
        self.recheck_at = now + interval
        self._base_at = now
        self._base_takes = self.takes

    def _want(self, now: float, count: int) -> None:
        self.wants = count
        if count:
            self.recheck_at = None
        if not count:
            self.wants_since = None
        elif self.wants_since is None:
            self.wants_since = now

    def _staying(self) -> list[Attachment]:
        return [a for a in self.attachments.values() if not a.is_leaving]

    # ---- what is done
    def attach(self, attachment: Attachment, now: float) -> None:
        """One of the wanted workers has been found."""
        self.attachments[attachment.worker] = attachment
        self._want(now, self.wants - 1)
        self.idle_since = None
        if not self.wants:
            self._watch(now, self.limits.recheck_s)
        else:
            self.wants_since = now

    def retarget(self, now: float, target: Target) -> None:
        """Other rooms than before may serve it."""
        self.target = target
        self.is_feasible = target.room.can_ever(self.amounts)
        self.is_warned = False
        self._want(now, 0)
        self.recheck_at = None

    def kill(self, record: bytes) -> None:
        """Everything in it fails, now and later."""
        self.dead_record = record
        self.is_armed = False
        self.recheck_at = None
        self.wants = 0
        self.wants_since = None

    def validate(self) -> None:
        """Assert the invariants."""
        if self.is_armed:
            assert self.recheck_at is None and not self.wants and self.entries == 0
        if self.dead_record is not None:
            assert not self.is_armed and not self.wants and self.recheck_at is None
        assert not (self.wants and self.recheck_at is not None)
        assert (self.wants > 0) == (self.wants_since is not None)
        for attachment in self.attachments.values():
            assert not attachment.grant.is_over
            assert not (attachment.grant.lent and not attachment.is_blocked)
