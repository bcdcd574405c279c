"""What a node has for the store: actors that were offered to it, bundles that it has reserved.

The node's own machine finds room, starts and ends processes; here stands what the store wants of
it and what it must hear. Each order ends in one fact (see ``_proto/membership.py``), however it is
crossed by others::

    OfferActor      -> ConsiderOffer  -> OfferDecided    => OfferAnswered, ActorAlive, ActorGone
    EndActor        -> StopActor      -> ActorDown       => ActorGone
    PrepareBundles  -> ReserveBundles -> BundlesDecided  => BundlesPrepared
    CommitBundles   -> OpenBundles                       => BundlesCommitted
    ReleaseBundles  -> FreeBundles    -> BundlesFreed    => BundlesReleased

1. An actor is here from the moment at which it is considered until its process has been reaped, or
   it was refused: in between it stands in ``whole``, so nobody else is given it meanwhile.
2. The end of an actor that is ordered while it is considered follows at once after the decision.
3. What was never here is not here: an order to end or release it is answered as done.
4. An offer, or bundles to prepare, of a former life of the store get no answer under its number.
   The actor was in ``whole``, and if it is refused after all, that is ``ActorGone("refused")``; the
   bundles were not, and are given back. Nor are those in ``whole`` that are being given back.
"""

from __future__ import annotations

import msgspec

from shoal._core.members import interface as on
from shoal._core.members.actor_table import is_lasting
from shoal._proto import membership as m

CONSIDERED, HERE = "considered", "here"
PREPARED, COMMITTED = "prepared", "committed"

ActorKey = tuple[str, int]
BundleKey = tuple[str, int]


class Resident(msgspec.Struct):
    """One incarnation on this node."""

    offer: m.OfferActor
    order: int
    """Of the offer; 0 if the store that made it has ended."""
    phase: str = CONSIDERED
    is_alive: bool = False
    ending: m.EndActor | None = None

    @property
    def is_leased(self) -> bool:
        """Whether it must end with the lease."""
        return is_lasting(self.offer.spec)


class Held(msgspec.Struct):
    """Bundles of one request on this node."""

    body: m.PrepareBundles
    order: int
    phase: str = CONSIDERED
    releasing: m.ReleaseBundles | None = None
    release_order: int = 0


class Residents:
    """Actors and bundles on one node."""

    def __init__(self) -> None:
        self.actors: dict[ActorKey, Resident] = {}
        self.bundles: dict[BundleKey, Held] = {}
        self._offers: dict[int, ActorKey] = {}
        """Order -> what is considered."""
        self._reserving: dict[int, BundleKey] = {}
        self.facts: list[m.Fact] = []
        """What the store is to hear; the owner takes them."""

    def follow(self, order: m.Order, may_start: bool, is_open: bool) -> list[on.NodeCommand]:
        """What an order leads to. ``may_start``: something that must not run twice may begin;
        ``is_open``: anything new may."""
        number = order.number
        match order.body:
            case m.OfferActor():
                return self._offered(number, order.body, may_start, is_open)
            case m.EndActor():
                return self._end(order.body)
            case m.PrepareBundles():
                if not is_open:
                    self._refuse_bundles(number, order.body, "the node accepts nothing new")
                    return []
                key = (order.body.spec.group_id, order.body.request)
                self.bundles[key] = Held(order.body, number)
                self._reserving[number] = key
                return [on.ReserveBundles(number, order.body)]
            case m.CommitBundles(group_id, request):
                return self._commit(number, group_id, request)
            case m.ReleaseBundles():
                return self._release(number, order.body)
        raise AssertionError(order)

    # ---- actors
    def _offered(
        self, number: int, offer: m.OfferActor, may_start: bool, is_open: bool
    ) -> list[on.NodeCommand]:
        spec = offer.spec
        why = "" if is_open else "the node accepts nothing new"
        if is_lasting(spec) and not may_start:
            why = "the lease of the node is too old"
        if why:
            self.facts.append(m.OfferAnswered(number, spec.actor_id, offer.incarnation, False, why))
            return []
        key = (spec.actor_id, offer.incarnation)
        assert key not in self.actors, key
        self.actors[key] = Resident(offer, number)
        self._offers[number] = key
        return [on.ConsiderOffer(number, offer)]

    def decided(self, event: on.OfferDecided) -> list[on.NodeCommand]:
        """The node has room for the actor and starts it, or not."""
        key = self._offers.pop(event.order, None)
        if key is None:
            return []
        resident = self.actors[key]
        actor_id, incarnation = key
        if resident.order:
            self.facts.append(
                m.OfferAnswered(event.order, actor_id, incarnation, event.is_accepted, event.why)
            )
        if event.is_accepted:
            resident.phase = HERE
            return self._stop(key, resident) if resident.ending is not None else []
        del self.actors[key]
        if resident.ending is not None or not resident.order:
            how = "refused" if resident.ending is None else "unknown"
            self.facts.append(m.ActorGone(actor_id, incarnation, how))
        return []

    def up(self, event: on.ActorUp) -> None:
        """Its constructor has returned."""
        resident = self.actors.get((event.actor_id, event.incarnation))
        if resident is not None:
            resident.is_alive = True
            self.facts.append(m.ActorAlive(event.actor_id, event.incarnation))

    def down(self, event: on.ActorDown) -> None:
        """Its process has been reaped."""
        resident = self.actors.pop((event.actor_id, event.incarnation), None)
        if resident is None:
            return
        how, cause = event.how, event.cause
        if resident.ending is not None:
            how, cause = resident.ending.how, resident.ending.cause or cause
        self.facts.append(m.ActorGone(event.actor_id, event.incarnation, how, cause))

    def _end(self, body: m.EndActor) -> list[on.NodeCommand]:
        key = (body.actor_id, body.incarnation)
        resident = self.actors.get(key)
        if resident is None:
            self.facts.append(m.ActorGone(body.actor_id, body.incarnation, "unknown"))
            return []
        was_ending, resident.ending = resident.ending is not None, body
        if resident.phase == CONSIDERED or was_ending:
            return []
        return self._stop(key, resident)

    @staticmethod
    def _stop(key: ActorKey, resident: Resident) -> list[on.NodeCommand]:
        assert resident.ending is not None
        return [on.StopActor(*key, resident.ending.how, resident.ending.cause)]

    def drain(self) -> list[on.NodeCommand]:
        """Restartable actors stop, and restart elsewhere (RULES A-15)."""
        commands: list[on.NodeCommand] = []
        for key, resident in self.actors.items():
            if resident.offer.spec.max_restarts and resident.ending is None:
                resident.ending = m.EndActor(*key, "drained")
                if resident.phase == HERE:
                    commands += self._stop(key, resident)
        return commands

    # ---- bundles
    def _refuse_bundles(self, number: int, body: m.PrepareBundles, why: str) -> None:
        group_id = body.spec.group_id
        self.facts.append(m.BundlesPrepared(number, group_id, body.request, False, why))

    def reserved(self, event: on.BundlesDecided) -> list[on.NodeCommand]:
        """The node has reserved them all, or none."""
        key = self._reserving.pop(event.order, None)
        if key is None:
            return []
        held = self.bundles[key]
        if event.is_accepted:
            held.phase = PREPARED
            if held.order:
                self.facts.append(m.BundlesPrepared(event.order, *key, True))
            if held.releasing is not None:
                return [on.FreeBundles(*key, held.releasing.is_removed)]
            return []
        del self.bundles[key]
        if held.order:
            self._refuse_bundles(event.order, held.body, event.why)
        if held.release_order:
            self.facts.append(m.BundlesReleased(held.release_order, *key))
        return []

    def _commit(self, number: int, group_id: str, request: int) -> list[on.NodeCommand]:
        held = self.bundles.get((group_id, request))
        if held is None or held.releasing is not None:
            self.facts.append(m.Took(number))
            return []
        held.phase = COMMITTED
        self.facts.append(m.BundlesCommitted(number, group_id, request))
        return [on.OpenBundles(group_id, request)]

    def _release(self, number: int, body: m.ReleaseBundles) -> list[on.NodeCommand]:
        key = (body.group_id, body.request)
        held = self.bundles.get(key)
        if held is None:
            self.facts.append(m.BundlesReleased(number, *key))
            return []
        was_releasing, held.releasing = held.releasing is not None, body
        held.release_order = number
        if held.phase == CONSIDERED or was_releasing:
            return []
        return [on.FreeBundles(*key, body.is_removed)]

    def freed(self, event: on.BundlesFreed) -> None:
        """They are the node's again."""
        key = (event.group_id, event.request)
        held = self.bundles.pop(key, None)
        if held is not None and held.release_order:
            self.facts.append(m.BundlesReleased(held.release_order, *key))

    # ---- the store, epochs
    def whole(self, gone: list[m.ActorGone]) -> m.Whole:
        """All of it, for a store in a new life; what the former one has ordered is void."""
        self._orders_void()
        actors = [
            m.ActorHere(r.offer.spec, r.offer.incarnation, r.offer.restarts, r.is_alive)
            for r in self.actors.values()
        ]
        bundles = [
            m.BundlesHere(h.body.spec, h.body.request, h.body.indexes, h.phase == COMMITTED)
            for h in self.bundles.values()
            if h.phase != CONSIDERED and h.releasing is None
        ]
        return m.Whole(actors, bundles, gone)

    def _orders_void(self) -> None:
        for resident in self.actors.values():
            resident.order = 0
        for held in self.bundles.values():
            held.release_order = 0
            if held.phase == CONSIDERED:
                held.order = 0
                held.releasing = m.ReleaseBundles(held.body.spec.group_id, held.body.request)

    def clear(self) -> None:
        """Everything has ended with its epoch."""
        self.actors.clear()
        self.bundles.clear()
        self._offers.clear()
        self._reserving.clear()
        self.facts.clear()

    def validate(self) -> None:
        """Assert what must hold."""
        considered = {key for key, r in self.actors.items() if r.phase == CONSIDERED}
        assert considered == set(self._offers.values())
        reserving = {key for key, h in self.bundles.items() if h.phase == CONSIDERED}
        assert reserving == set(self._reserving.values())
        lives = [actor_id for actor_id, _ in self.actors]
        assert len(lives) == len(set(lives)), "two incarnations on one node"
