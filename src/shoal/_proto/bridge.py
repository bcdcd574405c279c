"""What daemons tell each other about tasks that one of them runs for the other.

*Home* is the node whose process submitted the task; its daemon has lent it (native/bridge.cpp) and
alone decides what becomes of it (RULES L-1). A *lending* is one handing over of one task. Its
number is given by home once and names it in every row, so a row about an older lending of the same
task is about nothing. Rows of one link come in order, each once, while both node epochs live.

::

    home                                     the other node
      ForwardTask(number, ...) ------------->
      RecallTask(number) ------------------->            may cross with what ends it
      CancelTask(number, ...) -------------->
      JobEnded(job) ------------------------>            whatever it has there ends
                              <-------------- TaskRuns(number)       answer to a recall: too late
                              <-------------- TaskReturned(number)   or it has not been begun
                              <-------------- StreamItems(number, ...)  as it yields them
      StreamSeen(number, ...) -------------->
                              <-------------- TaskEnded(number, results)
                              <-------------- PrintedLines(job)      by its workers there

A lending ends with its ``TaskEnded`` or ``TaskReturned``, of which there is one, or with a node.
Functions, arguments and results are opaque bytes (RULES Z-3); refs in them are named apart, in the
order in which the bytes number them (RULES O-1).
"""

from typing import Union

import msgspec

from shoal._proto.holds import Name
from shoal._proto.messages import (
    AcquireLock,
    ActorInfo,
    ActorSpec,
    IsLocked,
    Message,
    ReleaseLock,
)

ENDED = 0
CRASHED = 1
RAISED = 2
"""How a task has ended: with results (perhaps errors); with the end of its process; with an
exception after which it may be run again, as the worker that ran it says (RULES L-3)."""


class Result(msgspec.Struct, frozen=True, array_like=True):
    """One return of a task."""

    format: int
    size: int
    """Bytes of the value as it stands in node memory."""
    in_block: bool = False
    """The bytes are an image (native/bridge.cpp), not the plain value."""
    data: bytes | None = None
    """None: the bytes stay on the node that ran it, until home pulls them or lets them go."""
    contained: tuple[Name | None, ...] = ()
    """What its table names; None: nothing that leaves the node."""


class ForwardTask(Message, frozen=True):
    """Run this, once."""

    number: int
    attempt: int
    key: int
    """At home, for people and events."""
    job: int
    place: bytes
    """What it needs: resources, strategy, environment, as the policy of both ends reads it. Of a
    call: the number of the concurrency group, from 1."""
    function: Name | None
    """Of a plain task."""
    actor: Name | None
    """Of a call: the lifetime object of the actor, which lives there or is that node's."""
    method: int
    n_returns: int
    flags: int
    limit: int
    left_s: float
    """Until its deadline; negative: it has none (RULES Q-4)."""
    payload: bytes
    dependencies: tuple[Name, ...] = ()
    contained: tuple[Name, ...] = ()
    is_final: bool = False
    """It is not sent back because the node is busy."""
    is_needy: bool = False
    """Home can never run it itself."""
    given: int = 0
    """Of a stream: so many items home has from former attempts."""
    items: tuple[int, ...] = ()
    """Numbers of the items of a generator that are to be made again: its returns."""


class RecallTask(Message, frozen=True):
    """Give it back, if it has not been begun (RULES S-11)."""

    number: int


class CancelTask(Message, frozen=True):
    """End it, and what it has submitted there if ``is_recursive``."""

    number: int
    is_recursive: bool = False
    is_forced: bool = False
    is_late: bool = False
    """Because its time is over."""


class TaskRuns(Message, frozen=True):
    """It can not be given back any more."""

    number: int


class TaskReturned(Message, frozen=True):
    """It has not been run, and will not be."""

    number: int
    why: str = ""
    """Empty: it was recalled; else why this node can not run it."""
    window: int | None = None
    """How many of its kind home may have there now (``hosting``)."""


class TaskEnded(Message, frozen=True):
    """It has been run."""

    number: int
    how: int
    results: tuple[Result, ...]
    ran_s: float = 0.0
    """About how long it ran."""
    window: int | None = None
    """As in ``TaskReturned``."""


class StreamItems(Message, frozen=True):
    """It has yielded these, one behind the other. The bytes of large ones stay there, as results
    whose index is the item's number and 1 (``ITEMS_FROM``)."""

    number: int
    first: int
    """Number of the first of them."""
    items: tuple[Result, ...]


class StreamSeen(Message, frozen=True):
    """From home: so many items of a stream are in its memory, and its consumer has taken so
    many."""

    number: int
    taken: int
    seen: int


ITEMS_FROM = 1
"""Index of item 0 among the results of a stream; 0 is its end."""


class FreeResults(Message, frozen=True):
    """From home: the bytes of these results of a lending, by their index, are not needed there."""

    number: int
    indexes: tuple[int, ...]


class JobEnded(Message, frozen=True):
    """From home: nothing of this job has to be done any more."""

    job: int
    reason: str


class HostActor(Message, frozen=True):
    """From home: let this actor live there. ``ActorState`` is the answer."""

    key: int
    """Of its lifetime object at home: what it is called in every row."""
    actor_id: str
    job: int
    place: bytes
    """Its job and its environment, as the policy of both ends reads it."""
    spec: ActorSpec
    """Without the keys of function and arguments: those are home's."""
    function: Name
    arguments: Name
    checkpoint: Name | None = None
    """Its state, if it has lived before."""


class ActorState(Message, frozen=True):
    """From its host: how an actor is; DEAD is the last, REFUSED: it is not taken."""

    key: int
    state: str
    pid: int = 0
    restarts: int = 0
    """It has had so many there."""
    cause: bytes = b""
    checkpoint: Name | None = None
    """Of one that moves: its state."""


class EndActor(Message, frozen=True):
    """To its host, or to its home by who has a handle: end it."""

    home: str
    key: int
    is_gentle: bool = False
    may_restart: bool = False
    is_moving: bool = False
    """It is to live elsewhere."""


class GiveActor(Message, frozen=True):
    """To the node that is to be the home of an actor from now on: its home is being drained, and
    nothing of it runs. ``ActorTaken`` is the answer."""

    actor_id: str
    job: int
    """As the number is there; 0: it is of a detached actor's job."""
    root: str
    """That actor; it may be the same."""
    place: bytes
    """Its job and its environment."""
    spec: ActorSpec
    """Without the keys of function and arguments."""
    namespace: str
    incarnation: int
    restarts: int
    function: Name
    lifetime: Name
    """Its lifetime object until now: its constructor's arguments."""
    checkpoint: Name | None = None


class ActorTaken(Message, frozen=True):
    """From the new home to the former one."""

    former: Name
    lifetime: Name | None = None
    """The lifetime object from now on; None: it is not taken."""


class HomeMoves(Message, frozen=True):
    """From the home of an actor to a node that has handles of it: calls are to wait, and to go to
    its next home as soon as that is said."""

    former: Name
    lifetime: Name | None = None
    """There; None: not yet."""


CLAIM, FIND, RELEASE, TAKE = range(4)


class NameAsk(Message, frozen=True):
    """To the head: a node wants this name, looks for it, has no use for it any more, or has it
    now in the place of another one, with its actor."""

    number: int
    """0: no answer is wanted."""
    what: int
    namespace: str
    name: str
    former: str = ""
    """Who had it until now."""


class NameAnswer(Message, frozen=True):
    """Who has the name; of a claim empty: it is granted."""

    number: int
    node: str


class ActorAsk(Message, frozen=True):
    """What is the actor of that name, which is the node's?"""

    number: int
    namespace: str
    name: str


class ActorAnswer(Message, frozen=True):
    number: int
    info: ActorInfo | None = None
    lifetime: Name | None = None


class LockAsk(Message, frozen=True):
    """To the head: what a process of this node asks about a lock; without a ``body`` the process
    has ended."""

    number: int
    """0: no answer is wanted."""
    process: int
    body: AcquireLock | ReleaseLock | IsLocked | None = None


class LockTold(Message, frozen=True):
    """From the head."""

    number: int
    held: bool = False
    record: bytes = b""
    """Why it is refused."""


class PrintedLines(Message, frozen=True):
    """To home: what a worker has printed that works for this job. Lines may be left out."""

    job: int
    pid: int
    label: str
    """As in ``LogLines``."""
    stream: str
    lines: list[str]
    left_out: int = 0
    """Lines of the job that this node has not sent, since the last row of this kind."""
    origin: str = ""
    """What people call the node of the worker, if another one passes it on."""


BridgeBody = Union[
    LockAsk,
    LockTold,
    NameAsk,
    NameAnswer,
    ActorAsk,
    ActorAnswer,
    HostActor,
    ActorState,
    EndActor,
    GiveActor,
    ActorTaken,
    HomeMoves,
    ForwardTask,
    RecallTask,
    CancelTask,
    TaskRuns,
    TaskReturned,
    TaskEnded,
    StreamItems,
    StreamSeen,
    FreeResults,
    JobEnded,
    PrintedLines,
]
"""All rows of this module, for the union of what a link carries."""


def names_in(body: BridgeBody) -> tuple[Name, ...]:
    """The refs that a row carries, one entry for each time that one stands in it."""
    if isinstance(body, ForwardTask):
        own = tuple(name for name in (body.function, body.actor) if name is not None)
        return own + body.dependencies + body.contained
    if isinstance(body, HostActor | GiveActor | ActorState):
        kept = () if body.checkpoint is None else (body.checkpoint,)
        if isinstance(body, ActorState):
            return kept
        first = body.arguments if isinstance(body, HostActor) else body.lifetime
        return (body.function, first, *kept)
    if isinstance(body, ActorAnswer | ActorTaken | HomeMoves):
        return () if body.lifetime is None else (body.lifetime,)
    if isinstance(body, TaskEnded):
        return tuple(name for r in body.results for name in r.contained if name is not None)
    if isinstance(body, StreamItems):
        return tuple(name for r in body.items for name in r.contained if name is not None)
    return ()
