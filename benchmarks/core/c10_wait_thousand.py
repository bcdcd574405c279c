"""What does `wait` cost when called a thousand times over a shrinking list of a thousand refs?

One round submits 1000 no-op tasks and then takes one ready ref at a time with `wait(not_ready)`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.case import Case, Need, Step, preparation
from benchmarks.phases import Gates, hold_until_closed, in_phases
from benchmarks.sides import CLUSTERS, CORES, cluster

TASKS = 1000


@preparation
def prepare(side: str) -> Iterator[Step]:
    with cluster(side) as api:

        @api.remote
        def noop() -> bytes:
            return b"ok"

        def submit() -> list[Any]:
            return [noop.remote() for _ in range(TASKS)]

        def wait_for_each(not_ready: list[Any]) -> None:
            for _ in range(TASKS):
                _, not_ready = api.wait(not_ready)
            assert not not_ready

        def step() -> int:
            wait_for_each(submit())
            return 1

        gates = Gates([api.remote(hold_until_closed).remote] * CORES)

        def phases() -> int:
            in_phases(api, gates, submit, wait_for_each)
            return 1

        api.get(submit())
        yield phases if side == "need" else step


CASES = [
    Case(
        id="C10",
        question="1000 no-op tasks, then 1000 `wait(not_ready)`",
        unit="round",
        sides=CLUSTERS,
        prepare=prepare,
        floor=30.0,
        aim=70.0,
        limit="shrinking_list",
        least="making each of the thousand shorter lists",
        need=Need("submitting, running and waiting one after another", side="need"),
    )
]
