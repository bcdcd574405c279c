"""Commands: what the ``NodeMachine`` wants done. Imperative, plain data, performed in order.

Which of them are answered, and by what, stands at the top of ``events``. A command about a process
that has gone in the meantime is no error: the shell drops it, the death itself is an event.

The shell needs no table of its own but these: connections and pids by process index (from Hello),
and
from ``LabelWorker`` where a worker's output goes.
"""

from __future__ import annotations

from typing import Union

import msgspec

from shoal._proto import messages
from shoal._proto.environments import Environment

QUEUE_CLASS = 1
"""Kinds of ``NewQueue``; the shell maps them to the constants of the native module."""
QUEUE_ACTOR = 2


class Command(msgspec.Struct, frozen=True):
    """Base of everything to be done."""


# ---- to processes
class Reply(Command, frozen=True):
    """Answer request ``request`` of process ``index``. A ``Welcome`` takes the two descriptors
    along."""

    index: int
    request: int
    body: messages.Message


class Notify(Command, frozen=True):
    """News (frame id 0)."""

    index: int
    body: messages.Message


class LabelWorker(Command, frozen=True):
    """From now on output of worker ``index`` belongs to ``job`` (and to that actor), is shown to
    driver ``driver`` (-1: to none here, or ``log_to_driver`` is off) and carries ``label``."""

    index: int
    job: int
    driver: int
    label: str
    actor_id: str = ""
    home: tuple[str, int] | None = None
    """It works for a job of another node (``jobs.Job.home``): who shows it is there."""


# ---- processes
class StartWorker(Command, frozen=True):
    """Open a process index and have the zygote fork a worker (exec ``python`` if it is not
    empty)."""

    start: int
    python: str = ""


class AbandonStart(Command, frozen=True):
    """Give up ``StartWorker(start)``: kill what there is of it, give its index back; no event
    follows."""

    start: int


class Kill(Command, frozen=True):
    """SIGKILL; ``ProcessDied`` follows."""

    index: int
    is_whole: bool = False
    """With all that it has started, wherever that went, where a cgroup tells who that is."""


class Leave(Command, frozen=True):
    """``assign(index, WORKER_EXIT)``: end after the present task; ``ProcessDied`` follows."""

    index: int


class CloseProcess(Command, frozen=True):
    """``close_process(index)``: every task it ran is answered."""

    index: int


# ---- queues
class NewQueue(Command, frozen=True):
    ticket: int
    kind: int
    job: int


class SiftQueues(Command, frozen=True):
    """Which of these idle queues could be needed for a task that is run again, to make a lost
    value? ``QueuesSifted`` names the others."""

    queues: tuple[int, ...]


class FreeQueue(Command, frozen=True):
    queue: int


class KillQueue(Command, frozen=True):
    """``kill_queue``: everything in it, now and later, fails with ``record``."""

    queue: int
    record: bytes


class Assign(Command, frozen=True):
    """Attach worker ``index`` to ``queue`` after its present task; 0 detaches."""

    index: int
    queue: int


class MarkLeased(Command, frozen=True):
    """The worker's process is not to outlive the lease of this node, whoever stands still."""

    index: int
    pid: int


class SetHungry(Command, frozen=True):
    queue: int
    on: bool


class SetStarving(Command, frozen=True):
    on: bool


class Look(Command, frozen=True):
    """Read the state of these queues and workers (indexes that do not exist are left out)."""

    queues: tuple[int, ...] = ()
    workers: tuple[int, ...] = ()


# ---- tasks and objects
class Requeue(Command, frozen=True):
    """``requeue(key, charged, front)``; a ``ticket`` other than 0 asks for ``Requeued``."""

    ticket: int
    key: int
    charged: bool
    front: bool


class Fail(Command, frozen=True):
    key: int
    record: bytes


class CancelTasks(Command, frozen=True):
    """``cancel(key, recursive, held, queued, late)``: fail what has not started; ``FoundRunning``
    names the rest."""

    ticket: int
    key: int
    is_recursive: bool
    held: bytes
    queued: bytes
    is_late: bool = False
    is_second_look: bool = False
    is_forced: bool = False
    """For whoever runs it elsewhere."""


class LookAtTask(Command, frozen=True):
    """``task_state(key)``: ``TaskLooked`` follows if it has not ended."""

    key: int


class SiftTasks(Command, frozen=True):
    """``task_state`` of each: ``TasksSifted`` names those that have ended."""

    keys: tuple[int, ...]


class Inspect(Command, frozen=True):
    """Look at these objects, processes and queues for an explanation: ``Inspected`` follows."""

    ticket: int
    tasks: tuple[int, ...] = ()
    processes: tuple[int, ...] = ()
    queues: tuple[int, ...] = ()
    has_holders: bool = False
    """Say also which process has refs to how many bytes."""


class MemoryOf(msgspec.Struct, frozen=True):
    """A worker whose memory is to be read."""

    index: int
    exact_bytes: int
    """From here on the quick figure is not good enough, and its function is of interest."""
    declared_bytes: int = 0
    is_actor: bool = False
    can_return: bool = True
    is_free: bool = False


class ReadMemory(Command, frozen=True):
    """How much memory these workers and the node use: ``MemoryRead`` follows."""

    workers: tuple[MemoryOf, ...]
    is_first_look: bool = False


class EndChildren(Command, frozen=True):
    """``end_children(parents, record)``: fail what these dead attempts had submitted, has not
    started, and nobody holds a ref to (RULES S-20)."""

    parents: tuple[int, ...]
    record: bytes


class FailQueued(Command, frozen=True):
    """``fail_queued(queue, record)``: fail what is QUEUED there now; the queue lives on."""

    queue: int
    record: bytes


class EndJobTasks(Command, frozen=True):
    """``end_job(job, record)``: fail what is HELD or QUEUED."""

    job: int
    record: bytes


class Adopt(Command, frozen=True):
    key: int


class Release(Command, frozen=True):
    key: int


class LoseValue(Command, frozen=True):
    """``lose(key, record)``: who reads the value, now or later, gets that error."""

    key: int
    record: bytes


# ---- the rest
class SetAlarm(Command, frozen=True):
    """Feed ``AlarmRang`` at ``at`` (same clock as ``now``). There is one alarm: this replaces the
    last."""

    at: float


class WriteStore(Command, frozen=True):
    """Send ``write`` (a body of ``_core.store``) to the store's process; ticket 0 is news that it
    does not answer. Dropped while none is connected: after ``StoreConnected`` the machine sends
    what is unanswered again. Only in a started session."""

    ticket: int
    write: messages.Message


class ReadValues(Command, frozen=True):
    """Read values of node memory as opaque bytes: ``ValuesRead`` follows."""

    ticket: int
    keys: tuple[int, ...]


class PutValues(Command, frozen=True):
    """Make values of what ``ReadValues`` has read (in another life): ``ValuesPut`` follows."""

    ticket: int
    values: tuple[bytes, ...]


class BuildEnvironment(Command, frozen=True):
    """Make ``environment`` and keep hold of it; ``EnvironmentBuilt`` or ``EnvironmentFailed``
    follows."""

    environment: Environment


class DropEnvironment(Command, frozen=True):
    """Stop making it, or let go of it; no event follows."""

    key: str


class Warn(Command, frozen=True):
    """One line for the daemon's log."""

    text: str


class EndSession(Command, frozen=True):
    """Tell every process ``SessionEnds``, kill the workers, leave nothing. Nothing follows."""

    reason: str


class NoteRetryable(Command, frozen=True):
    """The attempt of this task, which another node has sent, ended with what may be retried."""

    key: int


class HostActor(Command, frozen=True):
    """Ask that node to take an actor of ours: ``ActorTold`` follows."""

    actor_id: str
    node: str


class EndHosted(Command, frozen=True):
    """Tell ``node`` that an actor is to end, which lives there or is that node's; ``key`` is its
    lifetime object's at its ``home``."""

    node: str
    home: str
    key: int
    is_gentle: bool = False
    may_restart: bool = False


class EndCalls(Command, frozen=True):
    """An actor of ours that was abroad has ended: what waits for it fails with ``record``."""

    key: int
    queues: tuple[int, ...]
    record: bytes


class TellHome(Command, frozen=True):
    """Tell the home of a guest how it is."""

    node: str
    key: int
    state: str
    pid: int = 0
    restarts: int = 0
    cause: bytes = b""
    checkpoint: int = 0


class LookAbroad(Command, frozen=True):
    """Answered by ``AbroadLooked``."""

    actor_id: str
    queues: tuple[int, ...]


class CallAbroad(Command, frozen=True):
    """Calls in these queues are for an actor of another node, ``key`` here."""

    key: int
    queues: tuple[int, ...]


class BringHome(Command, frozen=True):
    """The actor with these queues lives here now."""

    queues: tuple[int, ...]


class KillElsewhere(Command, frozen=True):
    """Have the home of an actor end it; ``key`` stands here for its lifetime object."""

    key: int
    may_restart: bool


class ClaimName(Command, frozen=True):
    """Have a name in the whole cluster: ``NameAnswered`` says who has it already."""

    ticket: int
    namespace: str
    name: str


class FindName(Command, frozen=True):
    """Look for an actor of another node: ``NameAnswered``."""

    ticket: int
    namespace: str
    name: str


class ReleaseName(Command, frozen=True):
    """The name is free."""

    namespace: str
    name: str


class TakeName(Command, frozen=True):
    """The name is this node's, with the actor that ``former`` has given it."""

    namespace: str
    name: str
    former: str


class GiveAway(Command, frozen=True):
    """Another node is to be the home of that actor from the beginning: ``GivenAway`` follows."""

    ticket: int
    actor_id: str


class SpreadActor(Command, frozen=True):
    """Whose turn it is to have that actor: ``ActorSent`` follows."""

    actor_id: str


class AskStore(Command, frozen=True):
    """Have the control store do or say something about a group: ``GroupTold``."""

    ticket: int
    body: messages.CreateGroup | messages.GetGroup | messages.ResizeGroup | messages.RemoveGroup


class SayReserved(Command, frozen=True):
    """Answer the store's order to reserve bundles."""

    order: int
    is_accepted: bool
    why: str = ""


class SayGivenBack(Command, frozen=True):
    """Tell the store that nothing of these bundles is left here."""

    group_id: str
    request: int


AnyCommand = Union[
    AskStore,
    GiveAway,
    SayReserved,
    SayGivenBack,
    SpreadActor,
    ClaimName,
    FindName,
    ReleaseName,
    TakeName,
    EndCalls,
    BringHome,
    KillElsewhere,
    HostActor,
    EndHosted,
    TellHome,
    LookAbroad,
    CallAbroad,
    NoteRetryable,
    Reply,
    Notify,
    LabelWorker,
    StartWorker,
    AbandonStart,
    Kill,
    Leave,
    CloseProcess,
    NewQueue,
    SiftQueues,
    FreeQueue,
    KillQueue,
    Assign,
    SetHungry,
    SetStarving,
    Look,
    Requeue,
    Fail,
    CancelTasks,
    LookAtTask,
    SiftTasks,
    Inspect,
    ReadMemory,
    EndChildren,
    FailQueued,
    EndJobTasks,
    Adopt,
    Release,
    LoseValue,
    SetAlarm,
    WriteStore,
    ReadValues,
    PutValues,
    BuildEnvironment,
    DropEnvironment,
    Warn,
    EndSession,
]

Across = (
    AskStore
    | SayReserved
    | SayGivenBack
    | ClaimName
    | FindName
    | ReleaseName
    | TakeName
    | GiveAway
    | SpreadActor
    | MarkLeased
    | HostActor
    | EndHosted
    | EndCalls
    | TellHome
    | LookAbroad
    | CallAbroad
    | BringHome
    | KillElsewhere
)
"""What is done only where there are other nodes."""
