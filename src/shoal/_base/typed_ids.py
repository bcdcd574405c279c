"""Ids as values of their own: bytes with a type, so that a node's id is not taken for a task's.

::

    JobID       4 bytes    number of the job
    NodeID     16 bytes    random
    ObjectID   16 bytes    first half of the node's id | key
    TaskID     16 bytes    first half of the node's id | key of the first result
    ActorID    12 bytes    first quarter of the node's id | job | number
    WorkerID   16 bytes    first half of the node's id | index | pid

So an actor's id says its job, every id its node; the id of a task that returns one value is the id
of that value, and the task of any other value is kept with it (``ObjectRef.task_id``).
Everywhere in the API an id is its ``hex()``; these classes are for programs that pack ids into
bytes or compare them with those of ``ObjectRef``.

Invariants: an id is immutable, equal only to ids of its class, and pickles as its bytes.
"""

from __future__ import annotations

import builtins
import os
from typing import Any, ClassVar, TypeVar

Id = TypeVar("Id", bound="UniqueID")


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

    SIZE = 16
    __slots__ = ()


class ObjectID(UniqueID):
    """Id of a value, the bytes of ``ObjectRef.binary()``."""

    SIZE = 16
    __slots__ = ()


class TaskID(UniqueID):
    """Id of a task or call."""

    SIZE = 16
    __slots__ = ()


class ActorID(UniqueID):
    """Id of an actor."""

    SIZE = 12
    __slots__ = ()

    def job_id(self) -> JobID:
        """The job that made it."""
        return JobID(self._bytes[4:8])


class PlacementGroupID(UniqueID):
    """Id of a placement group."""

    __slots__ = ()


class FunctionID(UniqueID):
    """Hash of an exported function."""

    __slots__ = ()


class ActorClassID(UniqueID):
    """Hash of an exported class."""

    __slots__ = ()


def object_id(node_id: bytes, key: int) -> str:
    """``ObjectRef.hex()`` of the object with this key; the id of a task from its first result."""
    return f"{node_id[:8].hex()}{key:016x}"


def worker_id(node_id: bytes, index: int, pid: int) -> str:
    """The worker with this index and pid."""
    return f"{node_id[:8].hex()}{index:08x}{pid:08x}"
