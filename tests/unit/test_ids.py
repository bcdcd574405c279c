"""Ids as values: bytes with a type."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal import ids
from shoal._base import typed_ids
from shoal._base.ids import make_key

KINDS = [getattr(ids, name) for name in ids.__all__]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: str(kind.__name__))
def test_every_kind_goes_there_and_back(kind: type[ids.UniqueID]) -> None:
    one = kind.from_random()
    assert kind.from_hex(one.hex()) == kind.from_binary(one.binary()) == one
    assert pickle.loads(pickle.dumps(one)) == one and hash(kind(one.binary())) == hash(one)
    assert not one.is_nil() and kind.nil().is_nil() and len(one.binary()) == kind.size()
    assert one.hex() in repr(one) and one != one.binary() and one != kind.from_random()


def test_kinds_are_not_equal_to_each_other() -> None:
    data = bytes(24)
    assert ids.TaskID(data) != ids.WorkerID(data)
    assert len({ids.TaskID(data), ids.WorkerID(data), ids.UniqueID(data)}) == 3


def test_what_is_no_id() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        ids.NodeID(b"short")
    with pytest.raises(TypeError, match="bytes"):
        ids.NodeID("0" * 32)  # type: ignore[arg-type]


NUMBERS = st.integers(0, 2**32 - 1)
KEYS = st.builds(make_key, st.integers(1, 2**22 - 1), st.integers(1, 2**32 - 1))


@given(st.binary(min_size=16, max_size=16), KEYS, KEYS | st.just(0), NUMBERS)
def test_a_task_says_its_actor_and_its_job(node: bytes, key: int, actor: int, job: int) -> None:
    task = ids.TaskID.from_hex(typed_ids.task_id(node, key, actor, job))
    assert task.job_id().int() == job and not task.is_nil()
    if not actor:
        assert task.actor_id().is_nil()
        return
    assert task.actor_id() == ids.ActorID.from_hex(typed_ids.actor_id(node, actor, job))
    assert task.actor_id().job_id() == task.job_id()


@given(st.binary(min_size=16, max_size=16), KEYS, st.tuples(KEYS, KEYS, NUMBERS))
def test_a_value_says_its_task_and_which_of_its_returns_it_is(
    node: bytes, key: int, maker: tuple[int, int, int]
) -> None:
    texts = [typed_ids.object_id(node, key, (*maker, index)) for index in (0, 1, 2, 511)]
    values = [ids.ObjectID.from_hex(text) for text in texts]
    assert [value.index() for value in values] == [0, 1, 2, 511]
    assert {value.task_id().hex() for value in values} == {typed_ids.task_id(node, *maker)}
    assert {value.job_id().int() for value in values} == {maker[2]}
    assert len({value.hex() for value in values}) == 4


@given(st.lists(st.tuples(KEYS, KEYS | st.just(0), NUMBERS), unique=True, max_size=20))
def test_different_facts_are_different_ids(facts: list[tuple[int, int, int]]) -> None:
    node = bytes(16)
    tasks = {typed_ids.task_id(node, *one) for one in facts}
    values = {typed_ids.object_id(node, one[0], (*one, 1)) for one in facts}
    assert len(tasks) == len(values) == len(facts)


def test_what_there_is_not_is_all_ones() -> None:
    driver = ids.TaskID.from_hex(typed_ids.task_id(bytes(16), 0, 0, 7))
    assert driver.actor_id().is_nil() and driver.job_id().int() == 7 and not driver.is_nil()
    constructor = ids.TaskID.from_hex(typed_ids.task_id(bytes(16), 0, 5, 7))
    assert constructor.actor_id().hex() == typed_ids.actor_id(bytes(16), 5, 7)


def test_a_worker_says_its_node() -> None:
    node = bytes(range(16))
    worker = ids.WorkerID.from_hex(typed_ids.worker_id(node, 3, 4))
    assert worker.node_id() == ids.NodeID(node) and worker.binary()[-1] == 4
