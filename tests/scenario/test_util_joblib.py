"""joblib on Shoal: scikit-learn's results are those of the serial run."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator
from typing import Any

import joblib
import numpy
import pytest
from joblib import Parallel, delayed, parallel_backend
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV

import shoal
from shoal import lowlevel
from shoal.util.joblib import register_shoal
from tests.torture.processes import eventually


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


def test_a_grid_search_is_that_of_the_serial_run() -> None:
    features, labels = make_classification(120, 8, random_state=0)

    def search() -> Any:
        grid = {"C": [0.01, 1.0], "fit_intercept": [True, False]}
        return GridSearchCV(LogisticRegression(), grid, cv=3).fit(features, labels)

    serial = search()
    with parallel_backend("shoal", n_jobs=-1):
        ours = search()
    assert ours.best_params_ == serial.best_params_
    for name in ("mean_test_score", "std_test_score", "rank_test_score"):
        numpy.testing.assert_array_equal(ours.cv_results_[name], serial.cv_results_[name])
    numpy.testing.assert_array_equal(ours.predict(features), serial.predict(features))


def test_large_arrays_are_put_once(parallel: None) -> None:
    array = numpy.ones(1_000_000)
    outside = (array[100:], {"deep": [array.reshape(1000, 1000)]})
    most = 0

    def use(pair: Any, i: int) -> tuple[float, bool]:
        return pair[0].sum() + pair[1]["deep"][0].sum() + i, pair[0].flags.writeable

    def told() -> Iterator[Any]:
        nonlocal most
        for i in range(12):
            most = max(most, lowlevel.memory().audit()["bytes"])
            yield delayed(use)(outside, i)

    results = Parallel()(told())
    assert results == [(1_999_900.0 + i, False) for i in range(12)]
    assert 8e6 <= most < 20e6, "two views of one array, each once"
    eventually(lambda: lowlevel.memory().audit()["bytes"] < 1e6, 30, "the arrays stay")


def test_an_exception_ends_the_call_and_the_next_one_runs(parallel: None) -> None:
    with pytest.raises(KeyError) as raised:
        Parallel()(delayed(fail_at_three)(i) for i in range(1000))
    assert raised.value.args == (3,)
    assert Parallel()(delayed(abs)(-i) for i in range(5)) == list(range(5))


def test_nested_calls(parallel: None) -> None:
    def in_threads(n: int) -> Any:
        pids = Parallel(n_jobs=2)(delayed(os.getpid)() for _ in range(n))
        return set(pids) == {os.getpid()}

    def in_processes(n: int) -> Any:
        with parallel_backend("shoal", n_jobs=2):
            pids = Parallel()(delayed(os.getpid)() for _ in range(n))
        return os.getpid() not in pids

    assert Parallel()(delayed(in_threads)(n) for n in (2, 3)) == [True, True]
    assert Parallel()(delayed(in_processes)(n) for n in (2, 3)) == [True, True]


def test_generators_batches_and_names(parallel: None) -> None:
    assert list(Parallel(return_as="generator")(delayed(abs)(-i) for i in range(5))) == [*range(5)]
    assert Parallel(batch_size=7)(delayed(abs)(-i) for i in range(20)) == list(range(20))
    register_shoal("ray")
    with parallel_backend("ray", n_jobs=2, ray_remote_args={"num_cpus": 0.5}):
        assert Parallel()(delayed(abs)(-i) for i in range(3)) == [0, 1, 2]


def test_what_n_jobs_means() -> None:
    with parallel_backend("shoal"):
        assert joblib.effective_n_jobs(-1) == 2
        assert joblib.effective_n_jobs(-2) == 1
        assert joblib.effective_n_jobs(5) == 5
        with pytest.raises(ValueError, match="n_jobs == 0"):
            Parallel(n_jobs=0)(delayed(abs)(i) for i in range(2))
        here = Parallel(n_jobs=1)(delayed(os.getpid)() for _ in range(2))
        assert here == [os.getpid()] * 2, "one job: no process"
    with parallel_backend("shoal", n_jobs=2, inner_max_num_threads=3):
        told = Parallel()(delayed(os.getenv)("OMP_NUM_THREADS") for _ in range(2))
        assert told == ["3", "3"]


def test_a_call_that_takes_too_long(parallel: None) -> None:
    with pytest.raises(multiprocessing.TimeoutError):
        Parallel(timeout=0.2)(delayed(time.sleep)(60) for _ in range(2))
    assert Parallel()(delayed(abs)(-i) for i in range(2)) == [0, 1]
