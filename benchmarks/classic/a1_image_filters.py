"""Arrays: several filters over one large image.

With a pool the image travels to every task, pickled; a store keeps one copy that every
process reads. Each side filters the same image with the same kernels and gets the same sums.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.case import Case, Step, preparation
from benchmarks.sides import CLUSTERS, CORES, POOLS, cluster, pool

SIZE = 2000
KERNELS = [np.random.default_rng(i).normal(size=(4, 4)) for i in range(2 * CORES)]


def make_image() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(SIZE, SIZE))


def filter_sum(image: np.ndarray, kernel: np.ndarray) -> float:
    """Sum of the valid part of the image convolved with the kernel."""
    height, width = image.shape[0] - kernel.shape[0] + 1, image.shape[1] - kernel.shape[1] + 1
    out = np.zeros((height, width))
    for (i, j), weight in np.ndenumerate(kernel):
        out += weight * image[i : i + height, j : j + width]
    return float(np.abs(out).sum())


@preparation
def prepare(side: str) -> Iterator[Step]:
    image = make_image()
    expected = [filter_sum(image, kernel) for kernel in KERNELS]
    if side == "serial":

        def serially() -> int:
            assert [filter_sum(image, kernel) for kernel in KERNELS] == expected
            return 1

        yield serially
    elif side in POOLS:
        with pool(side) as workers:

            def with_pool() -> int:
                pending = [workers.submit(filter_sum, image, kernel) for kernel in KERNELS]
                assert workers.collect(pending) == expected
                return 1

            yield with_pool
    else:
        with cluster(side) as api:
            task = api.remote(filter_sum)

            def with_tasks() -> int:
                ref = api.put(image)
                assert api.get([task.remote(ref, kernel) for kernel in KERNELS]) == expected
                return 1

            yield with_tasks


CASES = [
    Case(
        id="A1",
        question=f"{len(KERNELS)} filters over one image of {SIZE * SIZE * 8 // 10**6} MB",
        unit="job",
        sides=(*CLUSTERS, "multiprocessing", "serial"),
        prepare=prepare,
    )
]
