"""``shoal.map``: a function over many items, in chunks that are as large as they should be.

A task costs a few microseconds; a call of a tiny function costs a tenth of one. So items travel in
chunks, and their size is learned: the first are small, and each answer tells how long its items
took, until a chunk takes ``CHUNK_S``. Towards the end chunks shrink again, so that all workers
finish together.
"""

from __future__ import annotations

import builtins
import itertools
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, TypeVar

from shoal import errors
from shoal._base import clock
from shoal._runtime import objects
from shoal._runtime import session as sessions
from shoal._runtime.remote import RemoteFunction

T = TypeVar("T")
R = TypeVar("R")

CHUNK_S = 0.02
MOST_ITEMS = 20_000
GROWTH = 8
CHUNKS_PER_CPU = 3


class ChunkOf:
    """Applies a function to a list of items, and says how long that took."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function
        self.__qualname__ = f"map({getattr(function, '__qualname__', 'function')})"

    def __call__(self, start: int, items: list[Any]) -> tuple[float, list[Any]]:
        """Run the chunk whose first item has number ``start``."""
        function = self.function
        results: list[Any] = []
        began = clock.now()
        try:
            results.extend(builtins.map(function, items))  # up to where it raised, if it did
        except Exception as error:  # whatever user code raises: say at which item
            error.add_note(f"in item {start + len(results)} of map")
            raise
        return clock.now() - began, results


def map(
    function: Callable[[T], R] | RemoteFunction[[T], R],
    items: Iterable[T],
    *,
    chunk: int | None = None,
    ordered: bool = True,
    progress: bool = False,
) -> Iterator[R]:
    """Apply ``function`` to each item in parallel, and yield the results as they come.

    Args:
        function: Any function, or a remote one (then with its options).
        items: Any iterable; it is read as far ahead as workers can use.
        chunk: Items per task; None finds it out.
        ordered: Results in the order of ``items``; False: as they get ready.
        progress: Show a bar on stderr.

    Raises:
        TaskError: ``function`` raised; a note names the item.

    Example:
        >>> list(shoal.map(abs, [-1, 2, -3]))
        [1, 2, 3]
    """
    if chunk is not None and (type(chunk) is not int or chunk < 1):
        raise errors.OptionError(f"chunk must be an integer >= 1 or None, not {chunk!r}")
    if not callable(function):
        raise TypeError(f"map needs a function, not a {type(function).__name__}")
    total = len(items) if isinstance(items, Sized) else None
    bar = _Bar(total) if progress else None
    run = _Map(_remote_chunk(function), iter(items), total, chunk)
    run.submit_more()
    return itertools.chain.from_iterable(run.results(ordered, bar))


def _remote_chunk(function: Any) -> RemoteFunction[..., Any]:
    if not isinstance(function, RemoteFunction):
        return RemoteFunction(ChunkOf(function), {})
    found = function.__dict__.get("_chunked")
    if found is None:
        given = {k: v for k, v in function._given.items() if k != "num_returns"}
        found = RemoteFunction(ChunkOf(function._definition.value), given)
        function.__dict__["_chunked"] = found
    chunked: RemoteFunction[..., Any] = found
    return chunked


class _Map:
    """One running map: chunks on their way, and the size of the next one."""

    def __init__(
        self,
        remote: RemoteFunction[..., Any],
        items: Iterator[Any],
        total: int | None,
        chunk: int | None,
    ) -> None:
        self._submit = remote.remote
        self._items = items
        self._total = total
        self._fixed = chunk
        self._size = chunk or 1
        self._sent = 0
        self._cpus = max(1, int(sessions.current().total.get("CPU", 1)))
        self._flying: deque[Any] = deque()
        self._is_done = False

    def submit_more(self) -> None:
        """Keep every CPU busy with a few chunks ahead."""
        while not self._is_done and len(self._flying) < CHUNKS_PER_CPU * self._cpus:
            items = list(itertools.islice(self._items, self._next_size()))
            if not items:
                self._is_done = True
                return
            self._flying.append(self._submit(self._sent, items))
            self._sent += len(items)

    def _next_size(self) -> int:
        if self._fixed is not None or self._total is None:
            return self._size
        share = (self._total - self._sent) // (CHUNKS_PER_CPU * self._cpus)
        return max(1, min(self._size, share))

    def learn(self, took_s: float, n: int) -> None:
        """Choose the next size from what a chunk of ``n`` items took."""
        if self._fixed is None:
            wanted = int(n * CHUNK_S / took_s) if took_s > 0 else MOST_ITEMS
            self._size = max(1, min(wanted, self._size * GROWTH, MOST_ITEMS))

    def results(self, ordered: bool, bar: _Bar | None) -> Iterator[list[Any]]:
        """Yield the results of a chunk after the other, submitting more as room is made."""
        try:
            while self._flying:
                ref = self._flying.popleft() if ordered else self._next_ready()
                took_s, values = objects.get(ref)
                del ref
                self.learn(took_s, len(values))
                self.submit_more()
                if bar is not None:
                    bar.advance(len(values))
                yield values
        finally:
            self._flying.clear()
            if bar is not None:
                bar.end()

    def _next_ready(self) -> Any:
        ready, rest = objects.wait(list(self._flying), num_returns=1)
        self._flying = deque(rest)
        return ready[0]


class _Bar:
    """A progress bar on stderr, drawn at most ten times a second."""

    WIDTH = 30

    def __init__(self, total: int | None) -> None:
        self._total = total
        self._done = 0
        self._began = clock.now()
        self._drawn = 0.0

    def advance(self, n: int) -> None:
        """Count ``n`` more."""
        self._done += n
        now = clock.now()
        if now - self._drawn >= 0.1:
            self._draw(now)

    def end(self) -> None:
        """Draw the last state and go to the next line."""
        self._draw(clock.now())
        sys.stderr.write("\n")
        sys.stderr.flush()

    def _draw(self, now: float) -> None:
        self._drawn = now
        rate = self._done / max(now - self._began, 1e-9)
        text = f"{self._done:,}"
        if self._total:
            filled = min(self.WIDTH, self.WIDTH * self._done // self._total)
            share = f"{100 * self._done // self._total:3d} %"
            text = f"[{'#' * filled:{self.WIDTH}}] {share} {text}/{self._total:,}"
        sys.stderr.write(f"\r{text}  {rate:,.0f}/s  {now - self._began:.1f} s ")
        sys.stderr.flush()
