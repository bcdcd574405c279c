"""How long does it take to create actors and have an answer from each?

Ending them again is not part of the question, but the next round starts only when they are gone.
1000 process actors are asked of Shoal only: Ray's would need 160 GB.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager

from benchmarks.case import Case, Need, Preparation, Sample, Step, preparation
from benchmarks.sides import CLUSTERS, cluster

ENDING_S = 60.0


@preparation
def create(side: str, n: int) -> Iterator[Step]:
    with cluster(side) as api:

        @api.remote(num_cpus=0)
        class Actor:
            def ready(self) -> int:
                return 1

        def step() -> Sample:
            start = time.perf_counter()
            actors = [Actor.remote() for _ in range(n)]
            assert sum(api.get([actor.ready.remote() for actor in actors])) == n
            took_s = time.perf_counter() - start
            last = [actor.ready.remote() for actor in actors]
            for actor in actors:
                api.kill(actor)
            # A killed actor's call fails or was answered: either way its process is done for.
            ready, late = api.wait(last, num_returns=len(last), timeout=ENDING_S)
            assert len(ready) == n and not late
            return Sample(1, took_s)

        yield step


@preparation
def fork(n: int) -> Iterator[Step]:
    """What `n` processes need: forked from a Python that has the engine loaded, one answer each."""
    importlib.import_module("shoal._runtime.execute")

    def step() -> int:
        answers, answer = os.pipe()
        gate, ending = os.pipe()
        children = []
        for _ in range(n):
            child = os.fork()
            if child == 0:
                os.close(ending)
                os.write(answer, b"1")
                os.read(gate, 1)
                os._exit(0)
            children.append(child)
        answered = 0
        while answered < n:
            answered += len(os.read(answers, n))
        for end in (answers, answer, gate, ending):
            os.close(end)
        for child in children:
            os.waitpid(child, 0)
        return 1

    yield step


def preparation_for(n: int) -> Preparation:
    def prepare(side: str) -> AbstractContextManager[Step]:
        return fork(n) if side == "need" else create(side, n)

    return prepare


NEED = Need(
    "as many forks of a Python that has the engine loaded, with one answer each", side="need"
)
CASES = [
    Case(
        id="C21-20",
        question="create 20 actors and call each",
        unit="round",
        sides=CLUSTERS,
        prepare=preparation_for(20),
        quantity="time",
        floor=0.100,
        aim=0.040,
        limit="fork_20",
        least="so many forks of a small process",
        need=NEED,
        is_latency=True,
        max_windows=3,
    ),
    Case(
        id="C21-1000",
        question="create 1000 actors and call each",
        unit="round",
        sides=("shoal",),
        prepare=preparation_for(1000),
        quantity="time",
        floor=6.0,
        aim=3.0,
        limit="fork_1000",
        least="so many forks of a small process",
        need=NEED,
        is_latency=True,
        is_cold=True,
        max_windows=1,
    ),
]
