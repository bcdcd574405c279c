"""Things inside lists, tuples and dicts: finding them, and putting others in their place. Pure.

Only these containers are looked into, by value and at any depth: what else an object may hold is
its own affair. A container may contain itself; what is looked for is then found once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def found_in(value: Any, kind: type[T], _above: tuple[int, ...] = ()) -> Iterator[T]:
    """Yield the instances of ``kind`` in ``value``: itself, or inside of it."""
    if isinstance(value, kind):
        yield value
        return
    items: Any
    if isinstance(value, Mapping):
        items = value.values()
    elif isinstance(value, list | tuple):
        items = value
    else:
        return
    if id(value) not in _above:
        for item in items:
            yield from found_in(item, kind, (*_above, id(value)))


def replaced(value: Any, kind: type[T], by: Callable[[T], Any]) -> Any:
    """``value`` with ``by(x)`` in the place of each ``x`` of ``kind``; itself if it has none."""
    if isinstance(value, kind):
        return by(value)
    if next(found_in(value, kind), None) is None:
        return value
    if isinstance(value, Mapping):
        return {key: replaced(item, kind, by) for key, item in value.items()}
    items = [replaced(item, kind, by) for item in value]
    if isinstance(value, list):
        return items
    return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
