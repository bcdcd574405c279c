"""One link: everything a node has with one other node, whatever happens to its connections.

A *session* lives as long as both epochs (lives of the two daemons) do. What is sent in it is
numbered from 1 in each direction, kept until the peer has acknowledged it, and sent again on the
next connection from where the peer stands; so a broken connection loses, doubles and reorders
nothing. This file decides; ``_runtime.links.peers`` has sockets, bytes and the clock, and feeds
it::

                 Dial                Reached: Greet              Greeted
    (no link) ----------> dialling --------------------> greeted ---------> linked
        ^                    |                              |                  |
        +---- DialFailed ----+------------ Ended -----------+------ Ended -----+

1. Frame n is delivered once, after n-1 and before n+1, while both epochs live: only the current
   connection is listened to, a number that was had is passed over, a gap ends the connection.
2. What was given is kept until it is acknowledged, or until the peer's epoch is over. What was
   given before the peer's first epoch was known goes to that one.
3. A later epoch of the peer begins a new session: both numberings start at 1, what the former life
   had not acknowledged is dropped, and the owner is told how much. An earlier one, and one that was
   declared dead (``Forgotten``), is refused and told that it is over.
4. Of several connections the one with the highest turn is used by both sides. Who dials proposes a
   turn above all that it knows; if both dial at once they propose the same, and the one that the
   smaller node id dialled wins. A connection never stays because it was first: the other side
   may have lost it already.
5. A peer is *suspected* when it was not linked for ``suspect_s`` and a dial failed (or cannot be
   made): an event, which changes nothing here. It ends with ``Linked``.
6. A connection on which nothing moves for ``silent_s`` while something waits for an
   acknowledgement is closed. Nothing moves on an idle link, and nothing is expected: idle is free.
7. With nothing to wait for, ``wake_at`` is None.

Dropped: an acknowledgement of every frame (a third of the messages of a stream of small calls).
They travel with what is sent anyway, and alone after ``ack_s``, ``ack_frames`` or ``ack_bytes``.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import msgspec


class LinkLimits(msgspec.Struct, frozen=True):
    """Times in seconds, sizes in bytes."""

    waiting_most_bytes: int = 16 << 20
    """More than this unacknowledged, and the owner is told that the link is congested."""
    suspect_s: float = 0.5
    silent_s: float = 10.0
    ack_s: float = 0.05
    ack_frames: int = 64
    ack_bytes: int = 1 << 20
    redial_s: float = 0.05
    redial_most_s: float = 2.0
    steady_s: float = 0.2
    """A connection that lived so long is dialled again at once, any other after a pause."""


# ---- what happened
@dataclass(frozen=True, slots=True)
class Given:
    """The owner wants a body to reach the peer."""

    data: bytes


@dataclass(frozen=True, slots=True)
class AddressesKnown:
    """Where the peer can be dialled, best first; none: only it can dial."""

    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DialFailed:
    """The dial that was under way came to nothing before the peer had proved itself."""

    why: str


@dataclass(frozen=True, slots=True)
class Reached:
    """The dialled peer has proved itself."""

    connection: int


@dataclass(frozen=True, slots=True)
class Greeted:
    """The peer's ``Hello`` came on a connection."""

    connection: int
    is_dialled: bool
    """By this side."""
    epoch: int
    knows: int
    received: int
    turn: int


@dataclass(frozen=True, slots=True)
class FrameCame:
    """A frame with a body, or only an acknowledgement (number 0)."""

    connection: int
    number: int
    ack: int
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Moved:
    """The peer's machine has taken bytes of what was written."""

    connection: int


@dataclass(frozen=True, slots=True)
class Ended:
    """A connection is gone."""

    connection: int
    why: str


@dataclass(frozen=True, slots=True)
class ToldOver:
    """The peer says that this node's epoch is over."""

    connection: int
    why: str


@dataclass(frozen=True, slots=True)
class Forgotten:
    """The peer was declared dead: its present epoch never counts again."""


@dataclass(frozen=True, slots=True)
class Ticked:
    """``wake_at`` has come."""


Event = (
    Given | AddressesKnown | DialFailed | Reached | Greeted | FrameCame | Moved | Ended
    | ToldOver | Forgotten | Ticked
)  # fmt: skip


# ---- what to do
@dataclass(frozen=True, slots=True)
class Dial:
    """Dial; answered by ``Reached`` or ``DialFailed``."""

    address: str


@dataclass(frozen=True, slots=True)
class Greet:
    """Send ``Hello`` on a connection."""

    connection: int
    knows: int
    received: int
    turn: int


@dataclass(frozen=True, slots=True)
class Write:
    """Send a numbered body, with an acknowledgement of what was received."""

    connection: int
    number: int
    ack: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """Send an acknowledgement alone."""

    connection: int
    ack: int


@dataclass(frozen=True, slots=True)
class Close:
    """End a connection; ``is_over``: tell the peer that its epoch is."""

    connection: int
    why: str
    is_over: bool = False


@dataclass(frozen=True, slots=True)
class Deliver:
    """The next body for the owner."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Linked:
    """There is a connection again; ``is_new``: with an epoch that there was no session with."""

    epoch: int
    is_new: bool


@dataclass(frozen=True, slots=True)
class SessionEnded:
    """The epoch that the session was with is over; so many bodies may not have arrived."""

    epoch: int
    undelivered: int


@dataclass(frozen=True, slots=True)
class Suspected:
    """See rule 5."""

    why: str


@dataclass(frozen=True, slots=True)
class Congested:
    """More (or again less than half of that) waits than ``waiting_most_bytes``."""

    is_congested: bool


@dataclass(frozen=True, slots=True)
class Fenced:
    """This node's own epoch is over for the peer."""

    why: str


Command = (
    Dial | Greet | Write | Acknowledge | Close | Deliver | Linked | SessionEnded | Suspected
    | Congested | Fenced
)  # fmt: skip


class Link:
    """One node's side of the link with one peer."""

    def __init__(self, node: str, epoch: int, peer: str, limits: LinkLimits | None = None) -> None:
        self.node = node
        self.epoch = epoch
        self.peer = peer
        self.peer_epoch = 0
        """That the session is with; 0: none yet."""
        self.connection: int | None = None
        """The one that is used."""
        self.is_suspected = False
        self.is_congested = False
        self._limits = limits or LinkLimits()
        self._over = 0
        """Epochs of the peer up to here have been declared dead."""
        # ---- sending
        self._waiting: deque[bytes] = deque()
        """Bodies ``_acked + 1 .. _acked + len``."""
        self._waiting_bytes = 0
        self._acked = 0
        self._moved_at = 0.0
        # ---- receiving
        self._received = 0
        self._unsaid_frames = 0
        self._unsaid_bytes = 0
        """Received since the last acknowledgement went out."""
        self._ack_at: float | None = None
        # ---- connections
        self._addresses: tuple[str, ...] = ()
        self._address_index = 0
        self._turn = 0
        """The highest that is known."""
        self._key = (0, False)
        """Turn of the current connection, and whether the smaller node id dialled it."""
        self._linked_at = 0.0
        self._greeting: int | None = None
        """A dialled connection that waits for the peer's Hello."""
        self._is_dialling = False
        self._dial_at: float | None = None
        self._pause_s = 0.0
        self._lost_at: float | None = None
        self._failure = ""

    # ---- the one entry
    def step(self, now: float, event: Event) -> list[Command]:
        """Take in what happened; what is to be done, in this order."""
        out: list[Command] = []
        match event:
            case Given():
                self._given(now, event.data, out)
            case FrameCame():
                self._frame_came(now, event, out)
            case Moved():
                if event.connection == self.connection:
                    self._moved_at = now
            case Greeted():
                self._greeted(now, event, out)
            case Reached():
                self._reached(event.connection, out)
            case DialFailed():
                self._dial_failed(now, event.why)
            case Ended():
                self._ended(now, event)
            case AddressesKnown():
                self._addresses_known(now, event.addresses)
            case ToldOver():
                self._told_over(now, event, out)
            case Forgotten():
                self._forgotten(out)
            case Ticked():
                pass
        self._look(now, out)
        return out

    @property
    def wake_at(self) -> float | None:
        """When ``Ticked`` is due at the latest."""
        times = [self._ack_at, self._dial_at, self._suspect_at(), self._silent_at()]
        return min((at for at in times if at is not None), default=None)

    @property
    def waiting_bytes(self) -> int:
        """What the peer has not acknowledged."""
        return self._waiting_bytes

    @property
    def position(self) -> tuple[int, int, int]:
        """(number of the last body given, acknowledged by the peer, received from it)."""
        return self._acked + len(self._waiting), self._acked, self._received

    def _suspect_at(self) -> float | None:
        if self._lost_at is None or self.is_suspected or not (self._failure or self._is_passive()):
            return None
        return self._lost_at + self._limits.suspect_s

    def _is_passive(self) -> bool:
        return not self._addresses

    def _silent_at(self) -> float | None:
        if self.connection is None or not self._waiting:
            return None
        return self._moved_at + self._limits.silent_s

    def _look(self, now: float, out: list[Command]) -> None:
        """Do what is due."""
        if self._ack_at is not None and now >= self._ack_at:
            self._acknowledge(out)
        silent_at = self._silent_at()
        if silent_at is not None and now >= silent_at and self.connection is not None:
            why = f"it took nothing for {self._limits.silent_s:g} s"
            out.append(Close(self.connection, why))
            self._lose(now, why)
        if self._dial_at is not None and now >= self._dial_at:
            self._dial_at = None
            self._is_dialling = True
            out.append(Dial(self._addresses[self._address_index % len(self._addresses)]))
        suspect_at = self._suspect_at()
        if suspect_at is not None and now >= suspect_at:
            self.is_suspected = True
            out.append(Suspected(self._failure or "its connection ended and it has not come back"))

    # ---- sending
    def _given(self, now: float, data: bytes, out: list[Command]) -> None:
        if not self._waiting:
            self._moved_at = now
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        if self.connection is not None:
            self._write(self.connection, self._acked + len(self._waiting), data, out)
        self._judge_congestion(out)

    def _write(self, connection: int, number: int, data: bytes, out: list[Command]) -> None:
        out.append(Write(connection, number, self._received, data))
        self._said()

    def _judge_congestion(self, out: list[Command]) -> None:
        most = self._limits.waiting_most_bytes
        if self.is_congested:
            is_congested = self._waiting_bytes > most // 2
        else:
            is_congested = self._waiting_bytes > most
        if is_congested != self.is_congested:
            self.is_congested = is_congested
            out.append(Congested(is_congested))

    def _take_ack(self, ack: int) -> bool:
        """Let go of what the peer has; False: it cannot have that."""
        if ack > self._acked + len(self._waiting):
            return False
        while self._acked < ack:
            self._waiting_bytes -= len(self._waiting.popleft())
            self._acked += 1
        return True

    # ---- receiving
    def _frame_came(self, now: float, event: FrameCame, out: list[Command]) -> None:
        if not self._is_current(event.connection):
            return
        acked = self._acked
        if not self._take_ack(event.ack):
            self._break(now, f"it acknowledged frame {event.ack}, which was never sent", out)
            return
        if self._acked != acked:
            self._moved_at = now
            self._judge_congestion(out)
        if event.number == 0:
            return
        if event.number > self._received + 1:
            self._break(
                now, f"frame {event.number} came after {self._received}: some are missing", out
            )
            return
        self._unsaid_frames += 1
        self._unsaid_bytes += len(event.data)
        if event.number == self._received + 1:
            self._received = event.number
            out.append(Deliver(event.data))
        limits = self._limits
        if self._unsaid_frames >= limits.ack_frames or self._unsaid_bytes >= limits.ack_bytes:
            self._acknowledge(out)
        elif self._ack_at is None:
            self._ack_at = now + limits.ack_s

    def _is_current(self, connection: int) -> bool:
        return connection == self.connection

    def _acknowledge(self, out: list[Command]) -> None:
        if self.connection is not None:
            out.append(Acknowledge(self.connection, self._received))
        self._said()

    def _said(self) -> None:
        self._unsaid_frames = self._unsaid_bytes = 0
        self._ack_at = None

    def _break(self, now: float, why: str, out: list[Command]) -> None:
        assert self.connection is not None
        out.append(Close(self.connection, why))
        self._lose(now, why)

    # ---- connections
    def _greeting_of(self, connection: int, turn: int) -> Greet:
        return Greet(connection, self.peer_epoch, self._received, turn)

    def _reached(self, connection: int, out: list[Command]) -> None:
        if self.connection is not None:
            # The peer dialled meanwhile. It has seen no Hello on ours, so it cannot have chosen it.
            self._is_dialling = False
            out.append(Close(connection, "the peer was faster"))
            return
        self._greeting = connection
        self._turn += 1
        out.append(self._greeting_of(connection, self._turn))

    def _greeted(self, now: float, event: Greeted, out: list[Command]) -> None:
        if event.is_dialled:
            if event.connection != self._greeting:
                out.append(Close(event.connection, "it was given up"))
                return
            self._greeting = None
            self._is_dialling = False
        if event.epoch < self.peer_epoch or event.epoch <= self._over:
            why = f"epoch {event.epoch} of node {self.peer} is over"
            out.append(Close(event.connection, why, is_over=True))
            self._failure = why
            self._plan_dial(now)
            return
        if event.knows > self.epoch:
            out.append(Close(event.connection, "a later epoch of this node was met"))
            self._fence(f"node {self.peer} has met epoch {event.knows} of this node", out)
            return
        self._turn = max(self._turn, event.turn)
        key = (event.turn, self._did_smaller_dial(event.is_dialled))
        is_known = event.epoch == self.peer_epoch
        if is_known and self.connection is not None and not self._does_win(key):
            out.append(Close(event.connection, "another connection between the two was chosen"))
            return
        if self.connection is not None:
            out.append(Close(self.connection, "a later connection replaces it"))
        if not is_known:
            self._begin_session(event.epoch, out)
        if not self._take_ack(event.received if event.knows == self.epoch else 0):
            why = f"it claims to have frame {event.received}, which was never sent"
            out.append(Close(event.connection, why))
            self._lose(now, why)
            return
        self._use(now, event, key, out)
        out.append(Linked(self.peer_epoch, is_new=not is_known))

    def _did_smaller_dial(self, is_dialled: bool) -> bool:
        return is_dialled == (self.node < self.peer)

    def _does_win(self, key: tuple[int, bool]) -> bool:
        return key > self._key

    def _use(self, now: float, event: Greeted, key: tuple[int, bool], out: list[Command]) -> None:
        """Go on with this connection, from where the peer stands."""
        if not event.is_dialled:
            out.append(self._greeting_of(event.connection, event.turn))
        self.connection = event.connection
        self._key = key
        self._linked_at = self._moved_at = now
        self._lost_at = self._dial_at = None
        self._failure = ""
        self.is_suspected = False
        for number, data in enumerate(self._waiting, self._acked + 1):
            self._write(event.connection, number, data, out)
        self._said()
        self._judge_congestion(out)

    def _begin_session(self, epoch: int, out: list[Command]) -> None:
        if self.peer_epoch:
            out.append(SessionEnded(self.peer_epoch, len(self._waiting)))
            self._drop_waiting()
            self._judge_congestion(out)
        self._acked = self._received = 0
        self.peer_epoch = epoch

    def _drop_waiting(self) -> None:
        self._waiting.clear()
        self._waiting_bytes = 0

    def _ended(self, now: float, event: Ended) -> None:
        if event.connection == self._greeting:
            self._greeting = None
            self._dial_failed(now, event.why)
        if event.connection == self.connection:
            self._lose(now, event.why)

    def _lose(self, now: float, why: str) -> None:
        """The current connection is gone."""
        if self.connection is not None and now - self._linked_at >= self._limits.steady_s:
            self._pause_s = 0.0
        self.connection = None
        self._said()
        if self._lost_at is None:
            self._lost_at = now
        self._failure = "" if self._addresses else why
        self._plan_dial(now)

    def _plan_dial(self, now: float) -> None:
        """Dial when the pause is over, and make the next pause longer."""
        is_busy = self.connection is not None or self._is_dialling
        if is_busy or not self._addresses or self._dial_at is not None:
            return
        self._dial_at = now + self._pause_s
        limits = self._limits
        self._pause_s = min(max(2 * self._pause_s, limits.redial_s), limits.redial_most_s)

    def _dial_failed(self, now: float, why: str) -> None:
        self._is_dialling = False
        self._address_index += 1
        if self.connection is None:
            self._failure = why
            if self._lost_at is None:
                self._lost_at = now
            self._plan_dial(now)

    def _addresses_known(self, now: float, addresses: tuple[str, ...]) -> None:
        if addresses == self._addresses:
            return
        self._addresses = addresses
        self._address_index = 0
        self._pause_s = 0.0
        self._dial_at = None
        if self.connection is None and addresses:
            if self._lost_at is None:
                self._lost_at = now
            self._plan_dial(now)

    def _told_over(self, now: float, event: ToldOver, out: list[Command]) -> None:
        if event.connection not in (self.connection, self._greeting):
            return
        self._fence(event.why, out)

    def _fence(self, why: str, out: list[Command]) -> None:
        out.append(Fenced(why))
        # To dial again with this epoch would only be refused again.
        self._addresses = ()
        self._dial_at = None

    def _forgotten(self, out: list[Command]) -> None:
        for connection in (self.connection, self._greeting):
            if connection is not None:
                out.append(Close(connection, "the node was declared dead", is_over=True))
        self._over = max(self._over, self.peer_epoch)
        if self.peer_epoch:
            out.append(SessionEnded(self.peer_epoch, len(self._waiting)))
        self._drop_waiting()
        self._judge_congestion(out)
        self._acked = self._received = 0
        self.peer_epoch = 0
        self.connection = self._greeting = None
        self._said()
        self._addresses = ()
        self._dial_at = self._lost_at = None
        self.is_suspected = False
        self._failure = ""

    # ---- rules
    def validate(self) -> None:
        """Assert what must always hold."""
        assert self._waiting_bytes == sum(map(len, self._waiting))
        assert self._acked >= 0 and self._received >= 0
        assert self.peer_epoch == 0 or self.peer_epoch > self._over
        assert self.peer_epoch != 0 or (self._acked == 0 and self._received == 0)
        assert self.connection is None or self.peer_epoch != 0
        assert self.connection is None or self._lost_at is None
        assert self._dial_at is None or (self._addresses and not self._is_dialling)
        assert self._unsaid_frames == 0 or self._ack_at is not None
        most = self._limits.waiting_most_bytes
        if self.is_congested:
            assert self._waiting_bytes > most // 2
        else:
            assert self._waiting_bytes <= most
