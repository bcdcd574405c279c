"""Asyncio actors through the public API: calls that overlap on one loop, and how they end."""

from __future__ import annotations

import asyncio
import os
import pathlib
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import shoal
from shoal import errors
from tests.torture.processes import eventually


@pytest.fixture(autouse=True)
def _session() -> None:
    shoal.init(num_cpus=2)


@shoal.remote
def plus_one(x: int) -> int:
    return x + 1


@shoal.remote
class Meeting:
    """Its calls wait for each other, so they end only if they overlap."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.event = asyncio.Event()
        self.waiting = 0
        self.most = 0

    async def wait(self) -> int:
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        await self.event.wait()
        self.waiting -= 1
        return self.most

    async def open(self) -> bool:
        self.event.set()
        return asyncio.get_running_loop() is self.loop

    def plain(self) -> tuple[int, bool]:
        """On the loop, like everything else."""
        asyncio.current_task()
        return threading.get_ident(), asyncio.get_running_loop() is self.loop

    @shoal.method(thread=True)
    def elsewhere(self) -> int:
        return threading.get_ident()

    async def count(self) -> int:
        return self.waiting

    async def fail(self) -> None:
        await asyncio.sleep(0)
        raise KeyError("nobody")

    async def next_of(self, refs: list[Any]) -> list[int]:
        return [await ref for ref in refs]

    async def started(self, n: int) -> list[Any]:
        return [plus_one.remote(i) for i in range(n)]

    async def key(self) -> str | None:
        before = shoal.get_runtime_context().get_task_id()
        await asyncio.sleep(0.01)
        assert shoal.get_runtime_context().get_task_id() == before
        return before

    async def crash(self) -> None:
        os._exit(3)

    async def leave(self) -> None:
        await asyncio.sleep(0)
        shoal.exit_actor()


def test_calls_overlap_on_one_loop() -> None:
    actor = Meeting.remote()
    waiting = [actor.wait.remote() for _ in range(50)]
    eventually(lambda: shoal.get(actor.count.remote()) == 50, 30, "it has come to that")
    assert shoal.get(actor.open.remote())
    assert max(shoal.get(waiting)) == 50


def test_thousands_of_calls_at_once() -> None:
    actor = Meeting.options(max_concurrency=3000).remote()
    waiting = [actor.wait.remote() for _ in range(2500)]
    eventually(lambda: shoal.get(actor.count.remote()) == 2500, 30, "it has come to that")
    shoal.get(actor.open.remote())
    assert set(shoal.get(waiting)) == {2500}


def test_no_more_than_max_concurrency() -> None:
    actor = Meeting.options(max_concurrency=3).remote()
    waiting = [actor.wait.remote() for _ in range(3)]
    late = actor.open.remote()  # the fourth: it waits for room that only it could make
    assert shoal.wait([*waiting, late], timeout=0.3)[0] == []
    shoal.kill(actor)
    with pytest.raises(errors.ActorDiedError):
        shoal.get(late)


def test_room_that_is_made_is_used() -> None:
    @shoal.remote(max_concurrency=2)
    class Few:
        def __init__(self) -> None:
            self.now = self.most = 0

        async def work(self) -> int:
            self.now += 1
            self.most = max(self.most, self.now)
            await asyncio.sleep(0.001)
            self.now -= 1
            return self.most

    actor = Few.remote()
    assert max(shoal.get([actor.work.remote() for _ in range(200)])) == 2


def test_plain_methods_run_on_the_loop_or_in_a_thread() -> None:
    actor = Meeting.remote()
    here, is_on_loop = shoal.get(actor.plain.remote())
    assert is_on_loop
    assert shoal.get(actor.elsewhere.remote()) != here


def test_the_class_option_moves_plain_methods_into_threads() -> None:
    @shoal.remote(thread=True)
    class Mixed:
        async def loop(self) -> int:
            return threading.get_ident()

        def plain(self) -> int:
            return threading.get_ident()

        @shoal.method(thread=False)
        def here(self) -> int:
            return threading.get_ident()

    actor = Mixed.remote()
    loop, plain, here = shoal.get([actor.loop.remote(), actor.plain.remote(), actor.here.remote()])
    assert plain != loop == here


def test_refs_are_awaited_and_children_know_their_parent() -> None:
    actor = Meeting.remote()
    assert shoal.get(actor.next_of.remote([plus_one.remote(i) for i in range(20)])) == [
        *range(1, 21)
    ]
    assert shoal.get(shoal.get(actor.started.remote(3))) == [1, 2, 3]
    keys = shoal.get([actor.key.remote() for _ in range(20)])
    assert len(set(keys)) == 20


def test_two_actors_await_each_other() -> None:
    @shoal.remote
    class Player:
        async def play(self, other: Any, n: int) -> int:
            return 0 if n == 0 else 1 + await other.play.remote(self_handle(), n - 1)

    def self_handle() -> Any:
        return shoal.get_runtime_context().current_actor

    one, two = Player.remote(), Player.remote()
    assert shoal.get(one.play.remote(two, 20)) == 20


def test_errors_and_late_arguments() -> None:
    actor = Meeting.remote()
    with pytest.raises(KeyError) as caught:
        shoal.get(actor.fail.remote())
    assert "in fail" in caught.value.remote_traceback  # type: ignore[attr-defined]
    assert "asyncio" not in caught.value.remote_traceback  # type: ignore[attr-defined]

    @shoal.remote
    def broken() -> list[Any]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        shoal.get(actor.next_of.remote(broken.remote()))
    assert shoal.get(actor.count.remote()) == 0


def test_a_late_argument_holds_back_only_its_own_call(tmp_path: pathlib.Path) -> None:
    @shoal.remote
    def late() -> list[Any]:
        while not (tmp_path / "go").exists():
            time.sleep(0.01)
        return []

    actor = Meeting.remote()
    waits = actor.next_of.remote(late.remote())
    assert shoal.get(actor.count.remote(), timeout=30) == 0
    (tmp_path / "go").touch()
    assert shoal.get(waits) == []


def test_the_process_dies_with_many_calls_running() -> None:
    actor = Meeting.remote()
    waiting = [actor.wait.remote() for _ in range(40)]
    eventually(lambda: shoal.get(actor.count.remote()) == 40, 30, "it has come to that")
    actor.crash.remote()
    for ref in waiting:
        with pytest.raises(errors.ActorDiedError):
            shoal.get(ref)


def test_running_calls_are_repeated_after_a_crash(tmp_path: pathlib.Path) -> None:
    @shoal.remote(max_restarts=1, max_task_retries=1)
    class Once:
        async def work(self, n: int) -> tuple[int, int]:
            context = shoal.get_runtime_context()
            (tmp_path / f"{n}-{context.incarnation}").touch()
            if context.incarnation == 1:
                await asyncio.sleep(60)
            return n, context.attempt

        async def crash(self) -> None:
            if shoal.get_runtime_context().incarnation == 1:
                os._exit(1)

    actor = Once.remote()
    refs = [actor.work.remote(n) for n in range(30)]
    eventually(lambda: len(list(tmp_path.iterdir())) == 30, 10, "it has come to that")
    crash = actor.crash.remote()
    assert shoal.get(refs, timeout=30) == [(n, 2) for n in range(30)]
    shoal.get(crash)


def test_an_exception_is_retried_beside_other_calls() -> None:
    @shoal.remote
    class Flaky:
        def __init__(self) -> None:
            self.calls = 0

        @shoal.method(retry_exceptions=True, max_task_retries=2)
        async def sometimes(self) -> int:
            self.calls += 1
            await asyncio.sleep(0)
            if shoal.get_runtime_context().attempt == 1:
                raise ValueError("the first time")
            return shoal.get_runtime_context().attempt

    actor = Flaky.remote()
    assert set(shoal.get([actor.sometimes.remote() for _ in range(20)])) == {2}


def test_exit_actor_lets_running_calls_end(tmp_path: pathlib.Path) -> None:
    @shoal.remote
    class Leaver:
        async def work(self) -> str:
            (tmp_path / "begun").touch()
            while not (tmp_path / "go").exists():
                await asyncio.sleep(0.01)
            return "done"

        async def leave(self) -> None:
            await asyncio.sleep(0)
            shoal.exit_actor()

    actor = Leaver.remote()
    work = actor.work.remote()
    eventually((tmp_path / "begun").exists, 30, "it has come to that")
    with pytest.raises(errors.ActorDiedError, match="exit_actor"):
        shoal.get(actor.leave.remote())
    (tmp_path / "go").touch()
    assert shoal.get(work) == "done"
    with pytest.raises(errors.ActorDiedError):
        shoal.get(actor.work.remote())


def test_the_last_handle_ends_it_after_its_calls(tmp_path: pathlib.Path) -> None:
    @shoal.remote
    class Slow:
        async def work(self) -> int:
            await asyncio.sleep(0.3)
            (tmp_path / "done").touch()
            return os.getpid()

    actor = Slow.remote()
    ref = actor.work.remote()
    del actor
    pid = shoal.get(ref)
    assert (tmp_path / "done").exists()
    eventually(lambda: not pathlib.Path(f"/proc/{pid}").exists(), 30, "it has come to that")


def test_generators() -> None:
    @shoal.remote
    class Source:
        async def numbers(self, n: int) -> AsyncIterator[int]:
            for i in range(n):
                await asyncio.sleep(0)
                yield i

        def plain(self, n: int) -> Iterator[int]:
            yield from range(n)

        async def broken(self) -> AsyncIterator[int]:
            yield 1
            raise LookupError("in the middle")

    actor = Source.remote()
    stream = {"num_returns": "streaming"}
    streams = [actor.numbers.options(**stream).remote(5) for _ in range(4)]
    for refs in streams:
        assert [shoal.get(ref) for ref in refs] == [0, 1, 2, 3, 4]
    assert [shoal.get(ref) for ref in actor.plain.options(**stream).remote(3)] == [0, 1, 2]
    refs = list(actor.broken.options(**stream).remote())
    assert shoal.get(refs[0]) == 1
    with pytest.raises(LookupError):
        shoal.get(refs[1])


def test_async_methods_can_not_be_ordered() -> None:
    with pytest.raises(errors.OptionError, match="overlap"):
        Meeting.options(allow_out_of_order_execution=False).remote()


BLOCKER = """
import asyncio, time, shoal

@shoal.remote
class Blocker:
    def stop(self):
        time.sleep(0.6)

    async def other(self):
        await asyncio.sleep(0)

shoal.init(num_cpus=1)
actor = Blocker.remote()
shoal.get(actor.other.remote())
for _ in range(2):
    shoal.get([actor.stop.remote(), actor.other.remote()])
shoal.shutdown()
"""


def test_a_blocked_loop_is_named_once(tmp_path: pathlib.Path) -> None:
    shoal.shutdown()
    program = tmp_path / "blocker.py"
    program.write_text(BLOCKER)
    done = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    said = done.stderr + done.stdout
    assert said.count("has stopped the event loop of actor Blocker") == 1, said
    assert "stop (" in said and "time.sleep(0.6)" in said
