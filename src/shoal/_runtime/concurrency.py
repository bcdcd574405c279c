"""How many calls of an actor run side by side, decided where it is created.

=======================  ==================  ==========  ==========================================
class                    ``max_concurrency``  runs       order of one caller's calls
=======================  ==================  ==========  ==========================================
plain                    1                   serially    as submitted
plain                    n > 1, or groups    in threads  begun as they come; a call whose arguments
                                                         are there waits for no other
with an ``async def``    1000                on a loop   as above
=======================  ==================  ==========  ==========================================

``allow_out_of_order_execution`` overrides the last column for the first two rows.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from shoal import errors

if TYPE_CHECKING:
    from shoal._runtime.actor_method import MethodRow

ASYNCIO_CALLS = 1000
"""``max_concurrency`` of asyncio actors that do not say."""


class Concurrency(msgspec.Struct, frozen=True):
    """What an actor's options and class come to."""

    max_concurrency: int
    groups: dict[str, int]
    is_asyncio: bool
    is_unordered: bool


def has_async_methods(cls: Any) -> bool:
    """Whether instances are asyncio actors: a method is a coroutine or an async generator."""
    members = (inspect.getattr_static(cls, name, None) for name in dir(cls))
    plain = (getattr(member, "__func__", member) for member in members)
    return any(inspect.iscoroutinefunction(m) or inspect.isasyncgenfunction(m) for m in plain)


def decide(
    class_name: str, is_asyncio: bool, rows: Sequence[MethodRow], given: Mapping[str, Any]
) -> Concurrency:
    """The concurrency of an actor of that class with these options.

    Raises:
        OptionError: a method is in a group that does not exist; an asyncio actor shall be ordered.
    """
    groups = {str(name): int(n) for name, n in (given.get("concurrency_groups") or {}).items()}
    for row in rows:
        if row.group is not None and row.group not in groups:
            raise unknown_group(f"method {row.name} of {class_name}", row.group, groups)
    calls = given.get("max_concurrency")
    if calls is None:
        calls = ASYNCIO_CALLS if is_asyncio else 1
    is_free = given.get("allow_out_of_order_execution")
    if is_asyncio and is_free is False:
        raise errors.OptionError(
            f"{class_name} has async methods: its calls overlap, so they have no order."
            " What to do: leave allow_out_of_order_execution out",
            option="allow_out_of_order_execution",
        )
    if is_free is None:
        is_free = is_asyncio or calls > 1 or bool(groups)
    return Concurrency(int(calls), groups, is_asyncio, is_free)


def unknown_group(who: str, name: str, groups: Mapping[str, int]) -> errors.OptionError:
    """The error for a concurrency group that the class has not."""
    known = ", ".join(groups) or "none"
    return errors.OptionError(
        f"{who} is in concurrency group {name!r}, which does not exist; there are: {known}."
        f" What to do: @shoal.remote(concurrency_groups={{{name!r}: 2}})",
        option="concurrency_group",
    )
