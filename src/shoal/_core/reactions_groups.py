"""What follows from what happens to placement groups; the edges are numbered in ``groups``."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from shoal._core import causes, placement, reactions_actors, reactions_workers, resources
from shoal._core import commands as do
from shoal._core.answers import Commands, await_group, refuse, shared_groups
from shoal._core.asks import ActorAsk, GroupAsk
from shoal._core.events import Requested
from shoal._core.groups import STRATEGIES, Group, GroupRecord, GroupWait, is_resize, resized
from shoal._core.pool import Phase
from shoal._core.queues import ClassQueue
from shoal._core.resources import Account, Amounts, Grant, Room
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
        amounts = parse(body)
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
    t.groups.add(group)
    group.why = _why_never(t, record.spec, amounts)
    _stand(t, now, group)
    return group


def _stand(t: NodeTables, now: float, group: Group) -> None:
    """It asks for what it lacks, and for nothing else any more."""
    t.scheduler.withdraw(group.group_id)
    missing = tuple(group.amounts[index] for index in group.missing)
    if missing:
        target = placement.nowhere(group.why) if group.why else t.scheduler.node
        ask = GroupAsk(group.group_id, group.job, missing, target)
        t.scheduler.asks.add_group(now, ask)


def ask_again(t: NodeTables, now: float, record: GroupRecord) -> Commands:
    """A detached group of a former node daemon."""
    return _row(t, _begin(t, now, record, parse(record.spec)))


def parse(spec: m.CreateGroup) -> tuple[Amounts, ...]:
    """What each bundle reserves; nothing: it was removed."""
    if spec.strategy not in STRATEGIES:
        raise ValueError(f"strategy {spec.strategy!r}: must be one of {', '.join(STRATEGIES)}")
    amounts = tuple(resources.parse(bundle) for bundle in spec.bundles)
    if not any(amounts) or not (spec.revision or all(amounts)):
        raise ValueError("a placement group needs bundles, and each bundle must ask for something")
    return amounts


def _why_never(t: NodeTables, spec: m.CreateGroup, amounts: tuple[Amounts, ...]) -> str:
    wanted = [index for index, size in enumerate(amounts) if size]
    if spec.strategy == "STRICT_SPREAD" and len(wanted) > 1:
        return f"STRICT_SPREAD needs {len(wanted)} nodes, and there is 1"
    for index in wanted if spec.labels else ():
        why = placement.mismatch(t, [spec.labels[index]])
        if why:
            return why
    sizes = tuple(amounts[index] for index in wanted)
    return "" if t.scheduler.asks.can_ever(sizes) else "no node has that much"


# ---- resizing
def on_resize(t: NodeTables, now: float, event: Requested, body: m.ResizeGroup) -> Commands:
    """Edge 5, if nobody was faster; to repeat it is harmless."""
    if waits := await_group(t, event, body.group_id):
        return waits
    group = t.groups.find(body.group_id)
    if group is None:
        return refuse(event, causes.group_not_found("", "", body.group_id))
    if group.record is not None:
        return refuse(event, group.record)
    if body.revision == group.spec.revision + 1 and not is_resize(group.spec.bundles, body.bundles):
        text = "bundles of a placement group stay as they are, or are removed, or are added"
        return refuse(event, causes.usage(text))
    if group.is_shared:
        return list(shared_groups().on_resize(t, event, body))
    if body.revision != group.spec.revision + 1:
        return [do.Reply(event.index, event.request, group.facts())]
    spec = resized(group.spec, body)
    amounts = parse(spec)
    why = _why_never(t, spec, amounts)
    if why and not t.config.can_grow and len(group.wanted) < sum(map(bool, amounts)):
        asked = resources.plain(resources.sum_of(amounts))
        what = f"placement group {group.name or group.group_id}"
        return refuse(event, causes.unschedulable(asked, t.config.total, what, why))
    group.why = why
    return _resize(t, now, group, spec, amounts, event)


def _resize(
    t: NodeTables,
    now: float,
    group: Group,
    spec: m.CreateGroup,
    amounts: tuple[Amounts, ...],
    event: Requested,
) -> Commands:
    group_id = group.group_id
    t.tell(now, group_id, f"resized by process {event.index}")
    removed = group.resize(spec, amounts)
    out = end_bundles(t, now, group, removed)
    out += end_in(t, now, group.take(removed))
    _stand(t, now, group)
    out += look_again(t, now, group)
    if spec.detached:
        record = GroupRecord(spec, group.job, group.namespace)
        out += t.write(PutRecord(group_id, msgspec.msgpack.encode(record)))
    replies = [do.Reply(event.index, event.request, group.facts())]
    if group.is_placed:
        answer = m.GroupAnswer(is_ready=True)
        replies += [do.Reply(w.index, w.request, answer) for w in t.groups.answered(group_id)]
    return out + _row(t, group, *replies)


def end_bundles(t: NodeTables, now: float, group: Group, removed: Iterable[int]) -> Commands:
    """What was to run in those and nowhere else fails."""
    out: Commands = []
    for index in removed:
        record = causes.bundle_removed(group.group_id, group.name, index)
        room = group.rooms[index]
        queues = [each for each in t.scheduler.held.queues.values() if each.target.room is room]
        out += _kill_queues(t, now, queues, record)
        for actor in list(t.actors.living.values()):
            strategy = actor.spec.strategy
            if not isinstance(strategy, m.InGroup) or strategy.group_id != group.group_id:
                continue
            if strategy.bundle == index and not actor.is_dead:
                group_id = group.group_id
                cause = causes.actor_died(actor.facts(), "group_removed", group_id=group_id)
                out += reactions_actors.end_with(t, now, actor, cause, is_gentle=False)
    return out


def end_in(t: NodeTables, now: float, accounts: list[Account]) -> Commands:
    """What holds something of bundles that were removed ends; then they are the node's."""
    t.groups.leaving += accounts
    return kill_in(t, now, accounts)


def kill_in(t: NodeTables, now: float, accounts: list[Account]) -> Commands:
    """Whoever holds something of those ends."""
    held, out = t.scheduler.held, []
    workers = [
        index
        for index, queue in held.by_worker.items()
        if queue.attachments[index].grant.account in accounts
    ]
    workers += [h.worker for h in held.holds.values() if h.grant.account in accounts]
    for index in workers:
        if t.pool.workers[index].phase is not Phase.LEAVING:
            out += t.pool.kill(now, index)
        else:
            out.append(do.Kill(index))
    return out


def look_again(t: NodeTables, now: float, group: Group) -> Commands:
    """Its bundles here, or what is known of others, have changed: so has what can run here."""
    scheduler, numbers = t.scheduler, []
    out: Commands = []
    for queue in scheduler.held.queues.values():
        if queue.target.group != group.group_id or queue.dead_record is not None:
            continue
        numbers.append(queue.queue)
        if queue.is_feasible != queue.target.room.can_ever(queue.amounts):
            for worker in scheduler.retarget(now, queue, queue.target):
                out += reactions_workers.revoke(t, now, worker)
    for ask in list(scheduler.asks.values()):
        if ask.target.group != group.group_id or not isinstance(ask, ActorAsk):
            continue
        was_possible = ask.who not in scheduler.asks.impossible
        place, since = resources.parse(t.actors.living[ask.who].spec.place), ask.since
        room = ask.target.room
        if was_possible != (room.can_ever(ask.amounts) and room.can_ever(place)):
            scheduler.withdraw(ask.who)
            scheduler.asks.add_actor(now, ask, place)
            ask.since = since
    return [*out, do.Look(queues=tuple(numbers))] if numbers else out


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
    queues = [each for each in t.scheduler.held.queues.values() if each.target.group == group_id]
    return _kill_queues(t, now, queues, record)


def _kill_queues(
    t: NodeTables, now: float, queues: Iterable[ClassQueue], record: bytes
) -> Commands:
    held = t.scheduler.held
    out: Commands = []
    for queue in queues:
        if queue.dead_record is not None:
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
    for account in [each for each in t.groups.leaving if not each.grants]:
        t.groups.leaving.remove(account)
        t.scheduler.held.accounts.drop_bundle(account)
    for group in list(t.groups.ending.values()):
        if any(account.grants for account in group.accounts.values()):
            continue
        for account in group.accounts.values():
            t.scheduler.held.accounts.drop_bundle(account)
        for forgotten in t.groups.bury(group):
            out += t.drop_row("groups", forgotten.group_id)
    return out


def record_of(t: NodeTables, group_id: str, room: Room | None = None) -> bytes | None:
    """What tasks in the group fail with because it, or the bundle that is ``room``, is gone."""
    if not group_id:
        return None
    group = t.groups.find(group_id)
    if group is None:
        return causes.group_removed(group_id, "", "it was removed long ago")
    for index, own in enumerate(group.rooms):
        if own is room and not group.amounts[index]:
            return causes.bundle_removed(group_id, group.name, index)
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
