"""`kill -9` of each kind of process: who goes on and what ends is RULES section 2, and within 3 s
nothing is left that should not be.

A driver here is a real program in a process of its own (`ONE_MACHINE`, or the test attached to a
started session); what is left is found by the session's mark in /proc, never by name.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import shoal
from tests.torture.processes import eventually, is_running, kill, session_pids
from tests.torture.started import Started, start_session

GONE_S = 3.0

ONE_MACHINE = """
import json, os, subprocess, sys, time
import shoal
from shoal._runtime import cluster

shoal.init(num_cpus=2)

@shoal.remote
def start_child():
    # A child that leaves its session and group: only the mark in its environment is left.
    return subprocess.Popen(["sleep", "1000"], start_new_session=True).pid

@shoal.remote(num_cpus=0)
class Actor:
    def pid(self):
        return os.getpid()

@shoal.remote(num_cpus=0)
def sleep_long():
    time.sleep(1000)

actor, sleeping = Actor.remote(), sleep_long.remote()
child, worker = shoal.get([start_child.remote(), actor.pid.remote()])
(row,) = cluster.table("session")
facts = {name: row[name] for name in ("session", "directory", "pid", "zygote_pid")}
print(json.dumps({**facts, "child": child, "actor": worker}), flush=True)
try:
    shoal.get(sleeping)
except shoal.errors.SessionLostError as error:
    print(json.dumps({"error": type(error).__name__, "text": str(error)}), flush=True)
"""


class OneMachine:
    """A program that started its own session and waits in `get`."""

    def __init__(self, folder: Path) -> None:
        environment = {**os.environ, "SHOAL_DIR": str(folder / "sessions-of-test")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", ONE_MACHINE], stdout=subprocess.PIPE, env=environment, text=True
        )
        self.facts: dict[str, Any] = {}
        self.session = ""

    def wait_until_it_waits(self) -> None:
        """In `get`, with a daemon, a zygote, workers and a child of a worker."""
        self.facts = self.read_line()
        self.session = str(self.facts["session"])
        assert len(session_pids(self.session)) >= 4

    def read_line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        return found

    def assert_nothing_is_left(self) -> None:
        eventually(lambda: not session_pids(self.session), GONE_S, "no process of the session")
        directory = Path(str(self.facts["directory"]))
        eventually(lambda: not directory.exists(), GONE_S, "the session directory is gone")

    def end(self) -> None:
        """After a failed assertion, leave nothing to the next test."""
        self.process.kill()
        self.process.wait()
        for pid in session_pids(self.session) if self.session else ():
            kill(pid)


@pytest.fixture
def one_machine(tmp_path: Path) -> Any:
    program = OneMachine(tmp_path)
    try:
        program.wait_until_it_waits()
        yield program
    finally:
        program.end()


def test_driver_that_started_the_session(one_machine: OneMachine) -> None:
    one_machine.process.kill()
    one_machine.process.wait()
    one_machine.assert_nothing_is_left()


def test_daemon_of_a_one_machine_session(one_machine: OneMachine) -> None:
    start = time.monotonic()
    kill(int(one_machine.facts["pid"]))
    answer = one_machine.read_line()
    took_s = time.monotonic() - start
    assert answer["error"] == "SessionLostError"
    assert took_s < 1.0, f"the waiting get ended after {took_s:.2f} s"
    one_machine.process.wait(10)
    one_machine.assert_nothing_is_left()


def test_zygote_and_then_daemon(one_machine: OneMachine) -> None:
    """The guard dies first: the daemon makes another, which still ends the whole session."""
    before = session_pids(one_machine.session)
    kill(int(one_machine.facts["zygote_pid"]))
    eventually(lambda: session_pids(one_machine.session) - before, GONE_S, "another zygote")
    assert is_running(int(one_machine.facts["actor"])), "workers go on without the zygote"
    kill(int(one_machine.facts["pid"]))
    assert one_machine.read_line()["error"] == "SessionLostError"
    one_machine.process.wait(10)
    one_machine.assert_nothing_is_left()


@pytest.fixture
def started(tmp_path: Path) -> Any:
    with start_session(tmp_path, num_cpus=4) as session:
        yield session
    eventually(lambda: not session_pids(session.session), GONE_S, "nothing after shoal stop")


@shoal.remote
def where() -> int:
    return os.getpid()


@shoal.remote
def once_then_die(marker: str) -> str:
    """Dies at the first attempt, answers at the second."""
    if not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), 9)
    return "second attempt"


@shoal.remote(num_cpus=0)
class Counter:
    def __init__(self) -> None:
        self.value = 0

    def add(self) -> int:
        self.value += 1
        return self.value

    def pid(self) -> int:
        return os.getpid()


def test_worker(started: Started, tmp_path: Path) -> None:
    assert shoal.get(once_then_die.remote(str(tmp_path / "marker")), timeout=20) == "second attempt"
    with pytest.raises(shoal.errors.WorkerCrashedError) as raised:
        marker = str(tmp_path / "another")
        shoal.get(once_then_die.options(max_retries=0).remote(marker), timeout=20)
    assert raised.value.signal == 9


def test_zygote(started: Started) -> None:
    actor = Counter.remote()
    assert shoal.get(actor.add.remote(), timeout=20) == 1
    (old,) = started.zygotes()
    kill(old)
    assert shoal.get(actor.add.remote(), timeout=20) == 2, "a running worker goes on"
    eventually(lambda: started.zygotes() != {old}, GONE_S, "the daemon starts another zygote")
    another = Counter.remote()
    assert shoal.get(another.add.remote(), timeout=20) == 1, "and it forks"


def test_control_store(started: Started) -> None:
    actor = Counter.options(name="kept", lifetime="detached").remote()
    assert shoal.get(actor.add.remote(), timeout=20) == 1
    (old,) = started.stores()
    kill(old)
    assert shoal.get(actor.add.remote(), timeout=20) == 2, "calls never touch the store"
    eventually(lambda: started.stores() - {old}, GONE_S, "the daemon starts another store")
    found = shoal.get_actor("kept")
    assert shoal.get(found.add.remote(), timeout=20) == 3, "the name is still known"
    shoal.kill(actor)


ATTACHED = """
import os, sys, time
import shoal

@shoal.remote(num_cpus=0)
class Actor:
    def pid(self):
        return os.getpid()

@shoal.remote
def sleep_long():
    time.sleep(1000)

shoal.init(address=sys.argv[1], namespace="of-the-killed-driver")
mine = Actor.remote()
kept = Actor.options(name="kept", lifetime="detached").remote()
sleeping = [sleep_long.remote() for _ in range(3)]
print(*shoal.get([mine.pid.remote(), kept.pid.remote()]), flush=True)
time.sleep(1000)
"""


def test_attached_driver(started: Started) -> None:
    """Its work ends; the daemon, other drivers and detached actors go on."""
    mine = Counter.remote()
    assert shoal.get([mine.add.remote(), where.remote()], timeout=20)[0] == 1
    before = started.settled_memory()
    process = subprocess.Popen(
        [sys.executable, "-c", ATTACHED, started.session],
        env=started.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        theirs, kept = map(int, process.stdout.readline().split())
    finally:
        process.kill()
        process.wait()
    eventually(lambda: not is_running(theirs), GONE_S, "the actor of the killed driver ends")
    assert is_running(kept), "a detached actor ends only by kill"
    assert shoal.get(mine.add.remote(), timeout=20) == 2, "other drivers go on"
    pids = shoal.get([where.remote() for _ in range(8)], timeout=20)
    assert pids, "the CPUs of the killed driver's tasks are free again"
    found = shoal.get_actor("kept", namespace="of-the-killed-driver")
    assert shoal.get(found.pid.remote(), timeout=20) == kept
    shoal.kill(found)
    eventually(lambda: not is_running(kept), GONE_S, "the detached actor ends by kill")
    del found, pids
    started.wait_for_memory(before, 20)
