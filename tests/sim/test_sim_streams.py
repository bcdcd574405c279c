"""Generators: in order, each item once, never too many at a time, and nothing of them stays.

With producers that die and are tried again, consumers that are slow, let go or die, and machines
and memory that are broken on purpose, each of which must be caught.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest

from shoal._core import reactions_cancels
from shoal.testing import Fault, Plan, SimulationError, Visit, run
from shoal.testing.sim import cluster
from shoal.testing.sim.fakes import FakeProcess, FakeTask, Script
from shoal.testing.sim.store_programs import ClusterProgram, ClusterWorld
from shoal.testing.sim.streams import FakeStream, FakeStreams

SEEDS = range(1, 4)
BROKEN_SEEDS = range(1, 12)

Patch = pytest.MonkeyPatch


class Yielding(ClusterProgram):
    """Most of its tasks are generators."""

    def script(self, depth: int = 0) -> Script:
        random = self.world.random
        script = super().script(depth)
        if depth or random.random() < 0.3:
            return script
        sizes = tuple(random.choice((0.25, 1.0)) for _ in range(random.choice((2, 5, 9))))
        crashes, limit = random.choice((0, 0, 0, 1)), random.choice((0, 1, 1, 3))
        return Script(random.choice((0.01, 0.2)), crashes=crashes, sizes=sizes, limit=limit)


def stream_plan(seed: int) -> Plan:
    """Some that yield, with little memory, and those who are killed and stopped."""
    chance = random.Random(seed)
    visits = tuple(Visit(chance.uniform(0.0, 1.0), f"driver {n}", 4) for n in range(2))
    kinds = ("busy worker killed", "busy worker killed", "process stopped", "memory taken")
    faults = [
        Fault(chance.uniform(0.0, 2.0), chance.choice(kinds), chance.getrandbits(32))
        for _ in range(8)
    ]
    in_time = tuple(sorted(faults, key=lambda fault: fault.at))
    return Plan(seed, 2.0, 0.0, visits, in_time)


@pytest.mark.timeout(600)  # on a machine that does other things too
def test_generators_yield_in_order_and_leave_nothing(monkeypatch: Patch) -> None:
    worlds: list[ClusterWorld] = []

    def world(*args: object, **options: object) -> ClusterWorld:
        worlds.append(ClusterWorld(*args, **options))  # type: ignore[arg-type]
        return worlds[-1]

    monkeypatch.setattr(cluster, "ClusterWorld", world)
    for seed in SEEDS:
        run(stream_plan(seed), Yielding)
    counts: Counter[str] = Counter()
    for each in worlds:
        counts.update(each.stream_counts)
    assert min(counts.values()) > 5, counts
    tasks = [task for each in worlds for task in each.tasks.values() if task.script.is_stream]
    assert sum(task.attempt > 1 and task.state == "DONE" for task in tasks) > 0


def nobody_hears_that_it_was_dropped(monkeypatch: Patch) -> None:
    monkeypatch.setattr(reactions_cancels, "on_stream_dropped", lambda t, now, key: [])


def the_limit_is_forgotten(monkeypatch: Patch) -> None:
    monkeypatch.setattr(FakeStreams, "must_sleep", lambda self, task: False)


def nobody_wakes_who_sleeps(monkeypatch: Patch) -> None:
    monkeypatch.setattr(FakeStream, "ring", lambda self, sleepers: None)


def a_retry_forgets_what_was_yielded(monkeypatch: Patch) -> None:
    original = FakeStreams.produce

    def produce(
        self: FakeStreams,
        process: FakeProcess,
        task: FakeTask,
        attempt: int,
        done: Callable[[], None],
    ) -> None:
        if attempt > 1:
            self.stream_of(task).items.clear()
        original(self, process, task, attempt, done)

    monkeypatch.setattr(FakeStreams, "produce", produce)


def what_nobody_has_seen_stays(monkeypatch: Patch) -> None:
    def drop_stream(self: FakeStreams, task: FakeTask) -> None:
        self.drop_last_handle(task.key)

    monkeypatch.setattr(FakeStreams, "drop_stream", drop_stream)


VARIANTS = [
    nobody_hears_that_it_was_dropped,
    the_limit_is_forgotten,
    nobody_wakes_who_sleeps,
    a_retry_forgets_what_was_yielded,
    what_nobody_has_seen_stays,
]


@pytest.mark.timeout(600)  # on a machine that does other things too
@pytest.mark.parametrize("break_it", VARIANTS, ids=lambda variant: variant.__name__)
def test_what_is_broken_is_caught(break_it: Callable[[Patch], None], monkeypatch: Patch) -> None:
    break_it(monkeypatch)
    for seed in BROKEN_SEEDS:
        try:
            run(stream_plan(seed), Yielding)
        except SimulationError as caught:
            print(seed, repr(caught.violation)[:200])
            return
    pytest.fail(f"{break_it.__name__} was not noticed in {len(BROKEN_SEEDS)} seeds")
