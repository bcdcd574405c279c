"""How many small values do two processes put at once?

In each round two actors put a hundred values each. A put takes nothing that the other would need.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.case import Case, Need, Step, preparation
from benchmarks.phases import Gates, hold_until_closed, in_phases
from benchmarks.sides import CLUSTERS, cluster

CLIENTS = 2
PUTS = 100
ROUNDS_APART = 200


@preparation
def prepare(side: str) -> Iterator[Step]:
    with cluster(side) as api:

        @api.remote
        class Client:
            def put(self) -> int:
                for _ in range(PUTS):
                    api.put(0)
                return PUTS

            def hold(self, path: str) -> None:
                hold_until_closed(path)

        clients = [Client.remote() for _ in range(CLIENTS)]

        def step() -> int:
            return sum(api.get([client.put.remote() for client in clients]))

        def submit() -> list[Any]:
            return [client.put.remote() for _ in range(ROUNDS_APART) for client in clients]

        if side == "need":
            gates = Gates([client.hold.remote for client in clients])
            yield lambda: PUTS * in_phases(api, gates, submit, api.get)
        else:
            yield step


CASES = [
    Case(
        id="C3",
        question=f"{CLIENTS} clients, each {PUTS} times `put(0)` per round",
        unit="put",
        sides=CLUSTERS,
        prepare=prepare,
        floor=200e3,
        aim=500e3,
        limit="python_call_per_core",
        least="one call from Python, on every core",
        need=Need("the same rounds: submitting, putting, collecting in turn", side="need"),
    )
]
