"""The one port of a node that others can reach: strangers come here, and are sorted by purpose.

A connection is a stranger until its preface (80 bytes of a fixed layout) has come. The door reads
exactly these bytes, so the connection can then be given to anybody with nothing lost: to a *desk*
of this process, or, as a descriptor with the preface beside it, to another process (on the head the
control store's process holds the port, and connections for the head's daemon are handed to it; so
the store serves on when that daemon dies, and a machine has one port). TLS begins where the desk
is.

1. What a stranger can cost is bounded by ``_core.doorkeeper``: pending connections, per source and
   in all, each with a deadline, handshakes per second, lines in the log.
2. A wrong magic is answered with nothing, a preface that is understood and not welcome with a
   reply that says why, so that one clear line can be written on the side that can act.
3. A descriptor is kept in reserve: when they run out, connections are taken and closed instead of
   waking the loop for ever.
4. Nothing that a stranger does ends the door; only ``close`` does.
"""

from __future__ import annotations

import errno
import os
import secrets
import socket
import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from shoal._base import clock
from shoal._core.doorkeeper import Doorkeeper, DoorLimits, LineBudget, source_of
from shoal._proto import links
from shoal._proto.links import Preface
from shoal._runtime.daemon_loop import Loop, Timer
from shoal._runtime.links import handshake
from shoal._runtime.links.keys import split_address

BACKLOG = 1024
ACCEPTS_AT_ONCE = 64
SAID_S = 60.0
"""A stranger that comes again and again for the same reason is named once in that time."""
SAID_MOST = 256


class PortError(OSError):
    """The port cannot be listened at; the text says what to do."""


class Arrival(NamedTuple):
    """A connection whose preface was welcome."""

    connection: socket.socket
    preface: bytes
    label: str
    """The peer's address, for people."""


Desk = Callable[[Arrival], None]


class Refusals:
    """Lines about strangers that were sent away: few, however many of them come and how often."""

    def __init__(self, limits: DoorLimits | None = None) -> None:
        self._budget = LineBudget(limits)
        self._said: OrderedDict[tuple[str, str], float] = OrderedDict()
        """What was written lately about whom, and when."""

    def say(self, label: str, why: str) -> None:
        """Write one line, unless it was written lately or there were too many."""
        now, host = clock.now(), label.rpartition(":")[0]
        key = (host, why.replace(label, host))
        if now < self._said.get(key, -SAID_S) + SAID_S:
            return
        unsaid = self._budget.take(now)
        if unsaid is None:
            return
        self._said[key] = now
        self._said.move_to_end(key)
        if len(self._said) > SAID_MOST:
            self._said.popitem(last=False)
        more = f" ({unsaid} more were not written down)" if unsaid else ""
        print(f"a connection from {label} was refused: {why}{more}", file=sys.stderr, flush=True)


def listen(address: str) -> socket.socket:
    """Return a socket that listens at ``host:port``; port 0 is not allowed in an address, see
    ``listen_anywhere``.

    Raises:
        PortError: the port is in use, or the address is not one of this machine.
        CredentialsError: ``address`` is no address.
    """
    host, port = split_address(address)
    return _listen(host, port, address)


def listen_anywhere(host: str) -> tuple[socket.socket, str]:
    """Return a socket that listens at a free port of ``host``, and its address."""
    listening = _listen(host, 0, host)
    found = listening.getsockname()[1]
    return listening, f"[{host}]:{found}" if ":" in host else f"{host}:{found}"


def _listen(host: str, port: int, address: str) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, _, _, where = found[0]
        listening = socket.socket(family, kind | socket.SOCK_CLOEXEC)
    except OSError as error:
        raise PortError(f"{address} is not known: {error.strerror or error}") from None
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(where)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            what = "the port is in use. What to do: choose another one, or stop who has it"
        elif error.errno == errno.EADDRNOTAVAIL:
            what = "this machine has no such address. What to do: name one of its own addresses"
        else:
            what = os.strerror(error.errno or 0)
        raise PortError(f"nobody can be listened to at {address}: {what}.") from None
    return listening


def refuse(port: int) -> None:
    """Have the kernel refuse who dials that listening descriptor, also those that wait there, until
    somebody listens again. Its address stays its own.

    Raises:
        OSError: it is no socket, or its address is another's now.
    """
    with socket.socket(fileno=os.dup(port)) as listening:
        where = listening.getsockname()
        if not listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return
        listening.shutdown(socket.SHUT_RD)
        try:
            listening.bind(where)  # the kernel has taken the port back if it had chosen it itself
        except OSError as error:
            if error.errno != errno.EINVAL:  # it is bound still
                raise


def listen_again(listening: socket.socket) -> None:
    """Take dials again after ``refuse``; otherwise it changes nothing."""
    listening.listen(BACKLOG)


class _Stranger:
    """A connection whose preface has not come whole."""

    __slots__ = ("connection", "data", "label", "source")

    def __init__(self, connection: socket.socket, source: str, label: str) -> None:
        self.connection = connection
        self.source = source
        self.label = label
        self.data = b""


class Door:
    """Takes connections at one port until ``close``."""

    def __init__(
        self,
        loop: Loop,
        listening: socket.socket,
        cluster: str,
        desks: dict[int, Desk],
        limits: DoorLimits | None = None,
    ) -> None:
        """Listen.

        Args:
            loop: Calls back.
            listening: From ``listen``.
            cluster: The secret's public name: who means another cluster is refused.
            desks: For each purpose that is served, who takes its connections.
            limits: What strangers may cost.
        """
        self._loop = loop
        self._socket = listening
        self._cluster = cluster
        self._desks = desks
        self._keeper = Doorkeeper(limits)
        self.refusals = Refusals()
        self._strangers: dict[int, _Stranger] = {}
        self._number = 0
        self._timer: Timer | None = None
        self._reserve = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        listening.setblocking(False)
        loop.watch(listening.fileno(), self._ready)

    @property
    def pending(self) -> int:
        """How many strangers there are."""
        return len(self._strangers)

    def close(self) -> None:
        """Take no more connections, and send strangers away."""
        self._loop.unwatch(self._socket.fileno())
        self._socket.close()
        os.close(self._reserve)
        if self._timer is not None:
            self._timer.cancel()
        for number in list(self._strangers):
            self._drop(number)

    # ---- strangers
    def _ready(self, events: int) -> None:
        for _ in range(ACCEPTS_AT_ONCE):
            try:
                connection, where = self._socket.accept()
            except BlockingIOError:
                return
            except ConnectionError:
                continue
            except OSError as error:
                self._refuse(error)
                return
            self._came(connection, str(where[0]), int(where[1]))

    def _refuse(self, error: OSError) -> None:
        self.refusals.say("somebody", str(error))
        os.close(self._reserve)
        try:
            self._socket.accept()[0].close()
        except OSError:
            pass
        self._reserve = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)

    def _came(self, connection: socket.socket, host: str, port: int) -> None:
        self._number += 1
        number = self._number
        source = source_of(host)
        for other in self._keeper.arrived(clock.now(), source, number):
            self._drop(other)
        stranger = _Stranger(connection, source, f"{host}:{port}")
        self._strangers[number] = stranger
        connection.setblocking(False)
        self._loop.watch(connection.fileno(), lambda _: self._read(number))
        self._set_timer()

    def _set_timer(self) -> None:
        wake_at = self._keeper.wake_at
        if wake_at is not None and self._timer is None:
            self._timer = self._loop.call_at(wake_at, self._expire)

    def _expire(self) -> None:
        self._timer = None
        for number in self._keeper.expired(clock.now()):
            stranger = self._drop(number)
            if stranger is not None and stranger.data:
                size = len(stranger.data)
                self.refusals.say(stranger.label, f"it sent {size} bytes and then nothing")
        self._set_timer()

    def _drop(self, number: int) -> _Stranger | None:
        stranger = self._take(number)
        if stranger is not None:
            stranger.connection.close()
        return stranger

    def _take(self, number: int) -> _Stranger | None:
        self._keeper.left(number)
        stranger = self._strangers.pop(number, None)
        if stranger is not None:
            self._loop.unwatch(stranger.connection.fileno())
        return stranger

    def _read(self, number: int) -> None:
        stranger = self._strangers[number]
        try:
            data = stranger.connection.recv(links.PREFACE_BYTES - len(stranger.data))
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(number)
            return
        stranger.data += data
        if not links.MAGIC.startswith(stranger.data[: len(links.MAGIC)]):
            self._drop(number)
            self.refusals.say(stranger.label, "it does not speak the protocol of this cluster")
        elif len(stranger.data) == links.PREFACE_BYTES:
            self._take(number)
            self._sort(stranger)

    def _sort(self, stranger: _Stranger) -> None:
        preface = links.read_preface(stranger.data)
        assert preface is not None
        verdict = handshake.judge(preface, self._cluster, frozenset(self._desks))
        if verdict == links.WELCOME and not self._keeper.may_shake_hands(
            clock.now(), stranger.source
        ):
            verdict = links.BUSY
        if verdict == links.WELCOME:
            arrival = Arrival(stranger.connection, stranger.data, stranger.label)
            self._desks[preface.purpose](arrival)
        else:
            self._send_away(stranger, preface, verdict)

    def _send_away(self, stranger: _Stranger, preface: Preface, verdict: int) -> None:
        nonce = secrets.token_bytes(links.NONCE_BYTES)
        try:
            stranger.connection.send(links.new_preface(verdict, self._cluster, nonce))
        except OSError:
            pass  # it did not wait for the answer
        stranger.connection.close()
        self.refusals.say(stranger.label, handshake.refusal(verdict, preface))
