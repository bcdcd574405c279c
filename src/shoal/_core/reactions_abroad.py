"""Actors across nodes: those of this node that live on another, and those of others that live here.

The node whose program made an actor is its *home*: it has its name, its handles and its end. Where
home has no room for it, another node is its *host*::

    home                                              host
    ask in the line, no room here
    ActorSent -> HostActor ------------------------>  ActorCame: an actor of a guest, with a queue
    ActorTold(PENDING, ALIVE, RESTARTING) <---------  TellHome, at each change
      its calls are lent, in their order (bridge/actors)
    ActorTold(DEAD) <-------------------------------  its worker died, and no restart is left
    end, kill -> EndHosted ------------------------>  ActorEnds
    NodesChanged: the host is lost                    ActorEnds: its home is lost
      restarts left: it asks again
    ActorTold(MOVED): it asks again <--------------  its node is being drained

Who has a handle on a third node calls by way of home: its calls wait in a queue of that node
(``CallAbroad``) and are lent to home, where they are calls like any other.

1. An actor that lives elsewhere is in the phase ``Abroad``, and stands in nobody's line here.
2. The host restarts it as often as may be, and says how often it has; home does after the loss of
   a host, somewhere else or here.
3. A guest's name, handles and lifetime are its home's: here it ends by ``ActorEnds`` or with its
   job.
"""

from __future__ import annotations

import msgspec

from shoal._core import (
    causes,
    guests,
    placement,
    reactions_actors,
    reactions_draining,
    resources,
)
from shoal._core import commands as do
from shoal._core.actors import GONE, Abroad, Actor, Asking
from shoal._core.answers import Commands, refuse, want_environment
from shoal._core.asks import ActorAsk
from shoal._core.events import (
    AbroadLooked,
    ActorCame,
    ActorEnds,
    ActorSent,
    ActorTold,
    CallersGone,
    NameAnswered,
    QueueCreated,
    Requested,
)
from shoal._core.reactions_draining import MOVED, REFUSED
from shoal._core.resources import Target
from shoal._core.tables import ActorTicket, CallerTicket, NodeTables
from shoal._proto import messages as m


# ---- at home
def on_sent(t: NodeTables, now: float, event: ActorSent) -> Commands:
    """A node was found for it."""
    actor = t.actors.living.get(event.actor_id)
    ask = t.scheduler.asks.by_who.get(event.actor_id)
    if actor is None or not isinstance(actor.phase, Asking):
        return []
    if event.node == t.config.node_id.hex():
        is_new = not isinstance(ask, ActorAsk)
        return reactions_actors.ask_worker(t, now, actor, is_settled=True) if is_new else []
    t.scheduler.withdraw(actor.actor_id)
    actor.phase, actor.was_abroad = Abroad(event.node), True
    actor.incarnation += 1
    t.tell(now, actor.actor_id, f"incarnation {actor.incarnation} on node {event.node}")
    return [do.HostActor(actor.actor_id, event.node), *reactions_actors.actor_row(t, actor)]


def on_told(t: NodeTables, now: float, event: ActorTold) -> Commands:
    """Its host has said how it is."""
    actor = t.actors.by_key.get(event.key)
    if actor is None or not isinstance(actor.phase, Abroad) or actor.phase.node != event.node:
        return []
    out: Commands = []
    if actor.checkpoint and (event.state == "ALIVE" or event.checkpoint):
        out += t.release(actor.checkpoint)  # its host has it; or here is a newer one
        actor.checkpoint = 0
    if event.checkpoint:
        actor.checkpoint = event.checkpoint
        out += t.adopt(event.checkpoint)
    if actor.moves and event.state in ("DEAD", REFUSED, MOVED):  # it was told to, or not begun
        actor.incarnation -= event.state == REFUSED
        t.actors.stop(now, actor)
        return out
    if event.state == "DEAD":
        return out + reactions_actors.end_with(t, now, actor, event.cause, is_gentle=True)
    if event.state == REFUSED:
        t.tell(now, actor.actor_id, f"node {event.node} does not take it")
        actor.incarnation -= 1
        return _ask_again(t, now, actor)
    if event.state == MOVED:  # that was not its fault, and does not count
        t.tell(now, actor.actor_id, f"node {event.node} is being drained")
        actor.pid = 0
        return out + _ask_again(t, now, actor)
    actor.phase.state, actor.pid = event.state, event.pid
    more = max(0, event.restarts - actor.phase.restarts)
    actor.restarts, actor.incarnation = actor.restarts + more, actor.incarnation + more
    actor.phase.restarts = event.restarts
    t.tell(now, actor.actor_id, f"{event.state} on node {event.node}, pid {event.pid}")
    return out + reactions_actors.actor_row(t, actor)


def on_host_lost(
    t: NodeTables, now: float, actor: Actor, node: str, *, is_drained: bool = False
) -> Commands:
    """It lives again elsewhere, or ends. After a drain that is no restart that counts."""
    what = "has been drained" if is_drained else "is lost"
    t.tell(now, actor.actor_id, f"node {node}, on which it lived, {what}")
    if actor.moves and actor.moves != GONE:
        t.actors.stop(now, actor)
        return []
    if actor.moves or not t.actors.can_restart(actor):
        reason = "drained" if is_drained else "node_lost"
        record = causes.actor_died(actor.facts(), reason, may_have_run=True, node=node)
        return reactions_actors.end_with(t, now, actor, record, is_gentle=False)
    actor.restarts += not is_drained
    actor.pid = 0
    return _ask_again(t, now, actor)


def _ask_again(t: NodeTables, now: float, actor: Actor) -> Commands:
    actor.phase = Asking(now)
    out = reactions_actors.actor_row(t, actor)
    return out + reactions_actors.ask_worker(t, now, actor)


def on_looked(t: NodeTables, now: float, event: AbroadLooked) -> Commands:
    """Without handles, and perhaps without calls."""
    actor = t.actors.living.get(event.actor_id)
    if actor is None or actor.drain is None or not isinstance(actor.phase, Abroad):
        return []
    was_quiet, actor.drain.quiet_takes = actor.drain.quiet_takes >= 0, 0 if event.is_quiet else -1
    if not (event.is_quiet and was_quiet):
        return []
    return reactions_actors.end_actor(t, now, actor, "no_handle", is_gentle=True)


# ---- at its host
def on_came(t: NodeTables, now: float, event: ActorCame) -> Commands:
    """Another node's actor is to live here."""
    spec, room = event.spec, t.scheduler.node.room
    place = guests.place_of(t, event.node, event.place)
    has_room = all(room.can_ever(resources.parse(each)) for each in (spec.place, spec.hold))
    if t.is_draining or not _has_bundle(t, spec):
        return [do.TellHome(event.node, event.key, REFUSED)]
    if place is None or not has_room or event.actor_id in t.actors.living:
        return [do.TellHome(event.node, event.key, REFUSED)]
    job = guests.job_of(t, now, (event.node, event.job), place.config)
    actor = Actor(event.actor_id, t.actors.share(spec), job.number, job.namespace, now)
    actor.home, actor.has_handles = (event.node, event.key), False
    actor.env, out = want_environment(t, now, job, place.environment)
    t.actors.add(actor)
    if event.checkpoint:
        actor.checkpoint = event.checkpoint
        out += t.adopt(event.checkpoint)
    t.tell(now, actor.actor_id, f"{spec.class_name} of node {event.node}")
    for _ in ("", *spec.groups):
        ticket = t.new_ticket()
        t.tickets[ticket] = ActorTicket(actor.actor_id, -1, 0)
        out.append(do.NewQueue(ticket, do.QUEUE_ACTOR, job.number))
    return out


def _has_bundle(t: NodeTables, spec: m.ActorSpec) -> bool:
    """Whether a bundle here has what it asks for, and no actors in it have that for good; if it is
    to be in none, there is nothing to ask."""
    if not isinstance(spec.strategy, m.InGroup):
        return True
    target = placement.resolve(t, spec.strategy)
    return isinstance(target, Target) and target.room.could_serve(resources.parse(spec.hold))


def on_ends(t: NodeTables, now: float, event: ActorEnds) -> Commands:
    """Its home does not want it any more, or wants it to crash."""
    found = [a for a in t.actors.living.values() if a.home == (event.node, event.key)]
    if event.node == t.config.node_id.hex():  # somebody on another node has killed one of ours
        ours = t.actors.by_key.get(event.key)
        found = [] if ours is None or ours.is_dead else [ours]
        if found and found[0].moves == GONE:
            return [do.KillElsewhere(event.key, event.may_restart)]
    out: Commands = []
    for actor in found:
        if actor.is_dead:
            continue
        if event.is_moving and actor.home is not None:
            out += reactions_draining.move(t, now, actor)
        elif event.may_restart and t.actors.can_restart(actor):
            out += reactions_actors.crash(t, now, actor)
        else:
            reason = "no_handle" if event.is_gentle else "killed"
            out += reactions_actors.end_actor(t, now, actor, reason, is_gentle=event.is_gentle)
    return out


# ---- names
def on_name_answered(t: NodeTables, now: float, event: NameAnswered) -> Commands:
    """Of a claim: nobody else has it, or who does; of a question: the actor, if there is one."""
    asked, namespace = t.name_asks.pop(event.ticket, (None, ""))
    if asked is None:
        return []
    body = asked.body
    if isinstance(body, m.GetActor):
        if event.info is None:
            return refuse(asked, causes.actor_not_found(body.name, namespace))
        return [do.Reply(asked.index, asked.request, event.info)]
    assert isinstance(body, m.CreateActor) and body.spec.name
    if event.info is None:
        t.claimed.add((namespace, body.spec.name))
        out = reactions_actors.on_create_actor(t, now, asked, body)
        if t.actors.named(namespace, body.spec.name) is None:  # refused for another reason
            t.claimed.discard((namespace, body.spec.name))
            out.append(do.ReleaseName(namespace, body.spec.name))
        return out
    if body.spec.get_if_exists:
        return [do.Reply(asked.index, asked.request, event.info)]
    return refuse(asked, causes.name_taken(body.spec.name, namespace))


# ---- handles of actors of other nodes
def on_open_actor(t: NodeTables, now: float, event: Requested, body: m.OpenActor) -> Commands:
    """Where calls of this node wait for that actor; made with the first handle."""
    actor, known = t.actors.find(body.actor_id), t.callers.get(body.actor_id)
    is_guest = actor is not None and actor.home is not None
    if actor is not None and actor.queue and not actor.was_guest and not (is_guest and known):
        actor.called_as = body.key if is_guest else 0
        queues = [(actor.queue, actor.generation), *actor.group_queues]
        opened = m.ActorOpened(queues, actor.home is None)
        return [do.Reply(event.index, event.request, opened)]
    asked = (event.index, event.request)
    if known is not None and len(known.queues) > body.n_groups:
        return [do.Reply(*asked, m.ActorOpened(known.queues, False))]
    if known is not None:
        t.callers[body.actor_id] = msgspec.structs.replace(known, asked=(*known.asked, asked))
        return []
    job = t.job_of(event.index)
    t.callers[body.actor_id] = CallerTicket(body.actor_id, body.key, body.n_groups, (asked,))
    out: Commands = []
    for _ in range(1 + body.n_groups):
        ticket = t.new_ticket()
        t.tickets[ticket] = t.callers[body.actor_id]
        out.append(do.NewQueue(ticket, do.QUEUE_ACTOR, 0 if job is None else job.number))
    return out


def on_caller_queue(t: NodeTables, ticket: CallerTicket, event: QueueCreated) -> Commands:
    """One of the queues is there."""
    caller = t.callers.get(ticket.actor_id)
    if caller is None:
        return [do.FreeQueue(event.queue)]
    queues = [*caller.queues, (event.queue, event.generation)]
    is_whole = len(queues) > caller.n_groups
    asked = () if is_whole else caller.asked
    t.callers[ticket.actor_id] = msgspec.structs.replace(caller, queues=queues, asked=asked)
    out: Commands = [do.KillQueue(event.queue, caller.record)] if caller.record else []
    if not is_whole:
        return out
    opened = m.ActorOpened(queues, False)
    if not caller.record:
        out.append(do.CallAbroad(caller.key, tuple(queue for queue, _ in queues)))
    return out + [do.Reply(index, request, opened) for index, request in caller.asked]


def on_callers_gone(t: NodeTables, now: float, event: CallersGone) -> Commands:
    """No handle of it is left on this node, or it has ended: ``record`` is what calls get."""
    out: Commands = []
    for actor_id, caller in list(t.callers.items()):
        if caller.key != event.key:
            continue
        t.callers[actor_id] = msgspec.structs.replace(caller, record=event.record)
        for queue, _ in caller.queues:
            out.append(do.KillQueue(queue, event.record))
            if event.is_unused:
                t.freeing[queue] = now
        if event.is_unused:
            del t.callers[actor_id]
    return out
