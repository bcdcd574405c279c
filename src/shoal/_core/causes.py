"""The errors that daemons make: which record, with which fields.

One function per error class of ``shoal.errors`` that a daemon or the store can cause. The names of
the fields are the contract with ``errors.from_record``; a record never holds more than facts, the
sentences are made where it is read. Fields of all of them (a field that is not known is None, "" or
[]):

==========================  ================================================================
WorkerCrashedError          pid, signal, exit_code, stderr (list of lines), attempt, max_retries,
                            reason, task, task_id
OutOfMemoryError            as WorkerCrashedError, and task, kind (limit, node or kernel),
                            limit_bytes, peak_bytes, used_bytes, evidence, others (list of dicts:
                            name, pid, bytes)
PoisonTaskError             pid, signal, exit_code, stderr, attempt, pids (list), task, task_id
ActorUnavailableError       as ActorDiedError: its reason "restarting"
ActorDiedError              actor_id, class_name, name, reason, incarnation, pid, signal,
                            exit_code, stderr, may_have_run, error (bytes: pickled exception of
                            the constructor), text
ActorGroupRemovedError      as ActorDiedError, and group_id
GroupRemovedError           group_id, name, reason
UnschedulableError          asked (dict), total (dict), what (such as "task" or "actor Counter"),
                            reason (what else it needs, a sentence)
JobEndedError               job, reason
ActorAlreadyExistsError     name, namespace
ActorNotFoundError          name, namespace, actor_id
RuntimeEnvSetupError        step (a field of the environment), message, output (last lines)
GroupAlreadyExistsError     name, namespace
GroupNotFoundError          name, namespace, group_id
TaskCancelledError          stage, reason
DeadlineExceededError       stage, timeout_s, stages_s (dict)
ObjectLostError             object_id, reason; and those below it that say why it was not rebuilt
UsageError                  text (a request that makes no sense; a ValueError)
==========================  ================================================================

``reason`` of ActorDiedError is one of REASONS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shoal._base import records

REASONS = {
    "crashed": "its process died and no restart was left",
    "killed": "it was killed with kill()",
    "constructor": "its constructor raised",
    "exit_actor": "it called exit_actor()",
    "no_handle": "the last handle to it is gone",
    "job_ended": "the job that made it has ended",
    "unschedulable": "no node has what it asks for",
    "arguments_lost": "the arguments of its constructor are gone",
    "group_removed": "the placement group that it ran in is gone",
    "restarting": "its process died while this call was running",
    "out_of_memory": "it used more memory than it may, or than there is",
    "node_lost": "its node was lost and no restart was left",
    "lease_over": "its node had not heard from the control store for as long as its lease lasts",
    "drained": "its node was drained and it may not be restarted",
}

NOT_REBUILT = {
    "used_up": "RebuildsUsedUpError",
    "dropped": "LineageDroppedError",
    "no_argument": "ObjectNotRebuiltError",
    "no_queue": "ObjectNotRebuiltError",
}
"""Kinds of reasons why nothing could make a value again."""


_ACTOR_ERRORS = {
    "restarting": "ActorUnavailableError",
    "group_removed": "ActorGroupRemovedError",
    "out_of_memory": "ActorOutOfMemoryError",
}


def worker_crashed(
    pid: int,
    code: int | None,
    signal: int | None,
    stderr: Sequence[str],
    attempt: int,
    max_retries: int,
    who: tuple[str, str] = ("", ""),
) -> bytes:
    """The process of a task ended under it; ``who``: name and id of the task."""
    return records.pack(
        "WorkerCrashedError",
        pid=pid,
        signal=signal,
        exit_code=code,
        stderr=list(stderr),
        attempt=attempt,
        max_retries=max_retries,
        task=who[0],
        task_id=who[1],
    )


def out_of_memory(
    ended: Mapping[str, object],
    attempt: int = 1,
    max_retries: int = 0,
    stderr: Sequence[str] = (),
    task_id: str = "",
) -> bytes:
    """The process of a task was ended for its memory; ``ended`` says why."""
    more = {"signal": 9, "stderr": list(stderr), "attempt": attempt, "max_retries": max_retries}
    return records.pack("OutOfMemoryError", **{**ended, **more, "task_id": task_id})


def workers_cannot_start(
    code: int | None, signal: int | None, stderr: Sequence[str], count: int
) -> bytes:
    """Workers end before they have taken any task; ``count`` did, one after the other."""
    return records.pack(
        "WorkerCrashedError",
        signal=signal,
        exit_code=code,
        stderr=list(stderr),
        reason=f"its workers cannot start: {count} in a row ended before they took a task",
    )


def poison_task(
    pids: Sequence[int],
    code: int | None,
    signal: int | None,
    stderr: Sequence[str],
    attempt: int,
    who: tuple[str, str] = ("", ""),
) -> bytes:
    """The task ended too many processes; ``pids``: which, the last one at the end."""
    return records.pack(
        "PoisonTaskError",
        pid=pids[-1],
        signal=signal,
        exit_code=code,
        stderr=list(stderr),
        attempt=attempt,
        pids=list(pids),
        task=who[0],
        task_id=who[1],
    )


def actor_died(
    actor: Mapping[str, object], reason: str, event: object = None, **more: object
) -> bytes:
    """The actor is gone, or this call of it is. ``actor`` names it (actor_id, class_name, name,
    incarnation, pid); ``event`` is the ProcessDied that ended it, if one did."""
    assert reason in REASONS
    fields: dict[str, object] = {
        "reason": reason,
        "signal": getattr(event, "signal", None),
        "exit_code": getattr(event, "code", None),
        "stderr": list(getattr(event, "stderr", ())),
        "may_have_run": False,
        "error": b"",
        "text": "",
    }
    name = _ACTOR_ERRORS.get(reason, "ActorDiedError")
    return records.pack(name, **{**fields, **actor, **more})


def unschedulable(
    asked: Mapping[str, float], total: Mapping[str, float], what: str, reason: str = ""
) -> bytes:
    """No node can ever run this."""
    return records.pack(
        "UnschedulableError", asked=dict(asked), total=dict(total), what=what, reason=reason
    )


def group_removed(group: str, name: str, reason: str) -> bytes:
    """The placement group is gone, and what was to run in it with it."""
    return records.pack("GroupRemovedError", group_id=group, name=name, reason=reason)


def bundle_removed(group: str, name: str, index: int) -> bytes:
    """The same of one of its bundles."""
    return group_removed(group, name, f"its bundle {index} was removed")


def group_name_taken(name: str, namespace: str) -> bytes:
    """Another placement group has that name."""
    return records.pack("GroupAlreadyExistsError", name=name, namespace=namespace)


def group_not_found(name: str, namespace: str, group: str) -> bytes:
    """No such placement group."""
    return records.pack("GroupNotFoundError", name=name, namespace=namespace, group_id=group)


def environment_failed(step: str, text: str, output: Sequence[str]) -> bytes:
    """The runtime environment could not be made: which of its fields, and the last lines said."""
    message = f"the runtime environment could not be made ({step}): {text}"
    return records.pack("RuntimeEnvSetupError", step=step, message=message, output=list(output))


def job_ended(job: int, reason: str) -> bytes:
    """The result will never come: its job is over."""
    return records.pack("JobEndedError", job=job, reason=reason)


def name_taken(name: str, namespace: str) -> bytes:
    """Another live actor has that name."""
    return records.pack("ActorAlreadyExistsError", name=name, namespace=namespace)


def actor_not_found(name: str = "", namespace: str = "", actor_id: str = "") -> bytes:
    """No such actor."""
    return records.pack("ActorNotFoundError", name=name, namespace=namespace, actor_id=actor_id)


def task_cancelled(stage: str, reason: str) -> bytes:
    """Somebody cancelled it."""
    return records.pack("TaskCancelledError", stage=stage, reason=reason)


def deadline_exceeded(stage: str, stages_s: Mapping[str, float]) -> bytes:
    """Its time was over; ``stages_s``: where it went."""
    stages = {name: round(seconds, 6) for name, seconds in stages_s.items()}
    timeout_s = round(sum(stages.values()), 3)
    return records.pack("DeadlineExceededError", stage=stage, timeout_s=timeout_s, stages_s=stages)


def usage(text: str) -> bytes:
    """A request that makes no sense."""
    return records.pack("UsageError", text=text)


def object_lost(object_id: str, reason: str, kind: str = "") -> bytes:
    """The bytes of a value are gone; ``kind`` is a key of ``NOT_REBUILT``, or says no more."""
    name = NOT_REBUILT.get(kind, "ObjectLostError")
    return records.pack(name, object_id=object_id, reason=reason)
