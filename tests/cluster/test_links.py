"""Links over real sockets: order, resumption, lives, relay, handing over, and large transfers."""

from __future__ import annotations

import array
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shoal._base.config import LEASE_LEAST_S
from shoal._core.link_events import LinkLimits
from shoal._proto import links
from shoal._proto.holds import SealedAtHome
from shoal._runtime.links import bulk, keys
from shoal._runtime.links.bulk import BulkLimits
from shoal._runtime.links.bulk_streams import shut
from shoal._runtime.links.door import Arrival, Door, listen_anywhere
from tests.cluster.members import Cluster, Member, until

A, B, C, HEAD = ("aa" * 16, "bb" * 16, "cc" * 16, "dd" * 16)
QUICK = BulkLimits(range_least_bytes=1 << 20, redial_s=0.02, give_up_s=2.0, io_s=5.0)


@pytest.fixture()
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    yield made
    made.close()


def note(number: int, size: int = 20) -> SealedAtHome:
    """A message that carries a number and so many bytes."""
    return SealedAtHome(number, 0, size, number.to_bytes(8, "big").ljust(size, b"."))


def numbers(member: Member, sender: str) -> list[int]:
    """What arrived, in order; each message whole."""
    bodies = [body for node, body in list(member.received) if node == sender]
    for body in bodies:
        assert isinstance(body, SealedAtHome) and body == note(body.key, body.size_bytes)
    return [body.key for body in bodies]


def cut(member: Member) -> int:
    """Break every connection of a member's links under it; how many there were."""

    def shut_all() -> int:
        channels = list(member.peers._connections._by_channel)
        for channel in channels:
            shut(channel._shake.socket)
        return len(channels)

    return int(member.call(shut_all))


class Cutter(threading.Thread):
    """Breaks a member's connections at random until told to stop."""

    def __init__(self, cut_one: Callable[[], int], seed: int, most_s: float = 0.03) -> None:
        super().__init__(daemon=True)
        self.cuts = 0
        self._cut_one = cut_one
        self._random = random.Random(seed)
        self._most_s = most_s
        self._over = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._over.wait(self._random.uniform(0, self._most_s)):
            self.cuts += self._cut_one()

    def stop(self) -> int:
        self._over.set()
        self.join()
        return self.cuts


# ---- messages
def test_messages_arrive_in_order_both_ways(cluster: Cluster) -> None:
    a, b = cluster.add(A), cluster.add(B)
    a.send(b, note(0))  # before there is a connection
    a.connect(b)
    for number in range(1, 3000):
        a.send(b, note(number))
        b.send(a, note(number))
    until(lambda: len(numbers(b, A)) == 3000 and len(numbers(a, B)) == 2999, "all came")
    assert numbers(b, A) == list(range(3000)) and numbers(a, B) == list(range(1, 3000))


def test_nothing_is_lost_or_doubled_while_connections_break(cluster: Cluster) -> None:
    limits = LinkLimits(steady_s=0.0)  # dial again at once, however short it lived
    a, b = cluster.add(A, limits=limits), cluster.add(B, limits=limits)
    a.connect(b)
    b.connect(a)
    a.wait_linked(b)
    cutters = [Cutter(lambda: cut(a), 1), Cutter(lambda: cut(b), 2)]
    sizes = random.Random(3)
    for number in range(1500):
        a.send(b, note(number, sizes.choice((20, 200, 40_000))))
        b.send(a, note(number, sizes.choice((20, 200, 40_000))))
    cuts = sum(cutter.stop() for cutter in cutters)
    until(lambda: len(numbers(b, A)) >= 1500 and len(numbers(a, B)) >= 1500, "all came")
    assert numbers(b, A) == list(range(1500)) == numbers(a, B)
    assert cuts > 20, f"only {cuts} connections were broken"
    assert not [n for n in (*a.news, *b.news) if n[0] in ("ended", "fenced")]


def test_both_sides_may_dial_at_once(cluster: Cluster) -> None:
    limits = LinkLimits(steady_s=0.0)
    a, b = cluster.add(A, limits=limits), cluster.add(B, limits=limits)
    for turn in range(15):
        sides = [threading.Thread(target=x.connect, args=(y,)) for x, y in ((a, b), (b, a))]
        for side in sides:
            side.start()
        a.send(b, note(turn))
        b.send(a, note(turn))
        for side in sides:
            side.join()
        count = turn + 1
        until(lambda n=count: len(numbers(b, A)) == n == len(numbers(a, B)), "both came")
        until(
            lambda: [len(m.peers._connections._by_channel) for m in (a, b)] == [1, 1],
            "one connection stays",
        )
        cut(random.Random(turn).choice((a, b)))
    assert numbers(b, A) == list(range(15)) == numbers(a, B)


def test_a_large_message_survives_breaks(cluster: Cluster) -> None:
    a, b = cluster.add(A), cluster.add(B)
    a.connect(b)
    a.wait_linked(b)
    cutter = Cutter(lambda: cut(b), 5, 0.5)
    for number in range(6):
        a.send(b, note(number, 4 << 20))
    until(lambda: len(numbers(b, A)) == 6, "all came", 60.0)
    cutter.stop()
    assert numbers(b, A) == list(range(6))


def test_back_pressure_is_told(cluster: Cluster) -> None:
    a, b = cluster.add(A), cluster.add(B)
    a.connect(b)
    a.wait_linked(b)
    go_on = threading.Event()
    b.on_received = lambda node, body: go_on.wait(20)
    for number in range(24):
        a.send(b, note(number, 1 << 20))
    until(lambda: ("congested", B, "True") in a.news, "too much waits")
    go_on.set()
    until(lambda: ("congested", B, "False") in a.news, "it has been taken")
    until(lambda: len(numbers(b, A)) == 24, "all came")


# ---- the store
def test_the_store_is_dialled_several_times_in_the_shortest_lease(cluster: Cluster) -> None:
    """Where nobody listens at its address, each dial makes the lease longer."""
    a = cluster.add(A)
    for name in (keys.STORE, B):
        a.connect(name, "127.0.0.1:1")
    redials = [a.peers._peer(name).link._limits.redial_most_s for name in (keys.STORE, B)]
    assert redials[0] <= LEASE_LEAST_S / 4 < redials[1]


# ---- lives
def test_another_life_gets_nothing_of_the_former(cluster: Cluster) -> None:
    a, b = cluster.add(A), cluster.add(B, epoch=1)
    a.connect(b)
    a.send(b, note(0))
    until(lambda: numbers(b, A) == [0], "the first came")
    b.stop()
    a.send(b, note(1))
    why = a.wait_suspected(B)
    assert "nobody listens" in why
    again = cluster.add(B, epoch=2)
    again.connect(a)
    until(lambda: any(n[:2] == ("ended", B) for n in a.news), "the former life is over")
    a.send(B, note(2))
    until(lambda: numbers(again, A) == [2], "only what was meant for it")


def test_a_node_that_was_declared_dead_is_told_so_and_may_begin_anew(cluster: Cluster) -> None:
    a, b = cluster.add(A), cluster.add(B, epoch=7)
    b.connect(a)
    a.wait_linked(b)
    a.call(lambda: a.peers.forget(B))
    until(lambda: any(n[:2] == ("fenced", A) for n in b.news), "it hears that it is dead")
    until(lambda: not b.peers.is_linked(A), "and lets go of the link")
    b.connect(a)
    time.sleep(0.2)
    assert not a.peers.is_linked(B)
    b.call(lambda: b.peers.begin_epoch(8))
    b.connect(a)
    a.wait_linked(b)
    b.send(a, note(5))
    until(lambda: numbers(a, B) == [5], "the new life is heard")


def test_a_node_that_goes_on_as_another_epoch_takes_its_links_along(cluster: Cluster) -> None:
    a, b = cluster.add(A), cluster.add(B, epoch=7)
    b.connect(a)
    a.connect(b)
    a.wait_linked(b)
    a.send(b, note(1))
    until(lambda: numbers(b, A) == [1], "the first came")
    b.call(lambda: b.peers.begin_epoch(8))
    until(lambda: any(n[:2] == ("ended", B) for n in a.news), "the other side has heard")
    a.send(b, note(2))
    b.send(a, note(3))
    until(lambda: numbers(b, A) == [1, 2] and numbers(a, B) == [3], "both go on")
    assert not [n for n in (*a.news, *b.news) if n[0] == "fenced"]


# ---- joining
def test_a_machine_with_nothing_but_the_join_line(cluster: Cluster) -> None:
    store = cluster.add("store")
    node = cluster.add(A)
    joined = cluster.join(B)
    assert not joined.peers.contexts.credentials.has_certificate
    joined.connect("store", store.address)
    joined.wait_linked("store")
    joined.send("store", note(1))
    until(lambda: numbers(store, B) == [1], "the store hears it")
    joined.connect(node)
    node.wait_linked(joined)
    node.send(joined, note(2))
    until(lambda: numbers(joined, A) == [2], "others can use its certificate")


def test_a_bare_token_is_enough(cluster: Cluster) -> None:
    store = cluster.add("store")
    line = type(cluster.line).parse(cluster.line.secret.text(), store.address)
    joined = cluster.join(B, line)
    joined.connect("store", store.address)
    joined.wait_linked("store")
    assert joined.peers.contexts.credentials.fingerprint == cluster.line.fingerprint


# ---- nodes that cannot be dialled
def test_two_nodes_behind_nat_talk_by_way_of_the_head(cluster: Cluster) -> None:
    head = cluster.add(HEAD)
    a, b = cluster.add(A, listens=False), cluster.add(B, listens=False)
    for member in (a, b):
        member.connect(head)
        member.call(lambda member=member: member.peers.relay_through(HEAD))
        member.wait_linked(head)
    a.connect(b, "")
    b.connect(a, "")
    for number in range(200):
        a.send(b, note(number))
        b.send(a, note(number))
    until(lambda: len(numbers(b, A)) == 200 == len(numbers(a, B)), "all came")
    assert numbers(b, A) == list(range(200)) == numbers(a, B)
    assert a.call(lambda: a.peers.rows()[0]["is_relayed"])
    cut(head)
    a.send(b, note(200))
    until(lambda: numbers(b, A)[-1:] == [200], "the next one comes after a break")
    assert numbers(b, A) == list(range(201))
    a.send(b, note(201, links.MAX_BODY_BYTES - 100))
    until(lambda: numbers(b, A)[-1:] == [201], "the largest message there can be")
    value = os.urandom((3 << 20) + 17)
    b.values[b"v"] = memoryview(value)
    into = bytearray(len(value))
    assert a.pull(b, b"v", into) == "" and into == value and b.released == 4
    assert "does not have it" in a.pull(b, b"nothing", into)
    assert "bytes there" in a.pull(b, b"v", bytearray(5))


def test_a_node_behind_nat_is_asked_to_dial_for_bulk(cluster: Cluster) -> None:
    a, b = cluster.add(A), cluster.add(B, listens=False)
    b.connect(a)
    a.wait_linked(b)
    value = os.urandom(20 << 20)
    b.values[b"v"] = memoryview(value)
    a.values[b"w"] = memoryview(value)
    for puller, source, name in ((a, b, b"v"), (b, a, b"w")):
        into = bytearray(len(value))
        assert puller.pull(source, name, into) == "" and into == value


def test_who_does_not_answer_directly_is_reached_by_way_of_the_head(cluster: Cluster) -> None:
    head, a, b = cluster.add(HEAD), cluster.add(A), cluster.add(B)
    for member in (a, b):
        member.connect(head)
        member.call(lambda member=member: member.peers.relay_through(HEAD))
        member.wait_linked(head)
    nobody, address = listen_anywhere("127.0.0.1")
    nobody.close()
    a.connect(b, address)
    a.send(b, note(1))
    until(lambda: numbers(b, A) == [1], "it came by way of the head")


def test_an_address_may_be_a_name(cluster: Cluster) -> None:
    a, b = cluster.add(A), cluster.add(B)
    a.connect(b, b.address.replace("127.0.0.1", "localhost"))
    a.wait_linked(b)
    a.connect(C, "no-such-host.invalid:1")
    assert "no-such-host.invalid" in a.wait_suspected(C)


# ---- one port, two processes
def test_a_connection_is_handed_to_another_process(cluster: Cluster) -> None:
    """The store holds the port; connections for the daemon reach it as descriptors."""
    store, daemon, other = cluster.add("store"), cluster.add(A, listens=False), cluster.add(B)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def hand(arrival: Arrival) -> None:
        rights = array.array("i", [arrival.connection.fileno()])
        kind = (socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)
        ours.sendmsg([arrival.preface], [kind])
        arrival.connection.close()

    def take(events: int) -> None:
        preface, controls, _, _ = theirs.recvmsg(links.PREFACE_BYTES, socket.CMSG_SPACE(4))
        descriptor = array.array("i", controls[0][2])[0]
        daemon.peers.accepted(descriptor, preface)

    listening, address = listen_anywhere("127.0.0.1")
    desks = {**store.peers.desks(), links.NODE: hand, links.BULK: hand}
    secret = cluster.line.secret.id
    store.call(lambda: Door(store.loop, listening, secret, desks))
    daemon.call(lambda: daemon.loop.watch(theirs.fileno(), take))
    other.connect(daemon, address)
    other.connect("store", address)
    other.wait_linked(daemon)
    other.wait_linked("store")
    other.send(daemon, note(1))
    until(lambda: numbers(daemon, B) == [1], "the daemon is reached at the port of the store")
    daemon.values[b"v"] = memoryview(b"value")
    into = bytearray(5)
    assert other.pull(daemon, b"v", into) == "" and into == b"value"
    store.stop()
    other.send(daemon, note(2))
    until(lambda: numbers(daemon, B) == [1, 2], "the link outlives the store")
    daemon.call(lambda: daemon.loop.unwatch(theirs.fileno()))
    ours.close()
    theirs.close()


# ---- bulk
@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, (5 << 20) + 3, 96 << 20])
def test_values_of_all_sizes(cluster: Cluster, size: int) -> None:
    a, b = cluster.add(A), cluster.add(B, bulk=QUICK)
    a.connect(b)
    value = random.Random(size).randbytes(size)
    b.values[b"v"] = memoryview(value)
    into = bytearray(size)
    assert a.pull(b, b"v", into) == "" and into == value
    until(lambda: b.released > 0, "the source was released")


def test_compressed_values(cluster: Cluster) -> None:
    a, b = cluster.add(A), cluster.add(B)
    a.connect(b)
    for value in (bytes(5 << 20), os.urandom(3 << 20), b"ab" * (1 << 20) + os.urandom(1 << 20)):
        b.values[b"v"] = memoryview(value)
        into = bytearray(len(value))
        assert a.pull(b, b"v", into, compress=True) == "" and into == value


def test_many_values_at_once_and_typed_memory(cluster: Cluster) -> None:
    a, b = cluster.add(A), cluster.add(B)
    a.connect(b)
    done: dict[int, str] = {}
    values = {n: array.array("d", [float(n)] * (1000 * n)) for n in range(60)}
    targets = {n: array.array("d", bytes(8000 * n)) for n in range(60)}
    for n, value in values.items():
        b.values[str(n).encode()] = memoryview(value)

    def pull_all() -> None:
        for n, target in targets.items():
            name, told = str(n).encode(), lambda why, n=n: done.__setitem__(n, why)
            a.peers.pull(B, name, memoryview(target), told)

    a.call(pull_all)
    until(lambda: len(done) == 60, "all came")
    assert set(done.values()) == {""} and targets == values
    until(lambda: b.released >= 60, "all were released")


def test_what_is_not_there_or_has_another_size(cluster: Cluster) -> None:
    a, b = cluster.add(A), cluster.add(B)
    a.connect(b)
    b.values[b"v"] = memoryview(bytes(100))
    assert "does not have it" in a.pull(b, b"nothing", bytearray(5))
    assert "100 bytes there, and 99" in a.pull(b, b"v", bytearray(99))
    assert a.pull(b, b"v", bytearray(100)) == ""
    with pytest.raises(ValueError, match="at most 1024"):
        a.pull(b, b"x" * 1025, bytearray(1))
    with pytest.raises(ValueError, match="read-only"):
        a.call(lambda: a.peers.pull(B, b"v", memoryview(bytes(5)), lambda why: None))


def cut_streams(member: Member) -> int:
    streams = [s for side in list(member.peers._bulk._sides.values()) for s in list(side.streams)]
    for stream in streams:
        shut(stream._stream)
    return len(streams)


def test_a_transfer_goes_on_after_breaks(cluster: Cluster) -> None:
    a, b = cluster.add(A, bulk=QUICK), cluster.add(B, bulk=QUICK)
    a.connect(b)
    value = random.Random(9).randbytes(48 << 20)
    b.values[b"v"] = memoryview(value)
    cutter, rounds = Cutter(lambda: cut_streams(a), 4, 0.1), 0
    while cutter.cuts < 5 or rounds < 2:
        into = bytearray(len(value))
        assert a.pull(b, b"v", into) == "" and into == value
        rounds += 1
    cutter.stop()


class ForgetsTheRest(bulk.Pulling):
    """What a broken stream did not fetch counts as fetched."""

    def _give_back(self, pull: bulk.Pull, end: int, is_fetched: bool) -> None:
        super()._give_back(pull, end, is_fetched=True)


def test_a_transfer_that_forgets_the_rest_is_caught(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the test before this one checks can fail."""
    monkeypatch.setattr(bulk, "Pulling", ForgetsTheRest)
    a, b = cluster.add(A, bulk=QUICK), cluster.add(B, bulk=QUICK)
    a.connect(b)
    value = random.Random(9).randbytes(16 << 20)
    b.values[b"v"] = memoryview(value)
    cutter = Cutter(lambda: cut_streams(a), 4, 0.05)

    def is_caught() -> bool:
        into = bytearray(len(value))
        return a.pull(b, b"v", into) == "" and into != value

    until(is_caught, "a value came with holes", 60.0)
    cutter.stop()


def test_a_transfer_from_a_lost_node_fails_and_lets_go_of_the_memory(cluster: Cluster) -> None:
    a, b = cluster.add(A, bulk=QUICK), cluster.add(B, bulk=QUICK)
    a.connect(b)
    b.values[b"v"] = memoryview(bytes(64 << 20))
    done: list[str] = []
    into = bytearray(64 << 20)
    a.call(lambda: a.peers.pull(B, b"v", memoryview(into), done.append))
    until(lambda: a.peers._bulk._sides[B].streams, "it has begun")
    a.call(lambda: a.peers.forget(B))
    until(lambda: done, "it has failed")
    assert done == ["node " + B + " is lost"] or done == [""]
    into.clear()  # raises if somebody still looked at it
    b.stop()
    into = bytearray(5)
    assert "nothing came for 2 s" in a.pull(b, b"v", into)


def test_streams_end_when_nobody_needs_them(cluster: Cluster) -> None:
    quick = BulkLimits(idle_s=0.2)
    a, b = cluster.add(A, bulk=quick), cluster.add(B, bulk=quick)
    a.connect(b)
    b.values[b"v"] = memoryview(b"value")
    assert a.pull(b, b"v", bytearray(5)) == ""
    until(lambda: not a.peers._bulk._sides[B].streams, "the puller's stream has ended")
    until(lambda: not b.peers._bulk._serving, "the source's stream has ended")
    assert a.pull(b, b"v", bytearray(5)) == ""


# ---- what must not be there
class Wire(threading.Thread):
    """Passes bytes on between two addresses, and keeps them."""

    def __init__(self, to: str) -> None:
        super().__init__(daemon=True)
        self.seen = bytearray()
        self._to = to
        self._listening, self.address = listen_anywhere("127.0.0.1")
        self.start()

    def run(self) -> None:
        while True:
            try:
                one, _ = self._listening.accept()
            except OSError:
                return
            host, _, port = self._to.rpartition(":")
            other = socket.create_connection((host, int(port)))
            for source, sink in ((one, other), (other, one)):
                threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                self.seen += data
                sink.sendall(data)
        except OSError:
            pass
        shut(sink)

    def stop(self) -> None:
        shut(self._listening)
        self._listening.close()


def test_nothing_on_the_wire_can_be_read(cluster: Cluster) -> None:
    store, node = cluster.add("store"), cluster.add(A)
    wires = [Wire(store.address), Wire(node.address)]
    joined = cluster.join(B)
    joined.connect("store", wires[0].address)
    joined.wait_linked("store")
    joined.connect(node, wires[1].address)
    plain = b"a payload that nobody else may read " * 40
    node.values[b"name of it"] = memoryview(plain * 100)
    joined.send(node, SealedAtHome(1, 0, len(plain), plain))
    into = bytearray(len(plain) * 100)
    assert joined.pull(node, b"name of it", into) == "" and into == plain * 100
    until(lambda: node.received, "the message came")
    seen = b"".join(bytes(wire.seen) for wire in wires)
    assert len(seen) > len(into), "the wires were not used"
    secret = cluster.line.secret
    for secretive in (
        plain[:20],
        b"name of it",
        secret.key,
        secret.text().encode().partition(b".")[2],
        b"PRIVATE KEY",
        B.encode(),
    ):
        assert secretive not in seen
    for wire in wires:
        wire.stop()


def test_an_idle_link_costs_nothing(cluster: Cluster) -> None:
    a, b = cluster.add(A), cluster.add(B)
    a.connect(b)
    a.send(b, note(1))
    b.send(a, note(2))
    until(lambda: numbers(b, A) == [1] and numbers(a, B) == [2], "both came")

    def looks() -> tuple[int, int]:
        return a.loop._look, b.loop._look

    def is_quiet() -> bool:
        before = looks()
        time.sleep(0.5)
        return looks() == before

    until(is_quiet, "nobody wakes any more")
    assert a.peers.is_linked(B) and not a.peers._peers[B].link.outbox


def test_links_bring_neither_pickle_nor_asyncio() -> None:
    program = (
        "import sys; import shoal._runtime.links.peers, shoal._runtime.links.joining,"
        " shoal._runtime.links.authority;"
        " print([m for m in ('pickle', 'cloudpickle', 'asyncio') if m in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


def test_a_program_on_one_machine_loads_no_links() -> None:
    program = (
        "import sys; import shoal, shoal._runtime.driver, shoal._runtime.daemon_shell;"
        " print([m for m in sys.modules if m.startswith('shoal._runtime.links') or m in"
        " ('ssl', 'cryptography')])"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"
