"""Programs that drive a cluster from a machine that has no node of it: real daemons, one cluster.

The program is this process or another one; its directory of sessions is its own, as on another
machine. The last test gives it a network of its own.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import shoal
from shoal import errors
from shoal.testing import Cluster
from shoal.testing.polling import wait_until
from shoal.util.scheduling_strategies import NodeAffinitySchedulingStrategy as Affinity
from tests.cluster.conftest import looked_around

LONG_S = 60.0
SOON_S = 5.0
"""Far less than the lease of a driver's node: it has said itself that it leaves."""


class Place(NamedTuple):
    """A cluster of two nodes, and what a program elsewhere knows of it."""

    cluster: Cluster
    address: str
    line: str
    token_file: str
    directory: Path
    """Where the program's own sessions would be."""

    def drivers(self) -> dict[str, str]:
        """State of each driver's node, by id."""
        rows = self.cluster.head.observe("members")
        return {row["node_id"]: row["state"] for row in rows if row["role"] == "driver"}

    def living(self) -> list[str]:
        return [node for node, state in self.drivers().items() if state == "ALIVE"]

    def sessions(self) -> list[str]:
        return [path.name for path in self.directory.glob("session-*")]


@pytest.fixture(scope="module", autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """Of all tests together: the workers of the cluster wait for the next program."""
    with looked_around():
        yield


@pytest.fixture(scope="module")
def _made(_nothing_is_left: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    with Cluster() as cluster:
        cluster.add_node(num_cpus=2)
        cluster.add_node(num_cpus=1, resources={"licence": 1})
        line = cluster.join_line().strip()
        token_file = elsewhere / "token"
        token_file.write_text(line + "\n")
        token_file.chmod(0o600)
        yield Place(cluster, line.split()[1], line, str(token_file), elsewhere)


@pytest.fixture
def place(_made: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setenv("SHOAL_DIR", str(_made.directory))
    for name in ("SHOAL_ADDRESS", "SHOAL_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    yield _made
    shoal.shutdown()
    assert wait_until(lambda: not _made.living(), SOON_S), _made.drivers()
    assert not _made.sessions()


@shoal.remote
def where() -> str:
    return shoal.get_runtime_context().get_node_id()


@shoal.remote
def count(n: int) -> Iterator[int]:
    yield from range(n)


def total(values: Any) -> float:
    return float(sum(values))


# ---- what it is
def test_work_of_a_driver_runs_on_the_nodes(place: Place) -> None:
    shoal.init(place.address, token_file=place.token_file, log_to_driver=False)
    own = shoal.get_runtime_context().get_node_id()
    nodes = {row["NodeID"]: row["NodeName"] for row in shoal.nodes()}
    assert set(nodes.values()) == {"node-1", "node-2"} and own not in nodes
    assert shoal.cluster_resources()["CPU"] == 3
    for options in ({}, {"num_cpus": 0}, {"resources": {"licence": 1}}):
        assert shoal.get(where.options(**options).remote(), timeout=LONG_S) in nodes, options
    summed = shoal.remote(total)
    large = shoal.put(range(100_000))
    refs = [summed.remote(large), summed.remote([0.5] * 4)]
    assert shoal.get(refs, timeout=LONG_S) == [4999950000.0, 2.0]

    @shoal.remote
    def nested(n: int) -> list[Any]:
        return [shoal.put(i) for i in range(n)]

    assert shoal.get(shoal.get(nested.remote(3), timeout=LONG_S), timeout=LONG_S) == [0, 1, 2]


def test_generators_of_a_driver_run_on_the_nodes(place: Place) -> None:
    shoal.init(place.address, token_file=place.token_file, log_to_driver=False)
    for options in ({}, {"resources": {"licence": 1}, "_generator_backpressure_num_objects": 2}):
        stream = count.options(**options).remote(20)
        assert [shoal.get(stream._next_sync(LONG_S), timeout=LONG_S) for _ in range(20)] == [
            *range(20)
        ]
        assert shoal.get(stream.completed(), timeout=LONG_S) == 20


def test_tasks_go_where_their_large_arguments_are(place: Place) -> None:
    """Chance alone would send one of two there."""
    shoal.init(place.address, token_file=place.token_file)
    nodes = [row["NodeID"] for row in shoal.nodes()]
    assert len(nodes) == 2

    @shoal.remote
    def made(size: int) -> bytes:
        return bytes(size)

    @shoal.remote
    def read_at(value: bytes) -> str:
        return str(shoal.get_runtime_context().get_node_id())

    for node in nodes * 4:
        value = made.options(scheduling_strategy=Affinity(node, soft=False)).remote(20 << 20)
        shoal.wait([value], timeout=LONG_S, fetch_local=False)
        assert shoal.get(read_at.remote(value), timeout=LONG_S) == node


def test_it_is_seen_as_a_driver_and_leaves_at_once(place: Place) -> None:
    """Of all that people see, only ``status`` has it; it is none of the nodes that are counted."""
    shoal.init(place.address, token_file=place.token_file)
    own = shoal.get_runtime_context().get_node_id()
    assert place.drivers()[own] == "ALIVE"
    status = place.cluster.head.command("status")
    assert f"  driver {own[:12]} " in status and "  2 nodes," in status
    refused = "it runs nothing, and leaves with its program"
    with pytest.raises(RuntimeError, match=refused):
        place.cluster.head.command("drain", own[:12])
    shoal.shutdown()
    assert wait_until(lambda: place.drivers()[own] == "DEAD", SOON_S)
    assert own[:12] not in place.cluster.head.command("status"), "that programs end is no news"


def test_its_actors_and_jobs_are_seen_from_all_nodes(place: Place) -> None:
    shoal.init(place.address, token_file=place.token_file)
    own = shoal.get_runtime_context().get_node_id()
    nodes = {row["NodeID"] for row in shoal.nodes()}

    @shoal.remote
    class Keeper:
        def pid(self) -> int:
            return os.getpid()

    @shoal.remote
    def seen() -> list[tuple[str, str, int]]:
        rows = shoal.state.actors(state="ALIVE")
        return [(row.name, row.node_id, row.pid) for row in rows]

    keeper = Keeper.options(name="keeper").remote()
    pid = shoal.get(keeper.pid.remote(), timeout=LONG_S)
    ((name, node, told),) = shoal.get(seen.remote(), timeout=LONG_S)
    assert (name, told) == ("keeper", pid) and node in nodes, "its home is the driver's node"
    assert [row.node_id for row in shoal.state.actors(name="keeper")] == [node]
    assert [row.node_id for row in shoal.state.jobs(state="RUNNING")] == [own]


def test_a_killed_driver_takes_its_node_along(place: Place) -> None:
    text = (
        "import shoal, sys, time\n"
        f"shoal.init({place.address!r}, token_file={place.token_file!r})\n"
        "sleeper = shoal.remote(time.sleep).remote(600)\n"
        "print(shoal.get_runtime_context().get_node_id(), flush=True)\n"
        "sys.stdin.read()\n"
    )
    before = set(place.drivers())
    with subprocess.Popen(
        [sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        node = program.stdout.readline().strip()
        assert set(place.living()) - before == {node}
        assert len(place.sessions()) == 1
        program.send_signal(signal.SIGKILL)
    assert wait_until(lambda: not place.living(), SOON_S), "its daemon has seen its end"
    assert wait_until(lambda: not place.sessions(), SOON_S)

    def is_busy() -> bool:
        rows = place.cluster.head.observe("members")
        return any(row["is_busy"] for row in rows if row["state"] == "ALIVE")

    assert wait_until(lambda: not is_busy(), LONG_S), "what it had asked for ends with its job"


@pytest.mark.parametrize("end", ["", "os._exit(0)", "os.kill(os.getpid(), 9)"])
def test_a_detached_actor_outlives_its_program(place: Place, end: str) -> None:
    text = (
        "import os, shoal\n"
        f"shoal.init({place.address!r}, token_file={place.token_file!r}, namespace='n')\n"
        "@shoal.remote(num_cpus=0, resources={'licence': 0.1}, max_restarts=1)\n"
        "class Counter:\n"
        "    def __init__(self, first):\n"
        "        self.count = first\n"
        "    def add(self):\n"
        "        self.count += 1\n"
        "        return self.count, os.getpid()\n"
        "made = Counter.options(name='kept', lifetime='detached')\n"
        "counter = made.remote(int(os.environ['FIRST']))\n"
    )
    program = [sys.executable, "-c", text + end]
    subprocess.run(program, env={**os.environ, "FIRST": "7"}, check=not end, timeout=LONG_S)
    assert wait_until(lambda: not place.living(), SOON_S)
    shoal.init(place.address, token_file=place.token_file, namespace="n", log_to_driver=False)
    counter = shoal.get_actor("kept")
    count, pid = shoal.get(counter.add.remote(), timeout=LONG_S)
    assert count == 8, "made with what it was given"
    more = shoal.get([counter.add.remote() for _ in range(3)], timeout=LONG_S)
    assert more == [(count, pid) for count in (9, 10, 11)]
    os.kill(pid, signal.SIGKILL)
    again = shoal.get(counter.add.options(max_task_retries=1).remote(), timeout=LONG_S)
    assert again[0] == 8 and again[1] != pid, "who restarts it has its class and arguments"
    shoal.kill(counter)

    def is_gone() -> bool:
        try:
            shoal.get_actor("kept")
        except errors.ActorNotFoundError:
            return True
        return False

    assert wait_until(is_gone, LONG_S)


def test_what_no_node_has_waits_and_is_said_once(
    place: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    shoal.init(place.address, token_file=place.token_file)
    ref = where.options(resources={"nowhere": 1}).remote()
    said: list[str] = []

    def is_said() -> bool:
        said.append(capfd.readouterr().err)
        return "nowhere" in "".join(said)

    assert wait_until(is_said, LONG_S)
    assert "no node of the cluster has that" in "".join(said)
    assert "Infeasible" in type(shoal.state.why(ref).reason).__name__
    own = shoal.get_runtime_context().get_node_id()
    with pytest.raises(errors.UsageError, match="joined the cluster from outside: it runs nothing"):
        where.options(scheduling_strategy=Affinity(own, soft=False)).remote()
    soft = where.options(scheduling_strategy=Affinity(own, soft=True)).remote()
    assert shoal.get(soft, timeout=LONG_S) != own


def test_what_waits_for_room_says_so(place: Place) -> None:
    shoal.init(place.address, token_file=place.token_file)

    @shoal.remote(resources={"licence": 1})
    def holds(path: str) -> int:
        Path(path).touch()
        while Path(path).exists():
            pass
        return 1

    flag = place.directory / "flag"
    first = holds.remote(str(flag))
    try:
        assert wait_until(flag.exists, LONG_S)
        second = where.options(resources={"licence": 1}).remote()
        name = lambda: type(shoal.state.why(second).reason).__name__  # noqa: E731
        assert wait_until(lambda: name() != "Infeasible", LONG_S), name()
    finally:
        flag.unlink(missing_ok=True)
    assert shoal.get(first, timeout=LONG_S) == 1
    assert shoal.get(second, timeout=LONG_S) in {row["NodeID"] for row in shoal.nodes()}


def test_all_nodes_have_one_key_value_table(place: Place) -> None:
    """The control store's; a driver's node has no other."""
    shoal.init(place.address, token_file=place.token_file)

    @shoal.remote
    def there(name: str, *given: Any, **options: Any) -> Any:
        return getattr(shoal.lowlevel, name)(*given, **options)

    def at(node: str, *given: Any, **options: Any) -> Any:
        strategy = Affinity(node, soft=False)
        ref = there.options(scheduling_strategy=strategy).remote(*given, **options)
        return shoal.get(ref, timeout=LONG_S)

    head, other = (row["NodeID"] for row in sorted(shoal.nodes(), key=lambda row: row["NodeName"]))
    key = b"test_all_nodes"
    assert at(other, "kv_put", key, b"first", overwrite=False)
    assert not at(head, "kv_put", key, b"second", overwrite=False)
    assert shoal.lowlevel.kv_get(key) == at(head, "kv_get", key) == b"first"
    assert not shoal.lowlevel.kv_put(key, b"third"), "it was there"
    assert at(other, "kv_get", key) == b"third"
    assert at(head, "kv_keys", b"test_all") == [key]
    assert at(head, "kv_delete", key) and shoal.lowlevel.kv_get(key) is None
    with pytest.raises(errors.UsageError, match="in a cluster at most"):
        shoal.lowlevel.kv_put(key, bytes(9 << 20))


# ---- where the secret comes from
def _by_line(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    shoal.init(place.line)


def _by_variables(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_ADDRESS", place.address)
    monkeypatch.setenv("SHOAL_TOKEN_FILE", place.token_file)
    shoal.init()


def _by_scheme(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_TOKEN_FILE", place.token_file)
    shoal.init(address=f"ray://{place.address}")


@pytest.mark.parametrize("begin", [_by_line, _by_variables, _by_scheme])
def test_ways_to_say_it(
    place: Place, monkeypatch: pytest.MonkeyPatch, begin: Callable[..., None]
) -> None:
    begin(place, monkeypatch)
    own = shoal.get_runtime_context().get_node_id()
    assert place.living() == [own]


def test_a_node_on_this_machine_is_used(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also that which is no head; and it asks for no secret: the socket is ours."""
    for node in place.cluster.nodes:
        monkeypatch.setenv("SHOAL_DIR", node.directory)
        for address, more in ((place.address, {}), (place.line, {})):
            context = shoal.init(address, **more)
            assert context["session"] == node.entry.session
            assert not place.living()
            shoal.shutdown()
    with pytest.raises(errors.OptionError, match="exists already and has its resources"):
        shoal.init(place.address, num_cpus=1)


# ---- what is wrong is one error that says what to do
def test_what_is_wrong_is_said(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    tag, address, token, fingerprint = place.line.split()
    other_token = token[:9] + ("A" if token[9] != "A" else "B") + token[10:]
    open_file = place.directory / "open"
    open_file.write_text(place.line)
    open_file.chmod(0o644)
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        free = f"127.0.0.1:{bound.getsockname()[1]}"  # and nobody listens
        for given, options, kind, said in (
            (address, {}, errors.OptionError, "needs its token"),
            (address, {"token_file": "/no/such"}, errors.OptionError, "cannot be read"),
            (address, {"token_file": str(open_file)}, errors.OptionError, "chmod 600"),
            (f"{tag} {address} {token}", {}, errors.OptionError, "is not a join line"),
            (f"ftp://{address}", {}, errors.OptionError, "is not the address of a cluster"),
            ("nowhere:port", {}, errors.OptionError, "is not an address"),
            (place.line, {"num_cpus": 2}, errors.OptionError, "leave the option out"),
            (None, {"token_file": place.token_file}, errors.OptionError, "give its address too"),
            (f"{tag} {free} {token} {fingerprint}", {}, ConnectionError, "nobody listens at"),
            (f"{tag} {address} {other_token} {fingerprint}", {}, ConnectionError, "token is not"),
            (f"{tag} {address} {token} sha256:{'0' * 64}", {}, ConnectionError, "fingerprint"),
        ):
            with pytest.raises(kind, match=said) as caught:
                shoal.init(given, **options)
            assert "What to do" in str(caught.value) or "leave the option out" in said
            assert token.partition(".")[2] not in str(caught.value)
            assert not place.sessions(), "what began has ended"
    monkeypatch.setenv("SHOAL_ADDRESS", place.line)
    with pytest.raises(errors.OptionError, match="a secret that other programs can see"):
        shoal.init()


def test_the_secret_is_in_files_of_ours_only(place: Place) -> None:
    shoal.init(place.line)
    secret = place.line.split()[2].partition(".")[2].encode()
    (session,) = place.directory.glob("session-*")
    holders = [
        path for path in session.rglob("*") if path.is_file() and secret in path.read_bytes()
    ]
    assert [path.name for path in holders] == ["id.secret"]
    assert holders[0].stat().st_mode & 0o077 == 0
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        for name in ("cmdline", "environ"):
            try:
                found = Path(f"/proc/{pid}/{name}").read_bytes()
            except OSError:
                continue
            assert secret not in found, (pid, name)
