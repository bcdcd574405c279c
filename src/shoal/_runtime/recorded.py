"""The inputs of a failed task: kept with its error, so that ``shoal.debug`` can run it again.

Nothing is recorded of a task that succeeds. Who fails one (the worker whose code raised, or the
daemon after a death) reads the spec before it is dropped and makes a value of it: the function's
key and the payload as it was submitted. That value holds what the spec had held, and the error
holds the value::

    ref -> error -> record -> arguments that were refs, refs inside structures
            `-> records of the tasks whose failure this one only passed on

So inputs live exactly as long as the error they belong to, also where the error was passed on to
the results of other tasks, and go with its last ref.

Invariants:

1. The payload is opaque here: a daemon makes records and never unpickles (RULES Z-3).
2. What is kept of one task has a budget in bytes (``SHOAL_DEBUG_BYTES``); beyond it the record says
   only how large it would have been.
3. Failing never waits for a record: where there is no room at once, there is none.
"""

from __future__ import annotations

import msgspec

from shoal import _native
from shoal._base import environment as variables
from shoal._native import Memory, ObjectRef
from shoal._proto.environments import Environment

MOST_PASSED_ON = 8
"""Records of other tasks that one error holds, the first failure at the front."""
_SIZE_FIELD = 16
"""Of ``Memory.sight``."""


class Inputs(msgspec.Struct, frozen=True, array_like=True):
    """What a task was called with, as it travels."""

    key: int
    function: int
    actor: int
    """Key of the actor whose method it was, 0: a plain task."""
    method: int
    job: int
    n_dependencies: int
    payload: bytes
    too_large: int = 0
    """Bytes that would have been kept."""
    environment: Environment | None = None
    """The runtime environment that it ran in."""


def keep(memory: Memory, key: int, environment: Environment | None) -> ObjectRef | None:
    """Make the record of a task that runs here, or whose process is known to be dead; None if there
    is no room, or it is no such task."""
    found = memory.call_of(key)
    if found is None:
        return None
    function, actor, method, _, job, n_dependencies, payload = found
    keys = memory.contained(key)
    size_bytes = len(payload)
    for held in set(keys):
        sight = memory.sight(held)
        size_bytes += sight[_SIZE_FIELD] if sight is not None else 0
    inputs = Inputs(key, function, actor, method, job, n_dependencies, payload, 0, environment)
    refs: list[ObjectRef] = []
    if size_bytes > variables.read().debug_bytes:
        inputs = msgspec.structs.replace(inputs, payload=b"", too_large=size_bytes)
    else:
        refs = [ref for held in keys if (ref := memory.ref(held)) is not None]
        if len(refs) < len(keys):
            return None
    try:
        return memory.put(_native.FORMAT_BYTES, msgspec.msgpack.encode(inputs), (), refs)
    except (_native.FullError, TimeoutError):
        return None


def of_error(memory: Memory, key: int) -> list[ObjectRef]:
    """Records that the error with this key holds, of the task that failed first at the front."""
    refs = [memory.ref(held) for held in memory.contained(key)]
    return [ref for ref in refs if ref is not None]
