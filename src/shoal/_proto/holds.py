"""What daemons tell each other about refs and about where the bytes of values are.

Between two nodes these rows travel with everything else of a link: in order, each exactly once
while both node epochs live. A row that is about objects of the *receiver* names them by their bare
keys, since a link belongs to two node epochs; every other row carries a whole ``Name``.

Who counts, and why this is enough, stands in ``shoal._core.remote_refs`` (the rows up to
``SealedAtHome``); who pulls from whom in ``shoal._core.copies`` (the rest). Values travel as opaque
bytes that no daemon loads (RULES Z-3).
"""

from typing import Annotated, Union

import msgspec

from shoal._proto.messages import Message

Key = Annotated[int, msgspec.Meta(ge=0)]
"""Slot and generation in a node's memory; whether there is such an object is asked there."""
Count = Annotated[int, msgspec.Meta(ge=1)]


class Name(msgspec.Struct, frozen=True, array_like=True, order=True):
    """An object, the same everywhere: whose it is, and its key there (RULES O-12).

    A ref that travels in any other row (arguments, results, values) is written as its name.
    """

    node: str
    """Node id of its home, in hex."""
    epoch: int
    """Which life of that node: a later one knows none of its keys."""
    key: Key
    """Slot and generation in the home's memory."""


# ---- holds: counted by what was sent and received (RULES O-2)
class HoldRefs(Message, frozen=True):
    """To home: this node has refs to these objects that it did not get from home itself."""

    keys: tuple[Key, ...]


class RefsHeld(Message, frozen=True):
    """Home's answer to one ``HoldRefs``: they are counted; those in ``gone`` do not exist."""

    keys: tuple[Key, ...]
    gone: tuple[Key, ...] = ()


class DropRefs(Message, frozen=True):
    """To home: nobody here has a ref any more.

    ``counts`` says how many this node had got until then: one for each time that home itself sent
    the ref and one for each ``HoldRefs``. What home has sent since then stays counted, so a drop
    and a send that cross cannot free too early.
    """

    keys: tuple[Key, ...]
    counts: tuple[Count, ...]


class ConfirmRefs(Message, frozen=True):
    """To the node that sent these refs: their homes know of this node now.

    One entry for each time that the ref was sent; the sender's own hold for it ends.
    """

    names: tuple[Name, ...]


class SettleLost(Message, frozen=True):
    """To every living node: say when all that you got from that dead node is known at its home."""

    node: str
    epoch: int


class LostSettled(Message, frozen=True):
    """The answer to ``SettleLost``: nothing that came from that node is unknown at its home."""

    node: str
    epoch: int


class SealedAtHome(Message, frozen=True):
    """From home, once to each node that holds a ref: the object has its value (RULES O-4)."""

    key: Key
    format: int
    """As in node memory: how the bytes are to be read, or that it is an error."""
    size_bytes: int
    data: bytes | None = None
    """The bytes of a small value without refs in it, and of every error; None: ask home for them
    when somebody here needs them (``WantCopy``)."""
    in_block: bool = False
    """The bytes are the whole image of the value, with its tables."""


# ---- copies: home knows all of them (RULES O-5, O-7)
class WantCopy(Message, frozen=True):
    """To home: somebody here needs the bytes. Answered by ``CopySource``, or by ``NoCopy``; who
    wants them no longer says ``CopyDropped``."""

    key: Key


class CopySource(Message, frozen=True):
    """From home: pull the bytes from ``source``, which has them."""

    key: Key
    source: str
    format: int
    size_bytes: int
    contained: tuple[Name, ...] = ()
    """The refs in the value, in the order of its table: they arrive with the bytes."""
    kept: tuple[int, int] | None = None
    """The receiver has the bytes itself, as the result (number, index) that it keeps for home."""


class NoCopy(Message, frozen=True):
    """From home: there are no bytes any more, and they will not be made again. Answers a
    ``CopyLanded`` too, if home had given up before it came."""

    key: Key
    record: bytes
    """The error that readers get."""


class CopyLanded(Message, frozen=True):
    """To home: this node has the bytes now, and others may pull them from here."""

    key: Key


class CopyFailed(Message, frozen=True):
    """To home: ``source`` did not give them. Answered as ``WantCopy`` is."""

    key: Key
    source: str
    why: str


class CopyDropped(Message, frozen=True):
    """To home: this node does not have the bytes any more, or wants them no longer."""

    key: Key


class LeaveCopy(Message, frozen=True):
    """To home, from the node with the primary copy: it would like to drop its bytes."""

    key: Key


class LeaveRefused(Message, frozen=True):
    """From home: there is no other copy; the bytes stay, in a file if there is no room."""

    key: Key


class TakePrimary(Message, frozen=True):
    """From home: your copy is to be the primary one from now on."""

    key: Key


class PrimaryTaken(Message, frozen=True):
    """To home: it is, and stays until home lets it go. (Who has none has said ``CopyDropped``.)"""

    key: Key


class FreePrimary(Message, frozen=True):
    """From home to the node with the primary copy: it is not needed any more."""

    key: Key


RefsBody = Union[
    HoldRefs,
    RefsHeld,
    DropRefs,
    ConfirmRefs,
    SettleLost,
    LostSettled,
    SealedAtHome,
]
"""What ``RemoteRefs`` sends and hears."""

CopyBody = Union[
    WantCopy,
    CopySource,
    NoCopy,
    CopyLanded,
    CopyFailed,
    CopyDropped,
    LeaveCopy,
    LeaveRefused,
    TakePrimary,
    PrimaryTaken,
    FreePrimary,
]
"""What ``CopiesAtHome`` and ``CopiesHere`` send and hear."""

HoldsBody = Union[RefsBody, CopyBody]
"""All rows of this module, for the union of what a link carries."""
