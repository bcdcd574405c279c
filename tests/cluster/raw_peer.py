"""A peer without manners: dials a member with blocking sockets, and says what it is told to.

`shake_hands` does everything that an honest dialler does, or leaves out what it is told to leave
out; what comes after it is up to the test.
"""

from __future__ import annotations

import os
import socket
import ssl

from shoal._proto import links
from shoal._proto.links import Hello
from shoal._runtime.links import handshake
from shoal._runtime.links.keys import Credentials, Secret, split_address

TIMEOUT_S = 10.0


def dial(address: str) -> socket.socket:
    """A plain connection."""
    return socket.create_connection(split_address(address), TIMEOUT_S)


def receive(connection: socket.socket, size: int) -> bytes:
    """So many bytes, or fewer if the connection ends."""
    data = b""
    while len(data) < size:
        try:
            piece = connection.recv(size - len(data))
        except (ConnectionError, ssl.SSLError):
            break
        if not piece:
            break
        data += piece
    return data


def is_ended(connection: socket.socket) -> bool:
    """Whether the other side has ended it (waits for that)."""
    try:
        while connection.recv(1 << 16):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


def secured(
    address: str, credentials: Credentials, purpose: int = links.NODE
) -> tuple[ssl.SSLSocket, bytes]:
    """A connection up to the end of TLS, and the transcript that proofs are about."""
    plain = dial(address)
    preface = links.new_preface(purpose, credentials.secret.id, os.urandom(32))
    plain.sendall(preface)
    reply = receive(plain, links.PREFACE_BYTES)
    contexts = handshake.Contexts(credentials)
    stream = contexts.for_dialler().wrap_socket(plain)
    listener = stream.getpeercert(binary_form=True) or b""
    about = handshake.transcript(preface, reply, listener, credentials.certificate())
    return stream, about


def shake_hands(
    address: str,
    credentials: Credentials,
    purpose: int = links.NODE,
    secret: Secret | None = None,
) -> ssl.SSLSocket:
    """An open connection; asserts that the listener proves itself."""
    stream, about = secured(address, credentials, purpose)
    secret = secret or credentials.secret
    stream.sendall(handshake.prove(secret, handshake.DIALLER, about))
    proof = receive(stream, links.PROOF_BYTES)
    assert handshake.is_proof(secret, handshake.LISTENER, about, proof)
    return stream


def control(row: links.LinkControl) -> bytes:
    """The frame of a row of control."""
    data = links.encode_body(row)
    return links.frame_header(0, 0, len(data)) + data


def hello(name: str, epoch: int = 1) -> bytes:
    """The first frame of an honest node."""
    return control(Hello(name, epoch, 0, 0, 1))


def frame(number: int, body: links.NodeBody, ack: int = 0) -> bytes:
    """A numbered message."""
    data = links.encode_body(body)
    return links.frame_header(number, ack, len(data)) + data
