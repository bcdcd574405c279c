"""The returns of a task that has several: written one after the other, sealed all at once.

A return that is written cannot leave memory before the last one is there and the task commits. So
who finds no room for the next lets go of those that are written and begins again in his turn
(``turns``): what a task returns then needs no more room than what it returns, whoever else returns
something.

A list is written again from the list. What a generator has yielded is gone when it is written: it
is taken back out of node memory into private memory, the generator comes to its end, and all of it
is written as a list is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from shoal import _native
from shoal._runtime import turns

Write = Callable[..., None]
"""Writes return ``index`` of ``task``: an item, with a patience in seconds."""


def items_of(value: Any, n: int) -> list[Any]:
    """The ``n`` returns in what a task returned.

    Raises:
        ValueError: it is no tuple or list, or has another length.
    """
    if not isinstance(value, tuple | list):
        raise ValueError(
            f"num_returns={n}, but the task returned one {type(value).__name__}; return a tuple or"
            f" list of {n} values"
        )
    if len(value) != n:
        raise ValueError(f"num_returns={n}, but the task returned {len(value)} values")
    return list(value)


def write_all(
    memory: _native.Memory, task: _native.Task, items: Sequence[Any], write: Write
) -> None:
    """Write all of ``items``, however often that has to be begun.

    Raises:
        FullError: there was no room in 30 s, or one of them is larger than the store.
    """

    def attempt(patience_s: float) -> None:
        begun = 0
        try:
            for index, item in enumerate(items):
                begun = index + 1
                write(task, index, item, patience_s)
        except _native.FullError:
            task.discard(begun)
            raise

    try:
        attempt(turns.HURRIED_S)
    except _native.FullError as error:
        if not turns.is_for_lack_of_room(error):
            raise
        turns.together(memory, attempt, in_turn_s=turns.PATIENCE_S)


class Yielded:
    """Writes what a generator yields, one value for each return of ``task``."""

    def __init__(self, memory: _native.Memory, task: _native.Task, write: Write) -> None:
        self._memory = memory
        self._task = task
        self._write = write
        self.written = 0
        """So many returns are there, also after an error."""

    def write(self, items: Iterator[Any]) -> bool:
        """False: there are more values than returns.

        Raises:
            ValueError: there are fewer.
            FullError: as ``write_all``.
            Exception: what the generator raised.
        """
        n = self._task.n_returns
        for item in items:
            if self.written == n:
                return False
            try:
                self._one(self._task, self.written, item, turns.HURRIED_S)
            except _native.FullError as error:
                if not turns.is_for_lack_of_room(error):
                    raise
                return self._write_aside(item, items)
        if self.written < n:
            raise self._too_few(self.written)
        return True

    def _write_aside(self, item: Any, items: Iterator[Any]) -> bool:
        """What is written, ``item`` and what is still to come, together."""
        n = self._task.n_returns
        kept: list[Any] = [_Taken(self._task.take_back(i)) for i in range(self.written)]
        kept.append(item)
        problem: Exception | None = None
        is_more = False
        try:
            for later in items:
                if is_more := len(kept) == n:
                    break
                kept.append(later)
        except Exception as error:  # whatever user code raises belongs into the result
            problem = error
        if len(kept) < n and problem is None:
            problem = self._too_few(len(kept))
        self.written = 0
        write_all(self._memory, self._task, kept, self._one)
        if problem is not None:
            raise problem
        return not is_more

    def _one(self, task: _native.Task, index: int, item: Any, patience_s: float) -> None:
        if type(item) is not _Taken:
            self._write(task, index, item, patience_s)
        elif item.parts is not None:
            task.write(index, *item.parts, patience_s)
        self.written = index + 1

    def _too_few(self, count: int) -> ValueError:
        return ValueError(
            f"num_returns={self._task.n_returns}, but the task yielded {count} values"
        )


class _Taken:
    """What ``Task.take_back`` gave; None: it needs no room, and is there."""

    def __init__(self, parts: tuple[int, bytes, list[bytes], list[Any]] | None) -> None:
        self.parts = parts
