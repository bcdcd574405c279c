"""How many items per second does `map` apply a function to that does nothing?

Shoal finds the size of chunks itself; `multiprocessing.Pool.map` computes it from the length of
the list. Ray has no such function.
"""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Iterator

from benchmarks.case import Case, Need, Share, Step, preparation
from benchmarks.sides import CORES, cluster

ITEMS = 10**6
CHUNK = 20_000


def noop(item: int) -> int:
    return item


def in_one_process() -> int:
    """Each chunk and each list of results pickled once and loaded once, each item called once."""
    for start in range(0, ITEMS, CHUNK):
        items = pickle.loads(pickle.dumps(list(range(start, start + CHUNK)), 5))
        results = [noop(item) for item in items]
        assert len(pickle.loads(pickle.dumps(results, 5))) == CHUNK
    return ITEMS


@preparation
def prepare(side: str) -> Iterator[Step]:
    if side == "need":
        yield in_one_process
    elif side == "multiprocessing":
        with multiprocessing.Pool(CORES) as workers:

            def with_pool() -> int:
                assert len(workers.map(noop, range(ITEMS))) == ITEMS
                return ITEMS

            yield with_pool
    else:
        with cluster(side) as api:

            def step() -> int:
                n = 0
                for _ in api.map(noop, range(ITEMS)):
                    n += 1
                assert n == ITEMS
                return ITEMS

            yield step


CASES = [
    Case(
        id="C13",
        question="`map(noop, range(10**6))`, chunks by themselves",
        unit="item",
        sides=("shoal", "multiprocessing"),
        prepare=prepare,
        floor=2e6,
        aim=Share(1.0, side="multiprocessing"),
        limit="python_call_per_core",
        least="one call per item, on every core",
        need=Need("one process that pickles each chunk there and back and calls", side="need"),
    )
]
