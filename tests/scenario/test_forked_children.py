"""Children that user code forked, and whose parent has gone: what is kept for whom, and how long.

``test_api_fork`` looks at what such a child sees; here are the cases in which it would be easy to
mistake somebody for somebody else's child.
"""

from __future__ import annotations

import gc
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import shoal
from shoal import errors, lowlevel
from tests.scenario.test_api_fork import EXPECTED, N, no_leak, overwrite
from tests.torture.processes import eventually


def leave_children(array: np.ndarray[Any, Any], place: str, forks_again: bool = False) -> None:
    """Fork a child that looks at ``array`` until there is a file ``stop``; it may fork another one.

    Returns in this process once the youngest has begun to look.
    """
    if os.fork() == 0:
        number = 1 if forks_again and os.fork() == 0 else 0
        look_on(array, pathlib.Path(place), number)
    eventually(
        pathlib.Path(place, f"looks{int(forks_again)}").exists, 30, "no child has begun to look"
    )


def look_on(array: np.ndarray[Any, Any], place: pathlib.Path, number: int) -> None:
    """What child ``number`` does: look, and tell at the end what it saw; never returns."""
    try:
        os.setsid()  # else it ends with its worker
        (place / f"pid{number}").write_text(str(os.getpid()))
        sums = {int(array.sum())}
        (place / f"looks{number}").touch()
        deadline = time.monotonic() + 60
        while not (place / "stop").exists() and time.monotonic() < deadline:
            sums.add(int(array.sum()))
            time.sleep(0.002)
        sums.add(int(array.sum()))
        (place / f"part{number}").write_text(repr(sorted(sums)))
        (place / f"part{number}").rename(place / f"saw{number}")
    finally:
        os._exit(0)


def stop_children(place: pathlib.Path, youngest: int) -> str:
    """End the children; what the youngest saw from its parent's life to now."""
    (place / "stop").touch()
    saw = place / f"saw{youngest}"
    eventually(saw.exists, 30, "the child has crashed")
    return saw.read_text()


@pytest.mark.parametrize("forks_again", [False, True])
def test_the_children_of_a_killed_worker_keep_their_values(
    tmp_path: pathlib.Path, forks_again: bool
) -> None:
    shoal.init(num_cpus=1, object_store_memory=128 << 20)

    @shoal.remote(max_retries=0)
    def task(array: Any) -> None:
        leave_children(array, str(tmp_path), forks_again)
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(errors.WorkerCrashedError):
        shoal.get(task.remote(np.arange(N)), timeout=30)
    overwrite(N)
    if forks_again:
        # Its parent goes too: it must be found by a new look.
        eventually((tmp_path / "pid0").exists, 30, "the elder has not begun")
        os.kill(int((tmp_path / "pid0").read_text()), signal.SIGKILL)
        overwrite(N)
    kept_bytes = lowlevel.memory().audit()["bytes"]
    overwrite(N)
    assert stop_children(tmp_path, int(forks_again)) == EXPECTED
    assert kept_bytes >= N * 8
    no_leak()


def test_a_worker_whose_children_have_gone_keeps_nothing(tmp_path: pathlib.Path) -> None:
    shoal.init(num_cpus=1)

    @shoal.remote(max_retries=0)
    def task(array: Any) -> None:
        leave_children(array, str(tmp_path))
        stop_children(tmp_path, 0)
        os.wait()
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(errors.WorkerCrashedError):
        shoal.get(task.remote(np.arange(N)), timeout=30)
    no_leak()


@pytest.fixture
def started(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SHOAL_DIR", str(tmp_path / "sessions"))
    shoal_command = [sys.executable, "-m", "shoal"]
    subprocess.run([*shoal_command, "start", "--num-cpus", "1"], check=True, timeout=60)
    yield
    shoal.shutdown()
    subprocess.run([*shoal_command, "stop"], check=True, timeout=60)


def fork_looker(array: np.ndarray[Any, Any], place: pathlib.Path) -> int:
    """A child that looks on by itself, in a directory of its own; its pid."""
    place.mkdir()
    pid = os.fork()
    if pid == 0:
        look_on(array, place, 0)
    eventually((place / "looks0").exists, 30, "no child has begun to look")
    return pid


@pytest.mark.usefixtures("started")
def test_a_driver_that_joins_again_does_not_serve_its_former_children(
    tmp_path: pathlib.Path,
) -> None:
    shoal.init()
    array = shoal.get(shoal.put(np.arange(N)))
    first = fork_looker(array, tmp_path / "first")
    second = fork_looker(array, tmp_path / "second")
    del array
    gc.collect()
    shoal.shutdown()
    shoal.init()
    overwrite(N)
    assert stop_children(tmp_path / "first", 0) == EXPECTED
    os.waitpid(first, 0)
    for _ in range(20):
        overwrite(N)
        time.sleep(0.01)
    assert stop_children(tmp_path / "second", 0) == EXPECTED
    os.waitpid(second, 0)
    no_leak()


def test_the_children_of_another_do_not_keep_what_nobody_sees(tmp_path: pathlib.Path) -> None:
    """Two workers die; the child of one ends: its values go, whatever the other's child does."""
    shoal.init(num_cpus=1)

    @shoal.remote(max_retries=0)
    def task(array: Any, place: str) -> None:
        fork_looker(array, pathlib.Path(place))
        os.kill(os.getpid(), signal.SIGKILL)

    places = [tmp_path / "first", tmp_path / "second"]
    for place in places:
        with pytest.raises(errors.WorkerCrashedError):
            shoal.get(task.remote(np.arange(N), str(place)), timeout=30)
    memory = lowlevel.memory()
    assert memory.audit()["bytes"] >= 2 * N * 8
    assert stop_children(places[0], 0) == EXPECTED
    eventually(lambda: memory.audit()["bytes"] < 2 * N * 8, 30, "a stranger's child keeps values")
    assert memory.audit()["bytes"] >= N * 8
    assert stop_children(places[1], 0) == EXPECTED
    no_leak()
