"""The two ends of a bulk stream, each in a thread of its own, and what they share with the loop.

A ``Pull`` is a value that is on its way: memory, ranges that nobody fetches yet, and how many
threads write into it now. Everything in it but the bytes is changed under the lock of its side (one
per node that is pulled from), which the loop and the streams' threads share.

1. Who takes a range counts as busy until it has given back what it did not fetch; ``finished`` is
   called by whoever makes a pull over with nobody busy, so nothing is written afterwards.
2. What a peer says is checked before it is believed: sizes of chunks, the size of the value, and
   that compressed bytes become exactly as many as were announced.
3. A stream that raised anything is closed and not used again; why stands in ``failure``.
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading
import zlib
from collections import deque
from collections.abc import Callable

from shoal._base import clock
from shoal._proto import links
from shoal._proto.frames import HEADER_BYTES, Codec, FrameError
from shoal._proto.links import BulkFrame, Have, HaveNot, Want

Source = tuple[memoryview, Callable[[], None]]
"""The bytes of a value, and what to call when they are not looked at any more. A text instead says
why they are not there now."""
_CODEC = Codec(BulkFrame, links.MAX_WANT_BYTES)
_CHUNK = struct.Struct("<II")
_LENGTH = struct.Struct("<I")
WORTH_COMPRESSING = 0.9


class Pull:
    """One value on its way."""

    def __init__(
        self,
        name: bytes,
        into: memoryview,
        done: Callable[[str], None],
        compress: bool,
        now: float,
    ) -> None:
        self.name = name
        self.view = into.cast("B")
        self.done = done
        self.compress = compress
        self.moved_at = now
        self.ranges: deque[tuple[int, int]] = deque()
        self.busy = 0
        self.why = ""
        """Not empty: it has failed."""
        self.is_told = False

    def cut(self, size: int) -> None:
        """Make ranges of at most ``size`` bytes."""
        total = len(self.view)
        for start in range(0, total, size):
            self.ranges.append((start, min(start + size, total)))
        if not total:
            self.ranges.append((0, 0))  # asked for all the same: it may not be there

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to be fetched."""
        return bool(self.why) or not (self.ranges or self.busy)

    @property
    def is_quiet(self) -> bool:
        """Whether it is over and nobody writes."""
        return self.is_over and not self.busy

    def fail(self, why: str) -> None:
        """Fetch no more of it."""
        self.why = self.why or why


def shut(stream: socket.socket) -> None:
    """End a connection under a thread that waits in it; who waits closes it."""
    try:
        # Not SSLSocket's own: it forgets that there was TLS, and what still comes would be read
        # as if it were plain bytes.
        socket.socket.shutdown(stream, socket.SHUT_RDWR)
    except OSError:
        pass  # it has ended already


def _receive(stream: ssl.SSLSocket, into: memoryview) -> None:
    """Fill ``into``."""
    while into:
        size = stream.recv_into(into)
        if not size:
            raise ConnectionError("the peer ended the stream")
        into = into[size:]


def _receive_frame(stream: ssl.SSLSocket) -> Want | Have | HaveNot:
    header = memoryview(bytearray(HEADER_BYTES))
    _receive(stream, header)
    (length,) = _LENGTH.unpack(header)
    if length > _CODEC.max_bytes:
        raise FrameError(f"a frame of {length} bytes was announced on a bulk stream")
    data = memoryview(bytearray(length))
    _receive(stream, data)
    body: Want | Have | HaveNot = _CODEC.decode(data).body
    return body


class Pulling:
    """The puller's end of one stream."""

    def __init__(
        self,
        stream: ssl.SSLSocket,
        condition: threading.Condition,
        pulls: list[Pull],
        finished: Callable[[Pull], None],
    ) -> None:
        self.failure = ""
        self.pull: Pull | None = None
        """What it fetches now."""
        self._stream = stream
        self._condition = condition
        self._pulls = pulls
        self._finished = finished
        self._at = 0
        self._is_over = False

    def interrupt(self) -> None:
        """End it, whatever it is doing."""
        self._is_over = True
        shut(self._stream)

    def run(self, idle_s: float) -> None:
        """Fetch ranges until there are none for ``idle_s``, or the stream breaks."""
        try:
            while (job := self._next(idle_s)) is not None:
                pull, start, end = job
                self._at = start
                is_fetched = False
                try:
                    self._fetch(pull, end)
                    is_fetched = True
                except (OSError, ValueError, zlib.error) as error:
                    self.failure = f"the stream broke: {error}"
                    return
                finally:
                    self._give_back(pull, end, is_fetched)
        finally:
            self._stream.close()

    def _next(self, idle_s: float) -> tuple[Pull, int, int] | None:
        until = clock.now() + idle_s
        with self._condition:
            while not self._is_over:
                for pull in self._pulls:
                    if pull.ranges and not pull.why:
                        start, end = pull.ranges.popleft()
                        pull.busy += 1
                        self.pull = pull
                        return pull, start, end
                if not self._condition.wait(until - clock.now()):
                    break
        return None

    def _give_back(self, pull: Pull, end: int, is_fetched: bool) -> None:
        with self._condition:
            self.pull = None
            pull.busy -= 1
            if not is_fetched and not pull.why:
                pull.ranges.appendleft((self._at, end))
                self._condition.notify()
            is_quiet = pull.is_quiet
        if is_quiet:
            self._finished(pull)

    def _fetch(self, pull: Pull, end: int) -> None:
        stream, start = self._stream, self._at
        want = Want(pull.name, start, end - start, pull.compress)
        stream.sendall(_CODEC.encode(0, want))
        answer = _receive_frame(stream)
        if isinstance(answer, HaveNot):
            with self._condition:
                pull.fail(answer.why)
            return
        if not isinstance(answer, Have):
            raise FrameError("the source asked instead of answering")
        if answer.size != len(pull.view):
            with self._condition:
                pull.fail(f"it has {answer.size} bytes there, and {len(pull.view)} were expected")
            # What follows was cut from another value: this stream is of no more use.
            raise FrameError("the source has another size")
        header = memoryview(bytearray(_CHUNK.size))
        while self._at < end:
            _receive(stream, header)
            raw, wire = _CHUNK.unpack(header)
            if not 0 < raw <= min(links.CHUNK_BYTES, end - self._at) or not 0 < wire <= raw:
                raise FrameError(f"a chunk of {wire} bytes for {raw}")
            with pull.view[self._at : self._at + raw] as place:
                self._receive_chunk(place, wire)
            self._at += raw
            pull.moved_at = clock.now()

    def _receive_chunk(self, place: memoryview, wire: int) -> None:
        if wire == len(place):
            _receive(self._stream, place)
            return
        packed = bytearray(wire)
        _receive(self._stream, memoryview(packed))
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(packed, len(place))
        if len(data) != len(place) or not _is_at_end(unpacker):
            raise FrameError("a compressed chunk is not of the size that was announced")
        place[:] = data


def _is_at_end(unpacker: zlib._Decompress) -> bool:
    """Whether nothing more would come out; its last bytes may be a checksum only."""
    return not unpacker.decompress(unpacker.unconsumed_tail, 1) and unpacker.eof


class Serving:
    """The source's end of one stream."""

    def __init__(
        self,
        stream: ssl.SSLSocket,
        open_source: Callable[[bytes], Source | str | None],
        release: Callable[[Callable[[], None]], None],
    ) -> None:
        """Serve.

        Args:
            stream: To the puller.
            open_source: Looks a value up (on the loop, while this thread waits).
            release: Has the loop release it.
        """
        self._stream = stream
        self._open_source = open_source
        self._release = release
        self._is_over = False

    def interrupt(self) -> None:
        """End it, whatever it is doing."""
        self._is_over = True
        shut(self._stream)

    def run(self, idle_s: float) -> None:
        """Answer until nothing is asked for ``idle_s``, or the stream ends."""
        io_s = self._stream.gettimeout()
        try:
            while not self._is_over:
                self._stream.settimeout(idle_s)
                want = _receive_frame(self._stream)
                self._stream.settimeout(io_s)
                if not isinstance(want, Want):
                    raise FrameError("the puller answered instead of asking")
                self._answer(want)
        except (OSError, ValueError):
            pass  # the puller has gone, reads nothing or talks nonsense: it asks anew if it wants
        finally:
            self._stream.close()

    def _answer(self, want: Want) -> None:
        source = self._open_source(want.name)
        if source is None or isinstance(source, str):
            why = source or "the node does not have it (any more)"
            self._stream.sendall(_CODEC.encode(0, HaveNot(why)))
            return
        view, release = source
        try:
            with view.cast("B") as data:
                self._send(data, want)
        finally:
            self._release(release)

    def _send(self, data: memoryview, want: Want) -> None:
        end = want.offset + want.length
        self._stream.sendall(_CODEC.encode(0, Have(len(data))))
        if not 0 <= want.offset <= end <= len(data):
            raise FrameError("a range outside of the value was asked for")
        at = want.offset
        while at < end:
            size = min(links.CHUNK_BYTES, end - at)
            with data[at : at + size] as piece:
                packed = zlib.compress(piece, 1) if want.compress else b""
                if packed and len(packed) < WORTH_COMPRESSING * size:
                    self._stream.sendall(_CHUNK.pack(size, len(packed)) + packed)
                else:
                    self._stream.sendall(_CHUNK.pack(size, size))
                    self._stream.sendall(piece)
            at += size
