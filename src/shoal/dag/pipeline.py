"""What is in flight in a compiled graph: which executions were read, and who took what. Pure.

::

    begun --------> read --------> gone
      number        values here    every output was taken, or its ref was dropped

Results come in the order of the executions, and are read in that order; those that somebody asks
for later wait here. An execution counts as in flight until all of its outputs were taken or
dropped, and it was read: until then it stands in a channel.

Invariants:

1. The executions that are not read have the numbers ``next_read`` ... ``begun - 1``.
2. An output is given once.
3. ``drop`` is called by destructors, at any moment and in any thread: it only notes.
4. One thread begins executions and one reads, at a time; any may take. What two of them could
   change of the same execution is changed under ``_lock``.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

from shoal import errors


class Pipeline:
    """The executions of one compiled graph."""

    def __init__(self, n_outputs: int, most: int) -> None:
        self._everything = (1 << n_outputs) - 1
        self._most = most
        self.begun = 0
        self.next_read = 0
        self._wanted: dict[int, int] = {}
        """Of each execution that is in flight: outputs that were neither taken nor dropped."""
        self._values: dict[int, Any] = {}
        """What was read and is wanted."""
        self._dropped: deque[tuple[int, int]] = deque()
        self._lock = threading.Lock()
        self.drop = self._dropped.append
        """Note that nobody wants ``(execution, bits of outputs)`` any more."""

    @property
    def in_flight(self) -> int:
        """How many executions count."""
        self._sweep()
        return len(self._wanted)

    def has_room(self) -> bool:
        """Whether one more may begin; executions that nobody wants any more do not count."""
        if len(self._wanted) < self._most:
            return True
        self._sweep()
        return len(self._wanted) < self._most

    def begin(self) -> int:
        """The number of a new execution."""
        number = self.begun
        self._wanted[number] = self._everything
        self.begun = number + 1
        return number

    def is_next_unwanted(self) -> bool:
        """Whether there is an execution that was not read and is only in the way."""
        self._sweep()
        return self._wanted.get(self.next_read) == 0

    def has_read(self, values: Any) -> None:
        """The results of the next execution are ``values``."""
        number = self.next_read
        self._sweep()
        with self._lock:
            if self._wanted[number]:
                self._values[number] = values
            else:
                del self._wanted[number]
            self.next_read = number + 1

    def is_read(self, number: int) -> bool:
        """Whether the results of an execution have come."""
        return number < self.next_read

    def take(self, number: int, bits: int) -> Any:
        """Give outputs of an execution that was read; its results.

        Raises:
            GraphError: they were taken.
        """
        with self._lock:
            wanted = self._wanted.get(number, 0)
            if wanted & bits != bits:
                raise taken_twice()
            values = self._values[number]
            self._settle(number, wanted & ~bits)
        return values

    def has_passed(self, number: int) -> None:
        """The next execution, with one output, was read and is taken at once."""
        self.next_read = number + 1
        del self._wanted[number]

    def forget(self) -> None:
        """Let go of all values: nobody will take any."""
        with self._lock:
            self._values.clear()

    def _sweep(self) -> None:
        """Take note of what was dropped."""
        if self._dropped:
            with self._lock:
                while self._dropped:
                    number, bits = self._dropped.popleft()
                    wanted = self._wanted.get(number)
                    if wanted is not None:
                        self._settle(number, wanted & ~bits)

    def _settle(self, number: int, wanted: int) -> None:
        if wanted or number >= self.next_read:
            self._wanted[number] = wanted
        else:
            del self._wanted[number]
            self._values.pop(number, None)

    def validate(self) -> None:
        """Assert the invariants."""
        for number in range(self.next_read, self.begun):
            assert number in self._wanted, number
        for number in self._values:
            assert number < self.next_read and self._wanted[number], number


def taken_twice() -> errors.GraphError:
    """The error for a second ``get``."""
    return errors.GraphError(
        "this result was taken already: a result of a compiled graph can be taken once. What to"
        " do: keep the value that the first get returned"
    )
