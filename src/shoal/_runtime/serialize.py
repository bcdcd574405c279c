"""Values to bytes and back: pickle protocol 5, buffers out of band, refs in a table of their own.

What a value becomes::

    Pickled(data, buffers, contained)
        data        pickle without the large parts
        buffers     contiguous memory of arrays (PickleBuffer): copied once, into node memory, and
        read
                    there in place and read-only by everybody
        contained   the ObjectRefs met while pickling; the pickle names them by index (RULES O-1),
        so
                    that daemons can count them without unpickling

The C pickler goes first. cloudpickle (pure Python, 20 times slower) is used only if the C pickler
fails or has written a name of ``__main__``, which other processes do not have. Tried and dropped:
cloudpickle for everything (9 us instead of 0.6 us for ``((1,), {})``).

Arrays and tensors have shorter pickles than they would make themselves: see ``array_pickles``.

Errors of tasks are packed in two layers, facts outside and the exception inside, so that facts and
traceback arrive even where the exception's class can not be imported.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from shoal import _native, errors
from shoal._runtime import array_pickles, recorded, unpicklable
from shoal._runtime.session import check_home, current_or_none
from shoal.errors._task import Bare

PROTOCOL = 5
HEADLINE_MOST = 200
"""Characters."""
_MAIN = b"_main__"
"""Of ``__main__``, and of ``__mp_main__``, its name in a process that was spawned (``hooks``)."""
_RECORDS = "__shoal_records__"
"""Attribute of an error that was loaded in a worker."""


class Pickled(NamedTuple):
    """A value on its way."""

    data: bytes
    buffers: list[pickle.PickleBuffer]
    contained: list[_native.ObjectRef]

    @property
    def size_bytes(self) -> int:
        """What it takes in node memory, about."""
        return len(self.data) + sum(buffer.raw().nbytes for buffer in self.buffers)


def dumps(memory: _native.Memory, value: Any, what: str = "value") -> Pickled:
    """Pickle ``value``; ``what`` is its name in the error's path.

    Raises:
        SerializationError: something in it can not be pickled; names the path to it.
    """
    buffers: list[pickle.PickleBuffer] = []
    contained: list[_native.ObjectRef] = []
    former = memory.capture(contained)
    try:
        try:
            if array_pickles.are_meant(value):
                data = array_pickles.dumps(value, buffers.append)
            else:
                data = pickle.dumps(value, PROTOCOL, buffer_callback=buffers.append)
        except Exception:  # whatever a reducer raises: cloudpickle decides
            data = _MAIN
        if _MAIN in data:
            buffers.clear()
            contained.clear()
            data = dumps_by_value(value, what, buffers.append)
    finally:
        memory.capture(former)
    if contained:
        check_home(memory, contained)
    return Pickled(data, buffers, contained)


def dumps_by_value(
    value: Any, what: str, buffer_callback: Callable[[pickle.PickleBuffer], Any] | None = None
) -> bytes:
    """Pickle with cloudpickle: functions and classes that cannot be imported travel by value."""
    import cloudpickle

    try:
        data: bytes = cloudpickle.dumps(value, PROTOCOL, buffer_callback=buffer_callback)
    except errors.ShoalError:
        raise
    except Exception as error:  # whatever a reducer raises
        raise unpicklable.explain(value, what, error) from None
    return data


def put(
    memory: _native.Memory,
    value: Any,
    timeout_s: float = 0.0,
    store: Callable[..., _native.ObjectRef] | None = None,
) -> _native.ObjectRef:
    """Store ``value`` and return a ref to it; ``store`` takes the place of ``memory.put``."""
    ref = memory.put_simple(value)
    if ref is not None:
        return ref
    if type(value) is bytes:
        return (store or memory.put)(_native.FORMAT_BYTES, value, (), (), timeout_s)
    if isinstance(value, bytearray | memoryview):
        # Pickled in-band, in several copies: say no before they are made.
        size_bytes = memoryview(value).nbytes
        if size_bytes > memory.capacity_bytes:
            raise errors.ObjectStoreFullError(
                asked_bytes=size_bytes, capacity_bytes=memory.capacity_bytes
            )
    pickled = dumps(memory, value)
    if store is not None:
        return store(_native.FORMAT_PICKLE, *pickled, timeout_s)
    return put_pickled(memory, pickled, timeout_s)


def put_pickled(
    memory: _native.Memory, pickled: Pickled, timeout_s: float = 0.0
) -> _native.ObjectRef:
    """Store what is pickled already."""
    return memory.put(_native.FORMAT_PICKLE, *pickled, timeout_s)


loads = pickle.loads


# ---- errors -------------------------------------------------------------------------------------


def text_of(error: BaseException) -> str:
    """What it says of itself; its class, if user code that is to say it raises, too."""
    try:
        return str(error)
    except Exception as problem:  # whatever the class of a user does in __str__
        return f"{type(error).__name__} (its __str__ raised {type(problem).__name__})"


def headline(error: errors.TaskError) -> str:
    """Class and first line of what a task has raised: what others may read without loading it."""
    first = error._message.strip().partition("\n")[0]
    name = type(error.cause or error).__name__
    return f"{name}: {first}"[:HEADLINE_MOST] if first else name


def pack_error(memory: _native.Memory, error: errors.TaskError) -> Pickled:
    """Pickle the error of a task so that it can be read even without the class of its cause."""
    cause = error.cause
    packed: bytes | None = None
    if cause is not None:
        former = memory.capture([])
        try:
            packed = _dumps_cause(cause)
        except Exception as problem:  # whatever its reducer raises
            note = f"(its {type(cause).__name__} could not be pickled: {text_of(problem)})"
            error._message = f"{type(cause).__name__}: {error._message} {note}"
        finally:
            memory.capture(former)
    parts = (headline(error), error._message, error.facts, packed)
    return Pickled(pickle.dumps(parts, PROTOCOL), [], [])


def _dumps_cause(cause: BaseException) -> bytes:
    """Pickle an exception, and make sure that it can be loaded again; refs in it can not."""
    try:
        data = pickle.dumps(cause, PROTOCOL)
        if _MAIN in data:
            data = dumps_by_value(cause, "exception")
    except Exception:  # whatever a reducer raises: cloudpickle decides
        data = dumps_by_value(cause, "exception")
    try:
        pickle.loads(data)
    except Exception:  # whatever its constructor raises
        # It takes other arguments than the exception keeps in ``args``, the most common mistake
        # with exceptions: make it without the constructor.
        data = dumps_by_value(Bare(cause), "exception")
        pickle.loads(data)
    return data


def unpack_error(data: Any) -> errors.TaskError:
    """The error that ``pack_error`` packed."""
    _, message, facts, packed = pickle.loads(data)
    cause = None
    if packed is not None:
        try:
            cause = pickle.loads(packed)
        except Exception as problem:  # its module is missing here, or its constructor objects
            message = f"{message} (the exception could not be loaded here: {problem!r})"
    return errors.task_error(message, cause, facts)


def load_error(format: int, data: Any, ref: _native.ObjectRef) -> BaseException:
    """Build what ``get(ref)`` raises."""
    session = current_or_none()
    is_pickled = format == _native.FORMAT_ERROR_PICKLE
    error = unpack_error(data) if is_pickled else errors.from_record(bytes(data))
    if ref is not None and session is not None and session.role == "worker":
        # Should the task that asked fail of it, its own error holds them too.
        records = recorded.of_error(ref.memory, ref.key)[: recorded.MOST_PASSED_ON]
        if records:
            error.__dict__[_RECORDS] = records
    if is_pickled:
        return error
    if isinstance(error, errors.WorkerCrashedError | errors.ActorError):
        if error.pid and not error.node and session is not None:
            # Of a process of this node: daemons do not write their own name into every record.
            error.node = error.facts["node"] = session.node_id.hex()[:8]
        if isinstance(error, errors.ActorError) and error.error:
            load_cause(error)
    if isinstance(error, errors.DeadlineExceededError) and not error.stages_s and ref is not None:
        # A call that still runs in its actor: nobody has sealed how long it took.
        number, _, _, _, *seconds = ref.memory.task_state(ref.key) or (0, 0, 0, 0)
        error.stages_s = dict(zip(("held", "queued", "running"), seconds[:number]))
        error.timeout_s = round(sum(error.stages_s.values()), 3)
    return error


def records_of(error: BaseException) -> list[_native.ObjectRef]:
    """Records of failed tasks that came with ``error``, if it was loaded here from a ref."""
    found = getattr(error, "__dict__", {}).get(_RECORDS)
    return found if isinstance(found, list) else []


def load_cause(error: errors.ActorError) -> None:
    """Unpickle the constructor's exception that a daemon carried unread."""
    try:
        cause = unpack_error(error.error)
    except Exception as problem:  # whatever loading raises
        error.add_note(f"(the exception could not be loaded here: {problem!r})")
        return
    error.cause = cause.cause or cause
    error.__cause__ = cause


def raw(buffers: Sequence[pickle.PickleBuffer]) -> list[memoryview]:
    """Flat views of out-of-band buffers."""
    return [buffer.raw() for buffer in buffers]
