"""Ids that say where they come from: the same bytes wherever they are asked for, to the end."""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

import shoal
from shoal import errors, ids, state


@pytest.fixture(autouse=True)
def session() -> None:
    shoal.init(num_cpus=2)


def here() -> dict[str, Any]:
    """What the running code knows of itself, and a value that it puts."""
    now = shoal.get_runtime_context()
    ref = shoal.put([1])
    return {
        "task": now.get_task_id(),
        "parent": now.get_parent_task_id(),
        "actor": now.get_actor_id(),
        "job": now.get_job_id(),
        "put": [ref],
        "put_id": ref.hex(),
    }


@shoal.remote
def told() -> dict[str, Any]:
    return here()


@shoal.remote(num_returns=2)
def twice() -> tuple[Any, Any]:
    return here(), 2


class Nested:
    """What actors of every kind do here."""

    def __init__(self) -> None:
        self.made = here()

    def of_constructor(self) -> dict[str, Any]:
        return self.made

    def child(self) -> tuple[Any, Any]:
        return here(), shoal.get(told.remote())

    def pid(self) -> int:
        return os.getpid()


@shoal.remote
class Serial(Nested):
    def call(self) -> dict[str, Any]:
        return here()


@shoal.remote(max_concurrency=3)
class Threaded(Nested):
    def call(self) -> dict[str, Any]:
        return here()


@shoal.remote
class Asyncio(Nested):
    async def call(self) -> dict[str, Any]:
        return here()


def check(ref: shoal.ObjectRef[Any], seen: dict[str, Any], index: int = 1) -> None:
    """``ref`` is the result of the call that has told ``seen``."""
    task = ids.TaskID.from_hex(seen["task"])
    object_id = ids.ObjectID.from_hex(ref.hex())
    assert ref.task_id() == object_id.task_id() == task and object_id.binary() == ref.binary()
    assert ref.job_id() == object_id.job_id() == task.job_id() == ids.JobID.from_hex(seen["job"])
    assert object_id.index() == index
    put = seen["put"][0]
    assert put.hex() == seen["put_id"] and put.task_id() == task
    assert ids.ObjectID(put.binary()).index() == 0
    actor = task.actor_id()
    assert actor.is_nil() if seen["actor"] is None else actor.hex() == seen["actor"]


def test_a_task_and_what_it_makes() -> None:
    ref = told.remote()
    before = ref.hex()
    check(ref, shoal.get(ref))
    assert ref.hex() == before, "the same after its spec is gone"
    refs = twice.remote()
    ready = [one.hex() for one in refs]
    seen = shoal.get(refs[0])
    check(refs[0], seen)
    check(refs[1], seen, 2)
    assert [one.hex() for one in refs] == ready and len(set(ready)) == 2
    last = refs.pop()
    refs.clear()
    shoal.get([told.remote() for _ in range(20)])
    check(last, seen, 2)


@pytest.mark.parametrize("cls", [Serial, Threaded, Asyncio])
def test_calls_of_actors_and_constructors(cls: Any) -> None:
    actor = cls.remote()
    refs = [actor.call.remote() for _ in range(3)]
    before = [ref.hex() for ref in refs]
    seen = shoal.get(refs)
    for ref, told_ in zip(refs, seen):
        check(ref, told_)
    assert [ref.hex() for ref in refs] == before
    assert {told_["actor"] for told_ in seen} == {actor._actor_id.hex()}
    assert actor._actor_id.job_id().hex() == seen[0]["job"]
    ref = actor.child.remote()
    mine, below = shoal.get(ref)
    assert below["parent"] == mine["task"] == ref.task_id().hex()
    made = shoal.get(actor.of_constructor.remote())
    constructor = ids.TaskID.from_hex(made["task"])
    assert constructor.actor_id() == actor._actor_id and made["put"][0].task_id() == constructor
    assert constructor not in [one.task_id() for one in refs]
    del actor, mine, made
    end = time.monotonic() + 60
    while state.actors(actor_id=seen[0]["actor"])[0].state != "DEAD":
        assert time.monotonic() < end
        time.sleep(0.01)
    assert [one.hex() for one in refs] == before, "the same when the actor is gone"


def test_a_result_keeps_its_id_when_its_actor_is_killed() -> None:
    actor = Serial.options(max_restarts=1).remote()
    refs = [actor.call.remote() for _ in range(3)]
    before = [ref.hex() for ref in refs]
    shoal.get(refs)
    os.kill(shoal.get(actor.pid.remote()), signal.SIGKILL)
    check(again := actor.call.options(max_task_retries=3).remote(), shoal.get(again))
    assert [ref.hex() for ref in refs] == before
    assert again.task_id().actor_id() == refs[0].task_id().actor_id()


def test_the_driver_has_a_task_that_says_its_job() -> None:
    task = shoal.put(1).task_id()
    assert task == shoal.put(2).task_id() and not task.is_nil() and task.actor_id().is_nil()
    assert task.job_id() == shoal.get_runtime_context().job_id


def test_every_view_writes_the_same_bytes(tmp_path: Any) -> None:
    actor = Serial.remote()
    ref, plain, value = actor.child.remote(), told.remote(), shoal.put([1])
    (mine, below), _ = shoal.get([ref, plain])
    rows = {row.task_id: row for row in state.tasks()}
    assert {ref.task_id().hex(), plain.task_id().hex(), below["task"]} <= set(rows)
    assert rows[below["task"]].parent == mine["task"]
    assert rows[mine["task"]].actor_id == mine["actor"]
    assert {ref.hex(), value.hex(), plain.hex()} <= {row.object_id for row in state.objects()}
    assert [event.kind for event in state.events(id=value.hex())] == ["put"]
    kinds = [event.kind for event in state.events(id=mine["task"])]
    assert kinds == ["submitted", "taken", "sealed"]
    drawn = {event["args"].get("task_id") for event in shoal.timeline() or ()}
    assert {ref.task_id().hex(), plain.task_id().hex(), below["task"]} <= drawn


def test_errors_and_pickles_carry_them() -> None:
    @shoal.remote
    def bad() -> None:
        raise ValueError(shoal.get_runtime_context().get_task_id())

    ref = bad.remote()
    with pytest.raises(ValueError) as caught:
        shoal.get(ref)
    error: Any = caught.value
    assert error.task_id == ref.task_id().hex() == str(error.cause)
    with pytest.warns(UserWarning, match=ref.hex()):
        copy = pickle.loads(pickle.dumps(ref))
    assert copy == ref and hash(copy) == hash(ref) and copy.hex() == ref.hex()


def test_items_of_a_stream_say_the_task_that_yields_them() -> None:
    @shoal.remote(num_returns="streaming")
    def numbers() -> Iterator[Any]:
        for _ in range(3):
            yield shoal.get_runtime_context().get_task_id()

    items = list(numbers.remote())
    assert [item.task_id().hex() for item in items] == shoal.get(items)
    assert len({item.hex() for item in items}) == 3


def test_a_detached_actor_says_the_job_that_its_work_belongs_to() -> None:
    actor = Serial.options(lifetime="detached", name="apart").remote()
    ref = actor.call.remote()
    seen = shoal.get(ref)
    check(ref, seen)
    assert seen["job"] != shoal.get_runtime_context().get_job_id()
    shoal.kill(actor)


def test_a_ref_out_of_an_id_counts_while_somebody_holds_the_value() -> None:
    @shoal.remote
    def read(binary: bytes) -> Any:
        return shoal.get(shoal.ObjectRef.from_binary(binary))

    ref = shoal.put([1, 2])
    binary, text = ref.binary(), ref.hex()
    again = shoal.ObjectRef.from_hex(text)
    assert again == ref and shoal.get(again) == [1, 2] and again.binary() == binary
    assert shoal.get(read.remote(binary)) == [1, 2]
    assert len(binary) == shoal.ObjectRef.size() and not ref.is_nil()
    result = told.remote()
    assert shoal.ObjectRef.from_binary(result.binary()) == result
    shoal.get(result)
    del ref
    assert shoal.get(shoal.ObjectRef.from_binary(binary)) == [1, 2], "the copy holds it"
    del again
    others = [shoal.put([i]) for i in range(100)]
    for gone in (binary, b"\1" * 32, ids.ObjectID.from_random().binary()):
        with pytest.raises(errors.ObjectLostError, match=r"nobody holds it|another session"):
            shoal.ObjectRef.from_binary(gone)
    with pytest.raises(errors.ObjectLostError) as caught:
        shoal.get(read.remote(binary))
    assert text in str(caught.value) and len(others) == 100


def test_there_is_no_ref_to_nothing() -> None:
    for make in (
        shoal.ObjectRef.nil,
        shoal.ObjectRef.from_random,
        lambda: shoal.ObjectRef.from_binary(ids.ObjectID.nil().binary()),
    ):
        with pytest.raises(errors.NotSupportedError, match="None where there is none"):
            make()
    with pytest.raises(ValueError, match="32 bytes, not 3"):
        shoal.ObjectRef.from_binary(b"abc")
    with pytest.raises(TypeError, match="needs bytes"):
        shoal.ObjectRef.from_binary("abc")  # type: ignore[arg-type]


def test_after_the_session_an_id_is_asked_too_late() -> None:
    ref = shoal.put(1)
    shoal.shutdown()
    assert "not here any more" in repr(ref)
    with pytest.raises(errors.SessionLostError, match="before that"):
        ref.hex()
