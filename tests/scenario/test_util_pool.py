"""What the standard library documents of `multiprocessing.Pool`, for its class and for ours.

Each story is a function of a pool's class whose outcome must be equal; what ours does better (a
process that dies, endless input, ...) stands after them.
"""

from __future__ import annotations

import functools
import gc
import itertools
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal import errors, lowlevel
from shoal.util.multiprocessing import BrokenCrewError, Pool, TimeoutError, WorkerLostError
from tests.torture.processes import eventually


@shoal.remote
def in_a_task(n: int) -> int:
    with Pool(2, remote_args={"num_cpus": 1}) as inner:  # one has the CPU that the task lends
        return sum(inner.map(square, range(n)))


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    with shoal.init(num_cpus=2):
        shoal.get(in_a_task.remote(1))  # functions that a session knows stay in its store
        yield


@pytest.fixture(autouse=True)
def _end_session() -> None:
    """One session serves the file; each test leaves no value, task or process of its own."""


@pytest.fixture(autouse=True)
def _nothing_is_left(session: None) -> Iterator[None]:
    before = left()
    yield
    gc.collect()
    eventually(lambda: left() <= before, 30, "the story leaves values")


def left() -> tuple[int, int, int]:
    audit = lowlevel.memory().audit()
    assert audit["leaked_blocks"] == audit["wrong_counts"] == 0
    actors = [row for row in shoal.state.actors() if row.state not in ("DEAD", "dead")]
    return audit["bytes"], audit["specs"], len(actors)


# ---- functions of the stories: at module level, as the standard library needs them


def square(x: int) -> int:
    return x * x


def power(base: int, exponent: int = 2) -> int:
    return base**exponent


def fail_at_three(x: int) -> int:
    if x == 3:
        raise ValueError("three", x)
    return x


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


_state: list[Any] = []


def remember(*words: Any) -> None:
    _state.append(words)


def recall(_: Any) -> Any:
    return os.getpid(), list(_state)


def make_lock(_: Any) -> Any:
    return threading.Lock()


class Telling(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)
        self.code = code


def tell(code: int) -> None:
    raise Telling(code, "told")


# ---- stories: the class of a pool in, an outcome out


def story_map(make: Callable[..., Any]) -> Any:
    with make(2) as pool:
        return [
            pool.map(square, range(10)),
            pool.map(square, [], 3),
            pool.map(square, iter([1, 2, 3]), chunksize=2),
            pool.map_async(square, range(5)).get(timeout=60),
        ]


def story_apply(make: Callable[..., Any]) -> Any:
    with make(2) as pool:
        result = pool.apply_async(power, (3,), {"exponent": 3})
        result.wait(60)
        return pool.apply(power, (2, 5)), pool.apply(power, [2]), result.ready(), result.get()


def story_starmap(make: Callable[..., Any]) -> Any:
    with make(2) as pool:
        pairs = [(1, 2), (3, 4), (5, 6)]
        return pool.starmap(power, pairs), pool.starmap_async(power, iter(pairs), 2).get(60)


def story_imap(make: Callable[..., Any]) -> Any:
    with make(2) as pool:
        it = pool.imap(square, range(5))
        one_by_one = [next(it), it.next(), it.next(timeout=60), *it]
        with pytest.raises(StopIteration):
            next(it)
        chunks = list(pool.imap(square, range(7), chunksize=3))
        return one_by_one, chunks, sorted(pool.imap_unordered(square, range(7), 2))


def story_exceptions(make: Callable[..., Any]) -> Any:
    outcomes: list[Any] = []
    with make(2) as pool:
        for call in (
            lambda: pool.map(fail_at_three, range(6)),
            lambda: pool.apply(fail_at_three, (3,)),
            lambda: pool.starmap(power, [(1, "x")]),
            lambda: pool.apply(tell, (7,)),
            lambda: list(pool.imap(fail_at_three, range(6))),
        ):
            with pytest.raises(Exception) as raised:
                call()
            error = raised.value
            outcomes += [type(error).__name__, error.args, getattr(error, "code", None)]
            assert "Traceback" in str(error.__cause__)
        outcomes.append(pool.map(square, [2]))
    return outcomes


def story_successful(make: Callable[..., Any]) -> Any:
    with make(1) as pool:
        good, bad = pool.apply_async(square, (2,)), pool.apply_async(fail_at_three, (3,))
        late = pool.apply_async(nap, (60,))
        with pytest.raises(ValueError):
            late.successful()
        good.wait(60)
        bad.wait(60)
        return good.successful(), bad.successful(), bad.ready(), late.ready()


def story_callbacks(make: Callable[..., Any]) -> Any:
    seen: list[Any] = []
    failed: list[Any] = []
    with make(2) as pool:
        add = {"callback": seen.append, "error_callback": failed.append}
        waited = [
            pool.apply_async(square, (3,), **add),
            pool.map_async(square, range(3), **add),
            pool.starmap_async(power, [(2, 3)], **add),
            pool.apply_async(fail_at_three, (3,), **add),
        ]
        for result in waited:
            result.wait(60)
    return sorted(map(str, seen)), [repr(error) for error in failed]


def story_timeout(make: Callable[..., Any]) -> Any:
    with make(1) as pool:
        quick = pool.apply_async(square, (2,)).get(timeout=60)
        late = pool.apply_async(nap, (60,))
        it = pool.imap(square, [1])
        with pytest.raises(multiprocessing.TimeoutError):
            late.get(timeout=0.01)
        for _ in range(2):
            with pytest.raises(multiprocessing.TimeoutError):
                it.next(timeout=0.01)
        return quick, late.ready()


def story_initializer(make: Callable[..., Any]) -> Any:
    with make(2, remember, ("once", 1)) as pool:
        return {str(state) for _, state in pool.map(recall, range(20), chunksize=1)}


def story_maxtasksperchild(make: Callable[..., Any]) -> Any:
    with make(1, maxtasksperchild=2) as pool:
        pids = [pid for pid, _ in pool.map(recall, range(6), chunksize=1)]
        return [len(list(group)) for _, group in itertools.groupby(pids)]


def story_close_and_join(make: Callable[..., Any]) -> Any:
    pool = make(2)
    with pytest.raises(ValueError):
        pool.join()
    results = [pool.apply_async(square, (i,)) for i in range(5)]
    pool.close()
    for call in (pool.apply, pool.apply_async, pool.map, pool.imap):
        with pytest.raises(ValueError):
            call(square, [1])
    pool.join()
    return [result.get(0) for result in results]


def story_left_alone(make: Callable[..., Any]) -> Any:
    """Nobody takes the results of `imap`; closing and joining does all of them all the same."""
    pool = make(2)
    read = []

    def items() -> Iterator[int]:
        for i in range(30):
            read.append(i)
            yield i

    pool.imap_unordered(square, items())
    pool.close()
    pool.join()
    return read


def story_terminate(make: Callable[..., Any]) -> Any:
    began = time.monotonic()
    pool = make(1)
    pool.apply_async(nap, (60,))
    pool.terminate()
    pool.join()
    with pytest.raises(ValueError):
        pool.map(square, [1])
    return time.monotonic() - began < 30


def story_arguments(make: Callable[..., Any]) -> Any:
    refused = []
    for wrong in ({"processes": 0}, {"processes": 1, "maxtasksperchild": 0}):
        with pytest.raises(ValueError):
            make(**wrong)
        refused.append(wrong)
    with pytest.raises(TypeError):
        make(1, "no function")
    return refused


def story_unpicklable(make: Callable[..., Any]) -> Any:
    """A value that can not travel fails its own call."""
    with make(1) as pool:
        bad = pool.apply_async(square, (threading.Lock(),))
        with pytest.raises(TypeError):
            bad.get(60)
        back = pool.apply_async(make_lock, (1,))
        with pytest.raises(Exception, match=r"lock"):
            back.get(60)
        return pool.apply(square, (4,))


def story_broken_input(make: Callable[..., Any]) -> Any:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise KeyError("input")

    with make(2) as pool:
        with pytest.raises(KeyError):
            pool.map(square, items())
        it = pool.imap(square, items())
        taken = [next(it), next(it)]
        with pytest.raises(KeyError):
            next(it)
        return taken


STORIES = [value for name, value in sorted(globals().items()) if name.startswith("story_")]


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__[6:])
def test_as_the_standard_library(story: Callable[..., Any]) -> None:
    assert story(Pool) == story(multiprocessing.get_context("fork").Pool)


# ---- where ours is meant to be better


def die_at_three(x: int) -> int:
    if x == 3:
        os._exit(7)
    return x


def test_a_process_that_dies_fails_its_item_and_is_replaced() -> None:
    with Pool(2) as pool:
        results = [pool.apply_async(die_at_three, (x,)) for x in range(12)]
        outcomes = []
        for result in results:
            try:
                outcomes.append(result.get(60))
            except WorkerLostError as error:
                assert isinstance(error, errors.WorkerCrashedError) and error.exit_code == 7
                outcomes.append("lost")
        assert outcomes == [0, 1, 2, "lost", *range(4, 12)]
        assert pool.map(square, range(4)) == [0, 1, 4, 9]
        assert len({pid for pid, _ in pool.map(recall, range(40), chunksize=1)}) <= 2


def test_items_beside_a_death_are_done_once() -> None:
    with Pool(2) as pool:
        it = pool.imap(die_at_three, range(8))
        taken: list[Any] = []
        while len(taken) < 8:
            try:
                taken.append(next(it))
            except WorkerLostError:
                taken.append("lost")
        assert taken == [0, 1, 2, "lost", 4, 5, 6, 7]


def test_an_initializer_that_raises_or_dies_breaks_the_pool_at_once() -> None:
    def refuse() -> None:
        raise OSError("no disk")

    with Pool(2, refuse) as pool:
        with pytest.raises(BrokenCrewError, match="no disk") as raised:
            pool.map(square, range(10))
        assert isinstance(raised.value.__cause__, OSError)
        with pytest.raises(BrokenCrewError):
            pool.apply(square, (1,))
        with pytest.raises(BrokenCrewError):
            list(pool.imap(square, itertools.count()))
    with Pool(1, os._exit, (3,)) as pool, pytest.raises(BrokenCrewError, match="exit code 3"):
        pool.map(square, range(3))


def test_what_other_workers_had_fails_as_the_broken_pool_does(tmp_path: Path) -> None:
    place = str(tmp_path / "refused")

    def refuse_first() -> None:
        try:
            os.mkdir(place)
        except FileExistsError:
            time.sleep(120)  # it is ended in its initializer
        raise OSError("no disk")

    with Pool(2, refuse_first) as pool:
        results = [pool.apply_async(square, (i,)) for i in range(6)]
        for result in results:
            with pytest.raises(BrokenCrewError, match="no disk"):
                result.get(60)


def test_endless_input_is_read_a_little_ahead() -> None:
    read = itertools.count()
    with Pool(2) as pool:
        it = pool.imap(nap, (0.0 * next(read) for _ in itertools.count()))
        assert [next(it) for _ in range(20)] == [0.0] * 20
        del it  # in the middle: nobody wants the rest
        eventually(lambda: next(read) == next(read) - 1, 30, "reading goes on")
        assert next(read) < 2000
        assert pool.map(square, [3]) == [9]


def test_an_item_that_raises_costs_imap_one_result() -> None:
    with Pool(2) as pool:
        it = pool.imap(fail_at_three, range(6), chunksize=2)
        taken: list[Any] = []
        for _ in range(6):
            try:
                taken.append(next(it))
            except ValueError as error:
                taken.append(error.args)
        assert taken == [0, 1, 2, ("three", 3), 4, 5]


def test_calls_that_terminate_ends_raise() -> None:
    pool = Pool(1)
    running, waiting = pool.apply_async(nap, (60,)), pool.apply_async(square, (1,))
    it = pool.imap(nap, itertools.repeat(60))
    pool.terminate()
    for take in (running.get, waiting.get, lambda: next(it)):
        with pytest.raises(errors.TaskCancelledError, match="terminated"):
            take()


def test_functions_without_a_name_and_closures() -> None:
    by = 10
    with Pool(2) as pool:
        assert pool.map(lambda x: x * by, [1, 2]) == [10, 20]
        assert pool.map(functools.partial(power, exponent=3), [1, 2]) == [1, 8]
        assert pool.map("-".join, [["a", "b"]]) == ["a-b"]


def test_a_pool_in_a_process_of_a_pool() -> None:
    def sum_of_squares(n: int) -> int:
        with Pool(2) as inner:
            return sum(inner.map(square, range(n)))

    with Pool(2) as pool:
        assert pool.map(sum_of_squares, [3, 4]) == [5, 14]
    assert shoal.get(in_a_task.remote(4), timeout=60) == 14


def test_who_is_free_gets_the_next_item() -> None:
    """One long item does not hold up the short ones behind it."""
    with Pool(2) as pool:
        began = time.monotonic()
        long = pool.apply_async(nap, (30,))
        assert pool.map(nap, [0.01] * 20, chunksize=1) == [0.01] * 20
        assert time.monotonic() - began < 25 and not long.ready()


def wait_if_long(job: tuple[str, str, int]) -> tuple[int, int]:
    """The long one waits until somebody else has done all the others."""
    folder, kind, number = job
    if kind == "long":
        while len(list(Path(folder).iterdir())) < number:
            time.sleep(0.002)
    elif kind == "short":
        (Path(folder) / str(number)).touch()
    return os.getpid(), number


def test_what_was_dealt_behind_a_long_item_goes_to_others(tmp_path: Path) -> None:
    """Else nobody would do those that the long one waits for."""
    folder = str(tmp_path)
    with Pool(2) as pool:
        pool.map(wait_if_long, [(folder, "learn", 0)] * 400, chunksize=1)  # short: dealt ahead
        before = [pool.apply_async(wait_if_long, ((folder, "learn", 0),)) for _ in range(50)]
        long = pool.apply_async(wait_if_long, ((folder, "long", 300),))
        shorts = [pool.apply_async(wait_if_long, ((folder, "short", n),)) for n in range(300)]
        slow = long.get(60)[0]
        done = [result.get(60) for result in shorts]
        assert [number for _, number in done] == list(range(300))
        assert slow not in {pid for pid, _ in done[-200:]}, "the free one did the rest"
        assert len([result.get(60) for result in before]) == 50

        # The one that was stuck gets jobs again.
        def both() -> bool:
            jobs = [(folder, "learn", 0)] * 200
            return {slow} < {pid for pid, _ in pool.map(wait_if_long, jobs, chunksize=1)}

        eventually(both, 30, "one process does everything")


def test_more_functions_than_a_process_keeps() -> None:
    def adding(n: int) -> Callable[[int], int]:
        return lambda x: x + n

    with Pool(1) as pool:
        functions = [adding(n) for n in range(150)]
        for _ in range(2):
            results = [pool.apply_async(function, (1,)) for function in [*functions, square]]
            assert [result.get(60) for result in results] == [*range(1, 151), 1]
        assert [pool.apply(function, (1,)) for function in functions[:3]] == [1, 2, 3]


def stop_at_two(x: int) -> int:
    if x == 2:
        raise StopIteration
    return x


def test_stop_iteration_is_an_exception_like_others() -> None:
    """The standard library's takes it for the end, and leaves the rest of the chunk out."""
    with Pool(1) as pool:
        with pytest.raises(StopIteration):
            pool.map(stop_at_two, range(4), chunksize=4)
        assert pool.map(stop_at_two, range(2), chunksize=4) == [0, 1]


def test_refs_and_lists_among_items_arrive_as_they_are() -> None:
    def kind(*args: Any, **named: Any) -> Any:
        return [type(arg).__name__ for arg in (*args, *named.values())]

    ref = shoal.put(1)
    with Pool(1) as pool:
        assert pool.apply(kind, (ref, [1]), {"by": ref}) == ["ObjectRef", "list", "ObjectRef"]
        assert pool.map(kind, [ref, (1,)], chunksize=2) == [["ObjectRef"], ["tuple"]]
        assert pool.apply(kind, (), {"self": 1, "items": 2}) == ["int", "int"]
        assert pool.map(kind, [[], None], chunksize=1) == [["list"], ["NoneType"]]
        assert pool.apply(list, ([[]],)) == [[]]


def test_a_callback_that_raises_is_shown_and_ends_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", shown.append)
    with Pool(1) as pool:
        assert pool.apply_async(square, (2,), callback=lambda _: 1 / 0).get(60) == 4
        assert pool.apply(square, (3,)) == 9
    assert [args.exc_type for args in shown] == [ZeroDivisionError]


def test_wrong_uses_say_what_is_wrong() -> None:
    with pytest.raises(errors.OptionError, match="num_cpu"):
        Pool(1, remote_args={"num_cpu": 1})
    with Pool(1) as pool:
        with pytest.raises(TypeError, match="none"):
            pool.map(None, [1])  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="chunksize"):
            pool.imap(square, [1], chunksize=0)
        with pytest.raises(errors.NotSupportedError, match="make one inside"):
            shoal.put(pool)
        with pytest.raises(TimeoutError):
            pool.apply_async(nap, (60,)).get(0.01)


def test_a_forked_child_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    with Pool(1) as pool:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                pool.apply_async(square, (1,))
            except errors.ForkedProcessError:
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0


def test_the_names_that_ray_gives(tmp_path: Path) -> None:
    """In a process of its own: `install` is for a whole program."""
    program = tmp_path / "program.py"
    program.write_text(
        "import shoal.compat.ray\n"
        "shoal.compat.ray.install()\n"
        "import ray\n"
        "from ray.util.multiprocessing import JoinableQueue, Pool, TimeoutError\n"
        "from ray.util.multiprocessing.pool import Pool as Same\n"
        "from ray.util.joblib import register_ray\n"
        "from ray.util.dask import RayDaskCallback, enable_dask_on_ray, ray_dask_get\n"
        "import joblib\n"
        "ray.init(num_cpus=2)\n"
        "seen = []\n"
        "assert Same is Pool\n"
        "with Pool(2, ray_remote_args={'num_cpus': 0.5}) as pool:\n"
        "    assert pool.map(lambda x: x * x, [1, 2]) == [1, 4]\n"
        "register_ray()\n"
        "with joblib.parallel_backend('ray', n_jobs=2):\n"
        "    assert joblib.Parallel()(joblib.delayed(abs)(-x) for x in range(3)) == [0, 1, 2]\n"
        "note = lambda task, key, deps, ref: seen.append(key)\n"
        "with RayDaskCallback(ray_postsubmit=note):\n"
        "    assert ray_dask_get({'x': 1, 'y': (abs, 'x')}, ['y']) == [1]\n"
        "assert seen == ['y']\n"
    )
    subprocess.run([sys.executable, str(program)], timeout=60, check=True)
