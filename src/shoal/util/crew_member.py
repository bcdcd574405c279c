"""What runs in a process of a crew: the actor that does jobs, and what jobs and outcomes look like.

A call carries plain numbers and the items themselves, so that small ones take the shortest way
that calls have::

    number    the place of the call in the line of this process, with the round that it belongs to
    how       CALL, MAP or STARMAP, and flags
    function  its number; or, as long as the process may not know it, its ``Shipped``; or itself
    items     one by one; where there are many, or refs among them, one list (LISTED)

The answer is the bare value where that is plain; else a list of outcomes, or ``Cut`` of one: the
values, and in the place of a value that was not there the ``Raised`` of its item. So the exception
that the caller sees is the one that was raised, of its own class, and a failed item costs the
others of its job nothing.

Each process has a *place*, a shared block of two words. BEGUN holds the number of the call that
was begun last; who deals takes calls back by raising the round in it. BUSY counts the nanoseconds
spent in jobs.

Invariants:

1. A process runs the initializer once, before anything else.
2. A function is loaded once per process, however many jobs name it. The process forgets those whose
   numbers are ``MOST_FUNCTIONS`` behind the newest it was sent; who deals reckons with that.
3. A call is begun only by the swap that makes its number the one in BEGUN, which fails from the
   moment when its round was taken back.
"""

from __future__ import annotations

import itertools
import pickle
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any

import cloudpickle

import shoal
from shoal import lowlevel
from shoal._base import clock

CALL, MAP, STARMAP = range(3)
"""How items become arguments: all of them those of one call; one item each; all that is in an item
each."""

LISTED = 4
"""A flag: what stands for the items is ``[items, arguments by name or None]``."""

GOES_ON = 8
"""A flag: items after one that raised are done too."""

BEGUN, BUSY = range(2)
PLACE_BYTES = 16

ROUND = 32
"""Calls' numbers have so many bits below their rounds."""

MOST_FUNCTIONS = 64
"""Functions that a process keeps loaded."""

BARE = frozenset({int, float, bool, type(None), str, bytes})
"""Values that are answers by themselves."""


class Shipped:
    """A function that was put into the store once, for all jobs that name it."""

    __slots__ = ("number", "ref")

    def __init__(self, number: int, ref: Any) -> None:
        self.number = number
        self.ref = ref

    def __reduce__(self) -> Any:
        return Shipped, (self.number, self.ref)


class Cut:
    """Outcomes with a ``Raised`` among them."""

    __slots__ = ("outcomes",)

    def __init__(self, outcomes: list[Any]) -> None:
        self.outcomes = outcomes

    def __reduce__(self) -> Any:
        return Cut, (self.outcomes,)


class NotBegun:
    """The answer to a call that was taken back."""

    def __reduce__(self) -> Any:
        return NotBegun, ()


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
        except Exception:  # whatever its reducer or constructor raises
            data = cls._without_constructor(error)
        return cls(data, text)

    @staticmethod
    def _without_constructor(error: Exception) -> bytes:
        """Pickle an exception whose constructor takes other arguments than its ``args``."""
        try:
            data: bytes = cloudpickle.dumps(lowlevel.Bare(error))
            pickle.loads(data)
        except Exception as problem:  # something in it does not travel
            return pickle.dumps(_description(error, problem))
        return data

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

    def __init__(
        self, place: Any, initializer: Callable[..., Any] | None, initargs: tuple[Any, ...]
    ) -> None:
        self._place = place
        self._functions: dict[int, Callable[..., Any]] = {}
        if initializer is not None:
            initializer(*initargs)

    def run(self, number: int, how: int, function: Any, *items: Any) -> Any:
        """Do one job.

        Args:
            number: The place of this call in the line.
            how: How items become arguments.
            function: What is called: its number, its ``Shipped``, or itself.
            items: What it is called with.
        """
        place = self._place
        while True:
            begun = place.load(BEGUN)
            if begun >> ROUND > number >> ROUND:
                return NotBegun()
            # A later one has begun already if calls run side by side.
            if begun >= number or place.compare_swap(BEGUN, begun, number):
                break
        call: Any = self._functions.get(function) if type(function) is int else None
        if call is None:
            if type(function) is int:
                return NotBegun()
            call = self._learn(function)
        named = None
        if how & LISTED:
            items, named = items[0]
        began = clock.now()
        if how & STARMAP or how & MAP:
            answer = _each(call, how, items)
        else:
            try:
                answer = call(*items, **named) if named else call(*items)
                if type(answer) not in BARE:
                    answer = [answer]
            except Exception as error:  # whatever the user's function raises is the outcome
                tb = error.__traceback__
                answer = Cut([Raised.of(error, tb and tb.tb_next)])
        place.add(BUSY, int((clock.now() - began) * 1e9))
        return answer

    def _learn(self, shipped: Any) -> Any:
        if type(shipped) is not Shipped:
            return shipped
        functions = self._functions
        number = shipped.number
        found = functions.get(number)
        if found is None:
            found = functions[number] = shoal.get(shipped.ref)
            for old in [known for known in functions if known <= number - MOST_FUNCTIONS]:
                del functions[old]
        return found


def _each(call: Callable[..., Any], how: int, items: Any) -> Any:
    """Call for each item; the answer."""
    outcomes: list[Any] = []
    source = iter(items)
    results = itertools.starmap(call, source) if how & STARMAP else map(call, source)
    is_cut = False
    while True:
        try:
            outcomes.extend(results)  # keeps what came before one that raises
            if len(outcomes) == len(items):
                break
            raise StopIteration  # the function did: the list took it for the end
        except Exception as error:  # whatever the user's function raises is its item's outcome
            tb = error.__traceback__
            outcomes.append(Raised.of(error, tb and tb.tb_next))
            is_cut = True
            if not how & GOES_ON or len(outcomes) == len(items):
                break
    if is_cut:
        return Cut(outcomes)
    if len(outcomes) == 1 and type(outcomes[0]) in BARE:
        return outcomes[0]
    return outcomes
