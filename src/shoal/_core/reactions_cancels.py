"""What follows when a task is cancelled, or its time is over."""

from __future__ import annotations

from shoal._core import causes
from shoal._core import commands as do
from shoal._core.answers import Commands
from shoal._core.cancels import Asked, Running
from shoal._core.events import (
    CancelAsked,
    FoundRunning,
    ProcessDied,
    Requested,
    TaskLooked,
    TasksSifted,
)
from shoal._core.pool import Phase
from shoal._core.tables import NodeTables
from shoal._proto import messages as m

DROPPED = "nobody has its generator any more"
GIVEN_UP = "a call that it waits for was cancelled"


def on_cancel_task(t: NodeTables, now: float, event: Requested, body: m.CancelTask) -> Commands:
    """What has not started is sealed before the answer; the rest is asked to end."""
    out = _cancel(t, body.key, body.recursive, body.force)
    return [*out, do.Reply(event.index, event.request, m.Done())]


def on_stream_dropped(t: NodeTables, now: float, key: int) -> Commands:
    """No ref to a stream's end is left: its producer works for nobody (RULES O-10)."""
    return _cancel(t, key, is_recursive=False, is_forced=False, reason=DROPPED)


def _cancel(
    t: NodeTables, key: int, is_recursive: bool, is_forced: bool, reason: str = ""
) -> Commands:
    held, queued, running = (
        causes.task_cancelled(stage, reason) for stage in ("held", "queued", "running")
    )
    ticket = t.new_ticket()
    t.cancels.asked[ticket] = Asked(key, running, is_forced)
    return [do.CancelTasks(ticket, key, is_recursive, held, queued, is_forced=is_forced)]


def on_cancel_asked(t: NodeTables, now: float, event: CancelAsked) -> Commands:
    """The node that has sent it does not want it any more."""
    return _cancel(t, event.key, event.is_recursive, event.is_forced, "its home has cancelled it")


def on_found_running(t: NodeTables, now: float, event: FoundRunning) -> Commands:
    """Ask; whoever was asked before and still runs has had its time."""
    asked = t.cancels.asked.pop(event.ticket)
    out: Commands = []
    for row in event.tasks:
        tell = do.Notify(row.worker, m.CancelAttempt(row.key, row.attempt, asked.record))
        if row.is_call:
            out.append(tell)
            if keys := t.cancels.tell(row.key, asked.record):
                out.append(do.SiftTasks(keys))
            continue
        worker = t.pool.workers.get(row.worker)
        if worker is None:
            continue
        known = t.cancels.running.get(row.key)
        is_second = known is not None and row.key == asked.key and event.is_second_look
        record = known.record if known is not None else asked.record
        running = Running(row.attempt, row.worker, record)
        t.cancels.ask(row.key, running, now + t.limits.cancel_s)
        if not asked.is_forced and not is_second:
            out.append(tell)
            continue
        t.tell(now, f"worker {row.worker}", "killed: a task that was cancelled runs on")
        if worker.phase is Phase.LEAVING:
            out.append(do.Kill(row.worker))
        else:
            out += t.pool.kill(now, row.worker)
    if event.is_second_look and all(row.key != asked.key for row in event.tasks):
        t.cancels.forget(asked.key)
    return out


# ---- time
def on_watch_deadline(
    t: NodeTables, now: float, event: Requested, body: m.WatchDeadline
) -> Commands:
    """Nobody waits for an answer."""
    keys = t.cancels.watch(body.key, now + max(0.0, body.left_s))
    return [do.SiftTasks(keys)] if keys else []


def on_argument_given_up(
    t: NodeTables, now: float, event: Requested, body: m.ArgumentGivenUp
) -> Commands:
    """It waits for a call that was cancelled and runs on: nobody waits for an answer."""
    return _cancel(t, body.key, is_recursive=False, is_forced=False, reason=GIVEN_UP)


def on_tasks_sifted(t: NodeTables, now: float, event: TasksSifted) -> Commands:
    """Nobody has to look at these any more."""
    for key in event.ended:
        t.cancels.ended(key)
    return []


def expire(t: NodeTables, now: float) -> Commands:
    """Look at those whose time, or whose patience, is over."""
    out: Commands = []
    for key in t.cancels.patience.due(now):
        running = t.cancels.running[key]
        ticket = t.new_ticket()
        t.cancels.asked[ticket] = Asked(key, running.record)
        record = running.record
        out.append(do.CancelTasks(ticket, key, False, record, record, is_second_look=True))
    return out + [do.LookAtTask(key) for key in t.cancels.timed.due(now)]


def on_task_looked(t: NodeTables, now: float, event: TaskLooked) -> Commands:
    """Its deadline has come, and it lives."""
    if event.key in t.cancels.running:
        return []  # ending already
    record = causes.deadline_exceeded(event.stage, event.stages_s)
    ticket = t.new_ticket()
    t.cancels.asked[ticket] = Asked(event.key, record)
    return [do.CancelTasks(ticket, event.key, False, record, record, is_late=True)]


# ---- deaths
def take_cancelled(t: NodeTables, event: ProcessDied) -> dict[int, bytes]:
    """Which of the dead process's tasks were to end, and the record of each."""
    found = {}
    for task in event.running:
        running = t.cancels.running.get(task.key)
        if running is not None:
            found[task.key] = running.record
            t.cancels.patience.set(task.key, None)
            del t.cancels.running[task.key]
        elif (record := t.cancels.calls.pop(task.key, None)) is not None:
            found[task.key] = record
    return found


# ---- workers that have had enough
def on_worker_leaves(t: NodeTables, now: float, event: Requested, body: m.WorkerLeaves) -> Commands:
    """After ``max_calls`` it ends by itself, between two tasks: no crash, no retry (RULES T11)."""
    worker = t.pool.workers.get(event.index)
    out: Commands = []
    if worker is not None and worker.phase is not Phase.LEAVING:
        out += t.pool.leave(now, event.index)
    return [*out, do.Reply(event.index, event.request, m.Done())]
