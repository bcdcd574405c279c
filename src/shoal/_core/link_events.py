"""What happens to a link, and what it wants done: the vocabulary of ``_core.link``.

Connections are numbers that the shell gives; bodies are opaque bytes. Every event and command is
plain data, so a schedule of a test can be written down and played again.
"""

from __future__ import annotations

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
class Given(msgspec.Struct, frozen=True):
    """The owner wants a body to reach the peer."""

    data: bytes


class AddressesKnown(msgspec.Struct, frozen=True):
    """Where the peer can be dialled, best first; none: only it can dial."""

    addresses: tuple[str, ...]


class DialFailed(msgspec.Struct, frozen=True):
    """The dial that was under way came to nothing before the peer had proved itself."""

    why: str
    was_refused: bool = False
    """Its machine is there, and nobody listens."""


class Reached(msgspec.Struct, frozen=True):
    """The dialled peer has proved itself."""

    connection: int


class Greeted(msgspec.Struct, frozen=True):
    """The peer's ``Hello`` came on a connection."""

    connection: int
    is_dialled: bool
    """By this side."""
    epoch: int
    knows: int
    received: int
    turn: int


class FrameCame(msgspec.Struct, frozen=True):
    """A frame with a body, or only an acknowledgement (number 0)."""

    connection: int
    number: int
    ack: int
    data: bytes = b""


class Moved(msgspec.Struct, frozen=True):
    """The peer's machine has taken bytes of what was written."""

    connection: int


class Ended(msgspec.Struct, frozen=True):
    """A connection is gone."""

    connection: int
    why: str
    is_peers: bool = False
    """The peer has ended it, or has ended itself."""


class ToldOver(msgspec.Struct, frozen=True):
    """The peer says that this node's epoch is over."""

    connection: int
    why: str


class Forgotten(msgspec.Struct, frozen=True):
    """The peer was declared dead: its present epoch never counts again."""


class BeganAnew(msgspec.Struct, frozen=True):
    """This node goes on as another epoch: the session is over, for the peer too once it hears."""

    epoch: int


class Ticked(msgspec.Struct, frozen=True):
    """``wake_at`` has come."""


Event = (
    Given | AddressesKnown | DialFailed | Reached | Greeted | FrameCame | Moved | Ended
    | ToldOver | Forgotten | BeganAnew | Ticked
)  # fmt: skip


# ---- what to do
class Dial(msgspec.Struct, frozen=True):
    """Dial; answered by ``Reached`` or ``DialFailed``."""

    address: str


class Greet(msgspec.Struct, frozen=True):
    """Send ``Hello`` on a connection."""

    connection: int
    knows: int
    received: int
    turn: int


class Write(msgspec.Struct, frozen=True):
    """Send a numbered body, with an acknowledgement of what was received."""

    connection: int
    number: int
    ack: int
    data: bytes


class Acknowledge(msgspec.Struct, frozen=True):
    """Send an acknowledgement alone."""

    connection: int
    ack: int


class Close(msgspec.Struct, frozen=True):
    """End a connection; ``is_over``: tell the peer that its epoch is."""

    connection: int
    why: str
    is_over: bool = False


class Deliver(msgspec.Struct, frozen=True):
    """The next body for the owner."""

    data: bytes


class Linked(msgspec.Struct, frozen=True):
    """There is a connection again; ``is_new``: with an epoch that there was no session with."""

    epoch: int
    is_new: bool


class SessionEnded(msgspec.Struct, frozen=True):
    """The epoch that the session was with is over; so many bodies may not have arrived."""

    epoch: int
    undelivered: int


class Suspected(msgspec.Struct, frozen=True):
    """See rule 5."""

    why: str


class Refused(msgspec.Struct, frozen=True):
    """The peer has ended the connection, and nobody listened where it was dialled then."""

    dialled_at: float


class Congested(msgspec.Struct, frozen=True):
    """More (or again less than half of that) waits than ``waiting_most_bytes``."""

    is_congested: bool


class Fenced(msgspec.Struct, frozen=True):
    """This node's own epoch is over for the peer."""

    why: str


Command = (
    Dial | Greet | Write | Acknowledge | Close | Deliver | Linked | SessionEnded | Suspected
    | Refused | Congested | Fenced
)  # fmt: skip
