"""At which rate does `put` copy a large array into the store, in the steady state?

838.9 MB at a time, counted as 0.8389 GB. Zeros (C4) come from one page of the kernel and so from
the cache; random data (C5) comes from memory. Each put frees the one before it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.case import Case, Need, Share, Step, preparation
from benchmarks.sides import CLUSTERS, cluster

COUNT = 100 * 2**20
GB = COUNT * 8 / 1e9


@preparation
def prepare_zeros(side: str) -> Iterator[Step]:
    return put_again_and_again(side, np.zeros(COUNT, dtype=np.int64))


@preparation
def prepare_random(side: str) -> Iterator[Step]:
    random = np.random.default_rng(1)
    return put_again_and_again(side, random.integers(0, 2**62, COUNT, dtype=np.int64))


def put_again_and_again(side: str, array: np.ndarray) -> Iterator[Step]:
    with cluster(side) as api:

        def step() -> float:
            api.put(array)
            return GB

        yield step


CASES = [
    Case(
        id="C4",
        question="`put` of 838.9 MB of zeros",
        unit="GB",
        sides=CLUSTERS,
        prepare=prepare_zeros,
        floor=16.0,
        aim=40.0,
        limit="copy_zero",
        least="one copy to warm pages, from a source that stays in the cache",
        need=Need("nobody but the calling thread has anything to do: its CPU time", caller=True),
        warmup_steps=8,
    ),
    Case(
        id="C5",
        question="`put` of 838.9 MB of random data",
        unit="GB",
        sides=CLUSTERS,
        prepare=prepare_random,
        floor=Share(0.75, limit="memcpy_random"),
        aim=Share(0.95, limit="copy_random"),
        limit="copy_random",
        least="one copy to warm pages",
        need=Need("nobody but the calling thread has anything to do: its CPU time", caller=True),
        warmup_steps=8,
    ),
]
