"""A parameter server and two workers that never sleep: how many updates per second?

The parameters live in one process; each worker takes them and sends an update, again and again.
With few values the calls count, with many the copies: an update moves its values twice, once to
the worker and once back, and both count as bytes moved. Shoal and Ray run the same fifteen lines;
the version by hand has pipes; the serial one does the same additions in one process.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np

from benchmarks.case import Case, Need, Preparation, Step, preparation
from benchmarks.phases import Gates, hold_until_closed, in_phases
from benchmarks.sides import CLUSTERS, cluster

WORKERS = 2
IN_CACHE_BYTES = 40_000_000
"""So much may be in flight while the need of the calls is measured: more is no longer warm."""


class Server:
    def __init__(self, n: int, dtype: str) -> None:
        self.parameters = np.zeros(n, dtype)

    def take(self) -> np.ndarray:
        return self.parameters

    def add(self, update: np.ndarray) -> None:
        self.parameters += update


def work(api: Any, server: Any, updates: int) -> None:
    update = np.ones_like(api.get(server.take.remote()))
    for _ in range(updates):
        api.get(server.take.remote())
        added = server.add.remote(update)
    api.get(added)


def serve(ends: list[Connection], n: int, dtype: str) -> None:
    parameters = np.zeros(n, dtype)
    while ends:
        for end in wait(ends):
            message = end.recv()
            if message == "end":
                ends.remove(end)
            elif message == "take":
                end.send(parameters)
            else:
                parameters += end.recv()
                end.send(None)


def work_by_hand(orders: Connection, server: Connection) -> None:
    while (updates := orders.recv()) is not None:
        server.send("take")
        update = np.ones_like(server.recv())
        for _ in range(updates):
            server.send("take")
            server.recv()
            server.send("add")
            server.send(update)
            server.recv()
        orders.send(None)
    server.send("end")


def serially(parameters: np.ndarray, updates: int) -> None:
    update = np.ones_like(parameters)
    for _ in range(updates):
        parameters += update


PROGRAMS: dict[str, tuple[Callable[..., Any], ...]] = {
    "Shoal and Ray": (Server, work),
    "processes": (serve, work_by_hand),
    "serial": (serially,),
}
"""What one writes, for the page that compares the programs' lengths."""


@preparation
def with_processes(n: int, dtype: str, updates: int, counted: float) -> Iterator[Step]:
    server_ends, orders, processes = [], [], []
    for _ in range(WORKERS):
        ours, theirs = multiprocessing.Pipe()
        server_end, worker_end = multiprocessing.Pipe()
        worker = multiprocessing.Process(target=work_by_hand, args=(theirs, worker_end))
        worker.start()
        orders.append(ours)
        server_ends.append(server_end)
        processes.append(worker)
    processes.append(multiprocessing.Process(target=serve, args=(server_ends, n, dtype)))
    processes[-1].start()

    def step() -> float:
        for end in orders:
            end.send(updates)
        for end in orders:
            end.recv()
        return counted

    yield step
    for end in orders:
        end.send(None)
    for process in processes:
        process.join()


@preparation
def in_one_process(n: int, dtype: str, updates: int, counted: float) -> Iterator[Step]:
    parameters = np.zeros(n, dtype)

    def step() -> float:
        serially(parameters, WORKERS * updates)
        return counted

    yield step


@preparation
def with_cluster(side: str, n: int, dtype: str, updates: int, counted: float) -> Iterator[Step]:
    with cluster(side) as api:
        # A worker with a core of its own, and the server without: Ray would not start it else.
        server = api.remote(num_cpus=0)(Server).remote(n, dtype)
        task = api.remote(lambda handle: work(api, handle, updates))
        done = 0

        def step() -> float:
            nonlocal done
            api.get([task.remote(server) for _ in range(WORKERS)])
            done += WORKERS * updates
            found = api.get(server.take.remote())
            assert found[0] == found[-1] == done
            return counted

        yield step


@preparation
def copies_only(n: int, dtype: str, updates: int, counted: float) -> Iterator[Step]:
    """What large values need: a copy each way and the addition, in warm memory of one process."""
    parameters, update, taken, sent = (np.ones(n, dtype) for _ in range(4))

    def step() -> float:
        for _ in range(WORKERS * updates):
            np.copyto(taken, parameters)
            np.copyto(sent, update)
            np.add(parameters, sent, out=parameters)
        return counted

    yield step


@preparation
def calls_only(n: int, dtype: str, updates: int, counted: float) -> Iterator[Step]:
    """What values that fit a cache need: the calls of each update, submitted, run and collected
    in turn."""
    with cluster("shoal") as api:

        class Held(Server):
            def hold(self, path: str) -> None:
                hold_until_closed(path)

        server = api.remote(num_cpus=0)(Held).remote(n, dtype)
        update = np.ones(n, dtype)
        gates = Gates([server.hold.remote])
        phases = -(-WORKERS * updates * 2 * update.nbytes // IN_CACHE_BYTES)

        def submit() -> list[Any]:
            calls = []
            for _ in range(WORKERS * updates // phases):
                calls += [server.take.remote(), server.add.remote(update)]
            return calls

        def step() -> float:
            for _ in range(phases):
                in_phases(api, gates, submit, api.get)
            return counted

        yield step


def preparation_for(n: int, dtype: str, updates: int, per_update: float) -> Preparation:
    counted = WORKERS * updates * per_update

    def prepare(side: str) -> AbstractContextManager[Step]:
        if side == "processes":
            return with_processes(n, dtype, updates, counted)
        if side == "need":
            only = calls_only if n * np.dtype(dtype).itemsize < IN_CACHE_BYTES else copies_only
            return only(n, dtype, updates, counted)
        if side == "serial":
            return in_one_process(n, dtype, updates, counted)
        return with_cluster(side, n, dtype, updates, counted)

    return prepare


SIDES = (*CLUSTERS, "processes", "serial")


def case(name: str, n: int, dtype: str, updates: int) -> Case:
    """The small one counts updates, the others the bytes that they move."""
    n_bytes = n * np.dtype(dtype).itemsize
    is_small = n_bytes < 1000
    per_update = 1.0 if is_small else 2 * n_bytes / 1e9
    what = f"{n} values" if is_small else f"{n_bytes / 1e6:.3g} MB of {dtype}"
    return Case(
        id=f"A4-{name}",
        question=f"parameter server with {WORKERS} workers, {what}",
        unit="update" if is_small else "GB",
        sides=SIDES,
        prepare=preparation_for(n, dtype, updates, per_update),
        floor=20e3 if is_small else 4.0,
        aim=40e3 if is_small else 8.0,
        limit="python_call" if is_small else "copy_random",
        least="one call from Python in the server"
        if is_small
        else "one copy of what is sent and one of what is taken, on two cores at once",
        need=Need(
            "the two calls of an update: submitting, running, collecting in turn"
            if n_bytes < IN_CACHE_BYTES
            else "a copy each way and the addition, in one process",
            side="need",
        ),
    )


CASES = [
    case("small", 10, "float64", 500),
    case("medium", 100_000, "float64", 100),
    case("large", 25_000_000, "float32", 4),
]
