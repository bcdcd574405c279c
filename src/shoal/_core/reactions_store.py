"""What follows from what the control store says: its return, and what a fresh node starts with.

A node that begins in a session with a name asks the store for everything that is lasting. Of that
the key-value table and the jobs are simply there; detached groups are asked for again, and detached
actors are made again from their records, with their names, ids and jobs, and the next incarnation:
their processes ended with the former node. It is no restart: nothing of theirs had failed. What
belonged to a program ended with it.
"""

from __future__ import annotations

import msgspec

from shoal._core import causes, placement, reactions_actors, reactions_groups
from shoal._core import commands as do
from shoal._core import events as seen
from shoal._core.actors import Actor, ActorRecord
from shoal._core.answers import Commands, job_row, want_environment
from shoal._core.groups import GroupRecord
from shoal._core.jobs import Job
from shoal._core.store import Joined
from shoal._core.tables import ActorTicket, NodeTables, RestoreTicket
from shoal._proto import messages as m

ENDED = "the session that it ran in has ended"


def must_wait(event: seen.Event) -> bool:
    """Whether it makes sense only once the node knows which jobs, names and actors there are."""
    if isinstance(event, seen.Requested):
        return not isinstance(event.body, m.StopSession)
    return isinstance(event, seen.DriverJoined)


def on_connected(t: NodeTables, now: float, event: seen.StoreConnected) -> Commands:
    """A store takes connections."""
    return t.mirror.connected()


def on_written(t: NodeTables, now: float, event: seen.StoreWritten) -> Commands:
    """The store has answered."""
    if not isinstance(event.answer, Joined):
        return t.mirror.answered(event.ticket, event.answer)
    out, state = t.mirror.joined(event.answer)
    if state is not None:
        out += _restore(t, now)
    return out


def _restore(t: NodeTables, now: float) -> Commands:
    out: Commands = []
    rows = t.store.rows
    returning = [
        actor_id
        for actor_id, row in rows["actors"].items()
        if row["state"] != "DEAD" and row["detached"] and actor_id in t.store.records
    ]
    roots = {row["job"] for row in rows["actors"].values() if row["actor_id"] in returning}
    for row in sorted(rows["jobs"].values(), key=lambda row: row["job"]):
        out += _restore_job(t, now, row, is_root=row["job"] in roots)
    for group_id, row in list(rows["groups"].items()):
        out += _restore_group(t, now, group_id, row)
    for actor_id in list(rows["actors"]):
        if actor_id in returning:
            out += _ask_values(t, now, actor_id)
        else:
            out += t.drop_record(actor_id) + t.drop_row("actors", actor_id)
    return out


def _restore_job(t: NodeTables, now: float, row: dict[str, object], is_root: bool) -> Commands:
    number = row["job"]
    assert isinstance(number, int)
    if is_root:  # ``_begin_root`` makes it when its actor's record has been read
        t.jobs.restore(number, m.JobConfig(), "", now)
        return []
    config = m.JobConfig(
        entrypoint=str(row["entrypoint"]),
        priority=int(str(row["priority"])),
        weight=float(str(row["weight"])),
    )
    job = t.jobs.restore(number, config, str(row["namespace"]), now)
    job.pid = int(str(row["pid"]))
    job.root_actor = str(row["root_actor"]) or None
    job.end_reason = str(row["reason"])
    job.ended_at = now
    t.jobs.ended[number] = job
    if row["state"] == "ENDED":
        return []
    job.end_reason = ENDED
    return job_row(t, job)


def _restore_group(t: NodeTables, now: float, group_id: str, row: dict[str, object]) -> Commands:
    data = t.store.records.get(group_id)
    if row["state"] == "REMOVED" or data is None:
        return t.drop_record(group_id) + t.drop_row("groups", group_id)
    record = msgspec.msgpack.decode(data, type=GroupRecord)
    t.tell(now, group_id, "asked for again, since its session began anew")
    return reactions_groups.ask_again(t, now, record)


# ---- actors
def _ask_values(t: NodeTables, now: float, actor_id: str) -> Commands:
    data = t.store.records[actor_id]
    record = msgspec.msgpack.decode(data, type=ActorRecord)
    if not record.values:
        return _give_up(t, now, actor_id, record, record.why)
    ticket = t.new_ticket()
    t.tickets[ticket] = RestoreTicket(actor_id, data)
    return [do.PutValues(ticket, tuple(record.values))]


def on_values_put(t: NodeTables, now: float, event: seen.ValuesPut) -> Commands:
    """Class and arguments of an actor of a former node are there again."""
    ticket = t.tickets.pop(event.ticket, None)
    if not isinstance(ticket, RestoreTicket):
        return []
    record = msgspec.msgpack.decode(ticket.data, type=ActorRecord)
    if not event.keys:
        why = "node memory has no room for its class and its constructor's arguments"
        return _give_up(t, now, ticket.actor_id, record, why)
    function, arguments = event.keys
    spec = msgspec.structs.replace(record.spec, function=function, arguments=arguments)
    actor, out = _begin(t, now, ticket.actor_id, record, spec)
    out += t.adopt(arguments) + t.adopt(function)
    target = placement.resolve(t, spec.strategy)
    if isinstance(target, bytes):
        return out + reactions_actors.end_with(t, now, actor, target, is_gentle=False)
    for _ in ("", *spec.groups):
        number = t.new_ticket()
        t.tickets[number] = ActorTicket(actor.actor_id, -1, 0)
        out.append(do.NewQueue(number, do.QUEUE_ACTOR, actor.job))
    return out


def _begin(
    t: NodeTables, now: float, actor_id: str, record: ActorRecord, spec: m.ActorSpec
) -> tuple[Actor, Commands]:
    """Its job, which is its own, and the actor as it was."""
    job = t.jobs.restore(record.job, record.config, record.namespace, now)
    job.namespace = record.config.namespace
    job.root_actor = actor_id
    t.jobs.running[job.number] = job
    t.scheduler.held.shares.add(job.number, job.config.priority, job.config.weight)
    row = t.store.rows["actors"][actor_id]
    actor = Actor(actor_id, spec, job.number, record.namespace, now)
    actor.incarnation, actor.restarts = int(row["incarnation"]), int(row["restarts"])
    out = _environment(t, now, job, actor, record)
    t.actors.add(actor)
    t.tell(now, actor_id, "made again, since its session began anew")
    return actor, out + job_row(t, job)


def _environment(
    t: NodeTables, now: float, job: Job, actor: Actor, record: ActorRecord
) -> Commands:
    actor.env, out = want_environment(t, now, job, record.environment)
    return out


def _give_up(t: NodeTables, now: float, actor_id: str, record: ActorRecord, why: str) -> Commands:
    """It ends: a tombstone that says why."""
    spec = msgspec.structs.replace(record.spec, function=0, arguments=0)
    actor, out = _begin(t, now, actor_id, record, spec)
    facts = causes.actor_died(actor.facts(), "arguments_lost", text=why)
    out.append(do.Warn(f"actor {record.spec.class_name} ({actor_id}) did not come back: {why}"))
    actor.has_handles = False
    return out + reactions_actors.end_with(t, now, actor, facts, is_gentle=False)
