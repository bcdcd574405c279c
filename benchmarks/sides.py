"""How each side is started: with its own best settings, and the same number of processes.

`cluster` gives the module whose API the case uses: Shoal and Ray share it. `pool` gives one
shape for the three pools: `call` waits for one result, `submit` starts one and `collect` waits for
many. Imports are lazy, as each side lives in an environment that has only itself.
"""

from __future__ import annotations

import concurrent.futures
import importlib
import logging
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

CLUSTERS = ("shoal", "ray")
AT_ONCE = "serial at once"
"""One serial program per core, all at the same time: what the cores can give to such work."""
POOLS = ("multiprocessing", "executor", "loky", "dask")
CORES = len(os.sched_getaffinity(0))
STORE_BYTES = 4 << 30


@contextmanager
def cluster(side: str, num_cpus: int = CORES) -> Iterator[Any]:
    """A session of Shoal or Ray; yields its module. `need` is Shoal, asked otherwise."""
    side = "shoal" if side == "need" else side
    api = importlib.import_module(side)
    options: dict[str, Any] = {"num_cpus": num_cpus, "object_store_memory": STORE_BYTES}
    if side == "ray":
        options |= {"include_dashboard": False, "logging_level": logging.ERROR}
        options["log_to_driver"] = False
        options["address"] = "local"  # not a cluster that somebody has left here
    api.init(**options)
    try:
        yield api
    finally:
        api.shutdown()


@dataclass(frozen=True)
class Pool:
    """What the pools have in common."""

    call: Callable[..., Any]
    submit: Callable[..., Any]
    collect: Callable[[Sequence[Any]], list[Any]]


@contextmanager
def dask_client(processes: int = CORES) -> Iterator[Any]:
    """A client of Dask distributed on this machine, one process per core, without a dashboard."""
    distributed = importlib.import_module("distributed")
    with distributed.LocalCluster(
        n_workers=processes, threads_per_worker=1, dashboard_address=None, silence_logs=50
    ) as local:
        with distributed.Client(local) as client:
            client.gather(client.map(abs, range(100), pure=False))
            yield client


@contextmanager
def pool(side: str, processes: int = CORES) -> Iterator[Pool]:
    """One of POOLS, warm: each process has run something."""
    if side == "multiprocessing":
        with multiprocessing.Pool(processes) as workers:
            workers.map(abs, range(100))
            yield Pool(
                lambda f, *args: workers.apply(f, args),
                lambda f, *args: workers.apply_async(f, args),
                lambda results: [result.get() for result in results],
            )
        return
    if side == "dask":
        with dask_client(processes) as client:
            yield Pool(
                lambda f, *args: client.submit(f, *args, pure=False).result(),
                lambda f, *args: client.submit(f, *args, pure=False),
                client.gather,
            )
        return
    if side == "executor":
        executor = concurrent.futures.ProcessPoolExecutor(processes)
    else:
        executor = importlib.import_module("loky").get_reusable_executor(processes)
    with executor as workers:
        list(workers.map(abs, range(100)))
        yield Pool(
            lambda f, *args: workers.submit(f, *args).result(),
            workers.submit,
            lambda results: [result.result() for result in results],
        )


@contextmanager
def at_once(step: Callable[[], Any]) -> Iterator[Callable[[], int]]:
    """Forks one process per core; yields what has all of them do `step` and says how many did."""
    processes, ends = [], []
    for _ in range(CORES):
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.Process(target=_obey, args=(theirs, step))
        process.start()
        processes.append(process)
        ends.append(ours)

    def together() -> int:
        for end in ends:
            end.send(True)
        return len([end.recv() for end in ends])

    yield together
    for end in ends:
        end.send(False)
    for process in processes:
        process.join()


def _obey(orders: Connection, step: Callable[[], Any]) -> None:
    while orders.recv():
        step()
        orders.send(None)
