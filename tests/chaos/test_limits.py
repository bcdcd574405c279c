"""Strangers at the sockets (F1, F3), and descriptors or processes that run out (F4)."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import shoal
from tests.chaos import audit
from tests.chaos.loads import Appending, Graph
from tests.torture.drivers import ROOT
from tests.torture.processes import descriptors, eventually, kill, own_memory_bytes
from tests.torture.started import Started

LONG_S = 120.0
FRAMES = 600
MOST_BYTES = 32 << 20


@pytest.fixture(scope="module")
def no_forks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """While there is this file nobody can fork."""
    return tmp_path_factory.mktemp("forks") / "none"


@pytest.fixture(scope="module")
def session(
    no_forks: Path, failing_io: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Started]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LD_PRELOAD", str(failing_io))
        patch.setenv("NO_FORKS_WHILE", str(no_forks))
        with audit.session(tmp_path_factory.mktemp("chaos"), 2) as started:
            yield started


@pytest.fixture
def case(session: Started) -> Iterator[Started]:
    with audit.audited(session):
        yield session


def test_strangers_are_sent_away_and_nobody_notices(case: Started, tmp_path: Path) -> None:
    facts = case.facts()
    house = {name: int(str(facts[name])) for name in ("pid", "store_pid")}
    before = {name: own_memory_bytes(pid) for name, pid in house.items()}
    graph = Graph(tmp_path, "beside", leaves=32)
    load = Appending(tmp_path / "files", actors=2)
    shoal.lowlevel.kv_put(b"key of ours", b"kept")
    words = ["-m", "tests.chaos.strangers", str(facts["directory"]), "7", str(FRAMES)]
    stranger = subprocess.Popen(
        [sys.executable, *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    load.round()
    out, err = stranger.communicate(timeout=LONG_S)
    assert stranger.returncode == 0 and int(out) >= FRAMES, err.decode()
    load.round()
    assert graph.judge(LONG_S) == 0 and load.judge() == load.calls
    for name, pid in house.items():
        assert int(str(case.facts()[name])) == pid, "the same process as before"
        assert own_memory_bytes(pid) - before[name] < MOST_BYTES
    # Of frames that differ in a bit from good ones, some are good ones.
    assert shoal.lowlevel.kv_get(b"key of ours") == b"kept"


@contextmanager
def few_descriptors(pid: int, more: int) -> Iterator[None]:
    """The process can open so many more than it has, and not as many as it would like."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    # A number is free for good or for reuse: the limit is on the number, not on how many there are.
    highest = max(map(int, os.listdir(f"/proc/{pid}/fd")))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (highest + 1 + more, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


@shoal.remote(num_cpus=0)
class Some:
    def pid(self) -> int:
        return os.getpid()


MANY = 24


def test_a_daemon_that_runs_out_of_descriptors_goes_on(case: Started, tmp_path: Path) -> None:
    """Some actors start, the others wait; who is there goes on; afterwards all of them start."""
    daemon = case.daemon()
    load = Appending(tmp_path / "files", actors=2)
    load.round()
    with few_descriptors(daemon, more=6):
        actors = [Some.remote() for _ in range(MANY)]
        calls = [actor.pid.remote() for actor in actors]
        log = Path(str(case.facts()["directory"])) / "logs" / "node.log"
        eventually(lambda: "Too many open files" in log.read_text(), LONG_S, "somebody says it")
        load.round()  # what needs no new worker goes on
        graph = Graph(tmp_path, "beside", leaves=8)
        assert descriptors(daemon) <= resource.prlimit(daemon, resource.RLIMIT_NOFILE)[0]
    assert len(set(shoal.get(calls, timeout=LONG_S))) == MANY, "nobody was lost"
    assert graph.judge(LONG_S) == 0
    assert case.daemon() == daemon and load.judge() == load.calls


def test_a_machine_without_room_for_processes_goes_on(
    case: Started, no_forks: Path, tmp_path: Path
) -> None:
    """As `ulimit -u` or a limit of pids: what has a process goes on, what needs one waits."""
    load = Appending(tmp_path / "files", actors=2)
    load.round()
    victim = shoal.get(shoal.remote(os.getpid).remote(), timeout=LONG_S)
    no_forks.touch()
    try:
        actor = Some.remote()
        call = actor.pid.remote()
        kill(victim)
        graph = Graph(tmp_path, "beside", leaves=8)
        log = Path(str(case.facts()["directory"])) / "logs" / "node.log"
        eventually(lambda: "fork failed" in log.read_text(), LONG_S, "somebody says it")
        load.round()
        assert shoal.wait([call], timeout=0.1) == ([], [call])
    finally:
        no_forks.unlink()
    assert shoal.get(call, timeout=LONG_S) not in (os.getpid(), victim)
    assert graph.judge(LONG_S) <= 1 and load.judge() == load.calls
