"""How much memory simulated processes have, and what the daemon reads of it.

A process has what a fresh one has, what its earlier tasks have left in it, and what its present
ones have taken (``Appetite``): that grows until half of a task's time is over. A function that the
daemon calls heavy asks before it runs, as in ``_runtime.heavy_functions``. Where memory ends, the
kernel ends whoever has the most.

A reading is what ``_runtime.daemon_process_memory`` would see. Faults make it false (``lie``) or
old (``is_stale``); a process that has just died has nothing. What the daemon decides is judged by
what it was told (``process_memory_checkers``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from shoal._base.config import NodeConfig
from shoal._core import commands as do
from shoal._core import events as seen
from shoal._proto import messages as m
from shoal.testing.sim.fakes import Appetite, FakeProcess, FakeTask
from shoal.testing.sim.process_memory_checkers import MemoryRules
from shoal.testing.sim.streams import FakeStreams

FRESH_BYTES = 16 << 20
BITES = 4
"""Steps in which a task's memory grows, as far as the kernel looks."""


@dataclass
class Meal:
    """What a running task takes."""

    appetite: Appetite
    began_at: float
    for_s: float

    def bytes_at(self, now: float) -> int:
        """What it has by then."""
        share = 1.0 if self.for_s <= 0 else min(1.0, (now - self.began_at) / self.for_s)
        return int(self.appetite.grows_bytes * share)


@dataclass
class ProcessSize:
    """One process, as far as its memory goes."""

    kept: int = 0
    heavy: set[int] = field(default_factory=set)
    """Functions that it knows to be heavy."""
    waiting: set[int] = field(default_factory=set)
    """Tasks that wait for admission."""
    admitted: dict[int, int] = field(default_factory=dict)
    """Task that was let in -> its function."""


class FakeProcessMemory(FakeStreams):
    """Processes that grow, a kernel that ends them, and readings."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.rules = MemoryRules(0, 0.0)
        self.limit_bytes = 0
        self.elsewhere_bytes = 0
        """What others on the machine have."""
        self.lie = 1.0
        """Readings are so much too large."""
        self.is_stale = False
        """Readings are those of before."""
        self.sizes: dict[int, ProcessSize] = {}
        self.meals: dict[int, Meal] = {}
        self._seen_own: dict[int, int] = {}

    def begin_watch(self, config: NodeConfig) -> None:
        """The node has so much, or nobody watches."""
        self.limit_bytes = config.memory_bytes
        self.rules = MemoryRules(config.memory_bytes, config.memory_threshold)

    def forget(self) -> None:
        super().forget()
        self.sizes.clear()
        self.meals.clear()
        self._seen_own.clear()
        self.rules.forget()

    def size_of(self, process: FakeProcess) -> ProcessSize:
        """What is known of its memory."""
        return self.sizes.setdefault(process.index, ProcessSize())

    def own_bytes(self, process: FakeProcess) -> int:
        """What it has now."""
        meals = (self.meals.get(task.key) for task in process.running)
        eaten = sum(meal.bytes_at(self.now) for meal in meals if meal is not None)
        return FRESH_BYTES + self.size_of(process).kept + eaten

    # ---- around the function
    def load(
        self, process: FakeProcess, task: FakeTask, attempt: int, go_on: Callable[[], None]
    ) -> None:
        def loaded() -> None:
            appetite = task.script.appetite
            if appetite is None or not self.limit_bytes:
                go_on()
            elif process.actor is None and appetite.function in self.size_of(process).heavy:
                self._ask_admission(process, task, attempt, appetite, go_on)
            else:
                self.rules.begins(self, process, task)
                self._eat(task, appetite)
                go_on()

        super().load(process, task, attempt, loaded)

    def _ask_admission(
        self,
        process: FakeProcess,
        task: FakeTask,
        attempt: int,
        appetite: Appetite,
        go_on: Callable[[], None],
    ) -> None:
        size, script = self.size_of(process), task.script
        was_deaf, script.is_deaf = script.is_deaf, True  # nothing interrupts who asks
        asked_at = self.now
        size.waiting.add(task.key)
        self._lend(process)

        def answered(body: m.Message) -> None:
            size.waiting.discard(task.key)
            size.admitted[task.key] = appetite.function
            process.has_resumed = process.has_resumed or process.is_blocked
            process.is_blocked = False
            if task.told is None and self.disturbed_at < asked_at:
                script.is_deaf = was_deaf
            self._eat(task, appetite)
            go_on()

        self.request(process, m.AdmitMemory(appetite.function, attempt), answered)

    def _eat(self, task: FakeTask, appetite: Appetite) -> None:
        for_s = task.script.duration_s / 2
        self.meals[task.key] = Meal(appetite, self.now, for_s)
        for bite in range(1, BITES + 1):
            self.after(for_s * bite / BITES, self.kernel_looks)

    def function_over(self, process: FakeProcess, task: FakeTask, is_well: bool) -> None:
        meal = self.meals.pop(task.key, None)
        if meal is None:
            return
        size = self.size_of(process)
        size.kept += meal.appetite.keeps_bytes
        function = size.admitted.pop(task.key, None)
        if function is not None:
            self.request(process, m.ReleaseMemory(function, is_well))

    def _assigned(self, process: FakeProcess, body: m.Message) -> None:
        if isinstance(body, m.Assignment):
            self.size_of(process).heavy.update(body.heavy)
        super()._assigned(process, body)

    def heard_heavy(self, process: FakeProcess, body: m.HeavyFunctions) -> None:
        """News of the daemon."""

        def hear() -> None:
            self.size_of(process).heavy.update(body.functions)
            self.request(process, m.HeavyHeard())

        self.act(process, self.delay(20e-6), hear)

    def die(self, process: FakeProcess, code: int | None = None, signal: int | None = None) -> None:
        if self.processes.get(process.index) is process:
            for task in process.running:
                self.meals.pop(task.key, None)
            self.sizes.pop(process.index, None)
        super().die(process, code, signal)

    # ---- what is seen
    def do_readmemory(self, command: do.ReadMemory) -> None:
        rows = tuple(self._row(wanted) for wanted in command.workers)
        if command.is_first_look:
            self._pending.append(seen.MemoryRead(0, 1, rows, is_first_look=True))
            return
        self._seen_own = {row.index: row.own_bytes for row in rows}
        used = self.elsewhere_bytes + sum(max(0, row.own_bytes - FRESH_BYTES) for row in rows)
        self._pending.append(seen.MemoryRead(used, self.limit_bytes, rows, FRESH_BYTES))

    def _row(self, wanted: do.MemoryOf) -> seen.ProcessMemory:
        process = self.processes.get(wanted.index)
        own, task, function = 0, 0, 0
        if process is not None:
            own = int(self.own_bytes(process) * self.lie)
            if self.is_stale:
                own = self._seen_own.get(wanted.index, FRESH_BYTES)
            running = process.running[-1] if process.running else None
            task = 0 if running is None else running.key
            appetite = None if running is None else running.script.appetite
            if appetite is not None and own >= wanted.exact_bytes and not wanted.is_actor:
                function = appetite.function
        return seen.ProcessMemory(
            wanted.index,
            own,
            task,
            function,
            process is not None and process.is_blocked,
            wanted.declared_bytes,
            wanted.is_actor,
            wanted.can_return,
            wanted.is_free,
        )

    def see(self, event: seen.Event) -> None:
        """The machine is about to be told."""
        if self.limit_bytes:
            self.rules.see(self, event)

    # ---- ends
    def kernel_looks(self) -> None:
        """Nobody gets memory that is not there."""
        workers = [each for each in self.processes.values() if not each.is_driver]
        sizes = {each.index: self.own_bytes(each) for each in workers}
        if not workers or self.elsewhere_bytes + sum(sizes.values()) <= self.limit_bytes:
            return
        largest = max(workers, key=lambda each: (sizes[each.index], each.index))
        if sizes[largest.index] > 2 * FRESH_BYTES:
            self.end_by_kernel(largest)

    def end_by_kernel(self, process: FakeProcess) -> None:
        """SIGKILL for want of memory."""
        process.kernel_oom = "simulated"
        self.rules.ended_by_kernel(process)
        self.die(process, signal=9)

    def is_ended_for_memory(self, process: FakeProcess) -> bool:
        """Whether the daemon says that this is why it kills it."""
        raise NotImplementedError

    def do_kill(self, command: do.Kill) -> None:
        process = self.processes.get(command.index)
        if process is not None and self.limit_bytes and self.is_ended_for_memory(process):
            self.rules.ends(self, process)
        super().do_kill(command)

    def do_assign(self, command: do.Assign) -> None:
        process = self.processes.get(command.index)
        if process is not None and self.limit_bytes and command.queue:
            self.rules.attaches(process)
        super().do_assign(command)
