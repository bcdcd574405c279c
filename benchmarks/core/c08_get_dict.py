"""How long does another process take to get a dict of ten arrays, 400 MB together?

The first time it has never seen the value; the second time it has let go of it again. Nothing is
copied: the arrays lie in the store. The other process reads its own clock.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from benchmarks.case import Case, Preparation, Sample, Step, preparation
from benchmarks.sides import CLUSTERS, cluster

ARRAYS = 10
COUNT = 5_000_000


@preparation
def get_dict(side: str, which: int) -> Iterator[Step]:
    value = {f"array {i}": np.full(COUNT, float(i)) for i in range(ARRAYS)}
    with cluster(side) as api:

        @api.remote
        class Reader:
            def seconds_of_gets(self, boxed: list[Any]) -> list[float]:
                times = []
                for _ in range(2):
                    start = time.perf_counter()
                    found = api.get(boxed[0])
                    times.append(time.perf_counter() - start)
                    assert len(found) == ARRAYS
                    del found
                return times

        reader = Reader.remote()

        def step() -> Sample:
            ref = api.put(value)
            times = api.get(reader.seconds_of_gets.remote([ref]))
            return Sample(1, times[which])

        yield step


def preparation_for(which: int) -> Preparation:
    def prepare(side: str) -> AbstractContextManager[Step]:
        return get_dict(side, which)

    return prepare


CASES = [
    Case(
        id="C8-first",
        question="`get` of a 400 MB dict of 10 arrays in another process, first time",
        unit="get",
        sides=CLUSTERS,
        prepare=preparation_for(0),
        quantity="time",
        limit="load_10_arrays",
        least="unpickling a dict of ten arrays around bytes that are there",
        is_latency=True,
    ),
    Case(
        id="C8-second",
        question="`get` of a 400 MB dict of 10 arrays in another process, second time",
        unit="get",
        sides=CLUSTERS,
        prepare=preparation_for(1),
        quantity="time",
        floor=50e-6,
        aim=30e-6,
        limit="load_10_arrays",
        least="unpickling a dict of ten arrays around bytes that are there",
        is_latency=True,
    ),
]
