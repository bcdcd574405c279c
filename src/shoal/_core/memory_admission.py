"""What functions need of memory, and who that needs much may run now.

The peak of each function is learned. A *heavy* function's tasks ask before they run, and are let in
first come, first served, when what is used, what those let in before may still take, and what this
one needs fit together, or when nobody else of them runs: what fits alone completes. Who was ended
for its memory waits longer each time, until it goes well.

1. A holder that waits for something itself keeps nobody out: it may wait for who asks.
2. A process that was let in is let in again: a parent that waits runs its children itself.
3. After ``PATIENCE_S`` what is free now is enough, whatever was promised.
4. If nobody was let in and nobody has ended for ``STUCK_S``, the first in line is let in whatever
   there is: who runs may wait for him in a way that nobody sees. If that was wrong the watch ends
   one of them, who began last, and says so.
5. The table of peaks is bounded; the one that was not used for longest goes.
"""

from __future__ import annotations

from collections import OrderedDict, deque

import msgspec

from shoal._core.events import ProcessMemory

PEAKS_MOST = 2000
READINGS = 8
HEAVY_BYTES = 32 << 20
PAUSE_BELOW = 0.02
"""So much below the threshold nothing new is let in."""
STUCK_S = 3600.0
"""Rarely enough that heavy tasks which take hours are not disturbed by attempts in vain."""
BACK_OFF_S = 0.2
BACK_OFF_MOST_S = 10.0
SETTLE_S = 2.0
"""Time to begin for who was let in: until it was seen to run it counts as running."""
PATIENCE_S = 30.0
"""After this, who waits for admission is let in if what is free now is enough."""


class Heavy(msgspec.Struct, frozen=True):
    """From now on this function has to be admitted."""

    function: int


class Admit(msgspec.Struct, frozen=True):
    """Who asked for admission may run."""

    index: int
    request: int


class Rules(msgspec.Struct, frozen=True):
    """What a node allows."""

    limit_bytes: int = 0
    """What there is; 0: nobody watches."""
    threshold: float = 0.95
    refresh_s: float = 0.25
    cpus: int = 1
    idle_s: float = 10.0
    """A worker that has had no task for so long is idle, also if it has a queue."""

    @property
    def heavy_bytes(self) -> int:
        """If one task on each CPU stays below this, half of the memory is not used."""
        return max(HEAVY_BYTES, self.limit_bytes // (2 * max(4, self.cpus)))


class Peak(msgspec.Struct):
    """What is known of a function."""

    bytes: int = 0
    runs: int = 0
    """From how many tasks that is known."""
    ends: int = 0
    """How often it was ended for its memory since it last went well."""
    ended_at: float = 0.0


class Watched:
    """What is known of one process."""

    __slots__ = ("base", "began_at", "last", "learned", "peak", "recent", "released")

    def __init__(self, seen: ProcessMemory, now: float, base: int) -> None:
        self.last = seen
        self.base = base
        """What it had before its present task; of an actor, before it was one."""
        self.recent: deque[int] = deque([base], maxlen=READINGS)
        self.began_at = now
        self.peak = 0
        self.learned = 0
        """The task from which its function's peak was learned last."""
        self.released = 0
        """The task that was seen last, if it has said since that it is over."""

    @property
    def grown(self) -> int:
        """Bytes since its present task began."""
        return max(0, self.last.own_bytes - self.base)

    @property
    def runs(self) -> bool:
        """It has a task, or lives as an actor."""
        return bool(self.last.task) or self.last.is_actor

    def is_idle_since(self, late: float) -> bool:
        """Whether nobody needs it: it has no queue, or has had no task since then."""
        return self.last.is_free or (not self.runs and self.began_at <= late)


class Waiter(msgspec.Struct, frozen=True):
    """Asks for admission."""

    index: int
    request: int
    function: int
    since: float
    declared: bool
    attempt: int = 1


class Holding(msgspec.Struct):
    """Was admitted."""

    need: int
    began_at: float
    count: int = 1
    has_run: bool = False
    """It was seen to run since; until then that it waits is what was seen before."""


class NodeUse:
    """What the node has in use."""

    __slots__ = ("limit_bytes", "used_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self.used_bytes = 0
        self.limit_bytes = limit_bytes


class Peaks:
    """What functions need."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self.rows: OrderedDict[int, Peak] = OrderedDict()

    def learn(self, function: int, peak: int, is_new: bool = True) -> list[Heavy]:
        """It was seen to have so much (``is_new``: for the first time in this task); says so if it
        is heavy from now on."""
        was_heavy = self.is_heavy(function)
        entry = self._entry(function)
        entry.runs += is_new
        entry.bytes = max(entry.bytes, peak)
        return [Heavy(function)] if self.is_heavy(function) and not was_heavy else []

    def ended(self, now: float, function: int, peak: int) -> list[Heavy]:
        """It was ended for its memory."""
        was_heavy = self.is_heavy(function)
        entry = self._entry(function)
        entry.bytes = max(entry.bytes, peak)
        entry.ends += 1
        entry.ended_at = now
        return [] if was_heavy else [Heavy(function)]

    def _entry(self, function: int) -> Peak:
        entry = self.rows.setdefault(function, Peak())
        self.rows.move_to_end(function)
        while len(self.rows) > PEAKS_MOST:
            self.rows.popitem(last=False)
        return entry

    def is_heavy(self, function: int) -> bool:
        """Whether it has to be admitted."""
        entry = self.rows.get(function)
        return entry is not None and (entry.ends > 0 or entry.bytes >= self._rules.heavy_bytes)

    def heavy(self) -> list[int]:
        """All that have to be."""
        return [function for function in self.rows if self.is_heavy(function)]

    def validate(self) -> None:
        """Assert what must hold."""
        assert len(self.rows) <= PEAKS_MOST


class Admissions:
    """Who was let in, and who waits for it."""

    def __init__(
        self, rules: Rules, use: NodeUse, peaks: Peaks, watched: dict[int, Watched]
    ) -> None:
        self._rules = rules
        self._use = use
        self._peaks = peaks
        self._watched = watched
        self.waiting: deque[Waiter] = deque()
        self.holding: dict[int, Holding] = {}
        self._moved_at = float("-inf")
        """When somebody was let in or had ended."""

    def serve(self, now: float) -> list[Admit]:
        """Let in who may."""
        out: list[Admit] = []
        while self.waiting and self._fits(now, self.waiting[0]):
            first = self.waiting.popleft()
            self._moved_at = now
            out.append(Admit(first.index, first.request))
            holding = self.holding.get(first.index)
            need = 0 if first.declared else self.need(first.function)
            if holding is None:
                self.holding[first.index] = Holding(need, now)
            else:
                holding.count += 1
                holding.need = max(holding.need, need)
                holding.began_at, holding.has_run = now, False
        return out

    def not_before(self, waiter: Waiter) -> float:
        """A next attempt of what was ended waits, longer each time."""
        entry = self._peaks.rows.get(waiter.function)
        if entry is None or not entry.ends or waiter.attempt < 2:
            return 0.0
        pause = BACK_OFF_S * 2.0 ** min(waiter.attempt - 2, 16)
        return entry.ended_at + min(pause, BACK_OFF_MOST_S)

    def waiter_of(self, index: int) -> Waiter | None:
        """What that process asks for and has not got."""
        return next((waiter for waiter in self.waiting if waiter.index == index), None)

    def need(self, function: int) -> int:
        """What it will take, as far as is known; never more than there is."""
        entry = self._peaks.rows.get(function)
        most = int(self._rules.threshold * self._use.limit_bytes)
        return 0 if entry is None else min(entry.bytes, most)

    def _fits(self, now: float, waiter: Waiter) -> bool:
        if now < self.not_before(waiter):
            return False
        if waiter.declared or waiter.index in self.holding:
            return True
        if not self._others(now, waiter.index):
            return True
        room = (self._rules.threshold - PAUSE_BELOW) * self._use.limit_bytes - self._use.used_bytes
        need = self.need(waiter.function)
        if now - waiter.since >= PATIENCE_S and need <= room:
            return True
        if now - max(waiter.since, self._moved_at) >= STUCK_S:
            return True
        return need + self._promised() <= room

    def see(self, row: ProcessMemory) -> None:
        """A reading has come."""
        holding = self.holding.get(row.index)
        if holding is not None and row.task and not row.is_blocked:
            holding.has_run = True

    def _is_waiting(self, now: float, each: Watched) -> bool:
        """Whether a heavy one waits for something itself."""
        holding = self.holding.get(each.last.index)
        if holding is not None and not holding.has_run and now - holding.began_at < SETTLE_S:
            return False
        return each.last.is_blocked

    def _others(self, now: float, index: int) -> list[int]:
        """Heavy ones that run, and do not wait for anything themselves."""
        waiting = {waiter.index for waiter in self.waiting}
        found = []
        for other, each in self._watched.items():
            if other == index or other in waiting:
                continue
            is_one = other in self.holding or self._runs_heavy(each)
            if is_one and not self._is_waiting(now, each):
                found.append(other)
        # Admitted just now, and not seen since.
        found += [o for o in self.holding if o != index and o not in self._watched]
        return found

    def _runs_heavy(self, each: Watched) -> bool:
        """It began before anybody knew that its function is heavy, or still runs."""
        is_running = each.last.task and each.last.task != each.released
        return bool(is_running) and self._peaks.is_heavy(each.last.function)

    def _promised(self) -> int:
        """What those that run may still take of what they were promised."""
        total = 0
        for index, holding in self.holding.items():
            each = self._watched.get(index)
            total += max(0, holding.need - (0 if each is None else each.grown))
        for index, each in self._watched.items():
            if index in self.holding or not each.runs:
                continue
            if each.last.declared_bytes:
                total += max(0, each.last.declared_bytes - each.grown)
            elif self._runs_heavy(each):
                total += max(0, self.need(each.last.function) - each.grown)
        return total

    def release(self, now: float, index: int, function: int, is_well: bool) -> None:
        """An admitted task is over."""
        self._moved_at = now
        holding = self.holding.get(index)
        if holding is not None:
            holding.count -= 1
            if not holding.count:
                del self.holding[index]
        entry = self._peaks.rows.get(function)
        each = self._watched.get(index)
        if each is not None and each.last.function == function:
            each.released = each.last.task
        if is_well and entry is not None:
            entry.ends = 0
            was_seen = each is not None and now - each.began_at >= self._rules.refresh_s
            if each is not None and was_seen and each.last.function == function:
                entry.bytes -= max(0, entry.bytes - each.peak) // 8

    def died(self, index: int) -> None:
        """The process is gone."""
        self.holding.pop(index, None)
        self.waiting = deque(waiter for waiter in self.waiting if waiter.index != index)

    def validate(self, workers: set[int]) -> None:
        """Assert what must hold."""
        assert all(holding.count > 0 and holding.need >= 0 for holding in self.holding.values())
        assert workers >= {*self.holding, *(waiter.index for waiter in self.waiting)}
