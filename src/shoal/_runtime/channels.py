"""What blocks and channels need of Python: pickling, errors; and how they are made.

Native code imports this module when it needs it for the first time in a process (a value that is
not small and plain, an error); who sends integers never does.
"""

from __future__ import annotations

import os
import traceback
from typing import Any

from shoal import _native, errors
from shoal._native import Channel, Memory, SharedBlock
from shoal._runtime import serialize
from shoal._runtime import session as sessions
from shoal._runtime.objects import PUT_WAIT_S

MOST_SLOTS = 64
MOST_READERS = 64
MOST_BYTES = 2**46
"""More than any store has: found out before it is asked for."""


def make_block(nbytes: int) -> SharedBlock:
    """See ``shoal.lowlevel.shared_block``."""
    _check("nbytes", nbytes, 0, MOST_BYTES)
    memory = sessions.current().memory
    try:
        return memory.shared_block(nbytes, PUT_WAIT_S)
    except sessions.NATIVE_ERRORS as error:
        raise sessions.translate(error, memory) from None


def make_channel(capacity_bytes: int, slots: int, readers: int) -> Channel:
    """See ``shoal.lowlevel.channel``."""
    _check("capacity_bytes", capacity_bytes, 0, MOST_BYTES)
    _check("slots", slots, 1, MOST_SLOTS)
    _check("readers", readers, 1, MOST_READERS)
    memory = sessions.current().memory
    try:
        return memory.channel(capacity_bytes, slots, readers, PUT_WAIT_S)
    except sessions.NATIVE_ERRORS as error:
        raise sessions.translate(error, memory) from None


def _check(name: str, value: Any, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        text = f"{name} must be an integer from {least} to {most:,}, not {value!r}"
        raise errors.OptionError(text, option=name)


def _dumps(memory: Memory, value: Any) -> serialize.Pickled:
    return serialize.dumps(memory, value, "message")


def _pack(memory: Memory, error: Any) -> tuple[int, bytes]:
    """An exception, or a record, as ``(format, bytes)``."""
    if isinstance(error, bytes):
        return _native.FORMAT_ERROR_RECORD, error
    if isinstance(error, errors.ShoalError) and not isinstance(error, errors.TaskError):
        return _native.FORMAT_ERROR_RECORD, errors.to_record(error)
    if not isinstance(error, BaseException):
        raise TypeError(f"an exception is needed, not a {type(error).__name__}: {error!r:.80}")
    if not isinstance(error, errors.TaskError):
        text = "".join(traceback.format_exception(error)).rstrip()
        said = serialize.text_of(error)
        error = errors.TaskError(said, error, remote_traceback=text, pid=os.getpid())
    return _native.FORMAT_ERROR_PICKLE, serialize.pack_error(memory, error).data


def _failed(kind: str, a: Any, b: Any) -> BaseException:
    """What is raised when a channel can not do what it was asked."""
    if kind == "closed":
        error = errors.ChannelClosedError(cause=a)
        error.__cause__ = a
        return error
    if kind == "large":
        return errors.MessageTooLargeError(size_bytes=a, capacity_bytes=b)
    what = "the next message of the channel" if kind == "read" else "a free slot of the channel"
    late = errors.ChannelTimeoutError(what=what, timeout_s=a)
    late.ask(lambda timeout_s: _reason(what) if timeout_s else b"")
    return late


def _reason(what: str) -> bytes:
    """Only who looks at the error makes it: many try again and again."""
    from shoal._proto import reasons

    return reasons.pack(reasons.WaitsForChannel(what=what))


_native.set_channel_hooks(dumps=_dumps, pack=_pack, failed=_failed, translate=sessions.translate)
