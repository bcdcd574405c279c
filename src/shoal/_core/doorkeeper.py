"""Who may stand at the door: connections that have not proved anything yet.

The one announced port of a node can be reached by anybody. Until a connection has proved the
cluster's secret it is *pending*: it has a deadline, there are bounded numbers of them, and one
source cannot crowd out another.

1. A pending connection is gone ``pending_s`` after it came, whatever it does.
2. At most ``pending_per_source`` of one source and ``pending_most`` in all are pending. One more
   sends away the *oldest* of that source (or of the largest source): an honest peer is
   through in milliseconds, so it is never the oldest while others idle. Refusing the newest instead
   would let 64 idle connections lock out everybody behind the same address.
3. Handshakes that cost something (TLS) are counted per source, ``handshakes_per_s`` with a burst.
   Who comes beyond that is told so and may come again.
4. What is said about strangers in the log is bounded: ``lines_per_s``.
5. Tables are as large as what is pending, and sources that were not seen for a while are forgotten.

A source is an IPv4 address, or the 64-bit network of an IPv6 address.
"""

from __future__ import annotations

from collections import OrderedDict

import msgspec


class DoorLimits(msgspec.Struct, frozen=True):
    """Times in seconds, counts without unit."""

    pending_s: float = 2.0
    pending_per_source: int = 64
    pending_most: int = 1024
    handshakes_per_s: float = 50.0
    handshakes_burst: float = 100.0
    lines_per_s: float = 1.0
    lines_burst: float = 10.0
    sources_most: int = 4096


class _Bucket:
    """So many at once, so many per second later."""

    __slots__ = ("at", "left")

    def __init__(self, now: float, burst: float) -> None:
        self.at = now
        self.left = burst

    def take(self, now: float, per_s: float, burst: float) -> bool:
        self.left = min(burst, self.left + (now - self.at) * per_s)
        self.at = now
        if self.left < 1.0:
            return False
        self.left -= 1.0
        return True


class LineBudget:
    """How many lines about strangers may be written (rule 4)."""

    def __init__(self, limits: DoorLimits | None = None) -> None:
        self._limits = limits or DoorLimits()
        self._bucket = _Bucket(0.0, self._limits.lines_burst)
        self._unsaid = 0

    def take(self, now: float) -> int | None:
        """None: not now. Else it may be written, and says how many were not before it."""
        limits = self._limits
        if not self._bucket.take(now, limits.lines_per_s, limits.lines_burst):
            self._unsaid += 1
            return None
        unsaid, self._unsaid = self._unsaid, 0
        return unsaid


class Doorkeeper:
    """All pending connections of a process, by numbers that the caller chooses."""

    def __init__(self, limits: DoorLimits | None = None) -> None:
        self.limits = limits or DoorLimits()
        self._sources: dict[str, OrderedDict[int, float]] = {}
        """For each source its pending connections, oldest first, and when they came."""
        self._all: OrderedDict[int, str] = OrderedDict()
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._all)

    def arrived(self, now: float, source: str, number: int) -> list[int]:
        """A connection came; the numbers of those that have to go for it."""
        gone = []
        own = self._sources.setdefault(source, OrderedDict())
        if len(own) >= self.limits.pending_per_source:
            gone.append(next(iter(own)))
        elif len(self._all) >= self.limits.pending_most:
            largest = max(self._sources.values(), key=len)
            gone.append(next(iter(largest)))
        for other in gone:
            self.left(other)
        self._sources.setdefault(source, own)[number] = now
        self._all[number] = source
        return gone

    def left(self, number: int) -> None:
        """It is not pending any more: it has proved itself, or it is gone."""
        source = self._all.pop(number, None)
        if source is None:
            return
        own = self._sources[source]
        del own[number]
        if not own:
            del self._sources[source]

    def expired(self, now: float) -> list[int]:
        """Take out, and return, those whose time is over."""
        late = []
        for number, source in self._all.items():
            if self._sources[source][number] + self.limits.pending_s > now:
                break  # they stand in the order of their coming
            late.append(number)
        for number in late:
            self.left(number)
        return late

    @property
    def wake_at(self) -> float | None:
        """When the next one's time is over."""
        for number, source in self._all.items():
            return self._sources[source][number] + self.limits.pending_s
        return None

    def may_shake_hands(self, now: float, source: str) -> bool:
        """Whether a handshake with that source may begin now (rule 3)."""
        bucket = self._buckets.get(source)
        if bucket is None:
            if len(self._buckets) >= self.limits.sources_most:
                self._buckets.popitem(last=False)
            bucket = self._buckets[source] = _Bucket(now, self.limits.handshakes_burst)
        self._buckets.move_to_end(source)
        return bucket.take(now, self.limits.handshakes_per_s, self.limits.handshakes_burst)

    def validate(self) -> None:
        """Assert what must always hold."""
        assert sum(map(len, self._sources.values())) == len(self._all)
        assert len(self._all) <= self.limits.pending_most
        assert all(0 < len(own) <= self.limits.pending_per_source for own in self._sources.values())
        assert all(number in self._sources[source] for number, source in self._all.items())
        times = [self._sources[source][number] for number, source in self._all.items()]
        assert times == sorted(times)
        assert len(self._buckets) <= self.limits.sources_most


def source_of(address: str) -> str:
    """The source that a peer's address belongs to."""
    if ":" not in address:
        return address
    head = address.partition("%")[0]
    if head.startswith("::ffff:") and "." in head:
        return head.removeprefix("::ffff:")  # an IPv4 address on a socket for both
    left, _, right = head.partition("::")
    groups = [group for group in left.split(":") if group]
    if "::" in head:
        tail = [group for group in right.split(":") if group]
        groups += ["0"] * (8 - len(groups) - len(tail)) + tail
    return ":".join(groups[:4]) + "::/64"
