"""The handshake as it happens, on a socket that never blocks.

``Shake`` is the part of a ``Channel`` that goes before everything else: generators that yield what
they wait for (readable or writable) and read from top to bottom. What is proved, and why in this
order, stands in ``handshake``.

1. Exactly as many bytes are read as each step has: nothing of what follows is taken out of the
   kernel, or out of TLS.
2. Whatever the peer does, a step goes on, waits, or raises an error that ``explain`` turns into one
   line; the descriptor stays the same from the first byte to the last.
"""

from __future__ import annotations

import errno
import os
import secrets
import socket
import ssl
from collections.abc import Generator
from typing import TypeVar

from shoal._proto import links
from shoal._runtime.daemon_loop import READ, WRITE
from shoal._runtime.links import handshake
from shoal._runtime.links.handshake import Contexts, HandshakeError
from shoal._runtime.links.keys import CredentialsError, certificate_pem

_T = TypeVar("_T")
Steps = Generator[int, None, _T]
"""A part of the handshake: yields what it waits for, returns what came of it."""


class Shake:
    """One handshake, from either side."""

    def __init__(
        self, contexts: Contexts, purpose: int, label: str, connection: socket.socket
    ) -> None:
        self.socket: socket.socket | ssl.SSLSocket = connection
        """Plain first, then with TLS around the same descriptor."""
        self.peer_name = ""
        self.authority = b""
        """The cluster's certificate (DER), of who joins."""
        self._contexts = contexts
        self._credentials = contexts.credentials
        self._purpose = purpose
        self._label = label

    def dialled(self) -> Steps[None]:
        """Begin, as soon as the connection is there."""
        failed = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if failed:
            is_refused = failed == errno.ECONNREFUSED
            kind = handshake.RefusedError if is_refused else HandshakeError
            raise kind(unreachable(failed, self._label))
        cluster = self._credentials.secret.id
        preface = links.new_preface(self._purpose, cluster, secrets.token_bytes(links.NONCE_BYTES))
        yield from self._send(preface)
        reply = yield from self._receive(links.PREFACE_BYTES)
        handshake.check_reply(reply, self._label)
        is_joining = self._purpose == links.JOIN
        own = b""
        if is_joining:
            frame = yield from self._receive(links.AUTHORITY_FRAME_BYTES)
            self.authority = handshake.check_introduction(
                self._credentials, preface, reply, frame, self._label
            )
            context = self._contexts.for_joiner(certificate_pem(self.authority))
        else:
            own = self._contexts.certificate()
            context = self._contexts.for_dialler()
        peer = yield from self._secure(context, is_listener=False)
        about = handshake.transcript(preface, reply, peer, own)
        secret = self._credentials.secret
        try:
            yield from self._send(handshake.prove(secret, handshake.DIALLER, about))
        except ConnectionError:
            pass  # refused already: why can still be read
        proof = yield from self._receive(links.PROOF_BYTES)
        if proof == links.REFUSED_PROOF:
            raise HandshakeError(
                f"the token was refused at {self._label}. What to do: use the join line of that"
                f" cluster."
            )
        if not handshake.is_proof(secret, handshake.LISTENER, about, proof):
            raise HandshakeError(f"who listens at {self._label} does not know the cluster's token")

    def accepted(self, preface: bytes) -> Steps[None]:
        """Answer, as the side that was dialled."""
        cluster = self._credentials.secret.id
        nonce = secrets.token_bytes(links.NONCE_BYTES)
        reply = links.new_preface(links.WELCOME, cluster, nonce)
        is_joining = self._purpose == links.JOIN
        introduction = b""
        if is_joining:
            introduction = handshake.introduce(self._credentials, preface, reply)
        yield from self._send(reply + introduction)
        context = self._contexts.for_listener(is_joining)
        peer = yield from self._secure(context, is_listener=True)
        about = handshake.transcript(preface, reply, self._contexts.certificate(), peer)
        secret = self._credentials.secret
        proof = yield from self._receive(links.PROOF_BYTES)
        if not handshake.is_proof(secret, handshake.DIALLER, about, proof):
            yield from self._send(links.REFUSED_PROOF)
            raise HandshakeError("it does not know the cluster's token")
        yield from self._send(handshake.prove(secret, handshake.LISTENER, about))

    def _secure(self, context: ssl.SSLContext, is_listener: bool) -> Steps[bytes]:
        """Begin TLS; returns the peer's certificate (DER), empty if it has none."""
        secured = context.wrap_socket(
            self.socket, server_side=is_listener, do_handshake_on_connect=False
        )
        self.socket = secured
        while True:
            try:
                secured.do_handshake()
                break
            except ssl.SSLWantReadError:
                yield READ
            except ssl.SSLWantWriteError:
                yield WRITE
        certificate = secured.getpeercert(binary_form=True) or b""
        if certificate:
            self.peer_name = handshake.name_in(secured.getpeercert())
        return certificate

    def _send(self, data: bytes) -> Steps[None]:
        view = memoryview(data)
        while view:
            try:
                view = view[self.socket.send(view) :]
            except ssl.SSLWantReadError:
                yield READ
            except (BlockingIOError, ssl.SSLWantWriteError):
                yield WRITE

    def _receive(self, size: int) -> Steps[bytes]:
        """Exactly ``size`` bytes, so that nothing of what follows is taken out of the kernel."""
        data = b""
        while len(data) < size:
            try:
                piece = self.socket.recv(size - len(data))
            except ssl.SSLWantWriteError:
                yield WRITE
                continue
            except (BlockingIOError, ssl.SSLWantReadError):
                yield READ
                continue
            if not piece:
                raise HandshakeError(self._cut_off(bool(data)))
            data += piece
        return data

    def _cut_off(self, has_some: bool) -> str:
        if not has_some and not isinstance(self.socket, ssl.SSLSocket):
            return f"{self._label} ended the connection before it said anything"
        return f"{self._label} ended the connection in the middle of the handshake"


def unreachable(code: int, label: str) -> str:
    """One line for a connection that could not be made."""
    if code == errno.ECONNREFUSED:
        return (
            f"nobody listens at {label}. What to do: check address and port, and that the cluster"
            f" runs."
        )
    return f"{label} cannot be reached: {os.strerror(code)}"


def explain(error: Exception, label: str) -> str:
    """One line for what a handshake raised."""
    if isinstance(error, HandshakeError | CredentialsError):
        return str(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate shown at {label} is not of this cluster ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        reason = (error.reason or "").replace("_", " ").lower()
        if "alert" in reason and ("unknown ca" in reason or "certificate" in reason):
            return f"{label} refused the certificate of this node ({reason})"
        return f"TLS with {label} failed: {reason or error}"
    if isinstance(error, OSError) and error.errno:
        return unreachable(error.errno, label)
    return f"the connection with {label} failed: {error}"
