"""Tasks through the public API: arguments, results, nesting, retries, redefinition."""

from __future__ import annotations

import os
import resource
import threading
import time
from typing import Any

import numpy as np
import pytest

import shoal
from shoal import errors


@shoal.remote
def echo(*args: Any, **kwargs: Any) -> Any:
    return (list(args), kwargs) if kwargs else list(args)


@shoal.remote
def add(a: Any, b: Any = 0) -> Any:
    return a + b


def test_squares() -> None:
    @shoal.remote
    def square(x: int) -> int:
        return x * x

    assert shoal.get([square.remote(i) for i in range(4)]) == [0, 1, 4, 9]
    assert square(5) == 25


@pytest.mark.parametrize(
    "value",
    [None, True, 7, -(2**70), 1.5, "text", "long" * 100, b"bytes", b"x" * 5000, [1, {"a": (2,)}]],
)
def test_values_go_there_and_back(value: Any) -> None:
    assert shoal.get(echo.remote(value)) == [value]
    assert shoal.get(echo.remote(1, key=value)) == ([1], {"key": value})
    assert shoal.get(shoal.put(value)) == value


def test_large_arguments_are_stored_once_and_read_in_place() -> None:
    @shoal.remote
    def look(a: Any, b: Any) -> tuple[Any, ...]:
        return float(a.sum()), a.flags.writeable, b["x"].flags.writeable, a.flags.owndata

    a = np.ones(200_000)
    assert shoal.get(look.remote(a, {"x": np.ones(3)})) == (200_000.0, False, False, False)
    assert shoal.get(look.remote(np.ones(5), {"x": np.ones(3)})) == (5.0, False, False, False)


def test_refs_at_the_top_arrive_as_values_and_inside_stay_refs() -> None:
    @shoal.remote
    def look(a: Any, inside: list[Any], *, b: Any) -> Any:
        return a, type(inside[0]).__name__, shoal.get(inside[0]), b

    one, two = shoal.put(1), add.remote(1, 1)
    assert shoal.get(look.remote(one, [two], b=two)) == (1, "ObjectRef", 2, 2)
    big = shoal.put(np.arange(100_000))
    result = shoal.get(look.remote(big, [one], b=np.ones(100_000)))
    assert result[0][-1] == 99_999 and result[3].sum() == 100_000


def test_a_chain_is_submitted_at_once() -> None:
    ref = shoal.put(0)
    for _ in range(50):
        ref = add.remote(ref, 1)
    assert shoal.get(ref) == 50


def test_several_returns() -> None:
    @shoal.remote(num_returns=3)
    def three() -> Any:
        return 1, "two", [3]

    a, b, c = three.remote()
    assert shoal.get([c, a, b]) == [[3], 1, "two"]
    assert three.options(num_returns=1).remote() is not None
    assert echo.options(num_returns=0).remote() is None


def test_nested_tasks_and_waiting_for_them() -> None:
    @shoal.remote
    def fib(n: int) -> int:
        if n < 2:
            return n
        return sum(shoal.get([fib.remote(n - 1), fib.remote(n - 2)]))

    shoal.init(num_cpus=1)
    assert shoal.get(fib.remote(9)) == 34


def test_mutual_recursion() -> None:
    @shoal.remote
    def is_even(n: int) -> bool:
        return True if n == 0 else shoal.get(is_odd.remote(n - 1))

    @shoal.remote
    def is_odd(n: int) -> bool:
        return False if n == 0 else shoal.get(is_even.remote(n - 1))

    assert shoal.get(is_even.remote(7)) is False
    assert shoal.get(is_odd.remote(7)) is True


def test_redefinition_is_seen() -> None:
    for expected in (1, 2):

        @shoal.remote
        def f() -> int:
            return expected  # noqa: B023  (what the closure holds at its export)

        assert shoal.get(f.remote()) == expected


def test_remote_functions_and_lambdas_as_arguments() -> None:
    @shoal.remote
    def apply(f: Any, g: Any) -> Any:
        return f(20), shoal.get(g.remote(1, 2))

    assert shoal.get(apply.remote(lambda x: x + 1, add)) == (21, 3)


def test_captured_values_and_refs() -> None:
    table = np.arange(1000)
    ref = shoal.put("held by the function")

    @shoal.remote
    def f() -> Any:
        table[0] = 7  # a captured array is private
        return int(table.sum()), shoal.get(ref)

    expected = (int(np.arange(1000).sum()) + 7, "held by the function")
    assert shoal.get(f.remote()) == expected


def test_a_task_of_no_ref_still_runs(tmp_path: Any) -> None:
    @shoal.remote
    def touch(path: str) -> None:
        open(path, "w").close()

    path = str(tmp_path / "file")
    touch.remote(path)
    deadline = time.monotonic() + 30
    while not os.path.exists(path):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_coroutine_functions_run() -> None:
    @shoal.remote
    async def later(x: int) -> int:
        return x + 1

    assert shoal.get(later.remote(1)) == 2


def test_errors_are_of_the_original_class_too() -> None:
    class OwnError(Exception):
        def __init__(self, code: int, text: str) -> None:
            super().__init__(text)
            self.code = code

    @shoal.remote
    def fail() -> None:
        raise OwnError(42, "no good")

    with pytest.raises(OwnError) as caught:
        shoal.get(fail.remote())
    error: Any = caught.value
    assert isinstance(error, errors.TaskError)
    assert error.code == 42 and str(error) == "no good"
    assert isinstance(error.cause, OwnError)
    assert error.attempt == 1 and error.pid != os.getpid()
    assert "raise OwnError" in error.remote_traceback
    assert "_runtime" not in error.remote_traceback
    assert any("in test_errors" in note and "pid" in note for note in error.__notes__)


def test_an_error_through_two_levels_is_short() -> None:
    @shoal.remote
    def inner() -> None:
        raise KeyError("deep")

    @shoal.remote
    def outer() -> None:
        shoal.get(inner.remote())

    with pytest.raises(KeyError) as caught:
        shoal.get(outer.remote())
    error: Any = caught.value
    assert type(error.cause) is KeyError
    lines = error.remote_traceback.splitlines()
    assert len(lines) <= 8, error.remote_traceback
    assert "outer" in lines[0]


def test_an_error_in_an_argument_is_the_error_of_the_task() -> None:
    @shoal.remote
    def fail() -> None:
        raise ValueError("first")

    with pytest.raises(ValueError, match="first"):
        shoal.get(add.remote(add.remote(fail.remote(), 1), 2))


def test_retry_exceptions(tmp_path: Any) -> None:
    marks = str(tmp_path)

    @shoal.remote(max_retries=3, retry_exceptions=True)
    def third_time() -> int:
        n = shoal.get_runtime_context().attempt
        open(f"{marks}/{n}", "w").close()
        if n < 3:
            raise ValueError(n)
        return n

    assert shoal.get(third_time.remote()) == 3
    assert sorted(os.listdir(marks)) == ["1", "2", "3"]

    @shoal.remote(max_retries=2, retry_exceptions=[KeyError])
    def other() -> None:
        raise ValueError(f"attempt {shoal.get_runtime_context().attempt}")

    with pytest.raises(ValueError, match="attempt 1"):
        shoal.get(other.remote())

    @shoal.remote(max_retries=1, retry_exceptions=[KeyError])
    def twice() -> None:
        raise KeyError(f"attempt {shoal.get_runtime_context().attempt}")

    with pytest.raises(KeyError, match="attempt 2"):
        shoal.get(twice.remote())


def test_a_crash_is_retried(tmp_path: Any) -> None:
    mark = str(tmp_path / "mark")

    @shoal.remote(max_retries=1)
    def once() -> int:
        if not os.path.exists(mark):
            open(mark, "w").close()
            os._exit(3)
        return shoal.get_runtime_context().attempt

    assert shoal.get(once.remote()) == 2


def test_runtime_context_in_a_task() -> None:
    @shoal.remote(num_cpus=0.5)
    def look() -> Any:
        here = shoal.get_runtime_context()
        return (
            here.get_task_name(),
            here.get_task_id(),
            here.get_node_id(),
            here.get_assigned_resources(),
            here.is_driver,
            here.get_actor_id(),
        )

    name, task, node, resources, is_driver, actor = shoal.get(look.remote())
    driver = shoal.get_runtime_context()
    assert name.endswith("look") and len(task) == 48 and node == driver.get_node_id()
    assert resources == {"CPU": 0.5} and not is_driver and actor is None
    assert driver.is_driver and driver.get_task_id() is None


def test_the_job_context_is_applied(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "only_here.py").write_text("VALUE = 11\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)

    @shoal.remote
    def look() -> Any:
        import only_here

        return only_here.VALUE, os.getcwd(), os.environ["OMP_NUM_THREADS"]

    assert shoal.get(look.remote()) == (11, str(tmp_path), "1")


def test_gpu_ids() -> None:
    shoal.init(num_cpus=2, num_gpus=2)

    @shoal.remote(num_gpus=1)
    def look() -> Any:
        time.sleep(0.3)
        return shoal.get_gpu_ids(), os.environ["CUDA_VISIBLE_DEVICES"]

    (a, seen_a), (b, seen_b) = shoal.get([look.remote(), look.remote()])
    assert sorted(a + b) == [0, 1] and [seen_a, seen_b] == [str(a[0]), str(b[0])]
    assert shoal.get_gpu_ids() == []


def test_threads_of_one_driver_submit_and_get() -> None:
    results: list[list[int]] = []

    def work(base: int) -> None:
        results.append(shoal.get([add.remote(base, i) for i in range(50)]))

    shoal.init()
    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(r[0] for r in results) == [0, 1, 2, 3]


def test_map() -> None:
    def double(x: int) -> int:
        return 2 * x

    assert list(shoal.map(double, range(1000))) == [2 * i for i in range(1000)]
    assert sorted(shoal.map(double, range(100), ordered=False, chunk=7)) == [
        2 * i for i in range(100)
    ]
    assert list(shoal.map(add, iter([1, 2, 3]))) == [1, 2, 3]
    assert list(shoal.map(double, [])) == []


def test_map_names_the_item_that_failed(capsys: Any) -> None:
    def invert(x: int) -> float:
        return 1 / x

    with pytest.raises(ZeroDivisionError) as caught:
        list(shoal.map(invert, [1, 2, 0, 4], chunk=2, progress=True))
    assert "in item 2 of map" in str(caught.value.cause.__notes__)
    assert "/4" in capsys.readouterr().err


def test_large_temporaries_of_a_task_reuse_memory() -> None:
    """A fresh worker does not give each temporary array back to the kernel: 1,000 page faults a
    call."""

    @shoal.remote
    def faults() -> int:
        array = np.ones((64, 4096))  # 2 MB
        for _ in range(3):
            np.maximum(array * 2.0, 0.0)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(10):
            np.maximum(array * 2.0, 0.0)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    assert shoal.get(faults.remote()) < 1000
