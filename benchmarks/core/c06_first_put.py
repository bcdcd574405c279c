"""How fast is the very first large `put` of a session, at once and after five idle seconds?

No page of the store has been written yet: what counts is how fast fresh shared memory can be had,
and whether it was made ready meanwhile. Every sample has a session of its own; starting and ending
it does not count. The data are random and have been written before.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager

import numpy as np

from benchmarks.case import Case, Preparation, Sample, Step, preparation
from benchmarks.sides import CLUSTERS, cluster

COUNT = 100_000_000
GB = COUNT * 8 / 1e9


@preparation
def first_put(side: str, idle_s: float) -> Iterator[Step]:
    array = np.random.default_rng(1).integers(0, 2**62, COUNT, dtype=np.int64)

    def step() -> Sample:
        with cluster(side) as api:
            time.sleep(idle_s)
            start = time.perf_counter()
            ref = api.put(array)
            took_s = time.perf_counter() - start
            del ref
        return Sample(GB, took_s)

    yield step


def preparation_for(idle_s: float) -> Preparation:
    def prepare(side: str) -> AbstractContextManager[Step]:
        return first_put(side, idle_s)

    return prepare


CASES = [
    Case(
        id="C6",
        question="first 800 MB put right after init",
        unit="GB",
        sides=CLUSTERS,
        prepare=preparation_for(0.0),
        floor=1.4,
        aim=2.2,
        limit="fresh_copy",
        least="making fresh pages in the fastest way, then one copy",
        is_cold=True,
        max_windows=3,
        max_peer_windows=2,
    ),
    Case(
        id="C6-idle",
        question="first 800 MB put five seconds after init",
        unit="GB",
        sides=CLUSTERS,
        prepare=preparation_for(5.0),
        floor=2.5,
        aim=15.0,
        limit="copy_random",
        least="one copy: five seconds are enough to make all pages",
        is_cold=True,
        max_windows=3,
        max_peer_windows=1,
    ),
]
