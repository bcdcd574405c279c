"""The head is killed while nodes work, and begins again from its journal: real daemons, real work.

What runs on the nodes goes on without a head; what ran on the head itself is run again when its
lease is over. If its machine is lost, another one begins with what was kept under its name.
"""

from __future__ import annotations

import fcntl
import os
import pathlib
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

import shoal
from shoal._runtime import registry, session_dir
from shoal._runtime.observer import Observer
from shoal.util.placement_group import placement_group
from shoal.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from tests.cluster.operated import Machine, listening_at, until

LONG_S = 60.0
LEASE_S = 6.0
"""From the moment at which its port is there, a head has so long to begin: this machine is busy."""
LEASE = ("--lease", f"{LEASE_S:g}s")


@pytest.fixture
def machines(tmp_path: pathlib.Path) -> Iterator[tuple[Machine, Machine, Machine]]:
    made = Machine(tmp_path / "head"), Machine(tmp_path / "b"), Machine(tmp_path / "c")
    try:
        yield made
    finally:
        shoal.shutdown()
        for machine in reversed(made):
            machine.stop()


@shoal.remote
class Counter:
    def __init__(self) -> None:
        self.count = 0

    def add(self) -> tuple[int, int]:
        self.count += 1
        return self.count, os.getpid()


@shoal.remote(max_retries=-1)
def wait_for(path: str, number: int) -> int:
    while not os.path.exists(path):
        time.sleep(0.02)
    return number


@shoal.remote
def take(name: str, timeout_s: float) -> bool:
    lock = shoal.lock(name)
    is_held = lock.acquire(timeout=timeout_s)
    if is_held:
        lock.release()
    return is_held


@shoal.remote
def node_id() -> str:
    return str(shoal.get_runtime_context().get_node_id())


def free_address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def names() -> dict[str, str]:
    """Of the nodes that live, by id."""
    return {row["NodeID"]: row["NodeName"] for row in shoal.nodes() if row["Alive"]}


def get(refs: Any) -> Any:
    return shoal.get(refs, timeout=LONG_S)


def test_work_goes_on_without_a_head_and_with_the_next_one(
    machines: tuple[Machine, Machine, Machine],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    head, second, third = machines
    address = free_address()
    token_file = str(tmp_path / "token")
    words = ("--head", "--listen", address, "--name", "kept", "--node-name", "first", *LEASE)
    head.start(*words, "--token-file", token_file)
    join = ("--address", address, "--token-file", token_file, "--listen", "127.0.0.1:0")
    second.start(*join, "--node-name", "second", "--resources", '{"b": 1}')
    third.start(*join, "--node-name", "third", "--resources", '{"c": 1}')
    until(lambda: second.alive() == {"first", "second", "third"})

    monkeypatch.setenv("SHOAL_DIR", str(second.directory))
    shoal.init("auto", log_to_driver=False)
    there: dict[str, Any] = {"num_cpus": 0, "resources": {"c": 0.1}}
    actors = {
        "plain": Counter.options(**there).remote(),
        "named": Counter.options(name="named", **there).remote(),
        "detached": Counter.options(name="detached", lifetime="detached", **there).remote(),
    }
    group = placement_group([{"c": 0.1}, {"b": 0.1}], strategy="STRICT_SPREAD")
    assert group.wait(LONG_S)
    in_group = [PlacementGroupSchedulingStrategy(group, index) for index in (0, 1)]
    before = {name: get(actor.add.remote()) for name, actor in actors.items()}
    go = str(tmp_path / "go")
    waiting = [wait_for.options(scheduling_strategy="SPREAD").remote(go, n) for n in range(9)]
    large = shoal.put(bytes(3_000_000))
    lock = shoal.lock("kept")
    assert lock.acquire(timeout=LONG_S)

    (entry,) = registry.started_sessions(str(head.directory))
    os.kill(entry.pid, signal.SIGKILL)
    until(lambda: not registry.started_sessions(str(head.directory)))
    assert {name: get(actor.add.remote()) for name, actor in actors.items()} == {
        name: (2, pid) for name, (_, pid) in before.items()
    }
    length = shoal.remote(len)
    away = length.options(num_cpus=0, resources={"c": 0.1})
    assert get(away.remote(large)) == 3_000_000, "of a kind that no store has been asked about"
    time.sleep(
        LEASE_S + 1.0
    )  # that is what is tried: nobody listens there, so nobody gives a node up
    assert {name: get(actor.add.remote()) for name, actor in actors.items()} == {
        name: (3, pid) for name, (_, pid) in before.items()
    }

    head.start(*words, "--token-file", str(tmp_path / "token again"))
    until(lambda: len(names()) == 3)
    assert (tmp_path / "token again").read_text() == pathlib.Path(token_file).read_text()
    assert not get(take.options(**there).remote("kept", 0.1)), "the next head knows who has it"
    lock.release()
    assert get(take.options(**there).remote("kept", LONG_S))
    pathlib.Path(go).touch()
    assert get(waiting) == [*range(9)], "what the first head had was run again"
    for name, actor in actors.items():
        assert get(actor.add.remote()) == (4, before[name][1]), "the same process all the time"
    for name in ("named", "detached"):
        assert get(shoal.get_actor(name).add.remote())[0] == 5
    at = [node_id.options(scheduling_strategy=each, num_cpus=0) for each in in_group]
    assert len(set(get([each.remote() for each in at]))) == 2
    shoal.util.remove_placement_group(group)
    on_head = node_id.options(scheduling_strategy="SPREAD")
    assert sorted(names().values()) == ["first", "second", "third"]
    until(lambda: "first" in [names()[each] for each in get([on_head.remote() for _ in range(6)])])
    shoal.kill(actors["detached"])
    assert "no node could ever" not in capfd.readouterr().err, "the next head has yet to hear them"


def store_of(head: Machine) -> dict[str, Any]:
    """What the daemon of the head knows of the control store."""
    (entry,) = registry.started_sessions(str(head.directory))
    with Observer(entry.socket_path) as observer:
        (row,) = observer.table("session")
    store = row["store"]
    assert isinstance(store, dict)
    return store


@contextmanager
def no_store(head: Machine) -> Iterator[None]:
    """Its control store is killed, and none can begin: its journal is locked by us."""
    with open(os.path.join(store_of(head)["journal"], "lock"), "rb") as lock:
        deadline = time.monotonic() + LONG_S
        while True:
            assert time.monotonic() < deadline, "the lock is never free"
            if pid := store_of(head)["pid"]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.001)
        yield


def test_a_store_that_cannot_be_started_ends_no_lease(
    machines: tuple[Machine, Machine, Machine],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    head, second, _ = machines
    token_file = str(tmp_path / "token")
    words = ("--head", "--listen", "127.0.0.1:0", "--node-name", "first", *LEASE)
    printed = head.start(*words, "--resources", '{"a": 1}', "--token-file", token_file)
    address = listening_at(printed)
    join = ("--address", address, "--token-file", token_file, "--listen", "127.0.0.1:0")
    second.start(*join, "--node-name", "second", "--resources", '{"b": 1}')
    until(lambda: second.alive() == {"first", "second"})
    monkeypatch.setenv("SHOAL_DIR", str(second.directory))
    shoal.init("auto", log_to_driver=False)
    actors = {
        (kind, at): Counter.options(num_cpus=0, resources={at: 0.1}, **more).remote()
        for at in "ab"
        for kind, more in {
            "plain": {},
            "restarts": {"max_restarts": 1},
            "named": {"name": f"named-{at}"},
        }.items()
    }
    before = {each: get(actor.add.remote()) for each, actor in actors.items()}
    with no_store(head):
        time.sleep(2 * LEASE_S)  # that is what is tried: nobody's lease is over when it is
        away_s = store_of(head)["away_s"]
        found = {each: get(actor.add.remote()) for each, actor in actors.items()}
    assert away_s > LEASE_S + 1.0
    assert found == {each: (2, pid) for each, (_, pid) in before.items()}
    until(lambda: store_of(head)["away_s"] == 0.0)
    late = Counter.options(name="late", num_cpus=0, resources={"a": 0.1}).remote()
    assert get(late.add.remote())[0] == 1, "the next one serves at the same address"
    for at in "ab":
        assert get(shoal.get_actor(f"named-{at}").add.remote()) == (3, before["named", at][1])


def test_a_head_that_was_stopped_is_waited_for_by_nobody(
    machines: tuple[Machine, Machine, Machine], tmp_path: pathlib.Path
) -> None:
    head, second, _ = machines
    address = free_address()
    token_file = str(tmp_path / "token")
    words = ("--head", "--listen", address, "--name", "kept", "--node-name", "first")
    head.start(*words, "--token-file", token_file)
    join = ("--address", address, "--token-file", token_file, "--listen", "127.0.0.1:0")
    second.start(*join, "--node-name", "second")
    until(lambda: second.alive() == {"first", "second"})
    head.stop()
    head.start(*words, "--token-file", str(tmp_path / "token again"))

    def members() -> list[tuple[str, str, str]]:
        (entry,) = registry.started_sessions(str(head.directory))
        with Observer(entry.socket_path) as observer:
            return [(row["name"], row["state"], row["why"]) for row in observer.table("members")]

    found = {(state, why) for name, state, why in members() if name == "first"}
    assert found == {("ALIVE", ""), ("DEAD", "its daemon has ended")}, "as it said itself"
    until(lambda: ("second", "ALIVE", "") in members())


def test_another_machine_becomes_the_head_with_what_was_kept(
    machines: tuple[Machine, Machine, Machine],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    head, second, other = machines
    address = free_address()
    token_file = str(tmp_path / "token")
    words = ("--head", "--listen", address, "--name", "kept", *LEASE)
    head.start(*words, "--token-file", token_file, "--node-name", "first")
    join = ("--address", address, "--token-file", token_file, "--listen", "127.0.0.1:0")
    second.start(*join, "--node-name", "second", "--resources", '{"b": 1}')
    until(lambda: second.alive() == {"first", "second"})

    monkeypatch.setenv("SHOAL_DIR", str(second.directory))
    shoal.init("auto", log_to_driver=False)
    there: dict[str, Any] = {"num_cpus": 0, "resources": {"b": 0.1}}
    actor = Counter.options(name="n", lifetime="detached", **there).remote()
    group = placement_group([{"b": 0.1}], name="g", lifetime="detached")
    assert group.wait(LONG_S) and group.add_bundles([{"b": 0.2}]) == [1] and group.wait(LONG_S)
    count, pid = get(actor.add.remote())
    (entry,) = registry.started_sessions(str(head.directory))
    with Observer(entry.socket_path) as observer:
        store = int(str(observer.table("session")[0]["store_pid"]))
    os.kill(entry.pid, signal.SIGKILL)
    until(lambda: not registry.started_sessions(str(head.directory)))
    # Its last copy is written by a process of its own, which sees the end of the daemon.
    until(lambda: session_dir.process_start_time(store) is None)

    shutil.copytree(head.directory / "kept-kept", other.directory / "kept-kept")
    shutil.rmtree(head.directory)
    other.start(*words, "--token-file", str(tmp_path / "again"), "--node-name", "elsewhere")
    until(lambda: second.alive() == {"second", "elsewhere"})
    assert get(actor.add.remote()) == (count + 1, pid)
    assert get(shoal.get_actor("n").add.remote()) == (count + 2, pid)
    known = shoal.util.get_placement_group("g")
    assert known.bundle_specs == [{"b": 0.1}, {"b": 0.2}] and known.wait(LONG_S)
    inside = PlacementGroupSchedulingStrategy(known, 1)
    at = node_id.options(num_cpus=0, resources={"b": 0.1}, scheduling_strategy=inside)
    assert names()[get(at.remote())] == "second"
    on_head = node_id.options(scheduling_strategy="SPREAD")
    until(lambda: "elsewhere" in [names()[n] for n in get([on_head.remote() for _ in range(4)])])
    shoal.util.remove_placement_group(known)
    shoal.kill(actor)
