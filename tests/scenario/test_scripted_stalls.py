"""Scripted stalls, one row each: what makes it (real processes), and the reasons it must get.

A row makes its stall, which lasts until its block is left. The explanation has to be right, of
every type in the chain, in an answer that took at most ``WITHIN_S``; asked a moment before the
stall is one, it is rightly something else, so it is asked again.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import shoal
from shoal import errors, lowlevel, state
from shoal._proto import reasons as r
from shoal._runtime import cluster
from shoal.errors._why import Why
from shoal.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from tests.torture.started import start_session

WITHIN_S = 2.0
LATE_S = 60.0
STORE = 64 << 20


def pass_gate(gate: Path) -> int:
    deadline = time.monotonic() + 120
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

    def ask(self, others: list[Any], depth: int) -> Any:
        if not depth:
            return 1
        return shoal.get(others[0].ask.remote([*others[1:], others[0]], depth - 1))

    def get(self, refs: list[Any]) -> Any:
        return shoal.get(refs[0])

    def one(self) -> int:
        return 1


def made(ref: Any) -> str:
    """Id of the task whose result it is."""
    return str(ref.task_id().hex())


def names(why: Why) -> list[str]:
    return [type(reason).__name__ for reason in why.chain]


def is_running(ref: Any) -> None:
    """Wait until it runs: what it asks for is taken."""
    end = time.monotonic() + LATE_S
    while names(why := state.why(ref)) != ["Running"]:
        assert time.monotonic() < end, why
        time.sleep(0.01)


Stall = tuple[Any, Callable[[Why], bool]]
"""What is asked about, and whether the facts of an answer of the right types are right."""


# ---- what makes them
@contextlib.contextmanager
def cpu_held(gate: Path) -> Iterator[Stall]:
    began = time.monotonic()
    running = waits_at.options(num_cpus=2).remote(gate)
    is_running(running)
    waiting = same.remote(1)

    def is_right(why: Why) -> bool:
        lacks = why.reason
        (holder,) = lacks.holders
        return (
            lacks.missing == {"CPU": 1}
            and holder.id == made(running) == why.root.task
            and 0 <= holder.since_s <= time.monotonic() - began
        )

    yield waiting, is_right
    gate.touch()
    assert shoal.get([running, waiting]) == [1, 1]


@contextlib.contextmanager
def resource_held(gate: Path) -> Iterator[Stall]:
    holder = Keeper.options(resources={"seat": 1}).remote()
    shoal.get(holder.one.remote())
    waiting = same.options(resources={"seat": 1}).remote(1)
    yield waiting, lambda why: why.reason.holders[0].id == holder._actor_id.hex()
    shoal.kill(holder)
    assert shoal.get(waiting) == 1


@contextlib.contextmanager
def environment(gate: Path) -> Iterator[Stall]:
    """Its packages come from a server that never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
        index = f"--index-url http://{host}:{port}/simple"
        needs = same.options(runtime_env={"pip": [index, "nothing-of-this-name"]})
        waiting = needs.remote(1)
        yield waiting, lambda why: bool(why.reason.environment) and why.reason.since_s >= 0
        shoal.cancel(waiting)
    with pytest.raises(errors.TaskCancelledError):
        shoal.get(waiting)


@contextlib.contextmanager
def upstream(gate: Path) -> Iterator[Stall]:
    running = waits_at.remote(gate)
    waiting = same.remote(running)

    def is_right(why: Why) -> bool:
        argument, runs = why.chain
        (worker,) = [row for row in state.workers() if row.worker == runs.worker]
        return (
            argument.argument == running.hex()
            and runs.task == made(running)
            and worker.pid == runs.pid
            and runs.since_s >= 0
        )

    yield waiting, is_right
    gate.touch()
    assert shoal.get(waiting) == 1


@contextlib.contextmanager
def chain_of_three(gate: Path) -> Iterator[Stall]:
    first = waits_at.remote(gate)
    last = same.remote(same.remote(same.remote(first)))
    yield last, lambda why: why.root.task == made(first)
    gate.touch()
    assert shoal.get(last) == 1


@contextlib.contextmanager
def restarting(gate: Path) -> Iterator[Stall]:
    @shoal.remote(num_cpus=0, max_restarts=-1)
    class Dies:
        def __init__(self, gate: Path) -> None:
            if not gate.exists():
                os._exit(1)

        def one(self) -> int:
            return 1

    dies = Dies.remote(gate)
    call = dies.one.remote()
    yield (
        call,
        lambda why: (
            why.reason.recently >= 3
            and why.reason.actor == dies._actor_id.hex()
            and "time in a minute" in str(why)
        ),
    )
    gate.touch()
    assert shoal.get(call) == 1


@contextlib.contextmanager
def store_full(gate: Path) -> Iterator[Stall]:
    """This program holds half of the store, the task wants more than the rest."""

    @shoal.remote
    def produces(gate: Path) -> int:
        kept = []
        while not gate.exists():
            try:
                kept.append(shoal.put(bytes(2_000_000)))
            except errors.ObjectStoreFullError:
                pass
        return 1

    held = [shoal.put(bytes(2_000_000)) for _ in range(16)]
    producing = produces.remote(gate)

    def is_right(why: Why) -> bool:
        most = why.root.holders[0]
        return most.pid == os.getpid() and most.amounts["bytes"] >= 2_000_000 * len(held)

    yield producing, is_right
    gate.touch()
    assert shoal.get(producing) == 1


@contextlib.contextmanager
def group_without_place(gate: Path) -> Iterator[Stall]:
    running = waits_at.options(num_cpus=2).remote(gate)
    is_running(running)
    group = shoal.util.placement_group([{"CPU": 1}])
    strategy = PlacementGroupSchedulingStrategy(group)
    waiting = same.options(scheduling_strategy=strategy, num_cpus=1).remote(1)
    yield (
        waiting,
        lambda why: why.reason.group == group.id.hex() and why.root.task == made(running),
    )
    gate.touch()
    assert shoal.get(waiting) == 1
    shoal.util.remove_placement_group(group)


@contextlib.contextmanager
def busy_actor(gate: Path) -> Iterator[Stall]:
    keeper = Keeper.remote()
    calls = [keeper.wait.remote(gate), keeper.one.remote(), keeper.one.remote()]
    yield (
        calls[2],
        lambda why: (
            why.reason.call == made(calls[0]) == why.root.task
            and why.root.name == "Keeper.wait"
            and why.reason.ahead >= 2
        ),
    )
    gate.touch()
    assert shoal.get(calls) == [1, 1, 1]


@contextlib.contextmanager
def calls_side_by_side(gate: Path) -> Iterator[Stall]:
    keeper = Keeper.options(max_concurrency=2).remote()
    running = [keeper.wait.remote(gate) for _ in range(2)]
    third = keeper.one.remote()
    yield (
        third,
        lambda why: (
            why.reason.limit == 2
            and sorted(why.reason.calls) == sorted(made(ref) for ref in running)
        ),
    )
    gate.touch()
    assert shoal.get([*running, third]) == [1, 1, 1]


@contextlib.contextmanager
def order_of_calls(gate: Path) -> Iterator[Stall]:
    keeper = Keeper.remote()
    value = waits_at.remote(gate)
    first = keeper.ask.remote([value], value)
    second = keeper.one.remote()
    yield second, lambda why: why.reason.earlier == made(first) and why.root.task == made(value)
    shoal.kill(keeper)
    gate.touch()
    assert shoal.get(value) == 1


@contextlib.contextmanager
def slow_consumer(gate: Path) -> Iterator[Stall]:
    @shoal.remote(_generator_backpressure_num_objects=2)
    def numbers() -> Iterator[int]:
        yield from range(5)

    stream = numbers.remote()
    yield (
        stream,
        lambda why: (
            why.root.consumer.pid == os.getpid() and why.root.stream == made(stream.completed())
        ),
    )
    assert [shoal.get(ref) for ref in stream] == list(range(5))


@contextlib.contextmanager
def actors_that_call_each_other(gate: Path) -> Iterator[Stall]:
    one, other = Keeper.remote(), Keeper.remote()
    ref = one.ask.remote([other, one], 2)
    yield ref, lambda why: made(ref) in why.root.ids and "deadlock" in str(why)
    shoal.kill(one)
    shoal.kill(other)


@contextlib.contextmanager
def never_written(gate: Path) -> Iterator[Stall]:
    pending = shoal.put(0).memory.new_pending()
    waiting = Keeper.remote().get.remote([pending])
    yield (
        waiting,
        lambda why: why.root.object == pending.hex() and why.root.owner.pid == os.getpid(),
    )
    pending.memory.seal_pending(pending)
    shoal.wait([waiting])


@contextlib.contextmanager
def lock_held(gate: Path) -> Iterator[Stall]:
    @shoal.remote(num_cpus=0)
    def locks() -> int:
        with shoal.lock("door"):
            return 1

    with shoal.lock("door"):
        waiting = locks.remote()
        yield waiting, lambda why: why.root.lock == "door" and why.root.holder.pid == os.getpid()
    assert shoal.get(waiting) == 1


@contextlib.contextmanager
def stopped_worker(gate: Path) -> Iterator[Stall]:
    keeper = Keeper.remote()
    first = keeper.wait.remote(gate)
    is_running(first)
    (worker,) = state.workers(actor_id=keeper._actor_id.hex())
    with stopped(worker.pid):
        yield keeper.one.remote(), lambda why: why.root.pid == worker.pid
    gate.touch()
    assert shoal.get(first) == 1


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def constructor(gate: Path) -> Iterator[Stall]:
    @shoal.remote(num_cpus=0)
    class Slow:
        def __init__(self, gate: Path) -> None:
            pass_gate(gate)

        def one(self) -> int:
            return 1

    slow = Slow.remote(gate)
    call = slow.one.remote()
    yield call, lambda why: why.reason.actor == slow._actor_id.hex() and why.reason.pid > 0
    gate.touch()
    assert shoal.get(call) == 1


# ---- in a session that `shoal start` has made: it may grow, and its control store is a process
@contextlib.contextmanager
def infeasible(gate: Path) -> Iterator[Stall]:
    never = same.options(num_cpus=99, resources={"moon": 1}).remote(1)

    def is_right(why: Why) -> bool:
        asked = {"CPU": 99, "moon": 1}
        return why.reason.asked == asked and why.reason.total == {"CPU": 2, "moon": 0}

    yield never, is_right
    shoal.cancel(never)
    with pytest.raises(errors.TaskCancelledError):
        shoal.get(never)


@contextlib.contextmanager
def infeasible_actor(gate: Path) -> Iterator[Stall]:
    never = Keeper.options(num_gpus=1).remote()
    yield never.one.remote(), lambda why: why.root.asked == {"GPU": 1}
    shoal.kill(never)


@contextlib.contextmanager
def control_store_away(gate: Path) -> Iterator[Stall]:
    facts = cluster.table("session")[0]
    with stopped(int(str(facts["store_pid"]))):
        made_it: list[Any] = []
        named = Keeper.options(name="of the store")
        thread = threading.Thread(target=lambda: made_it.append(named.remote()))
        thread.start()  # it waits until the name is on disk
        yield None, lambda why: why.reason.class_name == "Keeper"
    thread.join()
    assert shoal.get(made_it[0].one.remote()) == 1
    shoal.kill(made_it[0])


@contextlib.contextmanager
def change_not_written(gate: Path) -> Iterator[Stall]:
    facts = cluster.table("session")[0]

    @shoal.remote(num_cpus=0)
    def puts() -> bool:
        return lowlevel.kv_put(b"key", b"value")

    with stopped(int(str(facts["store_pid"]))):
        putting = puts.remote()
        yield putting, lambda why: why.root.what == "kv" and why.reason.task == made(putting)
    shoal.get(putting)


@contextlib.contextmanager
def daemon_stopped(gate: Path) -> Iterator[Stall]:
    running = waits_at.remote(gate)
    is_running(running)
    pid = int(str(cluster.table("session")[0]["pid"]))
    with stopped(pid):
        yield running, lambda why: why.reason.pid == pid and why.reason.is_stopped
        told = subprocess.run(
            [sys.executable, "-m", "shoal", "why", "--json"],
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
    (row,) = json.loads(told.stdout)["chain"]
    assert (row["type"], row["pid"], row["is_stopped"]) == ("NoAnswer", pid, True)
    gate.touch()
    assert shoal.get(running) == 1


class Row(NamedTuple):
    make: Callable[[Path], AbstractContextManager[Stall]]
    chain: tuple[type[r.Reason], ...]


STALLS = [
    Row(cpu_held, (r.WaitsForResources, r.Running)),
    Row(resource_held, (r.WaitsForResources,)),
    Row(environment, (r.EnvironmentBuilding,)),
    Row(upstream, (r.WaitsForArgument, r.Running)),
    Row(chain_of_three, (r.WaitsForArgument, r.WaitsForArgument, r.WaitsForArgument, r.Running)),
    Row(restarting, (r.ActorRestarting,)),
    Row(store_full, (r.Running, r.WaitsForRoom)),
    Row(group_without_place, (r.GroupPending, r.WaitsForResources, r.Running)),
    Row(busy_actor, (r.ActorBusy, r.Running)),
    Row(calls_side_by_side, (r.ConcurrencyFull, r.Running)),
    Row(order_of_calls, (r.WaitsForEarlierCall, r.WaitsForArgument, r.Running)),
    Row(slow_consumer, (r.Running, r.BackPressure)),
    Row(actors_that_call_each_other, (r.Running, r.Running, r.ActorBusy, r.Circular)),
    Row(never_written, (r.Running, r.NotSealed)),
    Row(lock_held, (r.Running, r.WaitsForLock)),
    Row(stopped_worker, (r.ActorBusy, r.Running, r.Stopped)),
    Row(constructor, (r.ActorConstructing,)),
]


STALLS_STARTED = [
    Row(infeasible, (r.Infeasible,)),
    Row(infeasible_actor, (r.ActorPending, r.Infeasible)),
    Row(control_store_away, (r.ControlStoreAway,)),
    Row(change_not_written, (r.Running, r.ControlStoreAway)),
    Row(daemon_stopped, (r.NoAnswer,)),
]


# ---- asking
def must_be(about: Any, chain: tuple[type[r.Reason], ...], is_right: Callable[[Why], bool]) -> None:
    wanted = [kind.__name__ for kind in chain]
    deadline = time.monotonic() + LATE_S
    while True:
        asked = time.monotonic()
        why = state.why(about)
        took_s = time.monotonic() - asked
        if names(why) == wanted and is_right(why) and took_s <= WITHIN_S:
            break
        assert time.monotonic() < deadline, (took_s, names(why), wanted, str(why))
        time.sleep(0.01)
    assert str(why) and len(str(why).splitlines()) >= len(wanted)


@pytest.fixture(scope="module")
def local() -> Iterator[None]:
    shoal.init(
        num_cpus=2,
        object_store_memory=STORE,
        resources={"seat": 1},
        log_to_driver=False,
        object_spilling_directory=False,
    )
    yield
    shoal.shutdown()


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    shoal.shutdown()
    with start_session(tmp_path_factory.mktemp("started"), 2):
        yield


@pytest.fixture(autouse=True)
def _end_session() -> Iterator[None]:
    """One session for all rows: the one of tests/conftest.py would end it."""
    yield


@pytest.mark.parametrize("row", STALLS, ids=lambda row: row.make.__name__)
def test_a_stall_gets_its_reason(local: None, row: Row, tmp_path: Path) -> None:
    with row.make(tmp_path / "go") as (about, is_right):
        must_be(about, row.chain, is_right)


@pytest.mark.parametrize("row", STALLS_STARTED, ids=lambda row: row.make.__name__)
def test_a_stall_of_a_started_session(started: None, row: Row, tmp_path: Path) -> None:
    with row.make(tmp_path / "go") as (about, is_right):
        must_be(about, row.chain, is_right)
