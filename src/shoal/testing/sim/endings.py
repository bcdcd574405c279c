"""Programs that cancel, have deadlines, drop streams and run calls side by side, and their rules.

On top of groups and environments (`group_programs.GroupProgram`). What a program has been told is
cancelled is marked; from then on these hold, looked at from outside:

* it never begins again, neither after a crash nor after an exception;
* what was queued is over at once, Python code soon, C code `PATIENCE_S` later, forced: soon;
* children end with it if the cancel was recursive;
* nobody fails with `TaskCancelledError` who was not cancelled and whose stream was not dropped,
  nor with `DeadlineExceededError` before its time;
* a process is killed for a task only if that task does not listen and has had its patience, or was
  to be ended by force; never for a call of an actor.
"""

from __future__ import annotations

from typing import Any

from shoal._base import records
from shoal._base.config import NodeConfig
from shoal._core import commands as do
from shoal._core import events as seen
from shoal._proto import messages as m
from shoal.testing.sim.checkers import LATE_S, Violation
from shoal.testing.sim.data import FULL, INPUT
from shoal.testing.sim.fakes import FakeProcess, FakeTask, Script
from shoal.testing.sim.group_programs import GroupProgram, GroupWorld
from shoal.testing.sim.memory import LEAVE
from shoal.testing.sim.streams import Consumer
from shoal.testing.sim.world import World

PATIENCE_S = 0.6
SOON_S = 0.2
"""An interrupt, the death of a process, and words on their way."""


OTHER_ENDS = (b"user", b"freed", b"gone", b"session", FULL, INPUT)
"""Records of ends that nobody asked for."""


class EndingWorld(GroupWorld):
    """A node whose tasks are ended before they are done."""

    def __init__(
        self, seed: int, config: NodeConfig, *, extents: int = 24, lineage: float = 1e6
    ) -> None:
        self.unwanted: set[str] = set()
        """Ids of actors that somebody wanted to end."""
        self.left: set[int] = set()
        """Indexes of drivers that have said that they leave."""
        self.most_beside = 0
        """How many calls of one actor have run side by side."""
        super().__init__(seed, config, extents=extents, lineage=lineage)

    def feed(self, event: seen.Event) -> None:
        """Remembers what the machine is asked to end, and what has to be over for it."""
        ended: list[FakeTask] = []
        body = event.body if isinstance(event, seen.Requested) else None
        index = event.index if isinstance(event, seen.Requested) else -1
        if isinstance(body, m.CancelTask):
            ended = self.family(self.tasks[body.key]) if body.recursive else [self.tasks[body.key]]
        elif isinstance(body, m.KillActor):
            self.unwanted.add(body.actor_id)
        elif isinstance(body, m.LeaveJob):
            self.left.add(index)
        elif isinstance(event, seen.BellRang):
            ended = [self.tasks[key] for key in event.gone if key in self.tasks]
        ended = [task for task in ended if not task.is_over]
        for task in ended:
            task.is_unwanted = True
            task.is_forced = task.is_forced or (isinstance(body, m.CancelTask) and body.force)
        super().feed(event)
        for task in ended:
            self.mark(task)

    def wake(self, process: FakeProcess) -> None:
        self.most_beside = max(self.most_beside, len(process.running))
        super().wake(process)

    def family(self, task: FakeTask) -> list[FakeTask]:
        """It and everything below it."""
        below = [child for child in self.tasks.values() if child.parent == task.key]
        return [task, *(each for child in below for each in self.family(child))]

    def mark(self, task: FakeTask) -> None:
        """The daemon has done what it can do at once: what is not over now is cancelled."""
        if not task.is_over and task.cancelled_at is None:
            task.cancelled_at = self.now
            patience_s = PATIENCE_S if task.script.is_deaf and not task.is_forced else 0.0
            self.end_by(task, SOON_S + patience_s)

    def end_by(self, task: FakeTask, within_s: float) -> None:
        """It must be over then; a call in a thread takes its time."""

        began, was_deaf = self.now, task.script.is_deaf

        def look() -> None:
            if task.is_over or self.is_call(task):
                return
            left_s = within_s - self.since(began)
            if left_s > 1e-9:  # less is how floats add up, and would never pass
                self.after(left_s, look)
            elif task.script.is_deaf and not was_deaf:
                self.end_by(task, within_s + PATIENCE_S)  # its process was stopped meanwhile
            else:
                raise Violation(f"at {self.now} {task} has not ended")

        self.after(within_s, look)

    def is_call(self, task: FakeTask) -> bool:
        queue = self.queues.get(task.queue)
        return queue is not None and queue.kind == do.QUEUE_ACTOR

    def do_kill(self, command: do.Kill) -> None:
        process = self.processes.get(command.index)
        if process is not None and not process.is_driver and process.assignment is not None:
            self._check_kill(process)
        super().do_kill(command)

    def _check_kill(self, process: FakeProcess) -> None:
        assert process.assignment is not None
        drivers = [each for each in self.processes.values() if each.is_driver]
        has_driver = any(d.job == process.job and d.index not in self.left for d in drivers)
        group = self.groups.get(process.assignment.group)
        if self.is_ended_for_memory(process):
            return  # process_memory_checkers judges that
        is_group_over = group is not None and group.removed_at is not None
        if not has_driver or is_group_over or process.assigned == LEAVE:
            return
        if process.actor is not None:
            if process.actor.actor_id not in self.unwanted:
                raise Violation(f"{process} is killed, and nobody wanted its actor to end")
            return
        if not any(self._may_be_killed_for(task) for task in process.running):
            raise Violation(f"at {self.now} {process} is killed without need")

    def _may_be_killed_for(self, task: FakeTask) -> bool:
        if task.is_forced:
            return True
        since = [at for at in (task.cancelled_at, task.deadline) if at is not None]
        if not since:
            return False
        was_patient = self.now - min(since) >= PATIENCE_S - LATE_S
        return was_patient and (task.script.is_deaf or self.disturbed_at >= min(since))


def check_records(world: World) -> None:
    """Who ended as cancelled or too late was."""
    for task in world.tasks.values():
        if task.state != "FAILED" or task.record in OTHER_ENDS:
            continue
        name = records.unpack(task.record)[0]
        if name == "TaskCancelledError" and not task.is_unwanted:
            raise Violation(f"nobody cancelled {task}")
        if name == "DeadlineExceededError" and (
            task.deadline is None or task.ended_at < task.deadline
        ):
            raise Violation(f"{task} had time left")


class EndingProgram(GroupProgram):
    """A driver that ends a part of what it begins."""

    world: EndingWorld
    share_of_tasks = 0.4
    resizes = 0.0

    def script(self, depth: int = 0) -> Script:
        random = self.world.random
        script = super().script(depth)
        if random.random() < 0.3:
            script.duration_s *= 30  # long enough to be cancelled
        if random.random() < 0.2:
            script.is_deaf, script.duration_s = True, random.choice((0.1, 0.5, 2.0))
            script.raises = int(random.random() < self.chaos)
        if depth:
            script.duration_s = max(script.duration_s, random.choice((0.0, 0.5)))
        if random.random() < 0.15:
            script.timeout_s = random.choice((0.01, 0.1, 1.0))
        elif depth == 0 and random.random() < 0.15:
            script.is_deaf, script.child = False, None
            script.sizes = tuple(
                random.choice((0.25, 1.0)) for _ in range(random.choice((1, 3, 9)))
            )
            script.limit = random.choice((0, 1, 2))
        return script

    def call_script(self) -> Script:
        script = super().call_script()
        if self.world.random.random() < 0.3:
            script.duration_s = self.world.random.choice((0.1, 0.3, 2.0))
        return script

    def submitted(self, task: FakeTask) -> None:
        """It is watched, read, dropped or cancelled later."""
        world, random = self.world, self.world.random
        world.watch(self.process, task)
        if task.deadline is not None:
            patience_s = PATIENCE_S if task.script.is_deaf else 0.0
            world.end_by(task, task.deadline - world.now + SOON_S + LATE_S + patience_s)
        if task.script.is_stream:
            most = random.choice((0, 2)) if random.random() < 0.4 else len(task.script.sizes)
            consumer = Consumer(world, self.process, task, most, random.choice((0.001, 0.1)))
            world.act(self.process, world.delay(0.2), consumer.go_on)
        elif random.random() < (0.4 if world.is_call(task) else 0.2):
            world.after(world.delay(0.05), lambda: self.cancel(task))

    def cancel(self, task: FakeTask) -> None:
        """Ask for it, in one of the ways there are."""
        world, random = self.world, self.world.random
        is_forced = random.random() < 0.3 and not world.is_call(task)
        is_recursive = random.random() < 0.7
        world.request(self.process, m.CancelTask(task.key, is_forced, is_recursive))
        if random.random() < self.chaos * (0.6 if world.is_call(task) else 0.3):
            world.after(world.delay(0.002), lambda: self.kill_runner(task))

    def kill_runner(self, task: FakeTask) -> None:
        """Its process dies while it is being ended."""
        process = self.world.processes.get(task.runner)
        if process is not None:
            self.world.die(process, signal=9)

    def actor_options(self) -> dict[str, Any]:
        """One after the other, in threads, or on a loop, with a group of its own or not."""
        random = self.world.random
        kind = random.choice(("plain", "threads", "loop"))
        limit = 1 if kind == "plain" else random.choice((2, 8))
        groups = {"io": 2} if random.random() < 0.4 else {}
        return {
            "max_concurrency": limit,
            "is_asyncio": kind == "loop",
            "groups": groups,
            "max_restarts": random.choice((0, 3)),
        }
