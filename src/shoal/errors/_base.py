"""What every error has: facts, a message made from them, advice, a record, a pickle.

The tree, and the rules that hold for all of it, stand in ``shoal.errors``.
"""

from __future__ import annotations

import signal as _signal
from typing import Any, ClassVar

import msgspec

_TABLE: dict[str, type[ShoalError]] = {}
"""Every class by its name, as records say it."""

_RAY_NAMES: dict[str, type[ShoalError]] = {}
"""Which class of ours means what people catch under a name of Ray's."""


class ShoalError(Exception):
    """Base of every error of Shoal."""

    advice: ClassVar[str] = ""
    """What to do, as one or two sentences."""
    ray: ClassVar[tuple[str, ...]] = ("RayError",)
    """Names under which programs written for Ray catch this."""
    _defaults: ClassVar[dict[str, Any]] = {}

    facts: dict[str, Any]
    """Every fact that was given, by name."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        own = {
            name: vars(cls)[name]
            for name in vars(cls).get("__annotations__", ())
            if name in vars(cls) and not name.startswith("_") and name not in ("advice", "ray")
        }
        inherited: dict[str, Any] = {}
        for base in reversed(cls.__mro__[1:]):
            inherited.update(getattr(base, "_defaults", {}))
        cls._defaults = inherited | own
        if not cls.__name__.isidentifier():  # a dual class
            return
        _TABLE.setdefault(cls.__name__, cls)
        if cls.__module__.startswith("shoal.errors."):
            cls.__module__ = "shoal.errors"  # where people find it
            for name in vars(cls).get("ray", ()):
                _RAY_NAMES[name] = cls

    def __init__(self, message: str = "", **facts: Any) -> None:
        BaseException.__init__(self, message)  # not super(): a dual class has foreign constructors
        self._message = message
        self.facts = facts
        for name, value in facts.items():
            if name in self._defaults:
                setattr(self, name, value)

    def describe(self) -> str:
        """Return what happened, from the facts."""
        return self._message

    def __str__(self) -> str:
        text = self.describe() or self._message or type(self).__name__
        return f"{text}\nWhat to do: {self.advice}" if self.advice else text

    def __reduce__(self) -> Any:
        return _rebuild, (type(self).__name__, self._message, self.facts)


_TABLE["ShoalError"] = ShoalError
_RAY_NAMES["RayError"] = ShoalError
ShoalError.__module__ = "shoal.errors"


class InternalError(ShoalError):
    """A bug of Shoal."""

    advice = "please report this with the text above and the session's logs."
    story: str = ""


def _rebuild(name: str, message: str, facts: dict[str, Any]) -> ShoalError:
    return _TABLE.get(name, InternalError)(message, **facts)


def tail(lines: list[str]) -> str:
    """The last lines a process wrote, as a paragraph of a message."""
    if not lines:
        return ""
    return "\nIts last lines on stderr:\n" + "\n".join("    " + line for line in lines)


def exit_text(exit_code: int | None, signal: int | None) -> str:
    """How a process ended, in words."""
    if signal:
        try:
            name = _signal.Signals(signal).name
        except ValueError:
            name = "unknown signal"
        return f"was killed by signal {signal} ({name})"
    if exit_code is not None:
        return f"ended with exit code {exit_code}"
    return "died"


# ---- records ------------------------------------------------------------------------------------


def to_record(error: ShoalError) -> bytes:
    """Return the typed record of ``error``: facts that msgpack knows, and its message."""
    fields: dict[str, Any] = {}
    for name, value in error.facts.items():
        try:
            msgspec.msgpack.encode(value)
        except (TypeError, ValueError):
            value = repr(value)
        fields[name] = value
    if error._message:
        fields["message"] = error._message
    for cls in type(error).__mro__:
        if _TABLE.get(cls.__name__) is cls:
            return msgspec.msgpack.encode([cls.__name__, fields])
    return msgspec.msgpack.encode(["InternalError", fields])


def from_record(record: bytes | memoryview) -> ShoalError:
    """Return the error that ``record`` describes; an unreadable one is an ``InternalError``."""
    try:
        name, fields = msgspec.msgpack.decode(record, type=tuple[str, dict[str, Any]])
    except msgspec.MsgspecError as error:
        return InternalError(f"an unreadable error record ({error}): {bytes(record)[:200]!r}")
    message = str(fields.pop("message", ""))
    cls = _TABLE.get(name)
    if cls is None:
        return InternalError(message or f"{name}: {fields}", **fields)
    return cls(message, **fields)


def of_ray() -> dict[str, type[ShoalError]]:
    """The class of ours for each name of an error of Ray's.

    Several of Ray's mean one of ours where nobody can act on the difference.

    Example:
        >>> errors.of_ray()["RayActorError"].__name__
        'ActorError'
    """
    return dict(_RAY_NAMES)
