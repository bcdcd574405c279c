"""What follows from what drivers do: jobs, their queues and functions, and the end of all of it."""

from __future__ import annotations

import msgspec

from shoal._core import (
    causes,
    placement,
    reactions_actors,
    reactions_groups,
    reactions_workers,
    resources,
)
from shoal._core import commands as do
from shoal._core.actors import Actor
from shoal._core.answers import (
    await_group,
    begin_job,
    job_row,
    never_runs,
    refuse,
    shifting,
    want_environment,
    welcome,
)
from shoal._core.events import DriverJoined, QueueCreated, Requested
from shoal._core.jobs import Job
from shoal._core.pool import Phase
from shoal._core.queues import ClassQueue
from shoal._core.store import PutRow
from shoal._core.tables import ActorTicket, CallerTicket, ClassTicket, NodeTables
from shoal._proto import messages as m

Commands = list[do.Command]

_TOO_MANY = (
    "tasks of {} kinds wait or run, and there can be no more (a kind is what they ask for, with"
    " their strategy and runtime environment). What to do: ask for fewer different amounts"
)


def on_driver_joined(t: NodeTables, now: float, event: DriverJoined) -> Commands:
    """A driver begins a job; the first one of a session that ``init()`` started owns it."""
    if event.config.weight <= 0:
        record = causes.usage(f"weight={event.config.weight}: must be above 0")
        return [do.Reply(event.index, event.request, m.Failure(record))]
    job = begin_job(t, now, event.config)
    t.jobs.set_driver(job, event.index, event.pid)
    if not t.config.started and t.owner < 0:
        t.owner = event.index
    t.tell(now, f"job {job.number}", f"driver {event.index} (pid {event.pid}) joined")
    # Who is let in exists: a number that has been told is never given again.
    out = job_row(t, job, welcome(t, event.index, event.request, job))
    environment = event.config.environment
    if environment is not None and environment.is_eager:
        out += want_environment(t, now, job, None)[1]
    return out


# ---- queues of scheduling classes
def on_open_queue(t: NodeTables, now: float, event: Requested, body: m.OpenQueue) -> Commands:
    """The queue of a class in the caller's job; made on first use (RULES S-15)."""
    job = t.job_of(event.index)
    if job is None:
        return refuse(event, causes.job_ended(0, "the caller belongs to no job"))
    try:
        amounts = resources.parse(body.resources)
    except resources.AmountError as error:
        return refuse(event, causes.usage(str(error)))
    if waits := await_group(t, event, placement.group_of(body.strategy)):
        return waits
    target = placement.resolve(t, body.strategy)
    if isinstance(target, bytes):
        return refuse(event, target)
    env, out = want_environment(t, now, job, body.environment)
    if failure := t.environments.failure(env):
        return refuse(event, failure)
    scheduling_class = (amounts, target, env)
    known = job.queues.get(scheduling_class)
    if known is not None:
        queue = t.scheduler.held.queues[known]
        if queue.dead_record is not None:
            return refuse(event, queue.dead_record)
        return [*out, do.Reply(event.index, event.request, m.QueueOpened(known, queue.generation))]
    for ticket, other in t.tickets.items():
        if not isinstance(other, ClassTicket):
            continue
        if (other.job, other.scheduling_class) == (job.number, scheduling_class):
            asked = (*other.asked, (event.index, event.request))
            t.tickets[ticket] = msgspec.structs.replace(other, asked=asked)
            return out
    if len(t.scheduler.held.queues) >= t.limits.queues_most:
        freed = reactions_workers.free_longest_idle(t)
        if not freed:
            return refuse(event, causes.usage(_TOO_MANY.format(t.limits.queues_most)))
        out = [*out, *freed]
    ticket = t.new_ticket()
    asked = ((event.index, event.request),)
    t.tickets[ticket] = ClassTicket(job.number, scheduling_class, asked)
    return [*out, do.NewQueue(ticket, do.QUEUE_CLASS, job.number)]


def on_queue_created(t: NodeTables, now: float, event: QueueCreated) -> Commands:
    """Node memory has the queue that was asked for."""
    ticket = t.tickets.pop(event.ticket, None)
    if isinstance(ticket, ActorTicket):
        return reactions_actors.on_actor_queue(t, now, ticket, event)
    if isinstance(ticket, CallerTicket):
        from shoal._core import reactions_abroad

        return reactions_abroad.on_caller_queue(t, ticket, event)
    if not isinstance(ticket, ClassTicket):
        return [do.FreeQueue(event.queue)]
    job = t.jobs.running.get(ticket.job)
    if job is None:
        t.freeing[event.queue] = now
        record = causes.job_ended(ticket.job, "its driver has gone")
        return [do.Reply(i, r, m.Failure(record)) for i, r in ticket.asked]
    assert isinstance(ticket.scheduling_class, tuple)
    amounts, target, env = ticket.scheduling_class
    gone = reactions_groups.record_of(t, target.group, target.room)
    if gone is not None:
        t.freeing[event.queue] = now
        return [do.Reply(i, r, m.Failure(gone)) for i, r in ticket.asked]
    queue = ClassQueue(event, job.number, amounts, target, now, t.limits)
    queue.env = env
    queue.is_armed = True
    if t.elsewhere is not None:
        shifting().settle(t, queue)
    t.scheduler.held.add_queue(queue)
    job.queues[ticket.scheduling_class] = event.queue
    if ticket.guest is not None:
        t.guests[ticket.guest] = event.queue
    t.tell(now, f"queue {event.queue}", f"made for job {job.number}: {resources.plain(amounts)}")
    opened = m.QueueOpened(event.queue, event.generation)
    out: Commands = [do.SetHungry(event.queue, True)]
    out += [do.Reply(index, request, opened) for index, request in ticket.asked]
    return out


def infeasible_deadline(t: NodeTables) -> float | None:
    """When the next request that no node can fulfil is to be failed or warned about."""
    times = [
        queue.entries_since
        for queue in t.scheduler.held.impossible.values()
        if queue.entries_since is not None and _is_to_be_told(t, queue)
    ]
    times += [ask.since for ask in t.scheduler.asks.impossible.values()]
    return min(times) + t.limits.infeasible_s if times else None


def may_run_elsewhere(t: NodeTables, queue: ClassQueue) -> bool:
    """Whether this node can never run what is in it, and another one may: then it waits, as
    anything does for which there is no room now."""
    if queue.is_feasible or (t.elsewhere is None and not queue.target.group):
        return False
    return never_runs(t, queue.amounts, queue.target) is None


def _is_to_be_told(t: NodeTables, queue: ClassQueue) -> bool:
    """Whether somebody has yet to hear that nobody can run it."""
    return not queue.is_warned and not may_run_elsewhere(t, queue)


def fail_infeasible(t: NodeTables, now: float) -> Commands:
    """RULES S-13: fail them where nobody can join, else warn once and let them wait."""
    out: Commands = []
    for queue in t.scheduler.held.impossible.values():
        since = queue.entries_since
        if since is None or not _is_to_be_told(t, queue):
            continue
        if now < since + t.limits.infeasible_s:
            continue
        queue.is_warned = True
        asked, gone = resources.plain(queue.amounts), placement.gone(t, queue.target)
        why = gone or _why_never(queue)
        if t.config.can_grow and not gone:
            job = t.jobs.running.get(queue.job)
            what = never_runs(t, queue.amounts, queue.target)
            text = f"tasks that ask for {asked} wait: {what}"
            if job is not None and job.driver >= 0:
                out.append(do.Notify(job.driver, m.Notice(text)))
            continue
        record = causes.unschedulable(asked, t.config.total, "task", why)
        t.scheduler.held.kill_queue(queue, record)
        t.tell(now, f"queue {queue.queue}", f"killed: nobody can ever grant {asked}")
        out.append(do.KillQueue(queue.queue, record))
    out += reactions_actors.fail_infeasible(t, now)
    return out + reactions_groups.fail_infeasible(t, now)


def _why_never(queue: ClassQueue) -> str:
    """What it needs besides enough of each resource."""
    if queue.target.group and not queue.target.why:
        return "no bundle of its placement group has that much"
    return queue.target.why


# ---- functions
def on_export_function(
    t: NodeTables, now: float, event: Requested, body: m.ExportFunction
) -> Commands:
    """Hold the function until its job ends; an equal one exported before wins."""
    job = t.job_of(event.index)
    if job is None:
        return refuse(event, causes.job_ended(0, "the caller belongs to no job"))
    known = job.functions.get(body.digest)
    if known is not None:
        return [do.Reply(event.index, event.request, m.FunctionExported(known[0]))]
    job.functions[body.digest] = (body.key, body.name, body.size_bytes)
    row: dict[str, object] = {
        "digest": body.digest.hex(),
        "name": body.name,
        "key": body.key,
        "job": job.number,
        "size_bytes": body.size_bytes,
    }
    out = t.adopt(body.key)
    reply = do.Reply(event.index, event.request, m.FunctionExported(body.key))
    return out + t.write(PutRow("functions", f"{job.number}/{body.digest.hex()}", row), reply)


def on_task_stopped(t: NodeTables, now: float, event: Requested, body: m.TaskStopped) -> Commands:
    """A task stands at a breakpoint: the program that it works for may have a terminal."""
    job = t.job_of(event.index)
    return [] if job is None or job.driver < 0 else [do.Notify(job.driver, body)]


# ---- the end
def on_leave_job(t: NodeTables, now: float, event: Requested) -> Commands:
    """A driver ends its job and stays connected until it has read the answer."""
    done = do.Reply(event.index, event.request, m.Done())
    job = t.jobs.by_driver.get(event.index)
    if job is None:
        return [done]
    if event.index == t.owner:
        return [done, *end_session(t, now, "the driver that started the session left")]
    return [*end_job(t, now, job, "its driver left"), done]


def on_driver_gone(t: NodeTables, now: float, index: int) -> Commands:
    """The driver's process has ended, or it has let go of everything."""
    if index == t.owner:
        return end_session(t, now, "the driver that started the session has ended")
    job = t.jobs.by_driver.get(index)
    return [] if job is None else end_job(t, now, job, "its driver has ended")


def end_session(t: NodeTables, now: float, reason: str) -> Commands:
    """Nothing follows."""
    t.is_over = True
    t.tell(now, "session", f"ends: {reason}")
    return [do.EndSession(reason)]


def end_job(t: NodeTables, now: float, job: Job, reason: str) -> Commands:
    """End everything that belongs to it (RULES O-8): queued tasks, workers, actors, functions."""
    record = causes.job_ended(job.number, reason)
    t.tell(now, f"job {job.number}", f"ends: {reason}")
    out: Commands = []
    for number in job.queues.values():
        t.scheduler.held.kill_queue(t.scheduler.held.queues[number], record)
        t.doomed.add(number)
        t.crash_loops.ended_well(number)
        out.append(do.KillQueue(number, record))
    out.append(do.EndJobTasks(job.number, record))
    for actor in _actors_of(t, job):
        out += reactions_actors.end_actor(t, now, actor, "job_ended", is_gentle=False)
    out += reactions_groups.end_job(t, now, job.number)
    for worker in list(t.pool.workers.values()):
        binding = worker.binding
        if binding is None or binding.job != job.number or binding.is_actor:
            continue
        if worker.phase is not Phase.LEAVING:
            out += t.pool.kill(now, worker.index)
        else:
            out.append(do.Kill(worker.index))
    for digest, (key, _, _) in job.functions.items():
        out += t.release(key)
        out += t.drop_row("functions", f"{job.number}/{digest.hex()}")
    out += t.environments.end_job(job.number)
    is_guest = job.home is not None
    for forgotten in t.jobs.end(now, job, reason):
        out += t.drop_row("jobs", str(forgotten))
    t.scheduler.held.shares.remove(job.number)
    return out if is_guest else out + job_row(t, job)


def _actors_of(t: NodeTables, job: Job) -> list[Actor]:
    return [a for a in t.actors.living.values() if a.job == job.number and not a.is_dead]
