"""Actors whose home leaves the cluster get another one (RULES A-15).

The *home* of an actor has its name, its handles and its end: what it is to everybody. That is the
node whose program or task made it. When that node is drained, the home moves too: to the node of
the program that the actor works for, or, of a detached one and of what works for that, to the head,
which is never drained. ::

    former home                                    next home
      (living) -- HomeLeaves --> LEAVES
          its process ends behind its present call; calls are refused, and wait with their callers
      LEAVES, and nothing of it runs
          GiveActor ------------------------------>  ActorGiven: an actor like any other, which asks
                                                     for room here or elsewhere
      ActorTaken <---------------------------------  (its queues are there)
          HomeFound --> GONE: calls from here, and those who call from elsewhere, go there

What is asked of one that is GONE goes to its next home.

1. It has one home at any time: the former one begins nothing of it again, also if nobody takes it.
2. It was no restart: its incarnation is the next, its count of restarts stays.
3. One that may not be restarted, that is in a placement group, or that works for a program which is
   attached to the node itself, keeps its home, and ends with it.
4. A detached actor of a program whose machine has no node of the cluster is the head's before it
   begins, and before its creator hears that it is there: the node of such a program ends with it.
5. The next home holds its class and its arguments by itself. Its calls wait in the queues in which
   it called the actor until now, if it did.
"""

from __future__ import annotations

from shoal._core import commands as do
from shoal._core import guests, placement, reactions_actors
from shoal._core.actors import (
    GONE,
    LEAVES,
    Abroad,
    Actor,
    Asking,
    Constructing,
    Living,
    Pausing,
)
from shoal._core.answers import Commands, begin_job, job_row, want_environment
from shoal._core.events import ActorGiven, GivenAway, HomeFound, HomeLeaves
from shoal._core.jobs import Job
from shoal._core.tables import ActorTicket, BirthTicket, NodeTables, RecordTicket


# ---- one that is not to begin here
def gives_away(t: NodeTables, actor: Actor) -> bool:
    """Whether it can have another home before it begins (rule 3)."""
    return not placement.group_of(actor.spec.strategy)


def born(t: NodeTables, now: float, actor: Actor, reply: do.Reply) -> Commands:
    """A detached actor of a program whose node leaves with it: its creator hears of it when it has
    another home."""
    actor.moves = LEAVES
    t.tell(now, actor.actor_id, "its home is to be the head, since this node is its program's")
    ticket = t.new_ticket()
    t.tickets[ticket] = BirthTicket(reply)
    return [do.GiveAway(ticket, actor.actor_id)]


def on_given_away(t: NodeTables, event: GivenAway) -> Commands:
    """Its creator may go on."""
    ticket = t.tickets.pop(event.ticket, None)
    return [ticket.reply] if isinstance(ticket, BirthTicket) else []


# ---- the former home
def leaving(t: NodeTables) -> list[Actor]:
    """Actors of this node whose home is to move, or does."""
    return [actor for actor in t.actors.living.values() if may_leave(t, actor)]


def may_leave(t: NodeTables, actor: Actor) -> bool:
    """Whether another node may be its home."""
    if actor.home is not None or actor.is_dead or actor.moves == GONE or actor.drain is not None:
        return False
    job = t.jobs.running.get(actor.job)
    if job is None or job.driver >= 0 or placement.group_of(actor.spec.strategy):
        return False
    has_begun = actor.incarnation > 0
    return bool(actor.moves) or not has_begun or t.actors.can_restart(actor)


def is_stopped(actor: Actor) -> bool:
    """Whether nothing of it runs anywhere."""
    return actor.moves == LEAVES and isinstance(actor.phase, Asking)


def on_leaves(t: NodeTables, now: float, event: HomeLeaves) -> Commands:
    """It stops between two calls. On another node it does so when that is told."""
    actor = t.actors.living.get(event.actor_id)
    if actor is None or not t.is_draining or actor.moves or not may_leave(t, actor):
        return []
    if isinstance(actor.phase, Constructing) or not actor.queue:
        return []  # it is looked at again
    actor.moves = LEAVES
    t.tell(now, actor.actor_id, "is to have another home")
    if isinstance(actor.phase, Living):
        return t.pool.leave(now, actor.worker, is_patient=True)
    if isinstance(actor.phase, Asking | Pausing):
        t.scheduler.withdraw(actor.actor_id)
        t.actors.stop(now, actor)
    return []


def on_found(t: NodeTables, now: float, event: HomeFound) -> Commands:
    """That node is its home now."""
    actor = t.actors.living.get(event.actor_id)
    if actor is None or actor.moves != LEAVES:
        return []
    actor.moves, actor.was_abroad = GONE, True
    actor.phase = Abroad(event.node)
    if actor.spec.name:
        t.claimed.discard((actor.namespace, actor.spec.name))
    t.tell(now, actor.actor_id, f"its home is node {event.node} now")
    return t.drop_row("actors", actor.actor_id)


# ---- the next home
def on_given(t: NodeTables, now: float, event: ActorGiven) -> Commands:
    """It is ours from now on; if it cannot be, nothing happens, and that is what is answered."""
    place = guests.place_of(t, event.node, event.place)
    target = placement.resolve(t, event.spec.strategy)
    if place is None or isinstance(target, bytes) or event.actor_id in t.actors.living:
        return []
    out: Commands = []
    job = _job_of(t, event)
    if job is None and event.root == event.actor_id:
        job = begin_job(t, now, place.config)
        job.root_actor = event.actor_id
        out += job_row(t, job)
    if job is None:
        return []
    actor = Actor(event.actor_id, t.actors.share(event.spec), job.number, event.namespace, now)
    actor.incarnation, actor.restarts = event.incarnation, event.restarts
    actor.was_given = True
    actor.env, making = want_environment(t, now, job, place.environment)
    t.actors.add(actor)
    t.tell(now, actor.actor_id, f"{event.spec.class_name}: its home was node {event.node}")
    out += [*making, *t.adopt(event.spec.arguments), *t.adopt(event.spec.function)]
    if event.checkpoint:
        actor.checkpoint = event.checkpoint
        out += t.adopt(event.checkpoint)
    if event.spec.name:
        t.claimed.add((event.namespace, event.spec.name))
        out.append(do.TakeName(event.namespace, event.spec.name, event.node))
    if event.spec.detached and t.mirror.has_process:
        ticket = t.new_ticket()
        t.tickets[ticket] = RecordTicket(actor.actor_id, None)
        out.append(do.ReadValues(ticket, (event.spec.function, event.spec.arguments)))
    return out + _give_queues(t, now, actor)


def _job_of(t: NodeTables, event: ActorGiven) -> Job | None:
    """The job here that it works for."""
    if event.job:
        return t.jobs.running.get(event.job)
    return next((job for job in t.jobs.running.values() if job.root_actor == event.root), None)


def _give_queues(t: NodeTables, now: float, actor: Actor) -> Commands:
    """Those in which this node has called it, or new ones."""
    caller = t.callers.get(actor.actor_id)
    out: Commands = []
    if caller is None or len(caller.queues) <= caller.n_groups:
        for _ in ("", *actor.spec.groups):
            ticket = t.new_ticket()
            t.tickets[ticket] = ActorTicket(actor.actor_id, -1, 0)
            out.append(do.NewQueue(ticket, do.QUEUE_ACTOR, actor.job))
        return out
    del t.callers[actor.actor_id]
    (actor.queue, actor.generation), *actor.group_queues = caller.queues
    for queue in actor.queues:
        t.actor_queues[queue] = actor.actor_id
    actor.was_abroad = True
    out += reactions_actors.actor_row(t, actor)
    return out + reactions_actors.ask_worker(t, now, actor)
