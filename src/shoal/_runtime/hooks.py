"""What native code calls back, and what is loaded late.

asyncio and concurrent.futures take 30 ms to import and most programs never await a ref; cloudpickle
is imported while the daemon starts. Each loads at its first use, or in ``preload`` (drivers, and
the zygote for workers).
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

from shoal import errors
from shoal._base import typed_ids
from shoal._native import Memory, Task
from shoal._proto import messages
from shoal._runtime import call_sites, serialize
from shoal._runtime import session as sessions
from shoal._runtime.refs import ObjectRef

_SPAWNED = "__mp_main__"
_kept: list[ObjectRef] = []
"""Refs that were pickled outside (RULES O-11)."""


def preload() -> None:
    """Import what functions by value need, on both sides."""
    import cloudpickle

    # In a process that multiprocessing has spawned this is what the program's file is called, and
    # no worker can import it.
    main = sys.modules.get(_SPAWNED)
    if main is not None and main.__name__ == _SPAWNED:
        cloudpickle.register_pickle_by_value(main)


def install(memory: Memory, help: Callable[[Task], None] | None = None) -> None:
    """Give ``memory`` its hooks."""
    memory.set_hooks(
        loads=serialize.loads,
        error=serialize.load_error,
        help=help,
        future=_future,
        wait=_wait,
        escaped=_escaped,
        about=_about,
        timed=_timed,
    )


def _wait(ref: ObjectRef) -> Any:
    from shoal._runtime import completion

    return completion.wait_hook(ref)


def _future(ref: ObjectRef) -> Any:
    from shoal._runtime import completion

    return completion.future_hook(ref)


def _about(ref: ObjectRef, what: str) -> Any:
    if what == "as_future":
        from shoal._runtime import completion

        return completion.loop_future(ref)
    if what == "ended":  # what an id says was in node memory, which is gone
        raise errors.SessionLostError(reason="it has ended; ask a ref for its id before that")
    if what == "call_site":
        return call_sites.of(ref)
    object_id = typed_ids.ObjectID(ref.binary())
    return object_id.job_id() if what == "job_id" else object_id.task_id()


def _timed(key: int, left_s: float) -> None:
    """A task with a deadline was submitted (its own, or its parent's): the daemon watches it.

    Or one that waits for a call that was cancelled and runs on: then nothing is left.
    """
    news = messages.WatchDeadline(key, left_s) if left_s >= 0 else messages.ArgumentGivenUp(key)
    sessions.current().connection.tell(news)


def _escaped(ref: ObjectRef) -> Any:
    """A ref is pickled by somebody else: nobody can count such a copy, so the value is kept."""
    warnings.warn(
        f"a ref ({ref.hex()}) was pickled outside of Shoal's arguments and values: its value"
        " is kept until this process ends, and the copy works only in this session",
        stacklevel=2,
    )
    _kept.append(ref)
    return _restore_escaped, (ref.key, ref.hex())


def _restore_escaped(key: int, object_id: str) -> ObjectRef:
    ref = sessions.current().memory.ref(key)
    if ref is None:
        text = "it was pickled outside, and the process that had kept it has ended"
        raise errors.ObjectLostError(object_id=object_id, reason=text)
    return ref
