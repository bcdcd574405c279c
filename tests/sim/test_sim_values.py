"""Values in too little memory, on a disk that hardly ever works: exact, or a true error."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import pytest

from shoal.testing import Fault, Plan, Visit, run
from shoal.testing.sim.value_faults import VALUE_FAULTS

FAULTS = [*VALUE_FAULTS, "spilled value flipped", "spill file cut", "busy worker killed"]
SEEDS = (*range(7), 11, 31)
FAULTS_EACH = 20


def value_plan(seed: int, kinds: Sequence[str] = tuple(FAULTS), lineage: float = 1e6) -> Plan:
    """Programs that do little harm themselves, in a store that is too small for them."""
    chance = random.Random(seed)
    visits = tuple(Visit(chance.uniform(0.0, 1.0), f"driver {n}", 8) for n in range(3))
    faults = [
        Fault(chance.uniform(0.0, 2.5), chance.choice(kinds), chance.getrandbits(32))
        for _ in range(FAULTS_EACH if kinds else 0)
    ]
    in_time = tuple(sorted(faults, key=lambda fault: fault.at))
    return Plan(seed, 2.0, chance.choice((0.0, 0.3)), visits, in_time, 12, lineage)


@pytest.mark.timeout(600)  # on a machine that does other things too
def test_values_are_exact_whatever_happens_to_their_files() -> None:
    seen: Counter[str] = Counter()
    for seed in SEEDS:
        seen.update(run(value_plan(seed)).values)
    assert min(seen[what] for what in ("read", "left", "came back", "refused")) > 30
    assert min(seen[what] for what in ("lost", "rebuilt", "given up")) > 5
