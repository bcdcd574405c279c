"""fork in user code: the child's arrays stay what they were, its handles say that they are inert.

The parent drops its array at once and stores others of the same size again and again: without a
guard they would be written over the one that the child still looks at (PROTOCOL B4).
"""

from __future__ import annotations

import asyncio
import gc
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from shoal import errors, lowlevel
from tests.torture.started import start_session

N = 200_000
"""Numbers in an array: 1.6 MB, far above what is stored inline."""

OTHERS = 30


def child_of(array: np.ndarray[Any, Any], go: int, told: int) -> None:
    """Look at the array until told to stop: every look must find the same."""
    sums = set()
    os.set_blocking(go, False)
    while True:
        sums.add(int(array.sum()))
        try:
            if os.read(go, 1):
                break
        except BlockingIOError:
            time.sleep(0.002)
    os.write(told, repr(sorted(sums)).encode())


def with_os_fork(array: np.ndarray[Any, Any], go: int, told: int) -> Callable[[], None]:
    """Start the child; return what waits for its end."""
    pid = os.fork()
    if pid == 0:
        try:
            child_of(array, go, told)
        finally:
            os._exit(0)
    return lambda: None if os.waitpid(pid, 0)[1] == 0 else pytest.fail("the child has crashed")


def with_multiprocessing(array: np.ndarray[Any, Any], go: int, told: int) -> Callable[[], None]:
    process = multiprocessing.get_context("fork").Process(target=child_of, args=(array, go, told))
    process.start()

    def join() -> None:
        process.join(20)
        assert process.exitcode == 0

    return join


Fork = Callable[[Any, int, int], Callable[[], None]]


def overwrite(n: int) -> None:
    """Store and drop arrays as large as the one that was dropped."""
    for i in range(OTHERS):
        array = shoal.get(shoal.put(np.full(n, i + 1)))
        assert array[-1] == i + 1


def run_children(forks: list[Fork]) -> list[str]:
    """What each child saw; the parent drops the array, and ends the children one after another."""
    ref = shoal.put(np.arange(N))
    array = shoal.get(ref)
    children = []
    for fork in forks:
        go_read, go = os.pipe()
        read, told = os.pipe()
        children.append((fork(array, go_read, told), go, read))
        os.close(go_read)
        os.close(told)
    del ref, array
    gc.collect()
    seen = []
    for join, go, read in children:
        overwrite(N)
        os.write(go, b"x")
        os.close(go)
        seen.append(os.read(read, 1000).decode())
        os.close(read)
        join()
    return seen


EXPECTED = repr([N * (N - 1) // 2])


def no_leak() -> None:
    """Nothing is in use once the children have gone (guards end at the next dropped array)."""
    deadline = time.monotonic() + 30
    while True:
        shoal.get(shoal.put(np.zeros(N)))
        gc.collect()
        found = lowlevel.memory().audit()
        if not found["leaked_blocks"] and not found["wrong_counts"] and found["bytes"] < N * 8:
            return
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


FORKS = [[with_os_fork], [with_multiprocessing], [with_os_fork, with_os_fork]]
NAMES = ["os.fork", "multiprocessing", "two_children"]


@pytest.mark.parametrize("forks", FORKS, ids=NAMES)
def test_the_children_of_a_driver_keep_their_values(forks: list[Fork]) -> None:
    shoal.init(num_cpus=1)
    assert run_children(forks) == [EXPECTED] * len(forks)
    no_leak()


@pytest.mark.parametrize("forks", FORKS, ids=NAMES)
def test_the_children_of_a_task_keep_their_values(forks: list[Fork]) -> None:
    shoal.init(num_cpus=1)

    @shoal.remote
    def task() -> list[str]:
        return run_children(forks)

    @shoal.remote
    def settle() -> None:
        shoal.get(shoal.put(np.zeros(N)))

    assert shoal.get(task.remote()) == [EXPECTED] * len(forks)
    shoal.get(settle.remote())
    no_leak()


@pytest.mark.parametrize("forks", FORKS, ids=NAMES)
def test_the_children_of_a_task_keep_their_arguments(forks: list[Fork]) -> None:
    shoal.init(num_cpus=1)

    @shoal.remote
    def task(array: Any) -> list[str]:
        children = []
        for fork in forks:
            go_read, go = os.pipe()
            read, told = os.pipe()
            children.append((fork(array, go_read, told), go, read))
        del array
        seen = []
        for join, go, read in children:
            overwrite(N)
            os.write(go, b"x")
            seen.append(os.read(read, 1000).decode())
            join()
        return seen

    ref = task.remote(np.arange(N))
    assert shoal.get(ref) == [EXPECTED] * len(forks)
    del ref
    shoal.get(task.remote(np.arange(N)))
    no_leak()


@shoal.remote
class Actor:
    def work(self) -> int:
        return 1


@shoal.remote
def one() -> int:
    return 1


def uses(ref: Any, actor: Any) -> dict[str, Callable[[], Any]]:
    """What a child may try with what it has inherited."""

    async def wait_for() -> Any:
        return await ref

    return {
        "get": lambda: shoal.get(ref),
        "get_of_a_list": lambda: shoal.get([ref, ref]),
        "get_with_timeout": lambda: shoal.get(ref, timeout=1),
        "wait": lambda: shoal.wait([ref]),
        "as_completed": lambda: list(shoal.as_completed([ref])),
        "put": lambda: shoal.put(1),
        "put_large": lambda: shoal.put(np.zeros(N)),
        "submit": one.remote,
        "submit_with_ref": lambda: one.remote(ref),
        "submit_first_time": lambda: shoal.remote(lambda: 2).remote(),
        "call": actor.work.remote,
        "create_actor": Actor.remote,
        "get_actor": lambda: shoal.get_actor("nobody"),
        "kill": lambda: shoal.kill(actor),
        "init": shoal.init,
        "nodes": shoal.nodes,
        "resources": shoal.cluster_resources,
        "map": lambda: list(shoal.map(abs, [1, 2])),
        "future": lambda: ref.future().result(5),
        "await": lambda: asyncio.run(wait_for()),
    }


def try_everything(ref: Any, actor: Any) -> dict[str, str]:
    """Every use that did not raise ForkedProcessError, and what came of it."""
    wrong = {}
    for name, use in uses(ref, actor).items():
        try:
            wrong[name] = f"returned {use()!r}"
        except errors.ForkedProcessError:
            pass
        except BaseException as error:  # the child must not go on as the parent
            wrong[name] = repr(error)
    assert hash(ref) and repr(actor) and ref in [ref]  # these need nothing
    shoal.shutdown()  # the session is the parent's, and goes on
    assert not shoal.is_initialized()
    return wrong


def refusals(ref: Any, actor: Any) -> dict[str, str]:
    """What a child of this process finds when it tries everything."""
    read, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(told, json.dumps(try_everything(ref, actor)).encode())
        finally:
            os._exit(0)
    os.close(told)
    with open(read, "rb") as answers:
        answer = answers.read()
    assert os.waitpid(pid, 0)[1] == 0
    found: dict[str, str] = json.loads(answer)
    return found


def test_handles_are_inert_in_the_child_of_a_driver() -> None:
    shoal.init(num_cpus=2)
    ref, actor = one.remote(), Actor.remote()
    shoal.get([ref, actor.work.remote()])
    assert refusals(ref, actor) == {}
    assert shoal.get([ref, actor.work.remote(), one.remote()]) == [1, 1, 1]


def test_handles_are_inert_in_the_child_of_a_task() -> None:
    shoal.init(num_cpus=2)

    @shoal.remote
    def task(actor: Any) -> dict[str, str]:
        ref = one.remote()
        shoal.get([ref, actor.work.remote()])
        found = refusals(ref, actor)
        assert shoal.get([ref, actor.work.remote()]) == [1, 1]
        return found

    assert shoal.get(task.remote(Actor.remote())) == {}


def test_a_fork_after_many_sessions() -> None:
    """What a fork prepares must not look at the memory of sessions that are gone."""
    for _ in range(20):  # more than the former sessions that are remembered
        shoal.init(num_cpus=1)
        shoal.shutdown()
    gc.collect()
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0


DIES = """
import os, signal, sys, time
import numpy as np
import shoal

shoal.init(**{options})
array = shoal.get(shoal.put(np.arange(200_000)))
parent = os.getpid()
if os.fork() == 0:
    while os.getppid() == parent:
        time.sleep(0.01)
    sums = set()
    for _ in range(100):
        sums.add(int(array.sum()))
        time.sleep(0.01)
    print(sorted(sums), flush=True)
    os._exit(0)
del array
if {way!r} == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
"""
"""A driver that ends while its child looks at a value."""


def what_the_child_saw(way: str, options: dict[str, Any]) -> str:
    program = DIES.format(way=way, options=options)
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, timeout=60)
    return done.stdout.decode().strip()


@pytest.mark.parametrize("way", ["killed", "ended"])
def test_the_child_of_a_driver_that_is_gone_keeps_its_values(way: str) -> None:
    assert what_the_child_saw(way, {"num_cpus": 1}) == EXPECTED


@pytest.mark.parametrize("way", ["killed", "ended"])
def test_the_child_of_a_driver_keeps_its_values_in_a_session_that_goes_on(
    way: str, tmp_path: Path
) -> None:
    with start_session(tmp_path, num_cpus=1) as started:
        seen: list[str] = []
        reader = threading.Thread(
            target=lambda: seen.append(what_the_child_saw(way, {"address": started.session}))
        )
        reader.start()
        while reader.is_alive():
            overwrite(N)
        assert seen == [EXPECTED]
        started.wait_for_empty_memory(20)


@pytest.mark.parametrize("way", ["killed", "ended"])
def test_the_child_of_a_worker_that_is_gone_keeps_its_values(way: str, tmp_path: Path) -> None:
    shoal.init(num_cpus=1)
    told = tmp_path / "seen"

    @shoal.remote(max_retries=0)
    def fork_and_go() -> None:
        array = shoal.get(shoal.put(np.arange(N)))
        parent = os.getpid()
        if os.fork() == 0:
            os.setsid()  # else it ends with its worker
            (tmp_path / "free").touch()
            while os.getppid() == parent:
                time.sleep(0.01)
            sums = set()
            for _ in range(100):
                sums.add(int(array.sum()))
                time.sleep(0.01)
            (tmp_path / "new").write_text(repr(sorted(sums)))
            (tmp_path / "new").rename(told)
            os._exit(0)
        while not (tmp_path / "free").exists():
            time.sleep(0.01)
        if way == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(3)

    with pytest.raises(errors.WorkerCrashedError):
        shoal.get(fork_and_go.remote(), timeout=20)
    deadline = time.monotonic() + 30
    while not told.exists():
        assert time.monotonic() < deadline, "the child lives as long as it wants"
        overwrite(N)
    assert told.read_text() == EXPECTED
    no_leak()
