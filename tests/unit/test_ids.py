"""Ids as values: bytes with a type."""

from __future__ import annotations

import pickle

import pytest

from shoal import ids
from shoal._base import typed_ids
from shoal._base.ids import actor_id

KINDS = [getattr(ids, name) for name in ids.__all__]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: str(kind.__name__))
def test_every_kind_goes_there_and_back(kind: type[ids.UniqueID]) -> None:
    one = kind.from_random()
    assert kind.from_hex(one.hex()) == kind.from_binary(one.binary()) == one
    assert pickle.loads(pickle.dumps(one)) == one and hash(kind(one.binary())) == hash(one)
    assert not one.is_nil() and kind.nil().is_nil() and len(one.binary()) == kind.size()
    assert one.hex() in repr(one) and one != one.binary() and one != kind.from_random()


def test_kinds_are_not_equal_to_each_other() -> None:
    data = bytes(16)
    assert ids.TaskID(data) != ids.ObjectID(data)
    assert len({ids.TaskID(data), ids.ObjectID(data), ids.NodeID(data)}) == 3


def test_what_is_no_id() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        ids.NodeID(b"short")
    with pytest.raises(TypeError, match="bytes"):
        ids.NodeID("0" * 32)  # type: ignore[arg-type]


def test_ids_say_where_they_come_from() -> None:
    node = bytes(range(16))
    actor = ids.ActorID.from_hex(actor_id(node, job=7, number=3))
    assert actor.job_id() == ids.JobID.from_int(7) and actor.job_id().int() == 7
    assert actor.hex().startswith(node[:4].hex())
    task = ids.TaskID.from_hex(typed_ids.object_id(node, 0x0000_0002_0000_0001))
    assert task.binary() == node[:8] + bytes([0, 0, 0, 2, 0, 0, 0, 1])
    assert ids.WorkerID.from_hex(typed_ids.worker_id(node, 3, 4)).binary()[-1] == 4
