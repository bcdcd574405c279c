"""What follows when workers die before they have done anything; counted in ``crash_loops``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from shoal._core import causes, reactions_actors
from shoal._core import commands as do
from shoal._core.answers import Commands
from shoal._core.asks import ActorAsk
from shoal._core.crash_loops import HOPELESS
from shoal._core.events import ProcessDied, QueueState
from shoal._core.jobs import Job
from shoal._core.pool import Worker
from shoal._core.queues import ClassQueue
from shoal._core.scheduler import Binding, Missing
from shoal._core.tables import NodeTables
from shoal._proto import messages as m


def python_of(t: NodeTables, binding: Binding) -> str:
    """Interpreter for such workers; empty: what the zygote runs."""
    return t.environments.python(binding.env) or python_of_job(t, binding.job)


def python_of_job(t: NodeTables, job: int) -> str:
    """Interpreter of ``job`` where the environment has none of its own."""
    wanted = t.jobs.running[job].config.python
    return "" if wanted == t.config.python else wanted


def may_start(t: NodeTables, now: float, missing: Sequence[Missing]) -> list[str]:
    """Interpreters of the workers that are missing and may be started now."""
    loops = t.crash_loops
    pythons = [
        python_of(t, need.binding)
        for need in missing
        if not (need.queue and loops.is_paused(now, need.queue))
    ]
    return [python for python in pythons if not loops.is_paused(now, python)]


def see_progress(t: NodeTables, states: Iterable[QueueState]) -> None:
    """Tasks have been taken: the workers of those queues work."""
    for state in states:
        queue = t.scheduler.held.queues.get(state.queue)
        if queue is None or state.takes == queue.takes:
            continue
        t.crash_loops.ended_well(queue.queue)
        for index in queue.attachments:
            t.pool.workers[index].has_served = True


def on_idle_death(
    t: NodeTables, now: float, worker: Worker, served: ClassQueue | None, event: ProcessDied
) -> Commands:
    """A worker that ran nothing has died by itself: a pause, or the end of what waits."""
    if worker.has_served or (worker.binding is not None and served is None):
        return []
    cause = worker.python if served is None else served.queue
    count = t.crash_loops.died(now, cause)
    if count < HOPELESS:
        return []
    how = f"signal {event.signal}" if event.signal else f"exit code {event.code}"
    text = f"workers cannot start: {count} in a row ended ({how}) before they took a task"
    record = causes.workers_cannot_start(event.code, event.signal, event.stderr, count)
    out: Commands = [do.Warn(text)]
    jobs = _jobs_of(t, worker.python) if served is None else [t.jobs.running[served.job]]
    for job in jobs:
        if served is None:
            out += _fail_waiting(t, now, job, record)
        if job.driver >= 0:
            out.append(do.Notify(job.driver, m.Notice(text)))
    if served is not None:
        out.append(_fail_queued(t, now, served, record))
    return out


def _jobs_of(t: NodeTables, python: str) -> list[Job]:
    return [job for job in t.jobs.running.values() if python_of_job(t, job.number) == python]


def _fail_queued(t: NodeTables, now: float, queue: ClassQueue, record: bytes) -> do.Command:
    """What waits in it; what is submitted later, or waits for something else, is tried again."""
    t.tell(now, f"queue {queue.queue}", "what waited has failed: its workers cannot start")
    return do.FailQueued(queue.queue, record)


def _fail_waiting(t: NodeTables, now: float, job: Job, record: bytes) -> Commands:
    """Everything of the job that waits for a first worker; where there is one, it goes on."""
    queues = [t.scheduler.held.queues[number] for number in job.queues.values()]
    alone = [q for q in queues if q.entries and not q.attachments and q.dead_record is None]
    out: Commands = [_fail_queued(t, now, queue, record) for queue in alone]
    for ask in list(t.scheduler.asks.values()):
        if ask.job != job.number or not isinstance(ask, ActorAsk):
            continue
        actor = t.actors.living[ask.actor_id]
        out += reactions_actors.end_with(t, now, actor, record, is_gentle=False)
    if alone:
        out.append(do.Look(queues=tuple(queue.queue for queue in alone)))
    return out
