"""The worker processes of a node, and what each is for.

::

    StartWorker -> starting -> joined -> generic -+-> bound: idle <-> attached -> leaving -> dead
                      |                           +-> bound: actor ------------->
                      +-> failed (back-off)

* *generic*: forked ahead, has asked for its assignment and waits for the answer. The answer binds
  it for life to a job, a thread count and GPU ids (RULES S-10).
* *bound, idle*: may be attached again, only to queues that agree. A worker with GPU ids is not: it
  leaves when its queue is done with it (S-9).
* *leaving*: told to end; SIGKILL after ``leave_s``.

1. A worker is generic exactly as long as its request for an assignment is unanswered.
2. Starting workers are at most ``starting_most``; all together at most ``workers_most``.
3. A start that does not join in time is abandoned; each failure doubles the pause before the next.
4. Those that wait for something (``_free``, ``_joined``, ``_kills``) are kept apart, so that
   nothing looks through a thousand workers that are at work.
5. Nothing here knows amounts or queues' contents; the scheduler says which binding it wants.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

from shoal._base.config import Limits
from shoal._core import commands as do
from shoal._core.deadlines import Deadlines
from shoal._core.scheduler import Binding


class Phase(enum.Enum):
    """Where a worker is in its life."""

    JOINED = "joined"
    GENERIC = "generic"
    IDLE = "idle"
    ATTACHED = "attached"
    ACTOR = "actor"
    LEAVING = "leaving"


class Worker:
    """One process that has been forked."""

    __slots__ = (
        "binding",
        "has_served",
        "index",
        "phase",
        "pid",
        "python",
        "request",
        "since",
    )

    def __init__(self, index: int, pid: int, python: str, now: float) -> None:
        self.index = index
        self.pid = pid
        self.python = python
        self.phase = Phase.JOINED
        self.since = now
        """When the phase began."""
        self.request = 0
        """The unanswered request for an assignment."""
        self.binding: Binding | None = None
        self.has_served = False
        """A queue of its has been seen to move while it was there."""


class Start:
    """One start that has not joined yet."""

    __slots__ = ("deadline", "index", "pid", "python")

    def __init__(self, python: str, deadline: float) -> None:
        self.python = python
        self.deadline = deadline
        self.index = -1
        self.pid = 0


class Pool:
    """All workers of a node."""

    def __init__(self, limits: Limits, prestart: int) -> None:
        self.limits = limits
        self.prestart = prestart
        self.workers: dict[int, Worker] = {}
        self.starts: dict[int, Start] = {}
        self.by_start_index: dict[int, int] = {}
        self._free: dict[int, Worker] = {}
        """Those that are generic or idle: ``find`` is asked for everything that waits."""
        self._joined: dict[int, Worker] = {}
        """Those that are not generic yet."""
        self._kills: Deadlines[int] = Deadlines()
        """When a worker that is joining or leaving has had time enough."""
        self.failures = 0
        """Starts that failed, one after the other."""
        self.retry_at: float | None = None
        """No start before this: the last one failed."""
        self._number = 0

    # ---- starting
    def want(self, now: float, pythons: Sequence[str]) -> list[do.Command]:
        """Have as many starts under way as there are bindings without a process."""
        if self.retry_at is not None:
            if now < self.retry_at:
                return []
            self.retry_at = None
        under_way: dict[str, int] = {}
        for start in self.starts.values():
            under_way[start.python] = under_way.get(start.python, 0) + 1
        for worker in self._joined.values():
            under_way[worker.python] = under_way.get(worker.python, 0) + 1
        out: list[do.Command] = []
        for python in pythons:
            if under_way.get(python, 0) > 0:
                under_way[python] -= 1
            elif self.can_start():
                out.append(self._start(now, python))
        return out

    def can_start(self) -> bool:
        """Whether one more may be started now."""
        count = len(self.starts) + len(self._joined)
        most = self.limits.starting_most if not self.failures else 1
        return count < most and not self.is_full()

    def joining(self) -> int:
        """Processes that are there and not ready yet."""
        return len(self._joined)

    def is_full(self) -> bool:
        """Whether there may be no more processes."""
        return len(self.workers) + len(self.starts) >= self.limits.workers_most

    def _start(self, now: float, python: str) -> do.Command:
        self._number += 1
        self.starts[self._number] = Start(python, now + self.limits.fork_timeout_s)
        return do.StartWorker(self._number, python)

    def forked(self, now: float, start: int, index: int, pid: int) -> bool:
        """The process exists; False if nobody waits for it any more."""
        record = self.starts.get(start)
        if record is None:
            return False
        record.index, record.pid = index, pid
        record.deadline = now + self.limits.join_timeout_s
        self.by_start_index[index] = start
        return True

    def start_failed(self, now: float, start: int) -> bool:
        """It does not exist, or not any more; False if nobody waited for it."""
        record = self.starts.pop(start, None)
        if record is None:
            return False
        self.by_start_index.pop(record.index, None)
        self.failures += 1
        pause = self.limits.start_backoff_s * 2.0 ** min(self.failures - 1, 16)
        self.retry_at = now + min(pause, self.limits.start_backoff_most_s)
        return True

    def joined(self, now: float, index: int, pid: int) -> Worker | None:
        """It has said Hello; None if it is not one of ours."""
        start = self.by_start_index.pop(index, None)
        if start is None:
            return None
        record = self.starts.pop(start)
        self.failures = 0
        self.retry_at = None
        worker = Worker(index, pid or record.pid, record.python, now)
        self._kills.set(index, now + self.limits.join_timeout_s)
        self.workers[index] = self._joined[index] = worker
        return worker

    # ---- using
    def asks_assignment(self, now: float, index: int, request: int) -> Worker | None:
        """It is ready to be told what it is for; None if that was not to be asked."""
        worker = self.workers.get(index)
        if worker is None or worker.phase is not Phase.JOINED:
            return None
        worker.request = request
        self._kills.set(index, None)
        self._enter(now, worker, Phase.GENERIC)
        return worker

    def find(self, binding: Binding, python: str) -> int | None:
        """An idle worker that agrees with ``binding``, else a generic one; lowest index first."""
        best: Worker | None = None
        for worker in self._free.values():
            if worker.phase is Phase.IDLE:
                if binding.is_actor or binding.gpu_ids or worker.binding != binding:
                    continue
            elif worker.python != python:
                continue
            if best is None or _preference(worker) < _preference(best):
                best = worker
        return None if best is None else best.index

    def use(self, now: float, index: int, binding: Binding) -> int:
        """Take it for ``binding``. The request to answer with an assignment, 0 if it has one."""
        worker = self.workers[index]
        request, worker.request = worker.request, 0
        worker.binding = binding
        self._enter(now, worker, Phase.ACTOR if binding.is_actor else Phase.ATTACHED)
        return request

    def rest(self, now: float, index: int) -> None:
        """It has let go of its queue."""
        worker = self.workers[index]
        if worker.phase is Phase.ATTACHED:
            self._enter(now, worker, Phase.IDLE)

    def leave(self, now: float, index: int, is_patient: bool = False) -> list[do.Command]:
        """Have it end after its present task; SIGKILL after ``leave_s`` unless ``is_patient``."""
        worker = self.workers[index]
        if worker.phase is Phase.LEAVING:
            return []
        self._enter(now, worker, Phase.LEAVING)
        self._kills.set(index, None if is_patient else now + self.limits.leave_s)
        if worker.request:
            # It waits for an answer and not at a queue.
            worker.request = 0
            return [do.Kill(index)]
        return [do.Leave(index)]

    def kill(self, now: float, index: int) -> list[do.Command]:
        """End it at once."""
        worker = self.workers[index]
        self._kills.set(index, None)
        worker.request = 0
        self._enter(now, worker, Phase.LEAVING)
        return [do.Kill(index)]

    def died(self, index: int) -> Worker | None:
        """It is gone."""
        self._free.pop(index, None)
        self._joined.pop(index, None)
        self._kills.set(index, None)
        return self.workers.pop(index, None)

    def _enter(self, now: float, worker: Worker, phase: Phase) -> None:
        worker.phase = phase
        worker.since = now
        self._joined.pop(worker.index, None)
        if phase in (Phase.IDLE, Phase.GENERIC):
            self._free[worker.index] = worker
        else:
            self._free.pop(worker.index, None)

    # ---- time
    def expire(self, now: float) -> list[do.Command]:
        """Abandon starts and kill leavers whose time is up."""
        if self.retry_at is not None and self.retry_at <= now:
            self.retry_at = None
        out: list[do.Command] = []
        for number, start in list(self.starts.items()):
            if start.deadline <= now:
                out.append(do.AbandonStart(number))
                self.start_failed(now, number)
        return [*out, *(do.Kill(index) for index in self._kills.due(now))]

    def trim(self, now: float) -> list[do.Command]:
        """End workers that have been of no use for a while, the highest first."""
        limit = self.limits.idle_worker_s
        idle = list(self._free.values())
        spare = len(idle) - self.prestart
        out: list[do.Command] = []
        for worker in sorted(idle, key=lambda w: w.index, reverse=True):
            if spare <= 0:
                break
            if now - worker.since >= limit:
                out += self.leave(now, worker.index)
                spare -= 1
        return out

    def evict(self, now: float) -> list[do.Command]:
        """The table is full and nobody idle agrees: end the worker that has been idle longest."""
        idle = [w for w in self._free.values() if w.phase is Phase.IDLE]
        if not idle:
            return []
        return self.leave(now, min(idle, key=lambda w: w.since).index)

    def needs_trimming(self) -> bool:
        """Whether ``trim`` may have something to do later."""
        return len(self._free) > self.prestart

    def next_deadline(self) -> float | None:
        """When ``expire`` or ``want`` has something to do."""
        times = [start.deadline for start in self.starts.values()]
        times += [at for at in (self._kills.next(), self.retry_at) if at is not None]
        return min(times, default=None)

    def validate(self) -> None:
        """Assert the invariants."""
        assert len(self.starts) <= max(self.limits.starting_most, 1)
        assert len(self.workers) + len(self.starts) <= self.limits.workers_most
        free = (Phase.IDLE, Phase.GENERIC)
        assert self._free == {i: w for i, w in self.workers.items() if w.phase in free}
        joined = {i: w for i, w in self.workers.items() if w.phase is Phase.JOINED}
        assert self._joined == joined
        self._kills.validate()
        for index, worker in self.workers.items():
            assert worker.index == index
            assert (worker.request != 0) == (worker.phase is Phase.GENERIC)
            has_binding = worker.phase in (Phase.IDLE, Phase.ATTACHED, Phase.ACTOR)
            assert worker.binding is not None or not has_binding
            waits = worker.phase in (Phase.LEAVING, Phase.JOINED)
            assert waits or index not in self._kills
        for index, number in self.by_start_index.items():
            assert self.starts[number].index == index
            assert index not in self.workers


def _preference(worker: Worker) -> tuple[bool, int]:
    return (worker.phase is Phase.GENERIC, worker.index)
