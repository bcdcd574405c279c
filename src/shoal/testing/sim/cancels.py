"""Cancels, deadlines and other ends of tasks in the naive node memory."""

from __future__ import annotations

from collections import deque

from shoal._core import commands as do
from shoal._core import events as seen
from shoal.testing.sim.clock import Clock
from shoal.testing.sim.fakes import FakeQueue, FakeTask


class FakeCancels(Clock):
    """What ``cancel`` and ``task_state`` promise."""

    tasks: dict[int, FakeTask]
    queues: dict[int, FakeQueue]
    _pending: deque[seen.Event]

    def seal(self, task: FakeTask, state: str, record: bytes) -> None:
        """End a task (the layer above)."""
        raise NotImplementedError

    def do_canceltasks(self, command: do.CancelTasks) -> None:
        assert command.held and command.queued
        keys = [command.key]
        rows = []
        for key in keys:
            if command.is_recursive:
                keys += [k for k, x in self.tasks.items() if x.parent == key and k not in keys]
            task = self.tasks.get(key)
            if task is None or task.is_over:
                continue
            if task.state == "RUNNING":
                queue = self.queues.get(task.queue)
                is_call = queue is not None and queue.kind == do.QUEUE_ACTOR
                rows.append(seen.RunningAttempt(key, task.attempt, task.runner, is_call))
                continue
            for queue in self.queues.values():
                if task in queue.entries:
                    queue.entries.remove(task)
            self.seal(task, "FAILED", command.queued)
        found = seen.FoundRunning(command.ticket, tuple(rows), command.is_second_look)
        self._pending.append(found)

    def do_lookattask(self, command: do.LookAtTask) -> None:
        task = self.tasks.get(command.key)
        if task is not None and not task.is_over:
            stage = "running" if task.state == "RUNNING" else "queued"
            self._pending.append(seen.TaskLooked(command.key, stage, {stage: 1.0}))

    def do_sifttasks(self, command: do.SiftTasks) -> None:
        tasks = [self.tasks.get(key) for key in command.keys]
        ended = [k for k, task in zip(command.keys, tasks) if task is None or task.is_over]
        self._pending.append(seen.TasksSifted(tuple(ended)))

    # ---- ends of many
    def do_endchildren(self, command: do.EndChildren) -> None:
        assert command.parents and command.record
        for queue in self.queues.values():
            for task in [x for x in queue.entries if x.parent in command.parents]:
                queue.entries.remove(task)
                self.seal(task, "FAILED", command.record)

    def do_failqueued(self, command: do.FailQueued) -> None:
        queue = self.queues[command.queue]
        for task in list(queue.entries):
            queue.entries.remove(task)
            self.seal(task, "FAILED", command.record)

    def do_endjobtasks(self, command: do.EndJobTasks) -> None:
        for queue in self.queues.values():
            for task in [x for x in queue.entries if x.job == command.job]:
                queue.entries.remove(task)
                self.seal(task, "FAILED", command.record)
