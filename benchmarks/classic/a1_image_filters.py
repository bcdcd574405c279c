"""Arrays: several filters over one large image.

With a pool the image travels to every task, pickled; a store keeps one copy that every
process reads. Each side filters the same image with the same kernels and gets the same sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.case import Case, Need, Share, Step, preparation
from benchmarks.sides import AT_ONCE, CLUSTERS, CORES, POOLS, at_once, cluster, pool

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


# What one writes, apart from the filter: for the page that compares the programs' lengths.


def with_shoal_or_ray(api: Any, image: np.ndarray) -> list[float]:
    task = api.remote(filter_sum)
    ref = api.put(image)
    return api.get([task.remote(ref, kernel) for kernel in KERNELS])


def with_pool(workers: Any, image: np.ndarray) -> list[float]:
    return workers.collect([workers.submit(filter_sum, image, kernel) for kernel in KERNELS])


def serially(image: np.ndarray) -> list[float]:
    return [filter_sum(image, kernel) for kernel in KERNELS]


PROGRAMS: dict[str, tuple[Callable[..., Any], ...]] = {
    "Shoal and Ray": (with_shoal_or_ray,),
    "mp.Pool": (with_pool,),
    "serial": (serially,),
}


@preparation
def prepare(side: str) -> Iterator[Step]:
    image = make_image()
    expected = serially(image)

    def checked(found: list[float]) -> int:
        assert found == expected
        return 1

    if side == "serial":
        yield lambda: checked(serially(image))
    elif side == AT_ONCE:
        with at_once(lambda: checked(serially(image))) as together:
            yield together
    elif side in POOLS:
        with pool(side) as workers:
            yield lambda: checked(with_pool(workers, image))
    else:
        with cluster(side) as api:
            yield lambda: checked(with_shoal_or_ray(api, image))


CASES = [
    Case(
        id="A1",
        question=f"{len(KERNELS)} filters over one image of {SIZE * SIZE * 8 // 10**6} MB",
        unit="job",
        sides=(*CLUSTERS, "multiprocessing", "serial", AT_ONCE),
        prepare=prepare,
        floor=Share(1 / 1.15, side=AT_ONCE),
        aim=Share(1 / 1.05, side=AT_ONCE),
        need=Need("the serial programs at once", side=AT_ONCE),
        has_neighbours=False,
    )
]
