"""How fast is `put` of a small value?"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.case import Case, Need, Step, preparation
from benchmarks.sides import CLUSTERS, cluster


@preparation
def prepare(side: str) -> Iterator[Step]:
    with cluster(side) as api:
        put = api.put

        def step() -> int:
            for _ in range(100):
                put(0)
            return 100

        yield step


CASES = [
    Case(
        id="C2",
        question="`put(0)`",
        unit="put",
        sides=CLUSTERS,
        prepare=prepare,
        floor=200e3,
        aim=500e3,
        limit="python_call",
        least="one call from Python",
        need=Need("nobody but the calling thread has anything to do: its CPU time", caller=True),
    )
]
