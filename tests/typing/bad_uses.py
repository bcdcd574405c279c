"""What type checkers refuse: each line marked ``# bad`` is an error, for mypy and for pyright, and
no other line is."""

from __future__ import annotations

from collections.abc import Iterator

import shoal
from shoal import ObjectRef


@shoal.remote
def square(x: int) -> int:
    return x * x


@shoal.remote
def scale(x: float, by: float = 2.0) -> float:
    return x * by


@shoal.remote
def counts(n: int) -> Iterator[int]:
    yield from range(n)


class Counter:
    def __init__(self, start: int = 0) -> None:
        self.n = start


RemoteCounter = shoal.remote(Counter)


class Account(shoal.Actor):
    def __init__(self, owner: str) -> None:
        self.owner = owner

    @shoal.method
    def pay(self, cents: int) -> int:
        return cents


def functions() -> None:
    square.remote("three")  # bad
    square.remote()  # bad
    square.remote(1, 2)  # bad
    square.remote(y=1)  # bad
    square.remote(shoal.put("three"))  # bad
    scale.remote(1.0, "two")  # bad
    scale.remote(shoal.put(1.0), "two")  # bad
    square("three")  # bad
    wrong: ObjectRef[str] = square.remote(3)  # bad
    shoal.get(wrong)


def streams() -> None:
    counts.remote("three")  # bad
    texts: list[str] = [shoal.get(ref) for ref in counts.remote(3)]  # bad
    print(texts)


def options() -> None:
    square.options(num_cpu=2)  # bad
    square.options(num_cpus="two")  # bad
    shoal.remote(num_cpu=2)  # bad
    RemoteCounter.options(max_restart=1)  # bad


def values() -> None:
    text: str = shoal.get(square.remote(1))  # bad
    texts: list[str] = shoal.get([square.remote(1)])  # bad
    pair: tuple[int, str] = shoal.get((square.remote(1), square.remote(2)))  # bad
    shoal.get(square.remote(1), 5)  # bad
    print(text, texts, pair)


def actors() -> None:
    RemoteCounter.remote("five")  # bad
    RemoteCounter.remote(stop=5)  # bad
    account = Account.remote(5)  # bad
    account.pay.remote("five")  # bad
    account.pay.remote(cent=5)  # bad
    account.pay.remote(shoal.put("five"))  # bad
    account.pays.remote(5)  # bad
    text: str = shoal.get(account.pay.remote(5))  # bad
    print(text)
    shoal.kill("account")  # bad
