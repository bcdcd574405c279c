"""Frames: how messages become bytes on a stream, and bytes become messages again.

::

    0        4                                    4 + length
    +--------+------------------------------------+
    | length |  msgpack of Frame: [id, body]      |      length: unsigned 32-bit, little-endian
    +--------+------------------------------------+

This file knows bytes and nothing of sockets (``_runtime.wire`` moves them), so that it is the
same for a blocking client, for the daemon's loop and for a test that cuts a stream at every byte.

Invariants:

1. The length is checked before anything of that size is allocated or waited for: a peer can make us
   hold at most ``MAX_FRAME_BYTES`` (and what one ``recv`` brings beside it).
2. Whatever arrives, ``FrameDecoder.feed`` returns frames or raises ``FrameError``; after an error
   the stream has no meaning any more and the connection is to be closed.
3. Only the types of the codec come out (``messages.Frame``): msgspec checks every field while it
   decodes. Nesting is limited by msgspec (it refuses what would exhaust the stack).
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec

from shoal._proto.messages import Body, Frame

MAX_FRAME_BYTES = 16 << 20
"""No message is larger; values and functions travel through node memory instead."""

_HEADER = struct.Struct("<I")
HEADER_BYTES = _HEADER.size


class FrameError(ValueError):
    """The bytes are no frame: too long, not msgpack, or not a known message."""


class Codec:
    """One vocabulary on the wire: a frame type with ``id`` and ``body``, and a limit of size."""

    __slots__ = ("_decoder", "_encoder", "_frame", "max_bytes")

    def __init__(self, frame: type[Any], max_bytes: int) -> None:
        self._frame = frame
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(frame)
        self.max_bytes = max_bytes

    def encode(self, request_id: int, body: Any) -> bytes:
        """Return the bytes of one frame.

        Raises:
            FrameError: the message is larger than ``max_bytes``.
        """
        data = bytearray(HEADER_BYTES)
        self._encoder.encode_into(self._frame(request_id, body), data, HEADER_BYTES)
        length = len(data) - HEADER_BYTES
        if length > self.max_bytes:
            raise FrameError(
                f"a {type(body).__name__} of {length} bytes is larger than a frame may be"
                f" ({self.max_bytes} bytes)"
            )
        _HEADER.pack_into(data, 0, length)
        return bytes(data)

    def decode(self, data: bytes | bytearray | memoryview) -> Any:
        """Return the frame whose msgpack (without the length) is ``data``.

        Raises:
            FrameError: ``data`` is not one well-formed frame.
        """
        try:
            return self._decoder.decode(data)
        except (msgspec.MsgspecError, RecursionError, ValueError) as error:
            raise FrameError(f"not a frame: {error}") from None


MESSAGES = Codec(Frame, MAX_FRAME_BYTES)
"""What processes and their daemon say to each other."""


def encode(request_id: int, body: Body) -> bytes:
    """Return the bytes of one frame of ``MESSAGES``."""
    return MESSAGES.encode(request_id, body)


class FrameDecoder:
    """Cuts a stream of bytes into frames, whatever pieces it arrives in."""

    __slots__ = ("_buffer", "_codec")

    def __init__(self, codec: Codec = MESSAGES) -> None:
        self._buffer = bytearray()
        self._codec = codec

    @property
    def pending_bytes(self) -> int:
        """Bytes of an unfinished frame; more than 0 at the end of a stream means it was cut."""
        return len(self._buffer)

    def feed(self, data: bytes | bytearray | memoryview) -> list[Any]:
        """Take more bytes and return the frames that are complete now.

        Raises:
            FrameError: the stream is not (or no longer) made of frames.
        """
        buffer = self._buffer
        buffer += data
        frames: list[Any] = []
        start = 0
        try:
            with memoryview(buffer) as view:
                while len(buffer) - start >= HEADER_BYTES:
                    (length,) = _HEADER.unpack_from(buffer, start)
                    if length > self._codec.max_bytes:
                        raise FrameError(
                            f"a frame of {length} bytes was announced; the limit is"
                            f" {self._codec.max_bytes} bytes"
                        )
                    end = start + HEADER_BYTES + length
                    if end > len(buffer):
                        break
                    with view[start + HEADER_BYTES : end] as body:
                        frames.append(self._codec.decode(body))
                    start = end
        finally:
            if start:
                del buffer[:start]
        return frames
