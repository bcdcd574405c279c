"""How many no-op tasks per second, when a thousand are submitted before waiting for them?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.case import Case, Need, Step, preparation
from benchmarks.phases import Gates, hold_until_closed, in_phases
from benchmarks.sides import CLUSTERS, CORES, POOLS, cluster, pool

TASKS = 1000
TOGETHER = 10_000
"""When taken apart (see `phases.py`): what that costs is little for each."""


def noop_in_pool() -> None:
    return None


@preparation
def prepare(side: str) -> Iterator[Step]:
    if side in POOLS:
        with pool(side) as workers:

            def submit() -> int:
                workers.collect([workers.submit(noop_in_pool) for _ in range(TASKS)])
                return TASKS

            yield submit
        return
    with cluster(side) as api:

        @api.remote
        def noop() -> None:
            return None

        def submit(n: int) -> list[Any]:
            return [noop.remote() for _ in range(n)]

        def step() -> int:
            api.get(submit(TASKS))
            return TASKS

        gates = Gates([api.remote(hold_until_closed).remote] * CORES)
        api.get(submit(TASKS))

        def phases() -> int:
            return in_phases(api, gates, lambda: submit(TOGETHER), api.get)

        yield phases if side == "need" else step


CASES = [
    Case(
        id="C12",
        question="1000 no-op tasks, then one `get`",
        unit="task",
        sides=(*CLUSTERS, *POOLS),
        prepare=prepare,
        floor=100e3,
        aim=400e3,
        aim_of_best=5.0,
        limit="python_call",
        least="one call from Python; the workers run at the same time",
        need=Need("submitting, running and collecting one after another", side="need"),
    )
]
