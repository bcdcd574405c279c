"""What follows from what processes use: ``memory_watch`` decides, here it is carried out.

::

    somebody is attached -> begin -> alarm -> ReadMemory -> MemoryRead -> step -> Kill, Leave, ...
                                       ^                                   |
                                       +------- while anybody could run ---+

Whoever asked for memory is looked at once before he begins (``first_look``): what his process had
from earlier tasks is not his.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from shoal._core import commands as do
from shoal._core.answers import Commands
from shoal._core.events import MemoryRead, ProcessDied, Requested
from shoal._core.memory_admission import Admit, Heavy, Waiter
from shoal._core.memory_watch import (
    SMALL_BYTES,
    Decision,
    End,
    Pause,
    Trim,
)
from shoal._core.pool import Phase
from shoal._core.reactions_workers import revoke
from shoal._core.resources import MEMORY, UNIT, Amounts, units_of
from shoal._core.tables import NodeTables
from shoal._proto import messages as m

OTHERS_MOST = 20
UNANSWERED_S = 10.0


# ---- when to look
def begin(t: NodeTables, now: float) -> None:
    """Look from now on if anybody could run."""
    if t.memory.next_at is None and (t.scheduler.held.by_worker or t.actors.by_worker):
        t.memory.begin(now)


def look(t: NodeTables, now: float) -> Commands:
    """The alarm rang: it may be time for the next reading."""
    at = t.memory.next_at
    if at is None or at > now:
        return []
    # Its answer plans the next one. Until then there is one planned all the same: who looks whether
    # it is time to begin must not take an idle node for one where something has just begun.
    t.memory.next_at = now + UNANSWERED_S
    rows = [_row_of(t, index) for index in (*t.scheduler.held.by_worker, *t.actors.by_worker)]
    rows += [
        do.MemoryOf(worker.index, 1 << 62, is_free=True)
        for worker in t.pool.workers.values()
        if worker.phase is Phase.IDLE
    ]
    return [do.ReadMemory(tuple(rows))]


def first_look(t: NodeTables, index: int, amounts: Amounts) -> Commands:
    """Before a worker begins with something that has asked for memory, or no longer has."""
    declared = units_of(amounts, MEMORY) // UNIT
    if not t.memory.is_on or not (declared or index in t.memory.limited):
        return []
    (t.memory.limited.add if declared else t.memory.limited.discard)(index)
    return [do.ReadMemory((do.MemoryOf(index, 1 << 62, declared),), is_first_look=True)]


def _row_of(t: NodeTables, index: int) -> do.MemoryOf:
    actor = t.actors.by_worker.get(index)
    if actor is not None:
        declared = _declared(t, index)
        exact = declared * 3 // 4 if declared else t.memory.rules.heavy_bytes
        returns = t.actors.can_restart(actor)
        return do.MemoryOf(index, exact, declared, is_actor=True, can_return=returns)
    return do.MemoryOf(index, SMALL_BYTES, _declared(t, index))


def _declared(t: NodeTables, index: int) -> int:
    """What it has asked for, or its actor has; 0: nothing."""
    actor = t.actors.by_worker.get(index)
    if actor is not None:
        return int(actor.spec.hold.get(MEMORY, 0.0))
    queue = t.scheduler.held.by_worker.get(index)
    return 0 if queue is None else units_of(queue.amounts, MEMORY) // UNIT


# ---- what a reading leads to
def on_read(t: NodeTables, now: float, event: MemoryRead) -> Commands:
    """Carry out what is decided."""
    if event.is_first_look:
        t.memory.look_first(now, event)
        return []
    # Ends that have waited for the news are taken in by the step that asks for the reading, too.
    living = tuple(row for row in event.processes if row.index in t.pool.workers)
    event = msgspec.structs.replace(event, processes=living)
    return _carry_out(t, now, t.memory.step(now, event), event.drivers)


def _trim(t: NodeTables, now: float, index: int) -> Commands:
    """A worker without a queue ends; one that has one gives it back, and ends after a later
    reading, if nobody has needed it meanwhile."""
    if t.pool.workers[index].phase is Phase.IDLE:
        t.tell(now, f"worker {index}", "idle, ended for the memory that it kept")
        return t.pool.leave(now, index)
    queue = t.scheduler.held.by_worker.get(index)
    if queue is None:
        return []
    attachment = queue.attachments[index]
    if attachment.is_leaving:
        return []
    if attachment.acked_at is None:
        return [do.Look(workers=(index,))]
    t.scheduler.held.ask_back(attachment)
    return revoke(t, now, index)


def _carry_out(
    t: NodeTables,
    now: float,
    decisions: Iterable[Decision],
    drivers: tuple[tuple[int, int], ...] = (),
) -> Commands:
    out: Commands = []
    heavy: list[int] = []
    for decision in decisions:
        match decision:
            case Pause():
                out += _pause(t, now, decision.on)
            case Trim():
                out += _trim(t, now, decision.index)
            case Heavy():
                heavy.append(decision.function)
            case Admit():
                out.append(do.Reply(decision.index, decision.request, m.Done()))
            case End():
                out += _end(t, now, decision, drivers)
    if heavy:
        # First: what was ended must not be run again by somebody who has not heard.
        news = m.HeavyFunctions(heavy)
        bound = [worker for worker in t.pool.workers.values() if worker.binding is not None]
        for worker in bound:
            t.memory_news.sent(now, worker.index)
        out = [*(do.Notify(worker.index, news) for worker in bound), *out]
    return out


def _pause(t: NodeTables, now: float, on: bool) -> Commands:
    used, limit = t.memory.use.used_bytes, t.memory.use.limit_bytes
    text = f"admission {'paused' if on else 'goes on'}: {used:,} of {limit:,} bytes are in use"
    t.tell(now, "session", text)
    out: Commands = [do.Warn(text)]
    if not on:
        return out
    held = t.scheduler.held
    for index, queue in list(held.by_worker.items()):
        attachment = queue.attachments[index]
        if not attachment.is_leaving and not attachment.grant.gpus:
            held.ask_back(attachment)
            attachment.asked_at = now
            out.append(do.Assign(index, 0))
    return out


def _end(t: NodeTables, now: float, end: End, drivers: tuple[tuple[int, int], ...]) -> Commands:
    facts = facts_of(t, end)
    facts["others"] = [
        *_others(t, end),
        *({"name": "program", "pid": p, "bytes": b} for p, b in drivers),
    ]
    t.memory_facts[end.index] = facts
    what = facts["task"] or "a task"
    text = f"{what} (pid {facts['pid']}) is ended for its memory: it took {end.peak_bytes:,} bytes,"
    if end.kind == "limit":
        text += f" and has asked for {end.limit_bytes:,}"
    else:
        text += (
            f" and {end.used_bytes:,} of {t.memory.use.limit_bytes:,} bytes of the node are in use"
        )
    t.tell(now, f"worker {end.index}", text)
    actor = t.actors.by_worker.get(end.index)
    if actor is not None:
        t.tell(now, actor.actor_id, text)
    return [do.Warn(text), do.Kill(end.index, is_whole=True)]


def on_kernel_kill(t: NodeTables, now: float, event: ProcessDied) -> Commands:
    """The kernel has ended a worker for want of memory, as far as can be known."""
    worker = t.pool.workers.get(event.index)
    if worker is None or not event.running or event.index in t.memory.ended:
        return []
    if worker.phase is Phase.LEAVING:
        return []
    first = event.running[0]
    function = 0 if event.index in t.actors.by_worker else first.about
    limit = _declared(t, event.index) if event.limit_peak_bytes else 0
    heavy = t.memory.killed(now, event.index, (first.key, function), limit, event.limit_peak_bytes)
    end = t.memory.ended[event.index]
    facts = facts_of(t, end)
    facts["others"], facts["evidence"] = _others(t, end), event.kernel_oom
    t.memory_facts[event.index] = facts
    what = facts["task"] or "a task"
    text = f"the kernel has ended {what} (pid {facts['pid']}) for want of memory"
    if limit:
        text += f": it took {end.peak_bytes:,} bytes, and has asked for {limit:,}"
    t.tell(now, f"worker {event.index}", text)
    return [do.Warn(text), *_carry_out(t, now, heavy)]


def facts_of(t: NodeTables, end: End) -> dict[str, object]:
    """What the error says."""
    return {
        "task": name_of(t, end.index, end.function),
        "pid": t.pool.workers[end.index].pid,
        "kind": end.kind,
        "limit_bytes": end.limit_bytes,
        "peak_bytes": end.peak_bytes,
        "used_bytes": end.used_bytes,
        "node_bytes": t.memory.use.limit_bytes,
    }


def _others(t: NodeTables, end: End) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for index, size in end.others[:OTHERS_MOST]:
        worker = t.pool.workers.get(index)
        each = t.memory.watched.get(index)
        if worker is not None:
            name = name_of(t, index, 0 if each is None else each.last.function)
            found.append({"name": name or "worker", "pid": worker.pid, "bytes": size})
    return found


def name_of(t: NodeTables, index: int, function: int) -> str:
    """What runs there; "" if that is not known."""
    actor = t.actors.by_worker.get(index)
    return actor.spec.class_name if actor is not None else function_name(t, function)


def function_name(t: NodeTables, function: int) -> str:
    """Name of an exported function; "" if it is not known."""
    for job in t.jobs.running.values():
        for key, name, _ in job.functions.values():
            if function and key == function:
                return name
    return ""


# ---- admission
def on_admit(t: NodeTables, now: float, event: Requested, body: m.AdmitMemory) -> Commands:
    """Answered when there is enough for it."""
    worker = t.pool.workers.get(event.index)
    if worker is None or not t.memory.is_on:
        return [do.Reply(event.index, event.request, m.Done())]
    queue = t.scheduler.held.by_worker.get(event.index)
    has_declared = queue is not None and units_of(queue.amounts, MEMORY) > 0
    waiter = Waiter(event.index, event.request, body.function, now, has_declared, body.attempt)
    return _carry_out(t, now, t.memory.ask(now, waiter))


def on_release(t: NodeTables, now: float, event: Requested, body: m.ReleaseMemory) -> Commands:
    """The next may run."""
    done = t.memory.release(now, event.index, body.function, body.is_well)
    return _carry_out(t, now, done)


def on_heard(t: NodeTables, now: float, event: Requested, body: m.HeavyHeard) -> Commands:
    """A worker knows which functions are heavy."""
    t.memory_news.heard(event.index)
    return []


def on_died(t: NodeTables, now: float, index: int) -> tuple[int, dict[str, object]] | None:
    """A worker is gone: (task that it was ended for, what the error says) if it was ended here."""
    end = t.memory.died(now, index)
    facts = t.memory_facts.pop(index, None)
    return None if end is None or facts is None else (end.task, facts)
