"""How many calls of an asyncio actor per second, when a thousand are made before waiting?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

from benchmarks.case import Case, Need, Step, preparation
from benchmarks.phases import Gates, hold_until_closed, in_phases
from benchmarks.sides import CLUSTERS, cluster

CALLS = 1000
TOGETHER = 10_000
"""When taken apart (see `phases.py`): what that costs is little for each."""


@preparation
def with_cluster(side: str) -> Iterator[Step]:
    with cluster(side) as api:

        @api.remote
        class Target:
            async def nothing(self) -> None:
                return None

            def hold(self, path: str) -> None:
                hold_until_closed(path)

        actor = Target.remote()
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
    return with_cluster(side)


CASES = [
    Case(
        id="C17",
        question="1000 calls of an asyncio actor, then one `get`",
        unit="call",
        sides=CLUSTERS,
        prepare=prepare,
        floor=50e3,
        aim=120e3,
        limit="python_call",
        least="one call from Python; the actor runs at the same time",
        need=Need("submitting, running and collecting one after another", side="need"),
    )
]
