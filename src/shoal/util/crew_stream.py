"""Results of a crew over a long input: read ahead a little, given as they come.

``imap`` of pools and ``map`` of executors. The input is read by a thread of its own, since reading
may take long or wait for results; it pauses when ``Crew.window`` chunks are given and not taken.
Lists, tuples and ranges need no thread: who takes results gives what may be given.

Nobody has to take the results: an iterator that was dropped before its first result, or whose pool
is joined, is read to the end. One that was dropped in the middle is not wanted any more: reading
stops, and what waits is not done.

Invariants:

1. Each result is given once; an item that raised raises in its place, and the others still come.
2. What the input raises is raised after all results of what it gave.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from shoal import lowlevel
from shoal._base import clock
from shoal.util.crew import Crew, Failure, Job
from shoal.util.crew_member import Raised, Shipped


class NotThereError(TimeoutError):
    """The next result is not there in time; unlike a TimeoutError that an item raised."""


class _Chunk(Job):
    """One job of a stream."""

    goes_on = True

    def __init__(self, stream: Stream, number: int, items: list[Any]) -> None:
        super().__init__(stream.function, items)
        self.how = stream.how
        self.stream = stream
        self.number = number

    def begins(self) -> bool:
        """Whether anybody still wants it."""
        return not self.stream.is_unwanted

    def ended(self, outcomes: list[Any]) -> None:
        """Hand them over."""
        self.stream.deliver(self.number, outcomes)

    def failed(self, error: BaseException) -> None:
        """Every item of it raises ``error``."""
        self.stream.deliver(self.number, [Failure(error)] * len(self.items))


class Stream:
    """What the reader, the crew and whoever takes results share."""

    def __init__(
        self, crew: Crew, function: Shipped | BaseException, how: int, is_ordered: bool
    ) -> None:
        self.function = function
        self.how = how
        self.is_unwanted = False
        self._crew = crew
        self._is_ordered = is_ordered
        self._changed = threading.Condition()
        self._arrived: dict[int, list[Any]] = {}
        """By number, where the order counts."""
        self._ready: deque[Any] = deque()
        self._given = 0
        self._delivered = 0
        """Chunks, in order or not, that went to ``_ready``."""
        self._taken = 0
        """Chunks of which all was taken, about: counted where their first item is."""
        self._is_unlimited = False
        self._slices: Iterator[Any] | None = None
        """What is left of an input that is read by who takes."""
        self._giving = threading.RLock()
        self._error: BaseException | None = None
        """What reading raised."""
        self._is_read = False

    # ---- the reader
    def read(self, items: Iterable[Any], chunksize: int) -> None:
        """Give the crew everything there is in ``items``."""
        error: BaseException | None = None
        self._crew.feed(1)
        try:
            try:
                source = iter(items)
                while chunk := list(itertools.islice(source, chunksize)):
                    if not self._may_give():
                        break
                    if self._crew.broken is not None:
                        error = self._crew.broken
                        break
                    number = self._given
                    self._given += 1
                    self._crew.submit(_Chunk(self, number, chunk))
            except Exception as raised:  # whatever the user's iterator raises goes to who takes
                error = raised
            self._end_reading(error)
        finally:
            self._crew.feed(-1)

    def read_aside(self, items: Iterable[Any], chunksize: int) -> None:
        """The same in a thread; without one where reading neither waits nor runs anybody's code."""
        if type(items) in (list, tuple, range):
            self._slices = (
                items[start : start + chunksize]  # type: ignore[index]
                for start in range(0, len(items), chunksize)  # type: ignore[arg-type]
            )
            self._crew.feed(1)
            self._give_slices()
            return
        source = iter(items)
        threading.Thread(
            target=self.read, args=(source, chunksize), name="shoal-crew-reader", daemon=True
        ).start()

    def _give_slices(self) -> None:
        """Give what ``Crew.window`` allows of an input that is read by who takes."""
        with self._giving:
            slices = self._slices
            while slices is not None and (self._is_unlimited or self._has_room()):
                broken = self._crew.broken
                items = None if self.is_unwanted or broken else next(slices, None)
                if items is None:
                    self._slices = slices = None
                    self._end_reading(broken)
                    self._crew.feed(-1)
                else:
                    number = self._given
                    self._given = number + 1
                    self._crew.submit(_Chunk(self, number, items))

    def _has_room(self) -> bool:
        return self._given - self._taken < self._crew.window()

    def _end_reading(self, error: BaseException | None) -> None:
        with self._changed:
            self._error = error
            self._is_read = True
            self._changed.notify_all()

    def _may_give(self) -> bool:
        """Wait for room; False if nobody wants more."""
        if self._has_room():
            return not self.is_unwanted
        with self._changed:
            least = self._given - self._crew.window() // 2
            while self._taken < least and not (self._is_unlimited or self.is_unwanted):
                if self._crew.broken is not None:
                    break
                self._changed.wait()
            return not self.is_unwanted

    def unlimit(self) -> None:
        """Read on to the end, whether results are taken or not."""
        with self._changed:
            self._is_unlimited = True
            self._changed.notify_all()
        self._give_slices()

    def unwant(self) -> None:
        """Nobody takes results any more."""
        with self._changed:
            self.is_unwanted = True
            self._ready.clear()
            self._arrived.clear()
            self._changed.notify_all()
        self._give_slices()

    # ---- the thread of the crew
    def deliver(self, number: int, outcomes: list[Any]) -> None:
        """The outcomes of a chunk are there."""
        with self._changed:
            if self.is_unwanted:
                return
            if not self._is_ordered:
                self._ready.append(outcomes)
                self._delivered += 1
            else:
                self._arrived[number] = outcomes
                while (found := self._arrived.pop(self._delivered, None)) is not None:
                    self._ready.append(found)
                    self._delivered += 1
            self._changed.notify_all()

    # ---- whoever takes
    def take(self, timeout: float | None) -> list[Any] | None:
        """The outcomes of the next chunk; None if there are no more.

        Raises:
            NotThereError: there is none in time.
        """
        if self._slices is not None and (
            self._given - self._taken <= self._crew.window() // 2 or self._crew.broken is not None
        ):
            self._give_slices()
        with self._changed:
            if not self._ready and not self._wait(timeout):
                return None
            self._taken += 1
            if self._given - self._taken <= self._crew.window() // 2:
                self._changed.notify_all()
            outcomes: list[Any] = self._ready.popleft()
            return outcomes

    def _wait(self, timeout: float | None) -> bool:
        """Wait, with the lock, until something is ready; False if there is no more."""
        deadline = None if timeout is None else clock.now() + timeout
        with lowlevel.waiting():
            while not self._ready:
                if self._is_read and self._delivered == self._given:
                    if self._error is None:
                        return False
                    error, self._error = self._error, None
                    raise error
                left = None if deadline is None else deadline - clock.now()
                if left is not None and left <= 0:
                    raise NotThereError
                self._changed.wait(left)
        return True


class Results(Iterator[Any]):
    """The results of a stream, one by one.

    An iterator that is dropped in the middle takes back what has not begun.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._chunk: list[Any] = []
        self._has_begun = False

    def __iter__(self) -> Results:
        return self

    def __next__(self) -> Any:
        return self._pop() if self._chunk else self.next()

    def next(self, timeout: float | None = None) -> Any:
        """Return the next result.

        Args:
            timeout: Seconds to wait at most; None waits for ever.

        Raises:
            NotThereError: it is not there in time; ask again later.
            StopIteration: there are no more.
        """
        self._has_begun = True
        while not self._chunk:
            chunk = self._stream.take(timeout)
            if chunk is None:
                raise StopIteration
            chunk.reverse()
            self._chunk = chunk
        return self._pop()

    def _pop(self) -> Any:
        outcome = self._chunk.pop()
        if type(outcome) is Raised or type(outcome) is Failure:
            raise outcome.error()
        return outcome

    def __del__(self) -> None:
        stream = self.__dict__.get("_stream")
        if stream is not None:
            if self._has_begun:
                stream.unwant()
            else:
                stream.unlimit()
