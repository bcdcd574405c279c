"""How many no-op tasks per second, when four actors submit them at once?

Each actor submits a thousand and gets them. The actors need no CPU, so that all cores run tasks.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.case import Case, Need, Step, preparation
from benchmarks.sides import CLUSTERS, cluster

ACTORS = 4
TASKS = 1000


@preparation
def prepare(side: str) -> Iterator[Step]:
    with cluster(side) as api:

        @api.remote
        def noop() -> None:
            return None

        @api.remote(num_cpus=0)
        class Submitter:
            def batch(self) -> int:
                return len(api.get([noop.remote() for _ in range(TASKS)]))

        actors = [Submitter.remote() for _ in range(ACTORS)]

        def step() -> int:
            return sum(api.get([actor.batch.remote() for actor in actors]))

        yield step


CASES = [
    Case(
        id="C14",
        question=f"{ACTORS} actors each submit {TASKS} tasks and get them",
        unit="task",
        sides=CLUSTERS,
        prepare=prepare,
        floor=80e3,
        aim=300e3,
        limit="python_call_per_core",
        least="one call from Python, on every core",
        need=Need("a task's need when one process submits it", case="C12"),
    )
]
