"""Serializers of the user's for single classes, and the question what keeps a value from
travelling.

A serializer is an entry in ``copyreg``'s table, which both picklers look at by themselves: values
of other classes pay nothing. The deserializer travels with each value, so the reader needs to know
nothing beforehand.
"""

from __future__ import annotations

import copyreg
import sys
from collections.abc import Callable
from typing import Any, NamedTuple, TextIO, TypeVar

from shoal import errors
from shoal._runtime import unpicklable

T = TypeVar("T")

_former: dict[type, Any] = {}
"""What ``copyreg`` had for the classes that are registered now."""


class Obstacle(NamedTuple):
    """A part of a value that can not be pickled."""

    obj: Any
    name: str
    """The path to it."""
    parent: Any
    """The value that was asked about."""


def register_serializer(
    cls: type[T], *, serializer: Callable[[T], Any], deserializer: Callable[[Any], T]
) -> None:
    """Send values of exactly this class as ``serializer(value)``.

    Only values that this process sends; the other side calls ``deserializer``.

    Raises:
        OptionError: ``cls`` is no class, or one of the others is no function.

    Example:
        >>> class Celsius:
        ...     def __init__(self, degrees): self.degrees = degrees
        >>> shoal.util.register_serializer(
        ...     Celsius, serializer=lambda c: c.degrees, deserializer=Celsius
        ... )
        >>> shoal.get(shoal.put(Celsius(21))).degrees
        21
    """
    if not isinstance(cls, type):
        raise errors.OptionError(f"register_serializer needs a class, not {cls!r}")
    for name, function in (("serializer", serializer), ("deserializer", deserializer)):
        if not callable(function):
            raise errors.OptionError(f"{name} must be a function, not {function!r}", option=name)

    def reduce(value: T) -> tuple[Callable[[Any], T], tuple[Any]]:
        return deserializer, (serializer(value),)

    _former.setdefault(cls, copyreg.dispatch_table.get(cls))
    copyreg.pickle(cls, reduce)  # type: ignore[arg-type]


def deregister_serializer(cls: type) -> None:
    """Send values of this class as before; nothing happens if it has no serializer.

    Example:
        >>> shoal.util.deregister_serializer(complex)
    """
    if cls not in _former:
        return
    former = _former.pop(cls)
    if former is None:
        copyreg.dispatch_table.pop(cls, None)
    else:
        copyreg.dispatch_table[cls] = former


def inspect_serializability(
    base_obj: Any, name: str | None = None, depth: int = 3, print_file: TextIO | None = None
) -> tuple[bool, set[Obstacle]]:
    """Say whether a value can travel to another process, and print what keeps it from that.

    Args:
        base_obj: The value.
        name: What to call it in the output.
        depth: Taken for programs that give it; the search goes as deep as it takes.
        print_file: Where to print; None is standard output.

    Returns:
        (whether it can, what can not).

    Example:
        >>> can, obstacles = shoal.util.inspect_serializability([1, 2], name="numbers")
        Checking whether numbers can be sent to other processes: yes.
        >>> can
        True
    """
    out = print_file or sys.stdout
    what = name or getattr(base_obj, "__qualname__", None) or repr(base_obj)[:80]
    print(f"Checking whether {what} can be sent to other processes: ", end="", file=out)
    found = unpicklable.culprit(base_obj, what)
    if found is None:
        print("yes.", file=out)
        return True, set()
    path, culprit, reason = found
    where = "it" if path == what else path
    print(f"no.\n    {where} is a {type(culprit).__name__}: {reason}", file=out)
    try:
        hash(culprit)
    except TypeError:
        culprit = repr(culprit)
    return False, {Obstacle(culprit, path, what)}
