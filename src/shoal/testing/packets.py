"""What was seen on a network: packets as a file, the streams in them, and a search for plaintext.

Owns: the format of the file (pcap, which every other tool reads too) and how streams of TCP are put
together from packets. Pure but for the reading of the file; who writes it is ``capture_program``.

A search looks at every packet as it is, whatever its protocol, and at every stream as its receiver
saw it: so a secret is also found that was split over two packets, or sent again in other pieces.
Where packets are missing a stream has a gap, which is counted, and nothing is invented for it.

::

    file    magic 2.4 0 0 snaplen 1 | seconds microseconds length length frame | ...
    frame   14 bytes Ethernet | 20.. IPv4 | 20.. TCP | payload
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

HEADER = struct.Struct("<IHHiIII")
RECORD = struct.Struct("<IIII")
MAGIC = 0xA1B2C3D4
FRAME_BYTES_MOST = 256 << 10
"""Larger than any packet: between hosts of one machine segments of 64 KiB are not cut up."""
ETHERNET = 1

Endpoint = tuple[str, int]
Flow = tuple[Endpoint, Endpoint]

_ETHERNET_BYTES = 14
_IPV4 = 0x0800
_TCP = 6
_SYN = 0x02
_HALF = 1 << 31


@dataclass(frozen=True)
class Segment:
    """One packet of TCP over IPv4."""

    flow: Flow
    sequence: int
    is_first: bool
    """It begins a connection."""
    payload: bytes


@dataclass
class Stream:
    """What one side of one connection has sent."""

    flow: Flow
    pieces: list[tuple[int, bytes]] = field(default_factory=list)
    """With their place, counted from the first one that was seen; in the order of their coming."""
    _last: tuple[int, int] | None = None

    def add(self, segment: Segment) -> None:
        """One more packet of it."""
        if self._last is None:
            # A SYN takes one number itself.
            self._last = ((segment.sequence + segment.is_first) % (1 << 32), 0)
        sequence, place = self._last
        place += (segment.sequence - sequence + _HALF) % (1 << 32) - _HALF
        if segment.payload:
            self._last = (segment.sequence, place)
            self.pieces.append((place, segment.payload))

    def runs(self) -> list[bytes]:
        """What it carried, in order and each byte once; several runs if packets are missing."""
        found: list[bytearray] = []
        end = None
        for place, payload in sorted(self.pieces, key=lambda piece: piece[0]):
            if end is None or place > end:
                found.append(bytearray(payload))
                end = place + len(payload)
            elif place + len(payload) > end:
                found[-1] += payload[end - place :]
                end = place + len(payload)
        return [bytes(run) for run in found]


@dataclass(frozen=True)
class Finding:
    """A needle that was there for everybody to read."""

    needle: bytes
    where: str


def frames(path: Path) -> Iterator[bytes]:
    """The packets of a file, as they were on the wire.

    Raises:
        ValueError: it is no such file.
    """
    with path.open("rb") as file:
        start = file.read(HEADER.size)
        if len(start) < HEADER.size or HEADER.unpack(start)[0] != MAGIC:
            raise ValueError(f"{path} is no capture")
        while len(head := file.read(RECORD.size)) == RECORD.size:
            length = RECORD.unpack(head)[2]
            if length > FRAME_BYTES_MOST:
                raise ValueError(f"{path} is damaged: a packet of {length} bytes")
            frame = file.read(length)
            if len(frame) == length:  # else its writer was ended in it
                yield frame


def parse(frame: bytes) -> Segment | None:
    """The packet of TCP over IPv4 that is in ``frame``, None if it is another one."""
    if len(frame) < _ETHERNET_BYTES + 40:
        return None
    if int.from_bytes(frame[12:14], "big") != _IPV4 or frame[_ETHERNET_BYTES] >> 4 != 4:
        return None
    packet = frame[_ETHERNET_BYTES:]
    at = (packet[0] & 15) * 4
    # A length of 0 is one that does not fit into its field: the packet is what there is.
    end = int.from_bytes(packet[2:4], "big") or len(packet)
    if packet[9] != _TCP or len(packet) < at + 20:
        return None
    source, target, sequence = struct.unpack_from("!HHI", packet, at)
    payload_at = at + (packet[at + 12] >> 4) * 4
    ips = socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20])
    flow = ((ips[0], source), (ips[1], target))
    return Segment(flow, sequence, bool(packet[at + 13] & _SYN), packet[payload_at:end])


def streams(found: Iterable[bytes]) -> list[Stream]:
    """What each side of each connection has sent, in the order of their beginning."""
    now: dict[Flow, Stream] = {}
    every: list[Stream] = []
    for frame in found:
        segment = parse(frame)
        if segment is None:
            continue
        if segment.flow not in now or (segment.is_first and now[segment.flow].pieces):
            every.append(Stream(segment.flow))
            now[segment.flow] = every[-1]
        now[segment.flow].add(segment)
    return every


def search(found: Iterable[bytes], needles: Iterable[bytes]) -> list[Finding]:
    """Every needle that anybody on the way could have read, and where.

    Raises:
        ValueError: a needle is so short that chance would find it.
    """
    wanted = list(needles)
    for needle in wanted:
        if len(needle) < 6:
            raise ValueError(f"{needle!r} is too short: random bytes have it now and then")
    kept = list(found)
    findings = {}
    for stream in streams(kept):
        for run in stream.runs():
            for needle in wanted:
                if needle in run:
                    (source, target) = stream.flow
                    findings[needle] = f"{source[0]}:{source[1]} -> {target[0]}:{target[1]}"
    for number, frame in enumerate(kept):
        for needle in wanted:
            if needle not in findings and needle in frame:
                findings[needle] = f"packet {number}"
    return [Finding(needle, where) for needle, where in findings.items()]
