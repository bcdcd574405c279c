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

from shoal._core.link_events import (
    Acknowledge,
    AddressesKnown,
    BeganAnew,
    Close,
    Command,
    Deliver,
    Dial,
    DialFailed,
    Ended,
    Event,
    Fenced,
    Forgotten,
    FrameCame,
    Given,
    Greet,
    Greeted,
    Linked,
    LinkLimits,
    Moved,
    Reached,
    Refused,
    SessionEnded,
    Ticked,
    ToldOver,
    Write,
)
from shoal._core.link_parts import Dialling, Inbox, Outbox, Suspicion


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
        self._limits = limits or LinkLimits()
        self.suspicion = Suspicion(self._limits)
        self.outbox = Outbox(self._limits)
        self.inbox = Inbox(self._limits)
        self._dialling = Dialling(self._limits)
        self._over = 0
        """Epochs of the peer up to here have been declared dead."""
        self._turn = 0
        """The highest that is known."""
        self._key = (0, False)
        """Of the current connection: its turn, and whether the smaller node id dialled it."""
        self._linked_at = 0.0
        self._moved_at = 0.0
        self._is_peers_end = False
        """The peer has ended the last connection that was used, or has ended itself."""
        self._greeting: int | None = None
        """A dialled connection that waits for the peer's Hello."""

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
                if event.was_refused and self.connection is None and self._is_peers_end:
                    out.append(Refused(self._dialling.dialled_at))
            case Ended():
                self._ended(now, event)
            case AddressesKnown():
                if self._dialling.know(event.addresses) and self.connection is None:
                    self._want(now)
            case ToldOver():
                if event.connection in (self.connection, self._greeting):
                    self._fence(event.why, out)
            case Forgotten():
                self._over = max(self._over, self.peer_epoch)
                self._dialling.know(())
                self._end_session("the node was declared dead", True, out)
            case BeganAnew():
                self.epoch = event.epoch
                self._end_session("the node goes on as another epoch", False, out)
                self._dialling.plan(now)
            case Ticked():
                pass
        self._look(now, out)
        return out

    @property
    def wake_at(self) -> float | None:
        """When ``Ticked`` is due at the latest."""
        suspect_at = self.suspicion.at(not self._dialling.addresses)
        times = [self.inbox.ack_at, self._dialling.at, suspect_at, self._silent_at()]
        return min((at for at in times if at is not None), default=None)

    def _silent_at(self) -> float | None:
        if self.connection is None or not self.outbox:
            return None
        return self._moved_at + self._limits.silent_s

    def _look(self, now: float, out: list[Command]) -> None:
        """Do what is due."""
        if self.inbox.ack_at is not None and now >= self.inbox.ack_at:
            self._acknowledge(out)
        silent_at = self._silent_at()
        if silent_at is not None and now >= silent_at:
            self._break(now, f"it took nothing for {self._limits.silent_s:g} s", out)
        address = self._dialling.due(now)
        if address is not None:
            out.append(Dial(address))
        suspect_at = self.suspicion.at(not self._dialling.addresses)
        if suspect_at is not None and now >= suspect_at:
            out.append(self.suspicion.tell())

    # ---- sending
    def _given(self, now: float, data: bytes, out: list[Command]) -> None:
        if not self.outbox:
            self._moved_at = now
        number = self.outbox.add(data)
        if self.connection is not None:
            self._write(self.connection, number, data, out)
        out += self.outbox.judge()

    def _write(self, connection: int, number: int, data: bytes, out: list[Command]) -> None:
        out.append(Write(connection, number, self.inbox.received, data))
        self.inbox.said()

    # ---- receiving
    def _frame_came(self, now: float, event: FrameCame, out: list[Command]) -> None:
        if not self._is_current(event.connection):
            return
        acked, received = self.outbox.acked, self.inbox.received
        if not self.outbox.take_ack(event.ack):
            self._break(now, f"it acknowledged frame {event.ack}, which was never sent", out)
        elif event.number > received + 1:
            self._break(now, f"frame {event.number} came after {received}: some are missing", out)
        else:
            if self.outbox.acked != acked:
                self._moved_at = now
                out += self.outbox.judge()
            if event.number and self.inbox.came(now, event.number, len(event.data)):
                out.append(Deliver(event.data))

    def _is_current(self, connection: int) -> bool:
        return connection == self.connection

    def _acknowledge(self, out: list[Command]) -> None:
        if self.connection is not None:
            out.append(Acknowledge(self.connection, self.inbox.received))
        self.inbox.said()

    # ---- connections
    def _reached(self, connection: int, out: list[Command]) -> None:
        if self.connection is not None:
            # The peer dialled meanwhile. It has seen no Hello on ours, so it cannot have chosen it.
            self._dialling.is_under_way = False
            out.append(Close(connection, "the peer was faster"))
            return
        self._greeting = connection
        self._turn += 1
        out.append(self._greeting_of(connection, self._turn))

    def _greeting_of(self, connection: int, turn: int) -> Greet:
        return Greet(connection, self.peer_epoch, self.inbox.received, turn)

    def _greeted(self, now: float, event: Greeted, out: list[Command]) -> None:
        if event.is_dialled:
            if event.connection != self._greeting:
                out.append(Close(event.connection, "it was given up"))
                return
            self._greeting = None
            self._dialling.is_under_way = False
        if event.epoch < self.peer_epoch or event.epoch <= self._over:
            why = self.suspicion.failure = f"epoch {event.epoch} of node {self.peer} is over"
            out.append(Close(event.connection, why, is_over=True))
            if self.connection is None:
                self._dialling.plan(now)
            return
        if event.knows > self.epoch:
            out.append(Close(event.connection, "a later epoch of this node was met"))
            self._fence(f"node {self.peer} has met epoch {event.knows} of this node", out)
            return
        self._turn = max(self._turn, event.turn)
        is_known = event.epoch == self.peer_epoch
        if is_known and self.connection is not None and not self._does_win(self._key_of(event)):
            out.append(Close(event.connection, "another connection between the two was chosen"))
            return
        if self.connection is not None:
            out.append(Close(self.connection, "a later connection replaces it"))
        if not is_known:
            self._begin_session(event.epoch, out)
        self.connection = event.connection
        self._linked_at = self._moved_at = now
        self.suspicion.over()
        if not self.outbox.take_ack(event.received if event.knows == self.epoch else 0):
            self._break(now, f"it claims frame {event.received}, which was never sent", out)
            return
        self._use(event, out)
        out.append(Linked(self.peer_epoch, is_new=not is_known))

    def _key_of(self, event: Greeted) -> tuple[int, bool]:
        return event.turn, event.is_dialled == (self.node < self.peer)

    def _does_win(self, key: tuple[int, bool]) -> bool:
        return key > self._key

    def _use(self, event: Greeted, out: list[Command]) -> None:
        """Go on with this connection, from where the peer stands."""
        if not event.is_dialled:
            out.append(self._greeting_of(event.connection, event.turn))
        self._key = self._key_of(event)
        self._dialling.linked()
        for number, data in self.outbox.numbered():
            self._write(event.connection, number, data, out)
        self.inbox.said()
        out += self.outbox.judge()

    def _begin_session(self, epoch: int, out: list[Command]) -> None:
        if self.peer_epoch:
            out.append(SessionEnded(self.peer_epoch, len(self.outbox)))
            self.outbox.drop()
            out += self.outbox.judge()
        self.outbox.acked = self.inbox.received = 0
        self.peer_epoch = epoch

    def _ended(self, now: float, event: Ended) -> None:
        if event.connection == self._greeting:
            self._greeting = None
            self._dial_failed(now, event.why)
        if event.connection == self.connection:
            self._lose(now, event.why)
            self._is_peers_end = event.is_peers

    def _break(self, now: float, why: str, out: list[Command]) -> None:
        """End the current connection: it is of no more use."""
        if self.connection is not None:
            out.append(Close(self.connection, why))
            self._lose(now, why)
        out += self.outbox.judge()

    def _lose(self, now: float, why: str) -> None:
        """The current connection is gone."""
        if now - self._linked_at >= self._limits.steady_s:
            self._dialling.was_steady()
        self.connection = None
        self._is_peers_end = False
        self.inbox.said()
        self.suspicion.failure = "" if self._dialling.addresses else why
        self._want(now)

    def _want(self, now: float) -> None:
        """There is no connection, and there should be one."""
        if self._dialling.addresses or self.peer_epoch:
            self.suspicion.lost(now)
        self._dialling.plan(now)

    def _dial_failed(self, now: float, why: str) -> None:
        self._dialling.failed()
        if self.connection is None:
            self.suspicion.failure = why
            self._want(now)

    def _fence(self, why: str, out: list[Command]) -> None:
        out.append(Fenced(why))
        # To dial again with this epoch would only be refused again.
        self._dialling.know(())

    def _end_session(self, why: str, is_over: bool, out: list[Command]) -> None:
        """Begin again from nothing; ``is_over``: the peer's epoch is."""
        for connection in (self.connection, self._greeting):
            if connection is not None:
                out.append(Close(connection, why, is_over))
        if self.peer_epoch:
            out.append(SessionEnded(self.peer_epoch, len(self.outbox)))
        if self._greeting is not None:
            self._dialling.is_under_way = False
        self.outbox.drop()
        out += self.outbox.judge()
        self.inbox.said()
        self.outbox.acked = self.inbox.received = 0
        self.peer_epoch = 0
        self.connection = self._greeting = None
        self.suspicion.over()

    # ---- rules
    def validate(self) -> None:
        """Assert what must always hold."""
        self.outbox.validate()
        self.inbox.validate()
        self._dialling.validate()
        assert self.peer_epoch == 0 or self.peer_epoch > self._over
        assert self.peer_epoch != 0 or (self.outbox.acked == 0 and self.inbox.received == 0)
        assert self.connection is None or self.peer_epoch != 0
        assert self.connection is None or self.suspicion.lost_at is None
        assert self.connection is None or self._dialling.at is None
