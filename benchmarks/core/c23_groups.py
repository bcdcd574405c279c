"""How many placement groups of one bundle are made, waited for and removed per second?"""

from __future__ import annotations

import importlib
from collections.abc import Iterator

from benchmarks.case import Case, Step, preparation
from benchmarks.sides import CLUSTERS, cluster

GROUPS = 100
"""Made together, then waited for, then removed."""
WAIT_S = 60


@preparation
def prepare(side: str) -> Iterator[Step]:
    with cluster(side):
        module = "shoal" if side == "need" else side
        groups = importlib.import_module(f"{module}.util.placement_group")

        def step() -> int:
            made = [groups.placement_group([{"CPU": 0.001}]) for _ in range(GROUPS)]
            for group in made:
                assert group.wait(timeout_seconds=WAIT_S)
            for group in made:
                groups.remove_placement_group(group)
            return GROUPS

        yield step


CASES = [
    Case(
        id="C23",
        question="create, wait for and remove placement groups of one bundle",
        unit="group",
        sides=CLUSTERS,
        prepare=prepare,
        floor=2_000.0,
        aim=10_000.0,
    )
]
