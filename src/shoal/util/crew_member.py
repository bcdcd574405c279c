"""What runs in a process of a crew: the actor that does jobs, and what jobs and outcomes look like.

A job is a function and some items. Outcomes travel as a list: the values, and in the place of a
value that was not there the ``Raised`` of its item. So the exception that the caller sees is the
one that was raised, of its own class, and a failed item costs the others of its job nothing.

Invariants:

1. A process runs the initializer once, before anything else.
2. A function is loaded once per process, however many jobs name it.
"""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any

import cloudpickle

import shoal
from shoal._base import clock

CALL, MAP, STARMAP = range(3)
"""How an item becomes arguments: ``(args, kwargs)``; the one argument; all arguments."""

MOST_FUNCTIONS = 64
"""Functions that a process keeps loaded."""


class Shipped:
    """A function that was put into the store once, for all jobs that name it."""

    __slots__ = ("key", "ref")

    def __init__(self, ref: Any) -> None:
        self.ref = ref
        self.key: bytes = ref.binary()

    def __reduce__(self) -> Any:
        return Shipped, (self.ref,)


class RemoteTraceback(Exception):
    """The traceback of another process, as the cause of the exception that was raised there."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return "\n" + self.text


class Raised:
    """What an item raised, in a form that every process can load."""

    __slots__ = ("data", "text")

    def __init__(self, data: bytes, text: str) -> None:
        self.data = data
        self.text = text

    def __reduce__(self) -> Any:
        return Raised, (self.data, self.text)

    @classmethod
    def of(cls, error: Exception, tb: TracebackType | None) -> Raised:
        """Pickle ``error``; one that does not travel is replaced by its description."""
        text = "".join(traceback.format_exception(type(error), error, tb))
        try:
            data = cloudpickle.dumps(error)
            pickle.loads(data)
        except Exception as problem:  # whatever its reducer or constructor raises
            data = pickle.dumps(_description(error, problem))
        return cls(data, text)

    def error(self) -> BaseException:
        """The exception, with the traceback of where it was raised as its cause."""
        try:
            error: BaseException = pickle.loads(self.data)
        except Exception as problem:  # its class is missing here, or objects
            error = shoal.errors.TaskError(f"{self.text}\n(it could not be loaded: {problem!r})")
        error.__cause__ = RemoteTraceback(self.text)
        return error


def _description(error: Exception, problem: Exception) -> Exception:
    name = type(error).__name__
    return shoal.errors.TaskError(f"{name}: {error} ({name} could not be pickled: {problem})")


class CrewMember:
    """One process of a crew."""

    def __init__(self, initializer: Callable[..., Any] | None, initargs: tuple[Any, ...]) -> None:
        self._functions: dict[bytes, Callable[..., Any]] = {}
        if initializer is not None:
            initializer(*initargs)

    def run(
        self, how: int, goes_on: bool, shipped: Shipped, items: list[Any]
    ) -> tuple[float, list[Any]]:
        """Do one job: the seconds it took, and an outcome per item that was done.

        Args:
            how: How items become arguments.
            goes_on: Whether items after one that raised are done too.
            shipped: The function.
            items: What it is called with, one after the other.
        """
        function = self._function(shipped)
        outcomes: list[Any] = []
        began = clock.now()
        for item in items:
            try:
                if how == MAP:
                    outcomes.append(function(item))
                elif how == STARMAP:
                    outcomes.append(function(*item))
                else:
                    outcomes.append(function(*item[0], **item[1]))
            except Exception as error:  # whatever the user's function raises is the item's outcome
                tb = error.__traceback__
                outcomes.append(Raised.of(error, tb and tb.tb_next))
                if not goes_on:
                    break
        return clock.now() - began, outcomes

    def _function(self, shipped: Shipped) -> Callable[..., Any]:
        found = self._functions.get(shipped.key)
        if found is None:
            found = shoal.get(shipped.ref)
            if len(self._functions) >= MOST_FUNCTIONS:
                self._functions.clear()
            self._functions[shipped.key] = found
        return found
