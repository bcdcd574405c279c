"""What goes over a network is seen, and plaintext in it is found; what is encrypted is not."""

from __future__ import annotations

import secrets
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from shoal.testing import Capture, Host, Network, NetworkError
from tests.cluster.programs import talker
from tests.cluster.test_net_cluster import PORT, talking

LONG_S = 60.0


def two(network: Network) -> tuple[Host, Host]:
    return network.add_host("a"), network.add_host("b")


def test_what_is_said_is_found(network: Network, tmp_path: Path) -> None:
    a, b = two(network)
    secret = secrets.token_hex(16)
    with Capture(tmp_path / "file", network) as capture, talking(a, b) as (client, _server):
        assert client.ask("say", f"the word is {secret}", LONG_S)["error"] == ""
    found = capture.plaintext([secret.encode(), b"never said by anybody"])
    assert [each.needle for each in found] == [secret.encode()]
    assert a.ip in found[0].where and b.ip in found[0].where
    assert capture.written > 10 and capture.dropped == 0


def test_what_was_said_before_and_after_is_not_in_it(network: Network, tmp_path: Path) -> None:
    a, b = two(network)
    with talking(a, b) as (client, _server):
        client.ask("say", "said before", LONG_S)
        with Capture(tmp_path / "file", network) as capture:
            client.ask("say", "said meanwhile", LONG_S)
        client.ask("say", "said after", LONG_S)
    needles = [b"said before", b"said meanwhile", b"said after"]
    assert [each.needle for each in capture.plaintext(needles)] == [b"said meanwhile"]


def test_streams_are_whole(network: Network, tmp_path: Path) -> None:
    """Also where one packet carries many segments."""
    a, b = two(network)
    size = 4 << 20
    with Capture(tmp_path / "file", network) as capture, talking(a, b) as (client, _server):
        assert client.ask("bulk", size)["error"] == ""
    assert capture.dropped == 0
    there, back = (
        next(each for each in capture.streams() if each.flow[0][0] == host.ip) for host in (a, b)
    )
    for stream in (there, back):
        (run,) = stream.runs()
        assert run == b"hello" + b"x" * size


def test_what_is_lost_on_the_way_was_there_to_be_read(network: Network, tmp_path: Path) -> None:
    a, b = two(network)
    with talking(a, b) as (client, server):
        network.cut("a", "b")
        with Capture(tmp_path / "file", network) as capture:
            client.ask("say", "into the void", 0.3)
        assert not server.has_said(heard="into the void")
    assert capture.plaintext([b"into the void"])


TLS = """
import socket, ssl, sys, threading
role, folder, ip = sys.argv[1:4]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if role == "serve" else ssl.PROTOCOL_TLS_CLIENT)
context.minimum_version = ssl.TLSVersion.TLSv1_3
if role == "serve":
    context.load_cert_chain(f"{folder}/cert.pem", f"{folder}/key.pem")
    listener = socket.create_server((ip, 7443))
    print('{"ready": true}', flush=True)
    with context.wrap_socket(listener.accept()[0], server_side=True) as there:
        there.sendall(there.recv(1000))
else:
    context.check_hostname = False
    context.load_verify_locations(f"{folder}/cert.pem")
    with context.wrap_socket(socket.create_connection((ip, 7443), timeout=30)) as there:
        there.sendall(sys.argv[4].encode())
        assert there.recv(1000) == sys.argv[4].encode()
"""


def test_what_is_encrypted_is_not_found(network: Network, tmp_path: Path) -> None:
    """The same search in the traffic of TLS: the packets are there, the word is not."""
    certificate(tmp_path)
    (tmp_path / "tls.py").write_text(textwrap.dedent(TLS))
    a, b = two(network)
    secret = secrets.token_hex(16)
    python = [sys.executable, str(tmp_path / "tls.py")]
    with Capture(tmp_path / "file", network) as capture:
        server = b.begin([*python, "serve", str(tmp_path), b.ip], stdout=subprocess.PIPE)
        with server:
            assert server.stdout is not None and b"ready" in server.stdout.readline()
            a.run([*python, "talk", str(tmp_path), b.ip, secret])
            assert server.wait(LONG_S) == 0
    assert not capture.plaintext([secret.encode()])
    assert sum(len(run) for stream in capture.streams() for run in stream.runs()) > 1000


def certificate(folder: Path) -> None:
    """A key and a certificate that it has signed itself."""
    x509 = pytest.importorskip("cryptography.x509")
    from datetime import UTC, datetime, timedelta

    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(private)


def test_an_incomplete_capture_proves_nothing(network: Network, tmp_path: Path) -> None:
    with Capture(tmp_path / "file", network) as capture:
        two(network)
    capture.dropped = 1
    with pytest.raises(NetworkError, match="1 packets were dropped"):
        capture.plaintext([b"anything"])


def test_who_may_not_listen_is_told(network: Network, tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="packets cannot be seen here"):
        Capture(tmp_path / "no such folder" / "file", network)


def test_the_talker_serves_many(network: Network) -> None:
    """The program that these tests trust: two clients of one server each get their own echo."""
    a, b = two(network)
    with talking(a, b) as (client, _server):
        with talker("talk", b.ip, PORT, enter=b.enter) as local:
            assert local.ask("connect", LONG_S)["error"] == ""
            assert local.ask("say", "second", LONG_S)["error"] == ""
            assert client.ask("say", "first", LONG_S)["error"] == ""
