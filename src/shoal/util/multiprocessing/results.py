"""What a pool's asynchronous calls return: ``AsyncResult`` and the iterators of ``imap``.

Callbacks run in the thread of the pool's crew, before ``wait`` and ``get`` go on, as in the
standard library: keep them short.
"""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from typing import Any

from shoal import lowlevel
from shoal.util.crew import Failure, Job
from shoal.util.crew_member import Raised, Shipped
from shoal.util.crew_stream import NotThereError, Results

Callback = Callable[[Any], Any]

_lock = threading.Lock()
"""Held for the moment in which a result gets ready, or somebody begins to wait for it."""


class PoolTimeoutError(lowlevel.Explained, multiprocessing.TimeoutError, TimeoutError):
    """A result was not there in time; ask again later. Both kinds of ``TimeoutError``."""


class AsyncResult:
    """The result of a call that may still be running.

    Example:
        >>> from shoal.util.multiprocessing import Pool
        >>> with Pool(1) as pool:
        ...     result = pool.apply_async(pow, (2, 10))
        ...     result.get(timeout=60)
        1024
    """

    def __init__(self, callback: Callback | None, error_callback: Callback | None) -> None:
        self._callback = callback
        self._error_callback = error_callback
        self._is_done = False
        self._event: threading.Event | None = None
        """Made by who waits: most results are there before anybody does."""
        self._value: Any = None
        self._error: BaseException | None = None

    def ready(self) -> bool:
        """Whether the call has ended."""
        return self._is_done

    def successful(self) -> bool:
        """Whether the call ended without an exception.

        Raises:
            ValueError: it has not ended.
        """
        if not self.ready():
            raise ValueError(f"{self!r} is not ready: wait for it, or ask ready() first")
        return self._error is None

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the call has ended, or ``timeout`` seconds are over."""
        if self._is_done:
            return
        with _lock:
            if self._is_done:
                return
            if self._event is None:
                self._event = threading.Event()
            event = self._event
        with lowlevel.waiting():
            event.wait(timeout)

    def get(self, timeout: float | None = None) -> Any:
        """Return the result, or raise what the call raised.

        Args:
            timeout: Seconds to wait at most; None waits for ever.

        Raises:
            PoolTimeoutError: it is not there in time (a ``multiprocessing.TimeoutError``).
            WorkerLostError: its process died.
        """
        if not self._is_done:
            self.wait(timeout)
        if not self._is_done:
            late = PoolTimeoutError(f"the result is not there after {timeout} s")
            raise lowlevel.explained(late, is_patient=bool(timeout))
        if self._error is not None:
            raise self._error
        return self._value

    def _succeed(self, value: Any) -> None:
        self._value = value
        self._end(self._callback, value)

    def _fail(self, error: BaseException) -> None:
        self._error = error
        self._end(self._error_callback, error)

    def _end(self, callback: Callback | None, what: Any) -> None:
        self._callback = self._error_callback = None
        try:
            if callback is not None:
                callback(what)
        finally:
            with _lock:
                self._is_done = True
                event = self._event
            if event is not None:
                event.set()


class CallJob(Job):
    """One call."""

    def __init__(
        self,
        function: Shipped | BaseException,
        args: tuple[Any, ...],
        named: dict[str, Any] | None,
        result: AsyncResult,
    ) -> None:
        self.function = function
        self.items = args
        self.named = named
        self.result = result

    def ended(self, outcomes: list[Any]) -> None:
        """Hand the one outcome over."""
        outcome = outcomes[0]
        if type(outcome) is Raised:
            self.result._fail(outcome.error())
        else:
            self.result._succeed(outcome)

    def failed(self, error: BaseException) -> None:
        """Hand ``error`` over."""
        self.result._fail(error)


class MapResult(AsyncResult):
    """The results of ``map_async``: a list once all are there, else the error of the first item
    that raised."""

    def __init__(
        self, chunks: int, callback: Callback | None, error_callback: Callback | None
    ) -> None:
        super().__init__(callback, error_callback)
        self._outcomes: list[list[Any]] = [[]] * chunks
        self._left = chunks
        self._is_flawed = False
        """Something that is no value is among the outcomes: a chunk ends with it."""

    def _chunk(self, number: int, outcomes: list[Any]) -> None:
        self._outcomes[number] = outcomes
        self._left -= 1
        if type(outcomes[-1]) is Raised or type(outcomes[-1]) is Failure:
            self._is_flawed = True
        if self._left:
            return
        values: list[Any] = []
        for chunk in self._outcomes:
            values += chunk
        self._outcomes = []
        if self._is_flawed:
            for value in values:
                if type(value) is Raised or type(value) is Failure:
                    self._fail(value.error())
                    return
        self._succeed(values)


class ChunkJob(Job):
    """One chunk of a ``map_async``."""

    def __init__(
        self,
        function: Shipped | BaseException,
        items: list[Any],
        result: MapResult,
        number: int,
    ) -> None:
        super().__init__(function, items)
        self.result = result
        self.number = number

    def ended(self, outcomes: list[Any]) -> None:
        """Hand the outcomes over; they end with the first item that raised."""
        self.result._chunk(self.number, outcomes)

    def failed(self, error: BaseException) -> None:
        """The chunk is one error."""
        self.result._chunk(self.number, [Failure(error)])


class IMapIterator(Results):
    """The results of ``imap`` and ``imap_unordered``."""

    def next(self, timeout: float | None = None) -> Any:
        """Return the next result.

        Args:
            timeout: Seconds to wait at most; None waits for ever.

        Raises:
            PoolTimeoutError: it is not there in time; ask again later.
            StopIteration: there are no more.
        """
        try:
            return super().next(timeout)
        except NotThereError:
            late = PoolTimeoutError(f"the next result is not there after {timeout} s")
            raise lowlevel.explained(late, is_patient=bool(timeout)) from None
