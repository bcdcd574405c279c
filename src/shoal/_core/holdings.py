"""Who holds what of the node: attachments of workers to class queues, and actors' holds.

1. The account's open grants are exactly those of attachments and of holds.
2. A worker is in at most one attachment, or holds for one actor.
3. An attachment ends when the worker has acknowledged it, or when its process has gone; one that
   holds GPU ids only ends with the process, which got its ids for life (RULES S-9).
4. While a task is blocked its CPUs are lent, and nothing else (S-7); actors lend nothing.

What a job has received is charged whenever one of its workers is looked at: CPU x time in which a
task was running and not blocked. Actors are charged for what they hold.
"""

from __future__ import annotations

from collections.abc import Iterable

from shoal._core import commands as do
from shoal._core.events import QueueState, WorkerState
from shoal._core.queues import Attachment, ClassQueue
from shoal._core.resources import CPU, UNIT, Account, Amounts, Grant, units_of
from shoal._core.shares import Shares


class ActorHold:
    """What a living actor's worker holds."""

    __slots__ = ("charged_at", "cpu", "grant", "job", "worker")

    def __init__(self, worker: int, job: int, grant: Grant, now: float) -> None:
        self.worker = worker
        self.job = job
        self.grant = grant
        self.cpu = units_of(grant.amounts, CPU)
        self.charged_at = now


class Holdings:
    """The account and everybody who holds something of it."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self.shares = Shares()
        self.queues: dict[int, ClassQueue] = {}
        self.by_worker: dict[int, ClassQueue] = {}
        self.holds: dict[str, ActorHold] = {}

    # ---- what is seen
    def look_queues(self, now: float, states: Iterable[QueueState]) -> list[do.Command]:
        """Take in how queues are."""
        out: list[do.Command] = []
        for state in states:
            queue = self.queues.get(state.queue)
            if queue is not None and queue.look(now, state):
                out.append(do.SetHungry(queue.queue, True))
        return out

    def look_workers(self, now: float, states: Iterable[WorkerState]) -> list[int]:
        """Take in how workers are; those that have let go of their queue."""
        freed = []
        for state in states:
            queue = self.by_worker.get(state.index)
            if queue is None:
                continue
            attachment = queue.attachments[state.index]
            self._charge(now, queue, attachment)
            is_attached = state.attached == queue.queue
            if is_attached and attachment.acked_at is None:
                attachment.acked_at = now
            if state.depth != attachment.depth or state.depth:
                attachment.idle_since = now
            attachment.depth = state.depth
            attachment.is_blocked = state.blocked and state.depth > 0
            has_let_go = attachment.is_leaving and not is_attached and state.depth == 0
            if has_let_go and not attachment.grant.gpus:
                self._detach(queue, attachment)
                freed.append(state.index)
            elif attachment.is_blocked:
                self.account.lend(attachment.grant)
            else:
                self.account.resume(attachment.grant)
        return freed

    # ---- what is given and given back
    def attach(self, now: float, queue: ClassQueue, worker: int, grant: Grant) -> Attachment:
        """``worker`` serves ``queue`` from now on."""
        attachment = Attachment(worker, grant, now)
        queue.attach(attachment, now)
        self.by_worker[worker] = queue
        return attachment

    def lose_worker(self, now: float, worker: int) -> ClassQueue | None:
        """The process has gone; the queue that it served, to be looked at (RULES S-16)."""
        queue = self.by_worker.get(worker)
        if queue is not None:
            self._charge(now, queue, queue.attachments[worker])
            self._detach(queue, queue.attachments[worker])
        return queue

    def release_actor(self, now: float, actor_id: str) -> None:
        """Its process has gone: what it held is free."""
        hold = self.holds.pop(actor_id, None)
        if hold is not None:
            self._charge_hold(now, hold)
            self.account.give(hold.grant)

    def _detach(self, queue: ClassQueue, attachment: Attachment) -> None:
        self.account.give(attachment.grant)
        del queue.attachments[attachment.worker]
        del self.by_worker[attachment.worker]

    # ---- what was received
    def _charge(self, now: float, queue: ClassQueue, attachment: Attachment) -> None:
        seconds, attachment.charged_at = now - attachment.charged_at, now
        if attachment.depth and not attachment.is_blocked:
            # A class that asks for no CPU still uses one; a little keeps it in the order of turns.
            cpu_s = seconds * max(units_of(queue.amounts, CPU), UNIT // 100) / UNIT
            queue.served_s += cpu_s
            self.shares.charge(queue.job, cpu_s)

    def _charge_hold(self, now: float, hold: ActorHold) -> None:
        if hold.cpu:
            seconds, hold.charged_at = now - hold.charged_at, now
            self.shares.charge(hold.job, seconds * hold.cpu / UNIT)

    def charge_actors(self, now: float) -> None:
        """Charge what actors hold up to now."""
        for hold in self.holds.values():
            self._charge_hold(now, hold)

    # ---- questions
    def serving(self) -> list[ClassQueue]:
        """Queues that have workers."""
        return list(dict.fromkeys(self.by_worker.values()))

    def leaving(self) -> list[Attachment]:
        """Attachments that are asked back and not yet given back."""
        return [a for q in self.serving() for a in q.attachments.values() if a.is_leaving]

    def has_lent(self) -> bool:
        """Whether CPUs of a blocked task are lent: it may go on at any moment, unannounced."""
        return any(grant.lent for grant in self.account.grants)

    def tiny_count(self) -> int:
        """Unblocked workers of classes that are limited by processes (RULES S-8)."""
        tiny = (q for q in self.serving() if q.is_tiny)
        return sum(not a.is_blocked for q in tiny for a in q.attachments.values())

    def could_serve(self, amounts: Amounts) -> bool:
        """Whether ``amounts`` would fit if every attachment let go."""
        held: dict[str, int] = {}
        for hold in self.holds.values():
            for name, units in hold.grant.amounts:
                held[name] = held.get(name, 0) + units
        total = self.account.total
        return all(units <= total.get(name, 0) - held.get(name, 0) for name, units in amounts)

    def available(self) -> dict[str, int]:
        """Free units, idle attachments counted as free (RULES S-2)."""
        free = dict(self.account.free)
        for queue in self.serving():
            for attachment in queue.attachments.values():
                if attachment.is_idle:
                    for name, units in attachment.grant.amounts:
                        free[name] += units
        return {name: max(0, units) for name, units in free.items()}

    def validate(self) -> None:
        """Assert the invariants."""
        self.account.validate()
        self.shares.validate()
        grants = [hold.grant for hold in self.holds.values()]
        workers = [hold.worker for hold in self.holds.values()]
        assert not any(grant.lent for grant in grants)
        for queue in self.queues.values():
            queue.validate()
            for worker, attachment in queue.attachments.items():
                assert attachment.worker == worker and self.by_worker[worker] is queue
                grants.append(attachment.grant)
                workers.append(worker)
        assert len(set(workers)) == len(workers)
        assert set(grants) == self.account.grants and len(grants) == len(self.account.grants)
        assert set(self.by_worker) == {w for q in self.queues.values() for w in q.attachments}
