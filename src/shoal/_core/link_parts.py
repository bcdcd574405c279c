"""What a link is made of: what waits for the peer, what came from it, and when to dial it.

Each part owns its piece of the state of ``_core.link.Link`` and knows nothing of the others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from shoal._core.link_events import Congested, LinkLimits, Suspected


class Outbox:
    """Bodies ``acked + 1 .. last`` of the session: what was given and is not acknowledged."""

    def __init__(self, limits: LinkLimits) -> None:
        self.acked = 0
        self.size_bytes = 0
        self.is_congested = False
        self._bodies: deque[bytes] = deque()
        self._most = limits.waiting_most_bytes

    def __len__(self) -> int:
        return len(self._bodies)

    @property
    def last(self) -> int:
        """The number of the newest."""
        return self.acked + len(self._bodies)

    def add(self, data: bytes) -> int:
        """Keep a body; its number."""
        self._bodies.append(data)
        self.size_bytes += len(data)
        return self.last

    def take_ack(self, ack: int) -> bool:
        """Let go of what the peer has; False: it cannot have that."""
        if ack > self.last:
            return False
        while self.acked < ack:
            self.size_bytes -= len(self._bodies.popleft())
            self.acked += 1
        return True

    def numbered(self) -> Iterator[tuple[int, bytes]]:
        """Everything that waits, oldest first."""
        return enumerate(self._bodies, self.acked + 1)

    def drop(self) -> None:
        """Whom it was meant for is no more."""
        self._bodies.clear()
        self.size_bytes = 0

    def judge(self) -> list[Congested]:
        """Tell if it has become congested, or is not any more: above the limit, until below half
        of it."""
        is_congested = self.size_bytes > (self._most // 2 if self.is_congested else self._most)
        if is_congested == self.is_congested:
            return []
        self.is_congested = is_congested
        return [Congested(is_congested)]

    def validate(self) -> None:
        """Assert what must always hold."""
        assert self.size_bytes == sum(map(len, self._bodies))
        assert self.acked >= 0
        assert self.size_bytes > self._most // 2 if self.is_congested else True
        assert self.is_congested or self.size_bytes <= self._most


class Inbox:
    """How far the peer's numbers have come, and what of that it has not been told."""

    def __init__(self, limits: LinkLimits) -> None:
        self.received = 0
        self.ack_at: float | None = None
        self._unsaid_frames = 0
        self._unsaid_bytes = 0
        self._limits = limits

    def came(self, now: float, number: int, size_bytes: int) -> bool:
        """Count a frame that is not ahead of its turn; whether it is the next one."""
        self._unsaid_frames += 1
        self._unsaid_bytes += size_bytes
        if self.ack_at is None:
            self.ack_at = now + self._limits.ack_s
        limits = self._limits
        if self._unsaid_frames >= limits.ack_frames or self._unsaid_bytes >= limits.ack_bytes:
            self.ack_at = now
        if number != self.received + 1:
            return False
        self.received = number
        return True

    def said(self) -> None:
        """The peer is being told, or there is nobody to tell."""
        self._unsaid_frames = self._unsaid_bytes = 0
        self.ack_at = None

    def validate(self) -> None:
        """Assert what must always hold."""
        assert self.received >= 0
        assert (self._unsaid_frames == 0) == (self.ack_at is None)


class Suspicion:
    """Since when there has been no connection, and whether that is told (rule 5 of the link)."""

    def __init__(self, limits: LinkLimits) -> None:
        self.is_told = False
        self.lost_at: float | None = None
        self.failure = ""
        """Why the last dial failed, or the connection of a peer that only dials itself ended."""
        self._limits = limits

    def lost(self, now: float) -> None:
        """There is no connection, and there should be one."""
        if self.lost_at is None:
            self.lost_at = now

    def over(self) -> None:
        """There is one, or there should be none."""
        self.lost_at = None
        self.failure = ""
        self.is_told = False

    def at(self, is_passive: bool) -> float | None:
        """When it is to be told; ``is_passive``: nobody can dial the peer."""
        if self.lost_at is None or self.is_told or not (self.failure or is_passive):
            return None
        return self.lost_at + self._limits.suspect_s

    def tell(self) -> Suspected:
        """It is told once."""
        self.is_told = True
        return Suspected(self.failure or "its connection ended and it has not come back")


class Dialling:
    """Where the peer is dialled next, and when: in turn, with pauses that double."""

    def __init__(self, limits: LinkLimits) -> None:
        self.addresses: tuple[str, ...] = ()
        self.is_under_way = False
        self.at: float | None = None
        self.dialled_at = 0.0
        self._index = 0
        self._pause_s = 0.0
        self._limits = limits

    def know(self, addresses: tuple[str, ...]) -> bool:
        """Take other addresses; False if they are the same."""
        if addresses == self.addresses:
            return False
        self.addresses = addresses
        self.at = None
        self._index = 0
        self._pause_s = 0.0
        return True

    def plan(self, now: float) -> None:
        """Dial when the pause is over, and make the next pause longer."""
        if self.is_under_way or not self.addresses or self.at is not None:
            return
        self.at = now + self._pause_s
        limits = self._limits
        self._pause_s = min(max(2 * self._pause_s, limits.redial_s), limits.redial_most_s)

    def due(self, now: float) -> str | None:
        """Whom to dial now: a dial is under way then."""
        if self.at is None or now < self.at:
            return None
        self.at = None
        self.is_under_way, self.dialled_at = True, now
        return self.addresses[self._index % len(self.addresses)]

    def failed(self) -> None:
        """The next one goes to the next address."""
        self.is_under_way = False
        self._index += 1

    def linked(self) -> None:
        """There is nothing to dial."""
        self.at = None

    def was_steady(self) -> None:
        """The connection that is lost had lived for long: dial again at once."""
        self._pause_s = 0.0

    def validate(self) -> None:
        """Assert what must always hold."""
        assert self.at is None or (self.addresses and not self.is_under_way)
