"""How long does one call of an actor take, without a value and with an echo of some bytes?

The peer without a cluster is a process that answers over a pipe: an actor written by hand.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import AbstractContextManager
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.case import Case, Need, Preparation, Step, preparation
from benchmarks.phases import Gates, hold_until_closed, in_phases
from benchmarks.sides import CLUSTERS, cluster, dask_client

TOGETHER = 2000
"""Calls that are taken apart together (see `phases.py`): so many that holding the actor costs each
of them nothing, and of large values so few that their memory stays warm."""
TOGETHER_BYTES = 16 << 20


def serve(end: Connection) -> None:
    while (value := end.recv()) is not False:
        end.send(value)


@preparation
def through_pipe(payload: bytes | None) -> Iterator[Step]:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=serve, args=(theirs,))
    process.start()

    def step() -> int:
        ours.send(payload)
        ours.recv()
        return 1

    yield step
    ours.send(False)
    process.join()


class DaskEcho:
    def echo(self, value: bytes | None) -> bytes | None:
        return value


@preparation
def through_dask(payload: bytes | None) -> Iterator[Step]:
    with dask_client() as client:
        actor = client.submit(DaskEcho, actor=True).result()

        def step() -> int:
            actor.echo(payload).result()
            return 1

        yield step


@preparation
def through_actor(side: str, payload: bytes | None) -> Iterator[Step]:
    with cluster(side) as api:

        @api.remote
        class Echo:
            def nothing(self) -> None:
                return None

            def echo(self, value: bytes) -> bytes:
                return value

            def hold(self, path: str) -> None:
                hold_until_closed(path)

        actor = Echo.remote()
        api.get(actor.nothing.remote())

        def call() -> int:
            api.get(actor.nothing.remote())
            return 1

        def echo() -> int:
            api.get(actor.echo.remote(payload))
            return 1

        def submit() -> list[Any]:
            if payload is None:
                return [actor.nothing.remote() for _ in range(TOGETHER)]
            together = min(TOGETHER, TOGETHER_BYTES // len(payload))
            return [actor.echo.remote(payload) for _ in range(together)]

        def collect(refs: list[Any]) -> None:
            while refs:
                api.get(refs.pop())

        if side == "need":
            gates = Gates([actor.hold.remote])
            yield lambda: in_phases(api, gates, submit, collect)
        else:
            yield call if payload is None else echo


def preparation_for(size: int | None) -> Preparation:
    payload = None if size is None else bytes(size)

    def prepare(side: str) -> AbstractContextManager[Step]:
        if side == "pipe":
            return through_pipe(payload)
        return through_dask(payload) if side == "dask" else through_actor(side, payload)

    return prepare


def case(name: str, size: int | None, floor: float | None, aim: float | None) -> Case:
    is_plain = size is None
    return Case(
        id=f"C15{name}",
        question="one actor call" if is_plain else f"actor call, echo of {size >> 10} KiB",
        unit="call",
        sides=(*CLUSTERS, "pipe", "dask"),
        prepare=preparation_for(size),
        floor=floor,
        aim=aim,
        limit="spin" if is_plain else f"echo_{size >> 10}_kib",
        least="two hand-overs between cores"
        if is_plain
        else "two hand-overs, a pickle round trip and two copies within the caches",
        need=Need("the same calls: submitting, running, collecting in turn", side="need"),
        is_latency=True,
    )


CASES = [
    case("", None, 40e3, 100e3),
    case("-1KiB", 1 << 10, None, None),
    case("-64KiB", 64 << 10, None, None),
    case("-1MiB", 1 << 20, 4e3, 8e3),
]
