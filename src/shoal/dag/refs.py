"""What ``execute`` and ``execute_async`` return: results to take once.

A ref that is dropped untaken gives its place in the graph back. Neither refs nor futures travel: a
result is read by the process that compiled the graph.

``Turns`` is what an asyncio graph has besides: one thread that reads results as they come (a
channel can not be polled by an event loop) and wakes who awaits them; it ends with the graph.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from functools import partial
from typing import Any, ParamSpec, TypeVar

from shoal import errors
from shoal._runtime.session import NATIVE_ERRORS
from shoal.dag.pipeline import taken_twice
from shoal.dag.results import Results

P = ParamSpec("P")
R = TypeVar("R")


class _Result:
    """One output of one execution."""

    __slots__ = ("_graph", "_number", "_output", "_results")

    def __init__(self, results: Results, number: int, output: int, graph: object) -> None:
        self._results = results
        self._number = number
        self._output = output
        self._graph = graph
        """Lives as long as somebody waits for its results; None after this one was taken."""

    def _take(self, timeout_s: float | None) -> Any:
        if self._graph is None:
            raise taken_twice()
        try:
            value = self._results.take(self._number, self._output, timeout_s)
        except errors.TaskError:
            self._graph = None
            raise
        self._graph = None
        return value

    def __del__(self) -> None:
        if self._graph is not None:
            self._results.pipeline.drop((self._number, 1 << self._output))

    def __reduce__(self) -> Any:
        raise errors.GraphError(
            "a result of a compiled graph can not travel: who has compiled the graph reads it. What"
            " to do: get it and pass the value"
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} execution {self._number}, output {self._output}>"


class CompiledDAGRef(_Result):
    """The result of one execution of a compiled graph; ``shoal.get`` takes it, once."""

    __slots__ = ()

    def get(self, timeout: float | None = None) -> Any:
        """Return the value, or raise what a method of the graph raised.

        Args:
            timeout: Seconds to wait at most; None waits for ever, and so does -1, as in Ray.

        Raises:
            GetTimeoutError: it is not there in time; it can be asked for again.
            TaskError: a method raised; also an instance of the class of what it raised.
            GraphError: it was taken already.
            GraphEndedError: the graph was torn down.
            ActorDiedError: an actor of the graph died.
        """
        return self._take(timeout)

    __shoal_get__ = _Result._take

    def __shoal_wait__(self, timeout: float) -> None:
        """Wait until it can be taken."""
        if self._graph is not None:
            self._results.wait(self._number, timeout)

    def __shoal_watch__(self, call: Callable[[], object]) -> Callable[[], object]:
        """Have ``call`` called when it can be taken; returns what takes that back."""
        self._results.watch(self._number, call)
        return partial(self._results.unwatch, self._number, call)

    def __await__(self) -> Generator[Any, None, Any]:
        raise errors.GraphError(
            "a CompiledDAGRef can not be awaited. What to do: compile the graph with"
            " enable_asyncio=True and use execute_async, or call shoal.get"
        )


class CompiledDAGFuture(_Result):
    """The result of one ``execute_async``; awaited once."""

    __slots__ = ("_turns",)

    def __init__(self, turns: Turns, number: int, output: int, graph: object) -> None:
        super().__init__(turns.results, number, output, graph)
        self._turns = turns

    def __await__(self) -> Generator[Any, None, Any]:
        if self._graph is None:
            raise taken_twice()
        yield from self._turns.wait_read(self._number).__await__()
        return self._take(None)


class Turns:
    """Results of an asyncio graph: one thread reads them, in turn."""

    def __init__(self, results: Results) -> None:
        self.results = results
        self.pipeline = results.pipeline
        self._lock = threading.Lock()
        self._waiting: dict[int, list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]]] = {}
        self._begun = threading.Semaphore(0)
        self._thread: threading.Thread | None = None
        self._is_over = False
        self._writing: tuple[asyncio.AbstractEventLoop, asyncio.Lock] | None = None
        results.at_end = self._begun.release

    def writing(self) -> asyncio.Lock:
        """Held while an execution is written: they have one order.

        Raises:
            GraphError: another event loop uses the graph.
        """
        loop = asyncio.get_running_loop()
        if self._writing is None or self._writing[0].is_closed():
            self._writing = (loop, asyncio.Lock())
        if self._writing[0] is not loop:
            raise errors.GraphError(
                "the graph is executed from two event loops. What to do: compile one for each"
            )
        return self._writing[1]

    async def in_thread(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run what may wait without stopping the loop."""
        return await asyncio.to_thread(function, *args, **kwargs)

    def begin(self) -> None:
        """One more result will come."""
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._serve, name="shoal-graph-results", daemon=True
            )
            self._thread.start()
        self._begun.release()

    async def wait_read(self, number: int) -> None:
        """Wait until an execution was read, or never will be."""
        loop = asyncio.get_running_loop()
        with self._lock:
            if self._is_over or self.pipeline.is_read(number):
                return
            future: asyncio.Future[None] = loop.create_future()
            self._waiting.setdefault(number, []).append((loop, future))
        await future

    def _serve(self) -> None:
        try:
            while self._begun.acquire() and self.results.read_any(None):
                self._wake(self.pipeline.next_read - 1)
        except (errors.ShoalError, *NATIVE_ERRORS):
            pass  # whoever takes a result is told
        with self._lock:
            self._is_over = True
            numbers = list(self._waiting)
        for number in numbers:
            self._wake(number)

    def _wake(self, number: int) -> None:
        with self._lock:
            waiting = self._waiting.pop(number, [])
        for loop, future in waiting:
            if not loop.is_closed():
                loop.call_soon_threadsafe(_set, future)


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
