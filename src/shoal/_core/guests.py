"""Tasks of other nodes on this one: where they wait, and as what.

Who sends a task says what it needs (``describe``); whoever gets it makes a queue for that, in a job
of its own that stands for the sender's (a *guest*, see ``jobs``)::

    node A: queue 7 of job 1  --- ClassPlace --->  node B: queue 4 of job 9, guest of (A, 1)

So workers that run for another node's program are bound to it as they are to one of this node, its
tasks stand in line beside the others with the priority and weight that it has at home, and what
they submit is this node's.

1. ``guests`` and ``refused`` name what exists: an entry goes with its queue, its job or its node.
2. What comes from others waits in queues of its own (``Target.hosts``), and nothing of those is
   ever forwarded: a task crosses once. What it submits here is a task of this node like any other:
   this node decides about its retries, and may forward it.
"""

from __future__ import annotations

import msgspec

from shoal._core import commands as do
from shoal._core import elsewhere, reactions_abroad, reactions_jobs, shifting
from shoal._core.answers import begin_job, want_environment
from shoal._core.events import GuestEnded, GuestWanted, NodesChanged
from shoal._core.groups import ANY_BUNDLE
from shoal._core.jobs import Job
from shoal._core.policies.labels import NODE_ID_LABEL
from shoal._core.queues import ClassQueue
from shoal._core.reactions_shared_groups import NOT_HERE
from shoal._core.resources import Amounts, Target
from shoal._core.shared_groups import SharedGroup
from shoal._core.tables import ClassTicket, NodeTables
from shoal._proto.environments import Environment
from shoal._proto.messages import JobConfig
from shoal._proto.strategies import LabelRule
from shoal._proto.views import Wish

Commands = list[do.Command]


class ClassPlace(msgspec.Struct, frozen=True, array_like=True):
    """What the tasks of one scheduling class need, for another node."""

    amounts: Amounts
    config: JobConfig
    environment: Environment | None = None
    group: str = ""
    """The placement group that they run in."""
    bundle: int = ANY_BUNDLE
    captures: bool = False


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(ClassPlace)


# ---- at home
def wish_of(t: NodeTables, queue: ClassQueue, python: str) -> Wish | None:
    """What a task of that queue asks of another node; None: it stays on this one."""
    job = t.jobs.running.get(queue.job)
    if queue.target.hosts or queue.dead_record is not None or job is None:
        return None
    if queue.target.group:
        return _wish_in_group(t, queue, python)
    return Wish(queue.amounts, queue.target.labels, python, queue.target.spreads)


def _wish_in_group(t: NodeTables, queue: ClassQueue, python: str) -> Wish | None:
    """It goes where a bundle is; what that has free stands in no row, so nothing is asked for."""
    group, target = t.groups.living.get(queue.target.group), queue.target
    if not isinstance(group, SharedGroup):
        return None
    if not target.binds:
        return Wish(queue.amounts, (), python) if group.is_placed else None
    me = t.config.node_id.hex()
    nodes = tuple(node for node in group.nodes_for(target.room, queue.amounts) if node != me)
    return Wish((), ((LabelRule(NODE_ID_LABEL, "in", nodes),),), python) if nodes else None


def slots_in_group(t: NodeTables, queue: ClassQueue, node: str) -> int | None:
    """How many tasks of the queue its bundles on a node hold; None: it is in no bundle."""
    group, target = t.groups.living.get(queue.target.group), queue.target
    if not isinstance(group, SharedGroup) or not target.binds:
        return None
    return group.slots_on(node, target.room, queue.amounts)


def describe(t: NodeTables, number: int) -> bytes:
    """What the tasks of a class queue need."""
    queue = t.scheduler.held.queues[number]
    return describe_job(t, queue.job, queue.env, queue.amounts, queue.target)


def describe_job(
    t: NodeTables, job: int, env: str, amounts: Amounts = (), target: Target | None = None
) -> bytes:
    """What is of a job and in an environment."""
    place = ClassPlace(amounts, t.jobs.running[job].config, t.environments.get(env))
    if target is not None and target.group and target.binds:
        group = t.groups.find(target.group)
        if isinstance(group, SharedGroup):
            bundle, captures = group.bundle_of(target.room), target.captures
            place = msgspec.structs.replace(
                place, group=target.group, bundle=bundle, captures=captures
            )
    return _encoder.encode(place)


# ---- abroad
def find(t: NodeTables, node: str, job: int, place: bytes) -> tuple[int, int, int] | str | None:
    """(queue, generation, job here) for what ``place`` says; why there is none; None: not yet."""
    if (why := t.refused.get((node, job, place))) is not None:
        return why
    number = t.guests.get((node, job, place))
    queue = None if number is None else t.scheduler.held.queues.get(number)
    guest = t.jobs.guests.get((node, job))
    if queue is None or guest is None or queue.job != guest.number:
        return None
    return queue.queue, queue.generation, queue.job


def on_wanted(t: NodeTables, now: float, event: GuestWanted) -> Commands:
    """The first task of its kind has come."""
    key = (event.node, event.job, event.place)
    try:
        place = _decoder.decode(event.place)
    except msgspec.MsgspecError as error:
        t.refused[key] = f"what it needs is not understood: {error}"
        return []
    why = "" if event.node in t.others else "its node is not known here"
    target = _target_of(t, place)
    if target is None:
        why = NOT_HERE
    elif not target.room.can_ever(place.amounts):
        why = "the node does not have what it needs"
    elif len(t.scheduler.held.queues) >= t.limits.queues_most:
        why = "the node has as many queues as there may be"
    if why or target is None:
        t.refused[key] = why
        return []
    job = job_of(t, now, (event.node, event.job), place.config)
    env, out = want_environment(t, now, job, place.environment)
    scheduling_class = (place.amounts, target._replace(hosts=True), env)
    known = job.queues.get(scheduling_class)
    if known is not None:
        t.guests[key] = known
        return out
    ticket = t.new_ticket()
    t.tickets[ticket] = ClassTicket(job.number, scheduling_class, (), key)
    return [*out, do.NewQueue(ticket, do.QUEUE_CLASS, job.number)]


def _target_of(t: NodeTables, place: ClassPlace) -> Target | None:
    """Where that is on this node; None: its group has no bundle here."""
    if not place.group:
        return t.scheduler.node
    group = t.groups.living.get(place.group)
    if group is None or not ANY_BUNDLE <= place.bundle < len(group.rooms):
        return None
    target = group.target(place.bundle, place.captures)
    if not target.room.accounts:
        return None
    group.was_used = True
    return target


def job_of(t: NodeTables, now: float, home: tuple[str, int], config: JobConfig) -> Job:
    """The guest that stands for that job."""
    job = t.jobs.guests.get(home)
    if job is None:
        job = begin_job(t, now, config)
        t.jobs.set_home(job, home)
        t.tell(now, f"job {job.number}", f"stands for job {home[1]} of node {home[0]}")
    return job


def place_of(t: NodeTables, node: str, place: bytes) -> ClassPlace | None:
    """What ``place`` says; None: it is not understood, or its node is not known."""
    try:
        return _decoder.decode(place) if node in t.others else None
    except msgspec.MsgspecError:
        return None


def on_nodes(t: NodeTables, now: float, event: NodesChanged) -> Commands:
    """Others have come or gone: what could not be done for them may be asked for again."""
    lost, t.others = t.others - event.nodes, event.nodes
    t.drained = event.drained
    elsewhere.on_nodes(t, event)
    t.refused.clear()
    out: Commands = []
    for actor in list(t.actors.living.values()):
        if actor.host in lost:
            is_drained = actor.host in event.drained
            host = actor.host
            out += reactions_abroad.on_host_lost(t, now, actor, host, is_drained=is_drained)
    return out + shifting.shift(t, now)


def on_ended(t: NodeTables, now: float, event: GuestEnded) -> Commands:
    """Nothing of it has to be done here any more."""
    out: Commands = []
    for home in [home for home in t.jobs.guests if home[0] == event.node]:
        if event.job in (0, home[1]):
            out += reactions_jobs.end_job(t, now, t.jobs.guests[home], event.reason)
    for key in [*t.guests, *t.refused]:
        if key[0] == event.node and event.job in (0, key[1]):
            t.guests.pop(key, None)
            t.refused.pop(key, None)
    return out
