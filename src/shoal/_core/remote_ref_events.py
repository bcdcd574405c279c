"""What ``RemoteRefs`` is told and what it wants done: refs that leave, arrive and end.

The shell (the bridge of a node daemon) feeds what happens, one event at a time, and performs the
commands that come back, in their order, before it feeds the next one::

    for command in refs.step(clock.now(), event):
        perform(command)

What it must keep to:

1. **A message that carries refs**: feed ``Sending(to, names)``, give the message to the link, and
   perform the commands only then: news about a ref must not overtake the ref. ``names`` has one
   entry for each time that a ref stands in the message, as ``Arrived`` has at the other end.
2. **A message with refs arrives**: feed ``Arrived(frm, names)`` and perform the commands; now every
   name has a slot here (its own, if its home is here: ``Memory.ref(name.key)``; else the proxy).
   Hold them by ordinary refs of the daemon in the same turn, hand the message on, let go.
3. **The last holder here has gone**: a proxy's slot is adopted (``Memory.adopt``), its key comes
   out of ``Memory.inbox``. If ``Memory.handles`` is 0 *now*, feed ``LocalGone``. A row of the inbox
   may be old; one that is not 0 is passed over, it will come again.
4. **A value with refs in it is pulled**: when its bytes have landed, feed ``Landed(outer, names)``,
   then write the value with the proxies in its table, by which its copy holds them. It keeps them
   also when the home of the value is lost. If ``has(outer)`` is false by then, drop the bytes.
5. **The own slot** is the daemon's by ``Pin`` (``Memory.adopt``, and a watch on its seal) until
   ``Unpin`` (``Memory.release``). Feed ``SealedHere`` when it is sealed, at once if it is already.
6. **A row arrives**: feed ``Heard(node, row)``. For ``HoldRefs`` look up in the same turn which of
   the keys do not live (``Memory.is_live``): ``gone``.
7. **Nodes** come and go in the order of the control store, which is the same for everybody. Of
   news that come together, nodes of which nothing was known are fed first, then losses, then later
   lives: a death may be heard of only after all who had joined before it.
   Nothing is fed that came from a node epoch before its ``PeerJoined`` (it waits in the shell) or
   after its ``PeerLost`` (late news is dropped whole, with the message around it: ``is_peer``).
   Neither suspicion nor what a link says of a new epoch is loss: the store's word is awaited. A
   node that learns that it was declared dead makes a new ``RemoteRefs``.

======================  ================================================================
command                 performed by
======================  ================================================================
``Send``                ``Peers.send``
``MakeProxy``           ``Memory.new_pending`` and ``adopt``; its key stands for the name
``SealProxy``           ``seal_pending``, or sealed as remote if the row has no data
``LoseProxy``           ``seal_pending`` with the error, or nothing if the bytes are here
``ReleaseProxy``        ``Memory.release``; the name means nothing here any more
``Pin``, ``Unpin``      ``Memory.adopt``, ``Memory.release`` of the own slot
``TellSealed``          ``Peers.send(node, SealedAtHome(...))`` with what the slot has
``BlamePeer``           one line in the log
``AskAboutNode``        answered by ``PeerJoined`` or ``PeerLost``, from the control store
======================  ================================================================
"""

from __future__ import annotations

from typing import Union

import msgspec

from shoal._proto.holds import (
    ConfirmRefs,
    DropRefs,
    HoldRefs,
    HoldsBody,
    Name,
    RefsBody,
    SealedAtHome,
)

Peer = tuple[str, int]
"""One life of a node: (node id, epoch)."""


class RefEvent(msgspec.Struct, frozen=True):
    """Base of what happens."""


class Sending(RefEvent, frozen=True):
    """A message with these refs is about to go to ``to``. The sender holds each of them now."""

    to: str
    names: tuple[Name, ...]


class Arrived(RefEvent, frozen=True):
    """A message with these refs has come from ``frm``."""

    frm: str
    names: tuple[Name, ...]


class Landed(RefEvent, frozen=True):
    """The bytes of ``outer`` have come, and these refs are in them.

    It does not matter from where: the home of ``outer`` holds what is in it as long as anybody has
    ``outer``, so this node keeps that until the homes of the inner ones know of this node.
    """

    outer: Name
    names: tuple[Name, ...]


class LocalGone(RefEvent, frozen=True):
    """Nobody on this node but the daemon has these proxies any more."""

    names: tuple[Name, ...]


class SealedHere(RefEvent, frozen=True):
    """These objects of this node have their values (or errors). Only pinned ones matter."""

    keys: tuple[int, ...]


class Heard(RefEvent, frozen=True):
    """A row has come from ``node``."""

    node: str
    body: RefsBody
    gone: tuple[int, ...] = ()
    """Of a ``HoldRefs``: the keys that name no living object here."""


class PeerJoined(RefEvent, frozen=True):
    """That life of a node is a member now."""

    node: str
    epoch: int


class PeerLost(RefEvent, frozen=True):
    """That life of a node is over, for everybody: the control store has declared it."""

    node: str
    epoch: int


Event = Union[Sending, Arrived, Landed, LocalGone, SealedHere, Heard, PeerJoined, PeerLost]


class RefCommand(msgspec.Struct, frozen=True):
    """Base of what is to be done."""


class Send(RefCommand, frozen=True):
    """A row for a peer; those about copies (``copy_events``) may be for this node."""

    node: str
    body: HoldsBody


class MakeProxy(RefCommand, frozen=True):
    """Make a pending slot for an object of another node, and adopt it."""

    name: Name


class SealProxy(RefCommand, frozen=True):
    """Its home has told what it is: seal the proxy. Comes at most once for each ``MakeProxy``."""

    name: Name
    row: SealedAtHome


class LoseProxy(RefCommand, frozen=True):
    """Nobody will ever tell more about it. Unless its bytes are here, who looks gets the error."""

    name: Name
    is_home_lost: bool
    """Else: home lives and does not know it (any more)."""


class ReleaseProxy(RefCommand, frozen=True):
    """Give the slot and its copy back."""

    name: Name


class Pin(RefCommand, frozen=True):
    """Other nodes have refs to this object of ours: take the daemon's own hold on it."""

    key: int


class Unpin(RefCommand, frozen=True):
    """No other node has one any more: let go. The slot is freed if nobody here holds it either."""

    key: int


class TellSealed(RefCommand, frozen=True):
    """Tell ``node`` what the sealed object of ours is, its bytes too if they are small and have no
    refs in them."""

    node: str
    key: int


class BlamePeer(RefCommand, frozen=True):
    """A node has said what cannot be: one line for who runs it. The row was ignored, which may keep
    an object for too long and never frees one too early."""

    node: str
    why: str


class AskAboutNode(RefCommand, frozen=True):
    """Something depends on a node epoch that this node has not heard of."""

    node: str
    epoch: int


Command = Union[
    Send,
    MakeProxy,
    SealProxy,
    LoseProxy,
    ReleaseProxy,
    Pin,
    Unpin,
    TellSealed,
    BlamePeer,
    AskAboutNode,
]


class Batch:
    """The commands of one step: rows for the same node travel as one (RULES O-2)."""

    def __init__(self) -> None:
        self.commands: list[Command] = []
        self.holds: dict[str, list[int]] = {}
        self.drops: dict[str, list[tuple[int, int]]] = {}
        self.confirms: dict[str, list[Name]] = {}

    def send(self, node: str, body: RefsBody) -> None:
        """A row that travels alone."""
        self.commands.append(Send(node, body))

    def finished(self) -> list[Command]:
        """All of them, in the order in which they are performed."""
        out = self.commands
        out += [Send(node, HoldRefs(tuple(keys))) for node, keys in self.holds.items()]
        out += [Send(node, ConfirmRefs(tuple(names))) for node, names in self.confirms.items()]
        for node, rows in self.drops.items():
            keys, counts = zip(*rows)
            out.append(Send(node, DropRefs(keys, counts)))
        return out
