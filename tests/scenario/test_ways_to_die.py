"""Every way in which user code ends its process, or only seems to: each is told by class and facts.

A task says its pid and its last words and then does it; the error must have exactly that pid, the
exit code or the signal, and the words. What only raises, however odd, is a `TaskError` and costs
nobody his process. The same ways in a method end an actor, or do not. Then: a task that kills
whoever runs it, beside others.
"""

from __future__ import annotations

import _thread
import ctypes
import faulthandler
import mmap
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

import shoal
from shoal import errors

LONG_S = 60.0
WORDS = "the last words of"


class NoStrError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class NoPickleError(Exception):
    def __reduce__(self) -> NoReturn:
        raise RuntimeError("does not travel")


class OneWayError(Exception):
    """Is pickled, and never loaded."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__("one alone")


class OddError(BaseException):
    """None of `Exception`'s."""


def bus_error() -> None:
    """Read behind the end of a mapped file."""
    fd = os.memfd_create("short")
    os.ftruncate(fd, mmap.PAGESIZE)
    mapped = mmap.mmap(fd, mmap.PAGESIZE)
    os.ftruncate(fd, 0)
    mapped[0]


def use_up_cpu_time() -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    spent = int(used.ru_utime + used.ru_stime)
    resource.setrlimit(resource.RLIMIT_CPU, (spent + 1, spent + 100))
    while True:
        pass


def recurse(depth: int = 0) -> int:
    return recurse(depth + 1) + 1


def from_a_thread() -> None:
    threading.Thread(target=os._exit, args=(6,)).start()
    threading.Event().wait()


def become_another_program() -> None:
    os.execv("/bin/sh", ["sh", "-c", "exit 9"])


def raise_it(error: BaseException) -> NoReturn:
    raise error


def raise_itself() -> NoReturn:
    error = ValueError("itself")
    error.__cause__ = error
    raise error


def send(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


EXITS: dict[str, tuple[Callable[[], object], int]] = {
    "os._exit(0)": (lambda: os._exit(0), 0),
    "os._exit(3)": (lambda: os._exit(3), 3),
    "os._exit of a thread": (from_a_thread, 6),
    "exec of another program": (become_another_program, 9),
}
SIGNALS: dict[str, tuple[Callable[[], object], int]] = {
    "SIGKILL": (send(signal.SIGKILL), signal.SIGKILL),
    "SIGHUP": (send(signal.SIGHUP), signal.SIGHUP),
    "SIGALRM": (send(signal.SIGALRM), signal.SIGALRM),
    "SIGFPE": (send(signal.SIGFPE), signal.SIGFPE),
    "SIGILL": (send(signal.SIGILL), signal.SIGILL),
    "a real-time signal": (send(signal.SIGRTMIN + 3), signal.SIGRTMIN + 3),
    "os.abort": (os.abort, signal.SIGABRT),
    "read of address 0": (lambda: ctypes.string_at(0), signal.SIGSEGV),
    "overflow of the stack in C": (faulthandler._stack_overflow, signal.SIGSEGV),
    "a mapped file that was cut": (bus_error, signal.SIGBUS),
    "CPU time used up": (use_up_cpu_time, signal.SIGXCPU),
    "fatal error of the interpreter": (
        lambda: ctypes.pythonapi.Py_FatalError(b"on purpose"), signal.SIGABRT,
    ),
}  # fmt: skip
RAISES: dict[str, tuple[Callable[[], object], str]] = {
    "sys.exit()": (sys.exit, "sys.exit"),
    "sys.exit of text": (lambda: sys.exit("enough"), "enough"),
    "overflow of the stack in Python": (recurse, "recursion"),
    "memory error": (lambda: bytearray(1 << 60), "MemoryError"),
    "KeyboardInterrupt": (lambda: raise_it(KeyboardInterrupt()), "KeyboardInterrupt"),
    "interrupt of the main thread": (lambda: raise_it(KeyboardInterrupt("main")), "main"),
    "GeneratorExit": (lambda: raise_it(GeneratorExit()), "GeneratorExit"),
    "StopIteration": (lambda: raise_it(StopIteration("stop")), "stop"),
    "BaseException": (lambda: raise_it(OddError("odd")), "odd"),
    "error without text": (lambda: raise_it(NoStrError()), "NoStrError"),
    "error that is not pickled": (lambda: raise_it(NoPickleError("words")), "NoPickleError"),
    "error that is not loaded": (lambda: raise_it(OneWayError(1, 2)), "one alone"),
    "error that is its own cause": (raise_itself, "itself"),
    "result that is not pickled": (_thread.allocate_lock, "lock"),
}


def end(way: str, path: str) -> Any:
    """Say who we are and what we have to say, then do it."""
    Path(path).write_text(str(os.getpid()))
    print(WORDS, os.getpid(), file=sys.stderr, flush=True)
    rows: dict[str, tuple[Callable[[], object], Any]] = {**EXITS, **SIGNALS, **RAISES}
    return rows[way][0]()


@shoal.remote(max_retries=0)
def task(way: str, path: str) -> Any:
    return end(way, path)


@shoal.remote(num_cpus=0)
class Actor:
    def end(self, way: str, path: str) -> Any:
        return end(way, path)

    def pid(self) -> int:
        return os.getpid()


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    with shoal.init(num_cpus=2, log_to_driver=False):
        yield


@pytest.fixture(autouse=True)
def _end_session() -> None:
    """In the place of conftest's: one session for all tests of this module."""


def told(error: Any, way: str, path: Path) -> None:
    """The facts of an error that names a death."""
    assert error.pid == int(path.read_text()) and error.node, error
    # The interpreter prints a stack after the words, so that they are not among the last lines.
    lines = "\n".join(error.stderr)
    assert f"{WORDS} {error.pid}" in lines or "test_ways_to_die.py" in lines, lines
    assert "What to do:" in str(error)
    if way in EXITS:
        assert (error.exit_code, error.signal) == (EXITS[way][1], None), error
        assert f"exit code {error.exit_code}" in str(error)
    else:
        assert (error.exit_code, error.signal) == (None, int(SIGNALS[way][1])), error
        assert f"signal {error.signal}" in str(error)


@pytest.mark.parametrize("way", [*EXITS, *SIGNALS])
def test_a_task_that_ends_its_process(way: str, tmp_path: Path) -> None:
    path = tmp_path / "pid"
    ref = task.remote(way, str(path))
    with pytest.raises(errors.WorkerCrashedError) as caught:
        shoal.get(ref, timeout=LONG_S)
    assert type(caught.value) is errors.WorkerCrashedError
    assert caught.value.attempt == 1
    assert (caught.value.task, caught.value.task_id) == ("task", ref.task_id().hex())
    told(caught.value, way, path)


@pytest.mark.parametrize("way", [way for way in [*EXITS, *SIGNALS] if "CPU" not in way])
def test_a_method_that_ends_its_process(way: str, tmp_path: Path) -> None:
    path, actor = tmp_path / "pid", Actor.remote()
    call, behind = actor.end.remote(way, str(path)), actor.pid.remote()
    with pytest.raises(errors.ActorDiedError) as caught:
        shoal.get(call, timeout=LONG_S)
    told(caught.value, way, path)
    assert caught.value.reason == "crashed" and caught.value.may_have_run
    with pytest.raises(errors.ActorDiedError) as caught:
        shoal.get(behind, timeout=LONG_S)
    assert not caught.value.may_have_run, "this call was only waiting"


def test_what_raises_costs_nobody_his_process(tmp_path: Path) -> None:
    actor = Actor.remote()
    pid = shoal.get(actor.pid.remote(), timeout=LONG_S)
    for way, (_, text) in RAISES.items():
        refs = [task.remote(way, str(tmp_path / "pid"))]
        if "sys.exit" not in way:  # of an actor it is a way to leave
            refs.append(actor.end.remote(way, str(tmp_path / "pid")))
        for ref in refs:
            with pytest.raises((errors.TaskError, errors.SerializationError)) as caught:
                shoal.get(ref, timeout=LONG_S)
            assert not isinstance(caught.value, errors.LostError), (way, caught.value)
            assert text in str(caught.value), (way, caught.value)
    assert shoal.get(actor.pid.remote(), timeout=LONG_S) == pid
    with pytest.raises(errors.ActorDiedError):
        shoal.get(actor.end.remote("sys.exit()", str(tmp_path / "pid")), timeout=LONG_S)


# ---- a task that kills whoever runs it


@shoal.remote(max_retries=-1)
def poison(folder: str) -> None:
    Path(folder, str(os.getpid())).touch()
    os.abort()


@shoal.remote
def child_of_poison(folder: str) -> None:
    shoal.get(poison.remote(folder))


@shoal.remote
def square(number: int) -> int:
    return number * number


def test_a_task_that_kills_every_worker_is_stopped_and_others_go_on(tmp_path: Path) -> None:
    below = tmp_path / "below"
    below.mkdir()
    refs = [square.remote(number) for number in range(50)]
    alone, nested = poison.remote(str(tmp_path)), child_of_poison.remote(str(below))
    refs += [square.remote(number) for number in range(50, 100)]
    with pytest.raises(errors.PoisonTaskError) as caught:
        shoal.get(alone, timeout=LONG_S)
    pids = {int(path.name) for path in tmp_path.iterdir() if path.is_file()}
    assert set(caught.value.pids) == pids and len(pids) == 3, caught.value
    assert caught.value.signal == signal.SIGABRT
    with pytest.raises(errors.PoisonTaskError):
        shoal.get(nested, timeout=LONG_S)
    # Once with its parent, which waited and ran it meanwhile; then the parent only waits.
    assert 3 <= len(list(below.iterdir())) <= 4
    assert shoal.get(refs, timeout=LONG_S) == [number * number for number in range(100)]
