"""``shoal.Actor``: a base class that makes actors of its subclasses, without a decorator."""

from __future__ import annotations

from typing import Any

import pytest

import shoal
from shoal import errors


class Counter(shoal.Actor, num_cpus=0):
    def __init__(self, start: int = 0) -> None:
        self.n = start

    @shoal.method
    def add(self, n: int = 1) -> int:
        self.n += n
        return self.n

    @shoal.method(num_returns=2)
    def both(self) -> tuple[int, int]:
        return self.n, -self.n

    def plain(self) -> str:
        return type(self).__name__


class Twice(Counter, max_restarts=1):
    @shoal.method
    def add(self, n: int = 1) -> int:
        return super().add(2 * n)


def test_the_class_makes_actors() -> None:
    counter: Any = Counter.remote(5)
    assert shoal.get([counter.add.remote(), counter.add.remote(shoal.put(2))]) == [6, 8]
    assert shoal.get(counter.both.remote()) == [8, -8]
    assert shoal.get(counter.plain.remote()) == "Counter"
    assert isinstance(counter, shoal.ActorHandle)
    shoal.kill(counter)


def test_it_stays_a_class() -> None:
    local = Counter(1)
    assert isinstance(local, Counter) and local.add(3) == 4
    assert issubclass(Twice, Counter)


def test_options_are_inherited_and_can_be_changed() -> None:
    assert Twice.__shoal_options__ == {"num_cpus": 0, "max_restarts": 1}
    assert Counter.__shoal_options__ == {"num_cpus": 0}
    twice: Any = Twice.options(name="twice").remote(1)
    assert shoal.get(twice.add.remote(3)) == 7
    assert shoal.get(shoal.get_actor("twice").add.remote(1)) == 9
    with pytest.raises(errors.OptionError, match="num_cpu"):

        class Wrong(shoal.Actor, num_cpu=1):  # type: ignore[call-arg]
            pass


def test_its_own_methods_are_no_methods_of_the_actor() -> None:
    counter: Any = Counter.remote()
    with pytest.raises(AttributeError, match="its methods: add, both, plain"):
        counter.options.remote()


def test_a_decorated_subclass() -> None:
    decorated: Any = shoal.remote(Counter)
    assert shoal.get(decorated.remote(2).add.remote()) == 3


def test_classes_of_a_function_travel_by_value() -> None:
    class Inner(shoal.Actor):
        @shoal.method
        def again(self) -> int:
            other: Any = Counter.remote(3)
            return shoal.get(other.add.remote(1))

    inner: Any = Inner.remote()
    assert shoal.get(inner.again.remote()) == 4
