"""Ids as typed values; see ``_base/typed_ids.py`` for what each is made of.

Example:
    >>> shoal.ids.NodeID.from_hex(shoal.get_runtime_context().get_node_id()).is_nil()
    False
"""

from __future__ import annotations

from shoal._base.typed_ids import (
    ActorClassID,
    ActorID,
    FunctionID,
    JobID,
    NodeID,
    ObjectID,
    PlacementGroupID,
    TaskID,
    UniqueID,
    WorkerID,
)

__all__ = [
    "ActorClassID",
    "ActorID",
    "FunctionID",
    "JobID",
    "NodeID",
    "ObjectID",
    "PlacementGroupID",
    "TaskID",
    "UniqueID",
    "WorkerID",
]
