"""Why something is not there yet: one typed record per reason, each with the next of its chain.

The node daemon makes them (``_core/why.py``) out of its tables; whoever asked shows them
(``errors/_why.py`` makes the sentences). They travel as msgpack of one ``AnyReason``.

1. A record has facts only: ids as everywhere in the API, seconds, amounts.
2. ``cause`` is what the reason itself waits for; None where the chain ends.
3. Nobody imports this before somebody asks: 30 classes take 3 ms to make.
"""

from __future__ import annotations

from typing import Union

import msgspec


class Reason(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Base of all reasons."""

    cause: AnyReason | None = None


class Holder(msgspec.Struct, frozen=True):
    """Who has what somebody else waits for."""

    kind: str
    """task, actor, group, worker or process."""
    id: str
    name: str = ""
    worker: int = -1
    pid: int = 0
    amounts: dict[str, float] = {}
    since_s: float = 0.0


# ---- the ends of a chain that need nobody
class Ready(Reason, frozen=True, kw_only=True):
    """It is there: nothing is waited for."""

    id: str
    is_error: bool = False
    """What is there is an error, which ``get`` raises."""
    error: str = ""
    """Its class and first line."""
    file: str = ""
    """Not in memory but in this file: it comes back when it is read."""
    is_evicted: bool = False
    """In no memory and no file: its task makes it again when it is read."""
    node: str = ""
    """In the memory of this other node: it comes when it is read."""


class Gone(Reason, frozen=True, kw_only=True):
    """Nobody holds it any more, or nobody has ever known it."""

    id: str


class NoAnswer(Reason, frozen=True, kw_only=True):
    """The node daemon has not answered: it is stopped, or its machine has no time for it."""

    pid: int
    waited_s: float
    is_stopped: bool = False
    """By a signal or a debugger."""


class Nothing(Reason, frozen=True, kw_only=True):
    """The program that was asked about waits for nothing."""

    pid: int = 0


# ---- tasks and calls
class OfTask(Reason, frozen=True, kw_only=True):
    """Base of reasons that are about one task or call."""

    task: str
    name: str = ""
    attempt: int = 1
    since_s: float | None = None
    """How long it has been so; None: not known any more."""
    ends_in_s: float | None = None
    """Its deadline; None: it has none."""
    taken: int = 0
    """So many tasks of its queue have begun: whether the queue goes on."""


class WaitsForArgument(OfTask, frozen=True, kw_only=True):
    """An argument is not there yet; ``cause`` says why."""

    argument: str


class WaitsForEarlierCall(OfTask, frozen=True, kw_only=True):
    """A call of the same caller to the same actor comes first, and waits for an argument."""

    earlier: str


class Submitting(OfTask, frozen=True, kw_only=True):
    """Its caller, or who made its last argument, is just handing it on."""


class Running(OfTask, frozen=True, kw_only=True):
    """It runs; ``cause`` is what it waits for itself, if it does."""

    worker: int
    pid: int = 0
    actor: str = ""
    waits: bool = False
    """It sleeps in a call of Shoal."""


class OnNode(OfTask, frozen=True, kw_only=True):
    """Another node of the cluster has it: it runs there, or waits in a queue of that node."""

    node: str
    """Its name."""
    node_id: str
    runs: bool = False
    """It is known to run there."""


class WaitsForTurn(OfTask, frozen=True, kw_only=True):
    """Tasks of its kind run, and it is not its turn; ``cause`` is the one that runs longest."""

    ahead: int
    """Tasks in the queue, this one counted; an upper bound."""
    workers: int


class Delivering(OfTask, frozen=True, kw_only=True):
    """What it needs is there; a worker is about to take it."""


class WaitsForWorker(OfTask, frozen=True, kw_only=True):
    """What it asks for is free; a process for it is being started."""

    starting: int
    failures: int = 0
    """Starts that failed, one after the other."""
    again_in_s: float | None = None
    """The next start is tried then, since the last one failed."""


class TooManyProcesses(OfTask, frozen=True, kw_only=True):
    """There are as many worker processes as there may be."""

    workers: int
    most: int


class WorkersCrash(OfTask, frozen=True, kw_only=True):
    """Its workers end before they take anything; the next one is tried later."""

    deaths: int
    again_in_s: float


class WaitsForResources(OfTask, frozen=True, kw_only=True):
    """Others hold what it asks for; ``cause`` is about the one that has held it for longest."""

    asked: dict[str, float]
    missing: dict[str, float]
    total: dict[str, float]
    holders: list[Holder] = []
    """The first ten, longest first."""
    holders_count: int = 0
    group: str = ""
    """Of the placement group whose bundles are meant; "": of the node."""


class AdmissionPaused(OfTask, frozen=True, kw_only=True):
    """The node has little memory left: nothing new begins until some is free, but one thing per
    second."""

    used_bytes: int
    limit_bytes: int
    paused_s: float
    holders: list[Holder] = []
    """Processes of the session by the memory of their own, the largest first."""


class LeaseOver(OfTask, frozen=True, kw_only=True):
    """The node has not heard from the control store for longer than its lease: nothing begins."""

    over_s: float


class KeptForAnother(OfTask, frozen=True, kw_only=True):
    """Enough is free, but somebody who asks for more has waited longer, and it is kept for him."""

    asked: dict[str, float]
    other: str
    other_asked: dict[str, float]


class Infeasible(OfTask, frozen=True, kw_only=True):
    """No node has what it asks for."""

    asked: dict[str, float]
    total: dict[str, float]
    text: str = ""
    """What else it needs that is not here."""
    fails_in_s: float | None = None
    """It fails then; None: it waits until a node with that joins."""


class WaitsForNode(OfTask, frozen=True, kw_only=True):
    """This node can not run it, others can: it waits until one of them has room."""

    asked: dict[str, float]
    nodes: list[str] = []
    """Names of the first ten that can."""
    nodes_count: int = 0


class EnvironmentBuilding(OfTask, frozen=True, kw_only=True):
    """Its runtime environment is being made."""

    environment: str


class EnvironmentFailed(OfTask, frozen=True, kw_only=True):
    """Its runtime environment could not be made; what waits for it is being failed."""

    environment: str


class GroupPending(OfTask, frozen=True, kw_only=True):
    """Its placement group is not reserved yet; ``cause`` says why."""

    group: str


class GroupRemoved(OfTask, frozen=True, kw_only=True):
    """Its placement group is gone; what waits in it is being failed."""

    group: str
    text: str = ""


class JobEnding(OfTask, frozen=True, kw_only=True):
    """The program that asked for it has ended; it is being failed."""

    job: int


# ---- actors
class OfCall(OfTask, frozen=True, kw_only=True):
    """Base of reasons that are about an actor, or a call (``task``) that waits for it."""

    actor: str
    class_name: str = ""


class ActorPending(OfCall, frozen=True, kw_only=True):
    """The actor has no process yet; ``cause`` says what it waits for."""


class ActorConstructing(OfCall, frozen=True, kw_only=True):
    """The actor's constructor runs; ``cause`` is what it waits for, if it does."""

    worker: int
    pid: int = 0


class ActorRestarting(OfCall, frozen=True, kw_only=True):
    """The actor's process died; the next one is started, after a pause if it dies often."""

    restarts: int
    """Of ``max_restarts``, so far."""
    recently: int
    """Ends of its process within the last minute."""
    again_in_s: float | None = None
    """The pause ends then; None: it is over, and ``cause`` says what it waits for."""


class ActorBusy(OfCall, frozen=True, kw_only=True):
    """The actor does one thing at a time and runs another call, which ``cause`` is about."""

    call: str
    ahead: int = 0
    """Calls in its queue, this one counted; an upper bound."""


class ConcurrencyFull(OfCall, frozen=True, kw_only=True):
    """As many calls run as may run side by side; ``cause`` is the longest of them."""

    group: str
    """Of the concurrency group; "": the actor's own."""
    limit: int
    calls: list[str]


class ActorIdle(OfCall, frozen=True, kw_only=True):
    """The actor lives and does nothing."""

    worker: int
    pid: int = 0


class ActorOnNode(OfCall, frozen=True, kw_only=True):
    """The actor is on another node, as ``state`` says: what it does is known there."""

    node: str
    """Its name."""
    node_id: str
    state: str
    """PENDING, RESTARTING or ALIVE."""
    pid: int = 0


class ActorEnding(OfCall, frozen=True, kw_only=True):
    """The actor is dead for its callers; its process is just ending."""

    worker: int = -1


class ControlStoreAway(OfCall, frozen=True, kw_only=True):
    """The control store has not answered yet; it is being started again."""

    what: str = ""
    """What waits to be written, where it is no actor: a row of which table, or "kv"."""
    change: int = 0
    """The number of that change: who waits for one after the other is not stuck."""


# ---- what a running task waits for
class Stopped(Reason, frozen=True, kw_only=True):
    """The process is stopped (SIGSTOP, Ctrl-Z, a debugger)."""

    worker: int
    pid: int


class WaitsForRoom(Reason, frozen=True, kw_only=True):
    """Node memory is full: it waits until values are dropped."""

    used_bytes: int
    capacity_bytes: int
    holders: list[Holder] = []
    """Processes by the bytes whose refs they have, the most first."""


class WaitsForMemory(Reason, frozen=True, kw_only=True):
    """Its function takes much memory, as was learned: it runs when there is enough, or nobody else
    of those runs."""

    function: str
    needs_bytes: int
    used_bytes: int
    limit_bytes: int
    again_in_s: float | None = None
    """It was ended for its memory: not before then."""
    holders: list[Holder] = []
    """Those that run, and what they were promised."""


class Restoring(Reason, frozen=True, kw_only=True):
    """The value is in a file, and is being brought back to memory."""

    object: str
    file: str


class Arriving(Reason, frozen=True, kw_only=True):
    """The value is in the memory of another node, and is being brought here."""

    object: str
    node: str


class MadeElsewhere(Reason, frozen=True, kw_only=True):
    """Another node gives the value, and has not said that it is there."""

    object: str
    node: str


class Rebuilding(Reason, frozen=True, kw_only=True):
    """The value was lost, and its task makes it again; ``cause`` is what runs for that now."""

    object: str
    problem: str
    """What has happened to it."""
    attempt: int
    attempts_most: int = 0
    """0: any number."""
    before: int = 0
    """Other tasks that have to run before it, as their results are lost too."""


class BackPressure(Reason, frozen=True, kw_only=True):
    """A stream has as many unseen items as it may have: its consumer does not take them."""

    stream: str
    consumer: Holder | None = None


class WaitsForLock(Reason, frozen=True, kw_only=True):
    """``shoal.lock``: somebody else holds it."""

    lock: str
    holder: Holder
    ahead: int = 1


class WaitsForChannel(Reason, frozen=True, kw_only=True):
    """A channel: its other side has not written the next message, or not read an earlier one."""

    what: str


class TimeOver(OfTask, frozen=True, kw_only=True):
    """The task was ended: its time was over."""

    stage: str
    """What it was at then: held, queued or running."""
    timeout_s: float
    stages_s: dict[str, float]
    """Seconds that each stage took."""


class NotSealed(Reason, frozen=True, kw_only=True):
    """A value that no task makes: the process that owns it has to give it."""

    object: str
    owner: Holder | None = None


class Circular(Reason, frozen=True, kw_only=True):
    """The chain comes back to where it has been: none of these can ever go on."""

    ids: list[str]


AnyReason = Union[
    Ready,
    Gone,
    NoAnswer,
    Nothing,
    WaitsForArgument,
    WaitsForEarlierCall,
    Submitting,
    Running,
    OnNode,
    WaitsForTurn,
    Delivering,
    WaitsForWorker,
    TooManyProcesses,
    WorkersCrash,
    WaitsForResources,
    AdmissionPaused,
    LeaseOver,
    KeptForAnother,
    Infeasible,
    WaitsForNode,
    EnvironmentBuilding,
    EnvironmentFailed,
    GroupPending,
    GroupRemoved,
    JobEnding,
    ActorPending,
    ActorConstructing,
    ActorRestarting,
    ActorBusy,
    ConcurrencyFull,
    ActorIdle,
    ActorOnNode,
    ActorEnding,
    ControlStoreAway,
    Stopped,
    WaitsForRoom,
    WaitsForMemory,
    Restoring,
    Arriving,
    MadeElsewhere,
    Rebuilding,
    BackPressure,
    WaitsForLock,
    WaitsForChannel,
    TimeOver,
    NotSealed,
    Circular,
]

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AnyReason] = msgspec.msgpack.Decoder(AnyReason)


def pack(reason: Reason) -> bytes:
    """``reason`` and its chain as bytes."""
    return _encoder.encode(reason)


def unpack(data: bytes) -> AnyReason:
    """What ``pack`` made."""
    return _decoder.decode(data)


def chain_of(reason: Reason | None) -> list[Reason]:
    """``reason`` and its causes, the first one first."""
    found: list[Reason] = []
    while reason is not None:
        found.append(reason)
        reason = reason.cause
    return found
