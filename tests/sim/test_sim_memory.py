"""The watch over the memory of processes: lives with hogs, false readings and a kernel that kills;
and watches that are broken on purpose, each of which must be caught.

`validate` of the machines is off in the broken ones: only what is seen from outside counts.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec
import pytest

from shoal._core import reactions_memory
from shoal._core.events import MemoryRead
from shoal._core.memory_admission import Admissions, Waiter, Watched
from shoal._core.memory_watch import MemoryWatch
from shoal._core.node import NodeMachine
from shoal._core.tables import NodeTables
from shoal.testing import Fault, Plan, SimulationError, Visit, run
from shoal.testing.sim.memory_faults import MEMORY_FAULTS

FAULTS = [*MEMORY_FAULTS, "memory hog", "memory used elsewhere", "busy worker killed"]
SEEDS = (4, 0, 1)
BROKEN_SEEDS = (4, *range(30))
FAULTS_EACH = 8

Patch = pytest.MonkeyPatch


def memory_plan(seed: int, kinds: Sequence[str] = tuple(FAULTS)) -> Plan:
    """Programs that take more memory than there is."""
    chance = random.Random(seed)
    visits = tuple(Visit(chance.uniform(0.0, 0.5), f"driver {n}", 4) for n in range(3))
    faults = [
        Fault(chance.uniform(0.0, 3.0), chance.choice(kinds), chance.getrandbits(32))
        for _ in range(FAULTS_EACH)
    ]
    in_time = tuple(sorted(faults, key=lambda fault: fault.at))
    return Plan(seed, 4.0, chance.choice((0.0, 0.3)), visits, in_time, 200, 1e6, 8 << 30)


@pytest.mark.timeout(600)  # on a machine that does other things too
def test_only_offenders_are_ended_whatever_is_read() -> None:
    seen: Counter[str] = Counter()
    for seed in SEEDS:
        seen.update(run(memory_plan(seed)).memory)
    assert min(seen.values()) > 2, seen


# ---- broken on purpose
def somebody_else_is_ended(monkeypatch: Patch) -> None:
    original = MemoryWatch.offender

    def offender(self: MemoryWatch) -> Watched | None:
        found = original(self)
        others = [each for each in self.watched.values() if each.runs and each is not found]
        return others[0] if found is not None and others else found

    monkeypatch.setattr(MemoryWatch, "offender", offender)


def what_was_asked_for_is_no_limit(monkeypatch: Patch) -> None:
    monkeypatch.setattr(MemoryWatch, "_enforce", lambda self, now: [])


def nobody_is_ended_for_the_node(monkeypatch: Patch) -> None:
    monkeypatch.setattr(MemoryWatch, "_relieve", lambda self, now: [])


def many_are_ended_at_once(monkeypatch: Patch) -> None:
    original = MemoryWatch._relieve

    def relieve(self: MemoryWatch, now: float) -> object:
        self._ended_at = float("-inf")
        return original(self, now)

    monkeypatch.setattr(MemoryWatch, "_relieve", relieve)


def somebody_is_ended_far_too_early(monkeypatch: Patch) -> None:
    original = MemoryWatch.step

    def step(self: MemoryWatch, now: float, seen: MemoryRead) -> object:
        out = original(self, now, seen)
        return [*out, *self._relieve(now)] if seen.used_bytes > seen.limit_bytes // 3 else out

    monkeypatch.setattr(MemoryWatch, "step", step)


def nobody_is_kept_from_beginning(monkeypatch: Patch) -> None:
    monkeypatch.setattr(MemoryWatch, "begins", lambda self: True)


def everybody_is_admitted(monkeypatch: Patch) -> None:
    monkeypatch.setattr(Admissions, "_fits", lambda self, now, waiter: True)


def the_last_one_is_admitted_first(monkeypatch: Patch) -> None:
    def ask(self: MemoryWatch, now: float, waiter: Waiter) -> object:
        self.admissions.waiting.appendleft(waiter)
        return self._serve(now)

    monkeypatch.setattr(MemoryWatch, "ask", ask)


def who_was_ended_begins_at_once(monkeypatch: Patch) -> None:
    monkeypatch.setattr(Admissions, "not_before", lambda self, waiter: 0.0)


def nobody_hears_what_is_heavy(monkeypatch: Patch) -> None:
    monkeypatch.setattr(reactions_memory, "Heavy", type("Nothing", (), {}))


def admission_is_never_over(monkeypatch: Patch) -> None:
    def release(self: Admissions, *arguments: object) -> None:
        """Nothing is given back."""

    monkeypatch.setattr(Admissions, "release", release)


def readings_blame_who_asked_for_it(monkeypatch: Patch) -> None:
    original = MemoryWatch.excess

    def excess(self: MemoryWatch, watched: Watched) -> int:
        declared = watched.last.declared_bytes
        return watched.grown + 4 * declared if declared else original(self, watched) // 4

    monkeypatch.setattr(MemoryWatch, "excess", excess)


def readings_are_half_believed(monkeypatch: Patch) -> None:
    original = reactions_memory.on_read

    def on_read(t: NodeTables, now: float, event: MemoryRead) -> object:
        used = event.used_bytes // 2
        return original(t, now, msgspec.structs.replace(event, used_bytes=used))

    monkeypatch.setattr(reactions_memory, "on_read", on_read)


VARIANTS = [
    somebody_else_is_ended,
    what_was_asked_for_is_no_limit,
    nobody_is_ended_for_the_node,
    many_are_ended_at_once,
    somebody_is_ended_far_too_early,
    nobody_is_kept_from_beginning,
    everybody_is_admitted,
    the_last_one_is_admitted_first,
    who_was_ended_begins_at_once,
    nobody_hears_what_is_heavy,
    admission_is_never_over,
    readings_blame_who_asked_for_it,
    readings_are_half_believed,
]


@pytest.mark.timeout(600)  # on a machine that does other things too
@pytest.mark.parametrize("break_it", VARIANTS, ids=lambda variant: variant.__name__)
def test_a_broken_watch_is_caught(break_it: Callable[[Patch], None], monkeypatch: Patch) -> None:
    break_it(monkeypatch)
    monkeypatch.setattr(NodeMachine, "validate", lambda self: None)
    for seed in BROKEN_SEEDS:
        try:
            run(memory_plan(seed))
        except SimulationError as caught:
            print(seed, repr(caught.violation)[:200])
            return
    pytest.fail(f"{break_it.__name__} was not noticed in {len(BROKEN_SEEDS)} seeds")
