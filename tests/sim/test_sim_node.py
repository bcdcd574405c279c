"""Whole lives of a simulated node: one seed, one run. The seed is the test's parameter.

Which seeds run is written here, so that a green run means the same everywhere.
"""

from __future__ import annotations

import pytest

from tests.sim.lives import live

SEEDS = (*range(40), 42, 52)


@pytest.mark.parametrize("seed", SEEDS)
def test_life_of_a_node(seed: int) -> None:
    live(seed)


def test_same_seed_same_run() -> None:
    first, second = live(7), live(7)
    assert first.steps == second.steps
    assert [t.state for t in first.tasks.values()] == [t.state for t in second.tasks.values()]
