"""How long does it take until work goes on after a death: from the signal to the answer?

A worker is killed in a task -> the retried result is there; an actor's process is killed -> the
next call answers; the control store of a started session is killed under load -> the longest of the
calls and tasks that are made until the next one serves. (Ray's control store cannot be killed
alone without its storage: that is asked of Shoal only.)
"""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.case import Case, Sample, Step, preparation
from benchmarks.sides import CLUSTERS, CORES, cluster

WAIT_S = 120.0
LONGER_S = 0.1
"""So long calls are made after the next store has begun to serve."""


def until(condition: Callable[[], Any]) -> Any:
    """Poll for something true."""
    end = time.monotonic() + WAIT_S
    while not (found := condition()):
        assert time.monotonic() < end, "nothing goes on"
        time.sleep(0.001)
    return found


@preparation
def prepare_task(side: str) -> Iterator[Step]:
    with cluster(side) as api, tempfile.TemporaryDirectory() as folder:

        @api.remote(max_retries=-1)
        def once_more(path: str) -> int:
            if os.path.exists(path):
                return 2
            Path(path + ".new").write_text(str(os.getpid()))
            os.rename(path + ".new", path)
            while True:
                time.sleep(60.0)

        tries = iter(range(1 << 30))

        def step() -> Sample:
            path = Path(folder, str(next(tries)))
            ref = once_more.remote(str(path))
            until(path.exists)
            begun = time.perf_counter()
            os.kill(int(path.read_text()), signal.SIGKILL)
            assert api.get(ref, timeout=WAIT_S) == 2
            return Sample(1, time.perf_counter() - begun)

        yield step


@preparation
def prepare_actor(side: str) -> Iterator[Step]:
    with cluster(side) as api:

        @api.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
        class Echo:
            def pid(self) -> int:
                return os.getpid()

        def step() -> Sample:
            # A new one each time: one that dies again and again waits longer and longer.
            echo = Echo.remote()
            pid = api.get(echo.pid.remote(), timeout=WAIT_S)
            begun = time.perf_counter()
            os.kill(pid, signal.SIGKILL)
            assert api.get(echo.pid.remote(), timeout=WAIT_S) != pid
            took_s = time.perf_counter() - begun
            api.kill(echo)
            return Sample(1, took_s)

        yield step


@contextmanager
def started() -> Iterator[Any]:
    """A session of ``shoal start``, whose control store is a process; yields the module."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SHOAL_DIR"] = folder
        command = [sys.executable, "-m", "shoal"]
        words = ["start", "--num-cpus", str(CORES)]
        subprocess.run([*command, *words], check=True, stdout=subprocess.DEVNULL)
        api = importlib.import_module("shoal")
        try:
            api.init(address="auto")
            yield api
        finally:
            api.shutdown()
            subprocess.run([*command, "stop"], check=True, stdout=subprocess.DEVNULL)


@preparation
def prepare_store(side: str) -> Iterator[Step]:
    tables = importlib.import_module("shoal._runtime.cluster")
    with started() as api:

        @api.remote(num_cpus=0)
        class Echo:
            def echo(self) -> int:
                return 1

        @api.remote(num_cpus=0)
        def task() -> int:
            return 1

        echo = Echo.remote()

        def epoch_served(than: int) -> int:
            (row,) = tables.table("session")
            epoch = int(row["store"]["epoch"])
            return epoch if epoch > than and not row["store"]["away_s"] else 0

        def step() -> Sample:
            epoch = until(lambda: epoch_served(0))
            api.get([echo.echo.remote(), task.remote()], timeout=WAIT_S)
            (row,) = tables.table("session")
            os.kill(row["store_pid"], signal.SIGKILL)
            worst_s, served_at = 0.0, 0.0
            while not served_at or time.perf_counter() < served_at + LONGER_S:
                begun = time.perf_counter()
                api.get([echo.echo.remote(), task.remote()], timeout=WAIT_S)
                now = time.perf_counter()
                worst_s = max(worst_s, now - begun)
                if not served_at and epoch_served(epoch):
                    served_at = time.perf_counter()
            return Sample(1, worst_s)

        yield step


CASES = [
    Case(
        id="C26-task",
        question="a worker is killed in a task: until the retried result is there",
        unit="death",
        sides=CLUSTERS,
        prepare=prepare_task,
        quantity="time",
        floor=0.050,
        aim=0.010,
        is_latency=True,
        max_peer_windows=1,
    ),
    Case(
        id="C26-actor",
        question="an actor's process is killed: until the next call has answered",
        unit="death",
        sides=CLUSTERS,
        prepare=prepare_actor,
        quantity="time",
        floor=0.050,
        aim=0.010,
        is_latency=True,
        max_peer_windows=1,
    ),
    Case(
        id="C26-store",
        question="the control store is killed under load: the longest call or task meanwhile",
        unit="death",
        sides=("shoal",),
        prepare=prepare_store,
        quantity="time",
        floor=1.0,
        aim=0.200,
        is_latency=True,
    ),
]
