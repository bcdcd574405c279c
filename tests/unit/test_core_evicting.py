"""What is given up where no file can take it: never what could not be made again."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from shoal._core.evicting import Evictions, Unit


def unit(key: int, *runs: int, mark: int = 0, is_needed: bool = False) -> Unit:
    """One extent with one value."""
    return Unit(key, 1, (key,), mark, (runs or (key,),), is_needed)


def places(units: list[Unit]) -> list[int]:
    return [u.place for u in units]


def test_no_more_goes_than_is_asked_for() -> None:
    chosen = Evictions().choose(0.0, 2, [unit(1), unit(2), unit(3)], {1: 1, 2: 1, 3: 1})
    assert places(chosen) == [1, 2]


def test_what_a_task_waits_for_goes_last() -> None:
    machine = Evictions()
    units = [unit(1, is_needed=True), unit(2), unit(3)]
    assert places(machine.choose(0.0, 3, units, {1: 1, 2: 1, 3: 1})) == [2, 3, 1]


def test_the_least_recently_used_goes_first() -> None:
    machine = Evictions()
    left = {1: 1, 2: 1, 3: 1}
    assert machine.choose(0.0, 0, [unit(1), unit(2), unit(3)], left) == []
    assert machine.choose(1.0, 0, [unit(1, mark=5), unit(2), unit(3)], left) == []
    units = [unit(1, mark=5), unit(2, mark=6), unit(3)]
    assert places(machine.choose(2.0, 3, units, left)) == [3, 1, 2]


def test_a_run_is_counted_on_once() -> None:
    machine = Evictions()
    left = {1: 1, 2: 5, 7: 1}
    assert places(machine.choose(0.0, 9, [unit(1, 1, 7), unit(2, 2, 7)], left)) == [1]
    assert machine.choose(0.0, 9, [unit(2, 2, 7)], left) == []
    machine.back(1)
    assert places(machine.choose(0.0, 9, [unit(2, 2, 7)], left)) == [2]
    machine.validate()


def test_two_values_of_one_extent_go_together_or_not_at_all() -> None:
    machine = Evictions()
    both = Unit(1, 1, (1, 2), 0, ((5,), (5,)), False)
    assert machine.choose(0.0, 1, [both], {5: 1}) == []
    assert machine.choose(0.0, 1, [both], {5: 2}) == [both]


def test_without_a_limit_any_number_goes() -> None:
    machine = Evictions()
    chosen = machine.choose(0.0, 50, [unit(i, 7) for i in range(50)], {7: -1})
    assert len(chosen) == 50


ROUNDS = st.lists(
    st.tuples(
        st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=3, unique=True), max_size=6),
        st.integers(0, 6),
        st.sets(st.integers(0, 40), max_size=4),
    ),
    max_size=8,
)


@settings(max_examples=150, deadline=None)
@given(rounds=ROUNDS, retries=st.lists(st.integers(-1, 3), min_size=5, max_size=5))
def test_everything_that_was_given_up_can_come_back_in_any_order(
    rounds: list[tuple[list[list[int]], int, set[int]]], retries: list[int]
) -> None:
    machine = Evictions()
    left = dict(enumerate(retries))
    number = 0
    for offered, n_extents, back in rounds:
        units = []
        for runs in offered:
            number += 1
            units.append(unit(number, *runs))
        chosen = machine.choose(float(number), n_extents, units, left)
        assert len(chosen) <= n_extents
        machine.validate()
        for key in sorted(back & machine.out.keys()):
            for recipe in machine.out[key]:
                assert left[recipe] != 0
                left[recipe] -= left[recipe] > 0
            machine.back(key)
    for key in sorted(machine.out, key=lambda key: -key):  # all of them are wanted in the end
        for recipe in machine.out[key]:
            assert left[recipe] != 0
            left[recipe] -= left[recipe] > 0
        machine.back(key)
    machine.validate()
