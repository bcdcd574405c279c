"""Simulated tasks that read values and make values: what a worker does around its function.

Before it runs, a task reads its arguments (one that is not in memory is waited for, and the task's
CPU is lent meanwhile); afterwards it asks for room for its results. What a process has asked for
and looked at goes with the attempt, its end or the death of its process.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

from shoal._core import commands as do
from shoal.testing.sim import value_checkers
from shoal.testing.sim.fakes import FakeProcess, FakeTask, Script
from shoal.testing.sim.rebuilds import FakeRebuilds
from shoal.testing.sim.room import FakeValue, Wish
from shoal.testing.sim.starts import FakeStarts

FULL = b"full"
INPUT = b"input"


def content_of(function: int, number: int, inputs: Sequence[int]) -> int:
    """What a task makes of its arguments."""
    return zlib.crc32(repr((function, number, *inputs)).encode())


class FakeData(FakeStarts):
    """Workers that work on values."""

    values: FakeRebuilds
    handles: dict[int, list[FakeValue]]
    """What each driver has refs to."""

    def submit_data(
        self, process: FakeProcess, queue: int, script: Script, max_retries: int
    ) -> FakeTask:
        """A driver submits a task on values; it has refs to the results."""
        for value in script.inputs:
            self.values.hold(value)
        for value in script.outputs:
            self.values.add(value)
            self.values.hold(value, 2)
            self.handles.setdefault(process.index, []).append(value)
        return self.submit(queue, process.job, script, max_retries)

    # ---- around the function
    def load(
        self, process: FakeProcess, task: FakeTask, attempt: int, go_on: Callable[[], None]
    ) -> None:
        left = list(task.script.inputs)

        def next_one() -> None:
            if not self._is_running(process, task, attempt):
                return
            if not left:
                go_on()
                return
            value = left.pop(0)
            is_there = value.is_sealed and not value.is_away
            if not is_there:
                self._lend(process)

            def there(problem: str) -> None:
                self.act(process, self.delay(20e-6), lambda: checked(value, problem))

            self.values.read(value, (process.index, task.key), there)

        def checked(value: FakeValue, problem: str) -> None:
            if not self._is_running(process, task, attempt):
                return
            process.has_resumed = process.has_resumed or process.is_blocked
            process.is_blocked = False
            if problem or value.record:
                self._finish(process, task, "FAILED", FULL if problem else INPUT)
                return
            value_checkers.check_read(value)
            self.values.counts["read"] += 1
            next_one()

        next_one()

    def _lend(self, process: FakeProcess) -> None:
        process.is_blocked = True
        if self.is_starving:
            self.bell()

    def keep(
        self, process: FakeProcess, task: FakeTask, attempt: int, done: Callable[[], None]
    ) -> None:
        """Ask for room for each of its results, then write them all."""
        outputs = task.script.outputs
        left = list(outputs)
        owner = (process.index, task.key)

        def next_one(problem: str) -> None:
            if not self._is_running(process, task, attempt):
                return
            if problem:
                self._finish(process, task, "FAILED", FULL)
            elif left:
                value = left.pop(0)
                told = lambda text: self.act(process, 0.0, lambda: next_one(text))  # noqa: E731
                self.values.ask_room(Wish(owner, told, value.size, value))
            else:
                self._write(task, owner)
                done()

        next_one("")

    def _write(self, task: FakeTask, owner: tuple[int, int]) -> None:
        if not task.script.outputs:
            return
        read = [value.content for value in task.script.inputs]
        recipe = self.values.recipe_for(task)
        for number, value in enumerate(task.script.outputs):
            value.content = content_of(task.script.function, number, read)
            self.values.seal_here(value, owner, recipe)

    # ---- ends
    def seal(self, task: FakeTask, state: str, record: bytes) -> None:
        super().seal(task, state, record)
        script = task.script
        if not script.inputs and not script.outputs and not script.is_stream:
            return
        self.values.gone(lambda owner: owner[1] == task.key)
        for value in script.outputs:
            if not value.is_sealed:
                self.values.seal(value, record or INPUT)
            self.values.hold(value, -1)
        for value in script.inputs:
            self.values.hold(value, -1)
        self.values.ended(task)

    def die(self, process: FakeProcess, code: int | None = None, signal: int | None = None) -> None:
        is_alive = self.processes.get(process.index) is process
        super().die(process, code, signal)
        if is_alive:
            self.values.gone(lambda owner: owner[0] == process.index)
            for value in self.handles.pop(process.index, ()):
                self.values.hold(value, -1)

    def drop_ref(self, process: FakeProcess, value: FakeValue) -> None:
        """A driver lets go of a value."""
        self.handles[process.index].remove(value)
        self.values.hold(value, -1)

    def do_losevalue(self, command: do.LoseValue) -> None:
        self.values.lose(command.key, command.record)
