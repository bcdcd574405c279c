"""What type checkers infer of programs that are right: nothing here may be an error.

Checked by mypy and pyright (``test_typing.py``), never run.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from typing import Any, assert_type

import shoal
from shoal import ActorHandle, ObjectRef, ObjectRefGenerator

# ---- functions


@shoal.remote
def square(x: int) -> int:
    return x * x


@shoal.remote
def scale(x: float, by: float = 2.0, *, label: str = "") -> float:
    return x * by


@shoal.remote(num_cpus=2, max_retries=0)
def name_of(x: int) -> str:
    return str(x)


@shoal.remote
async def later(x: int) -> str:
    return str(x)


@shoal.remote(num_returns=2)
def two() -> tuple[int, str]:
    return 1, "a"


@shoal.remote
def counts(n: int) -> Iterator[int]:
    yield from range(n)


@shoal.remote
async def ticks(n: int) -> AsyncIterator[str]:
    yield str(n)


def untouched(x: int) -> bytes:
    return bytes(x)


def functions() -> None:
    ref = square.remote(3)
    assert_type(ref, ObjectRef[int])
    assert_type(square.remote(x=3), ObjectRef[int])
    assert_type(square.remote(ref), ObjectRef[int])
    assert_type(square(3), int)
    assert_type(scale.remote(1), ObjectRef[float])
    assert_type(scale.remote(ref, 2), ObjectRef[float])
    assert_type(scale.remote(1, by=2, label="a"), ObjectRef[float])
    assert_type(later.remote(1), ObjectRef[str])
    assert_type(shoal.remote(untouched).remote(1), ObjectRef[bytes])


def options() -> None:
    assert_type(name_of.remote(1), ObjectRef[str])
    assert_type(name_of.options(num_cpus=1, name="n").remote(1), ObjectRef[str])
    assert_type(square.options(num_returns=1).remote(1), ObjectRef[int])
    assert_type(two.remote(), list[ObjectRef[Any]])
    assert_type(square.options(num_returns=3).remote(1), list[ObjectRef[Any]])


async def streams() -> None:
    assert_type(counts.remote(3), ObjectRefGenerator[int])
    assert_type(counts.remote(square.remote(3)), ObjectRefGenerator[int])
    assert_type([shoal.get(ref) for ref in counts.remote(3)], list[int])
    async for ref in ticks.remote(3):
        assert_type(await ref, str)


# ---- values


def values() -> None:
    a, b = square.remote(1), name_of.remote(2)
    assert_type(shoal.get(a), int)
    assert_type(shoal.get(a, timeout=1.5), int)
    assert_type(shoal.get([a, a]), list[int])
    assert_type(shoal.get((a, b)), tuple[int, str])
    assert_type(shoal.get((a, b, a, b)), tuple[int, str, int, str])
    assert_type(shoal.put("x"), ObjectRef[str])
    ready, rest = shoal.wait([a, a], num_returns=1)
    assert_type(ready, list[ObjectRef[int]])
    assert_type(rest, list[ObjectRef[int]])
    assert_type(shoal.as_completed([a]), Iterator[ObjectRef[int]])
    assert_type(a.future(), Future[int])
    assert_type(list(shoal.map(untouched, [1, 2])), list[bytes])


async def awaited() -> None:
    assert_type(await square.remote(1), int)


# ---- actors


class Counter:
    def __init__(self, start: int = 0) -> None:
        self.n = start

    def add(self, n: int) -> int:
        self.n += n
        return self.n


RemoteCounter = shoal.remote(Counter)


def dynamic_handles() -> None:
    counter = RemoteCounter.remote(5)
    assert_type(counter, ActorHandle[Counter])
    assert_type(RemoteCounter.remote(start=5), ActorHandle[Counter])
    assert_type(RemoteCounter.remote(square.remote(5)), ActorHandle[Counter])
    assert_type(RemoteCounter.options(num_cpus=1).remote(), ActorHandle[Counter])
    assert_type(RemoteCounter(3), Counter)
    assert_type(RemoteCounter(3).add(4), int)
    total: int = shoal.get(counter.add.remote(1))
    assert_type(shoal.get([counter.add.remote(total) for _ in range(3)]), list[Any])
    shoal.kill(counter)


class Account(shoal.Actor, num_cpus=1):
    def __init__(self, owner: str, cents: int = 0) -> None:
        self.owner = owner
        self.cents = cents

    @shoal.method
    def pay(self, cents: int) -> int:
        self.cents += cents
        return self.cents

    @shoal.method
    async def statement(self, lines: int, *, header: str = "") -> str:
        return header + self.owner * lines

    @shoal.method
    def payments(self, most: int) -> Iterator[int]:
        yield from range(most)

    @shoal.method(num_returns=2)
    def both(self) -> tuple[str, int]:
        return self.owner, self.cents

    @shoal.method(max_task_retries=1)
    def again(self) -> bytes:
        return b""


class Savings(Account):
    @shoal.method
    def interest(self, rate: float) -> float:
        return self.cents * rate


def typed_handles() -> None:
    account = Account.remote("Ada")
    assert_type(account, Account)
    assert_type(Account.options(name="ada").remote("Ada", cents=3), Account)
    assert_type(account.pay.remote(5), ObjectRef[int])
    assert_type(account.pay.remote(square.remote(2)), ObjectRef[int])
    assert_type(account.pay.options(max_task_retries=2).remote(5), ObjectRef[int])
    assert_type(account.statement.remote(5, header="x"), ObjectRef[str])
    assert_type(account.payments.remote(3), ObjectRefGenerator[int])
    assert_type(account.again.remote(), ObjectRef[bytes])
    assert_type(shoal.get(account.pay.remote(5)), int)
    assert_type(Account("Ada").pay(3), int)
    savings = Savings.remote("Ada")
    assert_type(savings.interest.remote(0.1), ObjectRef[float])
    assert_type(savings.pay.remote(1), ObjectRef[int])
    shoal.kill(savings)


def takes_handles(account: Account, counter: ActorHandle[Counter]) -> ObjectRef[int]:
    counter.add.remote(1)
    return account.pay.remote(1)
