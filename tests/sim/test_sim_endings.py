"""Whole lives of a node whose tasks are cancelled, late, or streams, with calls side by side; and
machines that are broken on purpose."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from shoal._core import cancels, node, reactions_actors, reactions_cancels, reactions_workers
from shoal._core import commands as do
from shoal._core.cancels import Cancels
from shoal._core.events import FoundRunning
from shoal._core.tables import NodeTables
from shoal._core.tasks import Crashes, Death
from shoal._proto import messages as m
from shoal.testing.sim import checkers
from shoal.testing.sim.endings import EndingProgram, EndingWorld, check_records
from shoal.testing.sim.fakes import FakeProcess, FakeQueue, FakeTask, Script
from tests.sim.lives import config, live

SEEDS = range(10)
WILD_SEEDS = (189, *range(182, 362, 3))
"""Those with most faults: tried, until it is caught, with a broken machine."""

Patch = pytest.MonkeyPatch


@pytest.fixture(autouse=True)
def _few_deadlines(monkeypatch: Patch) -> None:
    """So that those of tasks that have ended are sifted in these short lives too."""
    monkeypatch.setattr(cancels, "TIMED_MOST", 3)


def live_and_end(seed: int) -> EndingWorld:
    world = EndingWorld(seed, config(seed))
    live(seed, world, EndingProgram)
    check_records(world)
    checkers.check_given_back(world)
    return world


@pytest.mark.parametrize("seed", SEEDS)
def test_life_of_a_node_with_cancels(seed: int) -> None:
    live_and_end(seed)


def test_some_seeds_try_everything() -> None:
    """Cancelled at each stage, by force and with children, late, dropped, and beside others."""
    worlds = [live_and_end(seed) for seed in WILD_SEEDS[:28]]
    tasks = [task for world in worlds for task in world.tasks.values()]
    cancelled = [task for task in tasks if b"TaskCancelledError" in task.record]
    assert sum(b"queued" in task.record for task in cancelled) > 5
    assert sum(b"running" in task.record for task in cancelled) > 5
    assert sum(task.is_forced for task in cancelled) > 0
    assert sum(task.parent != 0 for task in cancelled) > 0
    assert sum(b"nobody has its generator" in task.record for task in cancelled) > 2
    assert sum(b"DeadlineExceededError" in task.record for task in tasks) > 5
    assert sum(task.script.is_stream and task.state == "DONE" for task in tasks) > 2
    assert max(world.most_beside for world in worlds) > 2


def test_a_child_that_comes_too_late_already_has_a_moment_from_its_submit() -> None:
    """Its parent ran on after its own time: the daemon hears of the child when it is submitted."""
    world = EndingWorld(1, config(1))
    assignment = m.Assignment(1, m.JobConfig(), 1, [], {})
    process = FakeProcess(9, 9, is_driver=False, job=1, assignment=assignment)
    queue = FakeQueue(5, 1, do.QUEUE_CLASS, 1)
    for key, began_at in ((101, 2.01), (102, 2.1)):
        world.now = began_at
        task = FakeTask(key, 1, queue.queue, Script(0.1), 0, submitted_at=2.0, deadline=1.5)
        if began_at == 2.01:
            checkers.check_take(world, process, queue, task)
        else:
            with pytest.raises(checkers.Violation, match="begins after its time is over"):
                checkers.check_take(world, process, queue, task)


# ---- broken on purpose
def cancelled_tasks_are_tried_again(monkeypatch: Patch) -> None:
    original = Crashes.decide

    def decide(self: Crashes, death: Death) -> list[do.Command]:
        death.cancelled = {}
        return original(self, death)

    monkeypatch.setattr(Crashes, "decide", decide)


def cancelled_calls_are_tried_again(monkeypatch: Patch) -> None:
    original = reactions_actors.on_worker_died

    def on_worker_died(*arguments: object) -> object:
        return original(*arguments[:4], {}, *arguments[5:])  # type: ignore[arg-type]

    monkeypatch.setattr(reactions_actors, "on_worker_died", on_worker_died)


def what_runs(monkeypatch: Patch, change: Callable[[NodeTables, FoundRunning], object]) -> None:
    """Have `change` look at who runs first; what it returns, if anything, comes instead."""
    original = reactions_cancels.on_found_running

    def on_found_running(t: NodeTables, now: float, event: FoundRunning) -> object:
        changed = change(t, event)
        return original(t, now, changed if isinstance(changed, FoundRunning) else event)

    monkeypatch.setattr(reactions_cancels, "on_found_running", on_found_running)


def what_runs_is_not_asked(monkeypatch: Patch) -> None:
    original = reactions_cancels.on_found_running

    def on_found_running(t: NodeTables, now: float, event: FoundRunning) -> list[do.Command]:
        out = original(t, now, event)
        return [command for command in out if not isinstance(command, do.Notify)]

    monkeypatch.setattr(reactions_cancels, "on_found_running", on_found_running)


def force_is_ignored(monkeypatch: Patch) -> None:
    def change(t: NodeTables, event: FoundRunning) -> None:
        asked = t.cancels.asked[event.ticket]
        t.cancels.asked[event.ticket] = msgspec.structs.replace(asked, is_forced=False)

    what_runs(monkeypatch, change)


def nobody_has_patience(monkeypatch: Patch) -> None:
    def change(t: NodeTables, event: FoundRunning) -> None:
        asked = t.cancels.asked[event.ticket]
        t.cancels.asked[event.ticket] = msgspec.structs.replace(asked, is_forced=True)

    what_runs(monkeypatch, change)


def calls_are_ended_like_tasks(monkeypatch: Patch) -> None:
    def change(t: NodeTables, event: FoundRunning) -> FoundRunning:
        rows = tuple(msgspec.structs.replace(row, is_call=False) for row in event.tasks)
        return msgspec.structs.replace(event, tasks=rows)

    what_runs(monkeypatch, change)


def nobody_looks_again(monkeypatch: Patch) -> None:
    monkeypatch.setattr(Cancels, "ask", lambda self, key, running, again_at: None)


def children_go_on(monkeypatch: Patch) -> None:
    original = reactions_cancels._cancel

    def cancel(
        t: NodeTables, key: int, is_recursive: bool, *rest: object, **named: object
    ) -> object:
        return original(t, key, False, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(reactions_cancels, "_cancel", cancel)


def deadlines_come_early(monkeypatch: Patch) -> None:
    original = Cancels.watch
    monkeypatch.setattr(Cancels, "watch", lambda self, key, at: original(self, key, at / 2))


def deadlines_are_forgotten(monkeypatch: Patch) -> None:
    monkeypatch.setattr(Cancels, "watch", lambda self, key, at: ())


def everybody_looked_at_has_ended(monkeypatch: Patch) -> None:
    def watch(self: Cancels, key: int, at: float) -> tuple[int, ...]:
        self._turns.append(key)
        self.timed.set(key, at)
        for other in self._next_turns():
            self.ended(other)
        return ()

    monkeypatch.setattr(Cancels, "watch", watch)


def dropped_streams_go_on(monkeypatch: Patch) -> None:
    monkeypatch.setattr(reactions_cancels, "on_stream_dropped", lambda t, now, key: [])


def a_retry_is_always_granted(monkeypatch: Patch) -> None:
    original = reactions_workers.on_retry_task

    def on_retry_task(t: NodeTables, now: float, event: object, body: m.RetryTask) -> object:
        running, calls = t.cancels.running, t.cancels.calls
        t.cancels.running, t.cancels.calls = {}, {}
        out = original(t, now, event, body)  # type: ignore[arg-type]
        t.cancels.running, t.cancels.calls = running, calls
        return out

    monkeypatch.setitem(node._REQUESTS, m.RetryTask, on_retry_task)


VARIANTS = [
    cancelled_tasks_are_tried_again,
    cancelled_calls_are_tried_again,
    what_runs_is_not_asked,
    force_is_ignored,
    nobody_has_patience,
    calls_are_ended_like_tasks,
    nobody_looks_again,
    children_go_on,
    deadlines_come_early,
    deadlines_are_forgotten,
    everybody_looked_at_has_ended,
    dropped_streams_go_on,
    a_retry_is_always_granted,
]


@pytest.mark.parametrize("break_it", VARIANTS, ids=lambda variant: variant.__name__)
def test_broken_machine_is_caught(break_it: Callable[[Patch], None], monkeypatch: Patch) -> None:
    break_it(monkeypatch)
    # Only what is seen from outside counts here.
    monkeypatch.setattr(node.NodeMachine, "validate", lambda self: None)
    for seed in WILD_SEEDS:
        try:
            live_and_end(seed)
        except AssertionError as caught:
            print(seed, repr(caught)[:150])
            return
    pytest.fail(f"{break_it.__name__} was not noticed")
