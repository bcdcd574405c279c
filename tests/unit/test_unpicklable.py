"""The path to what can not be pickled."""

from __future__ import annotations

import functools
import threading
from typing import Any

import pytest

from shoal._runtime import unpicklable

LOCK = threading.Lock()


class Slotted:
    __slots__ = ("a", "b")

    def __init__(self, b: Any) -> None:
        self.a = 1
        self.b = b


class Plain:
    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def method(self) -> None:
        pass


def closure(value: Any) -> Any:
    return lambda: value


def with_default(value: Any) -> Any:
    def f(x: Any = value) -> Any:
        return x

    return f


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (LOCK, "v"),
        ([1, LOCK], "v[1]"),
        ({"k": (1, [LOCK])}, "v['k'][1][0]"),
        (Plain(Plain(LOCK)), "v.inner.inner"),
        (Slotted([LOCK]), "v.b[0]"),
        (Plain(LOCK).method, "v.__self__.inner"),
        (functools.partial(print, LOCK), "v.args[0]"),
        (closure({"x": LOCK}), "v: closure variable value['x']"),
        (with_default(LOCK), "v.__defaults__[0]"),
    ],
)
def test_paths(value: Any, path: str) -> None:
    error = unpicklable.explain(value, "v", TypeError("cannot"))
    assert error.path == path and error.culprit == "lock"
    assert "What to do" in str(error) and path in str(error)


def test_arguments_have_names() -> None:
    value: Any = [(1, Plain(LOCK)), {"key": 2}]
    assert unpicklable.explain(value, unpicklable.ARGUMENTS, TypeError()).path == "args[1].inner"
    value = [(1,), {"key": [LOCK]}, ["place"]]
    assert unpicklable.explain(value, unpicklable.ARGUMENTS, TypeError()).path == "key[0]"
    assert unpicklable.explain((LOCK,), unpicklable.ARGUMENTS, TypeError()).path == "args[0]"


def test_cycles_end() -> None:
    a: list[Any] = [LOCK]
    a.append(a)
    assert unpicklable.explain(a, "v", TypeError()).path == "v[0]"


def test_the_search_is_bounded() -> None:
    value = [[i] for i in range(3 * unpicklable.MOST_TRIES)] + [[LOCK]]
    assert unpicklable.explain(value, "v", TypeError("cannot")).path == "v"
