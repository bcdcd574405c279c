"""What ``CopiesAtHome`` and ``CopiesHere`` are told, and what they want done.

Each node has one of both: the first for the values whose home it is, the second for values whose
bytes are to come to it, or are kept here for their home. Home is talked to by rows also where it is
this very node (a result that was made elsewhere and is needed at home): a ``Send`` to this node is
fed to it as ``CopyHeard``, in order, like any other.

======================  ================================================================
command                 performed by
======================  ================================================================
``Send``                ``Peers.send``, or ``CopyHeard`` at this node
``Direct``              ``Send(node, CopySource(...))`` with what home's slot says
``Remake``              lineage: ``Stored`` again, or ``GivenUp`` (home)
``FetchHome``           ``Needed`` at this node's ``CopiesHere``
``Pull``                memory for it, then ``Peers.pull``; answered by ``PullEnded``
``Show``                the bytes are there: ``Landed`` for the refs in them, readers go on
``Fail``                readers get the error
``Spill``               it may not go: write it to a file if there is no room
``DropBytes``           the block is given back; the slot says *remote* again
``EndPrimary``          the daemon's hold for home ends; who holds a ref here keeps the bytes
======================  ================================================================
"""

from __future__ import annotations

from typing import Union

import msgspec

from shoal._core.remote_ref_events import Send
from shoal._proto.holds import CopyBody, Name


class CopyEvent(msgspec.Struct, frozen=True):
    """Base of what happens."""


class CopyHeard(CopyEvent, frozen=True):
    """A row has come from ``node``, which may be this one."""

    node: str
    body: CopyBody


class NodeRole(CopyEvent, frozen=True):
    """A node is a member now; nobody pulls from a driver's machine without need (RULES O-7)."""

    node: str
    is_driver: bool


class NodeGone(CopyEvent, frozen=True):
    """A node is lost, and with it what it had."""

    node: str


# ---- to CopiesAtHome
class Stored(CopyEvent, frozen=True):
    """The bytes of a value of this node are at ``node``: its primary copy.

    Fed when a value is told as remote for the first time, when a result was left where it was made,
    and when lost bytes have been made again. Where they are, ``Produced`` is fed to ``CopiesHere``
    (also at home).
    """

    key: int
    node: str


class GivenUp(CopyEvent, frozen=True):
    """Lost bytes will not be made again."""

    key: int
    record: bytes


class Unneeded(CopyEvent, frozen=True):
    """Nobody has a ref to that value any more, here or elsewhere: its slot is freed.

    Before it, ``ProxyGone`` is fed to ``CopiesHere``: a copy that was pulled home goes too.
    """

    key: int


class Ticked(CopyEvent, frozen=True):
    """The moment of ``next_deadline`` has come."""


AtHome = Union[CopyHeard, NodeRole, NodeGone, Stored, GivenUp, Unneeded, Ticked]


# ---- to CopiesHere
class Needed(CopyEvent, frozen=True):
    """Somebody here looks at a value whose bytes are not here."""

    name: Name


class Produced(CopyEvent, frozen=True):
    """The bytes of a value of that home were made here and stay here: the primary copy."""

    name: Name


class PullEnded(CopyEvent, frozen=True):
    """The bytes are here, or why they are not."""

    name: Name
    source: str
    why: str = ""


class BytesLost(CopyEvent, frozen=True):
    """They were here, and cannot be read any more (a file is damaged)."""

    name: Name


class RoomNeeded(CopyEvent, frozen=True):
    """Memory is short here, and nobody looks at these bytes."""

    name: Name


class ProxyGone(CopyEvent, frozen=True):
    """The proxy is released (``ReleaseProxy``); to be fed before its ``DropRefs`` is sent."""

    name: Name


Here = Union[CopyHeard, NodeGone, Needed, Produced, PullEnded, BytesLost, RoomNeeded, ProxyGone]


class CopyCommand(msgspec.Struct, frozen=True):
    """Base of what is to be done."""


class Direct(CopyCommand, frozen=True):
    """Tell ``node`` to pull from ``source``."""

    node: str
    key: int
    source: str


class Remake(CopyCommand, frozen=True):
    """There are no bytes any more."""

    key: int


class FetchHome(CopyCommand, frozen=True):
    """Nobody who has the bytes can give them to who wants them: home is to get and to give them."""

    key: int


class Pull(CopyCommand, frozen=True):
    """Get the bytes from ``source``."""

    name: Name
    source: str


class Show(CopyCommand, frozen=True):
    """The bytes are here."""

    name: Name


class Fail(CopyCommand, frozen=True):
    """They will never be."""

    name: Name
    record: bytes


class Spill(CopyCommand, frozen=True):
    """This is the only copy."""

    name: Name


class DropBytes(CopyCommand, frozen=True):
    """They are not needed here, or there are others."""

    name: Name


class EndPrimary(CopyCommand, frozen=True):
    """Home does not count on them any more. (At home itself there is nothing to do.)"""

    name: Name


Command = Union[Send, Direct, Remake, FetchHome, Pull, Show, Fail, Spill, DropBytes, EndPrimary]
