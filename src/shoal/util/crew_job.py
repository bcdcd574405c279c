"""What a crew is given and what it says when that can not be done: jobs, and errors of its own.

Invariant: a job is told its end once, by ``ended`` or ``failed``, without any lock of the crew.
"""

from __future__ import annotations

import itertools
import types
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import shoal
from shoal import errors
from shoal.util.crew_member import CALL, MOST_FUNCTIONS, Shipped


class WorkerLostError(errors.WorkerCrashedError, BrokenProcessPool):
    """The process died that did this item; the pool has another one by now.

    It is a ``BrokenProcessPool`` for programs that catch one. Nothing else is broken.
    """

    advice = (
        "read its last lines above; the item may have taken effect in part. Submit it again if it"
        " may run twice."
    )


class BrokenCrewError(errors.LostError, BrokenProcessPool):
    """No process of the pool can start; what waits and what comes fails with this."""

    advice = "repair the initializer (or what it needs), and make a new pool."


class Job:
    """One piece of work: a function and the items that it is called with, one after the other.

    Of a ``CALL`` the items are the arguments of its one call.
    """

    how = CALL
    goes_on = False
    """Whether items after one that raised are done too."""
    named: dict[str, Any] | None = None
    """Arguments by name, of a ``CALL``."""

    def __init__(self, function: Shipped | BaseException, items: Any) -> None:
        self.function = function
        self.items = items

    def begins(self) -> bool:
        """It is dealt now; False if nobody wants it any more."""
        return True

    def ended(self, outcomes: list[Any]) -> None:
        """Its outcomes are there: a value or a ``Raised`` each, up to the one that stopped it."""

    def failed(self, error: BaseException) -> None:
        """None of its outcomes will come."""

    def cancel(self) -> None:
        """Nobody wants it; it has not begun, and will not."""
        self.failed(errors.TaskCancelledError("it was cancelled before it had begun"))


class Failure:
    """An item whose outcome will not come, where outcomes stand in a list."""

    __slots__ = ("_error",)

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def error(self) -> BaseException:
        """Why."""
        return self._error


def worker_lost(error: errors.ActorError) -> WorkerLostError:
    """What an item raises whose process has died."""
    facts = {name: getattr(error, name) for name in ("pid", "node", "exit_code", "signal")}
    lost = WorkerLostError(task="an item of a pool", stderr=error.stderr, **facts)
    lost.__cause__ = error
    return lost


def broken(error: BaseException) -> BrokenCrewError:
    """What all items of a crew raise none of whose processes can start."""
    why = getattr(error, "cause", None)
    text = f"no process of the pool can start: {error.__class__.__name__}: {error}"
    if why is not None:
        text = f"the initializer of the pool raised {type(why).__name__}: {why}"
    found = BrokenCrewError(text)
    found.__cause__ = why or error
    return found


class Functions:
    """The functions of a crew that are in the store."""

    def __init__(self) -> None:
        self._known: dict[Callable[..., Any], Shipped] = {}
        self._numbers = itertools.count(1)

    def ship(self, function: Callable[..., Any]) -> Shipped | BaseException:
        """Put a function into the store, once; the error if it can not travel."""
        is_known = _is_constant(function)
        found = self._known.get(function) if is_known else None
        if found is not None:
            return found
        try:
            shipped = Shipped(next(self._numbers), shoal.put(function))
        except errors.SerializationError as error:
            return error
        if is_known:
            if len(self._known) >= MOST_FUNCTIONS:
                self._known.clear()
            self._known[function] = shipped
        return shipped

    def clear(self) -> None:
        """Forget them all."""
        self._known.clear()


def _is_constant(function: Any) -> bool:
    """Whether what ``function`` means can not change between two calls of the pool."""
    if isinstance(function, types.FunctionType):
        return function.__closure__ is None
    if isinstance(function, types.BuiltinFunctionType):
        return isinstance(function.__self__, types.ModuleType | None)
    return isinstance(function, type)
