"""How long does it take to create actors and have an answer from each?

Ending them again is not part of the question, but the next round starts only when they are gone.
1000 process actors are asked of Shoal only: Ray's would need 160 GB.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager

from benchmarks.case import Case, Preparation, Sample, Step, preparation
from benchmarks.sides import CLUSTERS, cluster

ENDING_S = 60.0


@preparation
def create(side: str, n: int) -> Iterator[Step]:
    with cluster(side) as api:

        @api.remote(num_cpus=0)
        class Actor:
            def ready(self) -> int:
                return 1

        def step() -> Sample:
            start = time.perf_counter()
            actors = [Actor.remote() for _ in range(n)]
            assert sum(api.get([actor.ready.remote() for actor in actors])) == n
            took_s = time.perf_counter() - start
            last = [actor.ready.remote() for actor in actors]
            for actor in actors:
                api.kill(actor)
            # A killed actor's call fails or was answered: either way its process is done for.
            ready, late = api.wait(last, num_returns=len(last), timeout=ENDING_S)
            assert len(ready) == n and not late
            return Sample(1, took_s)

        yield step


def preparation_for(n: int) -> Preparation:
    def prepare(side: str) -> AbstractContextManager[Step]:
        return create(side, n)

    return prepare


CASES = [
    Case(
        id="C21-20",
        question="create 20 actors and call each",
        unit="round",
        sides=CLUSTERS,
        prepare=preparation_for(20),
        floor=1 / 0.100,
        aim=1 / 0.040,
        limit="fork_20",
        is_latency=True,
        max_windows=3,
    ),
    Case(
        id="C21-1000",
        question="create 1000 actors and call each",
        unit="round",
        sides=("shoal",),
        prepare=preparation_for(1000),
        floor=1 / 6.0,
        aim=1 / 3.0,
        limit="fork_1000",
        is_latency=True,
        max_windows=1,
    ),
]
