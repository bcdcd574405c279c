"""Secrets, join lines, files of keys, certificates and proofs."""

from __future__ import annotations

import os
import pickle
import ssl
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509

from shoal._proto import links
from shoal._runtime.links import handshake, keys
from shoal._runtime.links.handshake import DIALLER, LISTENER, HandshakeError
from shoal._runtime.links.keys import CredentialsError, JoinLine, Secret

NODE = "ab" * 16


@pytest.fixture()
def head(tmp_path: Path) -> tuple[str, JoinLine]:
    directory = str(tmp_path / "keys")
    return directory, keys.new_cluster(directory, "10.0.0.1:6380")


# ---- text
def test_a_join_line_comes_out_as_it_went_in(head: tuple[str, JoinLine]) -> None:
    line = head[1]
    assert JoinLine.parse(line.text()) == line
    assert JoinLine.parse(f"  {line.text()}\n") == line
    moved = JoinLine.parse(line.text(), "10.9.9.9:1")
    assert moved.addresses == ("10.9.9.9:1",) and moved.fingerprint == line.fingerprint
    bare = JoinLine.parse(line.secret.text(), "10.0.0.1:6380")
    assert bare.secret == line.secret and bare.fingerprint == ""
    two = JoinLine(("10.0.0.1:1", "[fd00::1]:2"), line.secret, line.fingerprint)
    assert JoinLine.parse(two.text()) == two


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: "",
        lambda text: text[:-1],
        lambda text: text.replace("shoal-1", "shoal-2"),
        lambda text: text.replace("sha256:", "md5:"),
        lambda text: text + " more",
        lambda text: text.replace("10.0.0.1:6380", "10.0.0.1"),
        lambda text: text.replace("10.0.0.1:6380", "10.0.0.1:99999"),
        lambda text: text.replace(text.split()[2], text.split()[2][:-3]),
        lambda text: text.replace(text.split()[2], "x" + text.split()[2]),
        lambda text: text.split()[2],
    ],
)
def test_a_spoilt_join_line_is_refused_with_what_to_do(head: tuple, spoil) -> None:
    secret = head[1].secret.text()
    with pytest.raises(CredentialsError, match="What to do") as caught:
        JoinLine.parse(spoil(head[1].text()))
    assert secret.partition(".")[2] not in str(caught.value)


@pytest.mark.parametrize("address", ["", "host", "host:", ":1", "a:b:1", "h:0", "h:65536", "h:-1"])
def test_bad_addresses_are_named(address: str) -> None:
    with pytest.raises(CredentialsError, match="is not an address"):
        keys.split_address(address)
    assert keys.split_address("[fd00::1]:2") == ("fd00::1", 2)


def test_a_secret_shows_and_pickles_nothing(head: tuple[str, JoinLine]) -> None:
    directory, line = head
    shown = f"{line!r} {line.secret!r} {line.secret} {keys.load(directory, NODE)!r}"
    assert "***" in shown and line.secret.text().partition(".")[2] not in shown
    with pytest.raises(TypeError, match="does not travel"):
        pickle.dumps(line.secret)


# ---- files
def test_files_are_private_and_made_once(head: tuple[str, JoinLine]) -> None:
    directory, _ = head
    keys.load(directory, NODE)
    for name in os.listdir(directory):
        mode = stat.S_IMODE(os.stat(os.path.join(directory, name)).st_mode)
        assert mode == 0o600, f"{name} has mode {mode:o}"
    assert stat.S_IMODE(os.stat(directory).st_mode) == 0o700
    with pytest.raises(FileExistsError):
        keys.new_cluster(directory, "10.0.0.1:6380")


def test_files_that_others_can_read_are_refused(head: tuple[str, JoinLine]) -> None:
    directory, _ = head
    for name in (keys.TOKEN_NAME, keys.AUTHORITY):
        path = os.path.join(directory, name)
        os.chmod(path, 0o640)
        with pytest.raises(CredentialsError, match="others can read or change it"):
            keys.load(directory, NODE)
        os.chmod(path, 0o600)
    os.chmod(directory, 0o750)
    with pytest.raises(CredentialsError, match="only you can enter"):
        keys.load(directory, NODE)


def test_token_files(head: tuple[str, JoinLine], tmp_path: Path) -> None:
    path = str(tmp_path / "token")
    with pytest.raises(CredentialsError, match="cannot be read"):
        keys.read_token_file(path)
    keys.write_private(path, head[1].text().encode())
    assert keys.read_token_file(path) == head[1]
    os.symlink(path, path + "-link")
    with pytest.raises(CredentialsError, match="cannot be read"):
        keys.read_token_file(path + "-link")
    os.mkfifo(path + "-pipe", 0o600)
    with pytest.raises(CredentialsError, match="holds a secret"):
        keys.read_token_file(path + "-pipe")


def test_a_join_directory_of_another_cluster_is_refused(tmp_path: Path, head: tuple) -> None:
    directory = str(tmp_path / "joined")
    keys.join(directory, head[1])
    with pytest.raises(FileExistsError):
        keys.join(directory, head[1])
    credentials = keys.load(directory, NODE)
    assert not credentials.has_certificate and not credentials.is_authority
    keys.new_cluster(str(tmp_path / "other"), "10.0.0.2:1")
    theirs = keys.read_private(str(tmp_path / "other" / keys.AUTHORITY))
    keys.write_private(os.path.join(directory, keys.AUTHORITY), theirs)
    with pytest.raises(CredentialsError, match="not the certificate that the join line names"):
        keys.load(directory, NODE)


# ---- certificates
def test_a_certificate_is_for_the_name_that_asked(head: tuple, tmp_path: Path) -> None:
    directory, line = head
    authority = keys.load(directory, keys.STORE)
    keys.join(str(tmp_path / "joined"), line)
    joining = keys.load(str(tmp_path / "joined"), NODE)
    request = joining.new_request()
    with pytest.raises(CredentialsError, match="not a request of"):
        authority.sign(request, "cd" * 16)
    for spoilt in (b"", request[:-1], os.urandom(200), request[:40] + b"\0" + request[41:]):
        with pytest.raises(CredentialsError, match="request"):
            authority.sign(spoilt, NODE)
    joining.keep(authority.sign(request, NODE), keys.certificate_bytes(authority.authority))
    again = keys.load(str(tmp_path / "joined"), NODE)
    assert again.has_certificate and again.fingerprint == line.fingerprint
    context = ssl.create_default_context(cadata=authority.authority.decode())
    context.load_cert_chain(again.certificate_path, again.key_path)


def test_a_clock_that_jumps_ends_no_certificate(head: tuple[str, JoinLine]) -> None:
    credentials = keys.load(head[0], NODE)
    for pem in (credentials.authority, keys.read_private(credentials.certificate_path)):
        certificate = x509.load_pem_x509_certificate(pem)
        assert certificate.not_valid_before_utc.year <= 2000
        assert certificate.not_valid_after_utc.year == 9999


def test_without_cryptography_the_error_says_what_to_install(tmp_path: Path) -> None:
    program = f"""
import sys
sys.modules["cryptography"] = None
from shoal._runtime.links import keys
try:
    keys.new_cluster({str(tmp_path / "keys")!r}, "10.0.0.1:1")
except keys.CredentialsError as error:
    print(error)
"""
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "pip install 'shoal[cluster]'" in found.stdout
    assert not (tmp_path / "keys").exists()


# ---- proofs
def prefaces(secret: Secret) -> tuple[bytes, bytes]:
    return (
        links.new_preface(links.NODE, secret.id, os.urandom(32)),
        links.new_preface(links.WELCOME, secret.id, os.urandom(32)),
    )


def test_a_proof_is_of_one_role_one_connection_and_one_secret() -> None:
    secret, other = Secret.new(), Secret.new()
    preface, reply = prefaces(secret)
    about = handshake.transcript(preface, reply, b"listener", b"dialler")
    proof = handshake.prove(secret, DIALLER, about)
    assert handshake.is_proof(secret, DIALLER, about, proof)
    assert not handshake.is_proof(secret, LISTENER, about, proof), "reflected"
    assert not handshake.is_proof(other, DIALLER, about, proof)
    assert not handshake.is_proof(secret, DIALLER, about, links.REFUSED_PROOF)
    replayed = handshake.transcript(preface, prefaces(secret)[1], b"listener", b"dialler")
    assert not handshake.is_proof(secret, DIALLER, replayed, proof), "replayed"
    for certificates in ((b"man in the middle", b"dialler"), (b"listener", b"another"), (b"", b"")):
        spoilt = handshake.transcript(preface, reply, *certificates)
        assert not handshake.is_proof(secret, DIALLER, spoilt, proof)
    purpose = bytearray(preface)
    purpose[12] = links.STORE
    spoilt = handshake.transcript(bytes(purpose), reply, b"listener", b"dialler")
    assert not handshake.is_proof(secret, DIALLER, spoilt, proof), "the purpose was changed"


def test_who_joins_believes_only_its_own_cluster(head: tuple, tmp_path: Path) -> None:
    directory, line = head
    authority = keys.load(directory, keys.STORE)
    preface, reply = prefaces(line.secret)
    frame = handshake.introduce(authority, preface, reply)
    keys.join(str(tmp_path / "joined"), line)
    joining = keys.load(str(tmp_path / "joined"), NODE)
    seen = handshake.check_introduction(joining, preface, reply, frame, "there")
    assert keys.fingerprint_of(seen) == line.fingerprint
    with pytest.raises(HandshakeError, match="token is not that of the cluster"):
        handshake.check_introduction(joining, preface, prefaces(line.secret)[1], frame, "there")
    keys.new_cluster(str(tmp_path / "other"), "10.0.0.2:1")
    theirs = handshake.introduce(keys.load(str(tmp_path / "other"), keys.STORE), preface, reply)
    with pytest.raises(HandshakeError, match="is not that of the cluster in the join line"):
        handshake.check_introduction(joining, preface, reply, theirs, "there")
    with pytest.raises(HandshakeError, match="impossible size"):
        handshake.check_introduction(joining, preface, reply, b"\xff" * len(frame), "there")


def test_replies_are_told_apart() -> None:
    nonce, ours = bytes(32), links.LINK_VERSION
    handshake.check_reply(links.new_preface(links.WELCOME, "0badcafe", nonce), "there")
    for verdict, words in (
        (links.WRONG_CLUSTER, "token is not that"),
        (links.WRONG_PURPOSE, "does not serve this"),
        (links.BUSY, "is busy"),
        (99, "unknown verdict"),
    ):
        with pytest.raises(HandshakeError, match=words):
            handshake.check_reply(links.new_preface(verdict, "0badcafe", nonce), "there")
    later = (ours[0], ours[1] + 2)
    with pytest.raises(HandshakeError, match=rf"protocol {later[0]}\.{later[1]} .*this node"):
        handshake.check_reply(
            links.new_preface(links.WELCOME, "0badcafe", nonce, version=later), "there"
        )
    with pytest.raises(HandshakeError, match="not a Shoal cluster"):
        handshake.check_reply(b"HTTP/1.1 400 Bad Request".ljust(80), "there")
