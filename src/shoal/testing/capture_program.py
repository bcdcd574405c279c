"""Writes down every packet that passes: ``python -m shoal.testing.capture_program FILE``.

Runs in a network namespace (or where it is started) and reads a packet socket of all its
interfaces. A packet that goes through a switch is seen where it comes in and where it goes out; the
second time is left out. It says ``{"ready": true}``, ends with its standard input after a last look
at what is there already, and says how many packets it has written and how many the kernel had to
drop: a search in an incomplete capture proves nothing.

The kernel writes packets into a ring of blocks that we map (``TPACKET_V3`` of packet(7)): no system
call for each, and 64 MiB of patience also in a user namespace, where a socket's own buffer is 200
kB and lost 37 packets of 4 MiB of traffic::

    block    ... status @8 | packets @12 | first packet @16 ...
    packet   next @0 | seconds | nanoseconds | bytes here @12 | ... | offset of the frame @24
             sockaddr_ll @48: ... kind of packet @58
"""

from __future__ import annotations

import json
import mmap
import os
import select
import socket
import struct
import sys
from typing import BinaryIO

from shoal._base import clock
from shoal.testing.packets import ETHERNET, FRAME_BYTES_MOST, HEADER, MAGIC, RECORD

BLOCK_BYTES = 1 << 20
BLOCKS = 64
FRAME_BYTES = 2048
RETIRE_MS = 20
"""After which a block that is not full is handed over."""
LAST_LOOK_S = 0.3
_ALL_PROTOCOLS = 3  # ETH_P_ALL
_SOL_PACKET = 263
_RX_RING = 5
_STATISTICS = 6
_VERSION = 10
_TPACKET_V3 = 2
_OURS = 1  # TP_STATUS_USER
_STATUS_AT = 8
_BLOCK = struct.Struct("<III")
_PACKET = struct.Struct("<IIIIII H")
_KIND_AT = 58


class Ring:
    """The packets that the kernel has written and we have not read yet."""

    def __init__(self) -> None:
        every = socket.htons(_ALL_PROTOCOLS)
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, every)
        self.socket.setsockopt(_SOL_PACKET, _VERSION, _TPACKET_V3)
        frames = BLOCKS * BLOCK_BYTES // FRAME_BYTES
        wanted = (BLOCK_BYTES, BLOCKS, FRAME_BYTES, frames, RETIRE_MS, 0, 0)
        self.socket.setsockopt(_SOL_PACKET, _RX_RING, struct.pack("7I", *wanted))
        self._memory = mmap.mmap(self.socket.fileno(), BLOCKS * BLOCK_BYTES)
        self._next = 0

    def write_ready(self, file: BinaryIO) -> int:
        """Write down what is there, and return how many packets that was."""
        written = 0
        while True:
            start = self._next * BLOCK_BYTES
            status, packets, first = _BLOCK.unpack_from(self._memory, start + _STATUS_AT)
            if not status & _OURS:
                return written
            written += self._write_block(file, start + first, packets)
            struct.pack_into("<I", self._memory, start + _STATUS_AT, 0)
            self._next = (self._next + 1) % BLOCKS

    def _write_block(self, file: BinaryIO, at: int, packets: int) -> int:
        written = 0
        for _ in range(packets):
            step, seconds, nanos, size, whole, _status, frame = _PACKET.unpack_from(
                self._memory, at
            )
            if self._memory[at + _KIND_AT] != socket.PACKET_OUTGOING:
                file.write(RECORD.pack(seconds, nanos // 1000, size, whole))
                file.write(self._memory[at + frame : at + frame + size])
                written += 1
            at += step
        return written

    def dropped(self) -> int:
        """How many packets found no room since the last look."""
        counts = self.socket.getsockopt(_SOL_PACKET, _STATISTICS, 12)
        return int(struct.unpack("3I", counts)[1])


def main(words: list[str]) -> int:
    """Write until standard input ends."""
    (path,) = words
    ring = Ring()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb", buffering=1 << 20) as file:
        file.write(HEADER.pack(MAGIC, 2, 4, 0, 0, FRAME_BYTES_MOST, ETHERNET))
        print(json.dumps({"ready": True}), flush=True)
        written = _write_all(ring, file)
    print(json.dumps({"written": written, "dropped": ring.dropped()}), flush=True)
    return 0


def _write_all(ring: Ring, file: BinaryIO) -> int:
    looks = select.poll()
    looks.register(ring.socket, select.POLLIN)
    looks.register(sys.stdin, select.POLLIN | select.POLLHUP)
    written, over_at = 0, None
    while over_at is None or clock.now() < over_at:
        left_ms = None if over_at is None else 1000 * max(0.0, over_at - clock.now())
        ready = {fd for fd, _ in looks.poll(left_ms)}
        written += ring.write_ready(file)
        if sys.stdin.fileno() in ready and not os.read(sys.stdin.fileno(), 4096):
            looks.unregister(sys.stdin)
            over_at = clock.now() + LAST_LOOK_S
    return written


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
