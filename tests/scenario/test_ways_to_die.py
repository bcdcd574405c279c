"""Every way in which user code ends its process, or only seems to: each is told by class and facts.

A task says its pid and its last words and then does it; the error must have exactly that pid, the
exit code or the signal, and the words. What only raises, however odd, is a `TaskError` and costs
nobody his process. The same ways in a method end an actor, or do not. Then: a task that kills
whoever runs it, beside others. The ways stand in ``tests/torture/ways.py``.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal import errors
from shoal._runtime import cluster
from tests.torture.processes import eventually
from tests.torture.ways import EXITS, RAISES, SIGNALS, end, told

LONG_S = 60.0


@shoal.remote(max_retries=0)
def task(way: str, path: str) -> Any:
    return end(way, path)


@shoal.remote(max_retries=0)
def at_the_gate(way: str, path: str, gate: str) -> Any:
    Path(path).touch()
    eventually(Path(gate).exists, LONG_S, "the gate opens")
    return end(way, path)


@shoal.remote(num_cpus=0)
class Actor:
    def end(self, way: str, path: str) -> Any:
        return end(way, path)

    def pid(self) -> int:
        return os.getpid()


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    with shoal.init(num_cpus=2, log_to_driver=False):
        yield


@pytest.fixture(autouse=True)
def _end_session() -> None:
    """In the place of conftest's: one session for all tests of this module."""


@pytest.mark.parametrize("way", [*EXITS, *SIGNALS])
def test_a_task_that_ends_its_process(way: str, tmp_path: Path) -> None:
    path = tmp_path / "pid"
    ref = task.remote(way, str(path))
    with pytest.raises(errors.WorkerCrashedError) as caught:
        shoal.get(ref, timeout=LONG_S)
    assert type(caught.value) is errors.WorkerCrashedError
    assert caught.value.attempt == 1
    assert (caught.value.task, caught.value.task_id) == ("task", ref.task_id().hex())
    told(caught.value, way, path)


@pytest.mark.parametrize("way", [way for way in [*EXITS, *SIGNALS] if "CPU" not in way])
def test_a_method_that_ends_its_process(way: str, tmp_path: Path) -> None:
    path, actor = tmp_path / "pid", Actor.remote()
    call, behind = actor.end.remote(way, str(path)), actor.pid.remote()
    with pytest.raises(errors.ActorDiedError) as caught:
        shoal.get(call, timeout=LONG_S)
    told(caught.value, way, path)
    assert caught.value.reason == "crashed" and caught.value.may_have_run
    with pytest.raises(errors.ActorDiedError) as caught:
        shoal.get(behind, timeout=LONG_S)
    assert not caught.value.may_have_run, "this call was only waiting"


@pytest.mark.parametrize("way", ["os._exit(3)", "SIGKILL"])
def test_how_it_ended_is_known_without_who_made_it(way: str, tmp_path: Path) -> None:
    """The zygote tells how its children have ended; it may be busy, or stopped, for long."""
    (row,) = cluster.table("session")
    gate, path = tmp_path / "gate", tmp_path / "pid"
    ref = at_the_gate.remote(way, str(path), str(gate))
    eventually(path.exists, LONG_S, "it runs")
    os.kill(row["zygote_pid"], signal.SIGSTOP)
    try:
        gate.touch()
        with pytest.raises(errors.WorkerCrashedError) as caught:
            shoal.get(ref, timeout=LONG_S)
    finally:
        os.kill(row["zygote_pid"], signal.SIGCONT)
    told(caught.value, way, path)


def test_what_raises_costs_nobody_his_process(tmp_path: Path) -> None:
    actor = Actor.remote()
    pid = shoal.get(actor.pid.remote(), timeout=LONG_S)
    for way, (_, text) in RAISES.items():
        refs = [task.remote(way, str(tmp_path / "pid"))]
        if "sys.exit" not in way:  # of an actor it is a way to leave
            refs.append(actor.end.remote(way, str(tmp_path / "pid")))
        for ref in refs:
            with pytest.raises((errors.TaskError, errors.SerializationError)) as caught:
                shoal.get(ref, timeout=LONG_S)
            assert not isinstance(caught.value, errors.LostError), (way, caught.value)
            assert text in str(caught.value), (way, caught.value)
    assert shoal.get(actor.pid.remote(), timeout=LONG_S) == pid
    with pytest.raises(errors.ActorDiedError):
        shoal.get(actor.end.remote("sys.exit()", str(tmp_path / "pid")), timeout=LONG_S)


# ---- a task that kills whoever runs it


@shoal.remote(max_retries=-1)
def poison(folder: str) -> None:
    Path(folder, str(os.getpid())).touch()
    os.abort()


@shoal.remote
def child_of_poison(folder: str) -> None:
    shoal.get(poison.remote(folder))


@shoal.remote
def square(number: int) -> int:
    return number * number


def test_a_task_that_kills_every_worker_is_stopped_and_others_go_on(tmp_path: Path) -> None:
    below = tmp_path / "below"
    below.mkdir()
    refs = [square.remote(number) for number in range(50)]
    alone, nested = poison.remote(str(tmp_path)), child_of_poison.remote(str(below))
    refs += [square.remote(number) for number in range(50, 100)]
    with pytest.raises(errors.PoisonTaskError) as caught:
        shoal.get(alone, timeout=LONG_S)
    pids = {int(path.name) for path in tmp_path.iterdir() if path.is_file()}
    assert set(caught.value.pids) == pids and len(pids) == 3, caught.value
    assert caught.value.signal == signal.SIGABRT
    with pytest.raises(errors.PoisonTaskError):
        shoal.get(nested, timeout=LONG_S)
    # Once with its parent, which waited and ran it meanwhile; then the parent only waits.
    assert 3 <= len(list(below.iterdir())) <= 4
    assert shoal.get(refs, timeout=LONG_S) == [number * number for number in range(100)]
