"""Tasks that return much complete whenever each of them alone could: what they look at and what
they have written leaves room for who comes to his end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal

STORE = 32 << 20
ONE = 1 << 20
WAIT_S = 60.0
N = 6
"""Returns of 2 MiB: six are more than a third of the store."""


@pytest.fixture(autouse=True)
def session() -> Iterator[None]:
    with shoal.init(num_cpus=4, object_store_memory=STORE):
        yield


def meet(place: str, i: int, n: int) -> None:
    """Return when ``n`` tasks are here: no order of theirs makes it easy."""
    (Path(place) / str(i)).touch()
    deadline = time.monotonic() + WAIT_S
    while len(list(Path(place).iterdir())) < n and time.monotonic() < deadline:
        time.sleep(0.005)


def array(i: int, size: int) -> Any:
    return np.full(size // 8 - 100, i, dtype=np.int64)


@shoal.remote(num_returns=N)
def listed(place: str, i: int) -> list[Any]:
    meet(place, i, 3)
    return [array(N * i + k, 2 * ONE) for k in range(N)]


@shoal.remote(num_returns=N)
def yielded(place: str, i: int) -> Iterator[Any]:
    meet(place, i, 3)
    for k in range(N):
        yield array(N * i + k, 2 * ONE)


@pytest.mark.parametrize("task", [listed, yielded])
def test_three_at_once_return_more_than_there_is_room_for(task: Any, tmp_path: Path) -> None:
    """What is written and not sealed cannot leave: each has a bit more than a third."""
    rows = [task.remote(str(tmp_path), i) for i in range(3)]
    for i, row in enumerate(rows):
        for k, ref in enumerate(row):
            value = shoal.get(ref)
            assert value[0] == value[-1] == N * i + k
            del value


class Joins:
    """Its calls look at much, together at most of the store, and return much."""

    def joined(self, place: str, i: int, *parts: Any) -> Any:
        meet(place, i, 4)
        return np.concatenate([*parts, array(i, 3 * ONE)])


class JoinsAsync:
    async def joined(self, place: str, i: int, *parts: Any) -> Any:
        (Path(place) / str(i)).touch()
        deadline = time.monotonic() + WAIT_S
        while len(list(Path(place).iterdir())) < 4 and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        return np.concatenate([*parts, array(i, 3 * ONE)])


@shoal.remote
def joined(place: str, i: int, *parts: Any) -> Any:
    return Joins().joined(place, i, *parts)


def calls(kind: str) -> list[Any]:
    """Four of them that can run side by side."""
    cls = shoal.remote(num_cpus=0)(JoinsAsync if kind == "asyncio" else Joins)
    if kind == "tasks":
        return [joined] * 4
    actor = cls.options(max_concurrency=4).remote()
    return [actor.joined] * 4


@pytest.mark.parametrize("kind", ["tasks", "threads", "asyncio"])
def test_what_was_looked_at_makes_room_for_the_result(kind: str, tmp_path: Path) -> None:
    parts = [[shoal.put(array(i, 2 * ONE)) for _ in range(3)] for i in range(4)]
    refs = [call.remote(str(tmp_path), i, *parts[i]) for i, call in enumerate(calls(kind))]
    for i, ref in enumerate(refs):
        value = shoal.get(ref)
        assert value[0] == value[-1] == i
        del value
