"""How long does a whole program take: start Python, import, init, one task, shutdown?"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

from benchmarks.case import Case, Step, preparation

CLUSTER = """
import {side} as api
api.init({options})
@api.remote
def answer():
    return 42
assert api.get(answer.remote()) == 42
api.shutdown()
"""
POOL = """
import multiprocessing
def answer():
    return 42
with multiprocessing.Pool(2) as pool:
    assert pool.apply(answer) == 42
"""
PROGRAMS = {
    "shoal": CLUSTER.format(side="shoal", options="num_cpus=2"),
    "ray": CLUSTER.format(
        side="ray", options="num_cpus=2, include_dashboard=False, logging_level='ERROR'"
    ),
    "multiprocessing": POOL,
}


@preparation
def prepare(side: str) -> Iterator[Step]:
    program = PROGRAMS[side]

    def step() -> int:
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
        return 1

    yield step


CASES = [
    Case(
        id="C20",
        question="fresh process: import, init, first task result, shutdown",
        unit="program",
        sides=tuple(PROGRAMS),
        prepare=prepare,
        floor=1 / 0.250,
        aim=1 / 0.120,
        limit="python_start",
        is_latency=True,
    )
]
