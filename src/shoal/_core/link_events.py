"""What happens to a link, and what it wants done: the vocabulary of ``_core.link``.

Connections are numbers that the shell gives; bodies are opaque bytes. Every event and command is
plain data, so a schedule of a test can be written down and played again.
"""

from __future__ import annotations

from dataclasses import dataclass

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
@dataclass(frozen=True, slots=True)
class Given:
    """The owner wants a body to reach the peer."""

    data: bytes


@dataclass(frozen=True, slots=True)
class AddressesKnown:
    """Where the peer can be dialled, best first; none: only it can dial."""

    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DialFailed:
    """The dial that was under way came to nothing before the peer had proved itself."""

    why: str
    was_refused: bool = False
    """Its machine is there, and nobody listens."""


@dataclass(frozen=True, slots=True)
class Reached:
    """The dialled peer has proved itself."""

    connection: int


@dataclass(frozen=True, slots=True)
class Greeted:
    """The peer's ``Hello`` came on a connection."""

    connection: int
    is_dialled: bool
    """By this side."""
    epoch: int
    knows: int
    received: int
    turn: int


@dataclass(frozen=True, slots=True)
class FrameCame:
    """A frame with a body, or only an acknowledgement (number 0)."""

    connection: int
    number: int
    ack: int
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Moved:
    """The peer's machine has taken bytes of what was written."""

    connection: int


@dataclass(frozen=True, slots=True)
class Ended:
    """A connection is gone."""

    connection: int
    why: str
    is_peers: bool = False
    """The peer has ended it, or has ended itself."""


@dataclass(frozen=True, slots=True)
class ToldOver:
    """The peer says that this node's epoch is over."""

    connection: int
    why: str


@dataclass(frozen=True, slots=True)
class Forgotten:
    """The peer was declared dead: its present epoch never counts again."""


@dataclass(frozen=True, slots=True)
class BeganAnew:
    """This node goes on as another epoch: the session is over, for the peer too once it hears."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Ticked:
    """``wake_at`` has come."""


Event = (
    Given | AddressesKnown | DialFailed | Reached | Greeted | FrameCame | Moved | Ended
    | ToldOver | Forgotten | BeganAnew | Ticked
)  # fmt: skip


# ---- what to do
@dataclass(frozen=True, slots=True)
class Dial:
    """Dial; answered by ``Reached`` or ``DialFailed``."""

    address: str


@dataclass(frozen=True, slots=True)
class Greet:
    """Send ``Hello`` on a connection."""

    connection: int
    knows: int
    received: int
    turn: int


@dataclass(frozen=True, slots=True)
class Write:
    """Send a numbered body, with an acknowledgement of what was received."""

    connection: int
    number: int
    ack: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """Send an acknowledgement alone."""

    connection: int
    ack: int


@dataclass(frozen=True, slots=True)
class Close:
    """End a connection; ``is_over``: tell the peer that its epoch is."""

    connection: int
    why: str
    is_over: bool = False


@dataclass(frozen=True, slots=True)
class Deliver:
    """The next body for the owner."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Linked:
    """There is a connection again; ``is_new``: with an epoch that there was no session with."""

    epoch: int
    is_new: bool


@dataclass(frozen=True, slots=True)
class SessionEnded:
    """The epoch that the session was with is over; so many bodies may not have arrived."""

    epoch: int
    undelivered: int


@dataclass(frozen=True, slots=True)
class Suspected:
    """See rule 5."""

    why: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The peer has ended the connection, and nobody listened where it was dialled then."""

    dialled_at: float


@dataclass(frozen=True, slots=True)
class Congested:
    """More (or again less than half of that) waits than ``waiting_most_bytes``."""

    is_congested: bool


@dataclass(frozen=True, slots=True)
class Fenced:
    """This node's own epoch is over for the peer."""

    why: str


Command = (
    Dial | Greet | Write | Acknowledge | Close | Deliver | Linked | SessionEnded | Suspected
    | Refused | Congested | Fenced
)  # fmt: skip
