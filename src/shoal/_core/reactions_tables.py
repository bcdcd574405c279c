"""What follows from requests that touch no process: locks, key-value table, views."""

from __future__ import annotations

from shoal._core import causes, placement, reactions_memory, resources
from shoal._core import commands as do
from shoal._core.answers import Commands, refuse
from shoal._core.events import Requested
from shoal._core.locks import Waiter
from shoal._core.tables import NodeTables
from shoal._proto import messages as m


# ---- locks
def on_acquire(t: NodeTables, now: float, event: Requested, body: m.AcquireLock) -> Commands:
    """First come, first served; answered when the lock is held or time is up."""
    deadline = None if body.timeout_s is None else now + body.timeout_s
    is_try = body.timeout_s is not None and body.timeout_s <= 0
    waiter = Waiter(event.index, body.token, event.request, deadline)
    try:
        held = t.locks.acquire(body.name, waiter, is_try)
    except ValueError as error:
        return refuse(event, causes.usage(str(error)))
    if held is None:
        return []
    return [do.Reply(event.index, event.request, m.LockAnswer(held=held))]


def on_release(t: NodeTables, now: float, event: Requested, body: m.ReleaseLock) -> Commands:
    """The next in line holds it."""
    try:
        following = t.locks.release(body.name, event.index, body.token)
    except ValueError as error:
        return refuse(event, causes.usage(str(error)))
    out: Commands = [do.Reply(event.index, event.request, m.Done())]
    if following is not None:
        out.append(do.Reply(following.index, following.request, m.LockAnswer(held=True)))
    return out


def on_is_locked(t: NodeTables, now: float, event: Requested, body: m.IsLocked) -> Commands:
    """Whether somebody holds it."""
    held = t.locks.is_locked(body.name)
    return [do.Reply(event.index, event.request, m.LockAnswer(held=held))]


def expire_locks(t: NodeTables, now: float) -> Commands:
    """Waits whose time is up end without the lock."""
    return [
        do.Reply(waiter.index, waiter.request, m.LockAnswer(held=False))
        for waiter in t.locks.expire(now)
    ]


# ---- key-value table
def on_kv_read(t: NodeTables, now: float, event: Requested, body: m.Message) -> Commands:
    """From the mirror."""
    return [do.Reply(event.index, event.request, t.store.apply(body))]


def on_kv_put(t: NodeTables, now: float, event: Requested, body: m.KvPut) -> Commands:
    """Answered when the store has it."""
    most = t.limits.kv_value_bytes_most
    if len(body.value) > most:
        return refuse(event, causes.usage(f"a value of {len(body.value)} bytes: at most {most}"))
    return t.write_kv(body, event.index, event.request)


def on_kv_delete(t: NodeTables, now: float, event: Requested, body: m.KvDelete) -> Commands:
    """Answered when the store has done it."""
    return t.write_kv(body, event.index, event.request)


# ---- views
def on_view(t: NodeTables, now: float, event: Requested, body: m.Message) -> Commands:
    """Answered after one look at the workers, so that idle ones count as idle."""
    t.waiting_looks.append(event)
    workers = tuple(t.scheduler.held.by_worker)
    return [do.Look(workers=workers)] if workers else answer_views(t)


def answer_views(t: NodeTables) -> Commands:
    """The look has been taken."""
    asked, t.waiting_looks = t.waiting_looks, []
    return [do.Reply(event.index, event.request, _view(t, event.body)) for event in asked]


def _view(t: NodeTables, body: m.Message) -> m.Message:
    if isinstance(body, m.GetTable):
        rows = _TABLES.get(body.table)
        if rows is None:
            names = ", ".join(sorted(_TABLES))
            return m.Failure(causes.usage(f"no table {body.table!r}; there are {names}"))
        return m.Table(rows(t)[: body.limit])
    available = t.scheduler.held.available()
    return m.Resources(
        total=dict(t.config.total),
        available={name: available[name] / resources.UNIT for name in sorted(available)},
    )


Row = dict[str, object]


def _stored(table: str, t: NodeTables) -> list[Row]:
    return list(t.store.rows.get(table, {}).values())


def _of_here(table: str, t: NodeTables) -> list[Row]:
    """With the node whose table it is."""
    node = t.config.node_id.hex()
    return [{**row, "node_id": node} for row in _stored(table, t)]


def _actors(t: NodeTables) -> list[Row]:
    """With the node that each lives on."""
    hosts = {actor.actor_id: actor.host for actor in t.actors.living.values()}
    rows = _of_here("actors", t)
    for row in rows:
        row["node_id"] = hosts.get(str(row["actor_id"])) or row["node_id"]
    return rows


def _nodes(t: NodeTables) -> list[Row]:
    return [
        {
            "node_id": t.config.node_id.hex(),
            "name": t.config.node_name,
            "state": "ALIVE",
            "total": dict(t.config.total),
            "cores": t.config.cores,
            "labels": placement.labels_of(t),
        }
    ]


def _workers(t: NodeTables) -> list[Row]:
    rows: list[Row] = []
    for index, worker in sorted(t.pool.workers.items()):
        queue = t.scheduler.held.by_worker.get(index)
        attachment = None if queue is None else queue.attachments[index]
        actor = t.actors.by_worker.get(index)
        binding = worker.binding
        watched = t.memory.watched.get(index)
        rows.append(
            {
                "worker": index,
                "pid": worker.pid,
                "state": worker.phase.value,
                "job": 0 if binding is None else binding.job,
                "gpu_ids": [] if binding is None else list(binding.gpu_ids),
                "queue": 0 if queue is None else queue.queue,
                "running": 0 if attachment is None else attachment.depth,
                "blocked": attachment is not None and attachment.is_blocked,
                "actor_id": "" if actor is None else actor.actor_id,
                "memory_bytes": None if watched is None else max(0, watched.last.own_bytes),
                "node_id": t.config.node_id.hex(),
            }
        )
    return rows


def _queues(t: NodeTables) -> list[Row]:
    return [
        {
            "queue": queue.queue,
            "job": queue.job,
            "resources": resources.plain(queue.amounts),
            "entries": queue.entries,
            "takes": queue.takes,
            "workers": len(queue.attachments),
            "wants": queue.wants,
            "served_s": queue.served_s,
            "dead": queue.dead_record is not None,
            "feasible": queue.is_feasible,
        }
        for queue in t.scheduler.held.queues.values()
    ]


def _environments(t: NodeTables) -> list[Row]:
    return [
        {
            "environment": key,
            "state": entry.phase.value,
            "jobs": sorted(entry.jobs),
            "given": entry.environment.given,
        }
        for key, entry in t.environments.entries.items()
    ]


def _memory_peaks(t: NodeTables) -> list[Row]:
    return [
        {
            "function": reactions_memory.function_name(t, function),
            "peak_bytes": peak.bytes,
            "runs": peak.runs,
            "ended": peak.ends,
            "is_admitted": t.memory.peaks.is_heavy(function) and not t.memory_news.unheard,
        }
        for function, peak in t.memory.peaks.rows.items()
    ]


def _session(t: NodeTables) -> list[Row]:
    return [
        {
            "session": t.config.session,
            "directory": t.config.directory,
            "started": t.config.started,
            "node_id": t.config.node_id.hex(),
            "jobs": len(t.jobs.running),
            "actors": len(t.actors.living),
            "workers": len(t.pool.workers),
        }
    ]


_TABLES = {
    "nodes": _nodes,
    "jobs": lambda t: _of_here("jobs", t),
    "actors": _actors,
    "groups": lambda t: _stored("groups", t),
    "functions": lambda t: _stored("functions", t),
    "workers": _workers,
    "queues": _queues,
    "environments": _environments,
    "memory_peaks": _memory_peaks,
    "session": _session,
}
