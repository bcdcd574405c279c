"""What the end of its lease means for the machine of a node in a cluster (RULES 3, K-3).

A node that has not heard from the control store for as long as its lease lasts may have been
declared dead: what must not run twice may be begun elsewhere a second later. So before that, here::

    workers       begin nothing: they compare the word in node memory before each claim, also
                  while the daemon stands still
    leased actors end: those with a name or a life of their own, and those of another node that it
                  may restart. While the daemon stands still, the zygote ends their processes
    their next    waits, looking now and then, until the lease is good again; that counts as a
    life          restart, since nobody can tell it from a crash
    the rest      goes on; it counts if the node is still a member when it is heard again

1. Time alone says it: before an event is looked at, nothing has to be told.
2. A process is marked in node memory before it hears that it is such an actor's.
"""

from __future__ import annotations

from shoal._core import reactions_actors
from shoal._core.actors import Actor, Pausing
from shoal._core.answers import Commands
from shoal._core.events import LeaseSet
from shoal._core.tables import NodeTables

LOOK_S = 0.25
"""How often it is looked whether a leased actor may begin again."""


def on_set(t: NodeTables, now: float, event: LeaseSet) -> Commands:
    """The control store has answered."""
    t.lease.until = event.until
    if t.lease.is_over and now < event.until:
        t.lease.is_over = False
        t.tell(now, "session", "the control store is heard again: work begins again")
    return []


def on_over(t: NodeTables, now: float) -> Commands:
    """It was not heard from for too long."""
    t.lease.is_over = True
    t.tell(now, "session", "nothing was heard of the control store for a lease: nothing begins")
    out: Commands = []
    for actor in [each for each in t.actors.living.values() if is_leased(t, each)]:
        if actor.actor_id in t.scheduler.asks.by_who:  # who only waits to ask finds it over then
            t.scheduler.withdraw(actor.actor_id)
            put_off(t, now, actor)
        elif actor.worker >= 0:
            t.tell(now, actor.actor_id, "ends with the lease of this node")
            out += reactions_actors.crash(t, now, actor)
    return out


def is_leased(t: NodeTables, actor: Actor) -> bool:
    """Whether another node may come to have one like it, without hearing from this one."""
    if not t.config.in_cluster:
        return False
    spec = actor.spec
    if actor.home is None:
        return bool(spec.name) or spec.detached
    return spec.is_known or spec.max_restarts != 0


def put_off(t: NodeTables, now: float, actor: Actor) -> None:
    """Its next life has to wait."""
    actor.phase = Pausing(now + LOOK_S)
    t.actors.pauses.set(actor.actor_id, actor.phase.until)
