"""``Peers``: all other nodes, as the rest of the daemon sees them.

``send`` gives a message to a node, in order, exactly once while both epochs live, however often the
connection breaks meanwhile; ``received`` is what others sent. One ``_core.link.Link`` per node
decides; this file dials, accepts, encodes and keeps its timer. The control store is a peer like any
other, called ``STORE``: daemons dial it with a purpose of its own.

1. Commands of one link are performed in the order of its steps, also when performing one of them
   (a delivery) makes the next step: a frame never overtakes a frame.
2. Who cannot be dialled is reached by way of the head (``relay_through``, see ``relay``), after it
   had a second to dial us; who cannot be dialled any more, when dialling it has failed.
3. Nothing that a peer sends raises out of here: a bad message closes its connection, with one line.
4. Without a certificate nobody can be dialled but the head, which gives one (``joining``): the
   first dial gets it.
5. Everything runs on the one loop; what bulk threads have to say comes through a mailbox.
"""

from __future__ import annotations

import socket
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from shoal._base import clock
from shoal._base.config import LEASE_LEAST_S
from shoal._core import link_events as core
from shoal._core.link import Link
from shoal._core.link_events import LinkLimits
from shoal._proto import links
from shoal._proto.frames import FrameError
from shoal._proto.links import Hello, NodeBody, Relay
from shoal._runtime.daemon_loop import Loop, Timer
from shoal._runtime.links.bulk import Bulk, BulkLimits, BulkWays, OpenSource
from shoal._runtime.links.connection import Channel
from shoal._runtime.links.connections import Connections
from shoal._runtime.links.door import Arrival, Desk, Refusals
from shoal._runtime.links.handshake import Contexts
from shoal._runtime.links.joining import Joining
from shoal._runtime.links.keys import STORE, Credentials
from shoal._runtime.links.mailbox import Mailbox
from shoal._runtime.links.relay import RELAYED_BYTES_MOST, Relays

RELAY = "relay:"
"""How an address begins that is none: by way of which node."""
STORE_REDIAL_MOST_S = LEASE_LEAST_S / 4
"""Between two dials of the store: each at which nobody listens makes a lease longer, so there are
several in the shortest one."""
RELAY_WAIT_S = 1.0


@dataclass(frozen=True)
class PeerEvents:
    """Whom ``Peers`` tells; all calls are made on the loop."""

    received: Callable[[str, NodeBody], None]
    linked: Callable[[str], None]
    """There is a connection (again)."""
    suspected: Callable[[str, str], None]
    """There has been none for half a second, and dialling failed: one line says why."""
    open_source: OpenSource
    """(node, name) -> (bytes, release) of a value that a node pulls, or None."""
    session_ended: Callable[[str, int], None] | None = None
    """A node's epoch is over: so many messages to it may not have arrived."""
    congested: Callable[[str, bool], None] | None = None
    """More than 16 MiB wait for the node (True), or less than half of that again (False)."""
    fenced: Callable[[str, str], None] | None = None
    """A node says that our own epoch is over."""
    refused: Callable[[str, float], None] | None = None
    """The node's end has ended the connection, and when it was dialled then nobody listened."""


@dataclass(frozen=True)
class PeerOptions:
    """What one member of the cluster is, beside its credentials."""

    epoch: int
    """Grows with each life of this member: of two, the larger is the present one."""
    address: str = ""
    """Where others can dial us; "": nobody can."""
    limits: LinkLimits = field(default_factory=LinkLimits)
    bulk: BulkLimits = field(default_factory=BulkLimits)


def new_epoch() -> int:
    """An epoch for a member that has nothing better: later ones are larger, on one machine."""
    return int(clock.wall() * 1e6)


class _Peer:
    """One node: its link, where it is, and what its link wants done."""

    __slots__ = ("address", "is_performing", "link", "timer", "todo")

    def __init__(self, link: Link) -> None:
        self.link = link
        self.address = ""
        self.timer: Timer | None = None
        self.todo: deque[core.Command] = deque()
        self.is_performing = False


class Peers:
    """All other members of the cluster."""

    def __init__(
        self, loop: Loop, credentials: Credentials, events: PeerEvents, options: PeerOptions
    ) -> None:
        self.name = credentials.name
        self.epoch = options.epoch
        self.contexts = Contexts(credentials)
        self._loop = loop
        self._events = events
        self._options = options
        self._mailbox = Mailbox(loop)
        self._peers: dict[str, _Peer] = {}
        self._relay = ""
        self._is_closed = False
        self._refusals = Refusals()
        self._connections = Connections(loop, self.name, self._happened, self._refusals)
        self._relays = Relays(loop, self.name, self.send, self._connections.events)
        ways = BulkWays(self._way_to, self.send, events.open_source, self._refusals)
        self._bulk = Bulk(loop, self._mailbox, self.contexts, ways, options.bulk)

    # ---- what the daemon asks for
    def send(self, node: str, body: NodeBody) -> None:
        """Give ``node`` a message: in order, exactly once while both epochs live.

        Raises:
            FrameError: it is larger than a frame may be.
            ValueError: ``node`` is this one.
        """
        if node == self.name:
            raise ValueError("a node has no link with itself")
        self._happened(node, core.Given(links.encode_body(body)))

    def connect(self, node: str, address: str) -> None:
        """Be linked with ``node`` from now on; ``address`` "": only it can dial."""
        if node == self.name:
            return
        peer = self._peer(node)
        peer.address = address
        addresses: tuple[str, ...] = (address,) if address else ()
        can_relay = bool(self._relay) and STORE not in (node, self.name)
        can_relay = can_relay and self._relay not in (node, self.name)
        if addresses and can_relay:
            addresses += (RELAY + self._relay,)
        self._happened(node, core.AddressesKnown(addresses))
        if can_relay and not address:
            self._loop.call_later(RELAY_WAIT_S, lambda: self._fall_back(node))

    def _fall_back(self, node: str) -> None:
        """It had its time to dial us."""
        peer = self._peers[node]
        if not self._is_closed and not peer.address and peer.link.connection is None:
            self._happened(node, core.AddressesKnown((RELAY + self._relay,)))

    def is_linked(self, node: str) -> bool:
        """Whether there is a connection with ``node`` now."""
        peer = self._peers.get(node)
        return peer is not None and peer.link.connection is not None

    def waiting_bytes(self, node: str) -> int:
        """What ``node`` was given and has not said that it has."""
        peer = self._peers.get(node)
        return 0 if peer is None else peer.link.outbox.size_bytes

    def forget(self, node: str) -> None:
        """The node is dead: drop what waits for it, and refuse its present epoch for ever."""
        if node in self._peers:
            self._peers[node].address = ""
            self._happened(node, core.Forgotten())
        self._bulk.forget(node)

    def pull(
        self,
        node: str,
        name: bytes,
        into: memoryview,
        done: Callable[[str], None],
        compress: bool = False,
    ) -> None:
        """Fetch a value of ``node`` into ``into``, which has exactly its size.

        Args:
            node: Who has it.
            name: What its ``open_source`` knows it by, at most 1,024 bytes.
            into: Must stay valid, and is written by threads, until ``done`` is called.
            done: Called once on the loop, with "" or with why it did not come.
            compress: Compress on the way (zlib, level 1): for slow networks.
        """
        self._bulk.pull(node, name, into, done, compress)

    def relay_through(self, node: str) -> None:
        """Reach who cannot be dialled by way of ``node`` (the head's daemon)."""
        if node == self._relay:
            return
        self._relay = node
        for other, peer in list(self._peers.items()):
            self.connect(other, peer.address)

    def begin_epoch(self, epoch: int) -> None:
        """Begin another life under the same name: all sessions end, whom we knew is dialled
        again."""
        self.epoch = epoch
        for node, peer in list(self._peers.items()):
            self._happened(node, core.BeganAnew(epoch))
            self.connect(node, peer.address)

    def rows(self) -> list[dict[str, object]]:
        """One row per node that is known here, for ``shoal status``."""
        return [
            {
                "node": node,
                "address": peer.address,
                "is_linked": peer.link.connection is not None,
                "is_relayed": self._is_relayed(peer),
                "is_suspected": peer.link.suspicion.is_told,
                "waiting_bytes": peer.link.outbox.size_bytes,
                "epoch": peer.link.peer_epoch,
            }
            for node, peer in sorted(self._peers.items())
        ]

    def close(self) -> None:
        """End all connections; nobody is told anything any more."""
        self._is_closed = True
        self._bulk.close()
        for peer in self._peers.values():
            if peer.timer is not None:
                peer.timer.cancel()
        self._connections.close(f"{self.name} leaves")
        self._mailbox.close()

    # ---- the door
    def desks(self) -> dict[int, Desk]:
        """For a ``Door`` of this process: what it serves, by purpose."""
        if self.name == STORE:
            return {links.STORE: self.accept}
        return dict.fromkeys((links.NODE, links.BULK, links.BULK_BACK), self.accept)

    def accept(self, arrival: Arrival) -> None:
        """Take a connection whose preface was welcome."""
        preface = links.read_preface(arrival.preface)
        assert preface is not None
        if preface.purpose in (links.BULK, links.BULK_BACK):
            self._bulk.accept(arrival, preface.purpose)
            return
        events = self._connections.events()
        channel = Channel(self._loop, self.contexts, events, preface.purpose, arrival.label)
        channel.accept(arrival.connection, arrival.preface)

    def accepted(self, descriptor: int, preface: bytes) -> None:
        """The same for a connection that another process handed over."""
        connection = socket.socket(fileno=descriptor)
        try:
            host, port = connection.getpeername()[:2]
        except OSError:
            connection.close()  # it ended on the way
            return
        self.accept(Arrival(connection, preface, f"{host}:{port}"))

    # ---- links
    def _peer(self, node: str) -> _Peer:
        peer = self._peers.get(node)
        if peer is None:
            limits = self._options.limits
            if node == STORE:
                often_s = min(limits.redial_most_s, STORE_REDIAL_MOST_S)
                limits = msgspec.structs.replace(limits, redial_most_s=often_s)
            peer = _Peer(Link(self.name, self.epoch, node, limits))
            self._peers[node] = peer
        return peer

    def _happened(self, node: str, event: core.Event) -> None:
        """One step of a link, and everything that follows (invariant 1)."""
        if self._is_closed:
            return
        peer = self._peer(node)
        peer.todo.extend(peer.link.step(clock.now(), event))
        if peer.is_performing:
            return
        peer.is_performing = True
        try:
            while peer.todo:
                self._perform(peer, peer.todo.popleft())
        finally:
            peer.is_performing = False
        self._set_timer(peer)

    def _set_timer(self, peer: _Peer) -> None:
        wake_at = peer.link.wake_at
        if wake_at is None or self._is_closed:
            return
        if peer.timer is not None and peer.timer.callback is not None:
            if peer.timer.at <= wake_at:
                return  # it rings early, and is set anew
            peer.timer.cancel()
        node = peer.link.peer
        peer.timer = self._loop.call_at(wake_at, lambda: self._happened(node, core.Ticked()))

    def _perform(self, peer: _Peer, command: core.Command) -> None:
        node, connections = peer.link.peer, self._connections
        match command:
            case core.Write():
                connections.write(command.connection, command.number, command.ack, command.data)
            case core.Deliver():
                self._deliver(peer, command.data)
            case core.Acknowledge():
                connections.write(command.connection, 0, command.ack)
            case core.Greet():
                hello = Hello(self.name, self.epoch, command.knows, command.received, command.turn)
                connections.say(command.connection, hello)
            case core.Close():
                connections.end(command.connection, command.why, command.is_over)
            case core.Dial():
                self._dial(peer, command.address)
            case _:
                self._loop.guard(self._tell, node, command)

    def _tell(self, node: str, command: core.Command) -> None:
        """What concerns the owner."""
        events = self._events
        match command:
            case core.Linked():
                events.linked(node)
            case core.Suspected():
                events.suspected(node, command.why)
            case core.Refused():
                if events.refused is not None:
                    events.refused(node, command.dialled_at)
            case core.SessionEnded():
                self._relays.lost(node)
                if events.session_ended is not None:
                    events.session_ended(node, command.undelivered)
            case core.Congested():
                if events.congested is not None:
                    events.congested(node, command.is_congested)
            case core.Fenced():
                if events.fenced is not None:
                    events.fenced(node, command.why)

    def _deliver(self, peer: _Peer, data: bytes) -> None:
        node = peer.link.peer
        try:
            body = links.decode_body(data)
        except FrameError as error:
            print(f"a message of node {node} is dropped: {error}", file=sys.stderr, flush=True)
            channel = self._connections.channel(peer.link.connection)
            if channel is not None:
                channel.close(str(error))
            return
        if isinstance(body, Relay):
            self._relay_came(node, body)
        elif isinstance(body, links.DialBulk | links.PieceAsked | links.Piece):
            self._loop.guard(self._bulk.heard, node, body)
        else:
            self._loop.guard(self._events.received, node, body)

    def _relay_came(self, via: str, row: Relay) -> None:
        if row.to == self.name:
            self._relays.came(via, row)
            return
        if row.source != via:
            return  # a node speaks for itself only
        target = self._peers.get(row.to)
        is_there = target is not None and bool(target.link.peer_epoch)
        if (
            target is None
            or not is_there
            or target.link.suspicion.is_told
            or target.link.outbox.size_bytes > RELAYED_BYTES_MOST
        ):
            self._relays.refuse(via, row)
        else:
            self.send(row.to, row)

    def _dial(self, peer: _Peer, address: str) -> None:
        node = peer.link.peer

        def failed(why: str, was_refused: bool = False) -> None:
            self._happened(node, core.DialFailed(why, was_refused))

        def joined(why: str) -> None:
            if why:
                failed(why)
            elif not self._is_closed:
                self._dial(peer, address)

        if address.startswith(RELAY):
            events = self._connections.events(node, failed)
            self._relays.dial(node, address.removeprefix(RELAY), events)
        elif not self.contexts.credentials.has_certificate:
            Joining(self._loop, self.contexts, self._mailbox, joined).dial(address)
        else:
            purpose = links.STORE if node == STORE else links.NODE
            events = self._connections.events(node, failed)
            channel = Channel(self._loop, self.contexts, events, purpose, address)
            channel.dial(address, self._mailbox)

    def _is_relayed(self, peer: _Peer) -> bool:
        channel = self._connections.channel(peer.link.connection)
        return channel is not None and not isinstance(channel, Channel)

    def _way_to(self, node: str) -> tuple[str, bool]:
        """(address or "", whether the node can dial us instead), for bulk."""
        peer = self._peers.get(node)
        if peer is None or self._is_relayed(peer):
            return "", False
        return peer.address, bool(self._options.address)
