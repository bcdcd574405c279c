"""What follows when workers die before they have done anything; counted in ``crash_loops``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from shoal._core import causes, reactions_actors
from shoal._core import commands as do
from shoal._core.answers import Commands
from shoal._core.crash_loops import HOPELESS
from shoal._core.events import ProcessDied, QueueState
from shoal._core.jobs import Job
from shoal._core.pool import Worker
from shoal._core.scheduler import Binding
from shoal._core.tables import NodeTables
from shoal._proto import messages as m


def python_of(t: NodeTables, job: int) -> str:
    """Interpreter for workers of ``job``; empty: what the zygote runs."""
    wanted = t.jobs.running[job].config.python
    return "" if wanted == t.config.python else wanted


def may_start(t: NodeTables, now: float, missing: Sequence[Binding]) -> list[str]:
    """Interpreters of the workers that are missing and may be started now."""
    loops = t.crash_loops
    pythons = [python_of(t, b.job) for b in missing if not loops.is_paused(now, b.job)]
    return [python for python in pythons if not loops.is_paused(now, python)]


def see_progress(t: NodeTables, states: Iterable[QueueState]) -> None:
    """Tasks have been taken: the workers of those queues work."""
    for state in states:
        queue = t.scheduler.held.queues.get(state.queue)
        if queue is None or state.takes == queue.takes:
            continue
        if t.crash_loops.any():
            t.crash_loops.ended_well(queue.job)
        for index in queue.attachments:
            t.pool.workers[index].has_served = True


def on_idle_death(t: NodeTables, now: float, worker: Worker, event: ProcessDied) -> Commands:
    """A worker that ran nothing has died by itself: a pause, or the end of what waits."""
    if worker.has_served:
        return []
    job = None if worker.binding is None else t.jobs.running[worker.binding.job]
    count = t.crash_loops.died(now, worker.python if job is None else job.number)
    if count < HOPELESS:
        return []
    jobs = [job] if job is not None else _jobs_of(t, worker.python)
    how = f"signal {event.signal}" if event.signal else f"exit code {event.code}"
    text = f"workers cannot start: {count} in a row ended ({how}) before they took a task"
    out: Commands = [do.Warn(text)]
    record = causes.workers_cannot_start(event.code, event.signal, event.stderr, count)
    for each in jobs:
        out += _fail_waiting(t, now, each, record)
        if each.driver >= 0:
            out.append(do.Notify(each.driver, m.Notice(text)))
    return out


def _jobs_of(t: NodeTables, python: str) -> list[Job]:
    return [job for job in t.jobs.running.values() if python_of(t, job.number) == python]


def _fail_waiting(t: NodeTables, now: float, job: Job, record: bytes) -> Commands:
    """Everything of the job that has not begun; what is submitted later is tried again."""
    out: Commands = [do.EndJobTasks(job.number, record)]
    for ask in [a for a in t.scheduler.asks.values() if a.job == job.number]:
        actor = t.actors.living[ask.actor_id]
        out += reactions_actors.end_with(t, now, actor, record, is_gentle=False)
    t.tell(now, f"job {job.number}", "what waited has failed: its workers cannot start")
    return out
