"""Events about other nodes of a cluster: who is there, tasks and actors that cross, names.

Told by the daemon's ``Abroad`` and its parts; a node of one machine hears none of them. Part of
``events.AnyEvent``, where the protocol stands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from shoal._core.event_base import Event
from shoal._proto import messages

if TYPE_CHECKING:
    from shoal._proto.views import NodeRow


class KnownNode(msgspec.Struct, frozen=True):
    """A node, and what does not change of its row."""

    name: str
    row: NodeRow


class NodesChanged(Event, frozen=True):
    """These other nodes are members of the cluster now."""

    nodes: frozenset[str]
    known: tuple[KnownNode, ...] = ()
    """What they have told of themselves."""
    python: str = ""
    """Minor version of the interpreter here."""
    drained: frozenset[str] = frozenset()
    """These were members, and have been drained: they will never be again."""


class LeaseSet(Event, frozen=True):
    """Until then this node may begin anything."""

    until: float


class DrainBegun(Event, frozen=True):
    """This node is to leave the cluster."""


class ActorMoves(Event, frozen=True):
    """No call of that actor of another node is on this one, which is being drained."""

    actor_id: str


class HomeLeaves(Event, frozen=True):
    """This node, which is being drained, is to be the home of that actor no longer."""

    actor_id: str


class HomeFound(Event, frozen=True):
    """That node is the home of an actor that was ours."""

    actor_id: str
    node: str


class GivenAway(Event, frozen=True):
    """That actor has another home, or has ended."""

    ticket: int


class ActorGiven(Event, frozen=True):
    """``node``, which leaves, was the home of an actor: this one is to be it. Class, arguments and
    checkpoint are values of this node."""

    node: str
    actor_id: str
    job: int
    """Here; 0: that of the detached actor ``root``."""
    root: str
    place: bytes
    spec: messages.ActorSpec
    namespace: str
    incarnation: int
    restarts: int
    checkpoint: int = 0


class GuestWanted(Event, frozen=True):
    """Tasks of job ``job`` of ``node`` come, which need ``place`` (``guests.ClassPlace``)."""

    node: str
    job: int
    place: bytes


class GuestEnded(Event, frozen=True):
    """That job has ended there; ``job`` 0: all of them, the node is lost."""

    node: str
    job: int
    reason: str


class CancelAsked(Event, frozen=True):
    """A task of this node that another node has sent is to end."""

    key: int
    is_recursive: bool
    is_forced: bool


class ActorSent(Event, frozen=True):
    """That node is to be asked to take an actor of ours; or it is this node's turn."""

    actor_id: str
    node: str


class ActorTold(Event, frozen=True):
    """The node that an actor of ours lives on has said how it is."""

    node: str
    key: int
    """Of its lifetime object."""
    state: str
    pid: int = 0
    restarts: int = 0
    cause: bytes = b""
    checkpoint: int = 0
    """Of one that moves: its state, which is here."""


class ActorCame(Event, frozen=True):
    """An actor of another node is to live here; ``key`` is that of its lifetime object there, its
    class and its arguments are here."""

    node: str
    key: int
    actor_id: str
    job: int
    place: bytes
    spec: messages.ActorSpec
    checkpoint: int = 0
    """Its state, if it has lived before."""


class ActorEnds(Event, frozen=True):
    """A guest's home wants it to end; or, of one of ours, somebody on another node."""

    node: str
    key: int
    is_gentle: bool = False
    may_restart: bool = False
    """Its process is to end: it may live again."""
    is_moving: bool = False
    """Its home is to hear that it moves."""


class AbroadLooked(Event, frozen=True):
    """Whether an actor that lives elsewhere has no call that waits or runs."""

    actor_id: str
    is_quiet: bool


class CallersGone(Event, frozen=True):
    """An actor of another node has ended, or (``is_unused``) nobody here has a handle of it."""

    key: int
    record: bytes
    is_unused: bool = False


class NameAnswered(Event, frozen=True):
    """Who has the name that was claimed or looked for; None: nobody else in the cluster."""

    ticket: int
    info: messages.ActorInfo | None


# ---- placement groups
class GroupTold(Event, frozen=True):
    """The control store has answered ``AskStore`` (or has news of a group: ticket 0)."""

    ticket: int
    spec: messages.CreateGroup | None = None
    """Of the group that it speaks of."""
    state: str = ""
    nodes: tuple[str, ...] = ()
    """Of each bundle; "" if it has none."""
    record: bytes = b""
    """Why not."""


class BundlesWanted(Event, frozen=True):
    """These bundles are to be reserved here: ``SayReserved``."""

    order: int
    request: int
    indexes: tuple[int, ...]
    spec: messages.CreateGroup


class BundlesOpened(Event, frozen=True):
    """All bundles of the group are reserved: what waits in these may run."""

    group_id: str
    request: int


class BundlesUnwanted(Event, frozen=True):
    """End what runs in them and give them back: ``SayGivenBack``."""

    group_id: str
    request: int
    is_removed: bool


class GroupsOver(Event, frozen=True):
    """This node's epoch in the cluster is over: so are all groups that it knows."""

    reason: str
