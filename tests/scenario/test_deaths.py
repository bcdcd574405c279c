"""What a death takes with it: the children of a dead attempt that nobody else waits for."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import pathlib
import signal
import subprocess
import threading
import time

import numpy as np
import pytest

import shoal
from shoal import errors
from shoal._runtime import session_dir
from tests.torture.processes import eventually


@shoal.remote
def append(path: str, text: str) -> str:
    with open(path, "a") as file:
        file.write(text + "\n")
    return text


@shoal.remote
class Keeper:
    """Holds what it is given."""

    def __init__(self) -> None:
        self.kept: list[object] = []

    def keep(self, refs: list[object]) -> None:
        self.kept = refs

    def give(self) -> list[object]:
        return self.kept


@shoal.remote(max_retries=0)
def parent(path: str, keeper: object = None) -> None:
    mine = [append.remote(path, f"child {number}") for number in range(5)]
    if keeper is not None:
        shoal.get(keeper.keep.remote(mine[2:3]))  # type: ignore[attr-defined]
    os._exit(1)


def lines_of(path: pathlib.Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def test_children_that_nobody_else_holds_end_with_their_parent(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "ran"
    shoal.init(num_cpus=1)
    with pytest.raises(errors.WorkerCrashedError):
        shoal.get(parent.options(help=False).remote(str(path)), timeout=20)
    assert shoal.get(append.remote(str(path), "after"), timeout=20) == "after"
    time.sleep(0.2)
    assert lines_of(path) == ["after"]


def test_a_child_that_somebody_holds_runs(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "ran"
    shoal.init(num_cpus=1)
    keeper = Keeper.remote()
    shoal.get(keeper.give.remote(), timeout=20)
    with pytest.raises(errors.WorkerCrashedError):
        # The parent waits for the keeper here and lends its CPU: others may run meanwhile.
        shoal.get(parent.remote(str(path), keeper), timeout=20)
    (held,) = shoal.get(keeper.give.remote(), timeout=20)
    assert shoal.get(held, timeout=20) == "child 2"
    assert "child 2" in lines_of(path)


def test_a_write_through_a_shared_values_address_says_so() -> None:
    shoal.init(num_cpus=1)
    ref = shoal.put(np.ones(1000))

    @shoal.remote(max_retries=0)
    def scribble(array: np.ndarray) -> None:
        ctypes.memset(array.ctypes.data, 0, 8)

    with pytest.raises(shoal.errors.WorkerCrashedError, match="SIGSEGV") as caught:
        shoal.get(scribble.remote(ref))
    assert "wrote to a shared value" in str(caught.value)
    assert shoal.get(ref).sum() == 1000


@shoal.remote(max_retries=0)
def starts_programs(dies: bool, path: pathlib.Path) -> None:
    """Start a program with a child of its own, and one in a session of its own."""
    subprocess.Popen(["sh", "-c", "sleep 600 & exec sleep 600"])
    free = subprocess.Popen(["sleep", "600"], start_new_session=True)
    path.write_text(f"{os.getpid()} {free.pid}")
    if dies:
        os.kill(os.getpid(), signal.SIGKILL)


def is_group_left(leader: int) -> bool:
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("way", ["killed", "left"])
def test_what_a_worker_has_started_ends_with_it(tmp_path: pathlib.Path, way: str) -> None:
    shoal.init(num_cpus=1)
    if way == "killed":
        with pytest.raises(errors.WorkerCrashedError):
            shoal.get(starts_programs.remote(True, tmp_path / "pids"), timeout=20)
    else:
        task = shoal.remote(max_calls=1)(starts_programs._function)
        shoal.get(task.remote(False, tmp_path / "pids"), timeout=20)
    worker, free = map(int, (tmp_path / "pids").read_text().split())
    eventually(lambda: not is_group_left(worker), 30, "its group has ended")
    assert session_dir.process_start_time(free) is not None, "it has left the group"
    shoal.shutdown()
    assert session_dir.process_start_time(free) is None, "it is the session's all the same"


@shoal.remote
def fail(x: object) -> None:
    raise ValueError("on purpose")


async def awaited(ref: object) -> None:
    with contextlib.suppress(ValueError):  # `asyncio.run` would tie a knot of its own
        await ref  # type: ignore[misc]


@pytest.mark.parametrize("way", ["get", "future", "await", "callback"])
def test_an_error_that_was_caught_keeps_no_value(way: str) -> None:
    """Nor does it need the garbage collector for that, which may not run for long."""
    shoal.init(num_cpus=1)
    with pytest.raises(ValueError, match="on purpose"):
        shoal.get(fail.remote(None))

    def use() -> None:
        value = shoal.put(np.ones(50_000))
        ref = fail.remote([value])
        if way == "get":
            shoal.get(ref)
        elif way == "await":
            asyncio.run(awaited(ref))
        elif way == "future":
            # Unnamed: a frame that has the future of the error that it raised is Python's own knot.
            ref.future().result(20)
        else:
            heard = threading.Event()
            ref.future().add_done_callback(lambda _: heard.set() if value else None)
            assert heard.wait(20)

    gc.collect()
    gc.disable()
    try:
        try:
            use()
        except ValueError:
            pass
        eventually(
            lambda: not [row for row in shoal.state.objects() if row.size_bytes > 50_000],
            20,
            "the value is freed",
        )
    finally:
        gc.enable()
