"""F1 and F3: what no peer should send, to every socket of a session, before and after a greeting.

    python -m tests.chaos.strangers DIRECTORY SEED FRAMES

sends so many frames over many connections, and prints how many it has sent. A frame is made in one
of four ways: random bytes behind a true length; a true message with some of its bytes changed; a
length that nobody has (up to 2^32 - 1), with little behind it; a million levels of nesting. Both
sockets (node daemon, control store) are served in turn. Who is greeted says that it only looks, as
``shoal status`` does. It needs no session of its own: whatever it is answered, it reads it away.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path

from shoal._core.store import Request
from shoal._proto import frames, messages
from shoal._runtime import session_dir, wire
from shoal._runtime.store_wire import store_messages

ANSWER_S = 60.0
FRAMES_PER_CONNECTION = 20
DEPTH = 1_000_000

GREETING = frames.encode(1, messages.Hello("observer", 1, "", 0, ""))
TRUE = {
    session_dir.SOCKET_NAME: [
        frames.encode(2, messages.GetTable("session", 10)),
        frames.encode(3, messages.KvPut(b"key of nobody", b"value" * 20)),
        frames.encode(4, messages.GetResources()),
        frames.encode(5, messages.LogLines(1, "x", "stdout", ["line"] * 3)),
    ],
    session_dir.STORE_SOCKET_NAME: [
        store_messages().encode(2, messages.GetTable("store")),
        store_messages().encode(3, Request(1, messages.KvGet(b"key of nobody"))),
    ],
}
"""What is changed; none of them ends anything, nor does what a changed byte makes of it."""


def noise(chance: random.Random, true: bytes) -> bytes:
    data = chance.randbytes(chance.randrange(200))
    return struct.pack("<I", len(data)) + data


def changed(chance: random.Random, true: bytes) -> bytes:
    data = bytearray(true)
    for _ in range(chance.randrange(1, 5)):
        data[chance.randrange(4, len(data))] = chance.randrange(256)
    return bytes(data)


def endless(chance: random.Random, true: bytes) -> bytes:
    length = chance.choice([frames.MAX_FRAME_BYTES + 1, 2**31, 2**32 - 1, chance.getrandbits(32)])
    return struct.pack("<I", length) + true[4:]


def deep(chance: random.Random, true: bytes) -> bytes:
    body = b"\x92\x01" + chance.choice([b"\x91", b"\x81\x01"]) * DEPTH
    return struct.pack("<I", len(body)) + body


WAYS: dict[Callable[[random.Random, bytes], bytes], int] = {
    noise: 40, changed: 40, endless: 19, deep: 1,
}  # fmt: skip


def visit(directory: Path, name: str, chance: random.Random) -> int:
    """One connection; how many frames it sent before it was closed."""
    sent = 0
    with contextlib.closing(wire.connect(str(directory / name))) as connection:
        connection.settimeout(ANSWER_S)
        with contextlib.suppress(ConnectionError):
            if name == session_dir.SOCKET_NAME and chance.random() < 0.5:
                connection.sendall(GREETING)
            for _ in range(FRAMES_PER_CONNECTION):
                (way,) = chance.choices(list(WAYS), list(WAYS.values()))
                connection.sendall(way(chance, chance.choice(TRUE[name])))
                sent += 1
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1 << 16):
                pass
    return sent


def main() -> None:
    directory, seed, wanted = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    chance, sent, visits = random.Random(seed), 0, 0
    while sent < wanted:
        sent += visit(directory, list(TRUE)[visits % 2], chance)
        visits += 1
    print(sent)


if __name__ == "__main__":
    main()
