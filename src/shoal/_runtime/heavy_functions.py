"""Functions that take much memory wait until there is enough: the worker's side.

The node daemon learns what functions need. Of those that need much it tells the workers
(``HeavyFunctions``); from then on what stands in the table of callables is a wrapper that asks
(``AdmitMemory``) before it runs the function. No other call is any slower for that.

1. Who waits has lent its CPU.
2. Admission ends with the function, a generator's with its last item, or with the process.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable
from typing import Any

from shoal import errors
from shoal._proto import messages
from shoal._runtime import context
from shoal._runtime.session import Session


def take_news(session: Session, functions: list[int]) -> None:
    """From now on these have to be admitted. In the session thread."""
    session.heavy.update(functions)
    for key in functions:
        # Whoever needs it finds the wrapper in ``functions.load``.
        session.functions.pop(key, None)
    with contextlib.suppress(errors.SessionLostError):  # its reader hears of that too
        session.tell(messages.HeavyHeard())


def wrapped(session: Session, key: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, which waits until it is admitted."""
    if inspect.isclass(function):  # an actor's: it is no task
        return function
    if inspect.iscoroutinefunction(function):

        async def run_coroutine(*args: Any, **kwargs: Any) -> Any:
            admission = _Admission(session, key)
            try:
                return admission.keep(await function(*args, **kwargs))
            finally:
                admission.end()

        run: Callable[..., Any] = run_coroutine
    elif inspect.isasyncgenfunction(function):

        async def run_async_generator(*args: Any, **kwargs: Any) -> Any:
            admission = _Admission(session, key)
            try:
                async for item in function(*args, **kwargs):
                    yield item
                admission.keep(None)
            finally:
                admission.end()

        run = run_async_generator
    elif inspect.isgeneratorfunction(function):

        def run_generator(*args: Any, **kwargs: Any) -> Any:
            admission = _Admission(session, key)
            try:
                return admission.keep((yield from function(*args, **kwargs)))
            finally:
                admission.end()

        run = run_generator
    else:

        def run_plain(*args: Any, **kwargs: Any) -> Any:
            admission = _Admission(session, key)
            try:
                return admission.keep(function(*args, **kwargs))
            finally:
                admission.end()

        run = run_plain
    return functools.wraps(function)(run)


class _Admission:
    """One run of a heavy function, from when it may begin. No context manager: nothing but user
    code and this file may stand between ``Executor.run`` and what a cancel interrupts."""

    __slots__ = ("_is_well", "_key", "_session")

    def __init__(self, session: Session, key: int) -> None:
        self._session, self._key, self._is_well = session, key, False
        memory = session.memory
        lends = memory.running != 0
        if lends:
            memory.set_blocked(True)
        try:
            task = context.running.get()
            attempt = 1 if task is None else task.attempt
            session.request(messages.AdmitMemory(key, attempt), messages.Done)
        finally:
            if lends:
                memory.set_blocked(False)

    def keep(self, value: Any) -> Any:
        """The function has returned ``value``."""
        self._is_well = True
        return value

    def end(self) -> None:
        """It is over, well or not."""
        self._session.tell(messages.ReleaseMemory(self._key, self._is_well))
