"""Whole lives of a simulated cluster: a node and its control store, with every fault there is.

Which seeds run is written here, so that a green run means the same everywhere; `make sim` runs
more.
"""

from __future__ import annotations

import re
from collections import Counter

import pytest

from shoal.testing import FAULTS, SimCluster, SimulationError, run, shrink
from shoal.testing.sim import stories
from shoal.testing.sim.cluster import plan

SEEDS = range(120)
PER_TEST = 10


@pytest.mark.timeout(600)  # on a machine that does other things too
@pytest.mark.parametrize("first", SEEDS[::PER_TEST])
def test_lives_of_a_cluster(first: int) -> None:
    for seed in range(first, first + PER_TEST):
        assert SimCluster(seed).run().steps > 0


def test_the_same_seed_is_the_same_run() -> None:
    for seed in (3, 8, 11):
        assert SimCluster(seed).run() == SimCluster(seed).run()


def test_the_seeds_try_every_fault() -> None:
    struck = Counter(fault.kind for seed in SEEDS for fault in plan(seed).faults)
    assert set(struck) == set(FAULTS)
    assert min(struck.values()) >= 12


def test_faults_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match="there is no such kind; there are: actor killed"):
        SimCluster(1, faults=["meteor"])


def test_only_the_faults_that_were_asked_for_strike() -> None:
    assert SimCluster(2, faults=[]).run().faults == {}
    assert set(SimCluster(9, faults=["store killed"]).run().faults) <= {"store killed"}


def test_a_failing_seed_prints_itself_its_story_and_can_be_made_small(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from shoal._core.tasks import Crashes

    monkeypatch.setattr(Crashes, "decide", lambda self, death: [])
    error = next(found for seed in range(60) if (found := _failure(seed)) is not None)
    text = str(error)
    assert text.startswith(f"seed {error.plan.seed}: ")
    assert f"python -m shoal.testing.sim --seed {error.plan.seed}" in text
    assert "\nfound in " in text and stories.LEGEND in text
    assert error.story and len(error.story) < len(error.full)
    told = re.compile(r" *\d+\.\d{6}  [<>!] \w[^:]*(: .+)?")
    assert all(told.fullmatch(line.replace("\n", " ")) for line in error.story)
    smaller = shrink(error)
    assert len(smaller.faults) <= len(error.plan.faults)
    with pytest.raises(SimulationError):
        run(smaller)


def _failure(seed: int) -> SimulationError | None:
    try:
        SimCluster(seed).run()
    except SimulationError as error:
        return error
    return None
