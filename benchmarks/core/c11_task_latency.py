"""How long does one no-op task take, from the call to its result?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.case import Case, Need, Step, preparation
from benchmarks.phases import Gates, hold_until_closed, in_phases
from benchmarks.sides import CLUSTERS, CORES, POOLS, cluster, pool

TOGETHER = 2000
"""Tasks that are taken apart together (see `phases.py`), each with a `get` of its own."""


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

        def submit() -> list[Any]:
            return [noop.remote() for _ in range(TOGETHER)]

        def collect(refs: list[Any]) -> None:
            while refs:
                api.get(refs.pop())

        if side == "need":
            gates = Gates([api.remote(hold_until_closed).remote] * CORES)
            yield lambda: in_phases(api, gates, submit, collect)
        else:
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
        need=Need("the same calls: submitting, running, collecting in turn", side="need"),
        is_latency=True,
    )
]
