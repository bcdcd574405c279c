"""What does `wait` cost when called a thousand times over a shrinking list of a thousand refs?

One round submits 1000 no-op tasks and then takes one ready ref at a time with `wait(not_ready)`.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.case import Case, Step, preparation
from benchmarks.sides import CLUSTERS, cluster

TASKS = 1000


@preparation
def prepare(side: str) -> Iterator[Step]:
    with cluster(side) as api:

        @api.remote
        def noop() -> bytes:
            return b"ok"

        api.get([noop.remote() for _ in range(100)])

        def step() -> int:
            not_ready = [noop.remote() for _ in range(TASKS)]
            for _ in range(TASKS):
                _, not_ready = api.wait(not_ready)
            assert not not_ready
            return 1

        yield step


CASES = [
    Case(
        id="C10",
        question="1000 no-op tasks, then 1000 `wait(not_ready)`",
        unit="round",
        sides=CLUSTERS,
        prepare=prepare,
        floor=30.0,
        aim=70.0,
    )
]
