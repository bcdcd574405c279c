"""Reasons that an actor has: for itself, and for a call that waits in its queue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal._core import why_places
from shoal._core.actors import Abroad, Actor, Asking, Constructing, Dead, Ending, Pausing
from shoal._core.reactions_lease import is_leased
from shoal._core.sight_rows import TaskSight
from shoal._proto import reasons as r

if TYPE_CHECKING:
    from shoal._core.why import Explainer

RECENT_S = 60.0


def runs_side_by_side(actor: Actor) -> bool:
    """Whether several of its calls may run at once."""
    spec = actor.spec
    return spec.max_concurrency > 1 or bool(spec.groups) or spec.is_asyncio


def of_actor(e: Explainer, actor: Actor, call: TaskSight | None) -> r.Reason:
    """Why ``call`` waits for the actor; without one, what the actor does or waits for."""
    facts: dict[str, Any] = {
        **e.task_facts(call, 0.0 if call is not None else actor.created_at),
        "actor": actor.actor_id,
        "class_name": actor.spec.class_name,
    }
    phase = actor.phase
    if isinstance(phase, Dead):
        return r.Gone(id=actor.actor_id)
    if isinstance(phase, Ending):
        return r.ActorEnding(**facts, worker=phase.worker)
    if e.t.is_unwritten("actors", actor.actor_id):
        return r.ControlStoreAway(**facts)
    if isinstance(phase, Pausing):
        again_in_s = max(0.0, phase.until - e.now)
        if e.t.lease.is_over and is_leased(e.t, actor):
            own = {"task": "", "name": actor.actor_id, "since_s": None}
            return _restarting(e, actor, facts, None, why_places.lease_over(e, own))
        return _restarting(e, actor, facts, again_in_s, None)
    if isinstance(phase, Asking):
        ask = e.t.scheduler.asks.by_who.get(actor.actor_id)
        cause = None if ask is None else why_places.of_ask(e, ask)
        if actor.restarts:
            return _restarting(e, actor, facts, None, cause)
        return r.ActorPending(**facts, cause=cause)
    if isinstance(phase, Abroad):
        name = e.node_name(phase.node)
        return r.ActorOnNode(
            **facts, node=name, node_id=phase.node, state=phase.state, pid=actor.pid
        )
    if circle := e.enter(f"actor {actor.actor_id}"):
        return circle
    process = e.sights.process(actor.worker)
    if isinstance(phase, Constructing):
        return r.ActorConstructing(
            **facts, worker=phase.worker, pid=process.pid, cause=e.of_process(phase.worker)
        )
    if runs_side_by_side(actor):
        full = _side_by_side(e, actor, call, facts)
        if full is not None:
            return full
    elif running := e.running_in(process):
        call_id = e.name_task(running[0])
        ahead = e.sights.queue(actor.queue).entries if call is not None else 0
        cause = e.follow(running[0].task)
        return r.ActorBusy(**facts, call=call_id, ahead=ahead, cause=cause)
    if process.is_stopped:
        stopped = r.Stopped(worker=actor.worker, pid=process.pid)
        return r.ActorIdle(**facts, worker=actor.worker, pid=process.pid, cause=stopped)
    if call is not None:
        return r.Delivering(**e.task_facts(call))
    return r.ActorIdle(**facts, worker=actor.worker, pid=process.pid)


def _restarting(
    e: Explainer, actor: Actor, facts: dict[str, Any], again_in_s: float | None, cause: Any
) -> r.Reason:
    recently = e.t.stories.count_since(actor.actor_id, "process ", e.now - RECENT_S)
    return r.ActorRestarting(
        **facts, restarts=actor.restarts, recently=recently, again_in_s=again_in_s, cause=cause
    )


def _side_by_side(
    e: Explainer, actor: Actor, call: TaskSight | None, facts: dict[str, Any]
) -> r.Reason | None:
    """As many of its group run as may."""
    process = e.sights.process(actor.worker)
    running = e.running_in(process)
    queue = actor.queue if call is None else call.queue
    group, limit = "", actor.spec.max_concurrency
    for (number, _), name in zip(actor.group_queues, actor.spec.groups):
        if number == queue:
            group, limit = name, actor.spec.groups[name]
    mine = sorted((task for task in running if task.queue == queue), key=lambda task: task.taken)
    if call is not None and len(mine) < limit:
        return None
    if not mine:
        return None
    calls = [e.name_task(task) for task in mine]
    cause = e.follow(mine[0].task)
    if call is None:
        return r.ActorBusy(**facts, call=calls[0], cause=cause)
    return r.ConcurrencyFull(**facts, group=group, limit=limit, calls=calls, cause=cause)
