"""The stall detector of simulated programs: told once of what stands still, never of what goes on.

And detectors that are broken on purpose, each of which must be caught.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest

from shoal._core import reactions_why, stalls
from shoal._core.stalls import Stalls
from shoal._proto import messages as m
from shoal._proto import reasons
from shoal.testing import Fault, Plan, SimulationError, Visit, run
from shoal.testing.sim import stalls as watches
from shoal.testing.sim.fakes import FakeProcess, Script
from shoal.testing.sim.store_programs import ClusterProgram

SEEDS = range(1, 4)
BROKEN_SEEDS = range(1, 12)

Patch = pytest.MonkeyPatch


class Waiting(ClusterProgram):
    """Has tasks that take long, and now and then one that no node can run."""

    def begin(self, process: FakeProcess) -> None:
        super().begin(process)
        self.wait_for_more_than_there_is()

    def wait_for_more_than_there_is(self) -> None:
        def opened(body: m.Message) -> None:
            assert isinstance(body, m.QueueOpened)
            self.tasks.append(self.world.submit(body.queue, process.job, Script(0.1), 0))

        process = self.process
        if self.world.random.random() < 0.5:
            self.world.request(process, m.OpenQueue({"CPU": 1e6}), opened)

    def script(self, depth: int = 0) -> Script:
        script = super().script(depth)
        if self.world.random.random() < 0.3:
            script.duration_s = self.world.random.choice((1.5, 8.0))
        return script


def stall_plan(seed: int) -> Plan:
    """Programs that wait, and faults that make them wait longer."""
    chance = random.Random(seed)
    visits = tuple(Visit(chance.uniform(0.0, 1.0), f"driver {n}", 3) for n in range(2))
    kinds = ("store away", "process stopped", "busy worker killed", "memory taken", "starts fail")
    faults = [
        Fault(chance.uniform(0.0, 4.0), chance.choice(kinds), chance.getrandbits(32))
        for _ in range(8)
    ]
    in_time = tuple(sorted(faults, key=lambda fault: fault.at))
    return Plan(seed, 2.0, 0.3, visits, in_time, has_stall_watches=True)


@pytest.mark.timeout(600)  # on a machine that does other things too
def test_who_waits_for_ever_is_told_why_once(monkeypatch: Patch) -> None:
    told: Counter[str] = Counter()
    original = watches.check_notice

    def check_notice(world: watches.World, reason: reasons.Reason, *times: float) -> None:
        told[type(reasons.chain_of(reason)[-1]).__name__] += 1
        original(world, reason, *times)

    monkeypatch.setattr(watches, "check_notice", check_notice)
    for seed in SEEDS:
        run(stall_plan(seed), Waiting)
    assert told["Infeasible"] and "Running" not in told


def what_runs_is_a_stall(monkeypatch: Patch) -> None:
    monkeypatch.setattr(stalls, "MOVING", stalls.MOVING - {"Running"})


def one_answer_is_enough(monkeypatch: Patch) -> None:
    original = Stalls.judge

    def judge(self: Stalls, reason: reasons.Reason) -> bool:
        if not stalls.is_moving(reason):
            self.last = stalls.mark_of(reason)
        return original(self, reason)

    monkeypatch.setattr(Stalls, "judge", judge)


def what_was_told_is_forgotten(monkeypatch: Patch) -> None:
    original = Stalls.judge

    def judge(self: Stalls, reason: reasons.Reason) -> bool:
        self.shown.clear()
        return original(self, reason)

    monkeypatch.setattr(Stalls, "judge", judge)


def nothing_is_told(monkeypatch: Patch) -> None:
    monkeypatch.setattr(Stalls, "judge", lambda self, reason: False)


def one_task_is_taken_for_another(monkeypatch: Patch) -> None:
    monkeypatch.setattr(stalls, "PASSING", (*stalls.PASSING, "task", "name", "id", "attempt"))
    monkeypatch.setattr(stalls, "MOVING", stalls.MOVING - {"Running"})


def what_never_ends_is_taken_to_move(monkeypatch: Patch) -> None:
    monkeypatch.setattr(stalls, "MOVING", stalls.MOVING | {"Infeasible"})


def who_asks_is_not_answered(monkeypatch: Patch) -> None:
    monkeypatch.setattr(reactions_why, "on_inspected", lambda t, now, event: [])


VARIANTS = [
    what_runs_is_a_stall,
    one_answer_is_enough,
    what_was_told_is_forgotten,
    nothing_is_told,
    one_task_is_taken_for_another,
    what_never_ends_is_taken_to_move,
    who_asks_is_not_answered,
]


@pytest.mark.timeout(600)  # on a machine that does other things too
@pytest.mark.parametrize("break_it", VARIANTS, ids=lambda variant: variant.__name__)
def test_what_is_broken_is_caught(break_it: Callable[[Patch], None], monkeypatch: Patch) -> None:
    break_it(monkeypatch)
    for seed in BROKEN_SEEDS:
        try:
            run(stall_plan(seed), Waiting)
        except SimulationError as caught:
            print(seed, repr(caught.violation)[:200])
            return
    pytest.fail(f"{break_it.__name__} was not noticed in {len(BROKEN_SEEDS)} seeds")
