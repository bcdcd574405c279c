"""What happens to the bytes of one direction of a connection: the pure half of the fault proxy.

Owns: which bytes may go on when, and which of them are changed on the way. It does not know what a
socket is, has no clock and rolls only the dice that it is given, so the same seed, the same bytes
and the same times are the same faults. One thread touches a lane: that of its proxy.

::

    sender --> room() bytes are read --> feed(now, bytes) ... take(now) --> receiver
                                          |                     ^
                                          +-- segments, each with the time at which it is due

A stream is what TCP shows of a network: nothing is missing, doubled or out of order in it. So the
faults of packets look here as they do to a program that uses TCP:

==============  ====================================================================================
of a packet     of the stream
==============  ====================================================================================
delayed         later by ``delay_s``, give or take ``jitter_s``; never before what was sent earlier
lost            its segment comes ``stall_s`` later (the retransmission), and all behind it wait
lost for good   the connection is reset (``reset``)
out of order    the later segment waits for the earlier one: ``jitter_s``
doubled         nothing: TCP drops the second one
corrupted       nothing, but for one in 65,536 that the checksum lets pass: ``corrupt``
slow line       segments leave one after the other at ``bandwidth`` bytes per second
slow reader     the same with a small ``window_bytes``: the sender is stopped
cut             nothing moves, and nobody is told; what was under way arrives after the healing
==============  ====================================================================================

Invariants:

1. Bytes leave in the order in which they came, each once; only ``corrupt`` changes any, one bit of
   a segment, and ``changed`` counts them.
2. The end of a stream stands behind its last byte: it is delayed and cut like bytes.
3. A lane holds at most ``window_bytes`` that are not due to leave yet: who reads no more than
   ``room`` stops the sender, as a full window of TCP does.
4. New faults hold for what comes from now on; a cut holds at once.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass

SEGMENT_BYTES = 1448
"""What one packet of Ethernet carries of a stream: the unit in which chance strikes."""
WINDOW_BYTES = 1 << 20
NEVER = float("inf")


@dataclass(frozen=True)
class Faults:
    """What is wrong with one direction; nothing by default."""

    delay_s: float = 0.0
    jitter_s: float = 0.0
    """Up to so much earlier or later than the delay."""
    loss: float = 0.0
    """Share of segments that are lost and sent again."""
    stall_s: float = 0.2
    """After which time: the least that Linux waits is 0.2 s."""
    reset: float = 0.0
    """Share of segments that end their connection."""
    corrupt: float = 0.0
    """Share of segments in which one bit flips."""
    bandwidth: float = 0.0
    """Bytes per second; 0: as fast as it goes."""
    window_bytes: int = WINDOW_BYTES
    is_cut: bool = False

    def __post_init__(self) -> None:
        for name in ("loss", "reset", "corrupt"):
            share = getattr(self, name)
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is a share from 0 to 1, not {share!r}")
        for name in ("delay_s", "jitter_s", "stall_s", "bandwidth"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} cannot be negative: {getattr(self, name)!r}")
        if self.window_bytes < 1:
            raise ValueError("window_bytes must be at least 1: nothing would ever pass")

    @property
    def has_chance(self) -> bool:
        """Whether dice are rolled for each segment."""
        return bool(self.loss or self.reset or self.corrupt)


NONE = Faults()


class ConnectionReset(Exception):
    """The dice have ended the connection."""


class Lane:
    """One direction of one connection."""

    def __init__(self, faults: Faults, chance: random.Random) -> None:
        self.faults = faults
        self.changed = 0
        """Segments in which a bit was flipped."""
        self.stalled = 0
        """Segments that were lost and came again."""
        self.held_bytes = 0
        self._chance = chance
        self._under_way: deque[tuple[float, bytes]] = deque()
        self._line_free_at = 0.0
        self._last_due = 0.0
        self._end_due: float | None = None

    # ---- what comes
    def room(self) -> int:
        """How many bytes may be read from the sender now."""
        if self.faults.is_cut or self._end_due is not None:
            return 0
        return max(0, self.faults.window_bytes - self.held_bytes)

    def feed(self, now: float, data: bytes) -> None:
        """The sender has sent ``data``.

        Raises:
            ConnectionReset: the dice have said so; nothing of ``data`` is delivered.
        """
        self.held_bytes += len(data)
        faults = self.faults
        if not (faults.has_chance or faults.bandwidth or faults.jitter_s):
            self._send(now + faults.delay_s, data)
            return
        for start in range(0, len(data), SEGMENT_BYTES):
            self._feed_segment(now, data[start : start + SEGMENT_BYTES])

    def _feed_segment(self, now: float, segment: bytes) -> None:
        faults, chance = self.faults, self._chance
        leaves = max(now, self._line_free_at)
        if faults.bandwidth:
            leaves += len(segment) / faults.bandwidth
        self._line_free_at = leaves
        due = leaves + faults.delay_s
        if faults.jitter_s:
            due += chance.uniform(-faults.jitter_s, faults.jitter_s)
        if faults.reset and chance.random() < faults.reset:
            raise ConnectionReset
        if faults.loss and chance.random() < faults.loss:
            self.stalled += 1
            due += faults.stall_s
        if faults.corrupt and chance.random() < faults.corrupt:
            self.changed += 1
            bit = chance.randrange(8 * len(segment))
            changed = bytearray(segment)
            changed[bit // 8] ^= 1 << bit % 8
            segment = bytes(changed)
        self._send(due, segment)

    def _send(self, due: float, data: bytes) -> None:
        self._last_due = due = max(due, self._last_due)
        self._under_way.append((due, data))

    def end(self, now: float) -> None:
        """The sender will send nothing more."""
        if self._end_due is None:
            self._end_due = max(now + self.faults.delay_s, self._last_due)

    # ---- what goes on
    def take(self, now: float, most_bytes: int) -> bytes:
        """What is due, at most so much of it."""
        if self.faults.is_cut:
            return b""
        taken: list[bytes] = []
        left = most_bytes
        while self._under_way and left and self._under_way[0][0] <= now:
            due, data = self._under_way.popleft()
            if len(data) > left:
                self._under_way.appendleft((due, data[left:]))
                data = data[:left]
            taken.append(data)
            left -= len(data)
        self.held_bytes -= most_bytes - left
        return b"".join(taken)

    def put_back(self, data: bytes) -> None:
        """The receiver has not taken this part of what was due."""
        if data:
            self._under_way.appendleft((0.0, data))
            self.held_bytes += len(data)

    def wakes_at(self) -> float:
        """When something is due next; ``NEVER`` if nothing is under way or the lane is cut."""
        if self.faults.is_cut:
            return NEVER
        if self._under_way:
            return self._under_way[0][0]
        return NEVER if self._end_due is None else self._end_due

    def has_ended(self, now: float) -> bool:
        """Whether the receiver is to be told that nothing more comes."""
        ended = self._end_due is not None and not self._under_way and not self.faults.is_cut
        return ended and self._end_due is not None and self._end_due <= now

    def validate(self) -> None:
        """Assert the invariants; for tests."""
        assert self.held_bytes == sum(len(data) for _, data in self._under_way)
        times = [due for due, _ in self._under_way]
        assert times == sorted(times), "a segment would overtake another one"
        assert self._end_due is None or not times or self._end_due >= times[-1]
