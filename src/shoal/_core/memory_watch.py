"""Who uses how much memory, who must wait for it, and who has to go: ``step(now, seen)``.

A reading says how much of the node's memory is in use and how much of its own each process of
interest has (values in node memory are nobody's own). It is compared with three things, in this
order of defence::

    used > pause_share      ``Pause``: nothing new begins, idle workers go (``Trim``), largest first
    grown > declared        ``End``, whatever the node has: ``memory=`` is a promise
    used > threshold        ``End`` of the offender, one at a time, until the next reading is better

*Grown* is what a process has more than before its present task. The *offender* is who has grown
most beyond what he asked for or, if he asked for nothing, beyond what his function usually needs;
among those that have done so about as much (half of the largest at least), who can be tried again
comes first, then who began last. Who stays within that is a bystander, and is never ended while
there is an offender.

What functions need is learned on the way, and who needs much has to be admitted
(``memory_admission``).

1. A pause never stops the last one: if nothing runs, or once per second, one more may begin.
2. Without a reading nothing is decided; ``next_at`` is None while there is nobody to look at.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from shoal._core.events import MemoryRead, ProcessMemory
from shoal._core.memory_admission import (
    PAUSE_BELOW,
    Admissions,
    Admit,
    Heavy,
    NodeUse,
    Peaks,
    Rules,
    Waiter,
    Watched,
)

SMALL_BYTES = 16 << 20
"""Growth below this says nothing, and is not worth a worker's end."""
GUILTY_BYTES = 32 << 20
GUILTY_SHARE = 0.1
"""Of the node's memory: nobody is ended for less."""
OURS_SHARE = 0.3
"""Pausing helps only if workers have at least so much of the node's memory."""
IDLE_SHARE = 0.25
"""So much of it may idle workers keep."""
RESUME_BELOW = 0.05
GROWTH_PER_S = 4 << 30
"""How quickly a process may grow, for when to look again."""
LOOK_LEAST_S = 0.02
LOOK_EACH_S = 0.002
"""Fifty times what one process takes: looking stays below 2 % of a core."""
IDLE_LOOK_MOST_S = 1.0
REAP_S = 0.5
"""Time for the memory of somebody who was ended to be free."""
BEGIN_S = 1.0
"""A pause lets one more begin after this."""


class Pause(msgspec.Struct, frozen=True):
    """Nothing new may begin (or again may, if not ``on``)."""

    on: bool


class Trim(msgspec.Struct, frozen=True):
    """This idle worker is to end; one that has a queue gives that back first."""

    index: int


class End(msgspec.Struct, frozen=True):
    """This process is to be killed for its memory."""

    index: int
    kind: str
    """limit: it has more than it asked for; node: the node has too little; kernel: the kernel was
    quicker, and it was no limit of its own."""
    task: int
    function: int
    limit_bytes: int
    peak_bytes: int
    used_bytes: int
    others: tuple[tuple[int, int], ...] = ()
    """(index, bytes of its own) of who else was there, the largest first."""


Decision = Pause | Trim | End | Heavy | Admit


class MemoryWatch:
    """All of it."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.use = NodeUse(rules.limit_bytes)
        self.is_paused = False
        self.paused_since = 0.0
        self.may_begin = 0
        """How many more may begin although it is paused."""
        self.peaks = Peaks(rules)
        self.watched: dict[int, Watched] = {}
        self.admissions = Admissions(rules, self.use, self.peaks, self.watched)
        self.ended: dict[int, End] = {}
        """Who was ended, until its death is seen."""
        self.limited: set[int] = set()
        """Who was looked at before it began with something that has asked for memory."""
        self.next_at: float | None = None
        self._idle_looks = 0
        self._began_at = 0.0
        self._ended_at = float("-inf")

    @property
    def is_on(self) -> bool:
        """Whether anything is watched at all."""
        return self.rules.limit_bytes > 0 and self.rules.refresh_s > 0

    def row(self) -> dict[str, object]:
        """For people; ``used_bytes`` None: nobody has had to look yet."""
        return {
            "is_watched": self.is_on,
            "used_bytes": self.use.used_bytes or None,
            "limit_bytes": self.use.limit_bytes,
            "threshold": self.rules.threshold,
            "is_paused": self.is_paused,
            "waiting": len(self.admissions.waiting),
            "heavy": len(self.peaks.heavy()),
        }

    # ---- one reading
    def step(self, now: float, seen: MemoryRead) -> list[Decision]:
        """What follows from it; plans the next one."""
        self.use.used_bytes, self.use.limit_bytes = seen.used_bytes, seen.limit_bytes
        known = {row.index for row in seen.processes}
        for index in [index for index in self.watched if index not in known]:
            del self.watched[index]
        out: list[Decision] = []
        for row in seen.processes:
            self.admissions.see(row)
            out += self._take_in(now, row, seen.fresh_bytes)
        out += self._pause(now)
        out += self._trim(now, seen.fresh_bytes)
        out += self._enforce(now)
        if self.use.used_bytes > self.rules.threshold * self.use.limit_bytes:
            out += self._relieve(now)
        out += self.admissions.serve(now)
        self._plan(now)
        return out

    def _take_in(self, now: float, row: ProcessMemory, fresh: int) -> list[Decision]:
        known = self.watched.get(row.index)
        if known is None:
            base = fresh if row.own_bytes < 0 else min(fresh, row.own_bytes)
            known = self.watched[row.index] = Watched(row, now, base)
        if row.own_bytes < 0:
            # Idle, and not read: as it was.
            row = msgspec.structs.replace(row, own_bytes=max(known.base, known.last.own_bytes))
        out: list[Decision] = []
        if row.task != known.last.task and not row.is_actor:
            known.base = min(known.recent)
            known.began_at, known.peak = now, 0
        if not row.is_actor:
            # What an earlier task had is gone: it was still there when this one was seen first.
            known.base = min(known.base, row.own_bytes)
        known.recent.append(row.own_bytes)
        known.last = row
        known.peak = max(known.peak, known.grown)
        if row.function and row.task and known.peak >= SMALL_BYTES:
            out += self.peaks.learn(row.function, known.peak, known.learned != row.task)
            known.learned = row.task
        return out

    def look_first(self, now: float, seen: MemoryRead) -> None:
        """What some have before they begin: only what they take beyond it counts."""
        for row in seen.processes:
            self.watched[row.index] = Watched(row, now, max(0, row.own_bytes))

    # ---- pausing
    def _ours(self) -> int:
        return sum(each.last.own_bytes for each in self.watched.values())

    def _pause(self, now: float) -> list[Decision]:
        share = self.use.used_bytes / max(1, self.use.limit_bytes)
        pause_at = self.rules.threshold - PAUSE_BELOW
        out: list[Decision] = []
        if not self.is_paused:
            if share > pause_at and self._ours() > OURS_SHARE * self.use.limit_bytes:
                self.is_paused, self.paused_since, self.may_begin = True, now, 0
                self._began_at = now
                out.append(Pause(True))
        elif share < self.rules.threshold - RESUME_BELOW or (
            self._ours() <= OURS_SHARE * self.use.limit_bytes
        ):
            self.is_paused = False
            out.append(Pause(False))
        if self.is_paused:
            runs = any(w.last.task and not w.last.is_blocked for w in self.watched.values())
            if not self.may_begin and (not runs or now - self._began_at >= BEGIN_S):
                self.may_begin, self._began_at = 1, now
        return out

    def begins(self) -> bool:
        """Whether one more may begin now; counts it."""
        if not self.is_paused:
            return True
        if self.may_begin:
            self.may_begin -= 1
            return True
        return False

    def _trim(self, now: float, fresh: int) -> list[Decision]:
        late = now - (BEGIN_S if self.is_paused else self.rules.idle_s)
        idle = [w for w in self.watched.values() if w.is_idle_since(late)]
        idle = [w for w in idle if w.last.own_bytes - fresh >= SMALL_BYTES]
        idle.sort(key=lambda w: w.last.own_bytes, reverse=True)
        kept = sum(w.last.own_bytes for w in idle)
        most = 0 if self.is_paused else int(IDLE_SHARE * self.use.limit_bytes)
        out: list[Decision] = []
        for each in idle:
            if kept <= most:
                break
            kept -= each.last.own_bytes
            out.append(Trim(each.last.index))
        return out

    # ---- ending
    def _enforce(self, now: float) -> list[Decision]:
        """Those that have more than they asked for."""
        out: list[Decision] = []
        for each in list(self.watched.values()):
            declared = each.last.declared_bytes
            is_over = declared and each.runs and each.grown > max(declared, SMALL_BYTES)
            if is_over and each.last.index not in self.ended:
                out += self._end(now, each, "limit", declared)
        return out

    def _relieve(self, now: float) -> list[Decision]:
        """The node has too little: the offender, one at a time."""
        if now - self._ended_at < REAP_S and self.ended:
            return []
        victim = self.offender()
        if victim is None:
            return []
        return self._end(now, victim, "node", int(self.rules.threshold * self.use.limit_bytes))

    def offender(self) -> Watched | None:
        """Who has to go if somebody has to."""
        least = max(GUILTY_BYTES, GUILTY_SHARE * self.use.limit_bytes)
        running = [w for w in self.watched.values() if w.runs and w.last.index not in self.ended]
        guilty = [(self.excess(w), w) for w in running]
        guilty = [(excess, w) for excess, w in guilty if excess >= least]
        if not guilty:
            # All keep to what they usually need, and that is too much together.
            guilty = [(w.grown, w) for w in running if w.grown >= least]
        if not guilty:
            return None
        most = max(excess for excess, _ in guilty)
        near = [w for excess, w in guilty if 2 * excess >= most]
        return max(near, key=lambda w: (w.last.can_return, w.began_at, w.last.index))

    def excess(self, watched: Watched) -> int:
        """By how much it has grown beyond what it asked for, or its function usually needs."""
        allowed = watched.last.declared_bytes
        if not allowed:
            entry = self.peaks.rows.get(watched.last.function)
            if (
                entry is not None
                and not entry.ends
                and watched.last.index in self.admissions.holding
            ):
                allowed = self.admissions.holding[watched.last.index].need
        return watched.grown - allowed

    def _end(self, now: float, victim: Watched, kind: str, limit: int) -> list[Decision]:
        row = victim.last
        self._ended_at = now
        others = [
            (w.last.index, w.last.own_bytes)
            for w in self.watched.values()
            if w.last.index != row.index
        ]
        others.sort(key=lambda pair: pair[1], reverse=True)
        end = End(
            row.index,
            kind,
            row.task,
            row.function,
            limit,
            max(victim.peak, victim.grown),
            self.use.used_bytes,
            tuple(others),
        )
        self.ended[row.index] = end
        out: list[Decision] = [end]
        if row.function and not row.is_actor:
            # First, so that it is known before the next attempt is handed on.
            out = [*self.peaks.ended(now, row.function, victim.peak), *out]
        return out

    def killed(
        self, now: float, index: int, what: tuple[int, int], limit: int = 0, peak: int = 0
    ) -> list[Decision]:
        """The kernel has ended it for want of memory, if ``limit``: of what it asked for; ``what``
        is (task, function), function 0: an actor."""
        task, function = what
        each = self.watched.get(index)
        seen = peak if each is None else max(each.peak, each.grown, peak)
        others = [(w.last.index, w.last.own_bytes) for w in self.watched.values()]
        others = [pair for pair in others if pair[0] != index]
        others.sort(key=lambda pair: pair[1], reverse=True)
        use = self.use
        self.ended[index] = End(
            index,
            "limit" if limit else "kernel",
            task,
            function,
            limit or use.limit_bytes,
            seen,
            use.used_bytes,
            tuple(others),
        )
        return [*self.peaks.ended(now, function, seen)] if function and self.is_on else []

    # ---- admission
    def ask(self, now: float, waiter: Waiter) -> list[Decision]:
        """A heavy task is about to run."""
        self.admissions.waiting.append(waiter)
        return self._serve(now)

    def release(self, now: float, index: int, function: int, is_well: bool) -> list[Decision]:
        """An admitted task is over."""
        self.admissions.release(now, index, function, is_well)
        return self._serve(now)

    def _serve(self, now: float) -> list[Decision]:
        out: list[Decision] = [*self.admissions.serve(now)]
        if self.admissions.waiting:
            at = now + self.rules.refresh_s
            self.next_at = at if self.next_at is None else min(self.next_at, at)
        return out

    def died(self, now: float, index: int) -> End | None:
        """The process is gone; why, if it was ended here."""
        self.watched.pop(index, None)
        self.limited.discard(index)
        self.admissions.died(index)
        if self.is_on and (self.admissions.waiting or self.is_paused):
            self.next_at = now
        return self.ended.pop(index, None)

    # ---- when to look
    def begin(self, now: float) -> None:
        """Somebody may use memory from now on."""
        if self.next_at is None and self.is_on:
            self._idle_looks = 0
            self.next_at = now + LOOK_LEAST_S

    def _plan(self, now: float) -> None:
        """The less is left, the sooner."""
        rules = self.rules
        if not self.watched and not self.admissions.waiting and not self.is_paused:
            self.next_at = None
            return
        busy = [w for w in self.watched.values() if w.last.task]
        if not busy and not self.is_paused and not self.admissions.waiting:
            self._idle_looks += 1
            pause = rules.refresh_s * 2.0 ** min(8, self._idle_looks // 8)
            self.next_at = now + min(pause, max(IDLE_LOOK_MOST_S, rules.refresh_s))
            return
        self._idle_looks = 0
        least = max(LOOK_LEAST_S, len(self.watched) * LOOK_EACH_S)
        left = [rules.threshold * self.use.limit_bytes - self.use.used_bytes]
        left += [w.last.declared_bytes - w.grown for w in busy if w.last.declared_bytes]
        soon = max(0.0, min(left)) / GROWTH_PER_S
        self.next_at = now + max(least, min(rules.refresh_s, soon))

    def validate(self, workers: Iterable[int]) -> None:
        """Assert the invariants."""
        living = set(workers)
        self.peaks.validate()
        self.admissions.validate(living)
        assert living >= set(self.ended)
        assert self.next_at is None or self.is_on
