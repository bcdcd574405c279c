"""Events and commands of the two machines of membership.

The shell of the store's side brings what is to be kept on disk before anything that comes after it
in the list of commands, and after it in time, is told to anybody; tells go out in their order.

The shell of the node's side (its ``NodeMachine``) decides about room: it answers ``ConsiderOffer``
and ``ReserveBundles`` by an event each. ``SetLease`` is written into node memory, where the zygote
and the workers read it: they enforce it also while the daemon is stopped (RULES K-3).
"""

from __future__ import annotations

from typing import Union

import msgspec

from shoal._core.store import Effect
from shoal._proto import membership as m
from shoal._proto.views import Candidates, NodeRow


# ---- both
class AlarmRang(msgspec.Struct, frozen=True):
    """Event: the moment of ``SetAlarm`` has come."""


class SetAlarm(msgspec.Struct, frozen=True):
    """Command: ring then, and at no other time; None: not at all."""

    at: float | None


class Notice(msgspec.Struct, frozen=True):
    """Command: one line for the log and for whoever looks."""

    text: str


# ---- the store's side
class Served(msgspec.Struct, frozen=True):
    """Event: what is on disk has been restored, and nodes can be heard from now on."""


class Heard(msgspec.Struct, frozen=True):
    """Event: a node, which has proved who it is, said this."""

    body: m.ToStore


class Suspected(msgspec.Struct, frozen=True):
    """Event: the connection to a node has ended and cannot be made again at once."""

    node: str
    epoch: int
    why: str


class Tell(msgspec.Struct, frozen=True):
    """Command: send this to a node, if there is a way."""

    node: str
    body: m.ToNode


StoreEvent = Union[Served, Heard, Suspected, AlarmRang]
StoreCommand = Union[Effect, Tell, SetAlarm, Notice]


# ---- the node's side: events
class Began(msgspec.Struct, frozen=True):
    """Event: a way to the store is there; join."""


class StoreSaid(msgspec.Struct, frozen=True):
    """Event: the store, which has proved who it is, said this."""

    body: m.ToNode


class RowChanged(msgspec.Struct, frozen=True):
    """Event: what goes out with renewals is this now."""

    row: NodeRow
    standing: m.Standing
    is_urgent: bool = False
    """What waits here is for others: the store is to hear of it soon."""


class Asked(msgspec.Struct, frozen=True):
    """Event: a program wants something of the store; answered by ``AskAnswered``."""

    ticket: int
    body: m.AskBody


class OfferDecided(msgspec.Struct, frozen=True):
    order: int
    is_accepted: bool
    why: str = ""


class ActorUp(msgspec.Struct, frozen=True):
    """Event: its constructor has returned."""

    actor_id: str
    incarnation: int


class ActorDown(msgspec.Struct, frozen=True):
    """Event: its process has been reaped."""

    actor_id: str
    incarnation: int
    how: str
    """As in ``ActorGone``."""
    cause: bytes = b""


class BundlesDecided(msgspec.Struct, frozen=True):
    order: int
    is_accepted: bool
    why: str = ""


class BundlesFreed(msgspec.Struct, frozen=True):
    """Event: what ran in them is gone, and they are the node's again."""

    group_id: str
    request: int


class StoreRefused(msgspec.Struct, frozen=True):
    """Event: the store's end had ended the connection, and nobody listens where it was; it was
    dialled then."""

    dialled_at: float


class EverythingEnded(msgspec.Struct, frozen=True):
    """Event: no process of this epoch is left."""


class HandedOver(msgspec.Struct, frozen=True):
    """Event: nothing that a drain waits for is left but what ends with it."""


NodeEvent = Union[
    Began,
    StoreSaid,
    RowChanged,
    Asked,
    OfferDecided,
    ActorUp,
    ActorDown,
    BundlesDecided,
    BundlesFreed,
    EverythingEnded,
    HandedOver,
    StoreRefused,
    AlarmRang,
]


# ---- the node's side: commands
class TellStore(msgspec.Struct, frozen=True):
    """Command: send this. ``tries`` counts up while it is not answered: over a fresh connection
    from the second on, and every other one from the third on through a peer."""

    body: m.ToStore
    tries: int = 1


class SetLease(msgspec.Struct, frozen=True):
    """Command: named and restartable actors end then, unless a later moment is set."""

    until: float


class EndLeased(msgspec.Struct, frozen=True):
    """Command: end named and restartable actors now; each is an ``ActorDown("lease")``."""


class EndEverything(msgspec.Struct, frozen=True):
    """Command: end every worker and give back all that they had; then ``EverythingEnded``."""

    why: str


class JoinRefused(msgspec.Struct, frozen=True):
    """Command: this node can not be a member; say why and stop."""

    why: str


class Joined(msgspec.Struct, frozen=True):
    """Command: the node is a member in this epoch."""

    epoch: int


class ConsiderOffer(msgspec.Struct, frozen=True):
    """Command: find room for an actor and start it, or not; ``OfferDecided``."""

    order: int
    offer: m.OfferActor


class StopActor(msgspec.Struct, frozen=True):
    """Command: end its process; ``ActorDown``."""

    actor_id: str
    incarnation: int
    how: str
    cause: bytes


class ReserveBundles(msgspec.Struct, frozen=True):
    """Command: reserve all or none; ``BundlesDecided``."""

    order: int
    body: m.PrepareBundles


class OpenBundles(msgspec.Struct, frozen=True):
    """Command: the group has its place, what waits for these bundles may run."""

    group_id: str
    request: int


class FreeBundles(msgspec.Struct, frozen=True):
    """Command: end what runs in them, give them back; ``BundlesFreed``."""

    group_id: str
    request: int
    is_removed: bool


class AskAnswered(msgspec.Struct, frozen=True):
    """Command: what the store said to a program's wish."""

    ticket: int
    body: m.ToldBody


class NewsHeard(msgspec.Struct, frozen=True):
    """Command: an actor or group that somebody here knows has changed."""

    body: m.ActorFacts | m.GroupFacts


class MembersHeard(msgspec.Struct, frozen=True):
    """Command: these nodes have changed."""

    rows: list[m.MemberRow]


class CandidatesHeard(msgspec.Struct, frozen=True):
    """Command: where there may be room."""

    candidates: list[Candidates]


class Drain(msgspec.Struct, frozen=True):
    """Command: accept nothing new, recall what is queued, hand values over; ``HandedOver``."""

    deadline_s: float


class EndRest(msgspec.Struct, frozen=True):
    """Command: the time of a drain is up; what still runs ends as drained."""


NodeCommand = Union[
    TellStore,
    SetLease,
    EndLeased,
    EndEverything,
    JoinRefused,
    Joined,
    ConsiderOffer,
    StopActor,
    ReserveBundles,
    OpenBundles,
    FreeBundles,
    AskAnswered,
    NewsHeard,
    MembersHeard,
    CandidatesHeard,
    Drain,
    EndRest,
    SetAlarm,
    Notice,
]
