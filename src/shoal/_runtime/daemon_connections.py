"""Connections: the daemon's side of the session's unix socket.

One ``Connection`` per process; it knows bytes, frames and descriptors, not what they mean. Writing
never blocks: what the kernel does not take waits here, up to ``UNSENT_BYTES_MOST``; a peer that
reads nothing while so much waits for it is cut off (it is stopped or broken, and everybody else
goes on).

Invariants:

1. The kernel says whose process it is (SO_PEERCRED); another uid than ours is refused before one of
   its bytes is read.
2. A frame that cannot be read closes that connection, whatever it was, and nothing else.
3. ``on_closed`` is called exactly once for each connection that was accepted, and never from inside
   ``send``: who sends in the middle of something does not expect to be called back.
"""

from __future__ import annotations

import os
import socket
import sys
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from shoal._proto.frames import MESSAGES, Codec, FrameDecoder, FrameError
from shoal._runtime import wire
from shoal._runtime.daemon_loop import READ, WRITE, Loop

UNSENT_BYTES_MOST = 64 << 20
_received = memoryview(bytearray(wire.RECEIVE_BYTES))
"""Where what arrives is put; the decoder keeps a copy. One thread, one message after the other."""


class Connection:
    """One process that is connected to the daemon."""

    __slots__ = (
        "_codec",
        "_decoder", "_loop", "_on_closed", "_on_frame", "_socket", "_unsent", "_unsent_bytes",
        "index", "is_closed", "pid", "unshown_lines",
    )  # fmt: skip

    def __init__(
        self,
        loop: Loop,
        connected: socket.socket,
        pid: int,
        on_frame: Callable[[Connection, Any], None],
        on_closed: Callable[[Connection], None],
        codec: Codec = MESSAGES,
    ) -> None:
        self.pid = pid
        self.index: int | None = None
        """Process index, once it has said Hello."""
        self.is_closed = False
        self.unshown_lines = 0
        """Lines of workers that were not sent: too much waits for the peer already."""
        self._loop = loop
        self._socket = connected
        self._codec = codec
        self._decoder = FrameDecoder(codec)
        self._on_frame = on_frame
        self._on_closed = on_closed
        self._unsent: deque[tuple[bytes, Sequence[int]]] = deque()
        self._unsent_bytes = 0
        connected.setblocking(False)
        loop.watch(connected.fileno(), self._ready)

    @property
    def unsent_bytes(self) -> int:
        """What the peer has not read yet, beyond the kernel's own buffer."""
        return self._unsent_bytes

    def peer_pidfd(self) -> int:
        """Return a new pidfd of the peer; raises ``OSError`` if it is gone."""
        return wire.peer_pidfd(self._socket)

    def send(self, request_id: int, body: Any, descriptors: Sequence[int] = ()) -> None:
        """Send a frame now, or as soon as the peer reads; ``descriptors`` must stay open
        meanwhile."""
        if self.is_closed:
            return
        data = self._codec.encode(request_id, body)
        if self._unsent_bytes + len(data) > UNSENT_BYTES_MOST:
            print(f"process {self.pid} reads nothing: its connection is closed", file=sys.stderr)
            self._loop.call_at(0.0, self.close)
            return
        self._unsent.append((data, descriptors))
        self._unsent_bytes += len(data)
        if len(self._unsent) == 1:
            self._flush()
            if self._unsent:
                self._loop.change(self._socket.fileno(), READ | WRITE)

    def close(self) -> None:
        """End the connection and say so; a second call does nothing."""
        if self.is_closed:
            return
        self.is_closed = True
        self._loop.unwatch(self._socket.fileno())
        self._socket.close()
        self._unsent.clear()
        self._on_closed(self)

    def _flush(self) -> None:
        while self._unsent:
            data, descriptors = self._unsent[0]
            try:
                sent = wire.send_with_descriptors(self._socket, data, list(descriptors))
            except BlockingIOError:
                return
            except OSError:
                self._loop.call_at(0.0, self.close)
                self._unsent.clear()
                return
            self._unsent_bytes -= sent
            if sent < len(data):
                self._unsent[0] = (data[sent:], ())
            else:
                self._unsent.popleft()

    def _ready(self, events: int) -> None:
        if events & WRITE:
            self._flush()
            if not self._unsent:
                self._loop.change(self._socket.fileno(), READ)
        if events & ~WRITE:
            self._read()

    def read_rest(self) -> None:
        """Take in what a peer that has ended said last."""
        while not self.is_closed and self._read():
            pass

    def _read(self) -> bool:
        """Take in one piece; False if nothing was there."""
        try:
            # Nobody sends us descriptors, and the kernel closes those that are not asked for.
            size = self._socket.recv_into(_received)
        except BlockingIOError:
            return False
        except OSError:
            size = 0
        if not size:
            self.close()
            return False
        try:
            for frame in self._decoder.feed(_received[:size]):
                if not self.is_closed:
                    self._on_frame(self, frame)
        except FrameError as error:
            print(f"process {self.pid} is cut off: {error}", file=sys.stderr)
            self.close()
        return True


class Listener:
    """Accepts connections of our own user's processes."""

    def __init__(
        self,
        loop: Loop,
        listening: socket.socket,
        on_connected: Callable[[socket.socket, int], object],
    ) -> None:
        self._loop = loop
        self._socket = listening
        self._on_connected = on_connected
        # Kept to be given up for a moment when descriptors run out: then a connection can be
        # taken and refused, instead of waking us for ever.
        self._reserve = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        listening.setblocking(False)
        loop.watch(listening.fileno(), self._ready)

    def close(self) -> None:
        """Take no more connections."""
        self._loop.unwatch(self._socket.fileno())
        self._socket.close()
        os.close(self._reserve)

    def _ready(self, events: int) -> None:
        while True:
            try:
                connected, _ = self._socket.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                self._refuse(error)
                return
            pid, uid, _ = wire.peer_credentials(connected)
            if uid != os.geteuid():
                print(f"process {pid} of uid {uid} was refused", file=sys.stderr)
                connected.close()
                continue
            self._on_connected(connected, pid)

    def _refuse(self, error: OSError) -> None:
        print(f"a connection was refused: {error}", file=sys.stderr)
        os.close(self._reserve)
        try:
            self._socket.accept()[0].close()
        except OSError:
            pass
        self._reserve = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
