"""What the forwarding half of a node is told, and what it decides (``forwarding``).

Queues are those of this node, by their numbers; tasks are keys; other nodes are their ids in hex.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Union

from shoal._proto.messages import Default, Strategy
from shoal._proto.views import Candidates, NodeRow, Wish


# ---- events
class QueueLooked(NamedTuple):
    """What a look at one class queue shows."""

    queue: int
    wish: Wish
    entries: int
    movable: int
    """Entries that may leave: submitted here, and never out (``Forwarding.may_leave``)."""
    takes: int
    startable: int
    attached: int
    is_feasible: bool


class QueueGone(NamedTuple):
    queue: int


class TaskArrived(NamedTuple):
    """A task came to the inbox (RULES S-5): it must be placed by itself."""

    queue: int
    key: int
    strategy: Strategy = Default()
    bytes_at: Mapping[str, int] = {}


class TaskEnded(NamedTuple):
    """A held task was cancelled, or its job has ended."""

    queue: int
    key: int


class CandidatesHeard(NamedTuple):
    candidates: Candidates
    queue: int = 0
    """For this queue alone, with slots that stand in no row: it is for bundles of a group."""


class RowHeard(NamedTuple):
    """A peer has told how it is."""

    row: NodeRow


class Forwarded(NamedTuple):
    """Of ``asked`` tasks these could be taken out of the queue, and are on their way."""

    queue: int
    node: str
    asked: int
    keys: tuple[int, ...]
    is_final: bool = False


class Returned(NamedTuple):
    """That node has sent them back, unasked or recalled: they have not run."""

    queue: int
    node: str
    keys: tuple[int, ...]
    window: int | None = None


class Running(NamedTuple):
    """The answer to a recall: they stay there."""

    queue: int
    node: str
    keys: tuple[int, ...]


class Done(NamedTuple):
    """They have ended there, one way or the other."""

    queue: int
    node: str
    keys: tuple[int, ...]
    ran_s: float = 0.0
    """So long they ran, together."""
    window: int | None = None


class NodeLeaves(NamedTuple):
    """It is being drained."""

    node: str


class NodeLost(NamedTuple):
    node: str


class TimePassed(NamedTuple):
    pass


Event = Union[
    QueueLooked,
    QueueGone,
    TaskArrived,
    TaskEnded,
    CandidatesHeard,
    RowHeard,
    Forwarded,
    Returned,
    Running,
    Done,
    NodeLeaves,
    NodeLost,
    TimePassed,
]


# ---- commands
class Forward(NamedTuple):
    """Take up to ``most`` tasks that may leave out of the queue and send them; say
    ``Forwarded``."""

    queue: int
    node: str
    most: int
    is_final: bool = False
    """As in ``ForwardTasks``."""


class ForwardTasks(NamedTuple):
    """Send these held ones."""

    queue: int
    node: str
    keys: tuple[int, ...]
    is_final: bool
    """Whoever gets them does not send them back because he is busy."""


class Keep(NamedTuple):
    """Push these held ones into the queue here."""

    queue: int
    keys: tuple[int, ...]


class Recall(NamedTuple):
    """Ask these back; the answer is ``Returned`` or ``Running``."""

    queue: int
    node: str
    keys: tuple[int, ...]


class AskCandidates(NamedTuple):
    """Let the store know what is wanted; it answers with ``CandidatesHeard``."""

    wish: Wish
    tasks: int


Command = Union[Forward, ForwardTasks, Keep, Recall, AskCandidates]
