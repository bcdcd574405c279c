"""Refs out of ids: ``ObjectRef.from_binary`` and its kin.

An id keeps nothing: bytes that went through a file or another program count as no ref. A ref that
is made of them counts from then on like any other, so it can only be made while somebody else
holds the value. What it names must be exactly what the bytes say: an id of a value that was freed,
or of another session, is an error, never some other value.

There is no ref to nothing: ``nil`` and ``from_random`` say what to write instead.

This module adds them to the native class; whoever imports ``shoal.ObjectRef``, or has a session,
has imported it.
"""

from __future__ import annotations

from typing import Any

from shoal import errors
from shoal._base import typed_ids
from shoal._native import ObjectRef as ObjectRef  # noqa: PLC0414
from shoal._runtime import session as sessions


def from_binary(cls: type[ObjectRef[Any]], binary: bytes) -> ObjectRef[Any]:
    """The ref to the value with this id, which somebody else must hold; see ``_native.pyi``."""
    object_id = typed_ids.ObjectID(binary)
    session = sessions.current()
    ref = session.memory.ref(typed_ids.key_of(object_id.hex()))
    if ref is not None and ref.binary() == binary:
        return ref
    if object_id.is_nil():
        return no_value(cls)
    if binary[8:12] != session.node_id[:4]:
        reason = "its id is of another session, whose values are not here"
    else:
        reason = "nobody holds it any more; an id keeps nothing, a ref (in a list, an actor) does"
    raise errors.ObjectLostError(object_id=object_id.hex(), reason=reason)


def from_hex(cls: type[ObjectRef[Any]], text: str) -> ObjectRef[Any]:
    """As ``from_binary``, of what ``hex`` has written."""
    return from_binary(cls, bytes.fromhex(text))


def no_value(cls: type[ObjectRef[Any]]) -> ObjectRef[Any]:
    """Stand for what makes refs to nothing in other systems."""
    raise errors.NotSupportedError(
        "a ref always names a value: write None where there is none; ids without one are"
        " shoal.ids.ObjectID.nil() and shoal.ids.ObjectID.from_random()"
    )


def size(cls: type[ObjectRef[Any]]) -> int:
    """How many bytes ``binary`` has."""
    return typed_ids.ObjectID.SIZE


def is_nil(self: ObjectRef[Any]) -> bool:
    """False: a ref always names a value."""
    return False


def _extend(cls: Any) -> None:
    for name, function in (
        ("from_binary", from_binary),
        ("from_hex", from_hex),
        ("nil", no_value),
        ("from_random", no_value),
        ("size", size),
    ):
        setattr(cls, name, classmethod(function))
    cls.is_nil = is_nil


_extend(ObjectRef)
