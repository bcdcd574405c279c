"""Nodes join a head, are seen, and are gone: the commands as people type them, real processes."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import socket
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import psutil
import pytest

from shoal._proto.frames import FrameDecoder
from shoal._proto.messages import GetTable
from shoal._runtime import registry, session_dir, wire
from shoal._runtime.observer import Observer
from shoal._runtime.store_wire import store_messages
from tests.cluster.conftest import LEASE_S, looked_around
from tests.cluster.operated import Machine, listening_at, until

USUAL_S = 11.0
"""After which a node that says nothing is declared dead, if nobody says otherwise."""


class Cluster(NamedTuple):
    """A head, its address, and the file with its join line."""

    head: Machine
    address: str
    token_file: str

    @property
    def line(self) -> str:
        """With the secret in it."""
        return pathlib.Path(self.token_file).read_text()


@pytest.fixture
def machine(tmp_path: pathlib.Path) -> Iterator[Machine]:
    """Another machine than the head."""
    made = Machine(tmp_path / "b")
    yield made
    made.stop()


@pytest.fixture(scope="module", autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """The look around comes after the last test: a head lives that long."""
    with looked_around():
        yield


@pytest.fixture(scope="module")
def _made(_nothing_is_left: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with started(tmp_path_factory.mktemp("head"), "--lease", f"{LEASE_S:g}s") as made:
        yield made


@pytest.fixture
def cluster(_made: Cluster) -> Cluster:
    """One for all tests whose nodes go: those of former ones are gone."""
    until(lambda: _made.head.alive() == {"first"})
    return _made


@pytest.fixture
def usual(tmp_path: pathlib.Path) -> Iterator[Cluster]:
    """With the usual lease."""
    with started(tmp_path) as made:
        yield made


@contextmanager
def started(tmp_path: pathlib.Path, *more: str) -> Iterator[Cluster]:
    head = Machine(tmp_path / "a")
    token_file = str(tmp_path / "token")
    try:
        words = ("--head", "--listen", "127.0.0.1:0", "--token-file", token_file)
        printed = head.start(*words, "--node-name", "first", *more)
        yield Cluster(head, listening_at(printed), token_file)
    finally:
        head.stop()


def joined(machine: Machine, cluster: Cluster, name: str, *words: str) -> str:
    where = ("--address", cluster.address, "--token-file", cluster.token_file)
    return machine.start(*where, "--listen", "127.0.0.1:0", "--node-name", name, *words)


NAMES = """
import shoal

print(sorted(row["NodeName"] for row in shoal.nodes() if row["Alive"]))
"""


def test_a_second_node_joins_and_is_seen(cluster: Cluster, machine: Machine) -> None:
    assert cluster.head.alive() == {"first"}
    assert stat.S_IMODE(os.stat(cluster.token_file).st_mode) == 0o600
    printed = joined(machine, cluster, "second", "--labels", "zone=b")
    assert f"of the cluster at {cluster.address}" in printed
    for each in (cluster.head, machine):
        until(lambda each=each: each.alive() == {"first", "second"})
    rows = cluster.head.nodes()
    assert rows["second"]["labels"]["zone"] == "b" and rows["second"]["address"] == "127.0.0.1"
    assert rows["first"]["node_id"] != rows["second"]["node_id"]

    status = cluster.head.shoal("status").stdout
    assert f"this is the head, listening, listens at {cluster.address}" in status
    assert "security: TLS 1.3 both ways, a token to join" in status
    assert " second: alive; 127.0.0.1:" in status
    told = cluster.head.program(NAMES)
    assert "['first', 'second']" in told.stdout, told.stderr


def test_a_node_behind_nat_only_dials_out(cluster: Cluster, machine: Machine) -> None:
    printed = machine.start("--node-name", "hidden", given=cluster.line, command="join")
    assert "It only dials out" in printed
    until(lambda: cluster.head.alive() == {"first", "hidden"})
    assert cluster.head.nodes()["hidden"]["address"] == ""
    assert " hidden: alive; dials out" in cluster.head.shoal("status").stdout


def test_a_node_renews_its_lease(cluster: Cluster, machine: Machine) -> None:
    """Longer than a lease after it has joined it is still a member."""
    joined(machine, cluster, "second")
    since = os.times().elapsed
    until(lambda: os.times().elapsed - since > LEASE_S + 3)
    assert cluster.head.alive() == {"first", "second"}


def test_a_killed_daemon_is_known_as_soon_as_nothing_of_its_node_is_left(
    cluster: Cluster, machine: Machine
) -> None:
    """Its zygote has ended the rest, and says so: nobody waits for the end of the lease."""
    joined(machine, cluster, "killed")
    until(lambda: cluster.head.alive() == {"first", "killed"})
    (entry,) = registry.started_sessions(str(machine.directory))
    os.kill(entry.pid, signal.SIGKILL)
    until(lambda: cluster.head.alive() == {"first"})
    assert " killed: dead; its daemon has ended" in cluster.head.shoal("status").stdout
    assert cluster.head.nodes()["killed"]["state"] == "DEAD"


def test_who_cannot_say_it_is_lost_when_its_lease_is_over(usual: Cluster, machine: Machine) -> None:
    cluster = usual
    joined(machine, cluster, "second")
    until(lambda: cluster.head.alive() == {"first", "second"})
    (entry,) = registry.started_sessions(str(machine.directory))
    processes = psutil.Process(entry.pid).children()
    (zygote,) = [each for each in processes if each.name() == "shoal-zygote"]
    zygote.suspend()
    os.kill(entry.pid, signal.SIGKILL)
    try:
        until(lambda: cluster.head.alive() == {"first"}, USUAL_S + 20)
        assert " second: dead; nothing was heard of it for 1" in cluster.head.shoal("status").stdout
    finally:
        zygote.resume()
    until(lambda: session_dir.process_start_time(zygote.pid) is None)
    assert not [*machine.directory.glob("session-*")], "too late to say it, not to tidy up"
    assert cluster.head.alive() == {"first"}


WORK = """
import os, shoal

@shoal.remote
def pid():
    return os.getpid()

print("ran in", shoal.get(pid.remote()), flush=True)
"""


def test_a_stopped_node_is_fenced_and_comes_back(cluster: Cluster, machine: Machine) -> None:
    """Its daemon stands still for longer than its lease: it is declared dead, and when it goes on
    it ends its workers, and joins as another epoch."""
    joined(machine, cluster, "second")
    until(lambda: cluster.head.alive() == {"first", "second"})
    (entry,) = registry.started_sessions(str(machine.directory))
    with Observer(entry.socket_path) as observer:
        before = {row["pid"] for row in observer.table("workers")}
    os.kill(entry.pid, signal.SIGSTOP)
    try:
        until(lambda: cluster.head.alive() == {"first"})
    finally:
        os.kill(entry.pid, signal.SIGCONT)
    until(lambda: cluster.head.alive() == {"first", "second"})
    assert not [pid for pid in before if session_dir.process_start_time(int(str(pid)))]
    assert "ran in" in machine.program(WORK).stdout
    assert " second: alive" in cluster.head.shoal("status").stdout


def test_stop_ends_only_its_own(usual: Cluster, machine: Machine) -> None:
    cluster = usual
    joined(machine, cluster, "second")
    until(lambda: cluster.head.alive() == {"first", "second"})
    machine.stop()
    # It has said so itself: nobody waits for the end of its lease.
    until(lambda: cluster.head.alive() == {"first"}, USUAL_S / 2)
    joined(machine, cluster, "third")
    until(lambda: "third" in cluster.head.alive())


def test_a_killed_store_knows_the_nodes_again(cluster: Cluster, machine: Machine) -> None:
    joined(machine, cluster, "second")
    until(lambda: cluster.head.alive() == {"first", "second"})
    done = machine.program("import shoal; print(shoal.lowlevel.kv_put(b'k', b'kept'))")
    assert "True" in done.stdout, done.stderr
    os.kill(store_pid(cluster.head), signal.SIGKILL)
    done = cluster.head.program("import shoal; print(shoal.lowlevel.kv_get(b'k'))")
    assert "b'kept'" in done.stdout, done.stderr
    until(lambda: store_pid(cluster.head))
    joined(Machine(machine.directory.parent / "c"), cluster, "third")
    try:
        until(lambda: cluster.head.alive() == {"first", "second", "third"})
    finally:
        Machine(machine.directory.parent / "c").stop()


def store_pid(machine: Machine) -> int:
    (entry,) = registry.started_sessions(str(machine.directory))
    with Observer(entry.socket_path) as observer:
        (row,) = observer.table("session")
    store = row["store"]
    assert isinstance(store, dict)
    return int(store["pid"]) if not store["away_s"] else 0


def test_a_head_that_is_started_again_has_its_nodes(
    machine: Machine, tmp_path: pathlib.Path
) -> None:
    """One with a name: secret, certificate and members are kept with its journal, so the nodes of
    its former life find it at its address and go on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    head, token_file = Machine(tmp_path / "a"), tmp_path / "token"
    words = ("--head", "--listen", address, "--name", "kept", "--token-file", str(token_file))
    try:
        head.start(*words, "--node-name", "first")
        line = token_file.read_text()
        joined(machine, Cluster(head, address, str(token_file)), "second")
        until(lambda: head.alive() == {"first", "second"})
        head.stop()
        token_file.unlink()
        head.start(*words, "--node-name", "again")
        assert token_file.read_text() == line
        until(lambda: {"again", "second"} <= head.alive())
        until(lambda: {"again", "second"} <= machine.alive())
    finally:
        head.stop()


def test_nothing_there_can_unpickle(cluster: Cluster, machine: Machine) -> None:
    """Daemons and store of a cluster, after a node has joined: they have no pickle loaded."""
    joined(machine, cluster, "second")
    until(lambda: cluster.head.alive() == {"first", "second"})
    (head,) = registry.started_sessions(str(cluster.head.directory))
    (node,) = registry.started_sessions(str(machine.directory))
    asked = [(head.socket_path, "session"), (node.socket_path, "session")]
    for path, table in asked:
        with Observer(path) as observer:
            (row,) = observer.table(table)
        modules = row["modules"]
        assert isinstance(modules, list) and "shoal._runtime.links.peers" in modules
        assert {"pickle", "_pickle", "cloudpickle"} & set(modules) == set()
    store = wire.connect(os.path.join(head.directory, session_dir.STORE_SOCKET_NAME))
    with store:
        store.settimeout(10)
        store.sendall(store_messages().encode(1, GetTable("store", 1)))
        decoder = FrameDecoder(store_messages())
        frames: list[Any] = []
        while not frames:
            data = store.recv(1 << 16)
            assert data, "the store has ended the connection"
            frames = [frame for frame in decoder.feed(data) if frame.id == 1]
    modules = frames[0].body.rows[0]["modules"]
    assert "shoal._runtime.store_cluster" in modules
    assert {"pickle", "_pickle", "cloudpickle"} & set(modules) == set()


def test_a_drained_node_leaves(cluster: Cluster, machine: Machine) -> None:
    joined(machine, cluster, "second")
    until(lambda: cluster.head.alive() == {"first", "second"})
    done = cluster.head.shoal("drain", "second", "--deadline", "10s")
    assert done.returncode == 0, done.stderr
    assert "takes nothing new" in done.stdout
    until(lambda: " second: alive" not in cluster.head.shoal("status").stdout)
    wrong = cluster.head.shoal("drain", "nobody")
    assert wrong.returncode == 1 and "there is no node nobody; the nodes are: " in wrong.stderr


# ---- what is wrong is one clear line
def test_what_is_wrong_with_joining_is_said(cluster: Cluster, tmp_path: pathlib.Path) -> None:
    """All at once: each of them is tried for a while."""
    tag, address, token, fingerprint = cluster.line.split()
    other_key = token[:9] + ("A" if token[9] != "A" else "B") + token[10:]
    other_print = "sha256:" + "0" * 64
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        free = f"127.0.0.1:{taken.getsockname()[1]}"  # bound, and nobody listens
        wrong = (
            (f"{tag} {address} {other_key} {fingerprint}", "token"),
            (f"{tag} {address} {token} {other_print}", "certificate"),
            (f"{tag} {free} {token} {fingerprint}", f"nobody listens at {free}"),
            (f"{tag} nowhere {token} {fingerprint}", "is not an address"),
            ("hello", "is not a join line"),
            ("", "is not a join line"),
        )

        def refused(number: int) -> str:
            machine = Machine(tmp_path / f"{number}")
            return machine.refused(given=wrong[number][0] + "\n", command="join")

        with ThreadPoolExecutor(len(wrong)) as pool:
            texts = list(pool.map(refused, range(len(wrong))))
        for (line, said), text in zip(wrong, texts, strict=True):
            assert said in text, (line.replace(token, "TOKEN"), text)
            assert token.partition(".")[2] not in text


def test_files_that_others_can_read_are_refused(cluster: Cluster, machine: Machine) -> None:
    open_file = machine.directory.with_name("token")
    open_file.write_text(cluster.line)
    open_file.chmod(0o644)
    text = machine.refused("--address", cluster.address, "--token-file", str(open_file))
    assert "chmod 600" in text
    missing = machine.refused("--address", cluster.address, "--token-file", "/no/such/file")
    assert "cannot be read" in missing
    assert "needs the cluster's token" in machine.refused("--address", cluster.address)


def test_a_port_in_use_is_said(machine: Machine) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        text = machine.refused("--head", "--listen", address)
    assert f"at {address}" in text and "the port is in use" in text


def test_a_second_node_of_one_name_is_refused(cluster: Cluster, machine: Machine) -> None:
    where = ("--address", cluster.address, "--token-file", cluster.token_file)
    text = machine.refused(*where, "--node-name", "first")
    assert "first" in text and "did not join" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--listen", "127.0.0.1:0"], "add --head"),
        (["--head", "--listen", "nowhere:port"], "is not an address"),
        (["--head", "--listen", "192.0.2.1:0"], "no such address"),
        (["--head", "--listen", "127.0.0.1:0", "--lease", "1s"], "from 2 to 300 seconds, not 1"),
        (["--head", "--listen", "127.0.0.1:0", "--lease", "long"], "--lease must be a time like"),
        (["--head", "--lease", "3s"], "--lease is for the head of a cluster"),
        (["--head", "--address", "10.0.0.1:1"], "--head and --name are for its head"),
        (["--token-file", "x"], "are for clusters"),
        (["--address", "10.0.0.1:1", "--token", "secret"], "nknown option"),
    ],
)
def test_misuse_is_said(machine: Machine, words: list[str], said: str) -> None:
    assert said in machine.refused(*words)


# ---- secrets
def test_the_secret_is_nowhere_but_in_files_of_ours(cluster: Cluster, machine: Machine) -> None:
    joined(machine, cluster, "second")
    until(lambda: cluster.head.alive() == {"first", "second"})
    cluster.head.program(
        "import shoal, time\n"
        "@shoal.remote\n"
        "def f():\n"
        "    print('running')\n"
        "    return 1\n"
        "print(shoal.get(f.remote()))\n"
    )
    secret = cluster.line.split()[2].partition(".")[2].encode()
    said = [cluster.head.shoal("status").stdout, json.dumps(cluster.head.nodes())]
    assert not [text for text in said if secret.decode() in text]
    ours = (cluster.head.directory, machine.directory)
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        for name in ("cmdline", "environ"):
            try:
                found = pathlib.Path(f"/proc/{pid}/{name}").read_bytes()
            except OSError:
                continue
            assert secret not in found, (pid, name)
    holders = []
    for directory in ours:
        for path in directory.rglob("*"):
            if path.is_file() and secret in path.read_bytes():
                holders.append(path)
    assert sorted(path.name for path in holders) == ["id.secret", "id.secret", "join"]
    for path in holders:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
