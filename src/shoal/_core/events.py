"""Events: what has happened, as the shell of a node daemon tells it to the ``NodeMachine``.

The shell (``_runtime.node``) owns sockets, processes, the clock and node memory. It turns whatever
it sees into one of the records below, calls ``machine.step(now, event)`` and performs the commands
that come back, in their order, before it feeds the next event. ``now`` is seconds of a clock that
never goes back (CLOCK_BOOTTIME). The machine remembers nothing about how it was told.

Some commands have an outcome that the machine must know. The shell performs the command, appends
the event that answers it to its own list, and feeds that list until it is empty::

    pending = deque([event])
    while pending:
        for command in machine.step(clock.now(), pending.popleft()):
            pending.extend(perform(command))

===================  =============================  ==========================================
command              answered by                    when
===================  =============================  ==========================================
``NewQueue``         ``QueueCreated``               at once
``FreeQueue``        ``QueueFreed``                 at once; ok=False: the machine asks again later
``Look``             ``Looked``                     at once
``SetHungry(True)``  ``Looked`` with that queue     at once, only if ``set_hungry`` returned True
``Requeue``          ``Requeued``                   at once, only if ``ticket`` is not 0
``Adopt``            ``AdoptFailed``                at once, only if ``adopt`` returned False
``CancelTasks``      ``FoundRunning``               at once
``LookAtTask``       ``TaskLooked``                 at once, only if it has not ended
``SiftTasks``        ``TasksSifted``                at once
``SiftQueues``       ``QueuesSifted``               at once
``Inspect``          ``Inspected``                  at once
``ReadMemory``       ``MemoryRead``                 at once
``StartWorker``      ``WorkerForked`` or            when the zygote has answered; afterwards
                     ``WorkerStartFailed``          ``WorkerJoined`` when its Hello has come
``SetAlarm``         ``AlarmRang``                  when that time has come
``WriteStore``       ``StoreWritten``               when the store has answered; 0 is not answered
``ReadValues``       ``ValuesRead``                 at once
``PutValues``        ``ValuesPut``                  at once
``BuildEnvironment`` ``EnvironmentBuilt`` or        when it is there, or could not be made
                     ``EnvironmentFailed``
===================  =============================  ==========================================

One task from start to end (driver 1, worker 2; ``->`` is a command, ``<-`` an event)::

    <- DriverJoined(index=1, request=1, ...)         -> Reply(1, 1, Welcome), StartWorker(1)
    <- WorkerForked(start=1, index=2, pid)            <- WorkerJoined(2, request=0, pid)
                                                      (an exec'd one says Hello: Reply Welcome)
    <- Requested(2, 1, GetAssignment)                 (idle and generic: the answer waits)
    <- Requested(1, 2, OpenQueue({"CPU": 1}))        -> NewQueue(ticket=1, ...)
    <- QueueCreated(ticket=1, queue=5, generation=1) -> SetHungry(5, True), Reply(1, 2, ..)
       (the driver submits; its push rings the bell)
    <- BellRang()                                    -> Look(queues=(5,), workers=())
    <- Looked(queues=(QueueState(5, 1, 0),))         -> Reply(2, 1, Assignment) -> Assign(2, 5)
                                                     -> SetHungry(5, True) if another would fit
       (the worker takes, runs and seals; nobody tells the daemon)

One actor (its calls wait in its queue from the first moment)::

    <- Requested(1, 3, CreateActor(spec))            -> Adopt(spec.arguments) -> NewQueue(ticket=2)
    <- QueueCreated(2, queue=6, generation=1)        -> Reply(1, 3, ActorInfo PENDING)
                                                     -> Reply(worker, n, Assignment(actor=...))
                                                     -> Assign(worker, 6) -> LabelWorker
    <- Requested(worker, 0, ActorStarted)             (told, no answer: now ALIVE)
    <- ProcessDied(worker, signal=9, running=...)    -> Fail or Requeue each -> CloseProcess
                                                     restarts left: RESTARTING, a new worker later
    <- BellRang(gone=(spec.arguments,))               (last handle gone)  -> Leave(worker)
    <- ProcessDied(worker, code=0)                   -> KillQueue(6, ..), Release, FreeQueue
"""

from __future__ import annotations

from typing import Union

import msgspec

from shoal._core import event_base, events_across
from shoal._core.sight_rows import ProcessSight, TaskSight
from shoal._proto import messages

Event = event_base.Event
AbroadLooked = events_across.AbroadLooked
ActorCame = events_across.ActorCame
ActorEnds = events_across.ActorEnds
ActorSent = events_across.ActorSent
ActorTold = events_across.ActorTold
CallersGone = events_across.CallersGone
CancelAsked = events_across.CancelAsked
GuestEnded = events_across.GuestEnded
GuestWanted = events_across.GuestWanted
DrainBegun = events_across.DrainBegun
LeaseSet = events_across.LeaseSet
ActorMoves = events_across.ActorMoves
HomeLeaves = events_across.HomeLeaves
HomeFound = events_across.HomeFound
GivenAway = events_across.GivenAway
ActorGiven = events_across.ActorGiven
NameAnswered = events_across.NameAnswered
NodesChanged = events_across.NodesChanged
KnownNode = events_across.KnownNode
GroupTold = events_across.GroupTold
BundlesWanted = events_across.BundlesWanted
BundlesOpened = events_across.BundlesOpened
BundlesUnwanted = events_across.BundlesUnwanted
GroupsOver = events_across.GroupsOver


# ---- what node memory looks like; read by the shell, never by the machine
class QueueState(msgspec.Struct, frozen=True):
    """``Memory.queue_state``."""

    queue: int
    entries: int
    """An upper bound: entries may be stale."""
    takes: int
    """Takes since the queue was made."""


class WorkerState(msgspec.Struct, frozen=True):
    """``Memory.process_state``."""

    index: int
    assigned: int
    attached: int
    """The queue whose assignment the worker has acknowledged; 0: it has let go."""
    depth: int
    """Running tasks, one above the other; 0: idle."""
    blocked: bool
    key: int = 0
    """Outermost running task."""


class RunningTask(msgspec.Struct, frozen=True):
    """One row of ``Memory.repair``."""

    key: int
    attempt: int
    max_retries: int
    charged: int
    flags: int
    queue: int
    about: int = 0
    """What it runs, as in an event of a take."""


class Looked(Event, frozen=True):
    """Answer to ``Look``: the present state of some queues and workers."""

    queues: tuple[QueueState, ...] = ()
    workers: tuple[WorkerState, ...] = ()


class BellRang(Event, frozen=True):
    """Node memory's eventfd was readable. ``gone`` are keys from ``inbox()`` whose ``handles()`` is
    0, ``dead`` what ``drain_dead()`` named."""

    gone: tuple[int, ...] = ()
    dead: tuple[int, ...] = ()


# ---- processes
class DriverJoined(Event, frozen=True):
    """A driver said Hello; the shell has checked uid, version and layout and opened ``index``."""

    index: int
    request: int
    pid: int
    config: messages.JobConfig


class WorkerForked(Event, frozen=True):
    """The process of ``StartWorker(start)`` exists."""

    start: int
    index: int
    pid: int


class WorkerStartFailed(Event, frozen=True):
    """It does not, or it ended before its Hello (also: the zygote died; the process table is
    full)."""

    start: int
    reason: str


class WorkerJoined(Event, frozen=True):
    """A worker was forked with a connection (``request`` 0), or it was exec'd and said Hello."""

    index: int
    request: int
    pid: int


class ProcessDied(Event, frozen=True):
    """A driver or joined worker is gone: its pidfd says so, ``repair`` has been called, its last
    lines are read.

    For a driver that left (``LeaveJob``, closed its memory, closed the connection) the same.
    """

    index: int
    code: int | None = None
    """Exit code, None if a signal ended it or nobody knows."""
    signal: int | None = None
    stderr: tuple[str, ...] = ()
    running: tuple[RunningTask, ...] = ()
    """Innermost first."""
    kernel_oom: str = ""
    """What shows that the kernel ended it for want of memory; "": nothing does."""
    limit_peak_bytes: int = 0
    """What it took, if it met the limit that it had asked for; 0: it was another."""


class Requested(Event, frozen=True):
    """A process asked something (any body of ``messages`` but Hello)."""

    index: int
    request: int
    body: messages.Message


# ---- answers to commands
class QueueCreated(Event, frozen=True):
    ticket: int
    queue: int
    generation: int


class QueueFreed(Event, frozen=True):
    queue: int
    ok: bool


class Requeued(Event, frozen=True):
    ticket: int
    ok: bool


class AdoptFailed(Event, frozen=True):
    """The object went away before it could be held."""

    key: int


class RunningAttempt(msgspec.Struct, frozen=True):
    """One row of ``Memory.cancel``."""

    key: int
    attempt: int
    worker: int
    is_call: bool
    """Of an actor."""


class FoundRunning(Event, frozen=True):
    """What ``CancelTasks(ticket)`` could not end: it runs."""

    ticket: int
    tasks: tuple[RunningAttempt, ...] = ()
    is_second_look: bool = False


class TaskLooked(Event, frozen=True):
    """The task of ``LookAtTask`` has not ended."""

    key: int
    stage: str
    """held, queued or running."""
    stages_s: dict[str, float]
    """How long each stage took so far."""


class QueuesSifted(Event, frozen=True):
    """Those of ``SiftQueues`` that no value counts on, and the others."""

    spare: tuple[int, ...]
    needed: tuple[int, ...]


class TasksSifted(Event, frozen=True):
    """Those of ``SiftTasks`` that have ended."""

    ended: tuple[int, ...]


class Inspected(Event, frozen=True):
    """Answer to ``Inspect``."""

    ticket: int
    tasks: tuple[TaskSight, ...] = ()
    processes: tuple[ProcessSight, ...] = ()
    queues: tuple[QueueState, ...] = ()
    used_bytes: int = 0
    capacity_bytes: int = 0
    held_bytes: tuple[tuple[int, int], ...] | None = None
    """(process, bytes that it has refs to), if that was asked for."""


class ProcessMemory(msgspec.Struct, frozen=True):
    """One worker, as far as its memory goes."""

    index: int
    own_bytes: int
    """Without node memory; -1: it is idle and was not read."""
    task: int = 0
    """Key of the innermost task that it runs."""
    function: int = 0
    """What that is; 0: of an actor, or the process is too small for anybody to care."""
    is_blocked: bool = False
    declared_bytes: int = 0
    """``memory=`` of what it was attached to."""
    is_actor: bool = False
    can_return: bool = True
    """A task, or an actor with restarts left."""
    is_free: bool = False
    """Attached to nothing."""


class MemoryRead(Event, frozen=True):
    """Answer to ``ReadMemory``."""

    used_bytes: int
    """Of the tightest of the machine's and every enclosing group's limit ..."""
    limit_bytes: int
    """... which is this."""
    processes: tuple[ProcessMemory, ...] = ()
    fresh_bytes: int = 0
    """What a worker that has done nothing has."""
    drivers: tuple[tuple[int, int], ...] = ()
    """(pid, bytes of its own) of programs, if the node has little left."""
    is_first_look: bool = False
    """Only what those have before they begin."""


class AlarmRang(Event, frozen=True):
    """The time of the last ``SetAlarm`` has come."""


# ---- the control store of a session that ``shoal start`` started
class StoreWritten(Event, frozen=True):
    """The store's answer to ``WriteStore(ticket)``: what ``StoreMachine`` replied."""

    ticket: int
    answer: messages.Message


class StoreConnected(Event, frozen=True):
    """A (new) store process takes connections: ``Join`` is the first that it hears."""


class ValuesRead(Event, frozen=True):
    """Answer to ``ReadValues``: opaque bytes of each, None for one that is gone."""

    ticket: int
    values: tuple[bytes | None, ...]


class ValuesPut(Event, frozen=True):
    """Answer to ``PutValues``: their keys, held until they are adopted; none if there is no
    room."""

    ticket: int
    keys: tuple[int, ...]


class EnvironmentBuilt(Event, frozen=True):
    """What ``BuildEnvironment`` asked for is there, and stays until ``DropEnvironment``."""

    key: str


class EnvironmentFailed(Event, frozen=True):
    """It could not be made: which of its fields, and the last lines that the tool wrote."""

    key: str
    step: str
    text: str
    output: tuple[str, ...] = ()


class ValueLost(Event, frozen=True):
    """The bytes of a sealed value are gone, and why: the file that it was in is gone or damaged.
    Its readers wait until ``LoseValue``, or until it is there again. ``ancestry``: ``Memory``."""

    key: int
    reason: str
    ancestry: tuple[int, int, int, int] | None = None
    kind: str = ""
    """As of ``causes.object_lost``."""


class Began(Event, frozen=True):
    """The first event: memory exists and the zygote has been asked for. Workers are started
    ahead."""


class StopAsked(Event, frozen=True):
    """The daemon was asked from outside to end (a signal)."""

    reason: str


AnyEvent = Union[
    GroupTold,
    BundlesWanted,
    BundlesOpened,
    BundlesUnwanted,
    GroupsOver,
    NameAnswered,
    ActorSent,
    ActorTold,
    ActorCame,
    ActorEnds,
    AbroadLooked,
    CallersGone,
    NodesChanged,
    LeaseSet,
    DrainBegun,
    ActorMoves,
    HomeLeaves,
    HomeFound,
    GivenAway,
    ActorGiven,
    GuestWanted,
    GuestEnded,
    CancelAsked,
    Looked,
    BellRang,
    DriverJoined,
    WorkerForked,
    WorkerStartFailed,
    WorkerJoined,
    ProcessDied,
    Requested,
    QueueCreated,
    QueueFreed,
    Requeued,
    AdoptFailed,
    FoundRunning,
    TaskLooked,
    QueuesSifted,
    TasksSifted,
    Inspected,
    MemoryRead,
    AlarmRang,
    StoreWritten,
    StoreConnected,
    ValuesRead,
    ValuesPut,
    EnvironmentBuilt,
    EnvironmentFailed,
    ValueLost,
    Began,
    StopAsked,
]
