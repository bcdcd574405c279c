"""Concurrency groups through the public API: each its queue, its limit, its place after a death."""

from __future__ import annotations

import asyncio
import os
import pathlib
import threading
import time
from typing import Any

import pytest

import shoal
from shoal import errors
from tests.torture.processes import eventually


@pytest.fixture(autouse=True)
def _session() -> None:
    shoal.init(num_cpus=2)


@shoal.remote(concurrency_groups={"io": 2, "compute": 1})
class Grouped:
    def __init__(self) -> None:
        self.now = {"io": 0, "compute": 0, "default": 0}
        self.most = dict(self.now)
        self.event = asyncio.Event()

    async def _use(self, group: str) -> int:
        self.now[group] += 1
        self.most[group] = max(self.most[group], self.now[group])
        await asyncio.sleep(0.005)
        self.now[group] -= 1
        return self.most[group]

    @shoal.method(concurrency_group="io")
    async def read(self) -> int:
        return await self._use("io")

    @shoal.method(concurrency_group="compute")
    async def crunch(self) -> int:
        return await self._use("compute")

    async def plain(self) -> int:
        return await self._use("default")

    @shoal.method(concurrency_group="io")
    async def hold(self) -> None:
        await self.event.wait()

    async def release(self) -> None:
        self.event.set()


def test_each_group_has_its_own_limit() -> None:
    actor = Grouped.remote()
    reads = [actor.read.remote() for _ in range(20)]
    crunches = [actor.crunch.remote() for _ in range(20)]
    others = [actor.plain.remote() for _ in range(20)]
    assert max(shoal.get(reads)) == 2
    assert max(shoal.get(crunches)) == 1
    assert max(shoal.get(others)) > 2


def test_a_full_group_holds_nobody_else_up() -> None:
    actor = Grouped.remote()
    held = [actor.hold.remote() for _ in range(5)]
    assert shoal.get(actor.crunch.remote(), timeout=30) == 1
    assert shoal.wait(held, timeout=0.1)[0] == []
    shoal.get(actor.release.remote())
    assert shoal.get(held) == [None] * 5


def test_a_call_may_choose_its_group() -> None:
    actor = Grouped.remote()
    chosen = actor.plain.options(concurrency_group="compute")
    assert max(shoal.get([chosen.remote() for _ in range(10)])) == 1


def test_groups_of_threads() -> None:
    @shoal.remote(concurrency_groups={"io": 2})
    class Threads:
        def __init__(self) -> None:
            self.pair = threading.Barrier(2)

        @shoal.method(concurrency_group="io")
        def meet(self) -> str:
            self.pair.wait(20)
            return "met"

        def alone(self) -> str:
            return "alone"

    actor = Threads.remote()
    assert shoal.get([actor.meet.remote() for _ in range(2)]) == ["met", "met"]
    waiting = actor.meet.remote()
    assert shoal.get(actor.alone.remote(), timeout=30) == "alone"
    assert shoal.get([waiting, actor.meet.remote()]) == ["met", "met"]


def test_a_named_actor_has_its_groups_everywhere() -> None:
    kept = Grouped.options(name="grouped").remote()

    @shoal.remote
    def use() -> int:
        found = shoal.get_actor("grouped")
        return max(shoal.get([found.read.remote() for _ in range(6)]))

    assert shoal.get(use.remote()) == 2
    del kept


def test_calls_in_every_group_survive_a_restart(tmp_path: pathlib.Path) -> None:
    @shoal.remote(max_restarts=1, concurrency_groups={"io": 1})
    class Restarted:
        @shoal.method(concurrency_group="io")
        def io(self, n: int) -> tuple[int, int]:
            incarnation = shoal.get_runtime_context().incarnation
            if incarnation == 1:
                (tmp_path / f"{n}").touch()
                time.sleep(60)
            return n, incarnation

        def crash(self) -> None:
            os._exit(1)

    actor = Restarted.remote()
    refs: list[Any] = [actor.io.remote(n) for n in range(4)]
    eventually((tmp_path / "0").exists, 30, "the first call runs")
    actor.crash.remote()
    with pytest.raises(errors.ActorError):
        shoal.get(refs[0])
    assert shoal.get(refs[1:]) == [(1, 2), (2, 2), (3, 2)]


def test_calls_in_every_group_fail_with_the_actor() -> None:
    actor = Grouped.remote()
    held = [actor.hold.remote() for _ in range(4)]
    shoal.get(actor.plain.remote())
    shoal.kill(actor)
    for ref in [*held, actor.read.remote(), actor.plain.remote()]:
        with pytest.raises(errors.ActorDiedError):
            shoal.get(ref)


def test_unknown_groups_are_named() -> None:
    actor = Grouped.remote()
    with pytest.raises(errors.OptionError, match="there are: io, compute"):
        actor.plain.options(concurrency_group="disk").remote()

    @shoal.remote
    class Wrong:
        @shoal.method(concurrency_group="disk")
        def read(self) -> None: ...

    with pytest.raises(errors.OptionError, match="there are: none"):
        Wrong.remote()
    with pytest.raises(errors.OptionError, match="concurrency_groups"):
        Grouped.options(concurrency_groups={"io": 3})
