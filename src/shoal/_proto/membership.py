"""Messages between a node and the control store about who lives, and about what lives where.

They travel in a stream that may break at any moment, so that any of them may be lost, come late,
or come twice; nothing here relies on more. What must arrive is repeated until it has::

    node                                              store
      JoinCluster(request) ------------------------>             repeated until answered
                              <--------------------- Admitted(epoch) or NotAdmitted
      Renew(epoch, number, row) ------------------->             each second
                              <--------------------- Renewed(number) or DeclaredDead
      Facts(first, [fact ...]) -------------------->             what has happened here, until heard
                              <--------------------- Orders(number, heard, [order ...])
      Ask(number, body) --------------------------->             what a program wants, until told
                              <--------------------- Told(number, body)

1. *Epoch* (of a node) is one life of it in the cluster, given by the store and journalled; *store*
   is one life of the store. Whatever names an older one of either is not read.
2. ``Orders`` holds the oldest of all that the store still wants of the node, so the newest is worth
   more than any before it, and an older one that comes late is not read. Each order has a number
   that is given once; the node follows it once. Orders below ``settled_below`` are of the past.
3. ``Facts`` holds what the store has not yet heard, the oldest first. To a store in a new life the
   first one tells the *whole* state of the node; before that the store wants nothing of it.
4. A lease is counted from the moment at which the renewal was sent, on the clock of the node; no
   message holds a reading of a clock.
5. Records (what an actor is made from, causes of deaths) are opaque bytes: nobody here loads them.
"""

from __future__ import annotations

from typing import Union

import msgspec

from shoal._proto.messages import (
    Default,
    Done,
    Failure,
    KvAnswer,
    KvDelete,
    KvGet,
    KvKeys,
    KvPut,
    LabelRule,
    Message,
    Strategy,
)
from shoal._proto.views import Candidates, NodeRow

ROLE_NODE, ROLE_DRIVER = "node", "driver"
KV_BYTES_MOST = 8 << 20
"""Of a key and its value, or of the keys of one answer: what a frame between nodes has room for."""
ALIVE, DRAINING, DRAINED, DEAD = "alive", "draining", "drained", "dead"


# ---- what a node says of itself
class Left(Message, frozen=True):
    """What a node that is being drained has yet to get rid of."""

    programs: int = 0
    """That are attached to it: their tasks, actors and values end with them."""
    tasks: int = 0
    """Its own and those of others, which wait or run."""
    actors: int = 0
    groups: int = 0
    values: int = 0
    """That others have refs to, and whose bytes are nowhere else."""
    size_bytes: int = 0
    """Of those values."""

    @property
    def is_nothing(self) -> bool:
        """Whether it may leave."""
        return not (self.programs or self.tasks or self.actors or self.groups or self.values)


class Standing(Message, frozen=True):
    """Whether a node could be given back."""

    is_busy: bool = False
    """Something runs here, or an actor lives here."""
    primaries: int = 0
    """Values whose primary copy is here."""
    idle_s: float = 0.0
    left: Left | None = None
    """While it is being drained."""


class MemberRow(Message, frozen=True):
    """One node as all others know it."""

    node: str
    epoch: int
    name: str
    address: str
    """Where it can be dialled; "" if it only dials out."""
    role: str
    labels: dict[str, str]
    state: str
    """alive, draining, drained or dead."""
    row: NodeRow
    standing: Standing
    why: str = ""
    """Why it is dead."""


class JoinCluster(Message, frozen=True):
    """``node`` wants to be a member."""

    node: str
    request: int
    """Grows with each life that this daemon begins; the same until it is answered."""
    former: int
    """The epoch that it had, all of whose processes have ended; 0: none."""
    name: str
    address: str
    role: str
    labels: dict[str, str]
    row: NodeRow
    version: str


class Renew(Message, frozen=True):
    """Lets the lease begin anew."""

    node: str
    epoch: int
    number: int
    store: int
    """The newest life of the store that the node has heard of."""
    row: NodeRow
    standing: Standing
    members: int = 0
    """The version of the members that it knows."""


class Obituary(Message, frozen=True):
    """Everything of epoch ``epoch`` has ended: said by its zygote, or by itself when it leaves."""

    node: str
    epoch: int
    is_drained: bool = False


# ---- what programs ask for
class RegisterActor(Message, frozen=True):
    """Let there be an actor; told ``ActorFacts``: its own, or those of who had the name first."""

    actor_id: str
    """Chosen by the caller, so that repeating it is harmless."""
    place: dict[str, float] = {}
    """What a node must own."""
    hold: dict[str, float] = {}
    """What it holds while it lives."""
    strategy: Strategy = Default()
    name: str = ""
    namespace: str = ""
    detached: bool = False
    get_if_exists: bool = False
    max_restarts: int = 0
    root: str = ""
    """The node with whose end it ends; "" for a detached one."""
    root_epoch: int = 0
    record: bytes = b""
    """What it is made from."""


class KillActor(Message, frozen=True):
    """End this incarnation; -1: whichever there is. Told ``Done`` when that cannot be lost."""

    actor_id: str
    incarnation: int = -1
    no_restart: bool = True
    cause: bytes = b""


class FindActor(Message, frozen=True):
    """Told ``ActorFacts``, and from then on each change (``ActorNews``)."""

    actor_id: str = ""
    name: str = ""
    namespace: str = ""


class ActorFacts(Message, frozen=True):
    actor_id: str
    state: str
    """PENDING, ALIVE, RESTARTING or DEAD."""
    incarnation: int = 0
    restarts: int = 0
    node: str = ""
    epoch: int = 0
    name: str = ""
    namespace: str = ""
    cause: bytes = b""
    record: bytes = b""
    created: bool = True
    """False if somebody had the name before."""


class GroupSpec(Message, frozen=True):
    """A placement group, as it is asked for; told ``GroupFacts``."""

    group_id: str
    bundles: list[dict[str, float]]
    strategy: str
    name: str = ""
    namespace: str = ""
    detached: bool = False
    labels: list[tuple[LabelRule, ...]] = []
    """For each bundle what its node must be like; empty: anything."""
    root: str = ""
    root_epoch: int = 0
    revision: int = 0
    """How often it has been resized. A bundle that was removed is empty."""
    resized_by: str = ""


class ResizeGroup(Message, frozen=True):
    """These are its bundles from now on, if ``revision`` is the one behind that of the group. Told
    ``GroupFacts``, which say what it is."""

    group_id: str
    revision: int
    resized_by: str
    bundles: list[dict[str, float]]
    labels: list[tuple[LabelRule, ...]]


class FindGroup(Message, frozen=True):
    """By id, else by name. Told ``GroupFacts``, and from then on each change (``GroupNews``)."""

    group_id: str = ""
    name: str = ""
    namespace: str = ""


class RemoveGroup(Message, frozen=True):
    """Told ``Done`` when that cannot be lost."""

    group_id: str


class GroupFacts(Message, frozen=True):
    group_id: str
    state: str
    """PENDING, CREATED, RESCHEDULING or REMOVED."""
    places: list[str]
    """The node of each bundle, "" if it has none now."""
    spec: GroupSpec | None = None
    created: bool = True


class DrainMember(Message, frozen=True):
    """Let a node stop accepting, hand over, and leave; told ``Done`` or ``DrainRefused``."""

    node: str
    deadline_s: float
    only_if_idle: bool = False


class DrainRefused(Message, frozen=True):
    why: str


class ListMembers(Message, frozen=True):
    """Told ``MemberList``: all nodes as they are now."""


class AskAboutNode(Message, frozen=True):
    """Told ``NodeFate``, also of nodes that were lost long ago."""

    node: str
    epoch: int


class NodeFate(Message, frozen=True):
    node: str
    epoch: int
    is_over: bool
    """Nothing of that epoch can act any more, and it does not come back."""


class MemberList(Message, frozen=True):
    rows: list[MemberRow]


AskBody = Union[
    RegisterActor,
    KillActor,
    FindActor,
    GroupSpec,
    FindGroup,
    ResizeGroup,
    RemoveGroup,
    DrainMember,
    ListMembers,
    AskAboutNode,
    KvPut,
    KvGet,
    KvDelete,
    KvKeys,
]
ToldBody = Union[
    ActorFacts, GroupFacts, Done, Failure, DrainRefused, MemberList, NodeFate, KvAnswer
]


class Ask(Message, frozen=True):
    """Repeated until it is told; ``number`` grows, and all below ``answered_below`` are told."""

    node: str
    epoch: int
    store: int
    number: int
    answered_below: int
    body: AskBody
    first_store: int = 0
    """The life of the store to which it was first sent."""


# ---- orders: what the store wants of a node
class OfferActor(Message, frozen=True):
    """Start this incarnation, or say that you will not; answered by ``OfferAnswered``."""

    spec: RegisterActor
    incarnation: int
    restarts: int
    bundle: str = ""
    """The group's id, if it is to run in a bundle; its index stands in the strategy."""


class EndActor(Message, frozen=True):
    """Answered by ``ActorGone``, also by who has never heard of it."""

    actor_id: str
    incarnation: int
    how: str
    """killed, crashed (it may be restarted) or drained (it is restarted, uncharged)."""
    cause: bytes = b""


class PrepareBundles(Message, frozen=True):
    """Reserve these bundles, all or none; answered by ``BundlesPrepared``."""

    spec: GroupSpec
    request: int
    indexes: list[int]


class CommitBundles(Message, frozen=True):
    """The group has its place; answered by ``BundlesCommitted``."""

    group_id: str
    request: int


class ReleaseBundles(Message, frozen=True):
    """End what runs in them and give them back; answered by ``BundlesReleased``."""

    group_id: str
    request: int
    is_removed: bool = False
    """The group is gone, and not only this try at placing it."""


class DrainNode(Message, frozen=True):
    """Stop accepting, hand over, leave; answered by ``Took``."""

    deadline_s: float


class ActorNews(Message, frozen=True):
    """Answered by ``Took``."""

    facts: ActorFacts


class GroupNews(Message, frozen=True):
    """Answered by ``Took``."""

    facts: GroupFacts


OrderBody = Union[
    OfferActor,
    EndActor,
    PrepareBundles,
    CommitBundles,
    ReleaseBundles,
    DrainNode,
    ActorNews,
    GroupNews,
]


class Order(Message, frozen=True):
    number: int
    body: OrderBody


# ---- facts: what has happened on a node
class OfferAnswered(Message, frozen=True):
    order: int
    actor_id: str
    incarnation: int
    is_accepted: bool
    why: str = ""


class ActorAlive(Message, frozen=True):
    """Its constructor has returned."""

    actor_id: str
    incarnation: int


class ActorGone(Message, frozen=True):
    """Its process has been reaped, or there is none."""

    actor_id: str
    incarnation: int
    how: str
    """crashed, final (it is not to be restarted), lease, drained, killed, unknown, or refused (it
    was considered for another life of the store, and never ran)."""
    cause: bytes = b""


class BundlesPrepared(Message, frozen=True):
    order: int
    group_id: str
    request: int
    is_accepted: bool
    why: str = ""


class BundlesCommitted(Message, frozen=True):
    order: int
    group_id: str
    request: int


class BundlesReleased(Message, frozen=True):
    order: int
    group_id: str
    request: int


class Took(Message, frozen=True):
    """An order that needs no other answer has been followed."""

    order: int


Fact = Union[
    OfferAnswered,
    ActorAlive,
    ActorGone,
    BundlesPrepared,
    BundlesCommitted,
    BundlesReleased,
    Took,
]


class ActorHere(Message, frozen=True):
    """An actor that a node has."""

    spec: RegisterActor
    incarnation: int
    restarts: int
    is_alive: bool
    """Its constructor has returned."""


class BundlesHere(Message, frozen=True):
    """Bundles that a node has."""

    spec: GroupSpec
    request: int
    indexes: list[int]
    is_committed: bool


class Whole(Message, frozen=True):
    """All that a store in a new life has to know of a node."""

    actors: list[ActorHere]
    bundles: list[BundlesHere]
    gone: list[ActorGone] = []
    """Ends of actors that no store has acknowledged."""
    created: list[Union[RegisterActor, GroupSpec]] = []
    """What programs of this node have asked for and what is not lasting."""
    watched: list[str] = []
    """Actors and groups whose changes are to be told. What the node has asked for and does not name
    here it will not ask for again."""


class Facts(Message, frozen=True):
    """Facts ``first``, ``first`` + 1, ...; ``whole`` is the fact before them, and is the state to
    which everything up to it has led."""

    node: str
    epoch: int
    store: int
    first: int
    facts: list[Fact]
    whole: Whole | None = None


# ---- what the store says
class Admitted(Message, frozen=True):
    node: str
    request: int
    epoch: int
    store: int
    lease_s: float


class NotAdmitted(Message, frozen=True):
    """One clear line for whoever started the node."""

    node: str
    request: int
    why: str


class Renewed(Message, frozen=True):
    """The lease counts from the moment at which renewal ``number`` was sent."""

    node: str
    epoch: int
    number: int
    store: int
    candidates: list[Candidates] = []


class DeclaredDead(Message, frozen=True):
    """This epoch is over: end everything, then join again."""

    node: str
    epoch: int
    store: int
    why: str


class Orders(Message, frozen=True):
    """See rule 2 above; ``heard`` is the last fact that cannot be lost any more."""

    node: str
    epoch: int
    store: int
    number: int
    settled_below: int
    heard: int
    orders: list[Order]


class Told(Message, frozen=True):
    node: str
    epoch: int
    store: int
    number: int
    body: ToldBody


class MembersChanged(Message, frozen=True):
    """What has changed among the members since the version that the node knew, all of it: who hears
    of a death has heard, at the latest with it, of everybody who had joined before."""

    node: str
    epoch: int
    store: int
    version: int
    rows: list[MemberRow]


ToStore = Union[JoinCluster, Renew, Obituary, Ask, Facts]
ToNode = Union[Admitted, NotAdmitted, Renewed, DeclaredDead, Orders, Told, MembersChanged]

_encode = msgspec.msgpack.encode
_to_store: msgspec.msgpack.Decoder[ToStore] = msgspec.msgpack.Decoder(ToStore)
_to_node: msgspec.msgpack.Decoder[ToNode] = msgspec.msgpack.Decoder(ToNode)


def packed(body: ToStore | ToNode) -> bytes:
    """The bytes of a message."""
    return _encode(body)


def to_store(data: bytes) -> ToStore:
    """What a node has said. Raises msgspec.DecodeError (also ValidationError)."""
    return _to_store.decode(data)


def to_node(data: bytes) -> ToNode:
    """What the store has said. Raises msgspec.DecodeError (also ValidationError)."""
    return _to_node.decode(data)
