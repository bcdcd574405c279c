"""A pool of actors that share a stream of work: each gets the next item when it is free.

It lives in the process that made it and decides nothing anywhere else. Results come in the order of
the submissions (``get_next``, ``map``) or as they become ready (``get_next_unordered``,
``map_unordered``).

Invariants:

1. An actor works on one item at a time; items wait here while all are busy.
2. Each result is given once: a submission is in ``_waiting``, then in ``_running`` until it is
   taken.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from shoal._runtime import objects

Submit = Callable[[Any, Any], Any]
"""``lambda actor, value: actor.method.remote(value)``."""


class _Running(NamedTuple):
    number: int
    actor: Any


class ActorPool:
    """Actors that share a stream of work.

    Args:
        actors: Handles of the actors.

    Example:
        >>> @shoal.remote
        ... class Doubler:
        ...     def double(self, x):
        ...         return 2 * x
        >>> pool = shoal.util.ActorPool([Doubler.remote() for _ in range(2)])
        >>> list(pool.map(lambda actor, x: actor.double.remote(x), [1, 2, 3]))
        [2, 4, 6]
    """

    def __init__(self, actors: Iterable[Any]) -> None:
        self._idle = list(actors)
        self._running: dict[Any, _Running] = {}
        """By the ref of the result."""
        self._refs: dict[int, Any] = {}
        """Refs of results that were not taken, by the number of the submission."""
        self._waiting: deque[tuple[Submit, Any]] = deque()
        self._submitted = 0
        self._next = 0

    def submit(self, fn: Submit, value: Any) -> None:
        """Have an actor run ``fn(actor, value)``: now, or as soon as one is free."""
        if not self._idle:
            self._waiting.append((fn, value))
            return
        actor = self._idle.pop()
        ref = fn(actor, value)
        self._running[ref] = _Running(self._submitted, actor)
        self._refs[self._submitted] = ref
        self._submitted += 1

    def map(self, fn: Submit, values: Iterable[Any]) -> Iterator[Any]:
        """Yield the results of ``fn(actor, value)`` in the order of ``values``."""
        self._clear()
        for value in values:
            self.submit(fn, value)
        while self.has_next():
            yield self.get_next()

    def map_unordered(self, fn: Submit, values: Iterable[Any]) -> Iterator[Any]:
        """Yield the results of ``fn(actor, value)`` as they become ready."""
        self._clear()
        for value in values:
            self.submit(fn, value)
        while self.has_next():
            yield self.get_next_unordered()

    def has_next(self) -> bool:
        """Whether there is a result that was not taken."""
        return bool(self._refs or self._waiting)

    def get_next(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """Return the next result, in the order of the submissions.

        Args:
            timeout: Seconds to wait at most; None for ever.
            ignore_if_timedout: Leave a result out that is not there in time.

        Raises:
            StopIteration: there is none.
            TimeoutError: it is not there in time.
        """
        if not self.has_next():
            raise StopIteration("there are no more results")
        while self._next not in self._refs:  # taken out of order
            self._next += 1
        ref = self._refs[self._next]
        is_late = timeout is not None and not objects.wait([ref], timeout=timeout)[0]
        if is_late and not ignore_if_timedout:
            raise TimeoutError(f"the next result is not there after {timeout} s")
        self._take(ref)
        if is_late:
            raise TimeoutError(f"the next result is not there after {timeout} s, and is left out")
        return objects.get(ref)

    def get_next_unordered(
        self, timeout: float | None = None, ignore_if_timedout: bool = False
    ) -> Any:
        """Return any result that is ready; arguments and errors as those of ``get_next``."""
        if not self.has_next():
            raise StopIteration("there are no more results")
        ready, _ = objects.wait(list(self._running), timeout=timeout)
        if not ready:
            raise TimeoutError(f"no result is there after {timeout} s")
        self._take(ready[0])
        return objects.get(ready[0])

    def has_free(self) -> bool:
        """Whether an actor has nothing to do."""
        return bool(self._idle) and not self._waiting

    def pop_idle(self) -> Any:
        """Take an actor out of the pool that has nothing to do; None if all are busy."""
        return self._idle.pop() if self.has_free() else None

    def push(self, actor: Any) -> None:
        """Add an actor.

        Raises:
            ValueError: it is in the pool already.
        """
        if actor in self._idle or any(actor == row.actor for row in self._running.values()):
            raise ValueError("this actor is in the pool already")
        self._free(actor)

    def _take(self, ref: Any) -> None:
        """The result of ``ref`` is given: its actor is free for the next item."""
        row = self._running.pop(ref)
        del self._refs[row.number]
        self._free(row.actor)

    def _free(self, actor: Any) -> None:
        self._idle.append(actor)
        if self._waiting:
            self.submit(*self._waiting.popleft())

    def _clear(self) -> None:
        """Results that nobody took are in the way of a new ``map``: let them go."""
        while self.has_next():
            self._take(objects.wait(list(self._running))[0][0])
