"""Why something is not there yet: from an id along a chain of reasons to its end.

::

    object -> task: held -----> the argument that it waits for -> (object)
                    queued ---> its queue: environment, group, resources -> their holder, worker
                                its actor: pending, constructing, restarting, busy -> that call
                    running --> what its process sleeps for: an object, lock, group, room
    actor, group -> as a call or task that waits for it
    nothing ------> what the program sleeps for

Pure: everything is read from the tables and from what the shell has seen (``sights``). Nothing is
remembered, nothing is changed, and what is explained is never waited for (RULES V-1).

1. Each step is about something that the chain has not been at, or ends it as ``Circular``.
2. There is no reason "unknown": a state that no other record fits is a task that is being handed on
   (``Submitting``, ``Delivering``), which lasts for moments.
"""

from __future__ import annotations

from typing import Any

from shoal._base import typed_ids
from shoal._core import causes, why_actors, why_places, why_shared
from shoal._core.groups import Group
from shoal._core.sight_rows import ProcessSight, TaskSight
from shoal._core.sights import Need, Sights
from shoal._core.tables import NodeTables
from shoal._core.why_names import Names
from shoal._proto import reasons as r

TASK_HEX = 2 * typed_ids.TaskID.SIZE
PROCESSES = ("worker", "process", "pid")
DAEMON = 0
"""Process index of the daemon: what it runs, another node runs for it."""


class UnknownIdError(Exception):
    """Nobody knows what was asked about."""

    def __init__(self, record: bytes) -> None:
        super().__init__()
        self.record = record


def explain(
    t: NodeTables, now: float, asker: int, about: str, sights: Sights, is_last: bool = False
) -> r.Reason:
    """The chain for ``about``; see ``AskWhy``.

    Raises:
        Need: something has to be seen first (never if it ``is_last``: the chain then ends there).
        UnknownIdError: it is no id of an object, task, actor or group of this session.
    """
    explainer = Explainer(t, now, sights, is_last, about)
    if not about:
        return explainer.of_driver(asker)
    actor = t.actors.find(about)
    if actor is not None:
        return why_actors.of_actor(explainer, actor, None)
    group = t.groups.find(about)
    if group is not None:
        return explainer.of_group(group, None) or r.Ready(id=about)
    reason: r.Reason | None = explainer.of_id(about)
    if reason is not None:
        return reason
    raise UnknownIdError(
        causes.usage(f"{about!r} is no id of an object, task, actor or group here")
    )


class Explainer(Names):
    """One explanation that is being made."""

    def __init__(
        self, t: NodeTables, now: float, sights: Sights, is_last: bool, about: str = ""
    ) -> None:
        super().__init__(t, now, sights, is_last, about)
        self.path: list[str] = []
        """Ids of what the chain has been at."""

    # ---- objects and tasks
    def of_id(self, about: str) -> Any:
        """About what has this id as text; None if nothing here can have it."""
        t = self.t
        kind, _, number = about.partition(" ")
        if kind in PROCESSES and number.isdecimal():
            return self._of_number(kind, int(number))
        if about[16:24] != t.config.node_id[:4].hex():
            return None
        if key := typed_ids.key_of(about):
            return self.of_key(key)
        actor = t.actors.find(about[16:]) if len(about) == TASK_HEX else None
        if actor is not None:  # its constructor
            return why_actors.of_actor(self, actor, None)
        index = next(
            (i for i, job in t.jobs.by_driver.items() if about.endswith(f"{job.number:08x}")), 0
        )
        if len(about) != TASK_HEX or not index:
            return None
        return self.of_process(index) or r.Nothing(pid=self.pid_of(index))

    def _of_number(self, kind: str, number: int) -> Any:
        """About a process: by its index, as ``shoal story`` shows it, or by its pid."""
        known = [*self.t.pool.workers, *self.t.jobs.by_driver]
        mine = [i for i in known if number == (self.pid_of(i) if kind == "pid" else i)]
        if not mine:
            return None
        running = self.running_in(self.sights.process(mine[0]))
        if running:
            return self.of_key(running[-1].key)
        actor = self.t.actors.by_worker.get(mine[0])
        if actor is not None:
            return why_actors.of_actor(self, actor, None)
        return self.of_process(mine[0]) or r.Nothing(pid=self.pid_of(mine[0]))

    def follow(self, key: int) -> Any:
        """The next of the chain; None where it ends because too much had to be seen."""
        try:
            return self.of_key(key)
        except Need:
            if not self.is_last:
                raise
            return None

    def enter(self, name: str) -> r.Circular | None:
        """The chain comes to ``name``: for the second time?"""
        if name in self.path:
            return r.Circular(ids=self.path[self.path.index(name) :])
        self.path.append(name)
        return None

    def of_key(self, key: int) -> r.Reason:
        """Why the object ``key`` has no value."""
        sight = self.sights.task(key)
        if sight.is_gone:
            return r.Gone(id=self.name_object(sight))
        if sight.format:
            return self._sealed(sight)
        if sight.is_cell or not sight.task:
            return self._not_sealed(sight)
        if circle := self.enter(self.name_task(sight)):
            return circle
        if sight.stage == "held":
            return self._held(sight)
        if sight.stage == "queued":
            return self._queued(sight)
        if sight.worker == DAEMON:
            return self._on_node(sight)
        return self.of_running(sight)

    def _on_node(self, sight: TaskSight) -> r.Reason:
        """The daemon has it: another node runs it, or is to."""
        lent = sight.lent
        if lent is None:  # it is being given away, or has just come back
            return r.Delivering(**self.task_facts(sight))
        if lent.node:
            facts = self.task_facts(sight, lent.since)
            name = self.node_name(lent.node)
            return r.OnNode(**facts, node=name, node_id=lent.node, runs=lent.runs)
        if sight.is_call:  # until its actor has its next place
            return self._queued(sight)
        queue = self.t.scheduler.held.queues.get(sight.queue)
        if queue is None:
            return r.Delivering(**self.task_facts(sight))
        return why_places.of_forwarding(queue, self.able(queue), self.task_facts(sight))

    def _sealed(self, sight: TaskSight) -> r.Reason:
        """It has a value, which may not be in memory."""
        name, away = self.name_object(sight), sight.away
        if away is None:
            return r.Ready(id=name, is_error=sight.is_error, error=sight.error)
        node = self.node_name(away.node)
        if not away.is_wanted or not (away.file or away.attempt or node):
            is_evicted = not away.file and not node
            return r.Ready(id=name, file=away.file, is_evicted=is_evicted, node=node)
        if circle := self.enter(name):
            return circle
        if node:
            return r.Arriving(object=name, node=node)
        if away.file:
            return r.Restoring(object=name, file=away.file)
        return r.Rebuilding(
            object=name,
            problem=away.problem or "it was evicted, as there was no room for it",
            attempt=away.attempt,
            attempts_most=away.attempts_most,
            before=away.before,
            cause=self.follow(away.task) if away.task else None,
        )

    def _not_sealed(self, sight: TaskSight) -> r.Reason:
        name = self.name_object(sight)
        if circle := self.enter(name):
            return circle
        if sight.home:
            return r.MadeElsewhere(object=name, node=self.node_name(sight.home))
        owner = cause = None
        if sight.owner >= 0:
            owner = self.process_holder(sight.owner)
            cause = self.of_process(sight.owner)
        return r.NotSealed(object=name, owner=owner, cause=cause)

    def _held(self, sight: TaskSight) -> r.Reason:
        facts = self.task_facts(sight)
        if sight.dependency:
            argument = self.id_of(sight.dependency)
            cause = self.follow(sight.dependency)
            return r.WaitsForArgument(**facts, argument=argument, cause=cause)
        if sight.predecessor:
            earlier = self.task_of(sight.predecessor)
            cause = self.follow(sight.predecessor)
            return r.WaitsForEarlierCall(**facts, earlier=earlier, cause=cause)
        return r.Submitting(**facts)

    def _queued(self, sight: TaskSight) -> r.Reason:
        if sight.is_call:
            actor = self.t.actors.find(self.t.actor_queues.get(sight.queue, ""))
            if actor is not None:
                return why_actors.of_actor(self, actor, sight)
            return r.Delivering(**self.task_facts(sight))
        queue = self.t.scheduler.held.queues.get(sight.queue)
        if queue is None:
            return r.JobEnding(**self.task_facts(sight), job=sight.job)
        return why_places.of_queue(self, queue, sight)

    # ---- what runs
    def running_in(self, process: ProcessSight) -> list[TaskSight]:
        """Its tasks that have no result yet, outermost first: it may just be ending others."""
        tasks = self.sights.tasks_of(process.running)
        return [task for task in tasks if not task.is_gone and not task.format]

    def of_running(self, sight: TaskSight) -> r.Reason:
        """About a task that runs, and what it waits for."""
        process = self.sights.process(sight.worker)
        actor = self.t.actors.by_worker.get(sight.worker)
        cause = self._inside(sight, process)
        return r.Running(
            **self.task_facts(sight, sight.taken),
            worker=sight.worker,
            pid=process.pid,
            actor="" if actor is None else actor.actor_id,
            waits=cause is not None and not isinstance(cause, r.Stopped),
            cause=cause,
        )

    def _inside(self, sight: TaskSight, process: ProcessSight) -> Any:
        """What a running task waits for itself."""
        if process.is_stopped:
            return r.Stopped(worker=process.index, pid=process.pid)
        actor = self.t.actors.by_worker.get(process.index)
        is_alone = actor is None or not why_actors.runs_side_by_side(actor)
        if is_alone and sight.task in process.running:
            above = process.running[process.running.index(sight.task) + 1 :]
            living = [task for task in self.running_in(process) if task.task in above]
            if living:  # it waits, and its worker runs the very task that it waits for
                return self.follow(living[0].task)
        if sight.is_stream and process.waits_for:
            awaited = self.sights.task(process.waits_for)
            if awaited.is_cell and not awaited.format:
                return self._unseen(sight)
        return self.of_process(process.index)

    def _unseen(self, sight: TaskSight) -> r.Reason:
        """A stream waits until its consumer, who called for it, has taken an item."""
        stream, owner = self.name_task(sight), sight.owner
        if owner < 0:
            return r.BackPressure(stream=stream)
        consumer, cause = self.process_holder(owner), self.of_process(owner)
        return r.BackPressure(stream=stream, consumer=consumer, cause=cause)

    def of_process(self, index: int) -> Any:
        """What process ``index`` sleeps for; None: it does not, as far as Shoal knows."""
        process = self.sights.process(index)
        if process.is_stopped:
            return r.Stopped(worker=index, pid=process.pid)
        if circle := self.enter(f"process {index}"):
            return circle
        if process.waits_for_room:
            return why_places.of_room(self)
        if waiter := self.t.memory.admissions.waiter_of(index):
            return why_places.of_admission(self, waiter)
        if what := self.t.mirror.awaited_by(index):
            return self._of_store(what)
        lock = self.t.locks.awaited_by(index)
        if lock is not None:
            return self._of_lock(*lock)
        for wait in self.t.groups.waits.values():
            if wait.index == index:
                return self.of_group(self.t.groups.living[wait.group_id], None)
        keys = [process.waits_for] if process.waits_for else []
        if not keys and (process.is_blocked or index in self.t.jobs.by_driver):
            keys = list(process.watched)
        pending = [sight for sight in self.sights.tasks_of(keys) if _is_awaited(sight)]
        chosen = next((sight for sight in pending if sight.task), None)
        if chosen is None:
            chosen = next(iter(pending), None)
        return None if chosen is None else self.follow(chosen.key)

    def _of_store(self, what: tuple[str, str, int]) -> r.Reason:
        """A change of this table and row is not on disk yet."""
        table, row, change = what
        actor = self.t.actors.find(row) if table == "actors" else None
        if actor is not None:
            name = actor.spec.class_name
            return r.ControlStoreAway(
                task="", actor=row, class_name=name, what=table, change=change
            )
        return r.ControlStoreAway(task="", actor="", what=table, change=change)

    def _of_lock(self, name: str, holder: int, ahead: int) -> r.Reason:
        cause = None
        if circle := self.enter(f"lock {name}"):
            return circle
        if holder < 0:
            away = r.Holder(kind="process", id="", name="of another node")
            return r.WaitsForLock(lock=name, holder=away, ahead=ahead)
        running = self.running_in(self.sights.process(holder))
        if running:
            cause = self.follow(running[-1].task)
        elif holder in self.t.jobs.by_driver:
            cause = self.of_process(holder)
        return r.WaitsForLock(
            lock=name, holder=self.process_holder(holder), ahead=ahead, cause=cause
        )

    def of_driver(self, asker: int) -> r.Reason:
        """What a program waits for: that of the asker, or the first one that does."""
        if asker in self.t.pool.workers:
            return self._of_number("worker", asker)  # type: ignore[no-any-return]
        drivers = [asker] if asker in self.t.jobs.by_driver else sorted(self.t.jobs.by_driver)
        self.sights.processes_of(drivers)
        for index in drivers:
            self.path = []
            reason = self.of_process(index)
            if reason is not None:
                return reason  # type: ignore[no-any-return]
        return r.Nothing(pid=self.pid_of(drivers[0]) if drivers else 0)

    # ---- groups
    def of_group(self, group: Group, task: TaskSight | None) -> Any:
        """Why a group has no place; None if it has."""
        facts = self.task_facts(task, group.created_at)
        if group.record is not None:
            text = group.reason or "it was removed"
            return r.GroupRemoved(**facts, group=group.group_id, text=text)
        if group.is_placed:
            return None
        if group.is_shared:
            cause = why_shared.of_waiting(self, group)
            return r.GroupPending(**facts, group=group.group_id, cause=cause)
        ask = self.t.scheduler.asks.by_who.get(group.group_id)
        cause = None
        if ask is not None:
            cause = why_places.of_ask(self, ask, group.why)
        return r.GroupPending(**facts, group=group.group_id, cause=cause)


def _is_awaited(sight: TaskSight) -> bool:
    """Whether a process that sleeps for it may still have to: it may just have come, or gone."""
    is_away = sight.away is not None and sight.away.is_wanted
    return not sight.is_gone and (not sight.format or is_away)
