"""How long does one no-op task take, from the call to its result?"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.case import Case, Need, Step, preparation
from benchmarks.sides import CLUSTERS, POOLS, cluster, pool


def noop_in_pool() -> None:
    return None


@preparation
def prepare(side: str) -> Iterator[Step]:
    if side in POOLS:
        with pool(side) as workers:

            def call() -> int:
                workers.call(noop_in_pool)
                return 1

            yield call
        return
    with cluster(side) as api:

        @api.remote
        def noop() -> None:
            return None

        def step() -> int:
            api.get(noop.remote())
            return 1

        yield step


CASES = [
    Case(
        id="C11",
        question="one no-op task: `get(noop.remote())`",
        unit="task",
        sides=(*CLUSTERS, *POOLS),
        prepare=prepare,
        floor=40e3,
        aim=150e3,
        limit="spin",
        least="two hand-overs between cores",
        need=Need("the task's need when it is one of a thousand", case="C12"),
        is_latency=True,
    )
]
