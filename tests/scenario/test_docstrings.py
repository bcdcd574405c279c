"""Every public function has an example in its docstring, and every example runs and is true.

Each starts as a fresh program would: the first use begins a session.
"""

from __future__ import annotations

import doctest
import inspect
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

import shoal
import shoal.dag
import shoal.testing
import shoal.util
import shoal.util.collective
import shoal.util.dask
import shoal.util.executor
import shoal.util.joblib
import shoal.util.metrics
import shoal.util.multiprocessing
from shoal import errors, ids, lowlevel, runtime_env, state
from shoal.util import progress

MODULES = [
    *(shoal, shoal.dag, shoal.util, shoal.util.collective, shoal.util.metrics, progress),
    *(shoal.util.dask, shoal.util.executor, shoal.util.joblib, shoal.util.multiprocessing),
    *(state, ids, lowlevel, runtime_env, errors, shoal.testing),
]

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def names_of(module: ModuleType) -> list[str]:
    listed = getattr(module, "__all__", None)
    if listed is not None:
        return list(listed)
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
    ]


def public() -> Iterator[tuple[str, Any]]:
    for module in MODULES:
        for name in names_of(module):
            value = getattr(module, name)
            if callable(value) and not isinstance(value, ModuleType):
                yield f"{module.__name__}.{name}", value


def examples() -> list[doctest.DocTest]:
    finder = doctest.DocTestFinder(recurse=True, exclude_empty=True)
    found: dict[int, doctest.DocTest] = {}
    for module in MODULES:
        if module.__doc__:
            parser = doctest.DocTestParser()
            found[id(module)] = parser.get_doctest(
                module.__doc__, {}, module.__name__, module.__file__, 0
            )
    for name, value in public():
        for test in finder.find(value, name, globs={}):
            found.setdefault(hash((test.docstring, test.filename)), test)
    return [test for test in found.values() if test.examples]


@pytest.mark.parametrize("example", examples(), ids=lambda test: str(test.name))
def test_examples_are_true(example: doctest.DocTest) -> None:
    # Names of __main__ travel by value, as those of a program or notebook do.
    example.globs = {"shoal": shoal, "errors": errors, "__name__": "__main__"}
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=OPTIONS, verbose=False)
    results = runner.run(example, out=said.append, clear_globs=False)
    example.globs.clear()
    assert results.failed == 0, "".join(said)


def test_every_public_function_has_an_example() -> None:
    bare = [
        name
        for name, value in public()
        if inspect.isfunction(value)
        and not name.startswith("shoal.errors.")
        and ">>>" not in (inspect.getdoc(value) or "")
    ]
    assert not bare, f"without an example: {bare}"


def test_the_runner_sees_what_is_false() -> None:
    test = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, 0)
    runner = doctest.DocTestRunner(verbose=False)
    assert runner.run(test, out=lambda text: None).failed == 1
    assert sys.modules["shoal"] is shoal
