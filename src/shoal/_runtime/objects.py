"""``get``, ``put`` and ``wait``: the short way from the public names to native code.

``get`` of one ref is one Python frame. What is wrong with the arguments is found out only after
native code has refused them, so that right ones pay nothing.

On a running event loop both work, warn once and never help (RULES A-9): a helped task would run on
the loop's stack. Native code helps only in a ``get`` without a timeout, so there ``get`` asks with
one that is never over. Who has not imported asyncio pays one look into a dict, 10 ns.
"""
# A tuple is an iterable too: the first overload of ``get`` that fits is meant.
# mypy: disable-error-code="overload-overlap"

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar, overload

from shoal import errors
from shoal._base import clock
from shoal._native import FullError, ObjectRef
from shoal._runtime import call_sites, serialize, streams, turns
from shoal._runtime import session as sessions
from shoal._runtime.session import NATIVE_ERRORS

PUT_WAIT_S = 0.75
"""How long ``put`` waits for others to free memory before it fails."""

NEVER_OVER_S = 1e9
"""A timeout that is none: 32 years."""

R = TypeVar("R")
A1 = TypeVar("A1")
A2 = TypeVar("A2")
A3 = TypeVar("A3")
A4 = TypeVar("A4")

OWN_GET, OWN_WAIT, OWN_WATCH = "__shoal_get__", "__shoal_wait__", "__shoal_watch__"
"""A library's own result (``shoal.dag``) has methods of these names. Two take a timeout: one gives
the result, perhaps only once, the other waits until it is there. The third has a function called
then, and returns what takes that back."""

_modules = sys.modules
_has_warned = False


@overload
def get(refs: ObjectRef[R], *, timeout: float | None = None) -> R: ...
@overload
def get(refs: tuple[ObjectRef[A1]], *, timeout: float | None = None) -> tuple[A1]: ...
@overload
def get(
    refs: tuple[ObjectRef[A1], ObjectRef[A2]], *, timeout: float | None = None
) -> tuple[A1, A2]: ...
@overload
def get(
    refs: tuple[ObjectRef[A1], ObjectRef[A2], ObjectRef[A3]], *, timeout: float | None = None
) -> tuple[A1, A2, A3]: ...
@overload
def get(
    refs: tuple[ObjectRef[A1], ObjectRef[A2], ObjectRef[A3], ObjectRef[A4]],
    *,
    timeout: float | None = None,
) -> tuple[A1, A2, A3, A4]: ...
@overload
def get(refs: tuple[ObjectRef[R], ...], *, timeout: float | None = None) -> tuple[R, ...]: ...
@overload
def get(refs: Iterable[ObjectRef[R]], *, timeout: float | None = None) -> list[R]: ...
def get(refs: Any, *, timeout: float | None = None) -> Any:
    """Return the value of a ref, or the values of a list (as a list) or tuple (as a tuple) of refs.

    Arrays in values are read-only and shared by all processes of the node; copy to change one.

    Args:
        refs: A ref, or a list or tuple of refs.
        timeout: Seconds to wait at most; None waits for ever, 0 only looks.

    Raises:
        GetTimeoutError: it is not ready in time (a ``TimeoutError``).
        TaskError: the task raised; also an instance of the class of what it raised.
        LostError: a process, an actor, a value or the session was lost.
        NotARefError: ``refs`` is something else.

    Example:
        >>> shoal.get(shoal.put([1, 2]))
        [1, 2]
    """
    try:
        if "asyncio" in _modules and _runs_on_a_loop():
            timeout = _beside_a_loop("get", refs, timeout)
        if type(refs) is ObjectRef:
            return refs.memory.get(refs, timeout)
        if type(refs) is not list:
            take = getattr(type(refs), OWN_GET, None)
            if take is not None:
                return take(refs, timeout)
            if streams.is_generator(refs):
                return refs
            if type(refs) is tuple:
                return tuple(get(list(refs), timeout=timeout))
            refs = _as_list(refs, "get")
        if not refs:
            return []
        until = None if timeout is None else clock.now() + timeout
        return refs[0].memory.get_many(refs, timeout)
    except NATIVE_ERRORS as error:
        if type(error) is FullError and type(refs) is list:
            return _get_in_turn(refs, timeout, until)
        raise sessions.translate(error, _memory_of(refs)) from None
    except (TimeoutError, TypeError, AttributeError) as error:
        if isinstance(error, errors.ShoalError):
            raise
        if type(refs) is list and any(hasattr(type(ref), OWN_GET) for ref in refs):
            return _get_mixed(refs, timeout)
        raise _explain(error, refs, timeout) from None


def _get_in_turn(refs: list[Any], timeout: float | None, until: float | None) -> list[Any]:
    """``get`` of a list that found no room for all its values at once; its time ends ``until``."""
    memory = refs[0].memory

    def load(patience_s: float) -> list[Any]:
        left = None if until is None else max(0.0, until - clock.now())
        found: list[Any] = memory.get_many(refs, left, patience_s)
        return found

    try:
        return turns.together(memory, load, until)
    except NATIVE_ERRORS as error:
        raise sessions.translate(error, memory) from None
    except TimeoutError as error:
        if isinstance(error, errors.ShoalError):
            raise
        raise _explain(error, refs, timeout) from None


def _get_mixed(refs: list[Any], timeout: float | None) -> list[Any]:
    """``get`` of a list in which results stand that libraries have; one deadline for all."""
    if timeout is None:
        return [get(ref) for ref in refs]
    deadline = clock.now() + timeout
    for ref in refs:  # what is taken can not be given back: wait for all of them first
        wait_for = getattr(ref, OWN_WAIT, None)
        if wait_for is not None:
            wait_for(max(0.0, deadline - clock.now()))
        else:
            get(ref, timeout=max(0.0, deadline - clock.now()))
    return [get(ref) for ref in refs]


def _runs_on_a_loop() -> bool:
    """Whether an event loop runs on this thread; asyncio may be half imported."""
    asyncio = _modules.get("_asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None


def _beside_a_loop(what: str, refs: Any, timeout: Any) -> Any:
    """Warn once if this would stop a loop; the timeout to use there."""
    global _has_warned
    listed = refs if type(refs) is list else [refs]
    if timeout == 0 or all(type(ref) is not ObjectRef or ref.is_sealed() for ref in listed):
        return timeout
    if not _has_warned:
        _has_warned = True
        warnings.warn(
            f"shoal.{what} stops the event loop that runs here until the value is ready."
            " What to do: await the ref (or asyncio.gather(*refs)) instead",
            RuntimeWarning,
            stacklevel=3,
        )
    return NEVER_OVER_S if timeout is None else timeout


def _memory_of(refs: Any) -> Any:
    return (refs[0] if type(refs) is list else refs).memory


def _explain(error: Exception, refs: Any, timeout: float | None) -> Exception:
    """The public error for what ``get`` or ``wait`` refused."""
    if type(error) is TimeoutError:
        return late([refs] if type(refs) is ObjectRef else refs, timeout)
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, int | float)):
        return errors.OptionError(f"timeout must be a number of seconds or None, not {timeout!r}")
    for i, ref in enumerate(refs if isinstance(refs, list) else ()):
        if type(ref) is not ObjectRef:
            return not_a_ref("get", ref, f"item {i} of the list")
    return error


def late(refs: list[ObjectRef], timeout: float | None, text: str = "") -> errors.GetTimeoutError:
    """The error for refs that are not ready in time, which says why."""
    pending = sum(not ref.is_sealed() for ref in refs)
    error = errors.GetTimeoutError(text, timeout_s=float(timeout or 0), pending=pending)
    return streams.explained(error, refs)


def not_a_ref(what: str, value: Any, where: str = "the argument") -> errors.NotARefError:
    """The error for something that is no ref, with the likely reason."""
    kind = type(value).__name__
    text = f"{what} needs refs, and {where} is a {kind}: {repr(value)[:80]}."
    if kind in ("RemoteFunction", "ActorMethod", "ActorClass"):
        text += " Did you forget .remote(...)?"
    elif hasattr(type(value), OWN_GET):
        text += f" Results of compiled graphs are for get and wait, not for {what}."
        return errors.NotARefError(text)
    elif kind == "coroutine":
        text += " Did you mean await?"
    elif hasattr(type(value), "__await__"):
        text += " It is awaited."
    else:
        text += (
            " Refs that are passed to a task or method as arguments arrive there already resolved,"
            " as their values; only refs inside lists, dicts and objects stay refs."
        )
    return errors.NotARefError(text)


def _as_list(refs: Any, what: str) -> list[Any]:
    is_one = isinstance(refs, str | bytes | dict | streams.ObjectRefGenerator)
    if is_one or not isinstance(refs, Iterable):
        raise not_a_ref(what, refs)
    if not isinstance(refs, Sequence | set | frozenset) and not hasattr(refs, "__next__"):
        raise not_a_ref(what, refs)
    return list(refs)


def put(value: R) -> ObjectRef[R]:
    """Store a value once and return a ref to it.

    Raises:
        TypeError: ``value`` is a ref already.
        SerializationError: it can not be pickled; names the path to what can not.
        ObjectStoreFullError: there is no room for it.

    Example:
        >>> ref = shoal.put({"a": 1})
    """
    if type(value) is ObjectRef:
        raise TypeError(
            "put of a ref: it is in the store already; put a list that holds it instead"
        )
    session = sessions.current()
    try:
        return serialize.put(session.memory, value, PUT_WAIT_S)
    except NATIVE_ERRORS as error:
        raise sessions.translate(error, session.memory) from None


def wait(
    refs: Iterable[ObjectRef[R]],
    *,
    num_returns: int = 1,
    timeout: float | None = None,
    fetch_local: bool = True,
) -> tuple[list[ObjectRef[R]], list[ObjectRef[R]]]:
    """Wait until ``num_returns`` refs are ready, and split the list.

    Args:
        refs: Refs, each once; also results of compiled graphs.
        num_returns: How many must be ready; at most so many are returned as ready.
        timeout: Seconds to wait at most; None waits for ever, 0 only looks.
        fetch_local: On one machine values are always here.

    Returns:
        (ready, not ready), both in the order of ``refs``.

    Raises:
        NotARefError: something in ``refs`` is no ref.
        ValueError: a ref stands twice in it, or ``num_returns`` is out of range.

    Example:
        >>> ready, rest = shoal.wait([shoal.put(1), shoal.put(2)], num_returns=1)
    """
    if type(refs) is not list:
        refs = _as_list(refs, "wait")
    n = len(refs)
    if not n:
        return [], []
    _check_wait(n, num_returns, timeout)
    if type(refs[0]) is not ObjectRef:
        return _wait_mixed(refs, num_returns, timeout)
    memory = refs[0].memory
    try:
        if "asyncio" in _modules and _runs_on_a_loop():
            _beside_a_loop("wait", refs, timeout)
        return memory.wait(refs, num_returns, timeout)
    except TypeError:
        return _wait_mixed(refs, num_returns, timeout)
    except IndexError:
        raise _wrong_refs(refs) from None
    except NATIVE_ERRORS as error:
        raise sessions.translate(error, memory) from None


def _wait_mixed(
    refs: list[Any], num_returns: int, timeout: float | None
) -> tuple[list[Any], list[Any]]:
    """``wait`` where not everything is a ref: generators and results of libraries are, too."""
    if not all(_can_wait(ref) for ref in refs) or len({id(ref) for ref in refs}) < len(refs):
        raise _wrong_refs(refs)
    try:
        if any(hasattr(type(ref), OWN_WATCH) for ref in refs):
            from shoal._runtime import waiting

            return waiting.wait(refs, num_returns, timeout)
        return streams.wait_mixed(refs, num_returns, timeout)
    except NATIVE_ERRORS as error:
        raise sessions.translate(error) from None


def _can_wait(ref: Any) -> bool:
    is_own = hasattr(type(ref), OWN_WATCH)
    return type(ref) is ObjectRef or is_own or streams.is_generator(ref)


def _wrong_refs(refs: list[Any]) -> Exception:
    """What is wrong with a list that native ``wait`` refused."""
    for i, ref in enumerate(refs):
        if not _can_wait(ref):
            return not_a_ref("wait", ref, f"item {i} of the list")
    return errors.OptionError("wait needs each ref once; some stand twice in the list")


def _check_wait(n: int, num_returns: Any, timeout: Any) -> None:
    if type(num_returns) is not int or not 0 < num_returns <= n:
        raise errors.OptionError(
            f"num_returns must be an integer from 1 to the number of refs ({n}),"
            f" not {num_returns!r}"
        )
    if timeout is not None:
        if isinstance(timeout, bool) or not isinstance(timeout, int | float):
            raise errors.OptionError(f"timeout must be seconds or None, not {timeout!r}")
        if timeout < 0:
            raise errors.OptionError(f"timeout must not be negative: {timeout!r}")


put = call_sites.recorded_if_asked(put)
