"""Writes down every packet that passes: ``python -m shoal.testing.capture_program FILE``.

Runs in a network namespace (or where it is started) and reads a packet socket of all its
interfaces. A packet that goes through a switch is seen where it comes in and where it goes out; the
second time is left out. It says ``{"ready": ...}``, ends with its standard input after a last look
at what is there already, and says how many packets it has written and how many the kernel had to
drop: a search in an incomplete capture proves nothing.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import sys
from typing import BinaryIO

from shoal._base import clock
from shoal.testing.packets import ETHERNET, FRAME_BYTES_MOST, HEADER, MAGIC, RECORD

BUFFER_BYTES = 256 << 20
LAST_LOOK_S = 0.2
_ALL_PROTOCOLS = 3  # ETH_P_ALL
_SOL_PACKET = 263
_STATISTICS = 6  # PACKET_STATISTICS
_RECEIVE_BUFFER_FORCE = 33  # SO_RCVBUFFORCE

_buffer = bytearray(FRAME_BYTES_MOST)
"""One for all packets: a new one of this size for each would be mapped and unmapped."""


def main(words: list[str]) -> int:
    """Write until standard input ends."""
    (path,) = words
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS))
    try:
        tap.setsockopt(socket.SOL_SOCKET, _RECEIVE_BUFFER_FORCE, BUFFER_BYTES)
    except PermissionError:  # in a user namespace: what everybody may have
        tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
    tap.setblocking(False)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb", buffering=1 << 20) as file:
        file.write(HEADER.pack(MAGIC, 2, 4, 0, 0, FRAME_BYTES_MOST, ETHERNET))
        print(json.dumps({"ready": True}), flush=True)
        written = _write_all(tap, file)
    _, dropped = struct.unpack("II", tap.getsockopt(_SOL_PACKET, _STATISTICS, 8))
    print(json.dumps({"written": written, "dropped": dropped}), flush=True)
    return 0


def _write_all(tap: socket.socket, file: BinaryIO) -> int:
    written, over_at = 0, None
    while over_at is None or clock.now() < over_at:
        inputs = [tap] if over_at is not None else [tap, sys.stdin]
        left_s = None if over_at is None else max(0.0, over_at - clock.now())
        ready, _, _ = select.select(inputs, [], [], left_s)
        if tap in ready:
            written += _write_ready(tap, file)
        if sys.stdin in ready and not os.read(sys.stdin.fileno(), 4096):
            over_at = clock.now() + LAST_LOOK_S
    return written


def _write_ready(tap: socket.socket, file: BinaryIO) -> int:
    written = 0
    buffer = memoryview(_buffer)
    while True:
        try:
            length, address = tap.recvfrom_into(buffer)
        except BlockingIOError:
            return written
        except OSError:
            continue  # an interface has gone: the others are still there
        if address[2] == socket.PACKET_OUTGOING:
            continue
        micros = int(clock.wall() * 1e6)
        file.write(RECORD.pack(micros // 10**6, micros % 10**6, length, length))
        file.write(buffer[:length])
        written += 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
