"""Whoever comes to a node's port, and whatever they send: one clear line, and the node goes on.

Each test ends with `still_serves`: an honest member is linked with the node, a message arrives.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import resource
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shoal._core.link_events import LinkLimits
from shoal._proto import links
from shoal._proto.frames import Codec
from shoal._proto.links import Hello
from shoal._runtime.links import handshake, keys
from shoal._runtime.links.bulk import BulkLimits
from shoal._runtime.links.door import PortError, listen, listen_anywhere
from shoal._runtime.links.keys import JoinLine, Secret
from tests.cluster import raw_peer
from tests.cluster.members import Cluster, Member, until
from tests.cluster.test_links import note, numbers

A, B, C = ("aa" * 16, "bb" * 16, "cc" * 16)
HONEST = "ee" * 16
NO_TLS = bytes(range(256)) * 4  # random bytes may begin like a record, one time in five hundred


class Scene:
    """A node, what it has written, and an honest member."""

    def __init__(self, directory: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.cluster = Cluster(directory)
        self.node = self.cluster.add(A, limits=LinkLimits(silent_s=1.0))
        self._capfd = capfd
        self._text = ""
        self._count = 0

    def written(self) -> str:
        self._text += self._capfd.readouterr().err
        return self._text

    def wait_line(self, *words: str) -> str:
        """The line of the log with these words; there is exactly one."""

        def found() -> list[str]:
            return [line for line in self.written().splitlines() if all(w in line for w in words)]

        (line,) = until(found, f"a line with {words}; there was {self._text!r}")
        return str(line)

    def still_serves(self, within_s: float = 20.0) -> None:
        self._count += 1
        name = f"{self._count:02x}" * 16
        honest = self.cluster.add(name)
        began = time.monotonic()
        honest.connect(self.node)
        honest.send(self.node, note(7))
        until(lambda: numbers(self.node, name) == [7], "an honest node is served")
        taken = time.monotonic() - began
        assert taken < within_s, f"an honest node waited {taken:.2f} s"
        assert "Traceback" not in self.written(), self._text
        secret = self.cluster.line.secret.text().partition(".")[2]
        assert secret not in self._text


@pytest.fixture()
def scene(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Iterator[Scene]:
    made = Scene(tmp_path, capfd)
    yield made
    made.cluster.close()


# ---- before any proof
@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),  # TLS without a preface
        os.urandom(4096),
        bytes(80),
        pickle.dumps(print),
        links.MAGIC[:-1] + b"\0" + bytes(72),
    ],
    ids=["http", "tls", "random", "zeros", "pickle", "nearly"],
)
def test_other_protocols(scene: Scene, data: bytes) -> None:
    with raw_peer.dial(scene.node.address) as stranger:
        stranger.sendall(data)
        assert raw_peer.is_ended(stranger), "it is not left waiting"
    scene.wait_line("refused", "does not speak the protocol of this cluster")
    scene.still_serves()


def test_a_preface_that_does_not_come_whole(scene: Scene) -> None:
    preface = links.new_preface(links.NODE, scene.cluster.line.secret.id, bytes(32))
    sizes, began = (1, 8, 79), time.monotonic()
    with contextlib.ExitStack() as dialled:
        strangers = [dialled.enter_context(raw_peer.dial(scene.node.address)) for _ in sizes]
        for stranger, size in zip(strangers, sizes, strict=True):
            stranger.sendall(preface[:size])
        assert all(raw_peer.is_ended(stranger) for stranger in strangers)
    assert 1.5 < time.monotonic() - began < 6.0, "the deadline is 2 s"
    assert all(scene.wait_line(f"it sent {size} bytes and then nothing") for size in sizes)
    scene.still_serves()


def test_a_handshake_that_is_not_finished(scene: Scene) -> None:
    preface = links.new_preface(links.NODE, scene.cluster.line.secret.id, bytes(32))
    with raw_peer.dial(scene.node.address) as stranger:
        stranger.sendall(preface)
        reply = links.read_preface(raw_peer.receive(stranger, links.PREFACE_BYTES))
        assert reply is not None and reply.purpose == links.WELCOME
        assert raw_peer.is_ended(stranger), "no TLS within the deadline"
    credentials = scene.cluster.credentials(B)
    stream, _ = raw_peer.secured(scene.node.address, credentials)
    assert raw_peer.is_ended(stream), "no proof within the deadline"
    scene.still_serves()


def test_garbage_instead_of_tls(scene: Scene) -> None:
    preface = links.new_preface(links.NODE, scene.cluster.line.secret.id, bytes(32))
    with raw_peer.dial(scene.node.address) as stranger:
        stranger.sendall(preface)
        raw_peer.receive(stranger, links.PREFACE_BYTES)
        stranger.sendall(NO_TLS)
        assert raw_peer.is_ended(stranger)
    scene.wait_line("refused", "TLS with 127.0.0.1")
    scene.still_serves()


@pytest.mark.parametrize("version", [(2, 0), (1, 2), (0, 9)])
def test_another_version(scene: Scene, version: tuple[int, int]) -> None:
    cluster = scene.cluster.line.secret.id
    with raw_peer.dial(scene.node.address) as stranger:
        stranger.sendall(links.new_preface(links.NODE, cluster, bytes(32), version))
        reply = raw_peer.receive(stranger, links.PREFACE_BYTES)
        assert raw_peer.is_ended(stranger)
    with pytest.raises(handshake.HandshakeError, match="they are more than one minor version"):
        handshake.check_reply(reply, "there")
    ours = f"{links.LINK_VERSION[0]}.{links.LINK_VERSION[1]}"
    scene.wait_line(f"protocol {version[0]}.{version[1]} ", f"this node protocol {ours}")
    scene.still_serves()


def test_one_minor_version_apart_is_welcome(scene: Scene) -> None:
    version = (links.LINK_VERSION[0], links.LINK_VERSION[1] + 1)
    with raw_peer.dial(scene.node.address) as stranger:
        cluster = scene.cluster.line.secret.id
        stranger.sendall(links.new_preface(links.NODE, cluster, bytes(32), version))
        reply = links.read_preface(raw_peer.receive(stranger, links.PREFACE_BYTES))
    assert reply is not None and reply.purpose == links.WELCOME


def test_a_purpose_that_nobody_serves(scene: Scene) -> None:
    stranger = scene.cluster.join(B)
    scene.node.door._desks.pop(links.JOIN, None)  # a node that is not the head
    stranger.connect(scene.node)
    assert "use the address in the join line" in stranger.wait_suspected(A)
    scene.wait_line("refused", "nobody serves connections for 'join' here")
    scene.still_serves()


# ---- the wrong token, the wrong certificate
def test_the_token_of_another_cluster(scene: Scene, tmp_path: Path) -> None:
    other = keys.new_cluster(str(tmp_path / "other"), "127.0.0.1:1")
    stranger = scene.cluster.join(B, other)
    stranger.connect(scene.node)
    assert "the token is not that of the cluster at" in stranger.wait_suspected(A)
    scene.still_serves()


def test_a_wrong_token_with_the_right_name(scene: Scene) -> None:
    line = scene.cluster.line
    guessed = Secret(line.secret.id, os.urandom(32))
    stranger = scene.cluster.join(B, JoinLine(line.addresses, guessed, line.fingerprint))
    stranger.connect(scene.node)
    assert "the token is not that of the cluster at" in stranger.wait_suspected(A)
    with pytest.raises(AssertionError):
        raw_peer.shake_hands(scene.node.address, scene.cluster.credentials(C), secret=guessed)
    scene.wait_line("refused", "it does not know the cluster's token")
    scene.still_serves()


def test_a_member_with_a_wrong_token_is_told_so(scene: Scene, tmp_path: Path) -> None:
    """The certificate is right, so TLS is: the proof is what fails."""
    credentials = scene.cluster.credentials(B)
    credentials.secret = Secret(credentials.secret.id, os.urandom(32))
    stranger = Member(credentials)
    scene.cluster.members.append(stranger)
    stranger.connect(scene.node)
    assert "the token was refused at" in stranger.wait_suspected(A)
    scene.wait_line("refused", "it does not know the cluster's token")
    scene.still_serves()


def test_no_proof_and_old_proofs(scene: Scene) -> None:
    credentials = scene.cluster.credentials(B)
    old, about = raw_peer.secured(scene.node.address, credentials)
    proof = handshake.prove(credentials.secret, handshake.DIALLER, about)
    old.close()
    for spoilt in (bytes(32), os.urandom(32), proof, proof[:31] + b"\0"):
        stream, now = raw_peer.secured(scene.node.address, credentials)
        stream.sendall(spoilt)
        assert raw_peer.receive(stream, 33) == links.REFUSED_PROOF, "told, and ended"
    stream, now = raw_peer.secured(scene.node.address, credentials)
    reflected = handshake.prove(credentials.secret, handshake.LISTENER, now)
    stream.sendall(reflected)
    assert raw_peer.receive(stream, 33) == links.REFUSED_PROOF
    scene.still_serves()


def test_the_fingerprint_of_another_cluster(scene: Scene, tmp_path: Path) -> None:
    line = scene.cluster.line
    stranger = scene.cluster.join(B, JoinLine(line.addresses, line.secret, "0" * 64))
    stranger.connect(scene.node)
    assert "somebody may be in between" in stranger.wait_suspected(A)
    assert not stranger.peers.contexts.credentials.has_certificate
    scene.still_serves()


def test_nobody_joins_as_the_control_store(scene: Scene) -> None:
    stranger = scene.cluster.join("store")
    stranger.connect(scene.node)
    assert "'store' is not the id of a node" in stranger.wait_suspected(A)
    assert not stranger.peers.contexts.credentials.has_certificate
    scene.still_serves()


def with_foreign_certificate(scene: Scene, directory: Path, name: str) -> keys.Credentials:
    """Knows the token, and has a certificate that another authority signed."""
    keys.new_cluster(str(directory), "127.0.0.1:1")
    os.unlink(directory / keys.TOKEN_NAME)
    keys.write_private(str(directory / keys.TOKEN_NAME), scene.cluster.line.secret.text().encode())
    return keys.load(str(directory), name)


def test_a_certificate_of_another_authority(scene: Scene, tmp_path: Path) -> None:
    stranger = Member(with_foreign_certificate(scene, tmp_path / "foreign", B))
    scene.cluster.members.append(stranger)
    stranger.connect(scene.node)
    assert "is not of this cluster" in stranger.wait_suspected(A), "the dialler sees it"
    scene.node.connect(stranger)
    assert "is not of this cluster" in scene.node.wait_suspected(B), "and so does the node"
    scene.still_serves()


def test_a_member_without_certificate(scene: Scene) -> None:
    plain = raw_peer.dial(scene.node.address)
    plain.sendall(links.new_preface(links.NODE, scene.cluster.line.secret.id, bytes(32)))
    raw_peer.receive(plain, links.PREFACE_BYTES)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    stream = context.wrap_socket(plain)
    assert raw_peer.receive(stream, 1) == b""
    scene.wait_line("refused", "peer did not return a certificate")
    scene.still_serves()


def test_an_older_tls(scene: Scene) -> None:
    plain = raw_peer.dial(scene.node.address)
    plain.sendall(links.new_preface(links.NODE, scene.cluster.line.secret.id, bytes(32)))
    raw_peer.receive(plain, links.PREFACE_BYTES)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        context.wrap_socket(plain)
    scene.still_serves()


def test_somebody_in_the_middle(scene: Scene, tmp_path: Path) -> None:
    """Ends TLS himself, knows the token's name and has some certificate: nobody believes him, also
    if the certificate is one of the cluster's own."""
    for credentials in (
        with_foreign_certificate(scene, tmp_path / "foreign", C),
        scene.cluster.credentials(C),
    ):
        middle, address = listen_anywhere("127.0.0.1")

        def relay(credentials: keys.Credentials = credentials, middle: object = middle) -> None:
            assert isinstance(middle, socket.socket)
            victim, _ = middle.accept()
            node = raw_peer.dial(scene.node.address)
            node.sendall(raw_peer.receive(victim, links.PREFACE_BYTES))
            victim.sendall(raw_peer.receive(node, links.PREFACE_BYTES))
            contexts = handshake.Contexts(credentials)
            try:
                inner = contexts.for_listener(is_joining=False).wrap_socket(
                    victim, server_side=True
                )
                outer = contexts.for_dialler().wrap_socket(node)
                outer.sendall(raw_peer.receive(inner, links.PROOF_BYTES))
                inner.sendall(raw_peer.receive(outer, links.PROOF_BYTES))
                inner.close()
            except (OSError, ssl.SSLError):
                pass
            victim.close()
            node.close()

        thread = threading.Thread(target=relay, daemon=True)
        thread.start()
        name = f"{len(scene.cluster.members):02x}" * 16
        victim = scene.cluster.add(name)
        victim.connect(A, address)
        victim.wait_suspected(A)
        assert not victim.peers.is_linked(A)
        thread.join(10)
        middle.close()
    scene.still_serves()


def test_a_connection_that_is_sent_back(scene: Scene) -> None:
    """Whoever echoes everything is not linked with, and nor is oneself."""
    stranger = raw_peer.dial(scene.node.address)
    stranger.sendall(links.new_preface(links.NODE, scene.cluster.line.secret.id, bytes(32)))
    stranger.settimeout(5)
    try:
        while data := stranger.recv(4096):
            stranger.sendall(data)
    except OSError:
        pass
    honest = scene.cluster.add(B)
    honest.connect(C, honest.address)  # believes that C is where it is itself
    assert f"is {B}, not {C}" in honest.wait_suspected(C)
    scene.still_serves()


# ---- after the proof
FRAMES: dict[str, Callable[[], bytes]] = {
    "oversized": lambda: struct.pack("<IQQ", links.MAX_BODY_BYTES + 1, 1, 0),
    "2^31": lambda: struct.pack("<IQQ", 1 << 31, 1, 0) + bytes(100),
    "2^32-1": lambda: struct.pack("<IQQ", (1 << 32) - 1, 1 << 63, 1 << 63),
    "random": lambda: os.urandom(100_000),
    "pickle": lambda: links.frame_header(1, 0, len(BOMB)) + BOMB,
    "pickle as control": lambda: links.frame_header(0, 0, len(BOMB)) + BOMB,
    "a gap": lambda: raw_peer.frame(5, note(1)),
    "an acknowledgement of nothing": lambda: links.frame_header(0, 99, 0),
    "a second hello": lambda: raw_peer.hello(B),
    "deep": lambda: links.frame_header(1, 0, 1_000_000) + b"\x91" * 1_000_000,
    "an unknown row": lambda: links.frame_header(1, 0, 6) + b"\x91\xa4Oops",
}


class Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("/tmp/shoal-was-unpickled",)


BOMB = pickle.dumps(Bomb())


@pytest.mark.parametrize("kind", FRAMES)
def test_frames_that_cannot_be(scene: Scene, kind: str) -> None:
    credentials = scene.cluster.credentials(B)
    with raw_peer.shake_hands(scene.node.address, credentials) as stream:
        stream.sendall(raw_peer.hello(B))
        try:
            stream.sendall(FRAMES[kind]())
        except OSError:
            pass  # ended already
        assert raw_peer.is_ended(stream)
    assert not os.path.exists("/tmp/shoal-was-unpickled")
    scene.still_serves()


@pytest.mark.parametrize(
    "first",
    [
        lambda: raw_peer.frame(1, note(1)),
        lambda: raw_peer.hello(C),
        lambda: raw_peer.control(Hello(B, 0, 0, 0, 1)),
        lambda: raw_peer.control(Hello(B, 1, 0, -1, 1)),
        lambda: raw_peer.control(Hello(A, 1, 0, 0, 1)),
        lambda: raw_peer.control(Hello(B, 1, 1, 1 << 40, 1)),
        lambda: BOMB,
    ],
    ids=["none", "another name", "no epoch", "negative", "its own", "too much", "pickle"],
)
def test_first_frames_that_cannot_be(scene: Scene, first: Callable[[], bytes]) -> None:
    credentials = scene.cluster.credentials(B)
    with raw_peer.shake_hands(scene.node.address, credentials) as stream:
        stream.sendall(first())
        assert raw_peer.is_ended(stream)
    scene.still_serves()


def test_a_truncated_frame_and_silence_after_the_proof(scene: Scene) -> None:
    credentials = scene.cluster.credentials(B)
    silent = raw_peer.shake_hands(scene.node.address, credentials)
    assert raw_peer.is_ended(silent), "no Hello within the deadline"
    cut = raw_peer.shake_hands(scene.node.address, credentials)
    cut.sendall(raw_peer.hello(B) + raw_peer.frame(1, note(1))[:-3])
    cut.close()
    scene.still_serves()
    assert numbers(scene.node, B) == []


def test_bulk_streams_that_talk_nonsense(scene: Scene) -> None:
    scene.node.values[b"v"] = memoryview(bytes(100))
    credentials = scene.cluster.credentials(B)
    for nonsense in (os.urandom(5000), struct.pack("<I", 1 << 31), BOMB, b""):
        stream = raw_peer.shake_hands(scene.node.address, credentials, links.BULK)
        stream.sendall(nonsense)
        if nonsense:
            assert raw_peer.is_ended(stream)
        stream.close()
    until(lambda: not scene.node.peers._bulk._serving, "no thread is left")
    scene.still_serves()


def test_a_peer_that_stops_reading(scene: Scene) -> None:
    """Its connection is given up, its messages are not: they come with the next one."""
    credentials = scene.cluster.credentials(B)
    stream = raw_peer.shake_hands(scene.node.address, credentials)
    stream.sendall(raw_peer.hello(B))
    scene.node.wait_linked(B)
    for number in range(40):
        scene.node.send(B, note(number, 1 << 20))
    until(lambda: ("congested", B, "True") in scene.node.news, "it is told that too much waits")
    until(lambda: not scene.node.peers.is_linked(B), "given up")
    scene.node.wait_suspected(B)
    stream.close()
    again = Member(credentials)
    scene.cluster.members.append(again)
    again.connect(scene.node)
    until(lambda: len(numbers(again, A)) == 40, "everything comes with the next connection")
    assert numbers(again, A) == list(range(40))
    scene.still_serves()


def test_a_puller_that_stops_reading_lets_go_of_the_memory(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    node = cluster.add(A, bulk=BulkLimits(io_s=0.5))
    node.values[b"v"] = memoryview(bytes(64 << 20))
    stream = raw_peer.shake_hands(node.address, cluster.credentials(B), links.BULK)
    codec = Codec(links.BulkFrame, 4096)
    stream.sendall(codec.encode(0, links.Want(b"v", 0, 64 << 20)))
    until(lambda: node.peers._bulk._serving, "it is served")
    until(lambda: node.released == 1, "the value is let go of")
    stream.close()
    cluster.close()


# ---- crowds
def test_a_thousand_idle_connections(scene: Scene) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    idle = []
    try:
        for _ in range(1000):
            idle.append(raw_peer.dial(scene.node.address))
        began = time.monotonic()
        scene.still_serves(within_s=1.0)
        assert time.monotonic() - began < 2.0
        assert scene.node.door is not None
        assert scene.node.door.pending <= 64
        until(lambda: scene.node.door.pending == 0, "all are sent away in the end")
        assert len(scene.written().splitlines()) < 60, "few lines for many strangers"
    finally:
        for stranger in idle:
            stranger.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


NODE_WITH_FEW_DESCRIPTORS = """
import resource, sys, tempfile
from pathlib import Path
from tests.cluster.members import Cluster
with tempfile.TemporaryDirectory() as directory:
    cluster = Cluster(Path(directory))
    node = cluster.add("aa" * 16)
    resource.setrlimit(resource.RLIMIT_NOFILE, (48, 48))
    print(node.address, cluster.line.secret.id, flush=True)
    sys.stdin.read()
    cluster.close()
"""


def test_no_descriptors_are_left() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", NODE_WITH_FEW_DESCRIPTORS],
        cwd=Path(__file__).resolve().parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as node:
        assert node.stdout is not None
        address, cluster = node.stdout.readline().split()
        crowd = [raw_peer.dial(address) for _ in range(60)]
        until(lambda: any(map(is_sent_away, crowd)), "somebody was sent away")
        for stranger in crowd:
            stranger.close()

        def is_served() -> bool:
            with raw_peer.dial(address) as stranger:
                stranger.sendall(links.new_preface(links.NODE, cluster, bytes(32)))
                return len(raw_peer.receive(stranger, links.PREFACE_BYTES)) == links.PREFACE_BYTES

        until(is_served, "the node serves again")
        _, errors = node.communicate("")
        assert node.returncode == 0 and "Traceback" not in errors, errors
        assert "Too many open files" in errors


def is_sent_away(stranger: socket.socket) -> bool:
    """Whether the other side has ended it by now."""
    stranger.setblocking(False)
    try:
        return stranger.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def test_a_crowd_that_shakes_hands_is_slowed_down(scene: Scene) -> None:
    cluster, busy = scene.cluster.line.secret.id, 0
    for _ in range(300):
        with raw_peer.dial(scene.node.address) as stranger:
            stranger.sendall(links.new_preface(links.NODE, cluster, bytes(32)))
            reply = links.read_preface(raw_peer.receive(stranger, links.PREFACE_BYTES))
            assert reply is not None
            busy += reply.purpose == links.BUSY
    assert busy > 0
    scene.still_serves()


# ---- addresses
def test_a_port_that_is_in_use(scene: Scene) -> None:
    with pytest.raises(PortError, match=r"the port is in use. What to do"):
        listen(scene.node.address)
    with pytest.raises(PortError, match="no such address"):
        listen("192.0.2.1:6380")


def test_addresses_that_do_not_answer(scene: Scene) -> None:
    nobody, closed = listen_anywhere("127.0.0.1")
    nobody.close()
    scene.node.connect(B, closed)
    assert f"nobody listens at {closed}. What to do" in scene.node.wait_suspected(B)
    mute, silent = listen_anywhere("127.0.0.1")
    scene.node.connect(C, silent)
    assert "did not answer within 4 s. What to do" in scene.node.wait_suspected(C)
    mute.close()
    scene.still_serves()


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n" * 5, b"", b"x" * 79])
def test_somebody_else_listens_there(scene: Scene, answer: bytes) -> None:
    other, address = listen_anywhere("127.0.0.1")

    def serve() -> None:
        connection, _ = other.accept()
        connection.recv(1000)
        connection.sendall(answer)
        connection.close()

    threading.Thread(target=serve, daemon=True).start()
    scene.node.connect(B, address)
    why = scene.node.wait_suspected(B)
    assert "is not a Shoal cluster" in why or "ended the connection" in why or "nobody" in why
    other.close()
    scene.still_serves()


def test_a_cluster_of_another_version_answers(scene: Scene) -> None:
    other, address = listen_anywhere("127.0.0.1")

    def serve() -> None:
        cluster = scene.cluster.line.secret.id
        with contextlib.suppress(OSError):  # until the test closes it
            while True:
                connection, _ = other.accept()
                raw_peer.receive(connection, links.PREFACE_BYTES)
                connection.sendall(links.new_preface(links.WELCOME, cluster, bytes(32), (3, 1)))
                connection.close()

    threading.Thread(target=serve, daemon=True).start()
    scene.node.connect(B, address)
    why = scene.node.wait_suspected(B)
    assert "speaks protocol 3.1" in why and "this node protocol 1.0" in why
    other.close()
    scene.still_serves()
