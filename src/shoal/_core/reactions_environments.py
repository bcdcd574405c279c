"""What follows from runtime environments: who waits for one, and who fails with it."""

from __future__ import annotations

from shoal._core import causes, reactions_actors
from shoal._core import commands as do
from shoal._core.answers import Commands
from shoal._core.asks import ActorAsk
from shoal._core.environments import Entry
from shoal._core.events import EnvironmentBuilt, EnvironmentFailed, Requested
from shoal._core.tables import NodeTables
from shoal._proto import messages as m


def on_built(t: NodeTables, now: float, event: EnvironmentBuilt) -> Commands:
    """Whoever waits for it is in the scheduler's line from now on."""
    if t.environments.built(now, event.key) is not None:
        t.tell(now, f"environment {event.key}", "is ready")
    return []


def on_failed(t: NodeTables, now: float, event: EnvironmentFailed) -> Commands:
    """Everything that waits for it fails; what is asked for later may have it tried again."""
    record = causes.environment_failed(event.step, event.text, event.output)
    entry = t.environments.failed(now, event.key, record)
    if entry is None:
        return []
    t.tell(now, f"environment {event.key}", f"has failed: {event.text}")
    out: Commands = [do.Warn(f"a runtime environment could not be made: {event.text}")]
    out += _kill_queues(t, entry, record)
    for ask in [a for a in t.scheduler.asks.values() if a.env == event.key]:
        assert isinstance(ask, ActorAsk), "groups have no environment"
        actor = t.actors.living[ask.actor_id]
        out += reactions_actors.end_with(t, now, actor, record, is_gentle=False)
    return out


def _kill_queues(t: NodeTables, entry: Entry, record: bytes) -> Commands:
    out: Commands = []
    for number in sorted(entry.jobs):
        job = t.jobs.running[number]
        failed = [q for q in job.queues.values() if _env_of(t, q) == entry.environment.key]
        job.queues = {k: q for k, q in job.queues.items() if q not in failed}
        for queue in failed:
            t.scheduler.held.kill_queue(t.scheduler.held.queues[queue], record)
            t.doomed.add(queue)
            t.crash_loops.ended_well(queue)
            out.append(do.KillQueue(queue, record))
    return out


def _env_of(t: NodeTables, queue: int) -> str:
    return t.scheduler.held.queues[queue].env


def on_setup_failed(t: NodeTables, now: float, event: Requested, body: m.SetupFailed) -> Commands:
    """A worker could not take its environment over (its hook raised): it ends by itself, and what
    waits for such a worker fails."""
    out: Commands = [do.Reply(event.index, event.request, m.Done())]
    record = causes.environment_failed(body.step, body.text, body.output)
    actor = t.actors.by_worker.get(event.index)
    queue = t.scheduler.held.by_worker.get(event.index)
    if actor is not None and not actor.is_dead:
        out += reactions_actors.end_with(t, now, actor, record, is_gentle=False)
    elif queue is not None:
        t.tell(now, f"queue {queue.queue}", "what waited has failed: its environment raised")
        out += [do.FailQueued(queue.queue, record), do.Look(queues=(queue.queue,))]
    return out
