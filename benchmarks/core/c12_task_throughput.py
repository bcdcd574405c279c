"""How many no-op tasks per second, when a thousand are submitted before waiting for them?"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.case import Case, Step, preparation
from benchmarks.sides import CLUSTERS, POOLS, cluster, pool

TASKS = 1000


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

        def step() -> int:
            api.get([noop.remote() for _ in range(TASKS)])
            return TASKS

        yield step


CASES = [
    Case(
        id="C12",
        question="1000 no-op tasks, then one `get`",
        unit="task",
        sides=(*CLUSTERS, *POOLS),
        prepare=prepare,
        floor=100e3,
        aim=400e3,
        limit="python_call",
    )
]
