"""What becomes of tasks whose process has died.

``repair`` names the tasks that the dead process was running, innermost first: a worker that waits
may run the very task it waits for, so several can lie above each other. Only the innermost one can
have killed the process, so only that one is charged (PROTOCOL D6).

====================================  ====================================================
the task                              becomes
====================================  ====================================================
its job is over                       JobEndedError
it was cancelled, or out of time      TaskCancelledError, DeadlineExceededError
innermost, has killed 3 processes     PoisonTaskError, whatever ``max_retries`` (RULES L-4)
innermost, retries left               QUEUED again, charged
innermost, none left                  WorkerCrashedError with signal, exit code, last stderr
innermost, ended for its memory       as for a crash, with OutOfMemoryError; never poison
below, ``max_retries`` not 0          QUEUED again, not charged
below, ``max_retries`` 0              WorkerCrashedError: it may not run twice
====================================  ====================================================

If the daemon itself killed the worker for a reason of its own, nobody is charged and nothing is
poisoned.

What an attempt had submitted goes with it unless somebody else holds a ref to it (RULES S-20). Its
children are ended just before its own requeue or failure: a new attempt may submit at once, and
its children bear the same parent. Innermost first, so a child that was run by its waiting parent is
queued again by the time the parent's children are ended.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import msgspec

from shoal._base.config import Limits
from shoal._core import causes
from shoal._core import commands as do
from shoal._core.events import ProcessDied, RunningTask


class Death(msgspec.Struct):
    """How a worker ended."""

    pid: int
    event: ProcessDied
    is_ours: bool
    """The daemon ended it, the tasks are not to blame."""
    job_record: bytes | None
    """What its tasks fail with because their job is over."""
    cancelled: dict[int, bytes] = {}
    """What those of its tasks fail with that were to end."""
    who: dict[int, tuple[str, str]] = {}
    """(name, id) of each of its tasks."""
    memory: tuple[int, dict[str, object]] | None = None
    """(task, what the error says) if it was ended for the memory that the task used."""


class Crashes:
    """Remembers which tasks have killed which processes."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._pids: OrderedDict[int, list[int]] = OrderedDict()

    def decide(self, death: Death) -> list[do.Command]:
        """For every task that was running its ``EndChildren``, and one ``Requeue`` or ``Fail``."""
        out: list[do.Command] = []
        for position, task in enumerate(death.event.running):
            if death.job_record is None:
                out.append(end_children(death.pid, death.event, task))
            out.append(self._decide_one(death, task, is_innermost=position == 0))
        return out

    def _decide_one(self, death: Death, task: RunningTask, is_innermost: bool) -> do.Command:
        if death.job_record is not None:
            return do.Fail(task.key, death.job_record)
        if task.key in death.cancelled:
            return do.Fail(task.key, death.cancelled[task.key])
        if death.is_ours and task.max_retries != 0:
            return do.Requeue(0, task.key, charged=False, front=False)
        is_charged = is_innermost and not death.is_ours
        if is_charged and death.memory is None:
            pids = self._remember(task.key, death.pid)
            if len(pids) >= self._limits.poison_workers:
                del self._pids[task.key]
                return do.Fail(task.key, self._poison(death, task, pids))
        if not has_retry_left(task) if is_charged else task.max_retries == 0:
            self._pids.pop(task.key, None)
            return do.Fail(task.key, _record_of(death, task))
        return do.Requeue(0, task.key, charged=is_charged, front=False)

    def _remember(self, key: int, pid: int) -> Sequence[int]:
        pids = self._pids.setdefault(key, [])
        if pid not in pids:
            pids.append(pid)
        self._pids.move_to_end(key)
        while len(self._pids) > self._limits.crash_memory_most:
            self._pids.popitem(last=False)
        return pids

    def _poison(self, death: Death, task: RunningTask, pids: Sequence[int]) -> bytes:
        event = death.event
        who = death.who.get(task.key, ("", ""))
        return causes.poison_task(pids, event.code, event.signal, event.stderr, task.attempt, who)

    def validate(self) -> None:
        """Assert what must hold."""
        assert len(self._pids) <= self._limits.crash_memory_most
        for pids in self._pids.values():
            assert 0 < len(pids) < self._limits.poison_workers
            assert len(set(pids)) == len(pids)


def has_retry_left(task: RunningTask) -> bool:
    """Whether one more charged attempt is allowed; a negative ``max_retries`` has no end."""
    return task.max_retries < 0 or task.charged < task.max_retries


def end_children(pid: int, event: ProcessDied, task: RunningTask) -> do.EndChildren:
    """End what the dead attempt had submitted and nobody else waits for."""
    record = causes.worker_crashed(pid, event.code, event.signal, event.stderr, 0, 0)
    return do.EndChildren((task.key,), record)


def _record_of(death: Death, task: RunningTask) -> bytes:
    event = death.event
    if death.memory is not None and death.memory[0] == task.key:
        facts, task_id = death.memory[1], death.who.get(task.key, ("", ""))[1]
        return causes.out_of_memory(facts, task.attempt, task.max_retries, event.stderr, task_id)
    return causes.worker_crashed(
        death.pid,
        event.code,
        event.signal,
        event.stderr,
        task.attempt,
        task.max_retries,
        death.who.get(task.key, ("", "")),
    )
