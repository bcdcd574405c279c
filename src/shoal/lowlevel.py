"""Supported sharp tools, for libraries that are built on Shoal.

What the public API does not show and a library may need: the session's key-value table, arrays that
are made where they will stay, and the native view of node memory. Everything here is stable;
everything else under ``_runtime`` is not.
"""

from __future__ import annotations

import pickle
from typing import Any

from shoal._native import Draft, Memory, ObjectRef
from shoal._proto import messages
from shoal._runtime import session as sessions
from shoal._runtime.objects import PUT_WAIT_S


def memory() -> Memory:
    """Return this process's view of node memory.

    Example:
        >>> shoal.lowlevel.memory().capacity_bytes > 0
        True
    """
    return sessions.current().memory


def kv_put(key: bytes, value: bytes, *, namespace: str = "", overwrite: bool = True) -> bool:
    """Store ``value`` under ``key`` for the life of the session; False if the key existed.

    Example:
        >>> shoal.lowlevel.kv_put(b"k", b"v")
        True
    """
    body = messages.KvPut(key, value, namespace, overwrite)
    return not sessions.current().request(body, messages.KvAnswer).existed


def kv_get(key: bytes, *, namespace: str = "") -> bytes | None:
    """Return the value of ``key``, None if there is none.

    Example:
        >>> shoal.lowlevel.kv_get(b"missing") is None
        True
    """
    return sessions.current().request(messages.KvGet(key, namespace), messages.KvAnswer).value


def kv_delete(key: bytes, *, namespace: str = "") -> bool:
    """Remove ``key``; whether it existed.

    Example:
        >>> shoal.lowlevel.kv_delete(b"missing")
        False
    """
    body = messages.KvDelete(key, namespace)
    return sessions.current().request(body, messages.KvAnswer).existed


def kv_keys(prefix: bytes = b"", *, namespace: str = "") -> list[bytes]:
    """Return the keys that begin with ``prefix``.

    Example:
        >>> shoal.lowlevel.kv_keys(b"missing")
        []
    """
    return sessions.current().request(messages.KvKeys(prefix, namespace), messages.KvAnswer).keys


def create_array(shape: int | tuple[int, ...], dtype: Any = float) -> Any:
    """Return a writable NumPy array inside the object store, with whatever stands there.

    Fill it, then ``seal`` it: the value is never copied. ``put`` of an array copies it once, which
    for large ones is most of the time. An array that is dropped unsealed gives its memory back.

    Args:
        shape: As for ``numpy.empty``.
        dtype: Anything that ``numpy.dtype`` takes but objects.

    Raises:
        ValueError: arrays of the dtype can not be stored in place (objects, dates).
        ObjectStoreFullError: there is no room for it.

    Example:
        >>> array = shoal.lowlevel.create_array((2, 3))
        >>> array[:] = 1.0
        >>> float(shoal.get(shoal.lowlevel.seal(array)).sum())
        6.0
    """
    import numpy

    # Its pages are never touched: only what its pickle says of it is wanted.
    like = numpy.empty(shape, dtype)
    buffers: list[pickle.PickleBuffer] = []
    if not like.dtype.hasobject:
        pickled = pickle.dumps(like, 5, buffer_callback=buffers.append)
    if not buffers:
        raise ValueError(f"an array of {like.dtype} can not be stored in place: use put")
    memory = sessions.current().memory
    try:
        draft = memory.draft(pickled, like.nbytes, PUT_WAIT_S)
    except sessions.NATIVE_ERRORS as error:
        raise sessions.translate(error, memory) from None
    return numpy.frombuffer(_bytes_of(draft), like.dtype, like.size).reshape(like.shape)


def _bytes_of(draft: Any) -> memoryview:
    return memoryview(draft)


def seal(array: Any) -> ObjectRef:
    """Make what ``create_array`` returned an immutable object, and return a ref to it.

    ``array`` becomes read-only and shows the value for as long as it lives. Views of it that were
    made before stay writable; whoever writes through one changes the value under its readers.

    Raises:
        ValueError: ``array`` is not wholly what ``create_array`` returned, or is sealed already.

    Example:
        >>> array = shoal.lowlevel.create_array(3)
        >>> array[:] = 1
        >>> bool(shoal.get(shoal.lowlevel.seal(array)).sum() == 3)
        True
    """
    base = array
    while (below := getattr(base, "base", None)) is not None:
        base = below
    draft = base.obj if isinstance(base, memoryview) else base
    if not isinstance(draft, Draft) or array.nbytes != _bytes_of(draft).nbytes:
        raise ValueError("seal takes a whole array that create_array has returned")
    try:
        ref = draft.seal()
    except sessions.NATIVE_ERRORS as error:
        raise sessions.translate(error, None) from None
    array.flags.writeable = False
    return ref
