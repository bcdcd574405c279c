"""Tasks and actors that take more memory than they may, or than there is: only they are ended.

The session of these tests may use 400 MB beside this process (``SHOAL_MEMORY_BYTES``).
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

import shoal
from shoal import errors, state
from shoal._proto import reasons as r
from shoal._runtime import cluster, daemon_process_memory
from shoal._runtime.observer import Observer
from shoal.cli import explanations, report

MB = 1 << 20
LIMIT = 400 * MB
LATE_S = 60.0


@pytest.fixture(scope="module", autouse=True)
def _one_session() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        # What this process has grown to by now is its own, and counts.
        limit = LIMIT + daemon_process_memory.quick_bytes(os.getpid())
        patch.setenv("SHOAL_MEMORY_BYTES", str(limit))
        shoal.init(num_cpus=3, object_store_memory=32 << 20, log_to_driver=False)
        yield
        shoal.shutdown()


@pytest.fixture(autouse=True)
def _end_session() -> Iterator[None]:
    """One session for all tests here: the one of tests/conftest.py would end it."""
    yield


def take(megabytes: int) -> list[bytes]:
    """So much memory, every page of it written to, 4 MB at a time."""
    return [b"x" * (4 * MB) for _ in range(megabytes // 4)]


def take_mapped() -> list[bytes]:
    """216 MB in pieces that the allocator gives back when they are freed: no later task of the
    process finds them there, so what it takes is always seen."""
    return [b"x" * (36 * MB) for _ in range(6)]


def pass_gate(gate: Path) -> None:
    deadline = time.monotonic() + LATE_S
    while not gate.exists() and time.monotonic() < deadline:
        time.sleep(0.01)


@shoal.remote
def holds(megabytes: int, gate: Path) -> int:
    """It keeps so much until the gate is there."""
    kept = take(megabytes)
    pass_gate(gate)
    return len(kept)


@shoal.remote
def light(number: int) -> int:
    return number


def wait_until_all_is_free() -> None:
    """What earlier tests took was seen to be gone."""
    deadline = time.monotonic() + LATE_S
    while any((worker.memory_bytes or 0) > 60 * MB for worker in state.workers()):
        assert time.monotonic() < deadline, state.workers()
        time.sleep(0.02)


def pids() -> tuple[object, object]:
    (row,) = cluster.table("session")
    return row["pid"], row["store_pid"]


def test_a_task_that_takes_more_than_it_asked_for_is_ended_and_says_so(tmp_path: Path) -> None:
    hog = holds.options(memory=60 * MB, max_retries=0)
    with pytest.raises(errors.OutOfMemoryError) as caught:
        shoal.get(hog.remote(160, tmp_path / "never"), timeout=LATE_S)
    error = caught.value
    assert (error.task, error.kind, error.limit_bytes) == ("holds", "limit", 60 * MB)
    assert error.peak_bytes > 60 * MB and error.pid > 0
    assert f"(pid {error.pid})" in str(error) and "memory=" in str(error)
    gate = tmp_path / "go"
    gate.touch()
    assert shoal.get(hog.remote(20, gate), timeout=LATE_S) == 5, "what fits goes on as before"


def test_it_is_tried_again_after_a_pause_until_it_is_clear(tmp_path: Path) -> None:
    tries = tmp_path / "tries"

    @shoal.remote(memory=60 * MB, max_retries=1)
    def hog() -> None:
        with tries.open("a") as file:
            file.write(f"{time.monotonic()}\n")
        kept = take(160)
        pass_gate(tmp_path / "never")
        del kept

    with pytest.raises(errors.OutOfMemoryError, match=r"attempt 2"):
        shoal.get(hog.remote(), timeout=LATE_S)
    first, second = map(float, tries.read_text().split())
    assert second - first >= 0.2, "it waits a little first"


def test_an_actor_is_ended_with_what_it_took_and_comes_back_if_it_may() -> None:
    # Without a CPU: errors that are kept keep their frames, and these the handles.
    @shoal.remote(memory=60 * MB, num_cpus=0)
    class Hoarder:
        def __init__(self) -> None:
            self.kept: list[bytes] = []

        def keep(self, megabytes: int) -> int:
            self.kept += take(megabytes)
            return len(self.kept)

        def pid(self) -> int:
            return os.getpid()

    hoarder = Hoarder.remote()
    assert shoal.get(hoarder.keep.remote(20), timeout=LATE_S) == 5
    deadline = time.monotonic() + LATE_S
    with pytest.raises(errors.ActorDiedError) as caught:
        shoal.get(hoarder.keep.remote(80), timeout=LATE_S)
        while time.monotonic() < deadline:
            shoal.get(hoarder.pid.remote(), timeout=LATE_S)
            time.sleep(0.01)
    assert isinstance(caught.value, errors.OutOfMemoryError)
    assert isinstance(caught.value.__cause__, errors.OutOfMemoryError)
    assert caught.value.limit_bytes == 60 * MB and "Hoarder took" in str(caught.value)

    again = Hoarder.options(max_restarts=1).remote()
    before = shoal.get(again.pid.remote(), timeout=LATE_S)
    again.keep.remote(100)
    pid = before
    while pid == before:
        assert time.monotonic() < deadline, "it is still there"
        with contextlib.suppress(errors.ActorUnavailableError):
            pid = shoal.get(again.pid.remote(), timeout=LATE_S)
    assert shoal.get(again.keep.remote(20), timeout=LATE_S) == 5


def test_of_hogs_each_is_ended_and_nobody_else(tmp_path: Path) -> None:
    """The node has too little: the offender goes, whatever it is and whenever it began."""
    chance = random.Random(7)
    daemon = pids()
    never = tmp_path / "never"

    @shoal.remote(max_retries=0)
    def calm(megabytes: int, gate: Path) -> int:
        kept = take(megabytes)
        pass_gate(gate)
        return len(kept)

    for number in range(5):
        gate = tmp_path / f"go {number}"

        @shoal.remote(max_retries=0)
        def hog(megabytes: int) -> None:
            kept = take(megabytes)
            pass_gate(never)
            del kept

        sizes = [chance.randint(4, 30) for _ in range(chance.randint(1, 2))]
        others = [calm.remote(size, gate) for size in sizes]
        with pytest.raises(errors.OutOfMemoryError) as caught:
            shoal.get(hog.remote(chance.randint(410, 500)), timeout=LATE_S)
        assert caught.value.kind == "node" and caught.value.task.endswith("hog")
        gate.touch()
        assert shoal.get(others, timeout=LATE_S) == [size // 4 for size in sizes]
    assert pids() == daemon
    assert shoal.get([light.remote(i) for i in range(50)], timeout=LATE_S) == list(range(50))


def test_two_that_have_needed_much_do_not_run_at_once(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()

    @shoal.remote(max_retries=0)
    def large(number: int, gate: Path) -> None:
        (runs / str(number)).touch()
        kept = take_mapped()
        pass_gate(gate)
        (runs / str(number)).unlink()
        del kept

    gates = [tmp_path / f"gate {number}" for number in range(3)]
    wait_until_all_is_free()
    first = large.remote(0, gates[0])
    deadline = time.monotonic() + LATE_S
    while not any(peak.is_admitted and peak.peak_bytes > 200 * MB for peak in peaks("large")):
        assert time.monotonic() < deadline, "its peak is not learned"
        time.sleep(0.02)
    others = [large.remote(number, gates[number]) for number in (1, 2)]
    while not isinstance(state.why(others[0]).root, r.WaitsForMemory):
        assert time.monotonic() < deadline, str(state.why(others[0]))
        time.sleep(0.02)
    assert [path.name for path in runs.iterdir()] == ["0"]
    assert shoal.get(light.remote(5), timeout=LATE_S) == 5, "others go on"
    left = {"0", "1", "2"}
    while left:
        assert time.monotonic() < deadline
        now = {path.name for path in runs.iterdir()}
        assert len(now) <= 1, "who asked first runs first, and alone"
        for number in now & left:
            left.remove(number)
            gates[int(number)].touch()
        time.sleep(0.02)
    shoal.get([first, *others], timeout=LATE_S)


_leaked: list[list[bytes]] = []


def test_what_a_function_leaks_goes_with_its_worker_after_max_calls() -> None:
    """440 MB in all, which would not fit."""

    @shoal.remote(num_cpus=3, max_calls=1, max_retries=0)
    def leaks() -> int:
        _leaked.append(take(88))
        return len(_leaked)

    wait_until_all_is_free()
    assert shoal.get([leaks.remote() for _ in range(5)], timeout=LATE_S) == [1] * 5
    wait_until_all_is_free()


def peaks(name: str) -> list[state.MemoryPeak]:
    return [peak for peak in state.memory_peaks() if peak.function.endswith(name)]


def test_what_waits_for_its_turn_of_memory_can_be_cancelled(tmp_path: Path) -> None:
    gate = tmp_path / "go"

    @shoal.remote(max_retries=0)
    def huge(gate: Path) -> int:
        kept = take_mapped()
        pass_gate(gate)
        return len(kept)

    wait_until_all_is_free()
    first = huge.remote(gate)
    deadline = time.monotonic() + LATE_S
    while not any(peak.is_admitted and peak.peak_bytes > 200 * MB for peak in peaks("huge")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    second = huge.remote(gate)
    while not isinstance(state.why(second).root, r.WaitsForMemory):
        assert time.monotonic() < deadline, str(state.why(second))
        time.sleep(0.02)
    shoal.cancel(second)
    with pytest.raises(errors.TaskCancelledError):
        shoal.get(second, timeout=LATE_S)
    gate.touch()
    assert shoal.get(first, timeout=LATE_S) == 6
    assert shoal.get(huge.remote(gate), timeout=LATE_S) == 6, "nothing is left of it"


def test_what_functions_need_is_shown_with_how_it_is_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    @shoal.remote(max_retries=0)
    def wide(gate: Path) -> int:
        kept = take_mapped()
        pass_gate(gate)
        return len(kept)

    class Asks:
        """What the command line asks the daemon with."""

        def table(self, name: str) -> list[dict[str, object]]:
            return cluster.table(name)

    gate = tmp_path / "go"
    wait_until_all_is_free()
    ref = wide.remote(gate)
    deadline = time.monotonic() + LATE_S
    while not any(peak.is_admitted and peak.peak_bytes > 200 * MB for peak in peaks("wide")):
        assert time.monotonic() < deadline, "its peak is not learned"
        time.sleep(0.02)
    (peak,) = peaks("wide")
    assert (peak.runs, peak.ended) == (1, 0), "one task, however often it was looked at"
    gate.touch()
    assert shoal.get(ref, timeout=LATE_S) == 6
    asks = cast(Observer, Asks())
    assert explanations.print_memory(asks, "function", 10, as_json=False)
    shown = capsys.readouterr().out
    assert "memory of workers" in shown
    (line,) = [line for line in shown.splitlines() if "wide" in line]
    assert "if there is enough" in line and "MiB" in line
    assert explanations.print_memory(asks, "function", 1, as_json=True)
    assert len(json.loads(capsys.readouterr().out)) == 1


def test_workers_show_what_they_have(tmp_path: Path) -> None:
    gate = tmp_path / "go"
    ref = holds.options(max_retries=0).remote(80, gate)
    deadline = time.monotonic() + LATE_S
    while not any((worker.memory_bytes or 0) > 80 * MB for worker in state.workers()):
        assert time.monotonic() < deadline, state.workers()
        time.sleep(0.02)
    gate.touch()
    assert shoal.get(ref, timeout=LATE_S) == 20


def test_status_shows_the_memory_of_the_node(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gate = tmp_path / "go"
    ref = holds.options(max_retries=0).remote(80, gate)
    deadline = time.monotonic() + LATE_S
    shown = ""
    while "in use (" not in shown:
        assert time.monotonic() < deadline, shown
        (row,) = cluster.table("session")
        report.print_memory(row["processes_memory"])
        shown = capsys.readouterr().out
        time.sleep(0.02)
    assert "memory of the node" in shown and "paused" not in shown
    gate.touch()
    assert shoal.get(ref, timeout=LATE_S) == 20
    report.print_memory({**row["processes_memory"], "is_paused": True, "waiting": 2})
    shown = capsys.readouterr().out
    assert "admission paused" in shown and "waiting for memory: 2 tasks" in shown
