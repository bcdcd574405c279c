"""Connections between two nodes that cannot reach each other, by way of a third.

Two nodes behind NAT can both dial the head, so each has a link to it. A ``RelayedChannel`` looks
like any other open channel to who uses it; its bytes travel as ``Relay`` messages inside the links
to the head, which passes them on. Those links are ordered and lose nothing, so a relayed connection
breaks only when a session with the head does, or when one end says so.

1. The head passes on only what its sender says under its own name, and only to nodes it is linked
   with (or was, and does not suspect). To anybody else the answer is the end of the connection.
2. What waits for a slow receiver at the head is bounded: beyond ``RELAYED_BYTES_MOST`` relayed
   connections to it end, and are begun anew when somebody still wants them.
3. A pair of nodes has at most two relayed connections: one begun by each.
4. The head sees relayed bytes (RULES Z-6).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from shoal._proto.links import Relay
from shoal._runtime.daemon_loop import Loop

if TYPE_CHECKING:
    from shoal._runtime.links.connection import ChannelEvents

RELAYED_BYTES_MOST = 64 << 20
RELAY_BYTES = 1 << 20
"""One message to the head: a frame may be as large as a message can be, and has a header."""

Send = Callable[[str, Relay], None]


class RelayedChannel:
    """Bytes to and from ``peer_name``, by way of ``via``; the peer is who the head says it is."""

    def __init__(self, relays: Relays, peer: str, via: str, is_dialled: bool) -> None:
        self.peer_name = peer
        self.label = f"{peer} by way of {via}"
        self.via = via
        self.is_dialled = is_dialled
        self.is_open = False
        self.is_closed = self.was_refused = self.is_peers_end = False
        self.unsent_bytes = 0
        """What waits, waits in the link to the head."""
        self._relays = relays
        self._events: ChannelEvents | None = None

    def begin(self, events: ChannelEvents) -> None:
        """Be open; ``opened`` is called here."""
        self._events = events
        self.is_open = True
        if self.is_dialled:
            self._relays.say(self, b"", is_first=True)
        events.opened(self)

    def write(self, data: bytes) -> None:
        """Send."""
        for at in range(0, len(data), RELAY_BYTES):
            if not self.is_closed:
                self._relays.say(self, data[at : at + RELAY_BYTES])

    def flush(self) -> None:
        """Nothing waits here."""

    def close(self, why: str) -> None:
        """End it and tell both sides; a second call does nothing."""
        if not self.is_closed:
            self._relays.say(self, b"")
            self.end(why)

    def end(self, why: str) -> None:
        """It has ended."""
        if self.is_closed:
            return
        self.is_closed = True
        self._relays.gone(self)
        if self._events is not None:
            self._events.closed(self, why)

    def came(self, data: bytes) -> None:
        """Bytes of the peer, or (empty) its end."""
        if self.is_closed or self._events is None:
            return
        if data:
            self._events.received(self, data)
        else:
            self.end("the peer ended the connection, or cannot be reached through the head")


class Relays:
    """All relayed connections of one member, and what it passes on for others."""

    def __init__(
        self, loop: Loop, name: str, send: Send, accepting: Callable[[], ChannelEvents]
    ) -> None:
        self._loop = loop
        self._name = name
        self._send = send
        self._accepting = accepting
        self._channels: dict[tuple[str, bool], RelayedChannel] = {}
        """By (peer, whether we began it)."""

    def dial(self, peer: str, via: str, events: ChannelEvents) -> RelayedChannel:
        """Begin a connection."""
        old = self._channels.get((peer, True))
        if old is not None:
            old.end("another one was begun")
        channel = self._channels[peer, True] = RelayedChannel(self, peer, via, is_dialled=True)
        self._loop.call_at(0.0, lambda: None if channel.is_closed else channel.begin(events))
        return channel

    def say(self, channel: RelayedChannel, data: bytes, is_first: bool = False) -> None:
        """Send a channel's bytes on their way."""
        row = Relay(channel.peer_name, self._name, data, is_first, not channel.is_dialled)
        self._send(channel.via, row)

    def gone(self, channel: RelayedChannel) -> None:
        """Forget it."""
        key = (channel.peer_name, channel.is_dialled)
        if self._channels.get(key) is channel:
            del self._channels[key]

    def came(self, via: str, row: Relay) -> None:
        """A message for this member."""
        key = (row.source, row.is_answer)
        channel = self._channels.get(key)
        if row.is_first and not row.is_answer:
            if channel is not None:
                channel.end("the peer began another one")
            channel = self._channels[key] = RelayedChannel(self, row.source, via, is_dialled=False)
            channel.begin(self._accepting())
        elif channel is not None and channel.via == via:
            channel.came(row.data)

    def refuse(self, via: str, row: Relay) -> None:
        """It cannot be passed on: tell who sent it that the connection has ended."""
        if row.data or row.is_first:
            self._send(via, Relay(via, row.to, b"", is_answer=not row.is_answer))

    def lost(self, via: str) -> None:
        """The session with a relaying node is over, and what was on its way with it."""
        for channel in list(self._channels.values()):
            if channel.via == via:
                channel.end(f"node {via}, which passed it on, is gone")
