"""``shoal.state.why``: scripted stalls, each explained by type, ids and chain while it lasts.

Each test makes something wait, asks until the explanation is the right one (what is asked a moment
too early is rightly "about to be taken"), and lets it go on.
"""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal import errors, state
from shoal._proto import reasons as r
from shoal.errors._why import Why
from shoal.util.scheduling_strategies import PlacementGroupSchedulingStrategy

LATE_S = 60.0


@pytest.fixture(scope="module", autouse=True)
def _one_session() -> Iterator[None]:
    shoal.init(num_cpus=2, object_store_memory=64 << 20, resources={"seat": 1}, log_to_driver=False)
    yield
    shoal.shutdown()


@pytest.fixture(autouse=True)
def _end_session() -> Iterator[None]:
    """One session for all tests here: the one of tests/conftest.py would end it."""
    yield


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """A file that what waits looks for; it is there at the end of the test, whatever happens."""
    path = tmp_path / "go"
    yield path
    path.touch()


def pass_gate(gate: Path) -> int:
    deadline = time.monotonic() + 60
    while not gate.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    return 1


@shoal.remote
def waits_at(gate: Path) -> int:
    return pass_gate(gate)


@shoal.remote
def same(value: Any) -> Any:
    return value


@shoal.remote(num_cpus=0)
class Keeper:
    def wait(self, gate: Path) -> int:
        return pass_gate(gate)

    def wait_for(self, refs: list[shoal.ObjectRef[Any]]) -> Any:
        return shoal.get(refs[0])

    def take(self, value: Any) -> Any:
        return value

    def pid(self) -> int:
        return os.getpid()


def made(ref: Any) -> str:
    """Id of the task whose result it is."""
    return str(ref.task_id().hex())


def names(why: Why) -> list[str]:
    return [type(reason).__name__ for reason in why.chain]


def explained(
    about: Any, *expected: type[r.Reason], until: Callable[[Why], bool] | None = None
) -> Why:
    """Ask until the chain is ``expected``; it must have been within seconds."""
    wanted = [kind.__name__ for kind in expected]
    deadline = time.monotonic() + LATE_S
    while True:
        why = state.why(about)
        if names(why) == wanted and (until is None or until(why)):
            assert str(why) and "Unknown" not in str(why)
            return why
        assert time.monotonic() < deadline, (names(why), wanted, str(why))
        time.sleep(0.01)


def test_what_is_there_and_what_is_gone() -> None:
    ref = shoal.put(1)
    assert state.why(ref) == Why(r.Ready(id=ref.hex()))
    name = ref.hex()
    del ref
    explained(name, r.Gone)

    @shoal.remote(max_retries=0)
    def fails() -> None:
        raise ValueError("no such row\nin any table")

    failed = fails.remote()
    explained(failed, r.Ready, until=lambda why: why.reason.is_error)
    assert str(state.why(failed)).endswith("an error: ValueError: no such row")
    with pytest.raises(errors.UsageError, match="no id"):
        state.why("nothing of this session")
    with pytest.raises(errors.NotARefError, match="why needs"):
        state.why(3.5)


def test_an_argument_that_a_task_makes(gate: Path) -> None:
    first = waits_at.remote(gate)
    waiting = same.remote(same.remote(first))
    why = explained(waiting, r.WaitsForArgument, r.WaitsForArgument, r.Running)
    outer, inner, running = why.chain
    assert outer.task == made(waiting) and outer.argument.startswith(inner.task)
    assert inner.argument == first.hex() and running.task == made(first)
    assert running.name == "waits_at" and running.pid != os.getpid() and running.since_s >= 0
    gate.touch()
    assert shoal.get(waiting) == 1


def test_the_turn_of_a_task(gate: Path) -> None:
    running = [waits_at.remote(gate) for _ in range(2)]
    waiting = waits_at.remote(gate)
    both = lambda why: why.reason.workers == 2  # noqa: E731
    why = explained(waiting, r.WaitsForTurn, r.Running, until=both)
    turn, longest = why.chain
    assert turn.task == made(waiting) and turn.ahead >= 1
    assert longest.task in [made(ref) for ref in running]
    gate.touch()
    shoal.get([*running, waiting])


def test_cpus_that_other_tasks_hold(gate: Path) -> None:
    running = waits_at.options(num_cpus=2).remote(gate)
    explained(running, r.Running)
    waiting = same.options(num_cpus=1).remote(1)
    why = explained(waiting, r.WaitsForResources, r.Running)
    lacks, holder = why.chain
    assert lacks.asked == {"CPU": 1} == lacks.missing and lacks.total == {"CPU": 2}
    assert [row.id for row in lacks.holders] == [made(running)] and lacks.holders[0].kind == "task"
    assert holder.task == made(running)
    gate.touch()
    assert shoal.get([running, waiting]) == [1, 1]


def test_a_resource_that_an_idle_actor_holds() -> None:
    holder = Keeper.options(resources={"seat": 1}).remote()
    pid = shoal.get(holder.pid.remote())
    waiting = same.options(resources={"seat": 1}).remote(1)
    why = explained(waiting, r.WaitsForResources)
    (held,) = why.reason.holders
    assert (held.kind, held.id, held.pid) == ("actor", holder._actor_id.hex(), pid)
    assert why.reason.missing == {"seat": 1} and "end an actor" in str(why)
    second = Keeper.options(resources={"seat": 1}).remote()
    pending = explained(second, r.ActorPending, r.WaitsForResources)
    assert pending.reason.actor == second._actor_id.hex() and pending.root.holders == [
        row for row in pending.root.holders if row.id == holder._actor_id.hex()
    ]
    call = second.pid.remote()
    assert explained(call, r.ActorPending, r.WaitsForResources).reason.task == made(call)
    del call, second
    shoal.kill(holder)
    assert shoal.get(waiting) == 1


def test_what_no_node_has() -> None:
    never = same.options(num_cpus=99).remote(1)
    why = state.why(never)  # it fails after a second: this must be faster
    if names(why) != ["Ready"]:
        assert names(why) == ["Infeasible"]
        assert why.reason.asked == {"CPU": 99} and why.reason.total == {"CPU": 2}
        assert 0 <= why.reason.fails_in_s <= 1
    with pytest.raises(errors.UnschedulableError):
        shoal.get(never)


def test_an_actor_that_is_busy(gate: Path) -> None:
    keeper = Keeper.remote()
    first = keeper.wait.remote(gate)
    second = keeper.pid.remote()
    why = explained(second, r.ActorBusy, r.Running)
    busy, running = why.chain
    assert busy.call == made(first) == running.task and busy.actor == keeper._actor_id.hex()
    assert busy.task == made(second) and running.actor == busy.actor
    assert (busy.name, running.name) == ("Keeper.pid", "Keeper.wait")
    assert explained(keeper, r.ActorBusy, r.Running).reason.task == ""
    gate.touch()
    shoal.get([first, second])
    explained(keeper, r.ActorIdle)


def test_an_earlier_call_of_the_same_caller(gate: Path) -> None:
    keeper = Keeper.remote()
    value = waits_at.remote(gate)
    first = keeper.take.remote(value)
    second = keeper.pid.remote()
    why = explained(second, r.WaitsForEarlierCall, r.WaitsForArgument, r.Running)
    lane, argument, running = why.chain
    assert (lane.earlier, argument.argument) == (made(first), value.hex())
    assert running.task == made(value)
    gate.touch()
    shoal.get([first, second])


def test_a_constructor_that_runs(gate: Path) -> None:
    @shoal.remote(num_cpus=0)
    class Slow:
        def __init__(self, gate: Path) -> None:
            pass_gate(gate)

        def one(self) -> int:
            return 1

    slow = Slow.remote(gate)
    call = slow.one.remote()
    why = explained(call, r.ActorConstructing)
    assert why.reason.actor == slow._actor_id.hex() and why.reason.pid > 0
    gate.touch()
    assert shoal.get(call) == 1


def test_an_actor_that_dies_again_and_again(tmp_path: Path) -> None:
    @shoal.remote(num_cpus=0, max_restarts=-1)
    class Dies:
        def __init__(self, well: Path) -> None:
            if not well.exists():
                os._exit(1)

        def one(self) -> int:
            return 1

    dies = Dies.remote(tmp_path / "well")
    call = dies.one.remote()
    why = explained(call, r.ActorRestarting, until=lambda why: why.reason.recently >= 3)
    assert why.reason.actor == dies._actor_id.hex() and why.reason.restarts >= 3
    assert why.reason.again_in_s is not None and "in a minute" in str(why)
    (tmp_path / "well").touch()
    assert shoal.get(call) == 1


def test_as_many_calls_as_may_run(gate: Path) -> None:
    keeper = Keeper.options(max_concurrency=2).remote()
    running = [keeper.wait.remote(gate) for _ in range(2)]
    third = keeper.pid.remote()
    why = explained(third, r.ConcurrencyFull, r.Running)
    assert (why.reason.limit, why.reason.group) == (2, "")
    assert sorted(why.reason.calls) == sorted(made(ref) for ref in running)
    assert why.root.task in why.reason.calls
    gate.touch()
    shoal.get([*running, third])


def test_a_task_that_waits_inside(gate: Path) -> None:
    @shoal.remote
    def outer(gate: Path) -> int:
        return shoal.get(waits_at.options(max_retries=0).remote(gate))

    @shoal.remote(num_cpus=0)
    def waits(refs: list[shoal.ObjectRef[int]]) -> int:
        return len(shoal.wait(refs, num_returns=1)[0])

    ref = outer.remote(gate)
    why = explained(ref, r.Running, r.Running, until=lambda why: why.root.name == "waits_at")
    assert why.reason.task == made(ref) and why.reason.waits and not why.root.waits
    other = waits.remote([ref])
    explained(other, r.Running, r.Running, r.Running, until=lambda why: why.root.name == "waits_at")
    gate.touch()
    assert shoal.get([ref, other]) == [1, 1]


def test_a_deadlock_of_two_actors() -> None:
    one, other = Keeper.remote(), Keeper.remote()

    @shoal.remote(num_cpus=0)
    class Asks:
        def ask(self, handles: list[Any], depth: int) -> Any:
            if not depth:
                return 1
            return shoal.get(handles[0].ask.remote([*handles[1:], handles[0]], depth - 1))

    one, other = Asks.remote(), Asks.remote()
    ref = one.ask.remote([other, one], 2)
    why = explained(ref, r.Running, r.Running, r.ActorBusy, r.Circular)
    assert made(ref) in why.root.ids and "deadlock" in str(why)
    shoal.kill(one)
    shoal.kill(other)


def test_a_stopped_process(gate: Path) -> None:
    keeper = Keeper.remote()
    pid = shoal.get(keeper.pid.remote())
    os.kill(pid, signal.SIGSTOP)
    try:
        call = keeper.pid.remote()
        deadline = time.monotonic() + LATE_S
        while not isinstance(root := state.why(call).root, r.Stopped):
            assert time.monotonic() < deadline, state.why(call)
            time.sleep(0.01)
        assert root.pid == pid
    finally:
        os.kill(pid, signal.SIGCONT)
    assert shoal.get(call) == pid


def test_a_stream_whose_items_nobody_takes() -> None:
    @shoal.remote(_generator_backpressure_num_objects=2)
    def numbers() -> Iterator[int]:
        yield from range(5)

    stream = numbers.remote()
    why = explained(stream, r.Running, r.BackPressure)
    assert why.root.stream == made(stream.completed()) == why.reason.task
    assert why.root.consumer.pid == os.getpid()
    assert [shoal.get(ref) for ref in stream] == list(range(5))


def test_a_lock_that_somebody_holds(gate: Path) -> None:
    @shoal.remote(num_cpus=0)
    def locks(gate: Path) -> int:
        with shoal.lock("door"):
            return pass_gate(gate)

    first = locks.remote(gate)
    explained(first, r.Running, until=lambda why: _is_locked("door"))
    second = locks.remote(gate)
    why = explained(second, r.Running, r.WaitsForLock, r.Running)
    waiting, lock, holder = why.chain
    assert (waiting.task, lock.lock, holder.task) == (made(second), "door", made(first))
    assert lock.holder.pid == holder.pid
    gate.touch()
    assert shoal.get([first, second]) == [1, 1]


def _is_locked(name: str) -> bool:
    return shoal.lock(name).locked()


def test_a_group_that_has_no_place_yet(gate: Path) -> None:
    running = waits_at.options(num_cpus=2).remote(gate)
    explained(running, r.Running)
    group = shoal.util.placement_group([{"CPU": 1}])
    strategy = PlacementGroupSchedulingStrategy(group)
    waiting = same.options(scheduling_strategy=strategy, num_cpus=1).remote(1)
    why = explained(waiting, r.GroupPending, r.WaitsForResources, r.Running)
    assert why.reason.group == group.id.hex() and why.root.task == made(running)
    explained(group, r.GroupPending, r.WaitsForResources, r.Running)
    gate.touch()
    assert shoal.get(waiting) == 1
    assert names(state.why(group)) == ["Ready"]
    shoal.util.remove_placement_group(group)
    assert names(state.why(group)) == ["GroupRemoved"]


def test_a_value_that_a_process_has_to_give() -> None:
    pending = shoal.put(0).memory.new_pending()
    why = explained(pending, r.NotSealed)
    assert why.reason.object == pending.hex() and why.reason.owner.pid == os.getpid()
    pending.memory.seal_pending(pending)
    explained(pending, r.Ready)


def test_a_deadline_stands_in_the_reason(gate: Path) -> None:
    running = waits_at.options(num_cpus=2).remote(gate)
    explained(running, r.Running)
    waiting = same.options(timeout_s=600).remote(1)
    why = explained(waiting, r.WaitsForResources, r.Running)
    assert 0 < why.reason.ends_in_s <= 600 and why.root.ends_in_s is None
    assert "deadline" in str(why)
    gate.touch()
    assert shoal.get(waiting) == 1


def test_what_the_program_waits_for(gate: Path) -> None:
    """Asked by a thread: the main thread waits."""
    assert names(state.why()) == ["Nothing"]

    @shoal.remote(num_cpus=0)
    def looks(gate: Path) -> list[str]:
        deadline = time.monotonic() + LATE_S
        found: list[str] = []
        while found[:1] != ["Running"] and time.monotonic() < deadline:
            found = names(state.why())
            time.sleep(0.01)
        gate.touch()
        return found

    running = waits_at.remote(gate)
    looking = looks.remote(gate)
    assert shoal.get(running) == 1
    assert shoal.get(looking) == ["Running"]


def test_every_timeout_says_why(gate: Path) -> None:
    """At once, also when it is pickled, and for who only looks when it is shown."""
    ref = waits_at.remote(gate)
    explained(ref, r.Running)
    waiting = same.remote(ref)
    explained(waiting, r.WaitsForArgument, r.Running)
    wanted = ["WaitsForArgument", "Running"]
    with pytest.raises(errors.GetTimeoutError) as caught:
        shoal.get(waiting, timeout=0.01)
    assert names(caught.value.why) == wanted
    assert "waits_at" in str(caught.value) and "What to do" not in str(caught.value)
    assert names(pickle.loads(pickle.dumps(caught.value)).why) == wanted
    assert names(errors.from_record(errors.to_record(caught.value)).why) == wanted
    with pytest.raises(errors.GetTimeoutError) as caught:
        shoal.get([shoal.put(1), waiting], timeout=0)
    assert not caught.value.reasons and names(caught.value.why) == wanted
    with pytest.raises(errors.GetTimeoutError) as caught:
        list(shoal.as_completed([shoal.put(1), waiting], timeout=0.01))
    assert names(caught.value.why) == wanted
    gate.touch()
    assert shoal.get(waiting, timeout=60) == 1
    with pytest.raises(errors.GetTimeoutError, match="message") as caught:
        raise errors.GetTimeoutError("a message", timeout_s=1.0)
    assert caught.value.why is None and errors.GetTimeoutError.advice in str(caught.value)


def test_a_pools_timeout_says_why(gate: Path) -> None:
    keeper = Keeper.remote()
    pool = shoal.util.ActorPool([keeper])
    pool.submit(lambda actor, value: actor.wait.remote(value), gate)
    for take in (pool.get_next, pool.get_next_unordered):
        with pytest.raises(errors.GetTimeoutError, match=r"not there|no result") as caught:
            take(timeout=0.01)
        assert caught.value.why is not None
    gate.touch()
    assert pool.get_next() == 1
