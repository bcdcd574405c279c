"""What follows from what happens to placement groups; the edges are numbered in ``groups``."""

from __future__ import annotations

import msgspec

from shoal._core import causes, placement, reactions_actors, resources
from shoal._core import commands as do
from shoal._core.answers import Commands, await_group, refuse, shared_groups
from shoal._core.asks import GroupAsk
from shoal._core.events import Requested
from shoal._core.groups import STRATEGIES, Group, GroupRecord, GroupWait
from shoal._core.pool import Phase
from shoal._core.resources import Amounts, Grant
from shoal._core.store import PutRecord, PutRow
from shoal._core.tables import NodeTables
from shoal._proto import messages as m

WARN_AGAIN_S = 60.0


def _row(t: NodeTables, group: Group, *replies: do.Reply) -> Commands:
    return t.write(PutRow("groups", group.group_id, group.row()), *replies)


# ---- making
def on_create(t: NodeTables, now: float, event: Requested, body: m.CreateGroup) -> Commands:
    """Edge 1; to repeat it is harmless (K-7)."""
    job = t.job_of(event.index)
    if job is None:
        return refuse(event, causes.job_ended(0, "the caller belongs to no job"))
    try:
        amounts = _parse(body)
    except ValueError as error:
        return refuse(event, causes.usage(str(error)))
    done = do.Reply(event.index, event.request, m.Done())
    if t.groups.find(body.group_id) is not None:
        if body.waits:
            return on_wait(t, now, event, m.WaitGroup(body.group_id, None))
        return [done]
    if t.config.in_cluster:
        return list(shared_groups().on_create(t, now, event, body))
    namespace = body.namespace or job.namespace
    if body.name and (namespace, body.name) in t.groups.by_name:
        return refuse(event, causes.group_name_taken(body.name, namespace))
    group = _begin(t, now, GroupRecord(body, job.number, namespace), amounts)
    t.tell(now, group.group_id, f"asked for by process {event.index}")
    out: Commands = []
    if body.detached:
        record = GroupRecord(body, job.number, namespace)
        out += t.write(PutRecord(group.group_id, msgspec.msgpack.encode(record)))
    if body.waits:
        t.groups.wait(GroupWait(event.index, event.request, body.group_id), None)
        return out + _row(t, group)
    return out + _row(t, group, done)


def _begin(t: NodeTables, now: float, record: GroupRecord, amounts: tuple[Amounts, ...]) -> Group:
    """It exists, and stands in the scheduler's line."""
    group = Group(record.spec, amounts, record.job, record.namespace, now)
    group.why = _why_never(t, group)
    t.groups.add(group)
    target = placement.nowhere(group.why) if group.why else t.scheduler.node
    ask = GroupAsk(group.group_id, record.job, amounts, target)
    t.scheduler.asks.add_group(now, ask)
    if group.group_id in t.scheduler.asks.impossible and not group.why:
        group.why = "no node has that much"
    return group


def ask_again(t: NodeTables, now: float, record: GroupRecord) -> Commands:
    """A detached group of a former node daemon."""
    return _row(t, _begin(t, now, record, _parse(record.spec)))


def _parse(body: m.CreateGroup) -> tuple[Amounts, ...]:
    if body.strategy not in STRATEGIES:
        raise ValueError(f"strategy {body.strategy!r}: must be one of {', '.join(STRATEGIES)}")
    amounts = tuple(resources.parse(bundle) for bundle in body.bundles)
    if not amounts or not all(amounts):
        raise ValueError("a placement group needs bundles, and each bundle must ask for something")
    return amounts


def _why_never(t: NodeTables, group: Group) -> str:
    if group.spec.strategy == "STRICT_SPREAD" and len(group.amounts) > 1:
        return f"STRICT_SPREAD needs {len(group.amounts)} nodes, and there is 1"
    for rules in group.spec.labels:
        why = placement.mismatch(t, [rules])
        if why:
            return why
    return ""


def place(t: NodeTables, now: float, ask: GroupAsk, grants: list[Grant]) -> Commands:
    """Edge 2."""
    if ask.who not in t.groups.living:
        return list(shared_groups().reserved(t, now, ask, grants))
    group = t.groups.living[ask.who]
    held = t.scheduler.held
    group.open([held.accounts.add_bundle(grant) for grant in grants], t.scheduler.node.room)
    t.tell(now, group.group_id, "created")
    answer = m.GroupAnswer(is_ready=True)
    replies = [do.Reply(w.index, w.request, answer) for w in t.groups.answered(ask.who)]
    return _row(t, group, *replies)


# ---- what others ask
def on_wait(t: NodeTables, now: float, event: Requested, body: m.WaitGroup) -> Commands:
    """Answered at once if it is known."""
    if waits := await_group(t, event, body.group_id):
        return waits
    group = t.groups.find(body.group_id)
    if group is None:
        return refuse(event, causes.group_removed(body.group_id, "", "nobody knows it"))
    if group.record is not None:
        return refuse(event, group.record)
    if group.is_placed or (body.timeout_s is not None and body.timeout_s <= 0):
        answer = m.GroupAnswer(is_ready=group.is_placed)
        return [do.Reply(event.index, event.request, answer)]
    deadline = None if body.timeout_s is None else now + body.timeout_s
    t.groups.wait(GroupWait(event.index, event.request, body.group_id), deadline)
    return []


def expire_waits(t: NodeTables, now: float) -> Commands:
    """Waits whose time is up."""
    answer = m.GroupAnswer(is_ready=False)
    out: Commands = [do.Reply(w.index, w.request, answer) for w in t.groups.expire(now)]
    return [*out, *shared_groups().expire(t, now)] if t.groups.parts else out


def on_get(t: NodeTables, now: float, event: Requested, body: m.GetGroup) -> Commands:
    """By id or name."""
    job = t.job_of(event.index)
    namespace = body.namespace or ("" if job is None else job.namespace)
    if t.config.in_cluster and (body.name or t.groups.find(body.group_id) is None):
        return list(shared_groups().on_get(t, event, body, namespace))
    if body.group_id:
        group = t.groups.find(body.group_id)
    else:
        group = t.groups.by_name.get((namespace, body.name))
    if group is None:
        return refuse(event, causes.group_not_found(body.name, namespace, body.group_id))
    return [do.Reply(event.index, event.request, group.facts())]


def on_remove(t: NodeTables, now: float, event: Requested, body: m.RemoveGroup) -> Commands:
    """Edge 3; to repeat it is harmless. Who only tells it waits for no answer."""
    if t.config.in_cluster:
        return list(shared_groups().on_remove(t, now, event, body))
    group = t.groups.living.get(body.group_id)
    done = [do.Reply(event.index, event.request, m.Done())] if event.request else []
    return [*done] if group is None else remove(t, now, group, "", *done)


# ---- the end
def remove(t: NodeTables, now: float, group: Group, reason: str, *replies: do.Reply) -> Commands:
    """Edge 3."""
    record = causes.group_removed(group.group_id, group.name, reason)
    return end(t, now, group, record, reason, *replies)


def end_job(t: NodeTables, now: float, job: int) -> Commands:
    """Its groups end with it."""
    out: Commands = []
    for group in t.groups.of_job(job):
        reason = "the program that made it has ended"
        if group.is_shared:
            out += shared_groups().end_with_job(t, now, group, reason)
        else:
            out += remove(t, now, group, reason)
    return out


def end(
    t: NodeTables, now: float, group: Group, record: bytes, reason: str, *replies: do.Reply
) -> Commands:
    """Edge 3, for whatever reason."""
    group_id = group.group_id
    t.scheduler.withdraw(group_id)
    t.tell(now, group_id, f"ends: {reason or 'removed'}")
    failure = m.Failure(record)
    out: Commands = [do.Reply(w.index, w.request, failure) for w in t.groups.answered(group_id)]
    t.groups.end(group, record, reason)
    if group.was_used:
        out += _end_queues(t, now, group_id, record)
        out += _end_processes(t, now, group, record)
    return out + t.drop_record(group_id) + _row(t, group, *replies)


def _end_queues(t: NodeTables, now: float, group_id: str, record: bytes) -> Commands:
    held = t.scheduler.held
    out: Commands = []
    for queue in held.queues.values():
        if queue.target.group != group_id or queue.dead_record is not None:
            continue
        held.kill_queue(queue, record)
        t.crash_loops.ended_well(queue.queue)
        t.doomed.add(queue.queue)
        job = t.jobs.running[queue.job]
        job.queues = {key: n for key, n in job.queues.items() if n != queue.queue}
        out.append(do.KillQueue(queue.queue, record))
        if queue.target.binds:
            continue
        for attachment in queue.attachments.values():
            # A worker of the node: it lets go and lives on.
            if not attachment.is_leaving:
                held.ask_back(attachment)
                attachment.asked_at = now
                out.append(do.Assign(attachment.worker, 0))
    return out


def _end_processes(t: NodeTables, now: float, group: Group, record: bytes) -> Commands:
    out: Commands = []
    is_removed = not group.why
    for actor in list(t.actors.living.values()):
        strategy = actor.spec.strategy
        if not isinstance(strategy, m.InGroup) or strategy.group_id != group.group_id:
            continue
        if not actor.is_dead:
            cause = record
            if is_removed:
                cause = causes.actor_died(actor.facts(), "group_removed", group_id=group.group_id)
            out += reactions_actors.end_with(t, now, actor, cause, is_gentle=False)
    for worker in list(t.pool.workers.values()):
        binding = worker.binding
        if binding is None or binding.group != group.group_id or binding.is_actor:
            continue
        if worker.phase is not Phase.LEAVING:
            out += t.pool.kill(now, worker.index)
        else:
            out.append(do.Kill(worker.index))
    return out


def bury_due(t: NodeTables) -> Commands:
    """Edge 4 for those of whom nothing is left."""
    out: Commands = list(shared_groups().give_back_due(t)) if t.groups.part_ends else []
    for group in list(t.groups.ending.values()):
        if any(account.grants for account in group.accounts):
            continue
        for account in group.accounts:
            t.scheduler.held.accounts.drop_bundle(account)
        for forgotten in t.groups.bury(group):
            out += t.drop_row("groups", forgotten.group_id)
    return out


def record_of(t: NodeTables, group_id: str) -> bytes | None:
    """What tasks in the group fail with because it is gone."""
    if not group_id:
        return None
    group = t.groups.find(group_id)
    if group is None:
        return causes.group_removed(group_id, "", "it was removed long ago")
    return group.record


# ---- what no node can have (RULES S-13)
def fail_infeasible(t: NodeTables, now: float) -> Commands:
    """Fail them where nobody can join, else warn and let them wait."""
    out: Commands = []
    for ask in list(t.scheduler.asks.impossible.values()):
        if not isinstance(ask, GroupAsk) or now < ask.since + t.limits.infeasible_s:
            continue
        group = t.groups.living[ask.who]
        if group.is_shared:
            out += shared_groups().warn(t, now, group, ask)
            continue
        what = f"placement group {group.name or group.group_id}"
        if t.config.can_grow:
            ask.since = now + WARN_AGAIN_S
            job = t.jobs.running.get(group.job)
            text = f"{what} waits: {group.why}"
            if job is not None and job.driver >= 0:
                out.append(do.Notify(job.driver, m.Notice(text)))
            continue
        asked = resources.plain(ask.amounts)
        record = causes.unschedulable(asked, t.config.total, what, group.why)
        out += end(t, now, group, record, group.why)
    return out
