"""How many actor calls per second, when a thousand are made before waiting for them?

C17 asks the same of an actor whose method is a coroutine: its calls run on an event loop.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

from benchmarks.case import Case, Need, Step, preparation
from benchmarks.phases import Gates, hold_until_closed, in_phases
from benchmarks.sides import CLUSTERS, cluster, dask_client

CALLS = 1000
TOGETHER = 10_000
"""When taken apart (see `phases.py`): what that costs is little for each."""


@preparation
def with_dask() -> Iterator[Step]:
    with dask_client() as client:
        target = client.submit(DaskTarget, actor=True).result()

        def step() -> int:
            for call in [target.nothing() for _ in range(CALLS)]:
                call.result()
            return CALLS

        yield step


class DaskTarget:
    def nothing(self) -> None:
        return None


class Target:
    def nothing(self) -> None:
        return None

    def hold(self, path: str) -> None:
        hold_until_closed(path)


class AsyncTarget(Target):
    async def nothing(self) -> None:  # type: ignore[override]
        return None


@preparation
def with_cluster(side: str, target: type[Target]) -> Iterator[Step]:
    with cluster(side) as api:
        actor = api.remote(target).remote()
        api.get(actor.nothing.remote())

        def submit(n: int) -> list[Any]:
            return [actor.nothing.remote() for _ in range(n)]

        def step() -> int:
            api.get(submit(CALLS))
            return CALLS

        gates = Gates([actor.hold.remote])

        def phases() -> int:
            return in_phases(api, gates, lambda: submit(TOGETHER), api.get)

        yield phases if side == "need" else step


def prepare(side: str) -> AbstractContextManager[Step]:
    return with_dask() if side == "dask" else with_cluster(side, Target)


def prepare_async(side: str) -> AbstractContextManager[Step]:
    return with_cluster(side, AsyncTarget)


CASES = [
    Case(
        id="C16",
        question="1000 actor calls, then one `get`",
        unit="call",
        sides=(*CLUSTERS, "dask"),
        prepare=prepare,
        floor=120e3,
        aim=300e3,
        limit="python_call",
        least="one call from Python; the actor runs at the same time",
        need=Need("submitting, running and collecting one after another", side="need"),
    ),
    Case(
        id="C17",
        question="1000 calls of an asyncio actor, then one `get`",
        unit="call",
        sides=CLUSTERS,
        prepare=prepare_async,
        floor=50e3,
        aim=120e3,
        limit="python_call",
        least="one call from Python; the actor runs at the same time",
        need=Need("submitting, running and collecting one after another", side="need"),
    ),
]
