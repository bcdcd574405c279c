"""``Pool``: ``multiprocessing.Pool`` on the processes of a session.

The decisions are those of a crew (``shoal.util.crew``); this module gives them the names and the
manners of the standard library. It differs where the standard library would hang or flood:

* a process that dies fails the items that it had begun, and is replaced;
* ``imap`` reads its input only a little ahead of who takes the results;
* an item that raises costs ``imap`` one result, not the rest of the iteration;
* an initializer that raises fails the calls, instead of being tried for ever;
* calls that ``terminate`` ends raise, instead of never returning.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any

import shoal
from shoal import errors
from shoal.util.crew import Crew
from shoal.util.crew_member import MAP, STARMAP
from shoal.util.crew_stream import Stream
from shoal.util.multiprocessing.results import (
    AsyncResult,
    Callback,
    CallJob,
    ChunkJob,
    IMapIterator,
    MapResult,
)

CHUNKS_PER_PROCESS = 4
"""``map`` without a ``chunksize`` makes so many chunks per process."""


class Pool:
    """Processes that share calls, with the methods of ``multiprocessing.Pool``.

    Functions and items may be anything that travels: lambdas and functions of ``__main__`` too.
    Arrays arrive read-only, in the store's memory; copy to change one.

    Args:
        processes: How many; None: the CPUs of the session.
        initializer: Called once in each process, with ``initargs``.
        initargs: Its arguments.
        maxtasksperchild: After so many calls (chunks, for the maps) a process is replaced.
        context: Taken for programs that give it; there is one way to start processes.
        address: The session to join, if none is open (``shoal.init(address)``).
        remote_args: Options of the processes: ``{"num_cpus": 1}`` has each hold a CPU.

    Raises:
        ValueError: ``processes`` or ``maxtasksperchild`` is less than 1.
        OptionError: ``remote_args`` has an unknown or wrong option.

    Example:
        >>> from shoal.util.multiprocessing import Pool
        >>> with Pool(2) as pool:
        ...     pool.map(abs, [-1, 2, -3])
        [1, 2, 3]
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., Any] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: Any = None,
        address: str | None = None,
        remote_args: Mapping[str, Any] | None = None,
    ) -> None:
        if processes is not None and processes < 1:
            raise ValueError(f"processes must be at least 1, not {processes}")
        if maxtasksperchild is not None and (
            not isinstance(maxtasksperchild, int) or maxtasksperchild < 1
        ):
            raise ValueError(f"maxtasksperchild must be a positive int or None: {maxtasksperchild}")
        if initializer is not None and not callable(initializer):
            raise TypeError(f"initializer must be callable, not {initializer!r}")
        if address is not None and not shoal.is_initialized():
            shoal.init(address)
        size = processes or max(1, int(shoal.cluster_resources().get("CPU", 1)))
        self._crew = Crew(size, initializer, tuple(initargs), maxtasksperchild, remote_args)
        self._crew.start()
        self._streams: weakref.WeakSet[Stream] = weakref.WeakSet()

    # ---- calls
    def apply(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] | None = None,
    ) -> Any:
        """Return ``func(*args, **kwds)``, called in one of the processes."""
        crew = self._running()
        result = AsyncResult(None, None)
        crew.run(CallJob(crew.ship(_callable(func)), tuple(args), _named(kwds), result))
        return result.get()

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
    ) -> AsyncResult:
        """As ``apply``, at once.

        Args:
            func: What is called.
            args: Its arguments.
            kwds: Its arguments by name.
            callback: Called with the result, in a thread of this process.
            error_callback: Called with the exception, if there is one.
        """
        crew = self._running()
        result = AsyncResult(callback, error_callback)
        crew.submit(CallJob(crew.ship(_callable(func)), tuple(args), _named(kwds), result))
        return result

    def map(
        self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = None
    ) -> list[Any]:
        """Return the list of ``func(item)``; the first item that raised raises here."""
        return self.map_async(func, iterable, chunksize).get()  # type: ignore[no-any-return]

    def map_async(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
    ) -> MapResult:
        """As ``map``, at once; the callbacks get the list, or the exception."""
        return self._map(MAP, func, iterable, chunksize, (callback, error_callback))

    def starmap(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
    ) -> list[Any]:
        """As ``map`` with items that are the arguments of a call: ``func(*item)``."""
        return self.starmap_async(func, iterable, chunksize).get()  # type: ignore[no-any-return]

    def starmap_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
    ) -> MapResult:
        """As ``starmap``, at once."""
        return self._map(STARMAP, func, iterable, chunksize, (callback, error_callback))

    def imap(
        self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int = 1
    ) -> IMapIterator:
        """Return an iterator of ``func(item)``, in order.

        The input may be endless: it is read, by a thread, a little ahead of who takes the results.
        """
        return self._stream(func, iterable, chunksize, is_ordered=True)

    def imap_unordered(
        self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int = 1
    ) -> IMapIterator:
        """As ``imap``, with the results as they get ready."""
        return self._stream(func, iterable, chunksize, is_ordered=False)

    # ---- the end
    def close(self) -> None:
        """Take no more calls; the processes leave when all are done."""
        self._crew.close()

    def terminate(self) -> None:
        """End the processes at once; calls that are not done raise ``TaskCancelledError``."""
        self._crew.terminate()
        if threading.current_thread() is threading.main_thread():
            self._crew.join()

    def join(self) -> None:
        """Wait until the processes have left; after ``close`` or ``terminate``.

        Raises:
            ValueError: the pool still takes calls.
        """
        if not self._crew.is_closed:
            raise ValueError("the pool is still running: close() or terminate() it before join()")
        for stream in list(self._streams):
            stream.unlimit()
        self._crew.join()

    def __enter__(self) -> Pool:
        self._running()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.terminate()

    def __reduce__(self) -> Any:
        raise errors.NotSupportedError(
            "a pool belongs to the process that made it: make one inside the task instead"
        )

    def __repr__(self) -> str:
        state = "closed" if self._crew.is_closed else "running"
        return f"<shoal pool of {self._crew.size} processes, {state}>"

    # ---- inside
    def _running(self) -> Crew:
        if self._crew.is_closed:
            raise ValueError("the pool is not running: it was closed or terminated")
        return self._crew

    def _map(
        self,
        how: int,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int | None,
        callbacks: tuple[Callback | None, Callback | None],
    ) -> MapResult:
        crew = self._running()
        # Slices of these are values, so nothing is copied here; those of a range are tiny.
        is_sliced = isinstance(iterable, list | tuple | range)
        items: Any = iterable if is_sliced else list(iterable)
        if chunksize is None:
            chunksize = -(-len(items) // (CHUNKS_PER_PROCESS * crew.size))
        chunksize = max(1, chunksize)
        function = crew.ship(_callable(func))
        starts = range(0, len(items), chunksize)
        result = MapResult(len(starts), *callbacks)
        if not starts:
            result._succeed([])
        for number, start in enumerate(starts):
            job = ChunkJob(function, items[start : start + chunksize], result, number)
            job.how = how
            crew.submit(job)
        return result

    def _stream(
        self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int, is_ordered: bool
    ) -> IMapIterator:
        crew = self._running()
        if chunksize < 1:
            raise ValueError(f"chunksize must be at least 1, not {chunksize}")
        stream = Stream(crew, crew.ship(_callable(func)), MAP, is_ordered)
        self._streams.add(stream)
        stream.read_aside(iterable, chunksize)
        return IMapIterator(stream)


def _named(kwds: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return dict(kwds) if kwds else None


def _callable(func: Any) -> Callable[..., Any]:
    if not callable(func):
        raise TypeError(f"a pool calls functions, and this is none: {func!r}")
    return func  # type: ignore[no-any-return]
