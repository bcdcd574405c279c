"""How a node without a certificate gets one: one question, one answer, over a proved connection.

The dialler has only the join line. The handshake with purpose ``JOIN`` proves both sides by the
secret; then the node sends a request for a certificate, and who has the cluster's key signs it for
exactly the name asked for. The node keeps it and dials again as a member.

1. One question per connection, one answer; both at most ``MAX_JOIN_BYTES``.
2. A node that asks again (its answer was lost) gets another certificate: nothing is counted here.
   Whether a node may be a member is decided by the membership, not by its certificate.
"""

from __future__ import annotations

from collections.abc import Callable

from shoal._proto import links
from shoal._proto.frames import Codec, FrameDecoder, FrameError
from shoal._proto.links import JoinAsked, JoinFrame, JoinGranted, JoinRefused
from shoal._runtime.daemon_loop import Loop
from shoal._runtime.links.connection import Channel, ChannelEvents
from shoal._runtime.links.door import Arrival
from shoal._runtime.links.handshake import Contexts
from shoal._runtime.links.keys import CredentialsError
from shoal._runtime.links.mailbox import Mailbox

_CODEC = Codec(JoinFrame, links.MAX_JOIN_BYTES)
ANSWER_S = 5.0


class JoinDesk:
    """Gives certificates to who knows the secret; a desk of the ``Door``."""

    def __init__(
        self,
        loop: Loop,
        contexts: Contexts,
        say: Callable[[str, str], None],
        may_join: Callable[[str], str] = lambda _node: "",
    ) -> None:
        """Serve.

        Args:
            loop: Calls back.
            contexts: Of who has the cluster's key (``Credentials.is_authority``).
            say: Writes a line about who was refused (``Door.say``).
            may_join: For the name of a node why it may not join; "" if it may.
        """
        self._loop = loop
        self._contexts = contexts
        self._say = say
        self._may_join = may_join

    def __call__(self, arrival: Arrival) -> None:
        """Serve one connection."""
        decoder = FrameDecoder(_CODEC)

        def received(channel: Channel, data: bytes) -> None:
            try:
                frames = decoder.feed(data)
            except FrameError as error:
                channel.close(str(error))
                return
            for frame in frames[:1]:
                channel.write(_CODEC.encode(0, self._answer(frame.body)))
                self._loop.call_later(ANSWER_S, lambda: channel.close(""))

        def closed(channel: Channel, why: str) -> None:
            if not channel.is_open:
                self._say(channel.label, why)

        events = ChannelEvents(self._opened, received, closed)
        channel = Channel(self._loop, self._contexts, events, links.JOIN, arrival.label)
        channel.accept(arrival.connection, arrival.preface)

    def _opened(self, channel: Channel) -> None:
        self._loop.call_later(ANSWER_S, lambda: channel.close("it asked for nothing"))

    def _answer(self, body: object) -> JoinGranted | JoinRefused:
        if not isinstance(body, JoinAsked):
            return JoinRefused("this is not a question of a node that joins")
        if not _is_node_id(body.node):
            return JoinRefused(f"{body.node[:80]!r} is not the id of a node")
        why = self._may_join(body.node)
        if why:
            return JoinRefused(why)
        try:
            return JoinGranted(self._contexts.credentials.sign(body.request, body.node))
        except (CredentialsError, OSError) as error:
            return JoinRefused(str(error))


def _is_node_id(name: str) -> bool:
    """Whether a node may be called that; above all not like the control store."""
    return 16 <= len(name) <= 64 and set(name) <= set("0123456789abcdef")


class Joining:
    """One try to get a certificate: ``done("")``, or ``done(why not)``."""

    def __init__(
        self, loop: Loop, contexts: Contexts, mailbox: Mailbox, done: Callable[[str], None]
    ) -> None:
        self._loop = loop
        self._contexts = contexts
        self._credentials = contexts.credentials
        self._mailbox = mailbox
        self._done = done
        self._decoder = FrameDecoder(_CODEC)
        self._channel: Channel | None = None

    def dial(self, address: str) -> None:
        """Begin."""
        events = ChannelEvents(self._opened, self._received, self._closed)
        self._channel = Channel(self._loop, self._contexts, events, links.JOIN, address)
        self._channel.dial(address, self._mailbox)

    def cancel(self) -> None:
        """Give up; ``done`` is still called."""
        if self._channel is not None:
            self._channel.close("it was given up")

    def _opened(self, channel: Channel) -> None:
        try:
            request = self._credentials.new_request()
        except (CredentialsError, OSError) as error:
            channel.close(str(error))
            return
        channel.write(_CODEC.encode(0, JoinAsked(self._credentials.name, request)))
        self._loop.call_later(ANSWER_S, lambda: channel.close("the head did not answer"))

    def _received(self, channel: Channel, data: bytes) -> None:
        try:
            frames = self._decoder.feed(data)
        except FrameError as error:
            channel.close(str(error))
            return
        for frame in frames[:1]:
            channel.close(self._take(frame.body, channel.authority))

    def _take(self, body: object, authority: bytes) -> str:
        """Keep what was granted; "" or what was wrong."""
        if isinstance(body, JoinRefused):
            return f"the cluster refused this node: {body.why}"
        if not isinstance(body, JoinGranted):
            return "the head answered with something else than a certificate"
        try:
            self._credentials.keep(body.certificate, authority)
        except OSError as error:
            return f"the certificate cannot be kept: {error}"
        return ""

    def _closed(self, channel: Channel, why: str) -> None:
        self._done(why)
