"""C1: the wall clock jumps by hours, and runs backwards, below everything that the session does.

All of its processes, and one driver, see a clock that this test moves (``moving_clock.cpp``). The
graph, the calls, the deadlines, the restarts and the journal must not notice.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import shoal
from shoal import errors, lowlevel
from tests.chaos import audit
from tests.chaos.loads import Appending, Graph
from tests.torture.processes import eventually, kill
from tests.torture.started import Started

LONG_S = 120.0
HOUR_S = 3600.0
FAST = 5.0
"""Minutes per minute."""


class WallClock:
    """The clock of everybody who was started with it."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self.moves = 0
        self.move()

    def move(self, ahead_s: float = 0.0, drift: float = 0.0) -> None:
        """So far from the real one, and on at so many seconds more per second."""
        row = struct.pack("qqd", int(ahead_s * 1e9), time.monotonic_ns(), drift)
        os.pwrite(self._file, row, 0)
        self.moves += 1

    def close(self) -> None:
        os.close(self._file)


@pytest.fixture(scope="module")
def clock(moving_clock: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WallClock]:
    folder = tmp_path_factory.mktemp("clock")
    moving = WallClock(folder / "wall")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOVING_CLOCK", str(folder / "wall"))
        patch.setenv("LD_PRELOAD", str(moving_clock))
        yield moving
    moving.close()


@pytest.fixture(scope="module")
def session(clock: WallClock, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    with audit.session(tmp_path_factory.mktemp("chaos"), 2) as started:
        yield started


@pytest.fixture
def case(session: Started, clock: WallClock) -> Iterator[Started]:
    with audit.audited(session):
        yield session
        clock.move()


@shoal.remote(num_cpus=0)
def wall_s() -> float:
    return time.time()


@shoal.remote(num_cpus=0)
def sleep(seconds: float) -> str:
    time.sleep(seconds)
    return "slept"


def houses(started: Started) -> list[object]:
    facts = started.facts()
    return [facts[name] for name in ("pid", "zygote_pid", "store_pid")]


MOVES = {
    "jumps": [(2 * HOUR_S, 0.0), (-2 * HOUR_S, 0.0)],
    "drift": [(0.0, FAST), (0.0, -FAST)],
}


@pytest.mark.parametrize("how", MOVES)
def test_nobody_notices_a_wall_clock_that_moves(
    case: Started, clock: WallClock, how: str, tmp_path: Path
) -> None:
    before = houses(case)
    graph = Graph(tmp_path, how, leaves=32)
    load = Appending(tmp_path / "files", actors=2)
    patient = [sleep.options(timeout_s=HOUR_S).remote(0.5) for _ in range(2)]
    late = sleep.options(timeout_s=0.3).remote(1_000)
    for ahead_s, drift in MOVES[how] * 4:
        wanted = min(graph.begun() + 1, graph.size)
        clock.move(ahead_s, drift)
        load.round()
        eventually(lambda: graph.begun() >= wanted, LONG_S, "it runs")  # noqa: B023
        seen_s = shoal.get(wall_s.remote(), timeout=LONG_S) - time.time()
        assert drift or abs(seen_s - ahead_s) < LONG_S, "workers see the clock that moves"
    assert shoal.get(patient, timeout=LONG_S) == ["slept"] * 2, "nothing is over an hour too early"
    with pytest.raises(errors.DeadlineExceededError):
        shoal.get(late, timeout=LONG_S)
    assert graph.judge(LONG_S) == 0, "no attempt was lost"
    assert load.judge() == load.calls
    assert houses(case) == before, "no death was seen, and nobody died"


DRIVER = """
import struct, sys, time
import shoal
from shoal import errors

shoal.init(address=sys.argv[1], log_to_driver=False)
clock = open(sys.argv[2], "r+b", buffering=0)

def move(ahead_s):
    clock.seek(0)
    clock.write(struct.pack("qqd", int(ahead_s * 1e9), 0, 0.0))

@shoal.remote
def sleep(seconds):
    time.sleep(seconds)
    return seconds

before_s = time.time()
ref = sleep.remote(0.5)
move(-7200)
assert time.time() < before_s, "this driver sees it too"
begun_s = time.monotonic()
try:
    shoal.get(sleep.remote(1000), timeout=0.3)
except errors.GetTimeoutError:
    took_s = time.monotonic() - begun_s
move(7200)
ready, _ = shoal.wait([ref], timeout=600)
assert ready == [ref] and shoal.get(ref, timeout=600) == 0.5
print("early" if took_s < 0.29 else "in time")
"""


def test_a_driver_waits_as_long_as_it_was_told(
    case: Started, clock: WallClock, tmp_path: Path
) -> None:
    words = [sys.executable, "-c", DRIVER, case.session, os.environ["MOVING_CLOCK"]]
    done = subprocess.run(
        words, env=case.environment, capture_output=True, text=True, timeout=LONG_S, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "in time\n"


def test_restarts_and_the_journal_while_it_moves(
    case: Started, clock: WallClock, tmp_path: Path
) -> None:
    """Actors come back, the store is killed and begins again, and what it wrote is there."""
    actor = shoal.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Echo).remote()
    for ahead_s in (2 * HOUR_S, -2 * HOUR_S):
        clock.move(ahead_s)
        pid = shoal.get(actor.pid.remote(), timeout=LONG_S)
        lowlevel.kv_put(b"before", str(ahead_s).encode())
        kill(pid)
        (store,) = eventually(case.stores, LONG_S, "a store runs")
        kill(store)
        clock.move(-ahead_s)
        assert shoal.get(actor.pid.remote(), timeout=LONG_S) != pid
        lowlevel.kv_put(b"after", str(ahead_s).encode())
        assert lowlevel.kv_get(b"before") == lowlevel.kv_get(b"after") == str(ahead_s).encode()


class Echo:
    def pid(self) -> int:
        return os.getpid()
