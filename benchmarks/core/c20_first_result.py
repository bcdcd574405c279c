"""How long does a whole program take: start Python, import, init, one task, shutdown?"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

from benchmarks.case import Case, Need, Step, preparation

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
NEED = """
import subprocess, sys
def start(program):
    return subprocess.Popen([sys.executable, "-P", "-c", program])
daemon = start("import shoal._runtime.daemon_shell")
import shoal, cloudpickle
shoal.init, shoal.remote, shoal.get, shoal.shutdown
daemon.wait()
"""
PROGRAMS = {
    "shoal": CLUSTER.format(side="shoal", options="num_cpus=2"),
    "ray": CLUSTER.format(
        side="ray", options="num_cpus=2, include_dashboard=False, logging_level='ERROR'"
    ),
    "multiprocessing": POOL,
    "need": NEED,
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
        sides=("shoal", "ray", "multiprocessing"),
        prepare=prepare,
        quantity="time",
        floor=0.250,
        aim=0.120,
        limit="python_start",
        least="one bare Python, started and ended",
        need=Need("two Pythons that import what the program and the daemon import", side="need"),
        is_latency=True,
    )
]
