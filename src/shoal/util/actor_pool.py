"""A pool of actors that share a stream of work: each gets the next item when it is free.

It lives in the process that made it and decides nothing anywhere else. Results come in the order of
the submissions (``get_next``, ``map``) or as they become ready (``get_next_unordered``,
``map_unordered``).

Invariants:

1. An actor works on one item at a time; items wait here while all are busy.
2. Each result is given once: a submission is in ``_waiting``, then in ``_running`` (or ``_failed``)
   until it is taken.
3. An actor that has died leaves the pool with the item that it had. When none is left, items that
   wait are taken as errors, or go on with the next actor that is pushed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from shoal import errors
from shoal._native import ObjectRef
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
        self._failed: dict[int, Exception] = {}
        """Items that waited and then could not be submitted."""
        self._waiting: deque[tuple[Submit, Any]] = deque()
        self._submitted = 0
        self._next = 0

    def submit(self, fn: Submit, value: Any) -> None:
        """Have an actor run ``fn(actor, value)``: now, or as soon as one is free.

        Raises:
            SerializationError: the value can not travel; found when it is its turn.
            TypeError: ``fn`` returned no ref.
        """
        if not self._idle:
            self._waiting.append((fn, value))
            return
        actor = self._idle.pop()
        try:
            self._start(actor, fn, value)
        except BaseException:
            self._idle.append(actor)
            raise

    def _start(self, actor: Any, fn: Submit, value: Any) -> None:
        ref = fn(actor, value)
        if type(ref) is not ObjectRef:
            raise objects.not_a_ref("ActorPool", ref, "what the function returned")
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
        return bool(self._refs or self._failed or self._waiting)

    def get_next(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """Return the next result, in the order of the submissions.

        Args:
            timeout: Seconds to wait at most; None for ever.
            ignore_if_timedout: Leave a result out that is not there in time.

        Raises:
            StopIteration: there is none.
            TimeoutError: it is not there in time.
            ActorDiedError: the actor of this item died, or all have.
        """
        self._check_next()
        while self._next not in self._refs:  # taken out of order, or failed
            if self._next in self._failed:
                raise self._failed.pop(self._next)
            self._next += 1
        ref = self._refs[self._next]
        if timeout is not None and not objects.wait([ref], timeout=timeout)[0]:
            if not ignore_if_timedout:
                raise objects.late(
                    [ref], timeout, f"the next result is not there after {timeout} s"
                )
            self._take(ref)
            text = f"the next result is not there after {timeout} s, and is left out"
            raise objects.late([ref], timeout, text)
        return self._value(ref)

    def get_next_unordered(
        self, timeout: float | None = None, ignore_if_timedout: bool = False
    ) -> Any:
        """Return any result that is ready; arguments and errors as those of ``get_next``."""
        self._check_next()
        if self._failed:
            raise self._failed.pop(min(self._failed))
        ready, _ = objects.wait(list(self._running), timeout=timeout)
        if not ready:
            running = list(self._running)
            raise objects.late(running, timeout, f"no result is there after {timeout} s")
        return self._value(ready[0])

    def _check_next(self) -> None:
        if not self.has_next():
            raise StopIteration("there are no more results")
        if not self._refs and not self._failed and not self._idle:
            self._waiting.popleft()
            raise errors.ActorDiedError(
                class_name="of the pool",
                actor_id="all of them",
                reason="none is left, and this item was not begun; push() another one",
            )

    def _value(self, ref: Any) -> Any:
        """Wait for the result of ``ref``, and have its actor go on."""
        objects.wait([ref])
        row = self._forget(ref)
        try:
            value = objects.get(ref)
        except errors.ActorDiedError as error:
            if error.actor_id != row.actor._actor_id.hex():  # another one's, which the item raised
                self._free(row.actor)
            raise
        except BaseException:
            self._free(row.actor)
            raise
        self._free(row.actor)
        return value

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

    def _forget(self, ref: Any) -> _Running:
        row = self._running.pop(ref)
        del self._refs[row.number]
        return row

    def _take(self, ref: Any) -> None:
        """The result of ``ref`` is given: its actor is free for the next item."""
        self._free(self._forget(ref).actor)

    def _free(self, actor: Any) -> None:
        while self._waiting:
            fn, value = self._waiting.popleft()
            try:
                self._start(actor, fn, value)
            except Exception as error:  # its own result, not that of the item just taken
                self._failed[self._submitted] = error
                self._submitted += 1
            else:
                return
        self._idle.append(actor)

    def _clear(self) -> None:
        """Results that nobody took are in the way of a new ``map``: let them go."""
        self._waiting.clear()
        self._failed.clear()
        while self._running:
            ref = objects.wait(list(self._running))[0][0]
            try:
                self._value(ref)
            except Exception:  # whatever nobody has asked for
                pass
