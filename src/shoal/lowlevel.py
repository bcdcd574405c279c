"""Supported sharp tools, for libraries that are built on Shoal.

What the public API does not show and a library may need: the session's key-value table, arrays that
are made where they will stay, memory that stays writable (blocks, their words, channels), and the
native view of node memory. Everything here is stable; everything else under ``_runtime`` is not.
"""

from __future__ import annotations

import contextlib
import importlib
import mmap
import pickle
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from shoal._native import Channel, Draft, Memory, ObjectRef, SharedBlock
from shoal._proto import messages
from shoal._runtime import background, channels
from shoal._runtime import session as sessions
from shoal._runtime.objects import PUT_WAIT_S
from shoal.errors._explained import Explained as Explained  # noqa: PLC0414
from shoal.errors._task import Bare as Bare  # noqa: PLC0414

if TYPE_CHECKING:
    from shoal._runtime.completion import Arrivals as Arrivals  # noqa: PLC0414
    from shoal._runtime.explaining import explained as explained  # noqa: PLC0414

Background = background.Background
Inside = background.Inside


def __getattr__(name: str) -> Any:
    if name == "Arrivals":  # imports asyncio, which takes 30 ms
        return importlib.import_module("shoal._runtime.completion").Arrivals
    if name == "explained":  # makes the classes of all reasons: for what is late
        return importlib.import_module("shoal._runtime.explaining").explained
    raise AttributeError(f"module 'shoal.lowlevel' has no attribute {name!r}")


@contextlib.contextmanager
def waiting() -> Iterator[None]:
    """Lend the CPU of the task that runs here while its code waits for something else than a ref.

    ``get`` and ``wait`` do it themselves. Outside of tasks it does nothing.

    Example:
        >>> import threading
        >>> done = threading.Event()
        >>> done.set()
        >>> with shoal.lowlevel.waiting():
        ...     done.wait()
        True
    """
    session = sessions.current_or_none()
    memory = session.memory if session is not None and session.memory.running else None
    if memory is None:
        yield
        return
    memory.set_blocked(True)
    try:
        yield
    finally:
        memory.set_blocked(False)


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


class _PrivatePages(mmap.mmap):
    """Pages of one value that are copied when they are written to; keeps the value."""

    kept: Any


_WORTH_MAPPING_BYTES = 1 << 20
"""Below it a copy is faster."""


def writable(array: Any) -> Any:
    """Return a writable array with the contents of ``array``, which ``get`` has returned.

    A large one shares its memory with ``array`` until it is written to: only the pages that are
    written to are copied, and nobody else sees it. What is small, not contiguous or not in the
    object store is copied at once. ``array`` stays in the object store as long as the copy lives.

    Raises:
        TypeError: it is no NumPy array.

    Example:
        >>> import numpy
        >>> array = shoal.get(shoal.put(numpy.zeros(200_000)))
        >>> mine = shoal.lowlevel.writable(array)
        >>> mine[0] = 1.0
        >>> float(mine.sum()), float(array.sum())
        (1.0, 0.0)
    """
    import numpy

    if not isinstance(array, numpy.ndarray):
        raise TypeError(f"writable takes a NumPy array, not {type(array).__name__}")
    session = sessions.current_or_none()
    plain = array if array.flags.c_contiguous else array.T
    at = None
    if session is not None and array.nbytes >= _WORTH_MAPPING_BYTES and plain.flags.c_contiguous:
        at = session.memory.offset_of(plain)
    if session is None or at is None:
        return array.copy(order="K")
    begin = at // mmap.PAGESIZE * mmap.PAGESIZE
    rights = mmap.PROT_READ | mmap.PROT_WRITE
    size = at - begin + array.nbytes
    pages = _PrivatePages(session.memory.fd, size, mmap.MAP_PRIVATE, rights, offset=begin)
    pages.kept = array
    return numpy.ndarray(array.shape, array.dtype, pages, at - begin, array.strides)


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


def shared_block(nbytes: int) -> SharedBlock:
    """Return ``nbytes`` bytes of the object store that stay writable, all of them zero.

    Every process that has the block (it travels as an argument or inside values, like a ref) sees
    and changes the same memory: as a buffer (``memoryview(block)``, ``numpy.frombuffer``), or as
    signed 64-bit words with atomic ``load``, ``store``, ``add``, ``compare_swap`` and ``wait``.
    It is freed when nobody has it any more; ``block.ref`` is the object underneath.

    ``block.wait(i, old, timeout_s)`` waits until word ``i`` is not ``old`` and returns it (still
    ``old`` after ``timeout_s`` seconds). Changing a word wakes who waits for it, and costs no
    system call where nobody does. A process that is killed between a change and the waking leaves
    others asleep: whoever supervises stores something into the word.

    Args:
        nbytes: Its size, in bytes.

    Raises:
        OptionError: ``nbytes`` is no integer, negative or absurd.
        ObjectStoreFullError: there is no room for it.

    Example:
        >>> block = shoal.lowlevel.shared_block(64)
        >>> @shoal.remote
        ... def count(block):
        ...     return block.add(0, 5)
        >>> shoal.get(count.remote(block)), block.load(0)
        (5, 5)
        >>> block.wait(0, 5, timeout_s=0)
        5
    """
    return channels.make_block(nbytes)


def channel(capacity_bytes: int, *, slots: int = 2, readers: int = 1) -> Channel:
    """Return a channel: messages of one writer to ``readers`` fixed readers, in order.

    It travels like a ref. ``write(value)`` serializes into shared memory, and waits while no slot
    is free; ``read(reader)`` returns the next message. ``write_error(exception)`` sends what
    ``read`` raises, and ``close(exception)``, by anybody, ends all waits. The death of a reader or
    writer is not noticed by the channel: whoever supervises them closes it.

    Arrays above 32 KiB are read-only views of the slot, which is free again when they are gone.
    Where half of the slots are kept so already, ``read`` copies: values that are kept never block
    the writer.

    Args:
        capacity_bytes: Size of the largest message, in bytes.
        slots: How many messages may be written and not yet read, 1 to 64.
        readers: How many readers there are, 1 to 64; each reads every message once.

    Raises:
        OptionError: an argument is of the wrong type or out of range.
        ObjectStoreFullError: there is no room for ``slots * capacity_bytes``.

    Example:
        >>> there, back = shoal.lowlevel.channel(1000), shoal.lowlevel.channel(1000)
        >>> @shoal.remote
        ... def double(there, back):
        ...     try:
        ...         while True:
        ...             back.write(2 * there.read())
        ...     except shoal.errors.ChannelClosedError:
        ...         return "the end"
        >>> running = double.remote(there, back)
        >>> there.write(21)
        >>> back.read(timeout_s=30)
        42
        >>> there.close()
        >>> shoal.get(running)
        'the end'
    """
    return channels.make_channel(capacity_bytes, slots, readers)
