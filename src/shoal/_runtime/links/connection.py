"""One TCP connection to another machine, from the first byte to the last, on the daemon's loop.

``Channel`` dials or has been accepted, shakes hands (``handshake``), and then moves bytes inside
TLS 1.3; it does not know what they mean. The handshake is a generator that yields what it waits for
(readable or writable), so it reads from top to bottom and nothing blocks.

1. Until it is open, a channel has ``HANDSHAKE_S`` in all; then it is closed, whatever it did.
2. ``closed`` is called exactly once for each channel, never from inside ``write``, with one line;
   ``opened`` at most once, before any ``received``.
3. Nothing is handed on before the peer has proved the secret, and ``peer_name`` stands in a
   certificate that the cluster has signed ("" of a peer that joins).
4. Writing never blocks; what the kernel does not take waits here. The owner bounds it: a link keeps
   its frames anyway until they are acknowledged, so nothing is copied by waiting twice.
5. One channel takes in at most ``READS_AT_ONCE`` records per look: a fast peer starves nobody.

TLS hands out one record (16 KiB) per call and holds no more than one, so what epoll says about the
socket is true of the channel.
"""

from __future__ import annotations

import errno
import os
import secrets
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar, Union

from shoal._proto import links
from shoal._runtime.daemon_loop import READ, WRITE, Loop
from shoal._runtime.links import handshake
from shoal._runtime.links.handshake import Contexts, HandshakeError
from shoal._runtime.links.keys import CredentialsError, certificate_pem, split_address
from shoal._runtime.links.mailbox import Mailbox
from shoal._runtime.links.relay import RelayedChannel

HANDSHAKE_S = 2.0
READS_AT_ONCE = 32
RECORD_BYTES = 16 << 10
JOINED_BYTES_MOST = 128 << 10
"""Small pieces are written together up to this."""
KEEPALIVE_S = (10, 3, 3)
"""Idle time before the kernel asks whether the peer's machine is there, pause, questions."""
_T = TypeVar("_T")
AnyChannel = Union["Channel", RelayedChannel]
"""What moves the bytes of a link."""
Steps = Generator[int, None, _T]
"""A part of the handshake: yields what it waits for, returns what came of it."""


@dataclass(frozen=True)
class ChannelEvents:
    """Whom a channel tells."""

    opened: Callable[[Any], None]
    """With the channel, as all of them."""
    received: Callable[[Any, bytes], None]
    closed: Callable[[Any, str], None]
    moved: Callable[[Any], None] | None = None
    """The peer's machine took some of what was written."""


def prepare_socket(connection: socket.socket) -> None:
    """Set what every connection to another machine has."""
    idle, pause, count = KEEPALIVE_S
    connection.setblocking(False)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, pause)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, count)


class Channel:
    """A connection whose two ends have proved themselves to each other, once it is open."""

    def __init__(
        self, loop: Loop, contexts: Contexts, events: ChannelEvents, purpose: int, label: str
    ) -> None:
        self.purpose = purpose
        self.label = label
        """The peer's address, for people."""
        self.peer_name = ""
        self.is_open = False
        self.is_closed = False
        self._loop = loop
        self._contexts = contexts
        self._credentials = contexts.credentials
        self._events = events
        self._socket: socket.socket | ssl.SSLSocket | None = None
        self._steps: Steps[None] | None = None
        self._waits_for = 0
        self._unsent: deque[bytes] = deque()
        self._piece: memoryview | None = None
        """Being written: TLS wants the same bytes again until it has taken them."""
        self.unsent_bytes = 0
        self._is_flushing = False
        self._why = ""
        self.authority = b""
        """The cluster's certificate (DER), of who joins."""
        self._deadline = loop.call_later(HANDSHAKE_S, self._too_late)

    # ---- beginnings
    def dial(self, address: str, mailbox: Mailbox) -> None:
        """Begin; ``closed`` follows if it comes to nothing."""
        try:
            host, port = split_address(address)
        except CredentialsError as error:
            self._fail_later(str(error))
            return
        try:
            found = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
            )
        except socket.gaierror:
            self._resolve(host, port, mailbox)
            return
        self._connect(found[0][0], found[0][4])

    def _resolve(self, host: str, port: int, mailbox: Mailbox) -> None:
        """A name: asking for its address can take seconds, so a thread does."""

        def ask() -> None:
            try:
                found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            except OSError as error:
                why = f"the address of {host} is not known ({error.strerror or error})"
                mailbox.post(lambda: self.close(why))
                return
            mailbox.post(lambda: self._connect(found[0][0], found[0][4]))

        threading.Thread(target=ask, name="shoal-resolve", daemon=True).start()

    def _connect(self, family: int, where: object) -> None:
        if self.is_closed:
            return
        connection = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        prepare_socket(connection)
        self._socket = connection
        failed = connection.connect_ex(where)  # type: ignore[arg-type]
        if failed not in (0, errno.EINPROGRESS):
            self._fail_later(self._unreachable(failed))
            return
        self._begin(self._dialled(), WRITE)

    def accept(self, connection: socket.socket, preface: bytes) -> None:
        """Go on with a connection whose preface was read and found good."""
        prepare_socket(connection)
        self._socket = connection
        self._begin(self._accepted(preface), WRITE)

    def _begin(self, steps: Steps[None], waits_for: int) -> None:
        assert self._socket is not None
        self._steps = steps
        self._waits_for = waits_for
        self._loop.watch(self._socket.fileno(), self._ready, waits_for)

    # ---- the handshake, as it happens
    def _dialled(self) -> Steps[None]:
        assert self._socket is not None
        failed = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if failed:
            raise HandshakeError(self._unreachable(failed))
        cluster = self._credentials.secret.id
        preface = links.new_preface(self.purpose, cluster, secrets.token_bytes(links.NONCE_BYTES))
        yield from self._send(preface)
        reply = yield from self._receive(links.PREFACE_BYTES)
        handshake.check_reply(reply, self.label)
        is_joining = self.purpose == links.JOIN
        own = b""
        if is_joining:
            frame = yield from self._receive(links.AUTHORITY_FRAME_BYTES)
            self.authority = handshake.check_introduction(
                self._credentials, preface, reply, frame, self.label
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
                f"the token was refused at {self.label}. What to do: use the join line of that"
                f" cluster."
            )
        if not handshake.is_proof(secret, handshake.LISTENER, about, proof):
            raise HandshakeError(f"who listens at {self.label} does not know the cluster's token")

    def _accepted(self, preface: bytes) -> Steps[None]:
        cluster = self._credentials.secret.id
        nonce = secrets.token_bytes(links.NONCE_BYTES)
        reply = links.new_preface(links.WELCOME, cluster, nonce)
        is_joining = self.purpose == links.JOIN
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
        assert self._socket is not None
        old = self._socket.fileno()
        self._loop.unwatch(old)
        secured = context.wrap_socket(
            self._socket, server_side=is_listener, do_handshake_on_connect=False
        )
        self._socket = secured
        self._loop.watch(secured.fileno(), self._ready, self._waits_for)
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
            assert self._socket is not None
            try:
                view = view[self._socket.send(view) :]
            except ssl.SSLWantReadError:
                yield READ
            except (BlockingIOError, ssl.SSLWantWriteError):
                yield WRITE

    def _receive(self, size: int) -> Steps[bytes]:
        """Exactly ``size`` bytes, so that nothing of what follows is taken out of the kernel."""
        data = b""
        while len(data) < size:
            assert self._socket is not None
            try:
                piece = self._socket.recv(size - len(data))
            except ssl.SSLWantWriteError:
                yield WRITE
                continue
            except (BlockingIOError, ssl.SSLWantReadError):
                yield READ
                continue
            if not piece:
                raise HandshakeError(self._cut_off(len(data)))
            data += piece
        return data

    # ---- errors, as one line
    def _unreachable(self, code: int) -> str:
        if code == errno.ECONNREFUSED:
            return (
                f"nobody listens at {self.label}. What to do: check address and port, and that"
                f" the cluster runs."
            )
        return f"{self.label} cannot be reached: {os.strerror(code)}"

    def _cut_off(self, had: int) -> str:
        if not had and not isinstance(self._socket, ssl.SSLSocket):
            return f"{self.label} ended the connection before it said anything"
        return f"{self.label} ended the connection in the middle of the handshake"

    def _explain(self, error: Exception) -> str:
        if isinstance(error, HandshakeError | CredentialsError):
            return str(error)
        if isinstance(error, ssl.SSLCertVerificationError):
            return (
                f"the certificate shown at {self.label} is not of this cluster"
                f" ({error.verify_message})"
            )
        if isinstance(error, ssl.SSLError):
            reason = (error.reason or "").replace("_", " ").lower()
            if "alert" in reason and ("unknown ca" in reason or "certificate" in reason):
                return f"{self.label} refused the certificate of this node ({reason})"
            return f"TLS with {self.label} failed: {reason or error}"
        if isinstance(error, OSError) and error.errno:
            return self._unreachable(error.errno)
        return f"the connection with {self.label} failed: {error}"

    # ---- moving bytes
    def write(self, data: bytes) -> None:
        """Send; small pieces of one round of the loop go out together."""
        if self.is_closed:
            return
        self._unsent.append(data)
        self.unsent_bytes += len(data)
        if not self._is_flushing and not self._waits_for & WRITE:
            self._is_flushing = True
            self._loop.call_at(0.0, self.flush)

    def flush(self) -> None:
        """Write now what the kernel takes."""
        self._is_flushing = False
        if self.is_closed or not self.is_open:
            return
        before = self.unsent_bytes
        try:
            waits_for = self._write_some()
        except (OSError, ssl.SSLError) as error:
            self.close(self._lost(error))
            return
        self._wait_for(waits_for | READ)
        if self.unsent_bytes != before and self._events.moved is not None:
            self._events.moved(self)

    def _write_some(self) -> int:
        """Write until the kernel takes no more; what to wait for."""
        assert isinstance(self._socket, ssl.SSLSocket)
        while True:
            if not self._piece:
                self._piece = self._next_piece()
                if not self._piece:
                    return 0
            try:
                sent = self._socket.send(self._piece)
            except ssl.SSLWantWriteError:
                return WRITE
            except ssl.SSLWantReadError:
                return READ
            self._piece = self._piece[sent:]
            self.unsent_bytes -= sent

    def _next_piece(self) -> memoryview | None:
        unsent = self._unsent
        if not unsent:
            return None
        if len(unsent) == 1 or len(unsent[0]) >= JOINED_BYTES_MOST:
            return memoryview(unsent.popleft())
        together, size = [], 0
        while unsent and size + len(unsent[0]) <= JOINED_BYTES_MOST:
            together.append(unsent.popleft())
            size += len(together[-1])
        return memoryview(b"".join(together))

    def _wait_for(self, events: int) -> None:
        if events != self._waits_for and self._socket is not None:
            self._waits_for = events
            self._loop.change(self._socket.fileno(), events)

    def _ready(self, events: int) -> None:
        if self._steps is not None:
            self._shake()
            return
        if events & WRITE:
            self.flush()
        if events & ~WRITE and not self.is_closed:
            self._read()

    def _shake(self) -> None:
        assert self._steps is not None
        try:
            waits_for = next(self._steps)
        except StopIteration:
            self._steps = None
            self._open()
            return
        except (OSError, ssl.SSLError, ValueError) as error:
            self.close(self._explain(error))
            return
        self._wait_for(waits_for)

    def _open(self) -> None:
        self._deadline.cancel()
        self.is_open = True
        self._wait_for(READ)
        self._events.opened(self)
        if self._unsent and not self._is_flushing:
            self.flush()

    def _read(self) -> None:
        assert isinstance(self._socket, ssl.SSLSocket)
        for _ in range(READS_AT_ONCE):
            try:
                data = self._socket.recv(RECORD_BYTES)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            except (OSError, ssl.SSLError) as error:
                self.close(self._lost(error))
                return
            if not data:
                self.close("the peer ended the connection")
                return
            self._events.received(self, data)
            if self.is_closed:
                return

    def _lost(self, error: Exception) -> str:
        if isinstance(error, ssl.SSLError):
            return self._explain(error)
        return f"the connection was lost ({error})"

    # ---- ends
    def _too_late(self) -> None:
        if not self.is_open:
            self.close(
                f"{self.label} did not answer within {HANDSHAKE_S:g} s. What to do: check the"
                f" address, and that no firewall drops what goes to its port."
            )

    def _fail_later(self, why: str) -> None:
        self._loop.call_at(0.0, lambda: self.close(why))

    def close(self, why: str) -> None:
        """End the connection and say why; a second call does nothing."""
        if self.is_closed:
            return
        self._let_go()
        if self._socket is not None:
            self._socket.close()
        self._unsent.clear()
        self._piece = None
        self.unsent_bytes = 0
        self._events.closed(self, why)

    def detach(self) -> ssl.SSLSocket:
        """Hand the open connection to somebody else; this channel says nothing more."""
        assert self.is_open and isinstance(self._socket, ssl.SSLSocket)
        self._let_go()
        return self._socket

    def _let_go(self) -> None:
        self.is_closed = True
        self._deadline.cancel()
        if self._steps is not None:
            self._steps.close()
            self._steps = None
        if self._socket is not None and self._socket.fileno() >= 0:
            self._loop.unwatch(self._socket.fileno())
