"""Simulated generators: items that are yielded while the task runs, and whoever reads them.

What ``_runtime.streams`` does, naively. The items of a stream are values of node memory that the
stream holds until its consumer takes them. With a limit the producer sleeps while so many are not
taken yet. A producer that is tried again begins anew and yields nothing a second time; a consumer
who lets go ends it, and what he has not seen is freed.

Rules, looked at from outside:

* **In order, each once, exact**: who reads to the end of what went well has seen all items.
* **Bounded** (``check_limit``): never more items wait for their consumer than the limit says.
* **Nothing stays**: what nobody has seen goes with the stream (``value_checkers``).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field

from shoal.testing.sim import value_checkers
from shoal.testing.sim.checkers import Violation
from shoal.testing.sim.data import FULL, FakeData, content_of
from shoal.testing.sim.fakes import FakeProcess, FakeTask
from shoal.testing.sim.room import FakeValue, Wish


@dataclass(eq=False)
class FakeStream:
    """What node memory knows of one stream."""

    items: list[FakeValue] = field(default_factory=list)
    """Those that were yielded, in order."""
    taken: int = 0
    is_dropped: bool = False
    is_full: bool = False
    """Its producer sleeps until one is taken."""
    readers: list[Callable[[], None]] = field(default_factory=list)
    producers: list[Callable[[], None]] = field(default_factory=list)

    def ring(self, sleepers: list[Callable[[], None]]) -> None:
        """Whoever sleeps looks again."""
        woken = list(sleepers)
        sleepers.clear()
        for go_on in woken:
            go_on()


class FakeStreams(FakeData):
    """Workers that yield."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.all_streams: dict[int, FakeStream] = {}
        self.stream_counts = dict.fromkeys(("yielded", "read", "slept", "dropped"), 0)
        """Items that were yielded and read; how often a producer slept, and a consumer let go."""

    def stream_of(self, task: FakeTask) -> FakeStream:
        """Its stream; it lives as long as node memory."""
        return self.all_streams.setdefault(task.key, FakeStream())

    # ---- its producer
    def must_sleep(self, task: FakeTask) -> bool:
        """Its consumer has not taken enough for another item."""
        stream, limit = self.stream_of(task), task.script.limit
        return bool(limit) and len(stream.items) - stream.taken >= limit

    def produce(
        self, process: FakeProcess, task: FakeTask, attempt: int, done: Callable[[], None]
    ) -> None:
        script, stream = task.script, self.stream_of(task)
        pause_s = script.duration_s / (2 * len(script.sizes))
        owner = (process.index, task.key)

        def awake(number: int) -> None:
            self.act(process, self.delay(30e-6), lambda: go_on(number))

        def go_on(number: int) -> None:
            if not self._is_running(process, task, attempt):
                return
            if number == len(script.sizes) // 2 and attempt <= script.crashes:
                self.die(process, signal=11)
            elif number == len(script.sizes):
                done()
            elif number < len(stream.items):  # its consumer has it already
                self.act(process, 0.0, lambda: go_on(number + 1))
            elif self.must_sleep(task):
                stream.is_full = True
                self.stream_counts["slept"] += 1
                stream.producers.append(functools.partial(awake, number))
            else:
                content = content_of(task.key, number, ())
                value = FakeValue(self.new_key(), script.sizes[number], content, content)
                told = lambda text: self.act(process, 0.0, lambda: ready(value, text))  # noqa: E731
                self.values.ask_room(Wish(owner, told, value.size, value))

        def ready(value: FakeValue, problem: str) -> None:
            if not self._is_running(process, task, attempt):
                return
            if problem:
                self._finish(process, task, "FAILED", FULL)
                return
            self.values.add(value)
            self.values.hold(value)
            self.values.seal_here(value, owner, None)
            stream.items.append(value)
            self.stream_counts["yielded"] += 1
            check_limit(task, stream)
            if stream.is_dropped:
                self.values.hold(value, -1)
            stream.ring(stream.readers)
            number = len(stream.items)
            self.act(process, pause_s, lambda: go_on(number))

        go_on(0)

    def seal(self, task: FakeTask, state: str, record: bytes) -> None:
        super().seal(task, state, record)
        if task.script.is_stream:
            stream = self.stream_of(task)
            stream.producers.clear()
            stream.ring(stream.readers)

    # ---- its consumer
    def take(self, task: FakeTask) -> FakeValue:
        """The next item, which its consumer holds from now on."""
        stream = self.stream_of(task)
        value = stream.items[stream.taken]
        stream.taken += 1
        stream.is_full = False
        stream.ring(stream.producers)
        return value

    def drop_stream(self, task: FakeTask) -> None:
        """Its consumer lets go: what he has not seen is freed, and the daemon hears of it."""
        stream = self.stream_of(task)
        if stream.is_dropped:
            return
        stream.is_dropped = True
        for value in stream.items[stream.taken :]:
            self.values.hold(value, -1)
        self.drop_last_handle(task.key)

    def die(self, process: FakeProcess, code: int | None = None, signal: int | None = None) -> None:
        is_alive = self.processes.get(process.index) is process
        super().die(process, code, signal)
        for key in process.streams if is_alive else ():
            self.drop_stream(self.tasks[key])

    def forget(self) -> None:
        super().forget()
        self.all_streams.clear()


class Consumer:
    """A driver that reads a stream, to its end or for a while."""

    def __init__(
        self, world: FakeStreams, process: FakeProcess, task: FakeTask, most: int, pause_s: float
    ) -> None:
        self._world, self._process, self._task = world, process, task
        self._most = most
        """Items after which it has enough."""
        self._pause_s = pause_s
        self._looks = 0
        process.streams.append(task.key)

    def go_on(self) -> None:
        """Read the next one."""
        world, process, task = self._world, self._process, self._task
        if process.index not in world.processes:
            return
        stream = world.stream_of(task)
        if self._most <= stream.taken and not task.is_over:
            world.stream_counts["dropped"] += 1
            self._let_go()
        elif stream.taken < len(stream.items):
            self._read(world.take(task))
        elif task.is_over:
            check_end(task, stream)
            self._let_go()
        else:
            stream.readers.append(lambda: world.act(process, world.delay(30e-6), self.go_on))

    def _read(self, value: FakeValue) -> None:
        world, process = self._world, self._process
        world.handles.setdefault(process.index, []).append(value)
        self._looks += 1
        owner = (process.index, -(self._task.key * 1000 + self._looks))
        number = world.stream_of(self._task).taken - 1

        def there(problem: str) -> None:
            if process.index not in world.processes:
                return
            if not problem and not value.record:
                if value.expected != content_of(self._task.key, number, ()):
                    raise Violation(f"task {self._task.key} has yielded another item {number}")
                value_checkers.check_read(value)
                world.stream_counts["read"] += 1
            world.act(process, world.delay(self._pause_s), done)

        def done() -> None:
            world.values.unpin(value, owner)
            if value in world.handles.get(process.index, ()):
                world.drop_ref(process, value)
            self.go_on()

        world.values.read(value, owner, there)

    def _let_go(self) -> None:
        self._process.streams.remove(self._task.key)
        self._world.drop_stream(self._task)


def check_limit(task: FakeTask, stream: FakeStream) -> None:
    """An item was yielded."""
    waiting = len(stream.items) - stream.taken
    if task.script.limit and waiting > task.script.limit:
        raise Violation(f"{waiting} items of task {task.key} wait, {task.script.limit} may")
    if len(stream.items) > len(task.script.sizes):
        raise Violation(f"task {task.key} has yielded {len(stream.items)} items")


def check_end(task: FakeTask, stream: FakeStream) -> None:
    """Its consumer has read all there is, and hears that it is over."""
    if task.state == "DONE" and stream.taken != len(task.script.sizes):
        raise Violation(f"{stream.taken} items of task {task.key} were all there was")
