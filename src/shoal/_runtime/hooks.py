"""What native code calls back, and what is loaded late.

asyncio and concurrent.futures take 30 ms to import and most programs never await a ref; cloudpickle
is imported while the daemon starts. Each loads at its first use, or in ``preload`` (drivers, and
the zygote for workers).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from shoal import errors
from shoal._native import Memory, ObjectRef, Task
from shoal._runtime import serialize
from shoal._runtime import session as sessions

_kept: list[ObjectRef] = []
"""Refs that were pickled outside (RULES O-11)."""


def preload() -> None:
    """Import what functions by value need, on both sides."""
    import cloudpickle  # noqa: F401


def install(memory: Memory, help: Callable[[Task], None] | None = None) -> None:
    """Give ``memory`` its hooks."""
    memory.set_hooks(
        loads=serialize.loads,
        error=serialize.load_error,
        help=help,
        future=_future,
        wait=_wait,
        escaped=_escaped,
    )


def _wait(ref: ObjectRef) -> Any:
    from shoal._runtime import completion

    return completion.wait_hook(ref)


def _future(ref: ObjectRef) -> Any:
    from shoal._runtime import completion

    return completion.future_hook(ref)


def _escaped(ref: ObjectRef) -> Any:
    """A ref is pickled by somebody else: nobody can count such a copy, so the value is kept."""
    warnings.warn(
        f"a ref ({ref.hex()}) was pickled outside of Shoal's arguments and values: its value"
        " is kept until this process ends, and the copy works only in this session",
        stacklevel=2,
    )
    _kept.append(ref)
    return _restore_escaped, (ref.key,)


def _restore_escaped(key: int) -> ObjectRef:
    ref = sessions.current().memory.ref(key)
    if ref is None:
        text = "it was pickled outside, and the process that had kept it has ended"
        raise errors.ObjectLostError(object_id=f"{key:016x}", reason=text)
    return ref
