"""Telling event loops, futures and iterators that refs are ready: one thread per process.

A futex can not be polled by an event loop. So one thread, started at the first ``await``, sleeps in
``Memory.completions`` and hands what came out, in batches, to *sinks*::

    LoopSink       one call_soon_threadsafe per batch and loop        await ref
    FutureSink     sets concurrent futures in this thread             ref.future()
    QueueSink      one put per batch                                  as_completed
    Arrivals       the same, with things of a library's own           shoal.lowlevel.Arrivals

Invariants:

1. A ref is watched at most once at a time per process, however many wait for it (``_waiting`` by
   key).
2. Whoever waits holds the ref, so its key stays valid.
3. When the session ends every waiter is told (``deliver`` with the error).
"""

from __future__ import annotations

import asyncio
import queue
import threading
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, InvalidStateError
from typing import Any, Protocol, TypeVar

from shoal import errors
from shoal._base import clock
from shoal._native import Memory, ObjectRef
from shoal._runtime import objects, streams
from shoal._runtime import session as sessions
from shoal._runtime.session import NATIVE_ERRORS

R = TypeVar("R")


class Sink(Protocol):
    """Where completions go; called in the thread of completions."""

    def deliver(self, items: list[Any]) -> None:
        """These are ready now (or the session has ended; loading them says so)."""


class Completions:
    """The watched refs of one memory."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._waiting: dict[int, list[tuple[Sink, Any]]] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, ref: ObjectRef, sink: Sink, item: Any) -> bool:
        """Have ``item`` delivered to ``sink`` once ``ref`` is ready; False if it is ready now."""
        key = ref.key
        with self._lock:
            waiting = self._waiting.get(key)
            if waiting is not None:
                waiting.append((sink, item))
                return True
            self._waiting[key] = [(sink, item)]
        try:
            is_watched = self._memory.watch(ref, key) and not self._memory.is_closed
        except NATIVE_ERRORS:  # closed: loading says so
            is_watched = False
        if is_watched:
            if self._thread is None:
                self._start()
            return True
        with self._lock:
            waiting = self._waiting.pop(key, [])
        others = [entry for entry in waiting if entry[1] is not item]
        self._deliver(others)
        return False

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="shoal-completions", daemon=True
                )
                self._thread.start()

    def _run(self) -> None:
        try:
            while True:
                keys = self._memory.completions(None)
                with self._lock:
                    ready = [self._waiting.pop(key, ()) for key in keys]
                self._deliver([entry for entries in ready for entry in entries])
                ready.clear()  # what is delivered must not stay until the next one comes
        except NATIVE_ERRORS:
            pass
        with self._lock:
            left = list(self._waiting.values())
            self._waiting.clear()
        self._deliver([entry for entries in left for entry in entries])

    @staticmethod
    def _deliver(entries: list[tuple[Sink, Any]]) -> None:
        batches: dict[Sink, list[Any]] = {}
        for sink, item in entries:
            batches.setdefault(sink, []).append(item)
        for sink, items in batches.items():
            sink.deliver(items)


_completions: dict[int, tuple[Memory, Completions]] = {}


def completions_of(memory: Memory) -> Completions:
    """The one ``Completions`` of ``memory``."""
    found = _completions.get(id(memory))
    if found is None or found[0] is not memory:
        for key, (known, _) in list(_completions.items()):
            if known.is_closed:
                del _completions[key]
        found = _completions.setdefault(id(memory), (memory, Completions(memory)))
    return found[1]


# ---- asyncio ------------------------------------------------------------------------------------


class LoopSink:
    """One event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)

    def deliver(self, items: list[Any]) -> None:
        """Wake the loop once for all of ``items``."""
        loop = self._loop()
        if loop is not None:
            try:
                loop.call_soon_threadsafe(self._resolve, items)
            except RuntimeError:  # the loop is closed: nobody waits any more
                pass

    @staticmethod
    def _resolve(items: list[tuple[asyncio.Future[Any], ObjectRef]]) -> None:
        for future, ref in items:
            if not future.done():
                _set(future, ref)


def _set(future: Any, ref: ObjectRef) -> None:
    try:
        value = objects.get(ref, timeout=0)
    except Exception as error:  # whatever the task raised
        # Without its frames: they have the future, and would keep it, and whatever its callbacks
        # know, until the garbage collector runs.
        future.set_exception(error.with_traceback(None))
    else:
        future.set_result(value)


_sinks: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, LoopSink] = weakref.WeakKeyDictionary()


def _is_sealed(ref: ObjectRef) -> bool:
    try:
        if ref.memory.is_closed:
            raise _closed()
        return ref.is_sealed()
    except NATIVE_ERRORS as error:
        raise sessions.translate(error, ref.memory) from None


def _watch(ref: ObjectRef, sink: Sink, item: Any) -> bool:
    return not _is_sealed(ref) and completions_of(ref.memory).add(ref, sink, item)


def wait_hook(ref: ObjectRef) -> Generator[Any, None, Any]:
    """``ref.__await__``: the value, in any asyncio loop."""
    if _is_sealed(ref):
        return objects.get(ref, timeout=0)
    loop = asyncio.get_running_loop()
    sink = _sinks.get(loop)
    if sink is None:
        sink = _sinks[loop] = LoopSink(loop)
    future: asyncio.Future[Any] = loop.create_future()
    if _watch(ref, sink, (future, ref)):
        try:
            return (yield from future)
        finally:
            del future  # an error has this frame, and the future the error
    return objects.get(ref, timeout=0)


class SealedSink(LoopSink):
    """One event loop that is told that something is there, whatever it is."""

    @staticmethod
    def _resolve(items: list[Any]) -> None:
        for future in items:
            if not future.done():
                future.set_result(None)


def sealed(ref: ObjectRef) -> asyncio.Future[None]:
    """A future of the running loop that is done, without a value, once ``ref`` has one."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    if not _watch(ref, SealedSink(loop), future):
        future.set_result(None)
    return future


def loop_future(ref: ObjectRef[R]) -> asyncio.Future[R]:
    """``ref.as_future()``: a future of the running loop."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[R] = loop.create_future()
    sink = _sinks.get(loop)
    if sink is None:
        sink = _sinks[loop] = LoopSink(loop)
    if not _watch(ref, sink, (future, ref)):
        _set(future, ref)
    return future


# ---- futures ------------------------------------------------------------------------------------


class RefFuture(Future[Any]):
    """A concurrent future whose ``TimeoutError`` says why its ref is not ready."""

    def __init__(self, ref: ObjectRef) -> None:
        super().__init__()
        self._memory = ref.memory
        self._key = ref.key

    def result(self, timeout: float | None = None) -> Any:
        """The value, or raise what the task raised."""
        try:
            return super().result(timeout)
        except TimeoutError:
            self._raise_if_late(timeout)
            raise
        finally:
            del self  # else the frame of an error holds the future that holds the error

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What the task raised; None if it did not."""
        try:
            return super().exception(timeout)
        except TimeoutError:
            self._raise_if_late(timeout)
            raise

    def _raise_if_late(self, timeout: float | None) -> None:
        """A ``TimeoutError`` of a future that is done is the task's own."""
        ref = None if self.done() else self._memory.ref(self._key)
        if ref is not None and not ref.is_sealed():
            raise objects.late([ref], timeout) from None


class FutureSink:
    """All concurrent futures of the process."""

    def deliver(self, items: list[Any]) -> None:
        """Set the futures of ``items``; their callbacks run in this thread."""
        for future, ref in items:
            try:
                _set(future, ref)
            except InvalidStateError:  # cancelled meanwhile
                pass


_future_sink = FutureSink()


def future_hook(ref: ObjectRef) -> Future[Any]:
    """``ref.future()``: a concurrent future of the value."""
    future: Future[Any] = RefFuture(ref)
    if not _watch(ref, _future_sink, (future, ref)):
        _set(future, ref)
    return future


# ---- as_completed -------------------------------------------------------------------------------


class QueueSink:
    """One iterator."""

    def __init__(self) -> None:
        self.ready: queue.SimpleQueue[list[ObjectRef]] = queue.SimpleQueue()

    def deliver(self, items: list[Any]) -> None:
        """Hand ``items`` over."""
        self.ready.put(items)


class Arrivals:
    """The mailbox of one thread of a library: things that come when refs are ready, in batches.

    Whoever waits for many refs, and for words of other threads between them, waits here once.

    Example:
        >>> inbox = shoal.lowlevel.Arrivals()
        >>> inbox.add(shoal.put(1), "the value of one is ready")
        >>> inbox.put("a word of another thread")
        >>> inbox.take() + inbox.take()
        ['the value of one is ready', 'a word of another thread']
    """

    def __init__(self) -> None:
        self._batches: queue.SimpleQueue[list[Any]] = queue.SimpleQueue()

    def add(self, ref: ObjectRef[Any], thing: Any) -> None:
        """Have ``thing`` come when ``ref`` has a value or an error, or its session has ended.

        ``ref`` must live until then.

        Raises:
            SessionEndedError: its session has ended already.
        """
        if not _watch(ref, self, thing):
            self.put(thing)

    def put(self, thing: Any) -> None:
        """Have ``thing`` come now."""
        self._batches.put([thing])

    def take(self, timeout: float | None = None) -> list[Any]:
        """Return what has come, the oldest first; wait for something if there is nothing.

        Args:
            timeout: Seconds to wait at most; then the list is empty. None waits for ever.
        """
        try:
            things = list(self._batches.get(timeout=timeout))
            while not self._batches.empty():
                things += self._batches.get_nowait()
        except queue.Empty:
            return []
        return things

    def deliver(self, items: list[Any]) -> None:
        """Called with what is ready, in the thread of completions."""
        self._batches.put(items)


def as_completed(
    refs: Iterable[ObjectRef[R]], *, timeout: float | None = None
) -> Iterator[ObjectRef[R]]:
    """Yield refs in the order in which they become ready, at the same cost for any number.

    Args:
        refs: Refs.
        timeout: Seconds for all of them together; None waits for ever.

    Raises:
        GetTimeoutError: they are not all ready in time.
        NotARefError: something in ``refs`` is no ref.

    Example:
        >>> for ref in shoal.as_completed([shoal.put("a")]):
        ...     print(shoal.get(ref))
        a
    """
    refs = list(refs)
    for i, ref in enumerate(refs):
        if type(ref) is not ObjectRef:
            raise objects.not_a_ref("as_completed", ref, f"item {i}")
    return _as_completed(refs, timeout)


def _as_completed(refs: list[ObjectRef[R]], timeout: float | None) -> Iterator[ObjectRef[R]]:
    if not refs:
        return
    deadline = None if timeout is None else clock.now() + timeout
    memory = refs[0].memory
    sink = QueueSink()
    done = []
    pending = 0
    late = _late(memory, timeout, refs)
    for ref in refs:
        if not _watch(ref, sink, ref):
            done.append(ref)
        else:
            pending += 1
    del refs, ref
    yield from done
    del done
    while pending:
        for ref in _next_batch(memory, sink, deadline, late):
            pending -= 1
            yield ref


def _late(
    memory: Memory, timeout: float | None, refs: list[ObjectRef]
) -> Callable[[], errors.GetTimeoutError]:
    """Makes the error for what is not ready in time, without holding any ref meanwhile."""
    keys = [] if timeout is None else [ref.key for ref in refs]

    def make() -> errors.GetTimeoutError:
        left = memory.unsealed(keys)
        error = errors.GetTimeoutError(timeout_s=timeout, pending=len(left))
        refs = [ref for key in left[:1] if (ref := memory.ref(key)) is not None]
        return streams.explained(error, refs)

    return make


def _next_batch(
    memory: Memory,
    sink: QueueSink,
    deadline: float | None,
    late: Callable[[], errors.GetTimeoutError],
) -> list[ObjectRef]:
    left = None if deadline is None else max(0.0, deadline - clock.now())
    is_worker = memory.running != 0
    if is_worker:
        memory.set_blocked(True)
    try:
        batch = sink.ready.get(timeout=left)
    except queue.Empty:
        raise late() from None
    finally:
        if is_worker:
            memory.set_blocked(False)
    if memory.is_closed:
        session = sessions.translate(_closed(), memory)
        raise session
    return batch


def _closed() -> BaseException:
    return NATIVE_ERRORS[0]()
