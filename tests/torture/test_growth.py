"""What the shell of the daemon keeps: after many deaths its tables are as small as before.

Descriptors, timers, processes, connections and children of the dead that are looked for, as the
daemon itself counts them (`GetTable("session")`). What the deciding machine remembers is proved
bounded on the simulator (`tests/sim/test_sim_growth.py`).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy
import pytest

import shoal
from shoal._runtime import cluster
from tests.torture.processes import eventually
from tests.torture.started import start_session

ROUNDS = 3
DEATHS = 10
SETTLED_S = 20.0
SPARE = 8
"""A worker more or less, with its four descriptors, and a timer or two; a row that stayed behind
for each death would be five times as many."""


@shoal.remote(max_retries=0)
def die() -> None:
    print("the last words of", os.getpid(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


@shoal.remote(max_retries=0)
def fork_and_die(array: numpy.ndarray) -> None:
    """Leaves a child that looks at a value, for a moment."""
    if os.fork() == 0:
        time.sleep(0.2)
        os._exit(int(array[0]))
    os.kill(os.getpid(), signal.SIGKILL)


@shoal.remote
def nothing() -> None:
    return None


@shoal.remote
def wait_long() -> None:
    time.sleep(1000)


@shoal.remote(num_cpus=0, max_restarts=1)
class Mortal:
    def pid(self) -> int:
        return os.getpid()


VISITOR = """
import sys
import shoal
shoal.init(address=sys.argv[1])
shoal.get(shoal.remote(lambda: print("hello")).remote())
"""


def live_and_die(session: str) -> None:
    """Everything that makes rows, once; deaths at every stage of a process."""
    array = numpy.zeros(100_000)
    ends = [die.remote() for _ in range(DEATHS)]
    ends += [fork_and_die.remote(array)]
    actors = [Mortal.remote() for _ in range(3)]
    for actor in actors:
        os.kill(shoal.get(actor.pid.remote(), timeout=30), signal.SIGKILL)
    shoal.kill(actors[0])
    shoal.get([nothing.options(timeout_s=3600).remote() for _ in range(50)], timeout=30)
    waiting = wait_long.options(timeout_s=3600).remote()
    shoal.cancel(waiting, force=True)
    for end in [*ends, waiting]:
        with pytest.raises((shoal.errors.WorkerCrashedError, shoal.errors.TaskCancelledError)):
            shoal.get(end, timeout=30)
    subprocess.run([sys.executable, "-c", VISITOR, session], check=True, timeout=60)


def tables() -> dict[str, int]:
    (row,) = cluster.table("session")
    sizes = row["tables"]
    assert isinstance(sizes, dict)
    return sizes


def test_deaths_leave_no_rows_in_the_daemon(tmp_path: Path) -> None:
    with start_session(tmp_path, 2) as started:
        live_and_die(started.session)
        eventually(lambda: tables()["looked_at"] == 0, SETTLED_S, "the children have gone")
        before = tables()
        assert {"descriptors", "timers", "processes", "observers", "looked_at"} <= set(before)
        for _ in range(ROUNDS):
            live_and_die(started.session)
        most = {name: size + SPARE for name, size in before.items()}

        def grown() -> dict[str, int]:
            return {name: size for name, size in tables().items() if size > most[name]}

        eventually(lambda: not grown(), SETTLED_S, f"tables are as they were: {before}")
