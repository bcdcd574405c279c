"""Large transfers between nodes: straight out of one node's memory into the other's.

Values do not travel in frames: who needs one *pulls* it over streams of their own (purposes
``BULK`` and ``BULK_BACK``), in threads, because TLS of a gigabyte would hold the daemon's loop for
a second. A pull is cut into ranges; each stream takes one after the other::

    puller                                      source
       | -- Want(name, offset, length) ----------> |      4 bytes of length, msgpack
       | <- Have(size) or HaveNot(why) ----------- |
       | <- raw, wire, bytes | raw, wire, bytes .. |      chunks of at most 1 MiB; wire < raw: zlib

1. Plain bytes are received into the given memory and sent out of it; nothing is copied between.
2. A stream that breaks gives back what is left of its range, from the last byte that came; another
   stream, or the next one that is dialled, goes on there.
3. ``done`` is called once, on the loop, when no thread can write into the memory any more.
4. A pull on which nothing moves for ``give_up_s`` fails with the reason of the last failure.
5. Back-pressure is TCP's: a source writes as fast as its puller reads; one that reads nothing for
   ``io_s`` loses its stream, so memory is not held for it.
6. A source is opened and released on the loop; threads see bytes and sockets, never tables.
7. Threads are bounded: ``streams_most`` per node that pulls, ``serving_most`` in all that serve;
   they and their connections end after ``idle_s`` without work.
8. Who cannot be dialled is asked to dial (``DialBulk``); if that cannot be either, pieces travel
   over the (relayed) link, one at a time (``pieces``).
"""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from shoal._base import clock
from shoal._proto import links
from shoal._proto.links import DialBulk, NodeBody, Piece, PieceAsked
from shoal._runtime.daemon_loop import Loop
from shoal._runtime.links.bulk_streams import Pull, Pulling, Serving, Source
from shoal._runtime.links.connection import Channel, ChannelEvents
from shoal._runtime.links.door import Arrival, Refusals
from shoal._runtime.links.handshake import Contexts
from shoal._runtime.links.mailbox import Mailbox
from shoal._runtime.links.pieces import Pieces

NAME_BYTES_MOST = 1024
DIAL, BE_DIALLED, OVER_THE_LINK = "dial", "be dialled", "over the link"
"""How values come from a node."""
OpenSource = Callable[[str, bytes], "Source | str | None"]


class BulkLimits(msgspec.Struct, frozen=True):
    """Times in seconds, sizes in bytes."""

    streams_most: int = 0
    """0: one per core, but two at least and four at most."""
    serving_most: int = 64
    range_least_bytes: int = 8 << 20
    range_most_bytes: int = 64 << 20
    io_s: float = 10.0
    """How long one read or write may stand still."""
    idle_s: float = 30.0
    redial_s: float = 0.1
    give_up_s: float = 10.0
    back_s: float = 3.0
    """How long who was asked to dial may take."""


@dataclass(frozen=True)
class BulkWays:
    """What transfers need of the rest."""

    way_to: Callable[[str], tuple[str, bool]]
    """(address of a node or "", whether it could dial us instead)."""
    send: Callable[[str, NodeBody], None]
    open_source: OpenSource
    refusals: Refusals


class _Side:
    """Everything that is pulled from one node; its lock is shared with the streams' threads."""

    def __init__(self) -> None:
        self.condition = threading.Condition()
        self.pulls: list[Pull] = []
        self.streams: set[Pulling] = set()
        self.dialling = 0
        self.is_paused = False
        self.failure = "no stream could be dialled"


class Bulk:
    """All transfers of one member."""

    def __init__(
        self,
        loop: Loop,
        mailbox: Mailbox,
        contexts: Contexts,
        ways: BulkWays,
        limits: BulkLimits,
    ) -> None:
        self._loop = loop
        self._mailbox = mailbox
        self._contexts = contexts
        self._ways = ways
        self._limits = limits
        self._sides: dict[str, _Side] = {}
        self._serving: set[Serving] = set()
        self._pieces = Pieces(ways.send, ways.open_source)
        self._is_closed = False
        cores = len(os.sched_getaffinity(0))
        self._streams_most = limits.streams_most or min(max(cores, 2), 4)

    # ---- what is asked for
    def pull(
        self, node: str, name: bytes, into: memoryview, done: Callable[[str], None], compress: bool
    ) -> None:
        """See ``Peers.pull``."""
        if len(name) > NAME_BYTES_MOST:
            raise ValueError(f"a name of {len(name)} bytes: at most {NAME_BYTES_MOST}")
        if into.readonly:
            raise ValueError("a value cannot be pulled into memory that is read-only")
        pull = Pull(name, into, done, compress, clock.now())
        self._watch(node, pull)
        if self._way(node) == OVER_THE_LINK:
            self._pieces.pull(node, pull)
            return
        limits = self._limits
        each = -(-len(pull.view) // (2 * self._streams_most))
        pull.cut(min(max(each, limits.range_least_bytes), limits.range_most_bytes))
        side = self._side(node)
        with side.condition:
            side.pulls.append(pull)
            side.condition.notify_all()
        self._pump(node)

    def heard(self, node: str, body: DialBulk | PieceAsked | Piece) -> None:
        """A message about transfers came over the link."""
        if isinstance(body, DialBulk):
            for _ in range(min(body.streams, self._streams_most)):
                self._dial(node, links.BULK_BACK)
            return
        pull = self._pieces.heard(node, body)
        if pull is not None:
            self._tell(node, pull)

    def forget(self, node: str) -> None:
        """The node is dead: its pulls fail."""
        for pull in self._pulls_of(node):
            self._fail(node, pull, f"node {node} is lost")

    def close(self) -> None:
        """End all streams; nobody is told anything any more."""
        self._is_closed = True
        for side in self._sides.values():
            with side.condition:
                for pull in side.pulls:
                    pull.fail("this node leaves")
                for stream in side.streams:
                    stream.interrupt()
                side.condition.notify_all()
        for serving in self._serving:
            serving.interrupt()

    # ---- pulls
    def _side(self, node: str) -> _Side:
        return self._sides.setdefault(node, _Side())

    def _pulls_of(self, node: str) -> list[Pull]:
        return [*self._side(node).pulls, *self._pieces.of(node)]

    def _watch(self, node: str, pull: Pull) -> None:
        """Look now and then whether it moves (invariant 4)."""
        self._loop.call_later(self._limits.give_up_s, lambda: self._look(node, pull))

    def _look(self, node: str, pull: Pull) -> None:
        if pull.is_told or self._is_closed:
            return
        left_s = pull.moved_at + self._limits.give_up_s - clock.now()
        if left_s > 0:
            self._loop.call_later(left_s + 0.01, lambda: self._look(node, pull))
            return
        given_up = f"nothing came for {self._limits.give_up_s:g} s"
        self._fail(node, pull, f"{given_up}: {self._side(node).failure}")

    def _fail(self, node: str, pull: Pull, why: str) -> None:
        side = self._side(node)
        with side.condition:
            pull.fail(why)
            is_quiet = pull.is_quiet
            for stream in side.streams:
                if stream.pull is pull:
                    stream.interrupt()
        if is_quiet:
            self._tell(node, pull)

    def _tell(self, node: str, pull: Pull) -> None:
        """It is over, and nobody writes into its memory."""
        if pull.is_told or self._is_closed:
            return
        pull.is_told = True
        side = self._side(node)
        with side.condition:
            if pull in side.pulls:
                side.pulls.remove(pull)
        self._pieces.forget(pull)
        pull.view.release()
        # An alarm may have the pull for a while; it must not have the memory with it.
        done, pull.done = pull.done, _told
        self._loop.guard(done, pull.why)

    # ---- having streams
    def _way(self, node: str) -> str:
        address, can_dial_us = self._ways.way_to(node)
        return DIAL if address else BE_DIALLED if can_dial_us else OVER_THE_LINK

    def _pump(self, node: str) -> None:
        """Have as many streams as there is work for."""
        side = self._side(node)
        if self._is_closed or side.is_paused:
            return
        with side.condition:
            busy = sum(stream.pull is not None for stream in side.streams)
            open_ranges = sum(len(pull.ranges) for pull in side.pulls if not pull.why)
        wanted = min(busy + open_ranges, self._streams_most)
        missing = wanted - len(side.streams) - side.dialling
        if missing <= 0:
            return
        way = self._way(node)
        if way == DIAL:
            side.dialling += missing
            for _ in range(missing):
                self._dial(node, links.BULK)
        elif way == BE_DIALLED:
            self._ways.send(node, DialBulk(missing))
            self._pause(node, self._limits.back_s)
        elif not busy:
            self._over_the_link(node, side)

    def _over_the_link(self, node: str, side: _Side) -> None:
        """The node can only be reached by way of the head now: what waits begins anew there."""
        with side.condition:
            waiting = [pull for pull in side.pulls if not pull.why]
            for pull in waiting:
                side.pulls.remove(pull)
                pull.ranges.clear()
        for pull in waiting:
            self._pieces.pull(node, pull)

    def _dial(self, node: str, purpose: int) -> None:
        address, _ = self._ways.way_to(node)
        side = self._side(node)
        is_ours = purpose == links.BULK

        def opened(channel: Channel) -> None:
            if channel.peer_name != node:
                channel.close(f"at {address} is {channel.peer_name}, not {node}")
                return
            side.dialling -= is_ours
            self._adopt(node, channel.detach(), pulls=is_ours)

        def closed(channel: Channel, why: str) -> None:
            side.dialling -= is_ours
            side.failure = why
            self._pause(node, self._limits.redial_s)

        if address:
            events = ChannelEvents(opened, lambda channel, data: None, closed)
            channel = Channel(self._loop, self._contexts, events, purpose, address)
            channel.dial(address, self._mailbox)

    def _pause(self, node: str, pause_s: float) -> None:
        side = self._side(node)
        if side.is_paused:
            return
        side.is_paused = True

        def over() -> None:
            side.is_paused = False
            self._pump(node)

        self._loop.call_later(pause_s, over)

    # ---- streams
    def accept(self, arrival: Arrival, purpose: int) -> None:
        """A stream that another node dialled."""

        def opened(channel: Channel) -> None:
            self._adopt(channel.peer_name, channel.detach(), pulls=purpose == links.BULK_BACK)

        def closed(channel: Channel, why: str) -> None:
            self._ways.refusals.say(channel.label, why)

        events = ChannelEvents(opened, lambda channel, data: None, closed)
        channel = Channel(self._loop, self._contexts, events, purpose, arrival.label)
        channel.accept(arrival.connection, arrival.preface)

    def _adopt(self, node: str, stream: ssl.SSLSocket, pulls: bool) -> None:
        """Give a stream its thread."""
        stream.settimeout(self._limits.io_s)
        side = self._side(node)
        is_full = len(side.streams if pulls else self._serving) >= (
            2 * self._streams_most if pulls else self._limits.serving_most
        )
        if self._is_closed or is_full:
            stream.close()
        elif pulls:
            pulling = Pulling(
                stream,
                side.condition,
                side.pulls,
                lambda pull: self._mailbox.post(lambda: self._tell(node, pull)),
            )
            with side.condition:
                side.streams.add(pulling)
            self._start(pulling.run, self._limits.idle_s, lambda: self._pulled(node, pulling))
        else:
            opener = Opener(self._mailbox, self._ways.open_source, node, self._limits.io_s)
            serving = Serving(stream, opener, self._mailbox.post)
            self._serving.add(serving)
            idle_s = 2 * self._limits.idle_s
            self._start(serving.run, idle_s, lambda: self._serving.discard(serving))

    def _start(
        self, run: Callable[[float], None], idle_s: float, ended: Callable[[], None]
    ) -> None:
        def thread() -> None:
            try:
                run(idle_s)
            finally:
                self._mailbox.post(ended)

        threading.Thread(target=thread, name="shoal-bulk", daemon=True).start()

    def _pulled(self, node: str, pulling: Pulling) -> None:
        """A stream's thread has ended."""
        side = self._side(node)
        with side.condition:
            side.streams.discard(pulling)
        if pulling.failure:
            side.failure = pulling.failure
            self._pause(node, self._limits.redial_s)
        else:
            self._pump(node)


def _told(why: str) -> None:
    """Instead of who has been told."""


class Opener:
    """Opens sources for a serving thread: the loop does it, the thread waits."""

    def __init__(self, mailbox: Mailbox, open_source: OpenSource, node: str, wait_s: float) -> None:
        self._mailbox = mailbox
        self._open_source = open_source
        self._node = node
        self._wait_s = wait_s

    def __call__(self, name: bytes) -> Source | str | None:
        """Return the source, None if it is not there or the loop is gone, or why it is not."""
        lock = threading.Lock()
        answered = threading.Event()
        found: list[Source | str | None] = []
        has_left: list[bool] = []

        def look() -> None:
            source = None
            try:
                source = self._open_source(self._node, name)
            finally:
                with lock:
                    is_wanted = not has_left
                    if is_wanted:
                        found.append(source)
                answered.set()
            if isinstance(source, tuple) and not is_wanted:
                source[1]()  # nobody waits for it any more

        self._mailbox.post(look)
        answered.wait(self._wait_s)
        with lock:
            has_left.append(True)
            return found[0] if found else None
