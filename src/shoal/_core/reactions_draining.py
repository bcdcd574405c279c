"""What a drain means for the machine of the node that is to leave (RULES A-15).

::

    DrainBegun   what waits here and others could do is for them from now on (``shifting``);
                 actors of other nodes that have not begun go back to their home
    ActorMoves   no call of an actor of another node is here any more: its process ends, and when
                 nothing of it is left its home hears MOVED, and finds another place for it. That
                 is no restart that counts.

    (no room)    an actor of another node finds what it asks for in use here: its calls and then it
                 itself go the same way, drain or not. Home knew an old row, or somebody was
                 quicker; it would wait here while others have room.

An actor moves if it may be restarted. One that may not goes on until the time of the drain is over,
or it ends by itself; so does all that programs do that are attached here. Those whose home is this
node: ``reactions_homes``.

1. Home hears of an actor that moves once, after its process has been reaped (A-3).
2. On a node that is being drained no actor of another one begins.
3. Who calls it from this node notices nothing: its queues stay, and lead to its home.
4. Who has a checkpoint here takes it along: home is told which value that is.
"""

from __future__ import annotations

from shoal._core import causes, reactions_actors, shifting
from shoal._core.actors import Actor, Asking, Dead, Pausing
from shoal._core.answers import Commands
from shoal._core.commands import CallAbroad, TellHome
from shoal._core.events import ActorMoves, DrainBegun
from shoal._core.tables import CallerTicket, NodeTables

MOVED = "MOVED"
"""State of an actor that its host has ended so that it lives elsewhere."""
REFUSED = "REFUSED"
"""State of an actor that its host does not take."""
WAITS_S = 2.0
"""So long an actor of another node waits here for tasks to end; for actors it does not wait."""


def on_begun(t: NodeTables, now: float, event: DrainBegun) -> Commands:
    """Nothing begins here any more that another node could do."""
    t.is_draining = True
    t.tell(now, "session", "this node is being drained")
    return shifting.shift(t, now)


def moving(t: NodeTables) -> list[Actor]:
    """Actors that are to leave this node, when none of their calls is here."""
    return [actor for actor in t.actors.living.values() if may_move(t, actor)]


def may_move(t: NodeTables, actor: Actor) -> bool:
    """Whether its home may have it live elsewhere."""
    if actor.home is None or actor.is_dead:
        return False
    return not actor.incarnation or t.actors.can_restart(actor)


def finds_no_room(t: NodeTables, now: float, actor: Actor) -> bool:
    """Whether its home had better look for another node."""
    ask = t.scheduler.asks.by_who.get(actor.actor_id)
    if actor.home is None or ask is None:
        return False
    room = ask.target.room
    if not t.environments.is_ready(ask.env) or any(a.fits(ask.amounts) for a in room.accounts):
        return False
    return not room.could_serve(ask.amounts) or now - ask.since >= WAITS_S


def on_moves(t: NodeTables, now: float, event: ActorMoves) -> Commands:
    """It ends here, as soon as its process has."""
    actor = t.actors.living.get(event.actor_id)
    if actor is None:
        return []
    if not (t.is_draining and may_move(t, actor)) and not finds_no_room(t, now, actor):
        return []
    return move(t, now, actor)


def move(t: NodeTables, now: float, actor: Actor) -> Commands:
    """End it, so that it lives elsewhere."""
    has_begun = actor.incarnation > 0 or not isinstance(actor.phase, Asking | Pausing)
    actor.moves = MOVED if has_begun else REFUSED
    t.tell(now, actor.actor_id, "moves to another node")
    record = causes.actor_died(actor.facts(), "drained")
    return reactions_actors.end_with(t, now, actor, record, is_gentle=True)


def call_home(t: NodeTables, actor: Actor) -> Commands:
    """Who has called it in its queues here calls by way of its home now; it is there, or that knows
    where it is."""
    queues = [(actor.queue, actor.generation), *actor.group_queues]
    for queue, _ in queues:
        t.actor_queues.pop(queue, None)
    key, n_groups = actor.called_as, len(actor.group_queues)
    t.callers[actor.actor_id] = CallerTicket(actor.actor_id, key, n_groups, queues=queues)
    return [CallAbroad(key, tuple(queue for queue, _ in queues))]


def tell_home(actor: Actor) -> Commands:
    """What its home hears of an actor that moves: when nothing of it is left."""
    assert actor.home is not None
    if not isinstance(actor.phase, Dead):
        return []
    return [
        TellHome(*actor.home, actor.moves, restarts=actor.restarts, checkpoint=actor.checkpoint)
    ]
