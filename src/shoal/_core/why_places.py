"""Reasons that places have: queues, resources and who holds them, processes, node memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from shoal._base import typed_ids
from shoal._core import resources
from shoal._core.actors import Asking
from shoal._core.asks import ActorAsk, Asked, GroupAsk
from shoal._core.environments import Phase
from shoal._core.memory_admission import Waiter
from shoal._core.queues import Attachment, ClassQueue
from shoal._core.reactions_starts import python_of
from shoal._core.resources import CPU, GPU, Account, Amounts, units_of
from shoal._core.scheduler import Binding
from shoal._core.sight_rows import TaskSight
from shoal._proto import reasons as r

if TYPE_CHECKING:
    from shoal._core.why import Explainer

HOLDERS_MOST = 10
NODES_MOST = 10


# ---- queues of tasks
def of_queue(e: Explainer, queue: ClassQueue, task: TaskSight) -> r.Reason:
    """Why ``task`` waits in the queue of its class."""
    facts = e.task_facts(task)
    if queue.dead_record is not None:
        return r.JobEnding(**facts, job=queue.job)
    if e.t.lease.is_over:
        return lease_over(e, facts)
    text = ""
    if not queue.is_feasible and (able := e.able(queue)):
        if not task.stays:
            return of_forwarding(queue, able, facts)
        text = e.stays_here(queue)
    before = _before_the_line(e, queue, facts, queue.entries_since, text)
    if before is not None:
        return before
    staying = [a for a in queue.attachments.values() if not a.is_leaving]
    if staying:
        return _turn(e, queue, staying, {**facts, "taken": queue.takes})
    deaths = e.t.crash_loops.row(queue.queue)
    if deaths is not None and deaths.until > e.now:
        again_in_s = deaths.until - e.now
        return r.WorkersCrash(**facts, deaths=deaths.count, again_in_s=again_in_s)
    return _line(e, queue, {**facts, "taken": queue.takes})


def lease_over(e: Explainer, facts: dict[str, Any]) -> r.Reason:
    """This node may have been given up: nothing begins here."""
    return r.LeaseOver(**facts, over_s=e.now - e.t.lease.until)


def of_forwarding(
    queue: ClassQueue | Asked, able: tuple[str, ...], facts: dict[str, Any]
) -> r.Reason:
    """It is for one of the nodes ``able``, as soon as one has room."""
    return r.WaitsForNode(
        **facts,
        asked=resources.plain(queue.amounts),
        nodes=list(able[:NODES_MOST]),
        nodes_count=len(able),
    )


def _turn(
    e: Explainer, queue: ClassQueue, staying: list[Attachment], facts: dict[str, Any]
) -> r.Reason:
    processes = e.sights.processes_of(a.worker for a in staying)
    busy = [running[0] for process in processes if (running := e.running_in(process))]
    ahead, workers = max(1, queue.entries), len(staying)
    if not busy:
        stopped = next((process for process in processes if process.is_stopped), None)
        if stopped is None:
            return r.Delivering(**facts)
        cause = r.Stopped(worker=stopped.index, pid=stopped.pid)
        return r.WaitsForTurn(**facts, ahead=ahead, workers=workers, cause=cause)
    longest = min(busy, key=lambda sight: sight.taken or e.now)
    return r.WaitsForTurn(**facts, ahead=ahead, workers=workers, cause=e.follow(longest.key))


# ---- actors and groups
def of_ask(e: Explainer, ask: Asked, text: str = "") -> Any:
    """Why an actor has no process, or a group no place."""
    facts = {"task": "", "name": ask.who, "since_s": e.ago(ask.since)}
    if isinstance(ask, ActorAsk) and ask.who in e.t.scheduler.asks.impossible:
        able = () if ask.target.group else e.able(ask)
        if able:
            asking = e.t.actors.living[ask.who].phase
            since = asking.since if isinstance(asking, Asking) else e.now
            return of_forwarding(ask, able, {**facts, "since_s": e.ago(since)})
    before = _before_the_line(e, ask, facts, ask.since, text)
    return before or _line(e, ask, facts)


# ---- both
def _before_the_line(
    e: Explainer,
    ask: ClassQueue | Asked,
    facts: dict[str, Any],
    since: float | None,
    text: str = "",
) -> r.Reason | None:
    """What keeps ``ask`` from even standing in the scheduler's line."""
    t = e.t
    is_impossible = (
        not ask.is_feasible
        if isinstance(ask, ClassQueue)
        else ask.who in t.scheduler.asks.impossible
    )
    group = t.groups.find(ask.target.group) if ask.target.group else None
    is_elsewhere = group is not None and group.is_shared
    if is_impossible and not is_elsewhere:
        text = text or e.lacks(ask) or ask.target.why
        if ask.target.group and not text:
            text = "no bundle of its placement group has that much"
        fails_in_s = None
        if not t.config.can_grow:
            fails_in_s = max(0.0, (since or e.now) + t.limits.infeasible_s - e.now)
        asked = resources.plain(ask.amounts)
        total = {name: t.config.total.get(name, 0.0) for name in asked}
        return r.Infeasible(**facts, asked=asked, total=total, text=text, fails_in_s=fails_in_s)
    if group is not None and not ask.target.room.accounts:
        pending = e.of_group(group, None)
        if pending is not None:
            own = {**facts, "group": group.group_id, "cause": pending.cause}
            if isinstance(pending, r.GroupRemoved):
                return r.GroupRemoved(**own, text=pending.text)
            return r.GroupPending(**own)
    entry = t.environments.entries.get(ask.env)
    if entry is None or entry.phase is Phase.READY:
        return None
    facts = {**facts, "since_s": e.ago(entry.since), "environment": ask.env}
    if entry.phase is Phase.MAKING:
        return r.EnvironmentBuilding(**facts)
    return r.EnvironmentFailed(**facts)


def _line(e: Explainer, ask: ClassQueue | Asked, facts: dict[str, Any]) -> r.Reason:
    """What keeps ``ask`` waiting in the line."""
    t = e.t
    if t.memory.is_paused and not isinstance(ask, GroupAsk):
        used, limit = t.memory.use.used_bytes, t.memory.use.limit_bytes
        paused_s = e.now - t.memory.paused_since
        return r.AdmissionPaused(
            **facts,
            used_bytes=used,
            limit_bytes=limit,
            paused_s=paused_s,
            holders=_largest(e),
        )
    room = ask.target.room
    bundles = ask.bundles if isinstance(ask, GroupAsk) else (ask.amounts,)
    account = room.nearest(ask.amounts) or next(iter(room.accounts), None)
    if account is None:
        return r.Delivering(**facts)
    asked = resources.plain(ask.amounts)
    missing = account.missing(ask.amounts)
    if not missing and units_of(ask.amounts, GPU) and not _fits_whole(account, bundles):
        missing = {GPU: units_of(ask.amounts, GPU)}  # enough in all, in pieces of several ids
    if missing:
        return _lacks(e, account, missing, {**facts, "asked": asked, "group": ask.target.group})
    other = t.scheduler.reserved.get(account)
    if (
        other is not None
        and other is not ask
        and not account.fits(ask.amounts, dict(other.amounts))
    ):
        name = other.who if isinstance(other, Asked) else f"queue {other.queue}"
        other_asked = resources.plain(other.amounts)
        return r.KeptForAnother(**facts, asked=asked, other=name, other_asked=other_asked)
    if isinstance(ask, ClassQueue) and ask.is_tiny:
        most = t.scheduler.tiny_most
        if (workers := t.scheduler.held.tiny_count()) >= most:
            return r.TooManyProcesses(**facts, workers=workers, most=most)
    return _worker(e, ask, facts)


def _fits_whole(account: Account, bundles: Iterable[Amounts]) -> bool:
    """Whether each bundle's GPUs could be had now, one after the other: tried and given back."""
    grants = account.take_all(list(bundles))
    for grant in grants or ():
        account.give(grant)
    return grants is not None


def _worker(e: Explainer, ask: ClassQueue | Asked, facts: dict[str, Any]) -> r.Reason:
    """Only a process is missing."""
    t, pool = e.t, e.t.pool
    if isinstance(ask, GroupAsk):
        return r.Delivering(**facts)
    binding = Binding(ask.job, 1, (), not isinstance(ask, ClassQueue), ask.env)
    deaths = t.crash_loops.row(python_of(t, binding))
    if deaths is not None and deaths.until > e.now:
        again_in_s = deaths.until - e.now
        return r.WorkersCrash(**facts, deaths=deaths.count, again_in_s=again_in_s)
    if pool.is_full():
        workers = len(pool.workers) + len(pool.starts)
        return r.TooManyProcesses(**facts, workers=workers, most=pool.limits.workers_most)
    again = None if pool.retry_at is None else max(0.0, pool.retry_at - e.now)
    starting = len(pool.starts) + pool.joining()
    if starting or again is not None:
        return r.WaitsForWorker(
            **facts, starting=starting, failures=pool.failures, again_in_s=again
        )
    return r.Delivering(**facts)


def _lacks(
    e: Explainer, account: Account, missing: dict[str, int], facts: dict[str, Any]
) -> r.Reason:
    """Others hold what is missing of ``account``."""
    found = _holders(e, account, missing)
    cause = None
    if found and found[0].kind == "task":
        cause = e.follow(typed_ids.key_of(found[0].id))
    elif found and found[0].kind == "actor":
        cause = _of_holding_actor(e, found[0].id)
    return r.WaitsForResources(
        **facts,
        missing=resources.plain(missing.items()),
        total=resources.plain((name, account.total.get(name, 0)) for name in facts["asked"]),
        holders=found[:HOLDERS_MOST],
        holders_count=len(found),
        cause=cause,
    )


def _of_holding_actor(e: Explainer, actor_id: str) -> Any:
    """What the process of an actor that holds resources does."""
    process = e.sights.process(e.t.actors.living[actor_id].worker)
    running = e.running_in(process)
    if running:
        return e.follow(running[0].task)
    return r.Stopped(worker=process.index, pid=process.pid) if process.is_stopped else None


def _holders(e: Explainer, account: Account, missing: dict[str, int]) -> list[r.Holder]:
    """Who has something of what is missing, longest first."""
    t = e.t
    held = t.scheduler.held
    found: list[r.Holder] = []
    attached = [
        (queue, attachment)
        for queue in held.serving()
        for attachment in queue.attachments.values()
        if attachment.grant.account is account
        and any(name in missing for name, _ in attachment.grant.amounts)
        and not (attachment.grant.lent and set(missing) == {CPU})
    ]
    processes = e.sights.processes_of(attachment.worker for _, attachment in attached)
    e.sights.tasks_of(key for process in processes for key in process.running)
    tasks = {p.index: running[0] for p in processes if (running := e.running_in(p))}
    for queue, attachment in attached:
        index = attachment.worker
        task = tasks.get(index)
        since_s = e.now - (task.taken if task is not None and task.taken else attachment.since)
        found.append(
            r.Holder(
                kind="worker" if task is None else "task",
                id=str(index) if task is None else e.name_task(task),
                name="" if task is None else e.name_of(task.about),
                worker=index,
                pid=e.pid_of(index),
                amounts=resources.plain(queue.amounts),
                since_s=max(0.0, since_s),
            )
        )
    for actor_id, hold in held.holds.items():
        grant = hold.grant
        if grant.account is not account or not any(name in missing for name, _ in grant.amounts):
            continue
        actor = t.actors.living[actor_id]
        found.append(
            r.Holder(
                kind="actor",
                id=actor_id,
                name=actor.spec.name or actor.spec.class_name,
                worker=hold.worker,
                pid=actor.pid,
                amounts=resources.plain(grant.amounts),
                since_s=e.now - t.pool.workers[hold.worker].since,
            )
        )
    found += _holding_groups(e, account, missing)
    found.sort(key=lambda holder: (holder.kind == "worker", -holder.since_s))
    return found


def _holding_groups(e: Explainer, account: Account, missing: dict[str, int]) -> list[r.Holder]:
    groups = [*e.t.groups.living.values(), *e.t.groups.ending.values()]
    bundles = e.t.scheduler.held.accounts.bundles
    found = []
    for group in groups:
        units: dict[str, int] = {}
        for own in group.accounts.values():
            grant = bundles.get(own)
            if grant is None or grant.account is not account:
                continue
            for name, amount in grant.amounts:
                units[name] = units.get(name, 0) + amount
        if any(name in missing for name in units):
            amounts = resources.plain(units.items())
            since_s = e.now - group.created_at
            name = group.name or "placement group"
            found.append(
                r.Holder(
                    kind="group", id=group.group_id, name=name, amounts=amounts, since_s=since_s
                )
            )
    return found


# ---- node memory
def of_room(e: Explainer) -> r.Reason:
    """Node memory is full: who has refs to how much."""
    owned = sorted(e.sights.owned_bytes().items(), key=lambda row: -row[1])
    holders = []
    for index, size_bytes in owned[:HOLDERS_MOST]:
        holder = e.process_holder(index)
        holders.append(
            r.Holder(
                kind=holder.kind,
                id=holder.id,
                name=holder.name,
                worker=index,
                pid=holder.pid,
                amounts={"bytes": float(size_bytes)},
            )
        )
    return r.WaitsForRoom(
        used_bytes=e.sights.used_bytes, capacity_bytes=e.sights.capacity_bytes, holders=holders
    )


# ---- memory of processes
def _with_memory(e: Explainer, index: int, size_bytes: int) -> r.Holder:
    holder = e.process_holder(index)
    return r.Holder(
        kind=holder.kind,
        id=holder.id,
        name=holder.name,
        worker=index,
        pid=holder.pid,
        amounts={"memory": float(size_bytes)},
    )


def _largest(e: Explainer) -> list[r.Holder]:
    rows = sorted(e.t.memory.watched.values(), key=lambda w: w.last.own_bytes, reverse=True)
    known = [each.last for each in rows if each.last.index in e.t.pool.workers]
    return [_with_memory(e, each.index, each.own_bytes) for each in known[:HOLDERS_MOST]]


def of_admission(e: Explainer, waiter: Waiter) -> r.Reason:
    """A task of a function that needs much has not begun yet."""
    watch = e.t.memory
    again = watch.admissions.not_before(waiter) - e.now
    holders = []
    for index, holding in list(watch.admissions.holding.items())[:HOLDERS_MOST]:
        holders.append(_with_memory(e, index, holding.need))
    return r.WaitsForMemory(
        function=e.name_of(waiter.function),
        needs_bytes=watch.admissions.need(waiter.function),
        used_bytes=watch.use.used_bytes,
        limit_bytes=watch.use.limit_bytes,
        again_in_s=again if again > 0 else None,
        holders=holders,
    )
