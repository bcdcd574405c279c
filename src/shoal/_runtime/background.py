"""Calls of an actor that go on in a thread of their own, while the actor serves others.

A method (or ``__ray_call__``) returns ``Background(serve)``: the call is not over then, and
``serve(inside)`` runs in a new thread. Its result ends the call; so does the death of the process,
as with every call that runs. That is how a library keeps something going in an actor and hears of
its end, without a thread and without asking.

``inside.method(name)`` calls a method as an ordinary call would be run there::

    plain actor       one at a time: as long as something is in the background, whoever runs a
                      method (an ordinary call, or ``inside``) holds the actor's lock
    threaded actor    at once, side by side with the others
    asyncio actor     on its loop; in this thread if the method says ``thread=True``

Invariants:

1. The thread's context names the call, so what it submits is known to be its own.
2. The lock is held while a method runs and never while something is waited for between methods.
3. When the last background call of a plain actor has ended, its methods are what they were.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from shoal._runtime import context
from shoal._runtime.actor_method import BUILTIN_METHODS, CALL
from shoal._runtime.cancelling import cancelling

if TYPE_CHECKING:
    from shoal import _native
    from shoal._runtime.execute import Executor


class Inside:
    """What a background call sees of its actor."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def method(self, name: str) -> Callable[..., Any]:
        """The method ``name``, run as this actor runs calls.

        Raises:
            AttributeError: there is none.
        """
        handle = context.process.actor
        assert handle is not None
        rows = handle._facts.methods
        index = next((i for i, row in enumerate(rows) if row.name == name), -1)
        if index < 0:
            raise AttributeError(f"actor {handle._facts.class_name} has no method {name!r}")
        return self._executor.from_outside(index)


class Background:
    """What a call returns to go on in a thread of its own.

    Args:
        serve: Called there; what it returns or raises ends the call.
        stop: Called in another thread if the call is cancelled; has ``serve`` return.
    """

    def __init__(
        self, serve: Callable[[Inside], Any], stop: Callable[[], object] = lambda: None
    ) -> None:
        self._serve = serve
        self._stop = stop

    def begin(self, executor: Executor, task: _native.Task) -> None:
        """Start the thread; asked by who runs the call, which is over for them."""
        is_serial = executor.is_serial
        if is_serial:
            # From now on several calls of this process are open at once.
            executor.memory.run_side_by_side(context.running)
            _lock_of(executor).add()
        inside = Inside(executor)

        def run() -> None:
            context.running.set(task)
            try:
                with cancelling.while_running(task, self._stop):
                    value = self._serve(inside)
                executor.finish(task, value)
            except BaseException as error:  # as in Executor.run: it belongs into the result
                value = None
                executor.fail(task, error)
            finally:
                if is_serial:
                    _lock_of(executor).remove()

        threading.Thread(target=run, name="shoal-background", daemon=True).start()


class _Turns:
    """The lock of a plain actor that has something in the background."""

    def __init__(self, methods: list[Callable[..., Any]]) -> None:
        self._methods = methods
        self._plain = list(methods)
        self._lock = threading.RLock()
        self._count = 0
        self._changing = threading.Lock()

    def add(self) -> None:
        """One more is in the background."""
        with self._changing:
            self._count += 1
            if self._count == 1:
                n_own = len(self._plain) - len(BUILTIN_METHODS)
                for index, call in enumerate(self._plain):
                    if index < n_own or BUILTIN_METHODS[index - n_own] == CALL:
                        self._methods[index] = self._in_turn(call)

    def remove(self) -> None:
        """One has ended."""
        with self._changing:
            self._count -= 1
            if not self._count:
                self._methods[:] = self._plain

    def _in_turn(self, call: Callable[..., Any]) -> Callable[..., Any]:
        lock = self._lock

        def in_turn(*args: Any, **kwargs: Any) -> Any:
            with lock:
                return call(*args, **kwargs)

        def in_turns(*args: Any, **kwargs: Any) -> Iterator[Any]:
            with lock:
                items = call(*args, **kwargs)
            while True:
                with lock:
                    try:
                        item = next(items)
                    except StopIteration:
                        return
                yield item

        return in_turns if inspect.isgeneratorfunction(call) else in_turn


def _lock_of(executor: Executor) -> _Turns:
    if executor.turns is None:
        executor.turns = _Turns(executor.methods)
    turns: _Turns = executor.turns
    return turns
