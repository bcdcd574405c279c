"""Spilling, lineage, disks and memory that are broken on purpose: each must be caught.

`validate` of the machines is off: only what is seen from outside counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from shoal._core import lineage, spilling
from shoal._core.lineage import Lineage
from shoal._core.spilling import Spilling
from shoal.testing import SimulationError, run
from shoal.testing.sim.rebuilds import FakeRebuilds
from shoal.testing.sim.room import FakeRoom, FakeValue
from shoal.testing.sim.spill_disk import SpillDisk
from shoal.testing.sim.spills import FakeSpilling
from shoal.testing.sim.values import FakeValues
from tests.sim.test_sim_values import value_plan

SHOWN_BY = {
    "who_asks_for_room_is_never_answered": 4,
    "one_task_runs_twice_at_once": 11,
    "sources_are_forgotten_when_a_task_is_submitted": 31,
}
"""Seeds that show what is rarely seen; ``test_sim_values`` lives them as well."""
SEEDS = (*range(12), 31, 73, *range(12, 31))

Patch = pytest.MonkeyPatch


def damaged_values_are_believed(monkeypatch: Patch) -> None:
    monkeypatch.setattr(SpillDisk, "problem_of", lambda self, record: "")


def values_leave_while_they_are_looked_at(monkeypatch: Patch) -> None:
    def may_leave(self: object, value: FakeValue) -> bool:
        return value.place is not None and value.is_sealed and not value.record

    monkeypatch.setattr(FakeRoom, "may_leave", may_leave)


def records_of_the_freed_stay(monkeypatch: Patch) -> None:
    monkeypatch.setattr(Spilling, "_forget", lambda self, keys: [])


def the_freed_are_not_told_of(monkeypatch: Patch) -> None:
    """As it was: whoever frees the first value that leaves said nothing."""

    def step(self: FakeSpilling, event: spilling.AnyEvent) -> None:
        original(self, event)
        self._has_records = bool(self.machine.known())

    original = FakeSpilling._step
    monkeypatch.setattr(FakeSpilling, "_step", step)


def lost_values_are_forgotten(monkeypatch: Patch) -> None:
    original = Spilling._read

    def read(self: Spilling, event: spilling.WasRead) -> list[spilling.AnyCommand]:
        return [c for c in original(self, event) if not isinstance(c, spilling.Lose)]

    monkeypatch.setattr(Spilling, "_read", read)


def room_is_refused_at_once(monkeypatch: Patch) -> None:
    def make_room(self: Spilling, now: float, event: object) -> list[spilling.AnyCommand]:
        return [spilling.Answer(False)]

    monkeypatch.setattr(Spilling, "_make_room", make_room)


def who_asks_for_room_is_never_answered(monkeypatch: Patch) -> None:
    monkeypatch.setattr(Spilling, "_answer", lambda self, is_given: [])


def copies_are_forgotten(monkeypatch: Patch) -> None:
    original = Spilling._read

    def read(self: Spilling, event: spilling.WasRead) -> list[spilling.AnyCommand]:
        out = original(self, event)
        self.copies.pop(event.key, None)
        return out

    monkeypatch.setattr(Spilling, "_read", read)


def records_go_when_values_come_back(monkeypatch: Patch) -> None:
    original = Spilling._read

    def read(self: Spilling, event: spilling.WasRead) -> list[spilling.AnyCommand]:
        return original(self, event) or [spilling.DropRecord(event.number)]

    monkeypatch.setattr(Spilling, "_read", read)


def nothing_is_made_again(monkeypatch: Patch) -> None:
    monkeypatch.setattr(Lineage, "_problem_of", lambda self, recipe: "it is Sunday")


def retries_are_not_counted(monkeypatch: Patch) -> None:
    monkeypatch.setattr(Lineage, "_problem_of", lambda self, recipe: "")


def one_task_runs_twice_at_once(monkeypatch: Patch) -> None:
    original = Lineage._lost

    def lost(self: Lineage, event: lineage.Lost) -> list[lineage.AnyCommand]:
        if event.recipe in self.work:
            return [lineage.Submit(event.recipe, ())]
        return original(self, event)

    monkeypatch.setattr(Lineage, "_lost", lost)


def results_are_forgotten_when_they_are_there(monkeypatch: Patch) -> None:
    original = Lineage._ended

    def ended(self: Lineage, key: int) -> list[lineage.AnyCommand]:
        return [c for c in original(self, key) if not isinstance(c, lineage.Fill)]

    monkeypatch.setattr(Lineage, "_ended", ended)


def sources_are_forgotten_when_a_task_is_submitted(monkeypatch: Patch) -> None:
    """As it was: a task for which there was no room never found its arguments again."""
    original = Lineage._go_on

    def go_on(self: Lineage, keys: Iterable[int]) -> list[lineage.AnyCommand]:
        out = original(self, keys)
        for command in list(out):
            if isinstance(command, lineage.Submit):
                for other in self.work.values():
                    other.users.discard(command.recipe)
        for key in [key for key in self._kept if not self.work[key].users]:
            del self.work[key], self._kept[key]
            out.append(lineage.Forget(key))
        return out

    monkeypatch.setattr(Lineage, "_go_on", go_on)


def more_memory_than_there_is(monkeypatch: Patch) -> None:
    original = FakeRoom.allocate

    def allocate(self: FakeRoom, size: float, tenant: object) -> object:
        self.taken -= 2
        try:
            return original(self, size, tenant)  # type: ignore[arg-type]
        finally:
            self.taken += 2

    monkeypatch.setattr(FakeRoom, "allocate", allocate)


def the_dead_go_on_looking(monkeypatch: Patch) -> None:
    monkeypatch.setattr(FakeValues, "gone", lambda self, is_his: None)


def recipes_of_the_freed_stay(monkeypatch: Patch) -> None:
    monkeypatch.setattr(FakeRebuilds, "on_freed", lambda self, value: None)


VARIANTS = [
    damaged_values_are_believed,
    values_leave_while_they_are_looked_at,
    records_of_the_freed_stay,
    the_freed_are_not_told_of,
    lost_values_are_forgotten,
    room_is_refused_at_once,
    who_asks_for_room_is_never_answered,
    copies_are_forgotten,
    records_go_when_values_come_back,
    nothing_is_made_again,
    retries_are_not_counted,
    one_task_runs_twice_at_once,
    results_are_forgotten_when_they_are_there,
    sources_are_forgotten_when_a_task_is_submitted,
    more_memory_than_there_is,
    the_dead_go_on_looking,
    recipes_of_the_freed_stay,
]


@pytest.mark.timeout(600)  # on a machine that does other things too
@pytest.mark.parametrize("break_it", VARIANTS, ids=lambda variant: variant.__name__)
def test_what_is_broken_is_caught(break_it: Callable[[Patch], None], monkeypatch: Patch) -> None:
    break_it(monkeypatch)
    monkeypatch.setattr(Lineage, "validate", lambda self: None)
    shown_by = SHOWN_BY.get(break_it.__name__, SEEDS[0])
    for seed in (shown_by, *SEEDS):
        try:
            run(value_plan(seed))
        except SimulationError as caught:
            print(seed, repr(caught.violation)[:200])
            return
    pytest.fail(f"{break_it.__name__} was not noticed in {len(SEEDS)} seeds")
