"""How many items per second do drop-in pools run that do nothing, beside the pools they replace?

Each side is asked in its own words: `multiprocessing.Pool`, `concurrent.futures`, loky, and joblib
over loky and over Shoal; two processes each. Where several peers can answer, the floor is the best
of them in the same run.
"""

from __future__ import annotations

import concurrent.futures
import importlib
import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.case import BEST_PEER, Case, Preparation, Share, Step, preparation
from benchmarks.sides import CORES, cluster

CALLS = 1000
ITEMS = 2000
MANY = 100_000


def noop(item: int) -> int:
    return item


@contextmanager
def pool_of(side: str) -> Iterator[Any]:
    """What has the methods of `multiprocessing.Pool`."""
    if side == "multiprocessing":
        with multiprocessing.Pool(CORES) as workers:
            yield workers
        return
    with cluster(side):
        module = importlib.import_module("shoal.util.multiprocessing")
        with module.Pool(CORES) as workers:
            yield workers


@contextmanager
def executor_of(side: str) -> Iterator[Any]:
    """What has the methods of `concurrent.futures.Executor`."""
    if side == "executor":
        with concurrent.futures.ProcessPoolExecutor(CORES) as executor:
            yield executor
    elif side == "loky":
        with importlib.import_module("loky").get_reusable_executor(CORES) as executor:
            yield executor
    else:
        with cluster(side):
            module = importlib.import_module("shoal.util.executor")
            with module.PoolExecutor(CORES) as executor:
                yield executor


def checked(found: list[int], n: int) -> int:
    assert len(found) == n and found[-1] == n - 1
    return n


POOL_STEPS: dict[str, Callable[[Any], int]] = {
    "apply": lambda pool: checked([pool.apply(noop, (i,)) for i in range(100)], 100),
    "async": lambda pool: checked(
        [result.get() for result in [pool.apply_async(noop, (i,)) for i in range(CALLS)]], CALLS
    ),
    "map": lambda pool: checked(pool.map(noop, range(MANY)), MANY),
    "map1": lambda pool: checked(pool.map(noop, range(ITEMS), chunksize=1), ITEMS),
    "imap": lambda pool: checked(list(pool.imap(noop, range(ITEMS))), ITEMS),
}

EXECUTOR_STEPS: dict[str, Callable[[Any], int]] = {
    "apply": lambda executor: checked([executor.submit(noop, i).result() for i in range(100)], 100),
    "async": lambda executor: checked(
        [future.result() for future in [executor.submit(noop, i) for i in range(CALLS)]], CALLS
    ),
    "map1": lambda executor: checked(list(executor.map(noop, range(ITEMS))), ITEMS),
}
EXECUTOR_STEPS["submit"] = EXECUTOR_STEPS["async"]

QUESTIONS = {
    "apply": "`pool.apply(noop)`, one after the other",
    "async": "`pool.apply_async(noop)`, 1,000 at a time",
    "map": "`pool.map(noop, range(100_000))`, chunks by themselves",
    "map1": "`pool.map(noop, range(2_000), chunksize=1)`",
    "imap": "`pool.imap(noop, range(2_000))`",
    "submit": "`executor.submit(noop)`, 1,000 at a time",
}


def prepare(name: str) -> Preparation:
    @preparation
    def choose(side: str) -> Iterator[Step]:
        is_pool = side == "multiprocessing" or (side == "shoal" and name in POOL_STEPS)
        step = (POOL_STEPS if is_pool else EXECUTOR_STEPS)[name]
        with (pool_of if is_pool else executor_of)(side) as workers:
            yield lambda: step(workers)

    return choose


@preparation
def prepare_joblib(side: str) -> Iterator[Step]:
    joblib: Any = importlib.import_module("joblib")

    def step() -> int:
        calls = (joblib.delayed(noop)(i) for i in range(CALLS))
        return checked(joblib.Parallel(n_jobs=CORES)(calls), CALLS)

    if side == "joblib":
        with joblib.parallel_backend("loky", n_jobs=CORES):
            yield step
        return
    with cluster(side):
        importlib.import_module("shoal.util.joblib").register_shoal()
        with joblib.parallel_backend("shoal", n_jobs=CORES):
            yield step


def case(name: str, *peers: str) -> Case:
    return Case(
        id=f"C25-{name}",
        question=QUESTIONS[name],
        unit="item",
        sides=("shoal", *peers),
        prepare=prepare(name),
        floor=Share(1.0, side=BEST_PEER),
        limit="python_call_per_core",
        least="one call per item, on every core",
        has_neighbours=False,
        max_windows=2,
        max_peer_windows=2,
    )


CASES = [
    case("apply", "multiprocessing", "executor", "loky"),
    case("async", "multiprocessing", "executor", "loky"),
    case("map", "multiprocessing"),
    case("map1", "multiprocessing", "executor", "loky"),
    case("imap", "multiprocessing"),
    case("submit", "executor", "loky"),
    Case(
        id="C25-joblib",
        question="`joblib.Parallel` of 1,000 calls of `noop`",
        unit="item",
        sides=("shoal", "joblib"),
        prepare=prepare_joblib,
        floor=Share(1.0, side=BEST_PEER),
        has_neighbours=False,
        max_windows=2,
        max_peer_windows=2,
    ),
]
