"""How much memory do an idle control plane, an idle worker and a pending task take?

PSS: shared pages are counted once, divided among those who map them. The control plane is every
process of the session that is neither this program nor a worker. A pending task's bytes are what
all processes together have more after many were submitted that cannot start.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from benchmarks.case import Amount, Case, Preparation, Step, preparation
from benchmarks.side import MARK, marked_pids, pss_bytes
from benchmarks.sides import CLUSTERS, CORES, cluster

PENDING = {"shoal": 100_000, "ray": 10_000}


def session_pids() -> list[int]:
    return marked_pids(os.environ[MARK])


def worker_pids(api: Any) -> set[int]:
    """Processes that have run a task: each sleeps a little, so that all get one."""

    @api.remote
    def slow_pid() -> int:
        time.sleep(0.05)
        return os.getpid()

    return set(api.get([slow_pid.remote() for _ in range(4 * CORES)]))


def control_plane(api: Any) -> Callable[[], Amount]:
    """Those that are neither workers (busy or spare) nor this program."""
    others = worker_pids(api) | {os.getpid()}
    if api.__name__ == "shoal":
        others |= {worker.pid for worker in api.state.workers()}

    def step() -> Amount:
        left = [pid for pid in session_pids() if pid not in others and not is_spare_of_ray(pid)]
        return Amount(sum(map(pss_bytes, left)))

    return step


def is_spare_of_ray(pid: int) -> bool:
    """Ray starts more workers than have run anything; their titles say what they are."""
    try:
        title = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return True  # it ended: whatever it was, it is none of the control plane
    return title.startswith(b"ray::") or b"default_worker.py" in title


def per_worker(api: Any) -> Callable[[], Amount]:
    workers = worker_pids(api)
    return lambda: Amount(sum(map(pss_bytes, workers)) / len(workers))


def per_pending_task(api: Any, n: int) -> Callable[[], Amount]:
    """Tasks that want something nobody has until they are let go by the end of the session."""

    @api.remote(resources={"nobody has this": 1})
    def noop() -> None:
        return None

    waiting = [noop.remote() for _ in range(100)]
    kept: list[Any] = []

    def step() -> Amount:
        before = sum(map(pss_bytes, session_pids()))
        kept.extend([noop.remote() for _ in range(n)])
        after = sum(map(pss_bytes, session_pids()))
        assert waiting
        return Amount((after - before) / n)

    return step


@preparation
def measure_memory(side: str, what: str) -> Iterator[Step]:
    with cluster(side) as api:
        if what == "control plane":
            yield control_plane(api)
        elif what == "worker":
            yield per_worker(api)
        else:
            yield per_pending_task(api, PENDING[side])


def preparation_for(what: str) -> Preparation:
    def prepare(side: str) -> AbstractContextManager[Step]:
        return measure_memory(side, what)

    return prepare


def case(name: str, question: str, what: str, floor: float, aim: float) -> Case:
    return Case(
        id=f"C22-{name}",
        question=question,
        unit=what,
        sides=CLUSTERS,
        prepare=preparation_for(what),
        quantity="bytes",
        floor=floor,
        aim=aim,
        has_neighbours=False,
        is_cold=what == "pending task",
        max_windows=1 if what == "pending task" else 3,
    )


CASES = [
    case("control", "memory of an idle control plane", "control plane", 40e6, 25e6),
    case("worker", "memory of an idle worker", "worker", 8e6, 3e6),
    case("task", "memory of a pending task, of 100,000", "pending task", 1000, 400),
]
