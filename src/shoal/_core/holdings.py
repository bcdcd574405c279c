"""Who holds what of the node: attachments of workers to class queues, actors' holds, and bundles.

1. The open grants of the node's account are exactly those of attachments, holds and bundles in it;
   those of a bundle's account are of attachments and holds.
2. A worker is in at most one attachment, or holds for one actor.
3. An attachment ends when the worker has acknowledged it, or when its process has gone; one that
   holds GPU ids only ends with the process, which got its ids for life (RULES S-9).
4. While a task is blocked its CPUs are lent, and nothing else (S-7); actors lend nothing.
5. Sums and short lists (``wanting``, ``rechecks``, ``_serving``, ``_leaving``,
   ``_tiny``, what accounts have pinned) are kept as things change: a pass of the scheduler costs
   what waits and what was seen, not how many queues, workers, actors and groups there are.

What a job has received is charged whenever one of its workers is looked at: CPU x time in which a
task was running and not blocked. Actors are charged for what they hold.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from shoal._core import commands as do
from shoal._core.accounts import Accounts
from shoal._core.deadlines import Deadlines
from shoal._core.events import QueueState, WorkerState
from shoal._core.queues import Attachment, ClassQueue
from shoal._core.resources import CPU, UNIT, Account, Grant, Target, units_of
from shoal._core.shares import Shares


class ActorHold:
    """What a living actor's worker holds."""

    __slots__ = ("grant", "job", "worker")

    def __init__(self, worker: int, job: int, grant: Grant) -> None:
        self.worker = worker
        self.job = job
        self.grant = grant


class ActorCpus:
    """CPUs that the actors of one job hold together, and until when they are charged."""

    __slots__ = ("charged_at", "units")

    def __init__(self, now: float) -> None:
        self.units = 0
        self.charged_at = now


class Holdings:
    """The account and everybody who holds something of it."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self.accounts = Accounts(account)
        self.shares = Shares()
        self.queues: dict[int, ClassQueue] = {}
        self.by_worker: dict[int, ClassQueue] = {}
        self.holds: dict[str, ActorHold] = {}
        self.wanting: dict[int, ClassQueue] = {}
        """Queues that want workers."""
        self.rechecks: Deadlines[int] = Deadlines()
        """When queues want to be looked at once more."""
        self.impossible: dict[int, ClassQueue] = {}
        """Queues of classes that this node can never serve."""
        self._serving: dict[int, ClassQueue] = {}
        """Queues that have workers."""
        self._leaving: dict[int, Attachment] = {}
        """Attachments that are asked back and not yet given back, by worker."""
        self._tiny = 0
        self._actor_cpus: dict[int, ActorCpus] = {}
        """By job."""

    # ---- queues
    def add_queue(self, queue: ClassQueue) -> None:
        """A new queue; whether it can ever be served is known from the start."""
        queue.is_feasible = queue.target.room.can_ever(queue.amounts)
        self.queues[queue.queue] = queue
        if not queue.is_feasible:
            self.impossible[queue.queue] = queue

    def retarget(self, now: float, queue: ClassQueue, target: Target) -> list[int]:
        """Other rooms serve it from now on; workers that are to let go of it."""
        queue.retarget(now, target)
        self._note(queue)
        if queue.is_feasible:
            self.impossible.pop(queue.queue, None)
            return []
        self.impossible[queue.queue] = queue
        revoked = []
        for attachment in queue.attachments.values():
            if not attachment.is_leaving:
                self.ask_back(attachment)
                attachment.asked_at = now
                revoked.append(attachment.worker)
        return revoked

    def remove_queue(self, queue: int) -> ClassQueue:
        """A queue without attachments is gone."""
        gone = self.queues.pop(queue)
        assert not gone.attachments
        self.impossible.pop(queue, None)
        self.wanting.pop(queue, None)
        self.rechecks.set(queue, None)
        return gone

    def kill_queue(self, queue: ClassQueue, record: bytes) -> None:
        """Everything in it fails, now and later."""
        queue.kill(record)
        self._note(queue)

    def queues_due(self, now: float) -> list[ClassQueue]:
        """Queues that want to be looked at by now; they do until they have been."""
        due = [self.queues[number] for number in self.rechecks.due(now)]
        for queue in due:
            self.rechecks.set(queue.queue, queue.recheck_at)
        return due

    def _note(self, queue: ClassQueue) -> None:
        """What the queue wants may have changed."""
        if queue.wants:
            self.wanting[queue.queue] = queue
        else:
            self.wanting.pop(queue.queue, None)
        self.rechecks.set(queue.queue, queue.recheck_at)

    # ---- what is seen
    def look_queues(self, now: float, states: Iterable[QueueState]) -> list[do.Command]:
        """Take in how queues are."""
        out: list[do.Command] = []
        for state in states:
            queue = self.queues.get(state.queue)
            if queue is None:
                continue
            if queue.look(now, state):
                out.append(do.SetHungry(queue.queue, True))
            self._note(queue)
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
            is_blocked = state.blocked and state.depth > 0
            if queue.is_tiny:
                self._tiny += attachment.is_blocked - is_blocked
            attachment.is_blocked = is_blocked
            has_let_go = attachment.is_leaving and not is_attached and state.depth == 0
            if has_let_go and not attachment.grant.gpus:
                self._detach(queue, attachment)
                freed.append(state.index)
            elif attachment.is_blocked:
                self.accounts.lend(attachment.grant)
            else:
                self.accounts.resume(attachment.grant)
        return freed

    # ---- what is given and given back
    def attach(self, now: float, queue: ClassQueue, worker: int, grant: Grant) -> Attachment:
        """``worker`` serves ``queue`` from now on."""
        attachment = Attachment(worker, grant, now)
        queue.attach(attachment, now)
        self.by_worker[worker] = queue
        self._serving[queue.queue] = queue
        self._tiny += queue.is_tiny
        self._note(queue)
        return attachment

    def ask_back(self, attachment: Attachment) -> None:
        """It is to let go; it ends when its worker has (invariant 3)."""
        attachment.is_leaving = True
        self._leaving[attachment.worker] = attachment

    def lose_worker(self, now: float, worker: int) -> ClassQueue | None:
        """The process has gone; the queue that it served, to be looked at (RULES S-16)."""
        queue = self.by_worker.get(worker)
        if queue is not None:
            self._charge(now, queue, queue.attachments[worker])
            self._detach(queue, queue.attachments[worker])
        return queue

    def hold_for_actor(self, now: float, actor_id: str, hold: ActorHold) -> None:
        """The actor has what it asked for."""
        self.holds[actor_id] = hold
        self._count_hold(now, hold, 1)

    def release_actor(self, now: float, actor_id: str) -> None:
        """Its process has gone: what it held is free."""
        hold = self.holds.pop(actor_id, None)
        if hold is not None:
            self._count_hold(now, hold, -1)
            self.accounts.give(hold.grant)

    def _count_hold(self, now: float, hold: ActorHold, sign: int) -> None:
        hold.grant.account.pin(hold.grant.amounts, sign)
        if cpu := units_of(hold.grant.amounts, CPU):
            cpus = self._actor_cpus.setdefault(hold.job, ActorCpus(now))
            self._charge_actors_of(now, hold.job, cpus)
            cpus.units += sign * cpu
            if not cpus.units:
                del self._actor_cpus[hold.job]

    def _detach(self, queue: ClassQueue, attachment: Attachment) -> None:
        self.accounts.give(attachment.grant)
        self._tiny -= queue.is_tiny and not attachment.is_blocked
        self._leaving.pop(attachment.worker, None)
        del queue.attachments[attachment.worker]
        del self.by_worker[attachment.worker]
        if not queue.attachments:
            del self._serving[queue.queue]

    # ---- what was received
    def _charge(self, now: float, queue: ClassQueue, attachment: Attachment) -> None:
        seconds, attachment.charged_at = now - attachment.charged_at, now
        if attachment.depth and not attachment.is_blocked:
            # A class that asks for no CPU still uses one; a little keeps it in the order of turns.
            cpu_s = seconds * max(units_of(queue.amounts, CPU), UNIT // 100) / UNIT
            queue.served_s += cpu_s
            self.shares.charge(queue.job, cpu_s)

    def _charge_actors_of(self, now: float, job: int, cpus: ActorCpus) -> None:
        seconds, cpus.charged_at = now - cpus.charged_at, now
        self.shares.charge(job, seconds * cpus.units / UNIT)

    def charge_actors(self, now: float) -> None:
        """Charge what actors hold up to now."""
        for job, cpus in self._actor_cpus.items():
            self._charge_actors_of(now, job, cpus)

    # ---- questions
    def serving(self) -> list[ClassQueue]:
        """Queues that have workers."""
        return list(self._serving.values())

    def leaving(self) -> list[Attachment]:
        """Attachments that are asked back and not yet given back."""
        return list(self._leaving.values())

    def tiny_count(self) -> int:
        """Unblocked workers of classes that are limited by processes (RULES S-8)."""
        return self._tiny

    def available(self) -> dict[str, int]:
        """Free units outside bundles, idle attachments counted as free (RULES S-2)."""
        free = dict(self.account.free)
        for queue in self.serving():
            for attachment in queue.attachments.values():
                if attachment.is_idle and attachment.grant.account is self.account:
                    for name, units in attachment.grant.amounts:
                        free[name] += units
        return {name: max(0, units) for name, units in free.items()}

    def validate(self) -> None:
        """Assert the invariants."""
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
        self.accounts.validate(grants)
        assert set(self.by_worker) == {w for q in self.queues.values() for w in q.attachments}
        self._validate_sums()

    def _validate_sums(self) -> None:
        """What is kept is what looking through everything gives."""
        queues = self.queues.values()
        everywhere = [(q, a) for q in queues for a in q.attachments.values()]
        assert self.wanting == {q.queue: q for q in queues if q.wants}
        assert self.impossible == {q.queue: q for q in queues if not q.is_feasible}
        assert self._serving == {q.queue: q for q in queues if q.attachments}
        assert self._leaving == {a.worker: a for _, a in everywhere if a.is_leaving}
        assert self._tiny == sum(q.is_tiny and not a.is_blocked for q, a in everywhere)
        self.rechecks.validate()
        assert all(self.rechecks.at(q.queue) == q.recheck_at for q in queues)
        assert len(self.rechecks) <= len(self.queues)
        bundles = self.accounts.bundles
        held: dict[tuple[Account, str], int] = {}
        for grant in chain((hold.grant for hold in self.holds.values()), bundles.values()):
            for name, units in grant.amounts:
                held[grant.account, name] = held.get((grant.account, name), 0) + units
        for account in (self.account, *bundles):
            for name, units in account.pinned.items():
                assert units == held.pop((account, name), 0)
        assert not any(held.values())
        cpus = {job: 0 for job in self._actor_cpus}
        for hold in self.holds.values():
            if units := units_of(hold.grant.amounts, CPU):
                cpus[hold.job] += units
        assert cpus == {job: sums.units for job, sums in self._actor_cpus.items()}
