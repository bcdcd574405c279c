"""One TCP connection to another machine, from the first byte to the last, on the daemon's loop.

``Channel`` dials or has been accepted, shakes hands (``shaking``), and then moves bytes inside TLS
1.3; it does not know what they mean. Nothing in it blocks.

1. Until it is open, a channel has ``HANDSHAKE_S`` in all (``DIAL_S`` if it dials); then it is
   closed, whatever it did.
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
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Union

from shoal._runtime.daemon_loop import READ, WRITE, Loop
from shoal._runtime.links.handshake import Contexts, RefusedError
from shoal._runtime.links.keys import CredentialsError, split_address
from shoal._runtime.links.mailbox import Mailbox
from shoal._runtime.links.relay import RelayedChannel
from shoal._runtime.links.shaking import Shake, Steps, explain, unreachable

HANDSHAKE_S = 2.0
"""For who was dialled, and for the first frame after the proofs."""
DIAL_S = 4.0
"""For who dials: four round trips, of which some may be slow or lost."""
READS_AT_ONCE = 32
RECORD_BYTES = 16 << 10
JOINED_BYTES_MOST = 128 << 10
"""Small pieces are written together up to this."""
KEEPALIVE_S = (10, 3, 3)
"""Idle time before the kernel asks whether the peer's machine is there, pause, questions."""
AnyChannel = Union["Channel", RelayedChannel]
"""What moves the bytes of a link."""


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
        self.is_open = False
        self.is_closed = False
        self.was_refused = False
        """It was dialled, and nobody listens there."""
        self.is_peers_end = False
        """The peer has ended it, or its machine has when the peer's process ended."""
        self._loop = loop
        self._contexts = contexts
        self._events = events
        self._shake: Shake | None = None
        self._steps: Steps[None] | None = None
        self._waits_for = 0
        self._unsent: deque[bytes] = deque()
        self._piece: memoryview | None = None
        """Being written: TLS wants the same bytes again until it has taken them."""
        self.unsent_bytes = 0
        self._is_flushing = False
        self._deadline = loop.call_later(HANDSHAKE_S, self._too_late)

    # ---- beginnings
    def dial(self, address: str, mailbox: Mailbox) -> None:
        """Begin; ``closed`` follows if it comes to nothing."""
        self._deadline.cancel()
        self._deadline = self._loop.call_later(DIAL_S, self._too_late)
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

    def _connect(self, family: int, where: Any) -> None:
        if self.is_closed:
            return
        try:
            connection = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        except OSError as error:
            self._fail_later(f"no connection can be made: {error}")
            return
        shake = self._begin(connection)
        failed = connection.connect_ex(where)
        if failed in (0, errno.EINPROGRESS):
            self._go_on(shake.dialled())
        else:
            self.was_refused = failed == errno.ECONNREFUSED
            self._fail_later(unreachable(failed, self.label))

    def accept(self, connection: socket.socket, preface: bytes) -> None:
        """Go on with a connection whose preface was read and found good."""
        self._go_on(self._begin(connection).accepted(preface))

    def _begin(self, connection: socket.socket) -> Shake:
        prepare_socket(connection)
        self._shake = Shake(self._contexts, self.purpose, self.label, connection)
        return self._shake

    def _go_on(self, steps: Steps[None]) -> None:
        assert self._shake is not None
        self._steps = steps
        self._waits_for = WRITE
        self._loop.watch(self._shake.socket.fileno(), self._ready, WRITE)

    @property
    def peer_name(self) -> str:
        """Who the peer is, by its certificate."""
        return "" if self._shake is None else self._shake.peer_name

    @property
    def authority(self) -> bytes:
        """The cluster's certificate (DER), as who joins has been shown it."""
        return b"" if self._shake is None else self._shake.authority

    def _secured(self) -> ssl.SSLSocket:
        assert self._shake is not None and isinstance(self._shake.socket, ssl.SSLSocket)
        return self._shake.socket

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
        stream = self._secured()
        while True:
            if not self._piece:
                self._piece = self._next_piece()
                if not self._piece:
                    return 0
            try:
                sent = stream.send(self._piece)
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
        if events != self._waits_for and self._shake is not None:
            self._waits_for = events
            self._loop.change(self._shake.socket.fileno(), events)

    def _ready(self, events: int) -> None:
        if self._steps is not None:
            self._shake_on(self._steps)
            return
        if events & WRITE:
            self.flush()
        if events & ~WRITE and not self.is_closed:
            self._read()

    def _shake_on(self, steps: Steps[None]) -> None:
        try:
            waits_for = next(steps)
        except StopIteration:
            self._steps = None
            self._open()
            return
        except (OSError, ssl.SSLError, ValueError) as error:
            self.was_refused = isinstance(error, RefusedError)
            self.close(explain(error, self.label))
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
        stream = self._secured()
        for _ in range(READS_AT_ONCE):
            try:
                data = stream.recv(RECORD_BYTES)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            except (OSError, ssl.SSLError) as error:
                self.close(self._lost(error))
                return
            if not data:
                self.is_peers_end = True
                self.close("the peer ended the connection")
                return
            self._events.received(self, data)
            if self.is_closed:
                return

    def _lost(self, error: Exception) -> str:
        self.is_peers_end = isinstance(error, ConnectionResetError | BrokenPipeError)
        if isinstance(error, ssl.SSLError):
            return explain(error, self.label)
        return f"the connection was lost ({error})"

    # ---- ends
    def _too_late(self) -> None:
        if not self.is_open:
            self.close(
                f"{self.label} did not answer within {DIAL_S:g} s. What to do: check the"
                f" address, and that no firewall drops what goes to its port."
            )

    def _fail_later(self, why: str) -> None:
        self._loop.call_at(0.0, lambda: self.close(why))

    def close(self, why: str) -> None:
        """End the connection and say why; a second call does nothing."""
        if self.is_closed:
            return
        self._let_go()
        if self._shake is not None:
            self._shake.socket.close()
        self._unsent.clear()
        self._piece = None
        self.unsent_bytes = 0
        self._events.closed(self, why)

    def detach(self) -> ssl.SSLSocket:
        """Hand the open connection to somebody else; this channel says nothing more."""
        self._let_go()
        return self._secured()

    def _let_go(self) -> None:
        self.is_closed = True
        self._deadline.cancel()
        if self._steps is not None:
            self._steps.close()
            self._steps = None
        if self._shake is not None and self._shake.socket.fileno() >= 0:
            self._loop.unwatch(self._shake.socket.fileno())
