"""Functions and classes on their way to workers: exported once, by content, to the function table.

An export is an ordinary object in node memory: the cloudpickle of the function, large captured
values included (so they are stored once, not with every task), with the refs it captured in the
object's table of contained refs (RULES O-11). The daemon holds it until the job ends, and a digest
that was exported before in the job wins, so that the same closure made a thousand times is stored
once. A worker loads an export straight from shared memory, once, and keeps the callable by its key.
What names one in arguments or values also carries a ref to it, by which another node finds it.

A function may name itself, or another remote function that is being exported right now (RULES T6)::

    export(f)  f is on the stack        pickled as      read back as
        f names f                       itself          "the function whose export is being loaded"
        f names g, not exported yet     export(g), then its key
            g names f                   cannot be: f has no key yet
        f names g, of a cycle with f    g by value      not exported yet: its first call does that,
            g names f                   itself          and then f has a key

So an export names only what was exported before it, and whoever has one, on whichever node, has all
that it names. What a cycle costs is one more export for each process that calls ``g``; its content
is the same each time, so the digest wins.
"""

from __future__ import annotations

import importlib
import pickle
import sys
import threading
from _blake2 import blake2b  # ``hashlib`` has it too, and loads OpenSSL: 3 ms
from collections.abc import Callable
from typing import Any

from shoal import _native, errors
from shoal._proto import messages
from shoal._runtime import heavy_functions, serialize
from shoal._runtime import session as sessions
from shoal._runtime.session import Session

_DIGEST_BYTES = 32


_lock = threading.RLock()
"""One for all: exports nest, and two threads may begin the same cycle at different ends."""


class Definition:
    """One decorated function or class, and the keys of its exports."""

    __slots__ = ("_job", "_key", "_ref", "_session", "_value", "name")

    def __init__(self, value: Any, name: str) -> None:
        self._value = value
        self.name = name
        self._session = ""
        self._job = 0
        """Whose export it is; 0: of whoever sent it here."""
        self._key = 0
        self._ref: _native.ObjectRef[Any] | None = None
        """Holds an export of another node."""

    @property
    def value(self) -> Any:
        """The callable itself, loaded now if only its key came here."""
        if self._value is None:
            session = sessions.current()
            self._value = load(session, self.key(session))
        return self._value

    def key(self, session: Session) -> int:
        """Key of the export in ``session``, exported now if need be.

        Raises:
            SerializationError: it captures something that can not be pickled.
            SessionEndedError: it came from a session that has ended.
        """
        if self._is_exported(session):
            return self._key
        with _lock:
            if self._is_exported(session):
                return self._key
            if self._value is None:
                raise errors.SessionEndedError(session=self._session, now=session.id)
            self._key = self._export(session)
            self._job = session.job
            self._session = session.id
            return self._key

    def _is_exported(self, session: Session) -> bool:
        # An export ends with its job: a program that left a session and joined it again is another.
        return bool(self._key and self._session == session.id and self._job in (0, session.job))

    def _export(self, session: Session) -> int:
        stack = _exports.stack
        stack.append(self)
        try:
            return _export(session, self._value, self.name)
        finally:
            stack.pop()

    def __reduce__(self) -> tuple[Any, ...]:
        """How this travels: by key, or in a cycle as the mark of it or by value."""
        if self in _exports.stack:
            if _exports.stack[-1] is self:
                return _restore_itself, (self.name,)
            raise _InCycleError
        session = sessions.current()
        try:
            key = self.key(session)
        except _InCycleError:
            if not _exports.stack:
                raise
            # As a state, which is pickled when the pickle knows this object: it may name itself.
            return Definition, (None, self.name), (_by_name(self._value) or self._value,)
        return _restore_key, (session.id, key, self.name, captured(session, key))

    def __setstate__(self, state: tuple[Any]) -> None:
        """It came by value."""
        (self._value,) = state


def captured(session: Session, key: int) -> _native.ObjectRef[Any] | None:
    """A ref to the export, where refs are counted: on another node it names the same export, which
    has another key there."""
    memory = session.memory
    former = memory.capture(None)
    memory.capture(former)
    return None if former is None else memory.ref(key)


class _InCycleError(errors.ShoalError):
    """What is exported names a function whose export has begun before it: it is given up, and
    whoever names it takes it in by value."""


class _Exports(threading.local):
    """What this thread exports and loads at the moment, innermost last."""

    def __init__(self) -> None:
        self.stack: list[Definition] = []
        self.loading: list[tuple[str, int]] = []


_exports = _Exports()


def _export(session: Session, value: Any, name: str) -> int:
    memory = session.memory
    contained: list[_native.ObjectRef] = []
    former = memory.capture(contained)
    try:
        data = serialize.dumps_by_value(_by_name(value) or value, name)
    finally:
        memory.capture(former)
    ref = memory.put(_native.FORMAT_PICKLE, data, (), contained)
    body = messages.ExportFunction(
        blake2b(data, digest_size=_DIGEST_BYTES).digest(), name, ref.key, len(data)
    )
    return session.request(body, messages.FunctionExported).key


class _Named:
    """A class that travels as the name of its actor class in a module."""

    def __init__(self, module: str, name: str) -> None:
        self._where = (module, name)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return _class_behind, self._where


def _by_name(value: Any) -> _Named | None:
    """What stands for a class that a decorator has hidden behind an actor class of its name.

    By value it would become a second class beside the one that its methods are bound to (they are
    found by name), and ``super()`` in them would fail.
    """
    if not isinstance(value, type) or value.__module__ == "__main__":
        return None
    module: Any = sys.modules.get(value.__module__)
    cloudpickle = sys.modules.get("cloudpickle")
    by_value = cloudpickle.list_registry_pickle_by_value() if cloudpickle else ()
    if getattr(module, "__spec__", None) is None or value.__module__ in by_value:
        return None
    found: Any = module
    name = value.__qualname__
    for part in name.split("."):
        found = getattr(found, "__dict__", {}).get(part)
    if getattr(found, "__dict__", {}).get("_cls") is not value:
        return None
    return _Named(module.__name__, name)


def _class_behind(module: str, name: str) -> Any:
    found = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found._cls  # type: ignore[attr-defined]


def load(session: Session, key: int) -> Any:
    """The callable that was exported as ``key``."""
    found = session.functions.get(key)
    if found is None:
        _exports.loading.append((session.id, key))
        try:
            found = session.functions[key] = session.memory.load_key(key)
        finally:
            _exports.loading.pop()
        if key in session.heavy:  # looked at last: the news may have come meanwhile
            found = session.functions[key] = heavy_functions.wrapped(session, key, found)
    return found


def _restore_key(
    session: str, key: int, name: str, ref: _native.ObjectRef[Any] | None = None
) -> Definition:
    definition = Definition(None, name)
    definition._session = session
    definition._key = key
    here = sessions.current_or_none()
    if ref is not None and here is not None and here.id != session:
        definition._session, definition._key, definition._ref = here.id, ref.key, ref
    return definition


def _restore_itself(name: str) -> Definition:
    if not _exports.loading:
        raise pickle.UnpicklingError(
            f"{name}: an export that was not loaded from the function table"
        )
    return _restore_key(*_exports.loading[-1], name)
