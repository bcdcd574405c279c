"""The payload of a call: how ``(args, kwargs)`` travel in a task's spec.

::

    0x80 ...       a pickle: of args, a tuple, or of [args, kwargs]; no refs, nothing out of band
    FRAMED flags 0 0 | u32 pickle size | u32 buffer count | u64 size of each buffer | pickle |
        buffers, each at a multiple of 16 from the payload's beginning
    NAMED 0 | u16 name size | name | any of these, or nothing, at the next multiple of 16
    None           a call without arguments

    CONTAINED   refs are inside structures: the task's table is made current while loading
    PLACES      the pickle is [args, kwargs, places]: dependency i belongs to places[i], a position
    in args
                or a name in kwargs
    STORED      no pickle and no buffers; dependency 0 is the value that would be pickled, and the
    other
                dependencies belong to places. For arguments over STORED_BYTES: they are stored
                once as an object and read in place

Arguments that are refs become dependencies: the task waits for them without a worker and gets their
values. Refs inside structures stay refs.

Buffers that came in a payload are copied once into a private immutable ``bytes``: the spec is freed
when the task ends, and an actor may keep its arguments. So arrays are read-only whatever their size
(RULES O-17).
"""

from __future__ import annotations

import pickle
import struct
from typing import Any

from shoal._native import FORMAT_BYTES, FullError, Memory, ObjectRef, Task
from shoal._runtime import serialize, turns, unpicklable
from shoal._runtime.session import check_home

STORED_BYTES = 100_000

FRAMED = 1
NAMED = 2
NAME_BYTES_MOST = 1000
CONTAINED = 1
PLACES = 2
STORED = 4

PLAIN = frozenset({int, float, bool, type(None)})
TEXT = frozenset({str, bytes})
TEXT_BYTES = STORED_BYTES // 4
"""Values of these types, text up to this length, have no refs, buffers or names of ``__main__``."""

_HEAD = struct.Struct("<BBxxII")
_NAME = struct.Struct("<BxH")
_ALIGNMENT = 16

Packed = tuple[bytes | None, list[ObjectRef] | None, list[ObjectRef] | None]
"""(payload, dependencies, contained) as ``Memory.submit`` takes them."""


def pack(memory: Memory, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Packed:
    """Make the payload of a call.

    Raises:
        SerializationError: an argument can not be pickled.
        FullError: there is no room for large arguments.
    """
    kinds = [*map(type, args)]
    if bytes in kinds:
        # Large bytes are values of their own: one copy less than through a pickle.
        args = tuple([_stored_bytes(memory, a) for a in args])
        kinds = [*map(type, args)]
    places: list[int | str] = []
    dependencies: list[ObjectRef] = []
    value: Any = args
    if kwargs or ObjectRef in kinds:
        places, dependencies, args, kwargs = split_refs(args, kwargs)
        value = [args, kwargs] if kwargs else args
        if places:
            check_home(memory, dependencies)
            value = [args, kwargs, places]
    pickled = serialize.dumps(memory, value, unpicklable.ARGUMENTS)
    data, buffers, contained = pickled
    views = serialize.raw(buffers) if buffers else []
    size_bytes = len(data) + sum([view.nbytes for view in views])
    if size_bytes > STORED_BYTES:
        stored = serialize.put_pickled(memory, pickled)
        flags = STORED | (PLACES if places else 0)
        return _HEAD.pack(FRAMED, flags, 0, 0), [stored, *dependencies], None
    if not places and not views and not contained:
        return data, None, None
    flags = (CONTAINED if contained else 0) | (PLACES if places else 0)
    payload = _frame(flags, data, views)
    return payload, dependencies or None, contained or None


def _stored_bytes(memory: Memory, value: Any) -> Any:
    if type(value) is bytes and len(value) > STORED_BYTES:
        return memory.put(FORMAT_BYTES, value, (), ())
    return value


def split_refs(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[list[int | str], list[ObjectRef], tuple[Any, ...], dict[str, Any]]:
    """Take the refs at the top level out: (places, refs, args, kwargs)."""
    places: list[int | str] = [i for i, a in enumerate(args) if type(a) is ObjectRef]
    names = [name for name, a in kwargs.items() if type(a) is ObjectRef]
    if not places and not names:
        return [], [], args, kwargs
    refs = [args[i] for i in places] + [kwargs[name] for name in names]  # type: ignore[index]
    args = tuple([None if type(a) is ObjectRef else a for a in args])
    kwargs = {name: None if type(a) is ObjectRef else a for name, a in kwargs.items()}
    return places + names, refs, args, kwargs  # type: ignore[operator]


def _frame(flags: int, data: bytes, views: list[memoryview]) -> bytes:
    sizes = struct.pack(f"<{len(views)}Q", *[view.nbytes for view in views])
    parts: list[Any] = [_HEAD.pack(FRAMED, flags, len(data), len(views)), sizes, data]
    size = _HEAD.size + len(sizes) + len(data)
    for view in views:
        gap = -size % _ALIGNMENT
        parts += [bytes(gap), view]
        size += gap + view.nbytes
    return b"".join(parts)


def named(payload: bytes | None, name: str) -> bytes:
    """``payload`` of a call that has a name of its own."""
    text = name.encode()[:NAME_BYTES_MOST]
    gap = bytes(-(_NAME.size + len(text)) % _ALIGNMENT)
    return b"".join((_NAME.pack(NAMED, len(text)), text, gap, payload or b""))


def name_of(payload: memoryview | None) -> str:
    """The call's own name, "" if it has none."""
    if payload is None or payload[0] != NAMED:
        return ""
    _, size = _NAME.unpack_from(payload)
    return bytes(payload[_NAME.size : _NAME.size + size]).decode(errors="replace")


def _behind_name(payload: memoryview) -> memoryview:
    _, size = _NAME.unpack_from(payload)
    return payload[_NAME.size + size + -(_NAME.size + size) % _ALIGNMENT :]


def unpack(task: Task, payload: memoryview) -> tuple[Any, dict[str, Any]]:
    """Return ``(args, kwargs)`` of a call whose payload is framed or named.

    A dependency's value is loaded here; it is never an error, or the task would not run.
    """
    if payload[0] == NAMED:
        payload = _behind_name(payload)
        if not payload:
            return (), {}
        if payload[0] != FRAMED:
            args = pickle.loads(payload)
            return (args, {}) if type(args) is tuple else (args[0], args[1])
    _, flags, data_bytes, n_buffers = _HEAD.unpack_from(payload)
    if flags & STORED:
        (value,) = task.dependencies(0, 1)
        first = 1
    else:
        value = _load_framed(task, payload, flags, data_bytes, n_buffers)
        first = 0
    if flags & PLACES:
        args, kwargs, places = value
        try:
            values = task.dependencies(first, len(places))
        except FullError:
            values = turns.together(
                task.memory, lambda patience_s: task.dependencies(first, len(places), patience_s)
            )
        return fill(args, kwargs, places, values)
    if type(value) is tuple:
        return value, {}
    return value[0], value[1]


def fill(
    args: tuple[Any, ...], kwargs: dict[str, Any], places: list[int | str], values: list[Any]
) -> tuple[list[Any], dict[str, Any]]:
    """Put ``values`` where ``split_refs`` took refs out."""
    filled = list(args)
    for place, value in zip(places, values):
        if type(place) is int:
            filled[place] = value
        else:
            kwargs[place] = value  # type: ignore[index]
    return filled, kwargs


def _load_framed(
    task: Task, payload: memoryview, flags: int, data_bytes: int, n_buffers: int
) -> Any:
    start = _HEAD.size + 8 * n_buffers
    views = None
    if n_buffers:
        sizes = struct.unpack_from(f"<{n_buffers}Q", payload, _HEAD.size)
        payload = memoryview(bytes(payload))
        views = []
        end = start + data_bytes
        for size in sizes:
            end += -end % _ALIGNMENT
            views.append(payload[end : end + size])
            end += size
    data = payload[start : start + data_bytes]
    if not flags & CONTAINED:
        return pickle.loads(data, buffers=views)
    task.loading()
    try:
        return pickle.loads(data, buffers=views)
    finally:
        task.loaded()
