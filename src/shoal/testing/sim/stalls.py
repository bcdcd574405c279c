"""The stall detector of a simulated program: the real ``Stalls``, asking the real explanations.

What ``_runtime.stalls`` does. Its rules, looked at from outside:

* **Answered**: whoever asks why gets an answer, about anything and at any moment.
* **No false alarm** (``check_notice``): what a program is told of has not gone on meanwhile:
  nothing that the chain names has begun, ended or been tried again, and it does not run by itself.
* **Once** (``check_told``): of what lasts a program is told, and of nothing twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shoal._base import typed_ids
from shoal._core.stalls import Stalls, mark_of
from shoal._proto import messages as m
from shoal._proto import reasons
from shoal.testing.sim import sights
from shoal.testing.sim.checkers import Violation
from shoal.testing.sim.fakes import FakeProcess, FakeTask

if TYPE_CHECKING:
    from shoal.testing.sim.world import World

TROUBLE_S = 10.0
PERIOD_S = 2.0
"""While things go wrong, which is a few seconds only."""
QUIET_PERIOD_S = 40.0
ANSWER_S = 5.0
"""An answer takes less, whatever happens."""
LOOPS = (reasons.ActorRestarting, reasons.WorkersCrash)
"""What these tell of goes on all the time, and comes to nothing."""


class FakeStallWatch:
    """What one simulated driver sees of its own waiting."""

    def __init__(self, world: World, process: FakeProcess) -> None:
        self._world = world
        self.process = process
        self.machine = Stalls()
        self.notices: list[tuple[float, reasons.Reason]] = []
        self._asked_at: float | None = None
        self._seen_at = 0.0
        """When the last answer came."""
        self._plan()

    def _plan(self) -> None:
        half_s = (PERIOD_S if self._world.now < TROUBLE_S else QUIET_PERIOD_S) / 2
        self._world.act(self.process, half_s, self._look)

    def _look(self) -> None:
        world, process = self._world, self.process
        self._plan()
        if self._asked_at is not None:
            if world.since(self._asked_at) > ANSWER_S:
                raise Violation(f"{process} asks why since {self._asked_at} and is not answered")
            return
        is_waiting = any(not world.tasks[key].is_over for key in process.watched)
        is_waiting = is_waiting or any(sights.wish_of(world, process))
        if not is_waiting and not world.is_asking(process):
            self.machine.idle()
            return
        self._asked_at = world.now
        world.request(process, m.AskWhy(""), self._answered)

    def _answered(self, body: m.Message) -> None:
        asked_at, self._asked_at = self._asked_at, None
        before, self._seen_at = self._seen_at, self._world.now
        if not isinstance(body, m.WhyAnswer):
            raise Violation(f"{self.process} asks why it waits, and is told {body}")
        reason = reasons.unpack(body.reason)
        if self.machine.judge(reason):
            assert asked_at is not None
            check_notice(self._world, reason, before, asked_at)
            names = " <- ".join(type(link).__name__ for link in reasons.chain_of(reason))
            self._world.note(f"process {self.process.index} is told that it waits: {names}")
            self.notices.append((self._world.now, reason))


def check_notice(world: World, reason: reasons.Reason, before: float, asked_at: float) -> None:
    """A program is told that this has not gone on between two moments."""
    for link in reasons.chain_of(reason):
        if isinstance(link, LOOPS):
            return
        task = world.tasks.get(typed_ids.key_of(getattr(link, "task", "") or ""))
        if task is None:
            continue
        if before < task.moved_at <= asked_at:
            raise Violation(f"task {task.key} has gone on at {task.moved_at}; told is {reason}")
        queue = world.queues.get(task.queue)
        is_next = task.state == "QUEUED" and queue is not None
        if is_next and queue is not None and before < queue.took_at <= asked_at:
            raise Violation(f"queue {task.queue} has gone on at {queue.took_at}; told is {reason}")
        if _runs(world, task) and task.moved_at <= before:
            raise Violation(f"task {task.key} runs by itself; told is {reason}")


def _runs(world: World, task: FakeTask) -> bool:
    """It runs, and waits for nothing."""
    process = world.processes.get(task.runner)
    if process is None or process.stopped_until > world.now or process.is_blocked:
        return False
    if sights.child_of(world, task) is not None or sights.waits_for_consumer(world, task):
        return False
    return not any(sights.wish_of(world, process))


def check_told(world: World, watch: FakeStallWatch) -> None:
    """Nothing goes on any more, since long."""
    marks = [mark_of(reason) for _, reason in watch.notices]
    for number, mark in enumerate(marks):
        if mark in marks[:number]:
            raise Violation(f"{watch.process} is told twice: {watch.notices[number][1]}")
    process = watch.process
    if world.processes.get(process.index) is not process:
        return
    waits = [world.tasks[key] for key in process.watched if not world.tasks[key].is_over]
    if waits and not watch.notices:
        raise Violation(f"{process} waits for {waits[0]} for ever, and is not told why")
    if waits and watch.machine.last not in watch.machine.shown:
        raise Violation(f"{process} waits for {waits[0]} for ever, and is told of something else")
