"""The connections of links: who is at the other end, and frames in and out.

A channel is open when both ends have proved the secret; it is a *connection* from then on, with a
number, and says ``Hello`` before anything else. This file knows bytes and rows, and tells what
came as events of ``_core.link``; which connection is used, and what is sent on it, is decided
there.

1. A connection belongs to the node whose name stands in its certificate; a ``Hello`` that says
   another name ends it, and so does one that does not come within ``HANDSHAKE_S``.
2. A message before ``Hello``, a second ``Hello``, bytes that are no frame: the connection ends
   with one line, and nothing else does.
3. For each connection exactly one ``Ended`` is told, after everything that came on it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from shoal._core import link_events as core
from shoal._proto import links
from shoal._proto.frames import FrameError
from shoal._proto.links import Bye, Hello, LinkDecoder
from shoal._runtime.daemon_loop import Loop, Timer
from shoal._runtime.links.connection import HANDSHAKE_S, AnyChannel, ChannelEvents
from shoal._runtime.links.door import Refusals

Failed = Callable[[str, bool], None]


class _Connection:
    """One channel, and whose it is."""

    __slots__ = ("channel", "deadline", "decoder", "has_hello", "is_dialled", "node", "number")

    def __init__(self, channel: AnyChannel, number: int, node: str) -> None:
        self.channel = channel
        self.number = number
        self.node = node
        """Empty until an accepted one has said it."""
        self.is_dialled = bool(node)
        self.decoder = LinkDecoder()
        self.has_hello = False
        self.deadline: Timer | None = None


class Connections:
    """All channels of links that are open."""

    def __init__(
        self, loop: Loop, name: str, step: Callable[[str, core.Event], None], refusals: Refusals
    ) -> None:
        """Begin with none.

        Args:
            loop: Calls back.
            name: This member's own.
            step: Takes in what happened with a node's link.
            refusals: Writes lines about strangers.
        """
        self._loop = loop
        self._name = name
        self._step = step
        self._refusals = refusals
        self._by_channel: dict[AnyChannel, _Connection] = {}
        self._by_number: dict[int, _Connection] = {}
        self._number = 0

    def events(self, node: str = "", failed: Failed | None = None) -> ChannelEvents:
        """What becomes of a channel.

        Args:
            node: Whom it dials; "" for one that was accepted.
            failed: Told why, and whether nobody listens there, if a dialled one comes to nothing
                before the peer is known.
        """

        def opened(channel: AnyChannel) -> None:
            if node and channel.peer_name != node:
                channel.close(f"at {channel.label} is {channel.peer_name}, not {node}")
                return
            number = self._open(channel, node)
            if node:
                self._step(node, core.Reached(number))

        def closed(channel: AnyChannel, why: str) -> None:
            if channel in self._by_channel:
                self._ended(channel, why)
            elif failed is not None:
                failed(why, channel.was_refused)
            else:
                self._refusals.say(channel.label, why)

        return ChannelEvents(opened, self._received, closed, self._moved)

    def channel(self, number: int | None) -> AnyChannel | None:
        """The channel of connection ``number``, if it is there."""
        connection = self._by_number.get(number or 0)
        return None if connection is None else connection.channel

    def write(self, number: int, count: int, ack: int, data: bytes = b"") -> None:
        """Send a frame."""
        connection = self._by_number.get(number)
        if connection is not None:
            connection.channel.write(links.frame_header(count, ack, len(data)) + data)

    def say(self, number: int, row: links.LinkControl) -> None:
        """Send a row of control."""
        self.write(number, 0, 0, links.encode_body(row))

    def end(self, number: int, why: str, is_over: bool = False) -> None:
        """End a connection, and tell the peer why."""
        connection = self._by_number.get(number)
        if connection is not None:
            self.say(number, Bye(why, is_over))
            connection.channel.flush()
            connection.channel.close(why)

    def close(self, why: str) -> None:
        """End all of them."""
        for number in list(self._by_number):
            self.end(number, why)

    # ---- what channels tell
    def _open(self, channel: AnyChannel, node: str) -> int:
        self._number += 1
        connection = _Connection(channel, self._number, node)
        self._by_channel[channel] = self._by_number[connection.number] = connection
        connection.deadline = self._loop.call_later(
            HANDSHAKE_S, lambda: channel.close(f"{channel.label} did not say who it is")
        )
        return connection.number

    def _moved(self, channel: AnyChannel) -> None:
        connection = self._by_channel.get(channel)
        if connection is not None and connection.node:
            self._step(connection.node, core.Moved(connection.number))

    def _received(self, channel: AnyChannel, data: bytes) -> None:
        connection = self._by_channel[channel]
        try:
            for frame in connection.decoder.feed(data):
                if channel.is_closed:
                    return
                self._take(connection, frame)
        except FrameError as error:
            print(
                f"the connection with node {channel.peer_name} at {channel.label} is cut off:"
                f" {error}", file=sys.stderr, flush=True,
            )  # fmt: skip
            channel.close(str(error))

    def _take(self, connection: _Connection, frame: links.LinkFrame) -> None:
        if frame.number == 0 and frame.data:
            row = links.decode_control(frame.data)
            if isinstance(row, Hello):
                self._hello(connection, row)
            else:
                self._bye(connection, row)
        elif connection.has_hello:
            came = core.FrameCame(connection.number, frame.number, frame.ack, frame.data)
            self._step(connection.node, came)
        else:
            raise FrameError("it sent a message before it said who it is")

    def _hello(self, connection: _Connection, hello: Hello) -> None:
        name = connection.channel.peer_name
        if connection.has_hello or hello.epoch < 1 or hello.turn < 1 or hello.received < 0:
            raise FrameError("a Hello that cannot be meant")
        if hello.node != name:
            raise FrameError(f"it says it is {hello.node}, and its certificate says {name}")
        if hello.node == self._name:
            raise FrameError("this node has reached itself")
        connection.has_hello = True
        connection.node = hello.node
        if connection.deadline is not None:
            connection.deadline.cancel()
        self._step(
            hello.node,
            core.Greeted(
                connection.number,
                connection.is_dialled,
                hello.epoch,
                hello.knows,
                hello.received,
                hello.turn,
            ),
        )

    def _bye(self, connection: _Connection, bye: Bye) -> None:
        if bye.is_over and connection.node:
            self._step(connection.node, core.ToldOver(connection.number, bye.why))
        connection.channel.is_peers_end = True
        connection.channel.close(f"the peer ended the connection: {bye.why}")

    def _ended(self, channel: AnyChannel, why: str) -> None:
        connection = self._by_channel.pop(channel)
        del self._by_number[connection.number]
        if connection.deadline is not None:
            connection.deadline.cancel()
        if connection.node:
            ended = core.Ended(connection.number, why, is_peers=channel.is_peers_end)
            self._step(connection.node, ended)
