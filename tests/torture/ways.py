"""Ways in which user code ends its process, or only seems to.

``end`` is what a task or a method calls: it says its pid and its last words, and then goes that
way. ``EXITS`` and ``SIGNALS`` have what the error must tell, ``RAISES`` a word of its text.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

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


WAYS: dict[str, tuple[Callable[[], object], Any]] = {**EXITS, **SIGNALS, **RAISES}


def end(way: str, path: str) -> Any:
    """Say who we are and what we have to say, then do it."""
    Path(path).write_text(str(os.getpid()))
    print(WORDS, os.getpid(), file=sys.stderr, flush=True)
    return WAYS[way][0]()


def told(error: Any, way: str, path: Path) -> None:
    """The facts of an error that names a death."""
    assert error.pid == int(path.read_text()) and error.node, error
    # The interpreter prints a stack after the words, so that they are not among the last lines.
    lines = "\n".join(error.stderr)
    assert f"{WORDS} {error.pid}" in lines or Path(__file__).name in lines, lines
    assert "What to do:" in str(error)
    if way in EXITS:
        assert (error.exit_code, error.signal) == (EXITS[way][1], None), error
        assert f"exit code {error.exit_code}" in str(error)
    else:
        assert (error.exit_code, error.signal) == (None, int(SIGNALS[way][1])), error
        assert f"signal {error.signal}" in str(error)
