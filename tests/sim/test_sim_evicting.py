"""Values that are given up as there is no room, where no file takes any: never lost by that choice.

And machines that choose wrongly, each of which must be caught.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import pytest

from shoal._core.evicting import Evictions, Unit
from shoal.testing import Fault, Plan, SimulationError, Visit, run
from shoal.testing.sim.store_programs import ClusterProgram

SEEDS = range(2)
BROKEN_SEEDS = (31, 3, *range(20))

Patch = pytest.MonkeyPatch


class Pairs(ClusterProgram):
    """Most tasks have two results, and hardly a run left."""

    retries = (1, 1, 2, -1)
    results = (1, 2, 2)


def full_plan(seed: int) -> Plan:
    """Programs whose values do not fit, and a disk that is always full or hangs."""
    chance = random.Random(seed)
    visits = tuple(Visit(chance.uniform(0.0, 1.0), f"driver {n}", 8) for n in range(3))
    kinds = ("spill disk full", "spill disk full", "memory taken", "process stopped")
    faults = [
        Fault(chance.uniform(0.0, 2.5), chance.choice(kinds), chance.getrandbits(32))
        for _ in range(20)
    ]
    in_time = tuple(sorted(faults, key=lambda fault: fault.at))
    return Plan(seed, 2.0, 0.0, visits, in_time, chance.choice((8, 12)))


@pytest.mark.timeout(600)  # on a machine that does other things too
def test_what_was_given_up_to_have_room_is_made_again() -> None:
    seen: Counter[str] = Counter()
    for seed in SEEDS:
        seen.update(run(full_plan(seed), Pairs).values)
    assert seen["evicted"] > 5 and seen["rebuilt"] > 2


def retries_do_not_count(monkeypatch: Patch) -> None:
    original = Evictions.choose

    def choose(
        self: Evictions, now: float, n: int, units: Iterable[Unit], left: Mapping[int, int]
    ) -> list[Unit]:
        return original(self, now, n, units, dict.fromkeys(left, -1))

    monkeypatch.setattr(Evictions, "choose", choose)


def who_counts_on_a_run_is_forgotten(monkeypatch: Patch) -> None:
    original = Evictions._set_aside

    def set_aside(self: Evictions, unit: Unit, left: Mapping[int, int]) -> bool:
        self._aside.clear()
        return original(self, unit, left)

    monkeypatch.setattr(Evictions, "_set_aside", set_aside)
    monkeypatch.setattr(Evictions, "back", lambda self, key: self.out.pop(key, None))


def what_is_needed_goes_first(monkeypatch: Patch) -> None:
    original = Evictions._in_order

    def in_order(self: Evictions, now: float, units: Iterable[Unit]) -> list[Unit]:
        return sorted(original(self, now, units), key=lambda unit: not unit.is_needed)

    monkeypatch.setattr(Evictions, "_in_order", in_order)


def more_goes_than_is_asked_for(monkeypatch: Patch) -> None:
    original = Evictions.choose

    def choose(
        self: Evictions, now: float, n: int, units: Iterable[Unit], left: Mapping[int, int]
    ) -> list[Unit]:
        return original(self, now, n + 2, units, left)

    monkeypatch.setattr(Evictions, "choose", choose)


def nothing_goes(monkeypatch: Patch) -> None:
    monkeypatch.setattr(Evictions, "_set_aside", lambda self, unit, runs_left: False)


def what_is_there_again_still_counts(monkeypatch: Patch) -> None:
    monkeypatch.setattr(Evictions, "back", lambda self, key: None)


VARIANTS = [
    retries_do_not_count,
    who_counts_on_a_run_is_forgotten,
    what_is_needed_goes_first,
    more_goes_than_is_asked_for,
    nothing_goes,
    what_is_there_again_still_counts,
]


@pytest.mark.timeout(600)  # on a machine that does other things too
@pytest.mark.parametrize("break_it", VARIANTS, ids=lambda variant: variant.__name__)
def test_what_is_broken_is_caught(break_it: Callable[[Patch], None], monkeypatch: Patch) -> None:
    break_it(monkeypatch)
    monkeypatch.setattr(Evictions, "validate", lambda self: None)
    for seed in BROKEN_SEEDS:
        try:
            run(full_plan(seed), Pairs)
        except SimulationError as caught:
            print(seed, repr(caught.violation)[:200])
            return
    pytest.fail(f"{break_it.__name__} was not noticed in {len(BROKEN_SEEDS)} seeds")
