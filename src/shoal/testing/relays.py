"""One connection through the fault proxy: its two sockets, its two lanes, and when to look at them.

Owns: both sockets, the right to close them, and one timer. It asks its lanes what may move
(``lanes``) and the loop when to look; faults are given to it by the proxy. Everything here runs in
the thread of the proxy's loop.

::

    state   waits --> dials --> open --> over
            (cut)        |        |
                         v        v
                        over   half open --> over      one end is gone, the other is not told

Invariants:

1. Nothing is told across a cut: no byte, no end, no reset. It is told after the healing.
2. An end is closed only because the other one has ended, because of a fault that was asked for, or
   because the server has refused.
3. A socket that may not be read now, and to which nothing is to be written, is not watched at all:
   epoll would report a hang-up that nobody may be told of, again and again.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable
from typing import Literal

from shoal._base import clock
from shoal._runtime import daemon_loop
from shoal.testing.lanes import NEVER, ConnectionReset, Lane

Address = tuple[str, int]
Side = Literal["near", "far"]

READ_BYTES = 64 << 10
WRITE_BYTES = 256 << 10


class End:
    """One of the two sockets of a connection, and the lane of what comes from it."""

    __slots__ = ("has_ended", "is_blocked", "is_lost", "is_told", "lane", "mask", "moved", "socket")

    def __init__(self, given: socket.socket, lane: Lane) -> None:
        self.socket = given
        self.lane = lane
        self.moved = 0
        """Bytes that were read from it."""
        self.has_ended = self.is_lost = False
        """It will send nothing more; and, if lost, there is nobody to send to either."""
        self.is_blocked = self.is_told = False
        """It takes no more for now; it knows that the other one has ended."""
        self.mask = 0


class Relay:
    """Moves bytes between a near end (who has connected) and a far one (``target``)."""

    def __init__(
        self,
        loop: daemon_loop.Loop,
        near: End,
        far: End,
        target: Address,
        over: Callable[[Relay, str], None],
    ) -> None:
        self.near = near
        self.far = far
        self.target = target
        self.state: Literal["waits", "dials", "open", "half open", "over"] = "waits"
        self._loop = loop
        self._over = over
        self._timer: daemon_loop.Timer | None = None

    @property
    def ends(self) -> tuple[End, End]:
        """Both of them."""
        return self.near, self.far

    def look(self) -> None:
        """Faults have changed: dial if that was impossible, and move what may move now."""
        if self.state == "waits":
            self._dial()
        elif self.state == "open":
            self._pump()

    def drop(self, why: str, gently: bool = False) -> None:
        """Forget the connection; both ends are reset, unless they know that it is over."""
        if self.state == "over":
            return
        self.state = "over"
        self._forget_timer()
        for end in self.ends:
            self._close(end, gently)
        self._over(self, why)

    def halve(self, stays: Side) -> bool:
        """One end is gone as if without power, and the one that ``stays`` is not told."""
        if self.state != "open":
            return False
        self.state = "half open"
        self._forget_timer()
        for end in self.ends:
            self._watch(end, 0)
        self._close(self.far if stays == "near" else self.near)
        return True

    # ---- dialling
    def _dial(self) -> None:
        """Both directions are needed for a handshake: it waits while one is cut."""
        if any(end.lane.faults.is_cut for end in self.ends):
            return
        self.state = "dials"
        failed = self.far.socket.connect_ex(self.target)
        if failed in (0, errno.EINPROGRESS):
            self._watch(self.far, daemon_loop.WRITE)
        else:
            self.drop("refused")

    def _ready(self, end: End, events: int) -> None:
        if self.state == "dials":
            if end.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self.drop("refused")
                return
            self.state = "open"
        elif events & daemon_loop.WRITE:
            end.is_blocked = False
        if self.state == "open":
            if events & ~daemon_loop.WRITE:
                self._read(end)
            self._pump()

    # ---- moving
    def _read(self, end: End) -> None:
        room = end.lane.room()
        if not room or end.has_ended:
            return
        try:
            data = end.socket.recv(min(room, READ_BYTES))
        except BlockingIOError:
            return
        except OSError:
            self._lose(end)
            return
        if not data:
            end.has_ended = True
            end.lane.end(clock.now())
            return
        end.moved += len(data)
        try:
            end.lane.feed(clock.now(), data)
        except ConnectionReset:
            self.drop("reset")

    def _lose(self, end: End) -> None:
        """Its program has reset the connection: news that travels behind what it has sent."""
        end.has_ended = end.is_lost = True
        end.lane.end(clock.now())

    def _pump(self) -> None:
        """Pass on what is due, and wait for what comes next."""
        if self.state != "open":
            return
        near, far = self.ends
        now = clock.now()
        for source, sink in ((near, far), (far, near)):
            self._pass_on(source.lane, sink, now)
        for source, sink in ((near, far), (far, near)):
            if not source.lane.has_ended(now):
                continue
            if source.is_lost:
                self.drop("reset by a program")
                return
            self._tell_end(sink)
        if near.is_told and far.is_told:
            self.drop("over", gently=True)
            return
        self._wait(now)

    def _tell_end(self, sink: End) -> None:
        if sink.is_told or sink.is_lost:
            return
        sink.is_told = True
        try:
            sink.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self._lose(sink)

    def _pass_on(self, lane: Lane, sink: End, now: float) -> None:
        while data := lane.take(now, WRITE_BYTES):
            if sink.is_lost:
                continue
            try:
                sent = 0 if sink.is_blocked else sink.socket.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._lose(sink)
                continue
            if sent < len(data):
                sink.is_blocked = True
                lane.put_back(data[sent:])
                return

    # ---- waiting
    def _wait(self, now: float) -> None:
        near, far = self.ends
        next_at = NEVER
        for end, other in ((near, far), (far, near)):
            reads = end.lane.room() > 0 and not end.has_ended
            mask = daemon_loop.READ * reads | daemon_loop.WRITE * end.is_blocked
            self._watch(end, 0 if end.is_lost else mask)
            if not (other.is_blocked or end.lane.has_ended(now)):
                next_at = min(next_at, end.lane.wakes_at())
        self._forget_timer()
        if next_at < NEVER:
            self._timer = self._loop.call_at(next_at, self._pump)

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _watch(self, end: End, mask: int) -> None:
        if mask == end.mask:
            return
        fd = end.socket.fileno()
        if not mask:
            self._loop.unwatch(fd)
        elif end.mask:
            self._loop.change(fd, mask)
        else:
            self._loop.watch(fd, lambda events: self._ready(end, events), mask)
        end.mask = mask

    def _close(self, end: End, gently: bool = False) -> None:
        if end.socket.fileno() < 0:
            return
        self._watch(end, 0)
        if not gently:
            # A socket that does not linger is reset by its close.
            linger = struct.pack("ii", 1, 0)
            end.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        end.socket.close()
