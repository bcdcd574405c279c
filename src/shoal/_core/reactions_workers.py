"""What follows from what happens to workers, and the pass that gives them work."""

from __future__ import annotations

from shoal._base import typed_ids
from shoal._core import (
    causes,
    reactions_actors,
    reactions_cancels,
    reactions_groups,
    reactions_memory,
    reactions_starts,
    resources,
)
from shoal._core import commands as do
from shoal._core.answers import Commands, label_worker, refuse, welcome
from shoal._core.events import (
    Looked,
    ProcessDied,
    QueuesSifted,
    Requested,
    Requeued,
    RunningTask,
    WorkerForked,
    WorkerJoined,
    WorkerStartFailed,
)
from shoal._core.jobs import Job
from shoal._core.pool import Phase
from shoal._core.queues import Attachment, ClassQueue
from shoal._core.reactions_starts import python_of
from shoal._core.scheduler import Missing, Placement
from shoal._core.tables import NodeTables, RetryTicket
from shoal._core.tasks import Death
from shoal._proto import messages as m


# ---- starting
def on_began(t: NodeTables, now: float) -> Commands:
    """Fork as many workers ahead as tasks can run at once."""
    return t.pool.want(now, [""] * t.pool.prestart)


def on_worker_forked(t: NodeTables, now: float, event: WorkerForked) -> Commands:
    """The process exists; its Hello comes next."""
    if not t.pool.forked(now, event.start, event.index, event.pid):
        return [do.AbandonStart(event.start)]
    t.tell(now, f"worker {event.index}", f"forked, pid {event.pid}")
    return []


def on_start_failed(t: NodeTables, now: float, event: WorkerStartFailed) -> Commands:
    """Wait a little, then try again if it is still wanted."""
    if not t.pool.start_failed(now, event.start):
        return []
    return [do.Warn(f"a worker could not be started: {event.reason}")]


def on_worker_joined(t: NodeTables, now: float, event: WorkerJoined) -> Commands:
    """It is connected: forked with a connection, or it said Hello."""
    if t.pool.joined(now, event.index, event.pid) is None:
        return [do.Kill(event.index)]
    if not event.request:
        return []
    return [welcome(t, event.index, event.request, None)]


def on_get_assignment(t: NodeTables, now: float, event: Requested) -> Commands:
    """The answer waits until somebody needs a worker."""
    if t.pool.asks_assignment(now, event.index, event.request) is None:
        return refuse(event, causes.usage("this process is no worker without an assignment"))
    return []


# ---- the end of a process
def on_process_died(t: NodeTables, now: float, event: ProcessDied) -> Commands:
    """As ``take_in_death``, but who was ended for its memory may have to wait for the news."""
    t.memory_news.gone(event.index)
    out = reactions_memory.on_kernel_kill(t, now, event) if event.kernel_oom else []
    if event.index in t.memory.ended and t.memory_news.keep(event):
        return out
    return [*out, *take_in_death(t, now, event)]


def take_in_death(t: NodeTables, now: float, event: ProcessDied) -> Commands:
    """A worker: answer for everything that it ran, give back what it held."""
    out = end_locks(t, now, event.index)
    t.groups.end_process(event.index)
    worker = t.pool.died(event.index)
    cancelled = reactions_cancels.take_cancelled(t, event)
    if worker is None:
        start = t.pool.by_start_index.get(event.index)
        if start is not None:
            t.pool.start_failed(now, start)
        out += [do.Fail(task.key, _lost(event, task.max_retries)) for task in event.running]
        return [*out, do.CloseProcess(event.index)]
    how = f"signal {event.signal}" if event.signal else f"exit code {event.code}"
    t.tell(now, f"worker {event.index}", f"pid {worker.pid} ended: {how}")
    memory = reactions_memory.on_died(t, now, event.index)
    actor = t.actors.by_worker.get(event.index)
    queue = t.scheduler.held.lose_worker(now, event.index)
    if actor is not None:
        ended = None if memory is None else memory[1]
        out += reactions_actors.on_worker_died(t, now, actor, event, cancelled, ended)
        return [*out, do.CloseProcess(event.index)]
    record = None
    if worker.binding is not None:
        record = reactions_groups.record_of(t, worker.binding.group)
        if worker.binding.job not in t.jobs.running:
            record = causes.job_ended(worker.binding.job, "its driver has ended")
    if record is None and queue is not None:
        record = queue.dead_record  # the bundle in which it ran was removed
    is_ours = worker.phase is Phase.LEAVING
    if memory is not None and event.running and event.running[0].key != memory[0]:
        memory, is_ours = None, True  # what it was ended for has just been done
    if record is None and not is_ours and not event.running and memory is None:
        out += reactions_starts.on_idle_death(t, now, worker, queue, event)
    job = None if worker.binding is None else t.jobs.running.get(worker.binding.job)
    who = {task.key: _who(t, job, task) for task in event.running}
    out += t.crashes.decide(Death(worker.pid, event, is_ours, record, cancelled, who, memory))
    out.append(do.CloseProcess(event.index))
    again = {task.queue for task in event.running}
    if queue is not None:
        again.add(queue.queue)
    queues = t.scheduler.held.queues
    known = tuple(n for n in sorted(again) if n in queues and queues[n].dead_record is None)
    return [*out, do.Look(queues=known)] if known else out


def _who(t: NodeTables, job: Job | None, task: RunningTask) -> tuple[str, str]:
    """Name and id of a task that its process has died with."""
    if job is None:
        return "", ""
    names = (name for key, name, _ in job.functions.values() if key == task.about)
    task_id = typed_ids.task_id(t.config.node_id, task.key, 0, job.number)
    return next(names, ""), task_id


def _lost(event: ProcessDied, max_retries: int) -> bytes:
    return causes.worker_crashed(0, event.code, event.signal, event.stderr, 0, max_retries)


def end_locks(t: NodeTables, now: float, index: int) -> Commands:
    """Locks of the process go to the next in line."""
    return [
        do.Reply(waiter.index, waiter.request, m.LockAnswer(held=True))
        for waiter in t.locks.end_process(index)
    ]


# ---- retries that a worker asks for
def on_retry_task(t: NodeTables, now: float, event: Requested, body: m.RetryTask) -> Commands:
    """RULES L-3: the worker says retryable, here is decided whether a retry is left."""
    worker = t.pool.workers.get(event.index)
    job = t.job_of(event.index)
    denied = do.Reply(event.index, event.request, m.RetryDecision(granted=False))
    if body.is_last:
        # If another node has sent it, that one decides, and sends it again.
        return [denied] if job is None or job.home is None else [do.NoteRetryable(body.key), denied]
    limit = getattr(body, "max_retries", -1)
    is_unwanted = body.key in t.cancels.running or body.key in t.cancels.calls
    is_over = 0 <= limit < body.attempt or is_unwanted
    if worker is None or job is None or worker.phase is Phase.LEAVING or is_over:
        return [denied]
    actor = t.actors.by_worker.get(event.index)
    served = t.scheduler.held.by_worker.get(event.index)
    ticket = t.new_ticket()
    number = 0 if served is None else served.queue
    t.tickets[ticket] = RetryTicket(event.index, event.request, number)
    return [do.Requeue(ticket, body.key, charged=True, front=actor is not None)]


def on_requeued(t: NodeTables, now: float, event: Requeued) -> Commands:
    """The answer for ``on_retry_task``."""
    ticket = t.tickets.pop(event.ticket, None)
    if not isinstance(ticket, RetryTicket):
        return []
    out: Commands = [
        do.Reply(ticket.index, ticket.request, m.RetryDecision(granted=event.ok)),
    ]
    if ticket.queue in t.scheduler.held.queues:
        out.append(do.Look(queues=(ticket.queue,)))
    return out


# ---- what is seen of workers and queues
def on_looked(t: NodeTables, now: float, event: Looked) -> Commands:
    """Workers first: a queue's wish depends on who has taken it up."""
    for index in t.scheduler.held.look_workers(now, event.workers):
        t.pool.rest(now, index)
    reactions_starts.see_progress(t, event.queues)
    out = t.scheduler.held.look_queues(now, event.queues)
    return out + reactions_actors.on_looked(t, now, event)


# ---- giving work
def give_work(t: NodeTables, now: float) -> Commands:
    """One pass of the scheduler, and what it needs from the pool."""
    requests: dict[int, int] = {}

    def find(need: Missing) -> int | None:
        python = python_of(t, need.binding)
        worker = t.pool.find(need.binding, python)
        if worker is not None and not t.memory.begins():
            return None
        if worker is not None and t.pool.workers[worker].phase is Phase.GENERIC:
            if need.queue and t.crash_loops.is_paused(now, need.queue):
                return None
            t.crash_loops.ended_well(python)
        if worker is not None:
            requests[worker] = t.pool.use(now, worker, need.binding)
        return worker

    out: Commands = []
    placed = t.scheduler.place(now, find)
    while placed.groups:
        # Who waits in them is in line from now on. Nothing else of this pass is lost: a worker that
        # it took was attached, and who was missing one is missing it in the next pass too.
        for ask, grants in placed.groups:
            out += reactions_groups.place(t, now, ask, grants)
        out += _give_placed(t, now, placed, requests)
        placed = t.scheduler.place(now, find)
    out += _give_placed(t, now, placed, requests)
    if placed.missing and (not t.memory.is_paused or t.memory.may_begin):
        pythons = reactions_starts.may_start(t, now, placed.missing)
        if pythons and t.pool.is_full():
            out += t.pool.evict(now)
        out += t.pool.want(now, pythons)
    for index in t.scheduler.relieve(now):
        out += revoke(t, now, index)
    is_starving = bool(t.scheduler.waiting)
    if is_starving != t.is_starving:
        t.is_starving = is_starving
        out.append(do.SetStarving(is_starving))
        if is_starving:
            # Set, then look: what happened before the workers knew is seen now.
            out.append(do.Look(workers=tuple(t.scheduler.held.by_worker)))
    return out


def _give_placed(
    t: NodeTables, now: float, placed: Placement, requests: dict[int, int]
) -> Commands:
    """Tell workers what they are for."""
    out: Commands = []
    for queue, attachment in placed.attached:
        out += _attach(t, now, queue, attachment, requests[attachment.worker])
    for ask, hold in placed.actors:
        request = requests[hold.worker]
        out += reactions_actors.assign(t, now, ask.actor_id, hold.worker, request)
    return out


def revoke(t: NodeTables, now: float, index: int) -> Commands:
    """Have it let go of its queue after its present task; one with GPU ids ends (RULES S-9)."""
    attachment = t.scheduler.held.by_worker[index].attachments[index]
    if attachment.grant.gpus:
        return t.pool.leave(now, index, is_patient=True)
    return [do.Assign(index, 0)]


def _attach(
    t: NodeTables, now: float, queue: ClassQueue, attachment: Attachment, request: int
) -> Commands:
    index = attachment.worker
    worker = t.pool.workers[index]
    assert worker.binding is not None
    out: Commands = []
    if request:
        job = t.jobs.running[queue.job]
        body = m.Assignment(
            job=job.number,
            config=job.config,
            threads=worker.binding.threads,
            gpu_ids=list(worker.binding.gpu_ids),
            resources=resources.plain(queue.amounts),
            environment=t.environments.get(queue.env),
            group=worker.binding.group,
            captures=worker.binding.captures,
            heavy=t.memory.peaks.heavy(),
            is_guest=job.home is not None,
        )
        out += [
            label_worker(job, index, ""),
            do.Reply(index, request, body),
        ]
        t.tell(now, f"worker {index}", f"bound to job {job.number}")
    t.tell(now, f"queue {queue.queue}", f"worker {index} attached")
    out += reactions_memory.first_look(t, index, queue.amounts)
    out.append(do.Assign(index, queue.queue))
    return out


# ---- now and then
def keep_house(t: NodeTables, now: float) -> Commands:
    """Trim workers, take idle attachments back, free queues nobody needs."""
    limits = t.limits
    held = t.scheduler.held
    out: Commands = []
    if t.pool.needs_trimming() or len(t.pool.workers) > t.pool.prestart:
        out += t.pool.trim(now)
        late = now - limits.idle_worker_s
        spare = len(t.pool.workers) - t.pool.prestart
        for queue in held.serving():
            for attachment in queue.attachments.values():
                is_old = attachment.is_idle and attachment.idle_since <= late
                if spare > 0 and is_old and not attachment.is_leaving and not queue.entries:
                    held.ask_back(attachment)
                    out += revoke(t, now, attachment.worker)
                    spare -= 1
    out += _free_queues(t, now)
    if needs_house(t):
        workers = tuple(held.by_worker)
        t.housekeeping_at = now + limits.housekeeping_s
        return [*out, do.Look(workers=workers)] if workers else out
    t.housekeeping_at = None
    return out


def needs_house(t: NodeTables) -> bool:
    """Whether ``keep_house`` will have something to do."""
    plain_workers = len(t.pool.workers) - len(t.actors.by_worker)
    has_spare = plain_workers > t.pool.prestart
    return has_spare or len(t.scheduler.held.queues) > t.limits.queues_kept


def _free_queues(t: NodeTables, now: float) -> Commands:
    """RULES S-15: queues that nobody has used for a while go, if there are many."""
    queues = t.scheduler.held.queues
    if len(queues) <= t.limits.queues_kept:
        return []
    late = now - t.limits.queue_idle_s
    idle = tuple(queue.queue for queue in queues.values() if _is_free(t, queue, late))
    return [do.SiftQueues(idle)] if idle else []


def _is_free(t: NodeTables, queue: ClassQueue, late: float) -> bool:
    is_idle = queue.idle_since is not None and queue.idle_since <= late
    return is_idle and not queue.attachments and queue.queue not in t.doomed


def on_queues_sifted(t: NodeTables, now: float, event: QueuesSifted) -> Commands:
    """Those that tasks may need which run again for a lost value stay, while there are others."""
    queues = t.scheduler.held.queues
    t.needed_queues = frozenset(event.needed)
    late = now - t.limits.queue_idle_s
    spare = [queues[number] for number in event.spare if number in queues]
    spare = [queue for queue in spare if _is_free(t, queue, late)]
    return [_free_queue(t, queue) for queue in spare[: len(queues) - t.limits.queues_kept]]


def _free_queue(t: NodeTables, queue: ClassQueue) -> do.Command:
    job = t.jobs.running[queue.job]
    job.queues = {k: n for k, n in job.queues.items() if n != queue.queue}
    if job.home is not None:
        t.guests = {k: n for k, n in t.guests.items() if n != queue.queue}
    t.crash_loops.ended_well(queue.queue)
    t.scheduler.remove_queue(queue.queue)
    return do.FreeQueue(queue.queue)


def free_longest_idle(t: NodeTables) -> Commands:
    """Another class needs a queue, and there are as many as there may be: the one that has been
    idle for longest goes. Whoever still knows it asks for it again."""
    idle = [
        queue
        for queue in t.scheduler.held.queues.values()
        if queue.idle_since is not None and not queue.attachments and queue.queue not in t.doomed
    ]
    if not idle:
        return []
    # One that lost values could need is the last choice.
    needed = t.needed_queues
    key = min(idle, key=lambda queue: (queue.queue in needed, queue.idle_since or 0.0))
    return [_free_queue(t, key)]


def free_doomed(t: NodeTables, now: float) -> Commands:
    """Queues of ended jobs go when their last worker has."""
    out: Commands = []
    for number in sorted(t.doomed):
        if not t.scheduler.held.queues[number].attachments:
            t.doomed.remove(number)
            t.scheduler.remove_queue(number)
            out.append(do.FreeQueue(number))
    for number, at in list(t.freeing.items()):
        if at <= now:
            del t.freeing[number]
            out.append(do.FreeQueue(number))
    return out
