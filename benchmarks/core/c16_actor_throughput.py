"""How many actor calls per second, when a thousand are made before waiting for them?"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.case import Case, Step, preparation
from benchmarks.sides import CLUSTERS, cluster

CALLS = 1000


@preparation
def prepare(side: str) -> Iterator[Step]:
    with cluster(side) as api:

        @api.remote
        class Target:
            def nothing(self) -> None:
                return None

        actor = Target.remote()
        api.get(actor.nothing.remote())

        def step() -> int:
            api.get([actor.nothing.remote() for _ in range(CALLS)])
            return CALLS

        yield step


CASES = [
    Case(
        id="C16",
        question="1000 actor calls, then one `get`",
        unit="call",
        sides=CLUSTERS,
        prepare=prepare,
        floor=120e3,
        aim=300e3,
        limit="python_call",
    )
]
