"""What two machines say to each other: from the first byte of a connection to a node's messages.

A connection begins with bytes of fixed sizes, so that nothing is parsed before the peer has proved
that it knows the cluster's secret (``_runtime.links.handshake`` says why the order is safe)::

    dialler                                   listener
       | ---- preface, 80 bytes ----------------> |   in the clear
       | <--- reply, 80 bytes ------------------- |   (who joins: and 2,082 bytes, the authority)
       | <=========== TLS 1.3 ==================> |
       | ---- proof, 32 bytes ------------------> |
       | <--- proof, 32 bytes ------------------- |
       | <=========== frames ===================> |

    0       8       10      12        13      16        32        40        48      80
    +-------+-------+-------+---------+-------+---------+---------+---------+-------+
    | magic | major | minor | purpose | zeros | release | cluster | zeros   | nonce |    preface
    +-------+-------+-------+---------+-------+---------+---------+---------+-------+
    | magic | major | minor | verdict | zeros | release | cluster | zeros   | nonce |    reply
    +-------+-------+-------+---------+-------+---------+---------+---------+-------+

Numbers are little-endian and unsigned. ``cluster`` is the public half of the secret's name: it says
at once that a connection reached another cluster. On a connection between two daemons, frames are::

    0        4          12      20              20 + length
    +--------+----------+-------+---------------+
    | length |  number  |  ack  | msgpack, body |       number 0: a row of LinkControl, or no body
    +--------+----------+-------+---------------+       number n: the n-th NodeBody of the session

Checklist for a new kind of message between daemons: a row in the file of your part (a subclass of
``messages.Message``, its name unlike that of any other row), and its union in ``NodeBody``.

1. The length is checked before anything of that size is waited for or allocated.
2. Whatever arrives, ``LinkDecoder.feed`` returns frames or raises ``FrameError``.
3. A body is decoded into a row of ``NodeBody`` or refused; nothing here can hold code.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple, Union

import msgspec

from shoal._proto.bridge import BridgeBody
from shoal._proto.frames import FrameError
from shoal._proto.holds import HoldsBody
from shoal._proto.listings import ListingsBody
from shoal._proto.membership import ToNode, ToStore
from shoal._proto.messages import VERSION, Message

LINK_VERSION = (1, 0)
"""Major and minor number of everything in this file and of the rows that it names."""
MINORS_APART_MOST = 1
MAGIC = b"shoal\r\n\x1a"
"""Unlike the beginning of any text, of HTTP and of TLS; a line-ending conversion breaks it."""

# ---- purposes of a connection
JOIN = 1
"""A node that has no certificate yet asks for one."""
STORE = 2
"""A daemon (or a program) speaks to the control store."""
NODE = 3
"""Two daemons: one link."""
BULK = 4
"""Two daemons: one stream of large transfers; the dialler pulls."""
BULK_BACK = 5
"""The same, but the dialler is pulled from: it was asked to dial because nobody can dial it."""
PURPOSES = {JOIN: "join", STORE: "store", NODE: "node", BULK: "bulk", BULK_BACK: "bulk back"}

# ---- verdicts on a preface
WELCOME = 0
WRONG_VERSION = 1
WRONG_CLUSTER = 2
WRONG_PURPOSE = 3
BUSY = 4

PREFACE_BYTES = 80
PROOF_BYTES = 32
NONCE_BYTES = 32
REFUSED_PROOF = bytes(PROOF_BYTES)
"""Sent instead of a proof by a listener that did not believe the dialler's."""
AUTHORITY_BYTES_MOST = 2048
AUTHORITY_FRAME_BYTES = 2 + AUTHORITY_BYTES_MOST + PROOF_BYTES
"""What follows the reply to who joins: size and bytes of the cluster's certificate, padded, and the
proof of it."""
MAX_BODY_BYTES = 16 << 20
MAX_JOIN_BYTES = 64 << 10
_PREFACE = struct.Struct("<8sHHB3x16s8s8x32s")
_AUTHORITY = struct.Struct(f"<H{AUTHORITY_BYTES_MOST}s{PROOF_BYTES}s")
_HEADER = struct.Struct("<IQQ")
HEADER_BYTES = _HEADER.size


class Preface(NamedTuple):
    """The first 80 bytes in each direction."""

    major: int
    minor: int
    purpose: int
    """In the reply: the verdict."""
    release: str
    """Version of the package, for people."""
    cluster: str
    nonce: bytes

    @property
    def version(self) -> tuple[int, int]:
        """Of the protocol."""
        return self.major, self.minor


def new_preface(
    purpose: int, cluster: str, nonce: bytes, version: tuple[int, int] = LINK_VERSION
) -> bytes:
    """Return the preface (or the reply, with a verdict as ``purpose``) of this program."""
    release = VERSION.encode("ascii")[:16]
    return _PREFACE.pack(MAGIC, *version, purpose, release, cluster.encode("ascii"), nonce)


def read_preface(data: bytes) -> Preface | None:
    """Return what ``data`` (``PREFACE_BYTES`` of them) says, None if this is not our protocol."""
    magic, major, minor, purpose, release, cluster, nonce = _PREFACE.unpack(data)
    if magic != MAGIC:
        return None
    return Preface(major, minor, purpose, _printable(release), _printable(cluster), nonce)


def _printable(text: bytes) -> str:
    """What may stand in a log line, whatever was sent."""
    return "".join(chr(c) for c in text.rstrip(b"\0") if 0x21 <= c < 0x7F)


def can_speak(ours: tuple[int, int], theirs: tuple[int, int]) -> bool:
    """Whether two versions of the protocol understand each other: one minor number apart at
    most."""
    return ours[0] == theirs[0] and abs(ours[1] - theirs[1]) <= MINORS_APART_MOST


def new_authority_frame(certificate: bytes, proof: bytes) -> bytes:
    """What follows the reply to who joins."""
    return _AUTHORITY.pack(len(certificate), certificate, proof)


def read_authority_frame(data: bytes) -> tuple[bytes, bytes] | None:
    """(certificate, proof), None if the size in it is impossible."""
    size, certificate, proof = _AUTHORITY.unpack(data)
    return None if size > AUTHORITY_BYTES_MOST else (certificate[:size], proof)


# ---- joining
class JoinAsked(Message, frozen=True):
    """A node wants to become a member: its request for a certificate (PKCS #10, DER)."""

    node: str
    request: bytes


class JoinGranted(Message, frozen=True):
    """Its certificate (PEM)."""

    certificate: bytes


class JoinRefused(Message, frozen=True):
    """One line for who wanted to join."""

    why: str


class JoinFrame(msgspec.Struct, frozen=True, array_like=True):
    """One message of the exchange."""

    id: int
    body: Union[JoinAsked, JoinGranted, JoinRefused]


# ---- the link itself
class Hello(Message, frozen=True):
    """Who this is, and where the session stands; first frame in each direction."""

    node: str
    epoch: int
    knows: int
    """The epoch of the other node that this one has a session with; 0: none."""
    received: int
    """Number of the last frame of that session that was taken in."""
    turn: int
    """Proposed by the dialler, repeated by the listener: the later connection wins."""


class Bye(Message, frozen=True):
    """The connection ends on purpose; nothing follows."""

    why: str
    is_over: bool = False
    """The receiver's epoch has been declared dead: it must not dial again with it."""


LinkControl = Union[Hello, Bye]


# ---- rows of the links' own
class Relay(Message, frozen=True):
    """Bytes of a connection between two nodes that cannot reach each other, by way of the head."""

    to: str
    source: str
    data: bytes
    """Frames; empty: the connection has ended."""
    is_first: bool = False
    """Begins a new connection."""
    is_answer: bool = False
    """Sent by the side that did not begin it."""


class DialBulk(Message, frozen=True):
    """Please dial so many streams for bulk: I cannot dial you."""

    streams: int


class PieceAsked(Message, frozen=True):
    """A piece of a value, over the link itself: no stream can be dialled either way."""

    pull: int
    name: bytes
    offset: int
    length: int


class Piece(Message, frozen=True):
    """The answer: bytes at that offset, or why not."""

    pull: int
    offset: int
    size: int
    """Of the whole value."""
    data: bytes
    why: str = ""


NodeBody = Union[
    Relay, DialBulk, PieceAsked, Piece, ToStore, ToNode, HoldsBody, BridgeBody, ListingsBody
]
"""Everything that daemons say to each other."""


# ---- bulk streams
MAX_WANT_BYTES = 4096
CHUNK_BYTES = 1 << 20


class Want(Message, frozen=True):
    """Bytes ``offset .. offset + length`` of a value."""

    name: bytes
    offset: int
    length: int
    compress: bool = False


class Have(Message, frozen=True):
    """They follow, in chunks; ``size``: of the whole value."""

    size: int


class HaveNot(Message, frozen=True):
    """They do not."""

    why: str


class BulkFrame(msgspec.Struct, frozen=True, array_like=True):
    """One message on a stream; values travel between them as chunks."""

    id: int
    body: Union[Want, Have, HaveNot]


# ---- bytes of frames
class LinkFrame(NamedTuple):
    """One frame as it came."""

    number: int
    ack: int
    data: bytes


_encoder = msgspec.msgpack.Encoder()
_bodies: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(NodeBody)
_controls: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(LinkControl)


def encode_body(body: NodeBody | LinkControl) -> bytes:
    """Return the bytes of one message.

    Raises:
        FrameError: it is larger than a frame may be; large values are pulled instead.
    """
    data = _encoder.encode(body)
    if len(data) > MAX_BODY_BYTES:
        raise FrameError(
            f"a {type(body).__name__} of {len(data)} bytes is larger than what one frame to"
            f" another node may hold ({MAX_BODY_BYTES} bytes)"
        )
    return data


def decode_body(data: bytes) -> NodeBody:
    """Return the message.

    Raises:
        FrameError: it is none.
    """
    body: NodeBody = _decoded(_bodies, data)
    return body


def decode_control(data: bytes) -> LinkControl:
    """Return the row of ``LinkControl``.

    Raises:
        FrameError: it is none.
    """
    row: LinkControl = _decoded(_controls, data)
    return row


def _decoded(decoder: msgspec.msgpack.Decoder[Any], data: bytes) -> Any:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise FrameError(f"not a message between nodes: {error}") from None


def frame_header(number: int, ack: int, length: int) -> bytes:
    """Return the 20 bytes before a body of ``length`` bytes."""
    return _HEADER.pack(length, number, ack)


class LinkDecoder:
    """Cuts a stream into ``LinkFrame``s, whatever pieces it arrives in."""

    __slots__ = ("_buffer", "max_bytes")

    def __init__(self, max_bytes: int = MAX_BODY_BYTES) -> None:
        self._buffer = bytearray()
        self.max_bytes = max_bytes

    def feed(self, data: bytes | bytearray | memoryview) -> list[LinkFrame]:
        """Take more bytes and return the frames that are complete now.

        Raises:
            FrameError: a frame is announced that is larger than ``max_bytes``.
        """
        buffer = self._buffer
        buffer += data
        frames = []
        start, have = 0, len(buffer)
        with memoryview(buffer) as view:
            while have - start >= HEADER_BYTES:
                length, number, ack = _HEADER.unpack_from(view, start)
                if length > self.max_bytes:
                    raise FrameError(
                        f"a frame of {length} bytes was announced; the limit is"
                        f" {self.max_bytes} bytes"
                    )
                end = start + HEADER_BYTES + length
                if end > have:
                    break
                with view[start + HEADER_BYTES : end] as body:
                    frames.append(LinkFrame(number, ack, bytes(body)))
                start = end
        if start:
            del buffer[:start]
        return frames
