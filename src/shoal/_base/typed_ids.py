"""Ids as values of their own: bytes with a type, so that a node's id is not taken for a task's.

::

    JobID       4    number of the job
    NodeID     16    random
    ActorID    16    node 4 | key of its lifetime object 8 | JobID
    TaskID     24    key of its first result 8 | ActorID
    ObjectID   32    TaskID | generation 4 | number of the return, 10 bits | slot, 22 bits
    WorkerID   24    NodeID | index 4 | pid 4

Each id contains the ids above it: an object's its task's, a task's its actor's and job's, and all
begin of their node's. What there is not is all ones: the actor of a plain task; the task of what a
driver put, or an actor outside its calls. A constructor's task is that of its actor, without a key.

A task's parent is not in its id: it would bring its own parents along, without end. It is known all
the same (``get_parent_task_id``, ``state.tasks``).

An id is never made on the way of a call. Its key is born with the object; the rest stands in the
object's slot while that lives (``layout.hpp``), in its events, and in the spec of what runs, so
whoever has one of these writes the same bytes.

Everywhere in the API an id is its ``hex()``; these classes are for programs that pack ids into
bytes or want to know what they say.

Invariants: an id is immutable, equal only to ids of its class, and pickles as its bytes.
"""

from __future__ import annotations

import builtins
import os
from typing import Any, ClassVar, TypeVar

Id = TypeVar("Id", bound="UniqueID")

NONE = b"\xff" * 8
_NO_KEY = (1 << 64) - 1
_SLOT_BITS = 22
_INDEXES = (1 << 10) - 1


class UniqueID:
    """Base of all ids; by itself an id of any length.

    Example:
        >>> shoal.ids.JobID.from_int(7).hex()
        '00000007'
    """

    SIZE: ClassVar[int] = 0
    """Bytes; 0: any number."""

    __slots__ = ("_bytes",)

    def __init__(self, binary: bytes) -> None:
        if not isinstance(binary, bytes):
            raise TypeError(f"{type(self).__name__} needs bytes, not {type(binary).__name__}")
        if self.SIZE and len(binary) != self.SIZE:
            raise ValueError(f"{type(self).__name__} has {self.SIZE} bytes, not {len(binary)}")
        self._bytes = binary

    @classmethod
    def from_binary(cls: type[Id], binary: bytes) -> Id:
        """The id with these bytes."""
        return cls(binary)

    @classmethod
    def from_hex(cls: type[Id], text: str) -> Id:
        """The id that ``hex()`` writes so."""
        return cls(bytes.fromhex(text))

    @classmethod
    def from_random(cls: type[Id]) -> Id:
        """An id that nothing has."""
        return cls(os.urandom(cls.size()))

    @classmethod
    def nil(cls: type[Id]) -> Id:
        """The id of nothing."""
        return cls(b"\xff" * cls.size())

    @classmethod
    def size(cls) -> int:
        """How many bytes it has."""
        return cls.SIZE or 16

    def is_nil(self) -> bool:
        """Whether it is the id of nothing."""
        return self._bytes == b"\xff" * len(self._bytes)

    def binary(self) -> bytes:
        """Its bytes."""
        return self._bytes

    def hex(self) -> str:
        """Its bytes as text."""
        return self._bytes.hex()

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._bytes == other._bytes

    def __hash__(self) -> int:
        return hash(self._bytes)

    def __reduce__(self) -> Any:
        return type(self), (self._bytes,)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.hex()})"


class JobID(UniqueID):
    """Id of a job: one per program that uses a session."""

    SIZE = 4
    __slots__ = ()

    @classmethod
    def from_int(cls, number: builtins.int) -> JobID:
        """The job with this number."""
        return cls(number.to_bytes(4, "big"))

    def int(self) -> builtins.int:
        """Its number."""
        return builtins.int.from_bytes(self._bytes, "big")


class NodeID(UniqueID):
    """Id of a node."""

    SIZE = 16
    __slots__ = ()


class WorkerID(UniqueID):
    """Id of a process that runs tasks or an actor."""

    SIZE = 24
    __slots__ = ()

    def node_id(self) -> NodeID:
        """The node that it runs on."""
        return NodeID(self._bytes[:16])


class ActorID(UniqueID):
    """Id of an actor."""

    SIZE = 16
    __slots__ = ()

    def job_id(self) -> JobID:
        """The job that it belongs to: that which made it, or a detached actor's own."""
        return JobID(self._bytes[12:])


class TaskID(UniqueID):
    """Id of a task, of a call of an actor, of a constructor, or of a driver."""

    SIZE = 24
    __slots__ = ()

    def actor_id(self) -> ActorID:
        """The actor that is called or constructed; nil for plain tasks."""
        return ActorID.nil() if self._bytes[12:20] == NONE else ActorID(self._bytes[8:])

    def job_id(self) -> JobID:
        """The job that it belongs to; of calls, the actor's."""
        return JobID(self._bytes[20:])


class ObjectID(UniqueID):
    """Id of a value, the bytes of ``ObjectRef.binary()``.

    Example:
        >>> ref = shoal.remote(len).remote("four")
        >>> shoal.ids.ObjectID.from_hex(ref.hex()).task_id() == ref.task_id()
        True
    """

    SIZE = 32
    __slots__ = ()

    def task_id(self) -> TaskID:
        """The task whose result it is, or that put it."""
        return TaskID(self._bytes[:24])

    def job_id(self) -> JobID:
        """The job that it is from."""
        return JobID(self._bytes[20:24])

    def index(self) -> builtins.int:
        """Number of the return, from 1 (511: it, or any later one); 0 for what was put."""
        return builtins.int.from_bytes(self._bytes[28:32], "big") >> _SLOT_BITS


class PlacementGroupID(UniqueID):
    """Id of a placement group."""

    __slots__ = ()


class FunctionID(UniqueID):
    """Hash of an exported function."""

    __slots__ = ()


class ActorClassID(UniqueID):
    """Hash of an exported class."""

    __slots__ = ()


def actor_id(node_id: bytes, key: int, job: int) -> str:
    """The actor whose lifetime object has this key, and that belongs to ``job``."""
    return f"{node_id[:4].hex()}{_key(key)}{job:08x}"


def task_id(node_id: bytes, key: int, actor: int, job: int) -> str:
    """The task with this first result; ``actor``: key of the actor that is called. 0: none."""
    return _key(key) + actor_id(node_id, actor, job)


def object_id(node_id: bytes, key: int, ancestry: tuple[int, int, int, int]) -> str:
    """``ObjectRef.hex()`` of the object with this key, see ``Memory.ancestry``."""
    task, actor, job, index = ancestry
    return f"{task_id(node_id, task, actor, job)}{key | index << _SLOT_BITS:016x}"


def key_of(about: str) -> int:
    """The key in an object's or task's id as text; 0 if it is neither, or has none."""
    try:
        number = int(about[:16] if len(about) == 2 * TaskID.SIZE else about[-16:], 16)
    except ValueError:
        return 0
    if len(about) == 2 * ObjectID.SIZE:
        return number & ~(_INDEXES << _SLOT_BITS)
    return number if len(about) == 2 * TaskID.SIZE and number != _NO_KEY else 0


def worker_id(node_id: bytes, index: int, pid: int) -> str:
    """The worker with this index and pid."""
    return f"{node_id.hex()}{index:08x}{pid:08x}"


def _key(key: int) -> str:
    return f"{key or _NO_KEY:016x}"
