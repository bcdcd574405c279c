"""What workers have in common: made, and rehearsed, in the zygote before it forks the first one.

A page that a worker writes was the zygote's until then: a page fault and a copy of 4 KiB, 2 us
each, and there were a thousand of them before an actor had answered its first call, more than half
of the 4 ms that a start took. So the zygote does beforehand what is the same for all:

* *made*: the module ``__main__``, the text streams, the variables of the environment.
* *rehearsed*: the beginning of a worker with one actor, played through in the zygote itself. A
  worker runs each line of it once, so that method caches would be filled, code would be
  specialised and symbols be bound in each worker anew.

Rules:

1. A rehearsal leaves nothing but what is faster the next time: no descriptor, no thread, no
   variable of the environment, no fact of the process.
2. Nothing depends on it: a worker of a zygote that did not rehearse is only slower.
3. What is added to the beginning of a worker belongs into what is rehearsed.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import gc
import os
import pickle
import signal
import socket
import sys
import threading
import types
from typing import Any, NoReturn, TextIO, cast

import cloudpickle
import msgspec

from shoal._base import environment
from shoal._native import Memory
from shoal._proto import forking, frames, messages
from shoal._proto.environments import CONDA
from shoal._runtime import context, worker
from shoal._runtime.actor import method_rows
from shoal._runtime.client import Connection

ROUNDS = 12
"""Of a rehearsal; the interpreter specialises code that was called eight times."""


class Template:
    """Made once; ``begin`` runs in each worker."""

    def __init__(self) -> None:
        self.main = types.ModuleType("__main__")
        """What is pickled by reference to __main__ means the user's program, never this file."""
        self.streams = _text_streams()
        self.replaced = sys.modules["__main__"], sys.stdout, sys.stderr
        """Kept, as each worker would have to take them apart."""
        self.variables = environment.inherited_variables()
        """Before ``prepare``: those of exec'd workers."""
        self.setup = forking.Setup("", messages.Welcome("", "", b"", -1, 0, "", {}))
        self.memory_fds = (-1, -1)
        self.prepared = worker.Prepared()

    def prepare(self, setup: forking.Setup, memory_fds: tuple[int, int]) -> None:
        """The session is known: do what was waiting for that."""
        self.setup = setup
        self.memory_fds = memory_fds
        self.prepared = worker.prepare(setup.socket_path)

    def begin(self, index: int, python: str, link_fd: int = -1) -> NoReturn:
        """Turn a freshly forked child into worker ``index`` and run it to its end; ``python`` is
        another interpreter to run it with."""
        if python:
            self._execute(index, python)
        connection, welcome = self._take_place(index, link_fd)
        gc.enable()
        memory = Memory.attach(*self.memory_fds, index)
        worker.begin(memory, connection, welcome, self.prepared)

    def _execute(self, index: int, python: str) -> NoReturn:
        program = ["-m", "shoal._runtime.worker"]
        if python.startswith(CONDA):
            program = ["-c", _borrowing()]
            python = python.removeprefix(CONDA)
        arguments = ["-P", *program, str(index), self.setup.socket_path]
        os.execve(python, [python, *arguments], self.variables)

    def _take_place(self, index: int, link_fd: int) -> tuple[Connection, messages.Welcome]:
        """Leave no trace of the zygote, in the interpreter; the process is a worker's already."""
        signal.set_wakeup_fd(-1)
        # ``signal.signal`` makes enums of what it gets and gives back, or an exception.
        _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
        threading.main_thread()._set_native_id()  # type: ignore[attr-defined]
        sys.modules["__main__"] = self.main
        stdout, stderr = self.streams
        sys.stdout = sys.__stdout__ = stdout  # type: ignore[misc,assignment]
        sys.stderr = sys.__stderr__ = stderr  # type: ignore[misc,assignment]
        _reseed()
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, link_fd)
        return Connection(link), msgspec.structs.replace(self.setup.welcome, index=index)

    # ---- rehearsing
    def rehearse(self) -> None:
        """Play the beginning of a worker through, in this process, and undo what it did."""
        memory, assignment = _sample()
        answer = frames.encode(1, assignment)
        main, paths = sys.modules["__main__"], list(sys.path)
        streams = sys.stdout, sys.__stdout__, sys.stderr, sys.__stderr__
        self.prepared = worker.Prepared(frozenset("-"), has_no_gpus=True)
        for _ in range(ROUNDS):
            theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            with theirs:
                theirs.sendall(answer)
                connection, welcome = self._take_place(0, ours.detach())
                session, sent = worker.join(memory, connection, welcome, self.prepared)
                worker.become(session, sent)
                connection.end()
        self.prepared = worker.Prepared()
        sys.stdout, sys.__stdout__, sys.stderr, sys.__stderr__ = streams  # type: ignore[misc]
        sys.modules["__main__"], sys.path[:] = main, paths
        vars(context.process).clear()


def _text_streams() -> tuple[TextIO, TextIO]:
    """Streams over 1 and 2 for workers, opened while both are pipes: a stream remembers of what
    kind its descriptor was."""
    kept = [os.dup(1), os.dup(2)]
    pipe = os.pipe2(os.O_CLOEXEC)
    for fd in (1, 2):
        os.dup2(pipe[1], fd)
    streams = _text_stream(1, "strict"), _text_stream(2, "backslashreplace")
    for fd, former in zip((1, 2), kept, strict=True):
        os.dup2(former, fd)
    for fd in (*kept, *pipe):
        os.close(fd)
    return streams


def _text_stream(fd: int, errors: str) -> TextIO:
    return open(fd, "w", buffering=1, encoding="utf-8", errors=errors, closefd=False)


def _borrowing() -> str:
    """A program for an interpreter that has no Shoal, or another one (RULES E-2): ours and what it
    needs are imported from where they are, and nothing else is."""
    modules = ("msgspec", "cloudpickle", "shoal")
    files = [sys.modules[name].__file__ or "" for name in modules]
    roots = {os.path.dirname(os.path.dirname(file)) for file in files}
    return (
        f"import sys; sys.path[:0] = {sorted(roots)!r}; import {', '.join(modules)};"
        f" del sys.path[:{len(roots)}]; from shoal._runtime.worker import main;"
        " main(int(sys.argv[1]), sys.argv[2])"
    )


def _reseed() -> None:
    """Give this process random numbers of its own, whatever a preloaded module had drawn."""
    if (random := sys.modules.get("random")) is not None:
        random.seed()
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed()
    if (torch := sys.modules.get("torch")) is not None:
        torch.seed()


# ---- what is played with
_CLASS = 1
_SOURCE = """
class Actor:
    def __init__(self, value=0):
        self.value = value

    def method(self, value=0):
        return value
"""


class _Memory:
    """Node memory that has one class, and arguments for it."""

    def __init__(self, pickled: bytes) -> None:
        self._pickled = pickled

    def set_hooks(self, **hooks: Any) -> None:
        pass

    def load_key(self, key: int) -> Any:
        return pickle.loads(self._pickled) if key == _CLASS else ((), {})


def _sample() -> tuple[Memory, messages.Assignment]:
    variables: dict[str, Any] = {"__name__": "__main__"}
    exec(_SOURCE, variables)
    cls = variables["Actor"]
    spec = messages.ActorSpec(
        function=_CLASS,
        arguments=_CLASS + 1,
        class_name=cls.__name__,
        methods=msgspec.msgpack.encode(method_rows(cls)),
    )
    actor = messages.ActorInfo("rehearsal", 1, 1, spec, "PENDING")
    config = messages.JobConfig(sys_path=list(sys.path))
    memory = cast(Memory, _Memory(cloudpickle.dumps(cls)))
    return memory, messages.Assignment(1, config, 1, [], {}, actor)
