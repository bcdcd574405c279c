"""Odd input of joblib on Shoal: files that are mapped, refs, calls side by side.

A file of its own, as every process that runs a function of it imports it: no scikit-learn here.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy
import pytest
from joblib import Parallel, delayed, parallel_backend

import shoal
from shoal.util.joblib import register_shoal


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    with shoal.init(num_cpus=2):
        register_shoal()
        yield


@pytest.fixture(autouse=True)
def _end_session() -> None:
    """One session serves the file."""


@pytest.fixture
def parallel() -> Iterator[None]:
    with parallel_backend("shoal", n_jobs=2):
        yield


def fail_at_three(i: int) -> int:
    if i == 3:
        raise KeyError(i)
    return i


def write_place(array: Any, i: int) -> float:
    array[i] = i + 1.0
    return float(array.sum())


@pytest.mark.parametrize("n", [8, 200_000])
def test_a_file_that_is_mapped_is_written_to(parallel: None, tmp_path: Path, n: int) -> None:
    whole = numpy.memmap(tmp_path / "out", dtype=float, mode="w+", shape=(n,))
    Parallel()(delayed(write_place)(whole, i) for i in range(4))
    assert whole[:4].tolist() == [1.0, 2.0, 3.0, 4.0]
    for view in (whole[4:], numpy.asarray(whole)[5:], whole[6::-1]):
        Parallel()(delayed(write_place)(part, 0) for part in [view])
    assert whole[:7].tolist() == [1.0, 2.0, 3.0, 4.0, 1.0, 1.0, 1.0]
    others = [whole + 1, numpy.memmap(tmp_path / "out", mode="c"), whole[:0]]
    others[1][:8] = 9
    told = Parallel()(delayed(lambda a: a[:2].tolist())(array) for array in others)
    assert told == [[2.0, 3.0], [9, 9], []], "these are not in the file"


def test_who_may_write_to_arrays(parallel: None) -> None:
    small, large = numpy.zeros(50_000), numpy.zeros(200_000)

    def sums(array: Any, **options: Any) -> Any:
        return Parallel(**options)(delayed(write_place)(array, i) for i in range(2))

    assert sums(small) == sums(large, mmap_mode="c") == sums(large, max_nbytes=None) == [1.0, 2.0]
    assert small.sum() == large.sum() == 0, "calls have copies"
    with pytest.raises(ValueError, match="read-only"):
        sums(large)
    with pytest.raises(ValueError, match=r"mmap_mode='w\+'"):
        sums(large, mmap_mode="w+")
    assert sums(small) == [1.0, 2.0]


def test_refs_are_arguments(parallel: None, recwarn: pytest.WarningsRecorder) -> None:
    refs = [shoal.put(i) for i in range(4)]
    assert Parallel()(delayed(shoal.get)([ref]) for ref in refs) == [[0], [1], [2], [3]]
    assert not [one for one in recwarn if "pickled outside" in str(one.message)]


def test_calls_side_by_side_have_processes_of_their_own() -> None:
    def squares(n_jobs: int, **options: Any) -> Any:
        parallel = Parallel(n_jobs=n_jobs, backend="shoal", **options)
        return parallel(delayed(pow)(i, 2) for i in range(30))

    expected = [i * i for i in range(30)]
    first, second = (squares(n, return_as="generator") for n in (2, 3))
    assert list(zip(first, second)) == list(zip(expected, expected))
    left = squares(2, return_as="generator")
    assert next(left) == 0
    with pytest.raises(KeyError):
        Parallel(n_jobs=2, backend="shoal")(delayed(fail_at_three)(i) for i in range(50))
    assert list(left) == expected[1:], "the end of one is not that of another"
    with ThreadPoolExecutor(3) as threads:
        assert list(threads.map(squares, [2, 3, 2])) == [expected] * 3


class TwoWordsError(Exception):
    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)


def test_an_exception_whose_constructor_takes_other_arguments(parallel: None) -> None:
    def odd() -> None:
        raise TwoWordsError("a", "b")

    with pytest.raises(TwoWordsError, match="ab"):
        Parallel()(delayed(odd)() for _ in range(2))


def test_odd_input(parallel: None) -> None:
    def told() -> Iterator[Any]:
        yield delayed(abs)(-1)
        raise ZeroDivisionError

    assert Parallel()([]) == Parallel()(delayed(abs)(i) for i in ()) == []
    assert list(Parallel(return_as="generator")([])) == []
    with pytest.raises(ZeroDivisionError):
        Parallel()(told())
    with pytest.raises(TypeError):
        Parallel()([1, 2])
    with Parallel() as again:
        assert [again(delayed(abs)(i) for i in range(n)) for n in range(3)] == [[], [0], [0, 1]]
