"""How fast do several processes add up their arrays (allreduce), beside Gloo of torch.distributed?

The same ranks, arrays and number of processes on both sides; Gloo goes over the loopback, as it
does between processes of one machine. A step is many calls for small arrays. The unit is the
array's own size, whatever the ranks have to move for it. The floor is Gloo in the same run. Beside
it stands what one core copies: with two ranks each reads 2.5 bytes and writes 2 per byte of its
array, most of them in the cache (`passes.py` has the table).
"""

from __future__ import annotations

import importlib
import multiprocessing
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from benchmarks.case import Case, Preparation, Share, Step, preparation
from benchmarks.sides import cluster

KIB, MIB = 1 << 10, 1 << 20
CALLS = {KIB: 1000, MIB: 50, 64 * MIB: 1}


class Rank:
    """A rank of ours: an actor."""

    def __init__(self, ranks: int, rank: int, size_bytes: int) -> None:
        self.collective = importlib.import_module("shoal.util.collective")
        self.array = np.zeros(size_bytes // 4, np.float32)
        self.collective.init_collective_group(ranks, rank)

    def work(self, calls: int) -> float:
        for _ in range(calls):
            self.array[:1] = 1.0
            self.collective.allreduce(self.array)
        return float(self.array[0])


@preparation
def with_shoal(side: str, ranks: int, size_bytes: int) -> Iterator[Step]:
    with cluster(side, num_cpus=ranks) as api:
        kind = api.remote(num_cpus=1)(Rank)
        actors = [kind.remote(ranks, rank, size_bytes) for rank in range(ranks)]
        calls = CALLS[size_bytes]

        def step() -> float:
            found = api.get([actor.work.remote(calls) for actor in actors])
            assert found == [float(ranks)] * ranks
            return calls * size_bytes / 1e9

        step()
        yield step


@preparation
def with_gloo(ranks: int, size_bytes: int) -> Iterator[Step]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    ends, processes = [], []
    for rank in range(ranks):
        ours, theirs = context.Pipe()
        process = context.Process(target=_gloo, args=(theirs, ranks, rank, size_bytes, port))
        process.start()
        ends.append(ours)
        processes.append(process)
    calls = CALLS[size_bytes]

    def step() -> float:
        for end in ends:
            end.send(calls)
        found = [end.recv() for end in ends]
        assert found == [float(ranks)] * ranks
        return calls * size_bytes / 1e9

    step()
    yield step
    for end in ends:
        end.send(0)
    for process in processes:
        process.join()


def _gloo(orders: Connection, ranks: int, rank: int, size_bytes: int, port: int) -> None:
    torch: Any = importlib.import_module("torch")
    distributed: Any = importlib.import_module("torch.distributed")
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=ranks
    )
    tensor = torch.zeros(size_bytes // 4, dtype=torch.float32)
    while calls := orders.recv():
        for _ in range(calls):
            tensor[:1] = 1.0
            distributed.all_reduce(tensor)
        orders.send(float(tensor[0]))
    distributed.destroy_process_group()


def prepare(ranks: int, size_bytes: int) -> Preparation:
    def choose(side: str) -> AbstractContextManager[Step]:
        if side == "gloo":
            return with_gloo(ranks, size_bytes)
        return with_shoal(side, ranks, size_bytes)

    return choose


def case(size_bytes: int, ranks: int) -> Case:
    name = f"{size_bytes // KIB} KiB" if size_bytes < MIB else f"{size_bytes // MIB} MiB"
    return Case(
        id=f"C24-{name.replace(' ', '')}" + ("" if ranks == 2 else f"-{ranks}"),
        question=f"`allreduce` of {name} of float32 by {ranks} ranks",
        unit="GB",
        sides=("shoal", "gloo"),
        prepare=prepare(ranks, size_bytes),
        floor=Share(1.0, side="gloo"),
        aim=Share(0.4, limit="copy_random") if size_bytes > MIB and ranks == 2 else None,
        limit="copy_random",
        least="one copy of the array",
        max_peer_windows=5,
    )


CASES = [case(size, ranks) for ranks in (2, 4) for size in CALLS]
