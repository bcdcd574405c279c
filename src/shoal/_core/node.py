"""The deciding machine of a node daemon: ``step(now, event) -> [command]``.

It composes the parts (see ``tables``) and knows nothing but which reaction belongs to which event.
After each event that may have changed who runs where, one pass gives work
(``reactions_workers.give_work``), and the one alarm is set to the earliest moment at which any part
wants to be woken. The protocol with the shell, with one task and one actor from start to end,
stands at the top of ``events``.

1. A step never waits and never fails for what an event says; an assertion that fails is our bug.
2. The same events at the same times give the same commands: no clock, no chance, no order of a set.
3. After ``EndSession`` every event is answered by nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from shoal._base import typed_ids
from shoal._base.config import NodeConfig
from shoal._core import (
    causes,
    reactions_actors,
    reactions_cancels,
    reactions_environments,
    reactions_groups,
    reactions_jobs,
    reactions_memory,
    reactions_store,
    reactions_tables,
    reactions_workers,
)
from shoal._core import commands as do
from shoal._core import events as seen
from shoal._core.answers import Commands
from shoal._core.answers import homes as _homes
from shoal._core.answers import lease as _lease
from shoal._core.answers import shared_groups as _groups
from shoal._core.tables import NodeTables
from shoal._proto import messages as m
from shoal._proto.environments import Environment

QUEUE_RETRY_S = 0.05

_REQUESTS: dict[type, Callable[[NodeTables, float, seen.Requested, Any], Commands]] = {
    m.GetAssignment: lambda t, now, event, _: reactions_workers.on_get_assignment(t, now, event),
    m.OpenQueue: reactions_jobs.on_open_queue,
    m.ExportFunction: reactions_jobs.on_export_function,
    m.RetryTask: reactions_workers.on_retry_task,
    m.CancelTask: reactions_cancels.on_cancel_task,
    m.WatchDeadline: reactions_cancels.on_watch_deadline,
    m.ArgumentGivenUp: reactions_cancels.on_argument_given_up,
    m.WorkerLeaves: reactions_cancels.on_worker_leaves,
    m.CreateActor: reactions_actors.on_create_actor,
    m.GetActor: reactions_actors.on_get_actor,
    m.ActorStarted: reactions_actors.on_started,
    m.ActorFailed: reactions_actors.on_failed,
    m.ActorExits: reactions_actors.on_exits,
    m.KeepCheckpoint: reactions_actors.on_checkpoint,
    m.KillActor: reactions_actors.on_kill,
    m.DescribeActor: reactions_actors.on_describe,
    m.OpenActor: lambda t, now, event, body: _abroad().on_open_actor(t, now, event, body),
    m.SetupFailed: reactions_environments.on_setup_failed,
    m.CreateGroup: reactions_groups.on_create,
    m.WaitGroup: reactions_groups.on_wait,
    m.GetGroup: reactions_groups.on_get,
    m.ResizeGroup: reactions_groups.on_resize,
    m.RemoveGroup: reactions_groups.on_remove,
    m.AcquireLock: reactions_tables.on_acquire,
    m.ReleaseLock: reactions_tables.on_release,
    m.IsLocked: reactions_tables.on_is_locked,
    m.AdmitMemory: reactions_memory.on_admit,
    m.ReleaseMemory: reactions_memory.on_release,
    m.HeavyHeard: reactions_memory.on_heard,
    m.KvPut: reactions_tables.on_kv_put,
    m.KvGet: reactions_tables.on_kv_read,
    m.KvKeys: reactions_tables.on_kv_read,
    m.KvDelete: reactions_tables.on_kv_delete,
    m.GetResources: reactions_tables.on_view,
    m.GetTable: reactions_tables.on_view,
    m.AskWhy: lambda t, now, event, body: _reactions_why().on_ask(t, now, event, body),
    m.TaskStopped: reactions_jobs.on_task_stopped,
    m.LeaveJob: lambda t, now, event, _: reactions_jobs.on_leave_job(t, now, event),
}


def _reactions_why() -> ModuleType:
    from shoal._core import reactions_why

    return reactions_why


def _abroad() -> ModuleType:
    from shoal._core import reactions_abroad

    return reactions_abroad


def _draining() -> ModuleType:
    """Only a node that leaves a cluster needs it."""
    from shoal._core import reactions_draining

    return reactions_draining


def _guests() -> ModuleType:
    from shoal._core import guests

    return guests


_NO_WORK = frozenset(
    {
        m.CancelTask,
        m.WatchDeadline,
        m.ArgumentGivenUp,
        m.AcquireLock,
        m.ReleaseLock,
        m.IsLocked,
        m.AdmitMemory,
        m.ReleaseMemory,
        m.KvPut,
        m.KvGet,
        m.KvKeys,
        m.KvDelete,
        m.GetActor,
        m.WaitGroup,
        m.GetGroup,
        m.DescribeActor,
        m.ExportFunction,
        m.OpenQueue,
        m.CreateActor,
        m.ActorStarted,
        m.AskWhy,
        m.TaskStopped,
    }
)
"""Requests after which nobody can run who could not before."""

_NO_WORK_EVENTS = frozenset(
    {
        seen.WorkerForked,
        seen.WorkerJoined,
        seen.LeaseSet,
        seen.QueueFreed,
        seen.FoundRunning,
        seen.TaskLooked,
        seen.QueuesSifted,
        seen.TasksSifted,
        seen.Inspected,
    }
)
"""The same for what is seen."""


def _changes_nothing(event: seen.Event) -> bool:
    if isinstance(event, seen.Requested):
        return type(event.body) in _NO_WORK
    return type(event) in _NO_WORK_EVENTS


class NodeMachine:
    """Decides everything on one node."""

    def __init__(self, config: NodeConfig) -> None:
        self.tables = NodeTables(config)
        self._reactions: dict[type, Callable[[float, Any], Commands]] = {
            seen.Began: self._on_began,
            seen.Looked: self._on_looked,
            seen.BellRang: self._on_bell,
            seen.AlarmRang: self._on_alarm,
            seen.Requested: self._on_request,
            seen.ProcessDied: self._on_process_died,
            seen.QueueFreed: self._on_queue_freed,
            seen.StopAsked: self._on_stop,
            seen.DriverJoined: self._with(reactions_jobs.on_driver_joined),
            seen.QueueCreated: self._with(reactions_jobs.on_queue_created),
            seen.WorkerForked: self._with(reactions_workers.on_worker_forked),
            seen.WorkerStartFailed: self._with(reactions_workers.on_start_failed),
            seen.WorkerJoined: self._with(reactions_workers.on_worker_joined),
            seen.EnvironmentBuilt: self._with(reactions_environments.on_built),
            seen.EnvironmentFailed: self._with(reactions_environments.on_failed),
            seen.FoundRunning: self._with(reactions_cancels.on_found_running),
            seen.TaskLooked: self._with(reactions_cancels.on_task_looked),
            seen.TasksSifted: self._with(reactions_cancels.on_tasks_sifted),
            seen.QueuesSifted: self._with(reactions_workers.on_queues_sifted),
            seen.Inspected: self._on_inspected,
            seen.MemoryRead: self._with(reactions_memory.on_read),
            seen.Requeued: self._with(reactions_workers.on_requeued),
            seen.AdoptFailed: self._on_adopt_failed,
            seen.ValueLost: self._on_value_lost,
            seen.ValuesRead: self._with(reactions_actors.on_values_read),
            seen.ValuesPut: self._with(reactions_store.on_values_put),
            seen.StoreWritten: self._with(reactions_store.on_written),
            seen.StoreConnected: self._with(reactions_store.on_connected),
            seen.CancelAsked: self._with(reactions_cancels.on_cancel_asked),
            seen.NameAnswered: lambda now, event: _abroad().on_name_answered(
                self.tables, now, event
            ),
            seen.ActorSent: lambda now, event: _abroad().on_sent(self.tables, now, event),
            seen.ActorTold: lambda now, event: _abroad().on_told(self.tables, now, event),
            seen.ActorCame: lambda now, event: _abroad().on_came(self.tables, now, event),
            seen.ActorEnds: lambda now, event: _abroad().on_ends(self.tables, now, event),
            seen.AbroadLooked: lambda now, event: _abroad().on_looked(self.tables, now, event),
            seen.CallersGone: lambda now, event: _abroad().on_callers_gone(self.tables, now, event),
            seen.GroupTold: lambda now, event: _groups().on_told(self.tables, now, event),
            seen.BundlesWanted: lambda now, event: _groups().on_wanted(self.tables, now, event),
            seen.BundlesOpened: lambda now, event: _groups().on_opened(self.tables, now, event),
            seen.BundlesUnwanted: lambda now, event: _groups().on_unwanted(self.tables, now, event),
            seen.GroupsOver: lambda now, event: _groups().on_over(self.tables, now, event),
            seen.NodesChanged: lambda now, event: _guests().on_nodes(self.tables, now, event),
            seen.LeaseSet: lambda now, event: _lease().on_set(self.tables, now, event),
            seen.DrainBegun: lambda now, event: _draining().on_begun(self.tables, now, event),
            seen.ActorMoves: lambda now, event: _draining().on_moves(self.tables, now, event),
            seen.HomeLeaves: lambda now, event: _homes().on_leaves(self.tables, now, event),
            seen.HomeFound: lambda now, event: _homes().on_found(self.tables, now, event),
            seen.GivenAway: lambda now, event: _homes().on_given_away(self.tables, event),
            seen.ActorGiven: lambda now, event: _homes().on_given(self.tables, now, event),
            seen.GuestWanted: lambda now, event: _guests().on_wanted(self.tables, now, event),
            seen.GuestEnded: lambda now, event: _guests().on_ended(self.tables, now, event),
        }

    def _with(
        self, reaction: Callable[[NodeTables, float, Any], Commands]
    ) -> Callable[[float, Any], Commands]:
        tables = self.tables
        return lambda now, event: reaction(tables, now, event)

    def step(self, now: float, event: seen.Event) -> Commands:
        """What is to be done because of ``event``."""
        t = self.tables
        if t.is_over:
            return []
        if t.mirror.is_fresh and reactions_store.must_wait(event):
            t.early.append(event)
            return []
        out: Commands = []
        if now >= t.lease.until and not t.lease.is_over:
            out += _lease().on_over(t, now)
        out += self._reactions[type(event)](now, event)
        while t.early and not t.mirror.is_fresh:
            early = t.early.pop(0)
            out += self._reactions[type(early)](now, early)
        while t.retries:
            out += self._on_request(now, t.retries.pop(0))
        for end in t.memory_news.due(now):
            out += reactions_workers.take_in_death(t, now, end)
        if t.is_over:
            end = next(i for i, command in enumerate(out) if isinstance(command, do.EndSession))
            return out[: end + 1]
        if not _changes_nothing(event):
            out += self._settle(now)
        if not any(isinstance(command, do.Look) for command in out):
            # Else ``Looked`` follows at once, and what is due now is not due any more.
            self._set_alarm(now, out)
        return out

    def _settle(self, now: float) -> Commands:
        t = self.tables
        out: Commands = []
        while t.ended_roots:
            job = t.ended_roots.pop()
            out += reactions_jobs.end_job(t, now, job, "its root actor is dead")
        out += reactions_workers.free_doomed(t, now)
        if t.groups.ending or t.groups.part_ends or t.groups.leaving:
            out += reactions_groups.bury_due(t)
        out += reactions_workers.give_work(t, now)
        if t.housekeeping_at is None and reactions_workers.needs_house(t):
            t.housekeeping_at = now + t.limits.housekeeping_s
        reactions_memory.begin(t, now)
        return out

    # ---- time
    def _set_alarm(self, now: float, out: Commands) -> None:
        """There is one alarm; one that rings too early does no harm, so it is only ever brought
        forward."""
        t = self.tables
        times = [
            t.scheduler.next_deadline(),
            t.pool.next_deadline(),
            t.crash_loops.next_deadline(now),
            t.actors.next_deadline(),
            t.locks.next_deadline(),
            t.groups.deadlines.next(),
            t.groups.part_deadlines.next(),
            t.cancels.next_deadline(),
            t.memory.next_at,
            t.memory_news.until,
            t.housekeeping_at,
            t.lease.ends_at,
            reactions_jobs.infeasible_deadline(t),
            min(t.freeing.values(), default=None),
        ]
        due = [at for at in times if at is not None]
        if not due:
            return
        at = min(due)
        if t.alarm_at is None or at < t.alarm_at:
            t.alarm_at = at
            out.append(do.SetAlarm(at))

    def _on_alarm(self, now: float, event: seen.AlarmRang) -> Commands:
        t = self.tables
        t.alarm_at = None
        out = t.pool.expire(now)
        out += reactions_actors.on_restarts_due(t, now)
        out += reactions_actors.drain_due(t, now)
        out += reactions_tables.expire_locks(t, now)
        out += reactions_groups.expire_waits(t, now)
        out += reactions_cancels.expire(t, now)
        out += reactions_jobs.fail_infeasible(t, now)
        out += reactions_memory.look(t, now)
        if t.housekeeping_at is not None and t.housekeeping_at <= now:
            out += reactions_workers.keep_house(t, now)
        look = t.scheduler.due_list(now)
        return out if look is None else [*out, look]

    # ---- what node memory says
    def _on_began(self, now: float, event: seen.Began) -> Commands:
        return reactions_workers.on_began(self.tables, now)

    def _on_bell(self, now: float, event: seen.BellRang) -> Commands:
        """Level-triggered: the bell says look, never what."""
        t = self.tables
        out: Commands = []
        # In this order: who called a dead actor and dropped its last handle at once gets an answer
        # only as long as it is known whose queue that was.
        for number in event.dead:
            record = self._record_of(number)
            if record:
                out.append(do.KillQueue(number, record))
        for key in event.gone:
            if key in t.actors.by_key or t.has_adopted(key):
                out += reactions_actors.on_last_handle(t, now, key)
            else:
                out += reactions_cancels.on_stream_dropped(t, now, key)
        look = t.scheduler.look_list()
        return [*out, look] if look.queues or look.workers else out

    def _record_of(self, number: int) -> bytes:
        """What entries of a dead queue fail with."""
        t = self.tables
        queue = t.scheduler.held.queues.get(number)
        if queue is not None:
            return queue.dead_record or b""
        if number in t.actor_queues:
            actor = t.actors.find(t.actor_queues[number])
            return b"" if actor is None else actor.cause
        ours = (caller.record for caller in t.callers.values() if caller.has(number))
        return next(ours, b"")

    def _on_looked(self, now: float, event: seen.Looked) -> Commands:
        t = self.tables
        out = reactions_workers.on_looked(t, now, event)
        if t.waiting_looks and (event.workers or not t.scheduler.held.by_worker):
            out += reactions_tables.answer_views(t)
        return out

    def _on_queue_freed(self, now: float, event: seen.QueueFreed) -> Commands:
        if not event.ok:
            self.tables.freeing[event.queue] = now + QUEUE_RETRY_S
        return []

    def _on_adopt_failed(self, now: float, event: seen.AdoptFailed) -> Commands:
        return reactions_actors.on_arguments_lost(self.tables, now, event.key)

    def _on_value_lost(self, now: float, event: seen.ValueLost) -> Commands:
        node_id, ancestry = self.tables.config.node_id, event.ancestry
        object_id = typed_ids.object_id(node_id, event.key, ancestry) if ancestry else ""
        return [do.LoseValue(event.key, causes.object_lost(object_id, event.reason, event.kind))]

    # ---- requests and processes
    def _on_request(self, now: float, event: seen.Requested) -> Commands:
        t = self.tables
        if isinstance(event.body, m.StopSession):
            done = do.Reply(event.index, event.request, m.Done())
            return [done, *reactions_jobs.end_session(t, now, "it was asked to stop")]
        reaction = _REQUESTS.get(type(event.body))
        if reaction is None:
            return []
        return reaction(t, now, event, event.body)

    def _on_process_died(self, now: float, event: seen.ProcessDied) -> Commands:
        t = self.tables
        t.early = [each for each in t.early if getattr(each, "index", None) != event.index]
        if event.index in t.jobs.by_driver:
            out = reactions_jobs.on_driver_gone(t, now, event.index)
            out += reactions_workers.end_locks(t, now, event.index)
            return [*out, do.CloseProcess(event.index)]
        return reactions_workers.on_process_died(t, now, event)

    def _on_inspected(self, now: float, event: seen.Inspected) -> Commands:
        out: Commands = _reactions_why().on_inspected(self.tables, now, event)
        return out

    def _on_stop(self, now: float, event: seen.StopAsked) -> Commands:
        return reactions_jobs.end_session(self.tables, now, event.reason)

    # ---- looking at it
    def story(self, about: str) -> Sequence[str]:
        """What happened to ``worker 3``, ``queue 7``, ``job 1``, ``session`` or an actor id."""
        return self.tables.stories.about(about)

    def environment_of(self, queue: int) -> Environment | None:
        """What the tasks of that queue run in."""
        found = self.tables.scheduler.held.queues.get(queue)
        entry = None if found is None else self.tables.environments.entries.get(found.env)
        return None if entry is None else entry.environment

    def validate(self) -> None:
        """Assert every invariant; between steps all of them hold."""
        t = self.tables
        if not t.is_over:
            t.validate()
            assert t.is_starving == bool(t.scheduler.waiting)
