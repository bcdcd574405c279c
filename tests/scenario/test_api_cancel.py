"""Cancelling what waits, what runs, what sleeps, what never comes back to Python; max_calls."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal import errors
from tests.torture.processes import eventually

SOON_S = 20.0
"""A second is promised; the machines that run this are busy, and what is not cancelled takes a
minute."""


@shoal.remote
def sleeps(path: Path) -> None:
    path.touch()
    time.sleep(60)


@shoal.remote
def spins(path: Path) -> None:
    path.touch()
    while True:
        pass


@shoal.remote
def computes(path: Path) -> bytes:
    path.touch()
    return hashlib.pbkdf2_hmac("sha256", b"one call", b"of C code", 1_000_000_000)


@shoal.remote
async def awaits(path: Path) -> None:
    path.touch()
    await asyncio.sleep(60)


@shoal.remote
def ignores(path: Path) -> None:
    while True:
        try:
            path.touch()
            time.sleep(60)
        except KeyboardInterrupt:
            continue


def is_cancelled(ref: Any, stage: str) -> bool:
    begun = time.monotonic()
    with pytest.raises(errors.TaskCancelledError) as caught:
        shoal.get(ref, timeout=SOON_S * 3)
    assert time.monotonic() - begun < SOON_S
    return bool(caught.value.stage == stage)


@pytest.mark.parametrize("function", [sleeps, spins, computes, awaits, ignores])
@pytest.mark.parametrize("force", [False, True])
def test_what_runs_ends_soon(function: Any, force: bool, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    ref = function.remote(runs)
    eventually(runs.exists, 30, "the task runs")
    shoal.cancel(ref, force=force)
    assert is_cancelled(ref, "running")


def test_the_code_can_clean_up_and_the_worker_lives_on(tmp_path: Path) -> None:
    shoal.init(num_cpus=1)
    runs, cleaned = tmp_path / "runs", tmp_path / "cleaned"

    @shoal.remote
    def careful() -> None:
        try:
            runs.touch()
            time.sleep(60)
        except KeyboardInterrupt:
            cleaned.write_text(str(os.getpid()))
            raise

    pid = shoal.remote(os.getpid)
    worker = shoal.get(pid.remote())
    ref = careful.remote()
    eventually(runs.exists, 30, "the task runs")
    shoal.cancel(ref)
    assert is_cancelled(ref, "running")
    assert int(cleaned.read_text()) == worker == shoal.get(pid.remote())


def test_what_waits_never_runs(tmp_path: Path) -> None:
    shoal.init(num_cpus=1)
    runs, ran = tmp_path / "runs", tmp_path / "ran"

    @shoal.remote
    def notes(_: Any = None) -> None:
        ran.touch()

    first = sleeps.remote(runs)
    eventually(runs.exists, 30, "the first task runs")
    queued, held = notes.remote(), notes.remote(first)
    below = notes.remote(queued)
    shoal.cancel(queued)
    shoal.cancel(held)
    assert is_cancelled(queued, "queued") and is_cancelled(held, "held")
    with pytest.raises(errors.TaskCancelledError):
        shoal.get(below)
    shoal.cancel(first)
    assert is_cancelled(first, "running")
    assert shoal.get(shoal.remote(lambda: 5).remote()) == 5
    assert not ran.exists()


@pytest.mark.parametrize("recursive", [True, False])
def test_children_end_with_it(recursive: bool, tmp_path: Path) -> None:
    shoal.init(num_cpus=2)
    runs, ended, go = tmp_path / "runs", tmp_path / "ended", tmp_path / "go"

    @shoal.remote(help=False)
    def child() -> None:
        try:
            runs.touch()
            deadline = time.monotonic() + 60
            while not go.exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            (tmp_path / "finished").touch()
        except KeyboardInterrupt:
            ended.touch()
            raise

    @shoal.remote
    def parent() -> None:
        shoal.get(child.remote())

    ref = parent.remote()
    eventually(runs.exists, 30, "the child runs")
    shoal.cancel(ref, recursive=recursive)
    assert is_cancelled(ref, "running")
    if not recursive:
        go.touch()
    eventually(
        (ended if recursive else tmp_path / "finished").exists,
        30,
        "the child has ended as it should",
    )


def test_a_cancelled_task_is_not_tried_again(tmp_path: Path) -> None:
    runs = tmp_path / "runs"

    @shoal.remote(max_retries=-1, retry_exceptions=True)
    def again() -> None:
        with runs.open("a") as file:
            file.write("x")
        hashlib.pbkdf2_hmac("sha256", b"one call", b"of C code", 1_000_000_000)

    ref = again.remote()
    eventually(runs.exists, 30, "the task runs")
    shoal.cancel(ref, force=True)
    assert is_cancelled(ref, "running")
    assert shoal.get(shoal.remote(runs.read_text).remote()) == "x"


def test_a_cancelled_call_is_not_tried_again_when_its_actor_crashes(tmp_path: Path) -> None:
    runs = tmp_path / "runs"

    @shoal.remote(max_restarts=1, max_task_retries=1, max_concurrency=2)
    class Deaf:
        def work(self) -> None:
            with runs.open("a") as file:
                file.write("x")
            time.sleep(1000)

        def pid(self) -> int:
            return os.getpid()

    actor = Deaf.remote()
    pid = shoal.get(actor.pid.remote())
    ref = actor.work.remote()
    eventually(runs.exists, 30, "the call runs")
    shoal.cancel(ref)
    assert is_cancelled(ref, "running")
    os.kill(pid, 9)
    assert shoal.get(actor.pid.remote(), timeout=20) != pid, "it has another life"
    assert is_cancelled(ref, "running")
    assert runs.read_text() == "x"


def test_what_has_ended_stays_as_it_is() -> None:
    ref = shoal.remote(lambda: 7).remote()
    assert shoal.get(ref) == 7
    shoal.cancel(ref)
    shoal.cancel(shoal.put(1))
    assert shoal.get(ref) == 7


def test_a_call_never_ends_its_actor(tmp_path: Path) -> None:
    @shoal.remote
    class Patient:
        def works(self, runs: Path) -> str:
            runs.touch()
            while not shoal.get_runtime_context().is_canceled():
                time.sleep(0.01)
            (runs.parent / "heard").touch()
            return "a value that nobody wants"

        def pid(self) -> int:
            return os.getpid()

    actor = Patient.remote()
    pid = shoal.get(actor.pid.remote())
    runs = tmp_path / "runs"
    ref = actor.works.remote(runs)
    queued = actor.pid.remote()
    eventually(runs.exists, 30, "the call runs")
    with pytest.raises(ValueError, match="force"):
        shoal.cancel(ref, force=True)
    shoal.cancel(queued)
    assert is_cancelled(queued, "queued")
    shoal.cancel(ref)
    assert is_cancelled(ref, "running")
    eventually((tmp_path / "heard").exists, 30, "the call has learnt of it")
    assert shoal.get(actor.pid.remote()) == pid
    assert is_cancelled(ref, "running"), "the value of the call does not come after all"


def test_a_call_of_an_asyncio_actor_is_cancelled(tmp_path: Path) -> None:
    @shoal.remote
    class Server:
        async def waits(self, runs: Path) -> None:
            try:
                runs.touch()
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                (runs.parent / "cleaned").touch()
                raise

        async def ticks(self, path: Path) -> AsyncIterator[int]:
            try:
                for i in range(1_000_000):
                    yield i
            finally:
                path.touch()

        def plain(self, path: Path) -> Iterator[int]:
            try:
                yield from range(1_000_000)
            finally:
                path.touch()

        async def ping(self) -> int:
            return os.getpid()

    server = Server.remote()
    pid = shoal.get(server.ping.remote())
    ref = server.waits.remote(tmp_path / "runs")
    eventually((tmp_path / "runs").exists, 30, "the call runs")
    shoal.cancel(ref)
    assert is_cancelled(ref, "running")
    eventually((tmp_path / "cleaned").exists, 30, "the coroutine was cancelled")
    for method in (server.ticks, server.plain):
        ended = tmp_path / method._facts.method_name(method._index)
        stream = method.options(_generator_backpressure_num_objects=2).remote(ended)
        assert shoal.get(next(stream)) == 0
        del stream
        eventually(ended.exists, 30, f"{ended.name} has ended")
    assert shoal.get(server.ping.remote()) == pid


def test_the_producer_of_a_dropped_generator_ends(tmp_path: Path) -> None:
    @shoal.remote(_generator_backpressure_num_objects=1)
    def endless(path: Path) -> Iterator[int]:
        try:
            i = 0
            while True:
                yield i
                i += 1
        finally:
            path.touch()

    for wait in (False, True):
        ended = tmp_path / f"ended{wait}"
        stream = endless.remote(ended)
        assert shoal.get(next(stream)) == 0
        if wait:
            shoal.cancel(stream)
            *_, last = stream
            assert is_cancelled(last, "running")
        del stream
        eventually(ended.exists, 30, "the producer has ended")


@pytest.mark.parametrize("how", ["wait", "get", "catch"])
def test_a_cancelled_child_does_not_free_its_cancelled_parent(how: str, tmp_path: Path) -> None:
    """The child waits and is sealed at once: its parent goes on before it was told."""
    shoal.init(num_cpus=1, resources={"one": 1})
    runs, waits = tmp_path / "runs", tmp_path / "waits"
    holder = sleeps.options(num_cpus=0, resources={"one": 1}).remote(runs)

    @shoal.remote(num_cpus=0, resources={"one": 1})
    def child() -> None:
        return None

    @shoal.remote(max_retries=3, retry_exceptions=True)
    def parent() -> str:
        ref = child.remote()
        waits.touch()
        if how == "wait":
            shoal.wait([ref])
        elif how == "get":
            shoal.get(ref)
        else:
            with contextlib.suppress(errors.TaskCancelledError):
                shoal.get(ref)
        return "went on"

    eventually(runs.exists, 30, "the resource is taken")
    for _ in range(5):
        waits.unlink(missing_ok=True)
        ref = parent.remote()
        eventually(waits.exists, 30, "the parent waits")
        shoal.cancel(ref)
        with pytest.raises(errors.TaskCancelledError) as caught:
            shoal.get(ref, timeout=30)
        assert type(caught.value) is errors.TaskCancelledError
    shoal.cancel(holder)


def test_a_generator_that_goes_to_its_end_all_the_same_is_cancelled() -> None:
    @shoal.remote
    def stubborn() -> Iterator[int]:
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                yield 1

    stream = stubborn.remote()
    next(stream)
    shoal.cancel(stream)
    with pytest.raises(errors.TaskCancelledError):
        shoal.get(stream.completed(), timeout=30)


def test_other_things_are_refused() -> None:
    with pytest.raises(TypeError, match="cancel needs"):
        shoal.cancel(5)  # type: ignore[arg-type]


def test_max_calls_ends_the_worker_between_two_tasks() -> None:
    shoal.init(num_cpus=1)

    @shoal.remote(max_calls=2)
    def pid() -> int:
        return os.getpid()

    pids = shoal.get([pid.remote() for _ in range(6)])
    assert len(set(pids)) == 3, pids
    assert all(pids.count(p) == 2 for p in pids)
