"""What must be true of the watch over the memory of processes, judged by what it was told.

* **Only the offender** (``ends``): a process is ended for its memory only if it runs something and
  has more than it asked for, or the node has too little and it has a tenth of the node's memory or
  more; who keeps to what he asked for is no victim while somebody else has certainly grown that
  much; one at a time.
* **In time** (``look``): who certainly has more than he asked for is ended by the reading that says
  so; and while the node has too little, somebody is, if anybody certainly has that much.
* **Paused first** (``attaches``): while little is left nobody begins, but one a second, or if
  nobody runs.
* **Admitted in turn** (``replied``): first come, first served; who was ended for its memory comes
  later, longer each time; nobody is let in beside another one if both do not fit, as far as
  anybody can know.
* **Told first** (``begins``): who was ended for its memory does not begin again unasked.
* **Said so** (``check_ended_for_memory``): nobody fails for his memory who was not ended for it.
* **Nothing is left** (``check_nothing_waits``).

*Certainly* grown is what a process has more than at another reading of the same task.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shoal._base import records
from shoal._core import events as seen
from shoal._core.memory_admission import (
    BACK_OFF_MOST_S,
    BACK_OFF_S,
    PATIENCE_S,
    PAUSE_BELOW,
    SETTLE_S,
)
from shoal._core.memory_news import WAIT_MOST_S
from shoal._core.memory_watch import (
    BEGIN_S,
    GUILTY_BYTES,
    GUILTY_SHARE,
    OURS_SHARE,
    REAP_S,
    RESUME_BELOW,
    SMALL_BYTES,
)
from shoal._proto import messages as m
from shoal.testing.sim.checkers import Violation
from shoal.testing.sim.fakes import FakeProcess, FakeTask

if TYPE_CHECKING:
    from shoal.testing.sim.process_memory import FakeProcessMemory
    from shoal.testing.sim.world import World

ON_ITS_WAY_S = 0.005
"""A message, unless its sender is stopped."""


@dataclass
class Asked:
    """Somebody waits for admission."""

    index: int
    request: int
    function: int
    attempt: int
    since: float


@dataclass
class LetIn:
    """Somebody was admitted."""

    task: int
    needs: int
    """At least so much, as far as anybody has seen."""
    at: float
    count: int = 1
    """A word that the last one is over may come after the next was let in."""


class MemoryRules:
    """What the daemon has been told, and what it may do by that."""

    def __init__(self, limit_bytes: int, threshold: float) -> None:
        self.limit_bytes = limit_bytes
        self.threshold = threshold
        self.counts = {"ended": 0, "paused": 0, "admitted": 0, "ended by the kernel": 0}
        self.blamed: set[int] = set()
        """Tasks whose process was ended for its memory."""
        self.forget()

    def forget(self) -> None:
        """The daemon has ended, and all that it knew."""
        self.last: seen.MemoryRead | None = None
        self.least: dict[int, tuple[int, int]] = {}
        """By process: the task that was seen last, and the least that it had in it."""
        self.own: dict[int, int] = {}
        self.ended: dict[int, float] = {}
        self.ended_at = float("-inf")
        self.ended_tasks: dict[int, tuple[int, float]] = {}
        self.ended_functions: dict[int, float] = {}
        self.peaks: dict[int, float] = {}
        """What a function was certainly seen to have, less what may have been forgotten since."""
        self.line: list[Asked] = []
        self.inside: dict[int, LetIn] = {}
        self.is_paused = False
        self.may_begin = 0
        self.began_at = 0.0
        self._is_new = False

    @property
    def _guilty(self) -> float:
        return max(GUILTY_BYTES, GUILTY_SHARE * self.limit_bytes)

    def _row(self, index: int) -> seen.ProcessMemory | None:
        rows = () if self.last is None else self.last.processes
        return next((row for row in rows if row.index == index), None)

    def _grown(self, row: seen.ProcessMemory) -> int:
        """Certainly."""
        return self.own[row.index] - self.least[row.index][1]

    # ---- what it is told
    def see(self, world: FakeProcessMemory, event: seen.Event) -> None:
        """An event comes to the machine."""
        if isinstance(event, seen.MemoryRead):
            self._read(world.now, event)
        elif isinstance(event, seen.ProcessDied):
            self._died(world.now, event)
        elif isinstance(event, seen.Requested):
            body = event.body
            if isinstance(body, m.AdmitMemory):
                asked = Asked(event.index, event.request, body.function, body.attempt, world.now)
                self.line.append(asked)
            elif isinstance(body, m.ReleaseMemory):
                self._released(event.index, body)

    def _read(self, now: float, event: seen.MemoryRead) -> None:
        for row in event.processes:
            task, least = self.least.get(row.index, (-1, 0))
            own = row.own_bytes
            if event.is_first_look:
                self.least[row.index] = (row.task, own)
            elif row.is_actor:
                # Until it has its first method, it is nobody's.
                self.least[row.index] = (0, max(event.fresh_bytes, least if task >= 0 else own))
            else:
                self.least[row.index] = (row.task, min(least, own) if task == row.task else own)
            self.own[row.index] = own
            if row.function and row.task:
                grown = self.own[row.index] - self.least[row.index][1]
                self.peaks[row.function] = max(self.peaks.get(row.function, 0), grown)
        if event.is_first_look:
            return
        self.last, self._is_new = event, True
        self._pause(now, event)

    def _pause(self, now: float, event: seen.MemoryRead) -> None:
        share = event.used_bytes / event.limit_bytes
        is_ours = sum(row.own_bytes for row in event.processes) > OURS_SHARE * event.limit_bytes
        if not self.is_paused and share > self.threshold - PAUSE_BELOW and is_ours:
            self.is_paused, self.may_begin, self.began_at = True, 0, now
            self.counts["paused"] += 1
        elif self.is_paused and (share < self.threshold - RESUME_BELOW or not is_ours):
            self.is_paused = False
        if self.is_paused and not self.may_begin:
            runs = any(row.task and not row.is_blocked for row in event.processes)
            if not runs or now - self.began_at >= BEGIN_S:
                self.may_begin, self.began_at = 1, now

    def _died(self, now: float, event: seen.ProcessDied) -> None:
        self.line = [asked for asked in self.line if asked.index != event.index]
        for known in (self.inside, self.own, self.least, self.ended):
            known.pop(event.index, None)  # type: ignore[attr-defined]

    def _released(self, index: int, body: m.ReleaseMemory) -> None:
        inside = self.inside.get(index)
        if inside is not None:
            inside.count -= 1
            if not inside.count:
                del self.inside[index]
        if body.is_well:
            self.peaks[body.function] = self.peaks.get(body.function, 0) * 7 / 8
            self.ended_functions.pop(body.function, None)
            for key, (function, _) in list(self.ended_tasks.items()):
                if function == body.function:
                    del self.ended_tasks[key]

    # ---- what it does
    def ends(self, world: FakeProcessMemory, process: FakeProcess) -> None:
        """A process is killed for its memory."""
        row = self._row(process.index)
        if process.index in self.ended:
            return
        if row is None or self.last is None:
            raise Violation(
                f"process {process.index} is ended for its memory, which nobody has read"
            )
        before, self.ended[process.index] = dict(self.ended), world.now
        self.ended_at = world.now
        self.counts["ended"] += 1
        self.blamed.update(task.key for task in process.running)
        if row.function and row.task:
            self.ended_tasks[row.task] = (row.function, world.now)
            self.ended_functions[row.function] = world.now
        own = self.own[process.index]
        if not row.task and not row.is_actor:
            raise Violation(f"process {process.index} is ended for its memory, and runs nothing")
        if row.declared_bytes and own > max(row.declared_bytes, SMALL_BYTES):
            return
        if self.last.used_bytes <= self.threshold * self.limit_bytes:
            raise Violation(f"process {process.index} is ended for its memory, and there is enough")
        if own < self._guilty:
            raise Violation(f"process {process.index} is ended for {own} bytes")
        if any(
            world.now - at < REAP_S and index in world.processes for index, at in before.items()
        ):
            raise Violation(
                f"process {process.index} is ended, and the last one who was is not gone yet"
            )
        if row.declared_bytes:
            for other in self.last.processes:
                if self._is_offender(other):
                    raise Violation(
                        f"process {process.index} is ended, and it was process {other.index}"
                    )

    def _is_offender(self, row: seen.ProcessMemory) -> bool:
        """Certainly: it has asked for nothing, nobody has let it in, and it has grown."""
        runs = bool(row.task) or row.is_actor
        is_free_of_blame = row.declared_bytes or row.index in self.inside or row.index in self.ended
        return runs and not is_free_of_blame and self._grown(row) >= self._guilty

    def ended_by_kernel(self, process: FakeProcess) -> None:
        """Not by the daemon."""
        self.counts["ended by the kernel"] += 1
        self.blamed.update(task.key for task in process.running)

    def attaches(self, process: FakeProcess) -> None:
        """A process is given something to do."""
        if self.is_paused and self.may_begin < 1:
            raise Violation(f"process {process.index} begins, and too little memory is left")
        self.may_begin = max(0, self.may_begin - 1)

    def replied(self, world: World, index: int, request: int) -> None:
        """A request is answered: perhaps one for admission."""
        asked = next((a for a in self.line if (a.index, a.request) == (index, request)), None)
        process = world.processes.get(index)
        if asked is None:
            return
        if asked is not self.line[0]:
            raise Violation(f"process {index} is admitted before process {self.line[0].index}")
        self.line.remove(asked)
        self.counts["admitted"] += 1
        ended_at = self.ended_functions.get(asked.function)
        if ended_at is not None and asked.attempt > 1:
            pause_s = min(BACK_OFF_S * 2.0 ** (asked.attempt - 2), BACK_OFF_MOST_S)
            if world.now < ended_at + pause_s - 1e-9:
                raise Violation(f"process {index} is admitted so soon after its function was ended")
        if process is not None and process.running:
            self._lets_in(world, process, asked)

    def _lets_in(self, world: World, process: FakeProcess, asked: Asked) -> None:
        queue = world.queues.get(process.attached)
        has_declared = queue is not None and any(name == "memory" for name, _ in queue.amounts)
        needs = min(self.peaks.get(asked.function, 0), self.threshold * self.limit_bytes)
        is_again = process.index in self.inside
        if not has_declared and not is_again and self.last is not None:
            self._check_fits(world, asked, needs)
        task = process.running[-1].key
        own_needs = 0 if has_declared else int(needs)
        before = self.inside.get(process.index)
        count = 1 if before is None else before.count + 1
        self.inside[process.index] = LetIn(task, own_needs, world.now, count)

    def _check_fits(self, world: World, asked: Asked, needs: float) -> None:
        assert self.last is not None
        waiting = {each.index for each in self.line}
        beside = []
        for index, inside in self.inside.items():
            row = self._row(index)
            is_there = index in world.processes and index not in waiting
            is_busy = row is None or not row.is_blocked or world.now - inside.at < SETTLE_S / 2
            if index != asked.index and is_there and is_busy:
                beside.append((index, inside))
        if not any(self._is_certain(world, index, inside) for index, inside in beside):
            return
        room = (self.threshold - PAUSE_BELOW) * self.limit_bytes - self.last.used_bytes
        promised = sum(max(0, each.needs - self.own.get(i, 0)) for i, each in self.inside.items())
        if world.now - asked.since >= PATIENCE_S:
            promised = 0
        if needs + promised > room:
            raise Violation(
                f"process {asked.index} is admitted beside others: it needs {needs:.0f} bytes,"
                f" {promised} are promised, and there are {room:.0f}"
            )

    def _is_certain(self, world: World, index: int, inside: LetIn) -> bool:
        """It runs what it was let in for: it was seen there, and nothing is on its way."""
        row = self._row(index)
        has_it = any(task.key == inside.task for task in world.processes[index].running)
        return has_it and row is not None and row.task == inside.task and not row.is_blocked

    def begins(self, world: FakeProcessMemory, process: FakeProcess, task: FakeTask) -> None:
        """A function runs, and its worker has asked nobody."""
        function, at = self.ended_tasks.pop(task.key, (0, 0.0))
        is_late = world.now - at >= WAIT_MOST_S
        if function and process.actor is None and not is_late and task.attempt > 1:
            raise Violation(f"{task} was ended for its memory, and begins unasked")

    # ---- after it
    def look(self, world: World) -> None:
        """All commands that follow from an event have been carried out."""
        if not self._is_new or self.last is None:
            return
        self._is_new = False
        for row in self.last.processes:
            is_over = row.declared_bytes and self._grown(row) > max(row.declared_bytes, SMALL_BYTES)
            runs = row.task or row.is_actor
            if is_over and runs and row.index not in self.ended and row.index in world.processes:
                raise Violation(f"process {row.index} has more than it asked for, and goes on")
        if self.last.used_bytes <= self.threshold * self.limit_bytes:
            return
        if world.now - self.ended_at < REAP_S:
            return
        for row in self.last.processes:
            if self._is_offender(row):
                raise Violation(f"the node has too little memory, and process {row.index} goes on")


def check_ended_for_memory(world: World) -> None:
    """Who failed for his memory was ended for it."""
    for task in world.tasks.values():
        if task.state == "FAILED" and task.record.startswith(b"\x92"):
            name = records.unpack(task.record)[0]
            if name == "OutOfMemoryError" and task.key not in world.rules.blamed:
                raise Violation(f"{task} fails for its memory, and nobody has ended it for that")


def check_nothing_waits(world: World) -> None:
    """Everybody has left."""
    t = world.machine.tables
    left = {
        "waits for admission": t.memory.admissions.waiting,
        "admitted": t.memory.admissions.holding,
        "ended for memory": t.memory.ended,
        "what errors say of them": t.memory_facts,
        "workers that have not heard": t.memory_news.unheard,
        "who asked": world.rules.line,
    }
    for what, things in left.items():
        if things:
            raise Violation(f"{what} left: {things}")
    if t.memory.is_paused:
        raise Violation("nobody has anything, and admission is paused")
