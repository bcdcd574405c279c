"""How fast is `get` of one value that was put once, again and again?"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.case import Case, Need, Step, preparation
from benchmarks.sides import CLUSTERS, cluster


@preparation
def prepare(side: str) -> Iterator[Step]:
    with cluster(side) as api:
        ref = api.put(0)
        get = api.get

        def step() -> int:
            for _ in range(1000):
                get(ref)
            return 1000

        yield step


CASES = [
    Case(
        id="C1",
        question="`get` of one put int",
        unit="get",
        sides=CLUSTERS,
        prepare=prepare,
        floor=300e3,
        aim=800e3,
        limit="python_call",
        least="one call from Python",
        need=Need("nobody but the calling thread has anything to do: its CPU time", caller=True),
    )
]
