"""Where the bytes of this node's values are, and who pulls them from whom (RULES O-5, O-7).

Home knows all copies, so it answers who wants one: pull from there. A node that has got the bytes
is a source from that moment on, and a source gives to few at a time; so one value that all nodes
want goes through them like a rumour, in about log2(nodes) times of one transfer, and home itself
sends it as often as anybody. ::

    B, C, D want          A (home) -> B
    B has it              A -> C, B -> D
    more want             A, B, C, D each give to one or two

One copy is *primary*: it is the one that is never dropped without home's word. The node that has it
may spill it; if it would rather drop it, home makes another copy the primary one first::

    B  LeaveCopy   -> A      A  TakePrimary  -> C       C has it:    PrimaryTaken -> A
                                                        C has not:   its CopyDropped is on its
                                                                     way, and A asks the next one
    B <- FreePrimary   A     (nobody else has it: B <- LeaveRefused, and B spills)

So two that evict at the same time cannot both be right: an ordinary copy may go while it is on the
way to become primary, and then home asks the next.

Invariants (``validate``):

1. The primary copy is one of the places, unless there is no place: then the value is being made
   again, or home has given up.
2. A source serves at most ``pulls_most`` at a time; a driver's machine one, and only while no other
   place is left to try.
3. Who waits has no source and is not a place; who pulls has exactly one.
4. If somebody waits, then every place that could serve him is busy or has failed him, and there is
   a deadline at which those that have failed him are tried again.

A transfer that fails is tried from other places first. If no place can give it to that node (links
need not be transitive), home fetches it itself, and gives it (RELIABILITY N4).
"""

from __future__ import annotations

import msgspec

from shoal._core import copy_events as ev
from shoal._core.deadlines import Deadlines
from shoal._core.remote_ref_events import Send
from shoal._proto.holds import (
    CopyBody,
    CopyDropped,
    CopyFailed,
    CopyLanded,
    FreePrimary,
    LeaveCopy,
    LeaveRefused,
    NoCopy,
    PrimaryTaken,
    TakePrimary,
    WantCopy,
)

PULLS_MOST = 2
"""One transfer at a time fills a link; the second hides the round trip of the next question."""
RETRY_S = 0.2
"""A place that has failed a node is tried again after this."""


class Place(msgspec.Struct):
    """A node with the bytes."""

    serves: int = 0
    served: int = 0


class Wish(msgspec.Struct):
    """A node that waits for a source."""

    failed: dict[str, None] = {}
    """Places that could not give it, since it was last tried from all of them."""
    retry_at: float | None = None


class Value(msgspec.Struct):
    """One value of this node."""

    places: dict[str, Place] = {}
    primary: str = ""
    waiting: dict[str, Wish] = {}
    pulls: dict[str, str] = {}
    """By puller: its source."""
    pulled: dict[str, Wish] = {}
    """By puller: its wish, should the pull fail."""
    leaving: str = ""
    """The primary place, while it waits for home's word."""
    successor: str = ""
    """Who was asked to be the primary place."""
    is_fetched: bool = False
    """Home gets it for others."""
    record: bytes | None = None
    """The error, if its bytes are lost for good."""

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to remember."""
        return self.record is None and not (self.places or self.waiting or self.pulls)

    def add_place(self, node: str) -> None:
        """That node has the bytes (again)."""
        if node not in self.places:
            serves = sum(source == node for source in self.pulls.values())
            self.places[node] = Place(serves)


class CopiesAtHome:
    """All values of this node whose bytes others have, or want."""

    def __init__(self, node: str, pulls_most: int = PULLS_MOST, retry_s: float = RETRY_S) -> None:
        self.node = node
        self._pulls_most = pulls_most
        self._retry_s = retry_s
        self._values: dict[int, Value] = {}
        self._drivers: set[str] = set()
        self._retries: Deadlines[int] = Deadlines()

    def step(self, now: float, event: ev.AtHome) -> list[ev.Command]:
        """What happened; what is to be done, in that order."""
        out: list[ev.Command] = []
        match event:
            case ev.CopyHeard(node, body):
                self._hear(now, out, node, body)
            case ev.Stored(key, node):
                self._store(now, out, key, node)
            case ev.GivenUp(key, record):
                value = self._values.pop(key, Value())
                self._retries.set(key, None)
                out += [Send(node, NoCopy(key, record)) for node in (*value.waiting, *value.pulls)]
                self._values[key] = Value(record=record)
            case ev.Unneeded(key):
                self._free(out, key)
            case ev.NodeRole(node, is_driver):
                if is_driver:
                    self._drivers.add(node)
            case ev.NodeGone(node):
                self._drivers.discard(node)
                for key in list(self._values):
                    self._lose_node(now, out, key, node)
            case ev.Ticked():
                for key in self._retries.due(now):
                    self._serve(now, out, key, self._values[key])
        return out

    @property
    def is_empty(self) -> bool:
        """Whether nobody has, or wants, the bytes of anything."""
        return not self._values

    def places(self, key: int) -> list[str]:
        """The nodes that have its bytes, the primary one first."""
        value = self._values.get(key)
        if value is None:
            return []
        return sorted(value.places, key=lambda node: node != value.primary)

    def next_deadline(self) -> float | None:
        """When to feed ``Ticked``."""
        return self._retries.next()

    def _store(self, now: float, out: list[ev.Command], key: int, node: str) -> None:
        value = self._values.setdefault(key, Value())
        self._end_pull(value, node)
        value.waiting.pop(node, None)
        if value.primary not in ("", node):
            # A copy has turned up while it was made again: one primary copy is enough.
            out.append(Send(node, FreePrimary(key)))
            return
        value.add_place(node)
        value.primary = node
        self._serve(now, out, key, value)

    # ---- what nodes say
    def _hear(self, now: float, out: list[ev.Command], node: str, body: CopyBody) -> None:
        key = body.key
        value = self._values.get(key)
        if value is None:
            if isinstance(body, WantCopy):
                # Its bytes are not stored yet, or are being made again.
                self._values[key] = Value(waiting={node: Wish()})
            elif isinstance(body, PrimaryTaken | LeaveCopy):
                out.append(Send(node, FreePrimary(key)))
            return
        if value.record is not None:
            if isinstance(body, WantCopy | CopyLanded):
                out.append(Send(node, NoCopy(key, value.record)))
            return
        match body:
            case WantCopy():
                # A place that asks has asked before the bytes were made there.
                if node not in value.pulls and node not in value.places:
                    value.waiting.setdefault(node, Wish())
            case CopyLanded():
                self._end_pull(value, node)
                value.add_place(node)
                if not value.primary:
                    value.primary = node
                    self._find_successor(out, key, value)
                value.is_fetched = value.is_fetched and node != self.node
            case CopyFailed(_, source):
                if (wish := self._end_pull(value, node)) is not None:
                    wish.failed[source] = None
                    value.waiting[node] = wish
            case CopyDropped():
                self._end_pull(value, node)
                value.waiting.pop(node, None)
                self._lose_place(out, key, value, node)
                if node == value.successor:
                    self._find_successor(out, key, value)
            case LeaveCopy() if node == value.primary:
                value.leaving = node
                if not value.successor:
                    self._find_successor(out, key, value)
            case LeaveCopy():
                value.places.pop(node, None)
                out.append(Send(node, FreePrimary(key)))
            case PrimaryTaken():
                self._take_primary(out, key, value, node)
        self._serve(now, out, key, value)
        self._maybe_forget(key, value)

    def _take_primary(self, out: list[ev.Command], key: int, value: Value, node: str) -> None:
        if node != value.successor:
            # It dropped its copy when home asked, and has had another one since.
            if node != value.primary:
                value.places.pop(node, None)
                out.append(Send(node, FreePrimary(key)))
            return
        value.successor, value.primary = "", node
        if value.leaving:
            # From here on nobody is sent to it.
            value.places.pop(value.leaving, None)
            out.append(Send(value.leaving, FreePrimary(key)))
            value.leaving = ""

    def _find_successor(self, out: list[ev.Command], key: int, value: Value) -> None:
        """Ask the next copy to be the primary one; refuse if there is none."""
        value.successor = ""
        others = [node for node in value.places if node != value.leaving]
        if others:
            value.successor = min(others, key=lambda node: node in self._drivers)
            out.append(Send(value.successor, TakePrimary(key)))
        elif value.leaving:
            out.append(Send(value.leaving, LeaveRefused(key)))
            value.leaving = ""

    def _lose_place(self, out: list[ev.Command], key: int, value: Value, node: str) -> None:
        """Its bytes are gone; if they were the primary ones, others are."""
        if value.places.pop(node, None) is None:
            return
        if node == value.leaving:
            value.leaving = ""
        if node != value.primary:
            return
        if value.places:
            value.primary = next(iter(value.places))
            if not value.successor:
                self._find_successor(out, key, value)
        else:
            value.primary = ""
            out.append(ev.Remake(key))

    def _lose_node(self, now: float, out: list[ev.Command], key: int, node: str) -> None:
        value = self._values[key]
        self._end_pull(value, node)
        value.waiting.pop(node, None)
        self._lose_place(out, key, value, node)
        if node == value.successor:
            self._find_successor(out, key, value)
        self._serve(now, out, key, value)
        self._maybe_forget(key, value)

    def _maybe_forget(self, key: int, value: Value) -> None:
        if value.is_idle:
            self._free([], key)

    def _free(self, out: list[ev.Command], key: int) -> None:
        value = self._values.pop(key, None)
        self._retries.set(key, None)
        if value is not None:
            kept = {value.primary, value.successor} - {""}
            out += [Send(node, FreePrimary(key)) for node in sorted(kept)]

    # ---- sources
    def _serve(self, now: float, out: list[ev.Command], key: int, value: Value) -> None:
        """Send who waits to who can give."""
        is_busy = False
        for node, wish in list(value.waiting.items()):
            if wish.retry_at is not None and now >= wish.retry_at:
                wish.failed.clear()
                wish.retry_at = None
            if is_busy and not wish.failed:
                continue  # As for the one before: a thousand may wait.
            source = self._source(value, wish)
            is_busy = is_busy or not (source or wish.failed)
            if source:
                del value.waiting[node]
                value.pulls[node], value.pulled[node] = source, wish
                wish.retry_at = None
                value.places[source].serves += 1
                out.append(ev.Direct(node, key, source))
            elif value.places and wish.retry_at is None and value.places.keys() <= set(wish.failed):
                wish.retry_at = now + self._retry_s
                self._maybe_fetch(out, key, value)
        moments = (wish.retry_at for wish in value.waiting.values() if wish.failed)
        self._retries.set(key, min((at for at in moments if at is not None), default=None))

    def _maybe_fetch(self, out: list[ev.Command], key: int, value: Value) -> None:
        """Home gets it, unless it has it, or is about to."""
        if not value.is_fetched and self.node not in (*value.places, *value.pulls, *value.waiting):
            value.is_fetched = True
            out.append(ev.FetchHome(key))

    def _source(self, value: Value, wish: Wish) -> str:
        """The place with the fewest pulls that can give it now; empty if none can."""
        left = [node for node in value.places if node not in wish.failed]
        settled = [node for node in left if node not in self._drivers]
        most = self._pulls_most if settled else 1
        fit = [
            (place.serves, place.served, node)
            for node in settled or left
            if node != value.leaving and (place := value.places[node]).serves < most
        ]
        return min(fit)[2] if fit else ""

    def _end_pull(self, value: Value, node: str) -> Wish | None:
        source = value.pulls.pop(node, None)
        if source is None:
            return None
        place = value.places.get(source)
        if place is not None:
            place.serves -= 1
            place.served += 1
        return value.pulled.pop(node)

    def validate(self) -> None:
        """Assert the invariants."""
        for key, value in self._values.items():
            assert (value.primary in value.places) if value.places else not value.primary, key
            assert not value.leaving or value.leaving == value.primary, key
            assert not value.successor or value.successor in value.places, key
            assert value.pulls.keys() == value.pulled.keys(), key
            assert not value.waiting.keys() & (value.pulls.keys() | value.places.keys()), key
            for node, place in value.places.items():
                serves = sum(source == node for source in value.pulls.values())
                assert place.serves == serves <= self._pulls_most, (key, node)
                assert serves <= 1 or node not in self._drivers, (key, node)
            for wish in value.waiting.values():
                assert not self._source(value, wish), key
                assert wish.retry_at is None or key in self._retries, key
        self._retries.validate()
