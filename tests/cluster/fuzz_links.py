"""Nonsense at a node's port, before and after the proof, beside honest traffic.

    python -m tests.cluster.fuzz_links SEED SECONDS        # what `make fuzz` runs

A node serves an honest peer all the time. Strangers come with random bytes, with the beginnings of
honest connections (recorded here, then cut, changed, doubled, reordered), with TLS records in
which bytes are flipped; then peers that have proved themselves send frames of random numbers,
lengths and bytes, changed messages, and chunks of streams that nobody asked for.

What must hold in the end: every honest message arrived once and in order, nothing was raised,
memory grew by less than `GROWTH_MOST_BYTES`, no connection and no thread is left. Prints one line
of JSON.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import random
import ssl
import struct
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from shoal._core.doorkeeper import DoorLimits
from shoal._proto import links
from shoal._proto.frames import Codec, FrameDecoder, FrameError
from shoal._proto.links import LinkDecoder
from tests.cluster import raw_peer
from tests.cluster.members import Cluster, until
from tests.cluster.test_links import note, numbers

NODE, HONEST, ODD = ("aa" * 16, "bb" * 16, "cc" * 16)
GROWTH_MOST_BYTES = 32 << 20
STRANGER_S = 0.05
HONEST_PAUSE_S = 0.005
DECODED_AT_ONCE = 500
NUMBERS = (0, 1, 2, 3, 255, 1 << 16, 1 << 24, (1 << 24) + 1, 1 << 31, (1 << 32) - 1)


def resident_bytes() -> int:
    """What this process has in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Fuzz:
    """One node, one honest peer, and everybody else."""

    def __init__(self, seed: int, directory: Path) -> None:
        self.random = random.Random(seed)
        self.cluster = Cluster(directory)
        self.node = self.cluster.add(NODE)
        self.honest = self.cluster.add(HONEST)
        self.credentials = self.cluster.credentials(ODD)
        self.counts: Counter[str] = Counter()
        self.sent = 0
        self._is_over = threading.Event()
        assert self.node.door is not None
        # Everybody comes from one address here: the honest peer must not be slowed down with them.
        self.node.door._keeper.limits = DoorLimits(handshakes_per_s=1e6, handshakes_burst=1e6)
        self.honest.connect(self.node)
        self.honest.wait_linked(self.node)
        self._talker = threading.Thread(target=self._talk)
        self._talker.start()

    def _talk(self) -> None:
        while not self._is_over.wait(HONEST_PAUSE_S):
            self.honest.send(self.node, note(self.sent))
            self.sent += 1

    # ---- strangers
    def spoil(self, data: bytes) -> bytes:
        """Cut, change, double or extend."""
        rng, spoilt = self.random, bytearray(data)
        for _ in range(rng.randrange(1, 4)):
            kind = rng.randrange(5)
            if not spoilt:
                break
            at = rng.randrange(len(spoilt))
            if kind == 0:
                spoilt[at] ^= 1 << rng.randrange(8)
            elif kind == 1:
                del spoilt[at:]
            elif kind == 2:
                spoilt[at:at] = rng.randbytes(rng.randrange(40))
            elif kind == 3:
                spoilt += spoilt[at:]
            else:
                spoilt[at : at + 8] = struct.pack("<Q", rng.choice(NUMBERS))
        return bytes(spoilt)

    def stranger(self) -> None:
        """Somebody who proves nothing."""
        rng = self.random
        preface = links.new_preface(
            rng.choice((*links.PURPOSES, 0, 9, 255)), self.credentials.secret.id, rng.randbytes(32)
        )
        kind = rng.randrange(4)
        with raw_peer.dial(self.node.address) as stranger:
            stranger.settimeout(STRANGER_S)
            self.counts["strangers"] += 1
            with contextlib.suppress(OSError):
                if kind == 0:
                    stranger.sendall(rng.randbytes(rng.randrange(1, 300)))
                elif kind == 1:
                    stranger.sendall(self.spoil(preface))
                else:
                    stranger.sendall(preface)
                    stranger.recv(4096)
                    stranger.sendall(self.tls_record(is_spoilt=kind == 2))
                stranger.recv(4096)

    def tls_record(self, is_spoilt: bool) -> bytes:
        """A client's first flight, changed, or bytes that look like one."""
        if not is_spoilt:
            body = self.random.randbytes(self.random.randrange(600))
            length = self.random.choice((len(body), 65535))
            return b"\x16\x03\x01" + struct.pack(">H", length) + body
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        outgoing = ssl.MemoryBIO()
        client = context.wrap_bio(ssl.MemoryBIO(), outgoing)
        with contextlib.suppress(ssl.SSLWantReadError):
            client.do_handshake()
        return self.spoil(outgoing.read())

    # ---- peers that have proved themselves
    def odd_frame(self, number: int) -> bytes:
        rng = self.random
        kind = rng.randrange(6)
        if kind == 0:
            return struct.pack("<IQQ", rng.choice(NUMBERS), number, 0) + rng.randbytes(50)
        if kind == 1:
            body = rng.randbytes(rng.randrange(200))
        elif kind == 2:
            body = self.spoil(links.encode_body(note(rng.randrange(1 << 20))))
        elif kind == 3:
            body = links.encode_body(rng.choice(self.own_rows()))
        elif kind == 4:
            body = self.spoil(links.encode_body(rng.choice(self.own_rows())))
        else:
            return self.spoil(raw_peer.hello(ODD))
        return links.frame_header(rng.choice((number, number, 0, number + 1)), 0, len(body)) + body

    def own_rows(self) -> list[links.NodeBody]:
        """Rows that links answer themselves, with odd fields."""
        rng = self.random
        some = (-1, 0, 5, 1 << 40, (1 << 63) - 1)
        return [
            links.Relay(rng.choice((NODE, HONEST, "")), ODD, b"x" * 30, bool(rng.randrange(2))),
            links.Relay(NODE, rng.choice((HONEST, ODD)), raw_peer.hello(HONEST), True),
            links.DialBulk(rng.choice(some)),
            links.PieceAsked(1, b"v", rng.choice(some), rng.choice(some)),
            links.Piece(rng.choice(some), rng.choice(some), rng.choice(some), b"x"),
        ]

    def peer(self) -> None:
        """A member that sends frames that cannot be."""
        self.counts["peers"] += 1
        epoch = self.counts["peers"]
        try:
            stream = raw_peer.shake_hands(self.node.address, self.credentials)
        except (OSError, AssertionError):
            self.counts["refused"] += 1
            return
        with stream, contextlib.suppress(OSError):
            stream.settimeout(STRANGER_S)
            stream.sendall(raw_peer.hello(ODD, epoch))
            for number in range(1, self.random.randrange(2, 30)):
                stream.sendall(self.odd_frame(number))
                self.counts["frames"] += 1

    def puller(self) -> None:
        """A member whose bulk stream talks nonsense."""
        self.counts["pullers"] += 1
        codec = Codec(links.BulkFrame, links.MAX_WANT_BYTES)
        rng = self.random
        wants = [
            links.Want(b"v", rng.choice((-1, 0, 99, 1 << 50)), rng.choice((-5, 0, 7, 1 << 50))),
            links.Want(rng.randbytes(20), 0, 1),
            links.Have(7),
        ]
        data = codec.encode(0, rng.choice(wants))
        try:
            stream = raw_peer.shake_hands(self.node.address, self.credentials, links.BULK)
        except (OSError, AssertionError):
            self.counts["refused"] += 1
            return
        with stream, contextlib.suppress(OSError):
            stream.settimeout(STRANGER_S)
            stream.sendall(data if rng.randrange(2) else self.spoil(data))
            stream.recv(4096)

    def decoders(self) -> None:
        """Bytes for everything that takes bytes apart, in this thread: many more of them."""
        rng = self.random
        rows = [*self.own_rows(), note(rng.randrange(1 << 30), 100)]
        join = Codec(links.JoinFrame, links.MAX_JOIN_BYTES)
        bulk = Codec(links.BulkFrame, links.MAX_WANT_BYTES)
        seeds = [links.encode_body(row) for row in rows]
        seeds += [raw_peer.hello(ODD), raw_peer.frame(3, rows[0])]
        seeds += [join.encode(0, links.JoinAsked(ODD, rng.randbytes(50)))]
        seeds += [bulk.encode(0, links.Want(b"v", 0, 9))]
        readers = (
            links.decode_body,
            links.decode_control,
            lambda data: LinkDecoder().feed(data),
            lambda data: FrameDecoder(join).feed(data),
            lambda data: FrameDecoder(bulk).feed(data),
            lambda data: links.read_preface(data.ljust(80)[:80]),
            lambda data: links.read_authority_frame(
                data.ljust(links.AUTHORITY_FRAME_BYTES)[: links.AUTHORITY_FRAME_BYTES]
            ),
        )
        for _ in range(DECODED_AT_ONCE):
            data = self.spoil(rng.choice(seeds))
            for read in readers:
                with contextlib.suppress(FrameError):
                    read(data)
                self.counts["decoded"] += 1

    def run(self, seconds: float) -> dict[str, object]:
        """All of it, and what must hold in the end."""
        self.node.values[b"v"] = memoryview(bytes(100))
        kinds = (self.stranger, self.stranger, self.peer, self.peer, self.puller, self.decoders)
        until_s = time.monotonic() + seconds
        began = 0
        while time.monotonic() < until_s:
            self.random.choice(kinds)()
            if not began and self.counts["strangers"] > 20:
                gc.collect()
                began = resident_bytes()  # by then everything has been imported and used once
        self._is_over.set()
        self._talker.join()
        until(lambda: len(numbers(self.node, HONEST)) >= self.sent, "honest messages arrived")
        assert numbers(self.node, HONEST) == list(range(self.sent)), "lost or doubled"
        assert self.node.door is not None
        until(lambda: self.node.door.pending == 0, "strangers are gone")
        until(lambda: not self.node.peers._bulk._serving, "threads are gone")
        gc.collect()
        growth = resident_bytes() - began if began else 0
        assert growth < GROWTH_MOST_BYTES, f"memory grew by {growth} bytes"
        self.cluster.close()
        return {**self.counts, "honest": self.sent, "growth_bytes": growth}


def main(arguments: list[str]) -> int:
    seed, seconds = int(arguments[0]), float(arguments[1])
    written = io.StringIO()
    with tempfile.TemporaryDirectory() as directory, contextlib.redirect_stderr(written):
        found = Fuzz(seed, Path(directory)).run(seconds)
    lines = written.getvalue()
    if "Traceback" in lines:
        print(lines[lines.index("Traceback") :][:3000])
        return 1
    print(json.dumps({"seed": seed, **found, "log_bytes": len(lines)}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
