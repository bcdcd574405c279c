"""What does it cost that a task runs on another node? One task, many tasks, and large values.

Four nodes on this machine, each with its own daemon and store: Shoal's `testing.Cluster`, whose
links are encrypted, and Ray's `cluster_utils.Cluster`, whose are not. The driver is on the first
node; only the others have what the tasks ask for. A value is new in each step, so that nobody has
it from the last one.
"""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from benchmarks.case import Case, Sample, Share, Step, preparation
from benchmarks.sides import CLUSTERS

NODES = 4
STORE_BYTES = 2560 << 20
MANY = 1000
GIB = 1 << 30
ARGUMENT_BYTES = 100_000_000
WAIT_S = 120.0


@contextmanager
def nodes(side: str, count: int = NODES) -> Iterator[Any]:
    """A cluster with a driver on its first node; yields the module whose API the case uses. Node
    ``i`` of the others has the resource ``far<i>``, and all of them have ``far``."""
    api = importlib.import_module(side)
    where = "shoal.testing" if side == "shoal" else "ray.cluster_utils"
    made = importlib.import_module(where).Cluster()
    try:
        made.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
        for number in range(1, count):
            resources = {"far": 1000, f"far{number}": 1000}
            made.add_node(num_cpus=1, resources=resources, object_store_memory=STORE_BYTES)
        made.wait_for_nodes()
        if side == "shoal":
            made.connect()
        else:
            api.init(address=made.address, logging_level=logging.ERROR, log_to_driver=False)
        yield api
    finally:
        api.shutdown()
        made.shutdown()


@preparation
def prepare_task(side: str) -> Iterator[Step]:
    with nodes(side, 2) as api:

        @api.remote(resources={"far": 1})
        def noop() -> None:
            return None

        def step() -> int:
            api.get(noop.remote(), timeout=WAIT_S)
            return 1

        yield step


@preparation
def prepare_tasks(side: str) -> Iterator[Step]:
    with nodes(side) as api:

        @api.remote(resources={"far": 1})
        def noop() -> None:
            return None

        def step() -> int:
            api.get([noop.remote() for _ in range(MANY)], timeout=WAIT_S)
            return MANY

        yield step


@preparation
def prepare_get(side: str) -> Iterator[Step]:
    with nodes(side, 2) as api:

        @api.remote(resources={"far": 1})
        def make(size: int) -> Any:
            return np.ones(size // 8)

        def step() -> Sample:
            ref = make.remote(GIB)
            api.wait([ref], timeout=WAIT_S, fetch_local=False)
            begun = time.perf_counter()
            assert api.get(ref, timeout=WAIT_S).nbytes == GIB
            return Sample(GIB / 1e9, time.perf_counter() - begun)

        yield step


@preparation
def prepare_argument(side: str) -> Iterator[Step]:
    data = np.ones(ARGUMENT_BYTES // 8)
    with nodes(side, 2) as api:

        @api.remote(resources={"far": 1})
        def size_of(value: Any) -> int:
            return int(value.nbytes)

        api.get(size_of.remote(data[:10]), timeout=WAIT_S)

        def step() -> Sample:
            ref = api.put(data)
            begun = time.perf_counter()
            assert api.get(size_of.remote(ref), timeout=WAIT_S) == ARGUMENT_BYTES
            return Sample(ARGUMENT_BYTES / 1e9, time.perf_counter() - begun)

        yield step


@preparation
def prepare_broadcast(side: str) -> Iterator[Step]:
    data = np.ones(GIB // 8)
    with nodes(side) as api:

        @api.remote
        def total(value: Any) -> float:
            return float(value.sum())

        there = [total.options(resources={f"far{i}": 1}) for i in range(1, NODES)]
        api.get([each.remote(data[:10]) for each in there], timeout=WAIT_S)

        def step() -> Sample:
            ref = api.put(data)
            begun = time.perf_counter()
            sums = api.get([each.remote(ref) for each in there], timeout=WAIT_S)
            assert sums == [GIB / 8] * len(there)
            return Sample(len(there) * GIB / 1e9, time.perf_counter() - begun)

        yield step


CASES = [
    Case(
        id="C27-task",
        question="one no-op task on another node: `get(noop.remote())`",
        unit="task",
        sides=CLUSTERS,
        prepare=prepare_task,
        floor=Share(1.0, side="ray"),
        is_latency=True,
    ),
    Case(
        id="C27-tasks",
        question="1000 no-op tasks on three other nodes, then one `get`",
        unit="task",
        sides=CLUSTERS,
        prepare=prepare_tasks,
        floor=Share(1.0, side="ray"),
        max_peer_windows=2,
    ),
    Case(
        id="C27-get",
        question="`get` of 1 GiB that is on another node",
        unit="GB",
        sides=CLUSTERS,
        prepare=prepare_get,
        floor=Share(4.0, side="ray"),
        aim=Share(10.0, side="ray"),
        max_windows=2,
        max_peer_windows=2,
        has_neighbours=False,
    ),
    Case(
        id="C27-argument",
        question="a task on another node that is given 100 MB",
        unit="GB",
        sides=CLUSTERS,
        prepare=prepare_argument,
        floor=Share(1.0, side="ray"),
        max_windows=2,
        max_peer_windows=2,
        has_neighbours=False,
    ),
    Case(
        id="C27-broadcast",
        question="1 GiB to three other nodes, and `np.sum` of it on each",
        unit="GB",
        sides=CLUSTERS,
        prepare=prepare_broadcast,
        floor=Share(4.0, side="ray"),
        aim=Share(10.0, side="ray"),
        max_windows=2,
        max_peer_windows=2,
        has_neighbours=False,
    ),
]
