"""What the bridge needs of its daemon and of the links, and what all of its parts need of each
other: how refs travel, and what is tried again until there is room.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from shoal._base import records
from shoal._native import ObjectRef
from shoal._proto.bridge import (
    ActorAnswer,
    ActorAsk,
    ActorState,
    ActorTaken,
    EndActor,
    ForwardTask,
    GiveActor,
    HomeMoves,
    HostActor,
    LockAsk,
    LockTold,
    NameAnswer,
    NameAsk,
)
from shoal._proto.holds import Name

RETRY_S = 0.02
"""Until something for which there was no room is tried again."""
SMALL_BYTES = 16384
"""Values up to this travel with the news of them."""


class Links(Protocol):
    """Other daemons (``Peers`` of the links)."""

    def send(self, node: str, body: Any, /) -> None:
        """A row for ``node``: in order, once."""

    def pull(
        self, node: str, name: bytes, into: memoryview, done: Callable[[str], None], /
    ) -> None:
        """Have the bytes that ``node`` calls ``name`` written there; ``done("")`` or ``done(why
        not)``, never before this returns."""


def _nothing(*_: object) -> None:
    """For what a daemon without it does not do."""


HomeRow = GiveActor | ActorTaken | HomeMoves
NameRow = NameAsk | NameAnswer | ActorAsk | ActorAnswer
LockRow = LockAsk | LockTold
Place = tuple[int, int, int]
"""A queue, its generation, and the job here that its tasks are of."""


class Watch:
    """What forwarding and hosting hear of lendings and visits; this one takes in everything."""

    def over(self, key: int, ran_s: float, window: int | None) -> None:
        """A lent task has ended there, one way or the other, or its node is lost."""

    def came_back(self, key: int, window: int | None) -> bool:
        """It has not been run. True: it is kept (``lend_kept`` or ``end_kept`` follows); False: it
        goes into its queue."""
        return False

    def runs(self, key: int) -> None:
        """It was asked back too late."""

    def admit(self, node: str, body: ForwardTask) -> str:
        """Whether this node takes that task in; if not, why."""
        return ""

    def visit_over(self, node: str, number: int) -> tuple[float, int | None]:
        """A visit that was admitted has ended or gone: how long it ran, and how many more of its
        kind may come."""
        return 0.0, None

    def job_ended(self, node: str, job: int, reason: str) -> None:
        """Its tasks here are to end."""

    def lost_call(self, queue: int, node: str) -> bytes:
        """What a call ends with that was lent from that queue to a node that is lost."""
        return lost_actor(node)

    def actor_came(self, node: str, body: HostActor, refs: list[ObjectRef[Any]]) -> None:
        """An actor of that node is to live here; ``refs``: to its class and its arguments."""

    def actor_told(self, node: str, body: ActorState, refs: list[ObjectRef[Any]]) -> None:
        """How an actor of ours is there; ``refs``: to its state, if it moves."""

    def name_row(self, node: str, body: NameRow, refs: list[ObjectRef[Any]]) -> None:
        """A row about names of actors; ``refs``: to what it carries."""

    def lock_row(self, node: str, body: LockRow) -> None:
        """A row about a lock."""

    def home_row(self, node: str, body: HomeRow, refs: list[ObjectRef[Any]]) -> None:
        """The home of an actor moves; ``refs``: to what the row carries."""

    def actor_ends(self, node: str, body: EndActor) -> None:
        """An actor that lives here, or is ours, is to end."""


@dataclass(slots=True)
class Surroundings:
    """What the daemon does for its bridge."""

    links: Links
    call_later: Callable[[float, Callable[[], None]], object]
    describe_queue: Callable[[int], bytes]
    """What the tasks of a class queue need, for whoever is to run them."""
    find_queue: Callable[[str, int, bytes], Place | str | None]
    """Where the tasks of that node's job wait that need what its ``describe_queue`` has said; else
    why not; None: not yet."""
    find_actor: Callable[[Name, bytes], Place | str]
    """Where calls wait here for the actor with that lifetime object, in what its ``describe_queue``
    has said."""
    watch: Watch = field(default_factory=Watch)
    """Who decides what is lent, and taken in."""
    make_room: Callable[[int], object] = _nothing
    """Have memory for so many bytes, soon: for what the daemon itself writes."""
    bring_back: Callable[[int], object] = _nothing
    """Have a value that is pinned read back from its file, or made again if it is lost."""
    cancel: Callable[[int, bool, bool, bool], object] = _nothing
    """End a task of this node: key, recursive, forced, late."""
    blame: Callable[[str, str], object] = _nothing
    """A node has said what cannot be, and why: one line in the log. It was ignored."""
    lost: Callable[[int, str], bool] = lambda key, problem: False
    """A result of a task of ours is nowhere any more: key, what has happened. True: it is made
    again, or its readers are told; False: nobody here does either."""
    ask_about: Callable[[str, int], object] = _nothing
    """Something depends on that node epoch: the control store is to say what became of it."""


def until_room(around: Surroundings, size: int, step: Callable[[], bool]) -> None:
    """Do ``step`` until it says True."""
    if step():
        return
    around.make_room(size)
    if not step():
        around.call_later(RETRY_S, lambda: until_room(around, size, step))


# ---- records of what only a bridge can say
def lost_value(problem: str) -> bytes:
    """The value can not be had any more."""
    return records.pack("ObjectLostError", reason=problem)


def lost_actor(node: str, **facts: object) -> bytes:
    """The node on which an actor ran a call, or by way of which it is called, is lost; ``facts``
    name the actor."""
    fields = {"reason": "node_lost", "node": node, "may_have_run": True}
    return records.pack("ActorDiedError", **{**fields, **facts})


def lost_worker(key: int, node: str, *, is_drained: bool = False) -> bytes:
    """The node that ran a task is lost, or was drained before it had ended."""
    reason = f"node {node}, which ran it, is lost"
    if is_drained:
        reason = f"node {node}, which ran it, was drained, and its time was up"
    return records.pack("WorkerCrashedError", task_id=f"{key:016x}", node=node, reason=reason)
