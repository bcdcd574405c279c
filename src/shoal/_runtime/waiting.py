"""``wait`` for refs, generators and results of libraries together, such as compiled graphs have.

Native code waits for refs only. So here everything that is not ready is watched, and whoever brings
one of them puts a word into one mailbox.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shoal import errors
from shoal._base import clock
from shoal._native import ObjectRef
from shoal._runtime.completion import Arrivals
from shoal._runtime.objects import OWN_WAIT, OWN_WATCH


def wait(items: list[Any], num_returns: int, timeout: float | None) -> tuple[list[Any], list[Any]]:
    """As ``shoal.wait``, whose arguments were checked."""
    deadline = None if timeout is None else clock.now() + timeout
    inbox = Arrivals()
    undo: list[Callable[[], object]] = []
    watched: set[int] = set()
    try:
        while True:
            is_ready = [_is_ready(item) for item in items]
            left = None if deadline is None else max(0.0, deadline - clock.now())
            if sum(is_ready) >= num_returns or left == 0.0:
                break
            for item, ready in zip(items, is_ready):
                if not ready and id(item) not in watched:
                    watched.add(id(item))
                    undo += _watch(item, inbox)
            inbox.take(left)
    finally:
        for take_back in undo:
            take_back()
    found = [item for item, good in zip(items, is_ready) if good][:num_returns]
    chosen = {id(item) for item in found}
    return found, [item for item in items if id(item) not in chosen]


def _is_ready(item: Any) -> bool:
    if type(item) is ObjectRef:
        return item.is_sealed()
    look = getattr(item, OWN_WAIT, None)
    if look is None:
        return bool(item.next_ready())
    try:
        look(0.0)
    except errors.GetTimeoutError:
        return False
    except errors.ShoalError:
        return True  # there will be no result: get says so at once
    return True


def _watch(item: Any, inbox: Arrivals) -> list[Callable[[], object]]:
    """Have a word come when ``item`` is ready; what takes that back."""
    watch = getattr(item, OWN_WATCH, None)
    if watch is not None:
        return [watch(lambda: inbox.put(None))]
    for ref in [item] if type(item) is ObjectRef else [item._cell, item._completion]:
        inbox.add(ref, None)
    return []
