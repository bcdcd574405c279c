"""Descriptors run out: who has none is told so, everybody else goes on, and it ends when there are
some again. And the socket of a session, seen by another user of the machine.

Limits are set in processes of the tests' own (`RLIMIT_NOFILE` is inherited and cannot be raised
again where the hard limit was lowered).
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from shoal._runtime import cluster, wire
from tests.torture.started import start_session

FEW = 64
"""A limit under which a session of one driver still starts."""


@contextmanager
def no_descriptors() -> Iterator[None]:
    """In here this process can open nothing."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (FEW, before[1]))
    taken = []
    try:
        while True:
            taken.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        yield
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@shoal.remote
def double(number: int) -> int:
    return 2 * number


@shoal.remote(num_cpus=0)
class Counter:
    def __init__(self) -> None:
        self.value = 0

    def add(self) -> int:
        self.value += 1
        return self.value


def use_everything() -> list[Any]:
    """Tasks, values, an actor and a fork: none of these needs a new descriptor."""
    numbers = shoal.get([double.remote(i) for i in range(50)], timeout=20)
    array = shoal.get(shoal.put(np.ones(100_000)), timeout=20)
    calls = shoal.get(Counter.remote().add.remote(), timeout=20)
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    ended = os.waitpid(pid, 0)[1]
    return [numbers[-1], int(array.sum()), calls, ended]


EVERYTHING = [98, 100_000, 1, 0]


def test_a_driver_without_descriptors_goes_on() -> None:
    shoal.init(num_cpus=2)
    assert use_everything() == EVERYTHING, "what is imported at first use is there now"
    with no_descriptors():
        assert use_everything() == EVERYTHING
    assert use_everything() == EVERYTHING


def test_a_task_without_descriptors_goes_on() -> None:
    shoal.init(num_cpus=2)

    @shoal.remote(max_retries=0)
    def exhaust() -> list[Any]:
        first = use_everything()
        with no_descriptors():
            second = use_everything()
        return [first, second, os.getpid()]

    *seen, pid = shoal.get(exhaust.remote(), timeout=60)
    assert seen == [EVERYTHING, EVERYTHING]
    assert any(row["pid"] == pid for row in cluster.table("workers")), "the worker lives on"


def test_an_exception_for_want_of_descriptors_is_the_tasks_own() -> None:
    shoal.init(num_cpus=1)

    @shoal.remote(max_retries=0)
    def open_too_many() -> None:
        with no_descriptors():
            open("/dev/null").close()

    with pytest.raises(OSError, match="Too many open files") as raised:
        shoal.get(open_too_many.remote(), timeout=20)
    assert isinstance(raised.value, shoal.errors.TaskError)
    assert shoal.get(double.remote(1), timeout=20) == 2


FEW_FOR_ALL = """
import json, os, resource, sys, time
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
import shoal
from shoal._runtime import cluster, wire

@shoal.remote
def one():
    return 1

@shoal.remote(num_cpus=0)
class Actor:
    def work(self):
        return 1

shoal.init(num_cpus=1)
assert shoal.get(one.remote(), timeout=20) == 1
actors = [Actor.remote() for _ in range(30)]
calls = [actor.work.remote() for actor in actors]
shoal.wait(calls, num_returns=1, timeout=60)
ready, waiting = shoal.wait(calls, num_returns=len(calls), timeout=2)
during = shoal.get([one.remote() for _ in range(20)], timeout=60)
(facts,) = cluster.table("session")
log = open(facts["directory"] + "/logs/node.log").read()
busy = time.process_time()
ticks = open(f"/proc/{facts['pid']}/stat").read().rpartition(")")[2].split()
cpu_s = (int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK")
# The first actors make room for the others.
first = [actor for actor, call in zip(actors, calls) if call in ready]
kept = len(first)
for actor in first:
    shoal.kill(actor)
del actor, first, ready
more, _ = shoal.wait(waiting, num_returns=1, timeout=60)
print(json.dumps({"ready": kept, "waiting": len(waiting), "during": sum(during), "log": log,
                  "cpu_s": cpu_s, "more": len(more)}))
"""


def test_a_daemon_without_descriptors_starts_no_workers_and_recovers() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FEW_FOR_ALL], capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["ready"] > 0 and found["waiting"] > 0, found
    assert found["during"] == 20, "what needs no new worker goes on"
    assert found["more"] == 1, "an actor that ends makes room for one that waits"
    assert "Too many open files" in found["log"] + done.stderr, "somebody says why"
    assert found["cpu_s"] < 4.0, "it does not try without end"


KNOCK = """
import os, socket, sys
os.setgid(65534)
os.setuid(65534)
stream = socket.socket(socket.AF_UNIX)
stream.settimeout(10)
try:
    stream.connect(sys.argv[1])
    stream.sendall(b"\\0" * 64)
    print("answer", stream.recv(1000))
except OSError as error:
    print(type(error).__name__)
"""


def knock(path: str) -> str:
    """What somebody with another uid gets from this socket."""
    done = subprocess.run(
        [sys.executable, "-c", KNOCK, path], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_another_user_is_refused_at_the_socket() -> None:
    shoal.init(num_cpus=1)
    (facts,) = cluster.table("session")
    directory = str(facts["directory"])
    path = os.path.join(directory, "node.sock")
    assert knock(path) == "PermissionError", "the directory is closed to others"
    root = os.path.dirname(directory)
    mode = os.stat(root).st_mode & 0o777
    try:
        # Even where somebody has opened the way: the kernel says whose process it is.
        os.chmod(root, 0o711)
        os.chmod(directory, 0o711)
        os.chmod(path, 0o777)
        assert knock(path) in ("answer b''", "ConnectionResetError", "BrokenPipeError")
    finally:
        os.chmod(root, mode)
    assert shoal.get(double.remote(4), timeout=20) == 8


def test_connections_that_say_nothing_keep_nobody_out(tmp_path: Path) -> None:
    """Two hundred peers that connect and are silent; a program that comes then is let in."""
    program = "import shoal; shoal.init(address='auto'); print('in')"
    with start_session(tmp_path, num_cpus=1) as started, ExitStack() as silent:
        path = os.path.join(str(started.facts()["directory"]), "node.sock")
        for _ in range(200):
            silent.enter_context(wire.connect(path))
        done = subprocess.run(
            [sys.executable, "-c", program.replace("auto", started.session)],
            capture_output=True,
            env=started.environment,
            text=True,
            timeout=10,
        )
        assert done.stdout == "in\n", done.stderr
        assert shoal.get(double.remote(4), timeout=20) == 8


SESSIONS_OF_A_PROCESS = """
import gc, resource, shoal
from shoal import lowlevel

def mapped():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()

gc.disable()
sizes = [mapped()]
for number in range(24):
    shoal.init(num_cpus=1, object_store_memory=64 << 20)
    circle = [lowlevel.memory()]
    circle.append(circle)
    del circle
    sizes.append(mapped())
    if number == 1:
        each = sizes[2] - sizes[1]
        resource.setrlimit(resource.RLIMIT_AS, (sizes[0] + 20 * each,) * 2)
    shoal.shutdown()
print(number + 1, max(sizes) <= sizes[0] + 20 * each)
"""


def test_addresses_of_former_sessions_are_used_again() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SESSIONS_OF_A_PROCESS], capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "24 True\n", done.stderr
