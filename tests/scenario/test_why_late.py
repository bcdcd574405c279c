"""Every error about a time that is over says why, with types, also after a pickle."""

from __future__ import annotations

import asyncio
import pickle
import queue
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal import errors, state
from shoal._proto import reasons as r
from shoal.dag import InputNode
from shoal.errors._why import Why
from shoal.util import collective, placement_group, remove_placement_group
from shoal.util.executor import PoolExecutor
from shoal.util.multiprocessing import Pool
from shoal.util.queue import Empty, Full, Queue


@pytest.fixture(scope="module", autouse=True)
def _one_session() -> Iterator[None]:
    shoal.init(num_cpus=2, object_store_memory=64 << 20, log_to_driver=False)
    yield
    shoal.shutdown()


@pytest.fixture(autouse=True)
def _end_session() -> Iterator[None]:
    """One session for all tests here: the one of tests/conftest.py would end it."""
    yield


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "go"
    yield path
    path.touch()


def pass_gate(gate: Path) -> int:
    deadline = time.monotonic() + 60
    while not gate.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    return 1


def until_it_runs(ref: shoal.ObjectRef[Any]) -> None:
    deadline = time.monotonic() + 60
    while not isinstance(state.why(ref).reason, r.Running):
        assert time.monotonic() < deadline
        time.sleep(0.005)


def why_of(call: Callable[[], Any], kind: type[BaseException]) -> Why:
    """The explanation in the error that ``call`` raises, which survives a pickle."""
    with pytest.raises(kind) as caught:
        call()
    why = caught.value.why  # type: ignore[attr-defined]
    assert isinstance(why, Why)
    assert pickle.loads(pickle.dumps(caught.value)).why == why
    assert str(why).splitlines()[0] in str(caught.value)
    return why


def test_a_future_and_a_deadline(gate: Path) -> None:
    slow = shoal.remote(pass_gate)
    running = slow.options(num_cpus=2).remote(gate)
    future = running.future()
    why = why_of(lambda: future.result(timeout=0.05), errors.GetTimeoutError)
    assert why.reason.task == running.task_id().hex()
    assert why_of(lambda: future.exception(timeout=0.05), TimeoutError).reason is not None
    over = slow.options(timeout_s=0.1).remote(gate)
    with pytest.raises(errors.DeadlineExceededError) as caught:
        shoal.get(over)
    told = caught.value.why.reason
    assert isinstance(told, r.TimeOver) and told.stage == "queued" and told.timeout_s >= 0.1
    assert told.stages_s["queued"] > 0 and "queued" in str(caught.value.why)
    gate.touch()
    assert future.result(timeout=60) == 1 == shoal.get(running)


def test_many_refs_and_an_event_loop(gate: Path) -> None:
    """Also where asyncio ended the wait: its own error is not ours, but the ref can be asked."""
    running = shoal.remote(pass_gate).remote(gate)
    there = [shoal.put(i) for i in range(20)]
    why = why_of(lambda: shoal.get([*there, running], timeout=0.05), errors.GetTimeoutError)
    assert why.reason.task == running.task_id().hex()
    assert shoal.wait([*there, running], num_returns=21, timeout=0.05)[1] == [running]

    async def limited() -> str:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(running, 0.05)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await running
        return str(state.why(running))

    assert "pass_gate" in asyncio.run(limited())
    gate.touch()
    assert shoal.get(running, timeout=60) == 1


def test_a_group_that_has_no_place(gate: Path) -> None:
    running = shoal.remote(pass_gate).options(num_cpus=2).remote(gate)
    until_it_runs(running)
    group = placement_group([{"CPU": 2}])
    assert not group.wait(0.05)
    assert isinstance(state.why(group).reason, r.GroupPending)
    ready = group.ready()
    for call in (lambda: shoal.get(ready, timeout=0.05), lambda: ready.future().result(0.05)):
        why = why_of(call, errors.GetTimeoutError)
        assert isinstance(why.reason, r.GroupPending) and why.reason.group == group.id.hex()
        assert why.root.task in ("", running.task_id().hex())
    gate.touch()
    shoal.get(ready, timeout=60)
    remove_placement_group(group)


def test_a_queue_that_is_empty_or_full() -> None:
    jobs = Queue(maxsize=1, actor_options={"num_cpus": 0})
    holder = jobs.actor._actor_id.hex()
    empty = why_of(lambda: jobs.get(timeout=0.01), Empty)
    assert isinstance(empty.reason, r.ActorIdle) and empty.reason.actor == holder
    jobs.put(1)
    full = why_of(lambda: jobs.put(2, timeout=0.01), Full)
    assert full.reason.actor == holder
    with pytest.raises(queue.Empty):
        Queue(actor_options={"num_cpus": 0}).get_nowait()


def test_pools(gate: Path) -> None:
    with Pool(1) as pool:
        late = pool.apply_async(pass_gate, (gate,))
        assert why_of(lambda: late.get(timeout=0.05), TimeoutError).reason is not None
        items = pool.imap(pass_gate, [gate])
        assert why_of(lambda: items.next(timeout=0.05), TimeoutError).reason is not None
        gate.touch()
        assert late.get(timeout=60) == 1
    gate.unlink()
    with PoolExecutor(max_workers=1) as executor:
        found = executor.map(pass_gate, [gate], timeout=0.05)
        assert why_of(lambda: next(found), TimeoutError).reason is not None
        gate.touch()


def test_a_rank_that_does_not_come() -> None:
    @shoal.remote(num_cpus=0)
    def alone() -> None:
        collective.init_collective_group(2, 0, group_name="alone", timeout_s=0.1)

    with pytest.raises(errors.CollectiveTimeoutError) as caught:
        shoal.get(alone.remote())
    assert "rank 1" in str(caught.value) and caught.value.why is not None


def test_graphs_and_channels(gate: Path) -> None:
    @shoal.remote(num_cpus=0)
    class Stage:
        def step(self, gate: Path) -> int:
            return pass_gate(gate)

    stage = Stage.remote()
    with InputNode() as given:
        graph = stage.step.bind(given).experimental_compile()
    result = graph.execute(gate)
    why = why_of(lambda: shoal.get(result, timeout=0.05), errors.ChannelTimeoutError)
    assert why.reason.actor == stage._actor_id.hex()
    gate.touch()
    assert shoal.get(result) == 1
    graph.teardown()


def test_the_next_item_of_a_stream(gate: Path) -> None:
    @shoal.remote
    def items(gate: Path) -> Iterator[int]:
        yield pass_gate(gate)

    stream = items.remote(gate)
    why = why_of(lambda: stream._next_sync(0.05), errors.GetTimeoutError)
    assert why.reason.task == stream.completed().task_id().hex()
    gate.touch()
    assert [shoal.get(ref) for ref in stream] == [1]
