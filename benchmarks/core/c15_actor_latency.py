"""How long does one call of an actor take, without a value and with an echo of some bytes?

The peer without a cluster is a process that answers over a pipe: an actor written by hand.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import AbstractContextManager
from multiprocessing.connection import Connection

from benchmarks.case import Case, Preparation, Step, preparation
from benchmarks.sides import CLUSTERS, cluster


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


@preparation
def through_actor(side: str, payload: bytes | None) -> Iterator[Step]:
    with cluster(side) as api:

        @api.remote
        class Echo:
            def nothing(self) -> None:
                return None

            def echo(self, value: bytes) -> bytes:
                return value

        actor = Echo.remote()
        api.get(actor.nothing.remote())

        def call() -> int:
            api.get(actor.nothing.remote())
            return 1

        def echo() -> int:
            api.get(actor.echo.remote(payload))
            return 1

        yield call if payload is None else echo


def preparation_for(size: int | None) -> Preparation:
    payload = None if size is None else bytes(size)

    def prepare(side: str) -> AbstractContextManager[Step]:
        return through_pipe(payload) if side == "pipe" else through_actor(side, payload)

    return prepare


def case(name: str, size: int | None, floor: float | None, aim: float | None) -> Case:
    return Case(
        id=f"C15{name}",
        question="one actor call" if size is None else f"actor call, echo of {size >> 10} KiB",
        unit="call",
        sides=(*CLUSTERS, "pipe"),
        prepare=preparation_for(size),
        floor=floor,
        aim=aim,
        limit="spin" if size is None else None,
        is_latency=True,
    )


CASES = [
    case("", None, 40e3, 100e3),
    case("-1KiB", 1 << 10, None, None),
    case("-64KiB", 64 << 10, None, None),
    case("-1MiB", 1 << 20, 4e3, 8e3),
]
