"""Messages between a process and its node daemon: one row per kind.

A frame is a 4-byte little-endian length and msgpack of one ``Frame`` (see ``frames``): an id chosen
by the caller and a body. An answer carries the id of its request; a body with id 0 is news that
nobody answers. Everything here is plain data: functions, arguments and exceptions travel as opaque
``bytes`` that a daemon moves and never loads (RULES Z-1 to Z-3).
"""

from typing import Union

import msgspec

from shoal._proto import base, groups, strategies
from shoal._proto.environments import Environment

VERSION = "0.1.0"
"""What a ``Hello`` says: both ends of a connection are of one version."""

Message = base.Message
Default = strategies.Default
Spread = strategies.Spread
NodeAffinity = strategies.NodeAffinity
NodeLabels = strategies.NodeLabels
InGroup = strategies.InGroup
GroupReady = strategies.GroupReady
LabelRule = strategies.LabelRule
Strategy = strategies.Strategy
CreateGroup = groups.CreateGroup
ResizeGroup = groups.ResizeGroup
WaitGroup = groups.WaitGroup
GroupAnswer = groups.GroupAnswer
GetGroup = groups.GetGroup
GroupFacts = groups.GroupFacts
RemoveGroup = groups.RemoveGroup


class JobConfig(msgspec.Struct, frozen=True):
    """What a worker must take over before it loads any user code of a job (RULES E-6)."""

    namespace: str = ""
    sys_path: list[str] = []
    cwd: str = ""
    env_vars: dict[str, str] = {}
    python: str = ""
    entrypoint: str = ""
    log_to_driver: bool = True
    as_ray: bool = False
    priority: int = 0
    weight: float = 1.0
    environment: Environment | None = None
    """What its workers have if nothing else is asked for."""


class ActorSpec(msgspec.Struct, frozen=True):
    """All that is needed to start one incarnation of an actor."""

    function: int
    """Key of the exported class."""
    arguments: int
    """The object that holds the pickled ``(args, kwargs)``, and every handle: its life."""
    class_name: str
    methods: bytes
    """Opaque table of methods, for handles made by ``get_actor``."""
    name: str | None = None
    namespace: str = ""
    detached: bool = False
    get_if_exists: bool = False
    place: dict[str, float] = {}
    hold: dict[str, float] = {}
    max_restarts: int = 0
    max_task_retries: int = 0
    strategy: Strategy = Default()
    max_concurrency: int = 1
    """Calls that run side by side; those of a named group are counted for themselves."""
    groups: dict[str, int] = {}
    """How many calls of each named concurrency group; each has a queue of its own (A-6)."""
    is_asyncio: bool = False
    runs_in_threads: bool = False
    """Plain methods of an asyncio actor run in threads unless they say otherwise."""
    is_unordered: bool = False
    """A call whose arguments are there waits for no earlier one of its caller."""
    max_pending_calls: int = -1
    checkpoint_every: int = 1
    """After how many calls the state of an actor that has hooks for it is kept."""
    holds_refs: bool = False
    """Its arguments hold refs or handles: they mean nothing in another session."""
    is_known: bool = False
    """Where another node has it: it has a name at home, or is detached."""


class ActorInfo(Message, frozen=True):
    actor_id: str
    queue: int
    queue_generation: int
    spec: ActorSpec
    state: str
    """PENDING, ALIVE, RESTARTING or DEAD."""
    incarnation: int = 0
    pid: int = 0
    cause: bytes = b""
    """The record (msgpack of ``[class name, fields]``) that calls to the dead actor get."""
    job: int = 0
    created: bool = True
    """False if ``get_if_exists`` found an older one."""
    group_queues: list[tuple[int, int]] = []
    """(queue, generation) of each of ``spec.groups``, in their order."""
    checkpoint: int = 0
    """Key of the state that its former life has kept; 0: none."""
    is_elsewhere: bool = False
    """It is another node's: its queues are there, its lifetime object stands here for that."""


class OpenActor(Message, frozen=True):
    """A handle of an actor of another node has come here: where do its calls wait?"""

    actor_id: str
    key: int
    """What stands here for its lifetime object."""
    n_groups: int = 0


class ActorOpened(Message, frozen=True):
    queues: list[tuple[int, int]]
    """(queue, generation): its own, then those of its groups."""
    is_ours: bool = False
    """It is an actor of this node after all."""


class Failure(Message, frozen=True):
    """The request was refused: a typed record, see ``errors.from_record``."""

    record: bytes


class Done(Message, frozen=True):
    """The request was carried out and has no other answer."""


# ---- joining
class Hello(Message, frozen=True):
    role: str
    """driver or worker."""
    pid: int
    version: str
    layout: int
    python: str
    index: int = -1
    """A forked worker's process index; -1 asks for one."""
    job: JobConfig | None = None
    """A driver's job."""


class Welcome(Message, frozen=True):
    """Carries two descriptors beside it (SCM_RIGHTS): node memory, then the daemon's bell."""

    session: str
    directory: str
    node_id: bytes
    index: int
    job: int
    namespace: str
    total: dict[str, float]
    owner: bool = False
    """The session ends with this driver."""
    daemon_pid: int = 0


class GetAssignment(Message, frozen=True):
    """A worker asks what it is for; answered once it is known."""


class Assignment(Message, frozen=True):
    job: int
    config: JobConfig
    threads: int
    gpu_ids: list[str]
    resources: dict[str, float]
    actor: ActorInfo | None = None
    environment: Environment | None = None
    group: str = ""
    """The placement group that this worker runs in."""
    captures: bool = False
    heavy: list[int] = []
    """As ``HeavyFunctions`` says."""
    is_guest: bool = False
    """Its tasks are another node's, which decides whether they run again."""


# ---- tasks
class OpenQueue(Message, frozen=True):
    """The queue of one scheduling class in the caller's job."""

    resources: dict[str, float]
    strategy: Strategy = Default()
    environment: Environment | None = None
    """None: the job's own."""


class QueueOpened(Message, frozen=True):
    queue: int
    generation: int


class ExportFunction(Message, frozen=True):
    """The daemon holds ``key`` until the job ends; an equal hash exported before wins."""

    digest: bytes
    name: str
    key: int
    size_bytes: int


class FunctionExported(Message, frozen=True):
    key: int


class SetupFailed(Message, frozen=True):
    """A worker cannot take over its runtime environment, and ends."""

    step: str
    text: str
    output: list[str]


class RetryTask(Message, frozen=True):
    """A worker says that attempt ``attempt`` raised what may be retried; it still runs it."""

    key: int
    attempt: int
    is_last: bool = False
    """It has no retry left here; if another node has sent it, that one may have."""


class RetryDecision(Message, frozen=True):
    granted: bool


class CancelTask(Message, frozen=True):
    """End a task (and those below it) before it is done; answered when what waits is sealed."""

    key: int
    force: bool
    recursive: bool


class WatchDeadline(Message, frozen=True):
    """A task was submitted that may take so long from now on; not answered (RULES Q-4)."""

    key: int
    left_s: float


class ArgumentGivenUp(Message, frozen=True):
    """A task was submitted that waits for a call that was cancelled and runs on; not answered."""

    key: int


class WorkerLeaves(Message, frozen=True):
    """A worker ends after its present task, as its function's ``max_calls`` says."""


# ---- actors
class CreateActor(Message, frozen=True):
    spec: ActorSpec
    environment: Environment | None = None
    """None: the job's own."""


class GetActor(Message, frozen=True):
    name: str
    namespace: str


class ActorStarted(Message, frozen=True):
    actor_id: str
    label: str = ""
    """``repr`` of the instance if its class defines one: the prefix of its log lines."""


class ActorFailed(Message, frozen=True):
    """The constructor raised; ``error`` is the pickled exception."""

    actor_id: str
    error: bytes
    text: str


class ActorExits(Message, frozen=True):
    """``exit_actor``: an intended end, no restart."""

    actor_id: str


class KeepCheckpoint(Message, frozen=True):
    """The actor's state is the object ``key``: hold it for its next life, and let the last go."""

    actor_id: str
    key: int


class KillActor(Message, frozen=True):
    actor_id: str
    no_restart: bool


class DescribeActor(Message, frozen=True):
    actor_id: str


# ---- locks (FIFO, given back when the holder's process ends)
class AcquireLock(Message, frozen=True):
    name: str
    token: str
    timeout_s: float | None
    """None waits for ever; 0 only tries."""


class LockAnswer(Message, frozen=True):
    held: bool


class ReleaseLock(Message, frozen=True):
    name: str
    token: str


class IsLocked(Message, frozen=True):
    name: str


# ---- memory of processes
class AdmitMemory(Message, frozen=True):
    """A task is about to run ``function``, which takes much memory; ``Done`` once it may."""

    function: int
    attempt: int = 1


class ReleaseMemory(Message, frozen=True):
    """It has run; not answered."""

    function: int
    is_well: bool


class HeavyHeard(Message, frozen=True):
    """A worker has taken in ``HeavyFunctions``; not answered."""


# ---- key-value table
class KvPut(Message, frozen=True):
    key: bytes
    value: bytes
    namespace: str = ""
    overwrite: bool = True


class KvGet(Message, frozen=True):
    key: bytes
    namespace: str = ""


class KvDelete(Message, frozen=True):
    key: bytes
    namespace: str = ""


class KvKeys(Message, frozen=True):
    prefix: bytes
    namespace: str = ""


class KvAnswer(Message, frozen=True):
    value: bytes | None = None
    keys: list[bytes] = []
    existed: bool = False


# ---- views
class GetResources(Message, frozen=True):
    pass


class Resources(Message, frozen=True):
    total: dict[str, float]
    available: dict[str, float]


class GetTable(Message, frozen=True):
    """nodes, jobs, actors, groups, functions, workers, queues, environments,
    memory_peaks, session, memory, and the story of ``about``; of "named x", what has that name."""

    table: str
    limit: int = 10_000
    about: str = ""
    is_everywhere: bool = False
    """Of all nodes of a cluster, as far as they answer soon (``_core.listings``)."""
    filters: dict[str, object] = {}
    """... and only what equals these; rows of one machine are chosen by who asks."""


class Table(Message, frozen=True):
    rows: list[dict[str, object]]
    notices: list[str] = []
    """What is missing in it."""


class AskWhy(Message, frozen=True):
    """Why something is not there yet: id of an object, task, actor or group; empty: of what the
    asking driver waits for, or the first driver that waits."""

    about: str = ""


class WhyAnswer(Message, frozen=True):
    """``_proto.reasons`` packs it."""

    reason: bytes


# ---- the session
class StopSession(Message, frozen=True):
    """``shoal stop``, or the driver that owns the session calls ``shutdown``."""


class AskDrain(Message, frozen=True):
    """Have ``node`` take nothing new, hand over what it has, and leave; answered by ``Done``."""

    node: str
    deadline_s: float
    only_if_idle: bool = False
    """Refused if something runs or is kept there."""


class LeaveJob(Message, frozen=True):
    """A driver that did not start the session ends its job."""


# ---- news (id 0), daemon to process
PROGRESS_MARK = "\x1e:bar:"
"""In a line of ``LogLines``: what follows says how far a progress bar is (``_runtime/bars.py``)."""


class LogLines(Message, frozen=True):
    pid: int
    label: str
    """Name of the function or actor that runs there."""
    stream: str
    """stdout or stderr."""
    lines: list[str]
    """None: a process of another node has ended, which has had progress bars."""
    node: str = ""
    """Name of the node that it runs on; "": this one."""


class Notice(Message, frozen=True):
    """A warning for the user, one line."""

    text: str


class CancelAttempt(Message, frozen=True):
    """End this attempt if you run it; it fails with ``record``."""

    key: int
    attempt: int
    record: bytes


class TaskStopped(Message, frozen=True):
    """A task stands at a breakpoint: told by its worker, passed on to the driver of its job."""

    name: str  # of its socket (``_runtime/terminals.py``); "": a debugger of its own waits
    place: str


class HeavyFunctions(Message, frozen=True):
    """These functions ask (``AdmitMemory``) before they run; ``HeavyHeard`` once that is so."""

    functions: list[int]


class RunWhereYouStand(Message, frozen=True):
    """These rebuilds are for a generator of yours to run, if one stands still (``standing.py``)."""

    keys: list[int]


class SessionEnds(Message, frozen=True):
    reason: str


Body = Union[
    Failure,
    Done,
    Hello,
    Welcome,
    GetAssignment,
    Assignment,
    OpenQueue,
    QueueOpened,
    ExportFunction,
    FunctionExported,
    SetupFailed,
    RetryTask,
    RetryDecision,
    CancelTask,
    WatchDeadline,
    ArgumentGivenUp,
    WorkerLeaves,
    CancelAttempt,
    CreateActor,
    GetActor,
    ActorInfo,
    OpenActor,
    ActorOpened,
    ActorStarted,
    ActorFailed,
    ActorExits,
    KeepCheckpoint,
    KillActor,
    DescribeActor,
    CreateGroup,
    WaitGroup,
    GroupAnswer,
    GetGroup,
    GroupFacts,
    ResizeGroup,
    RemoveGroup,
    AcquireLock,
    LockAnswer,
    ReleaseLock,
    IsLocked,
    AdmitMemory,
    ReleaseMemory,
    HeavyHeard,
    KvPut,
    KvGet,
    KvDelete,
    KvKeys,
    KvAnswer,
    GetResources,
    Resources,
    GetTable,
    Table,
    AskWhy,
    WhyAnswer,
    StopSession,
    AskDrain,
    LeaveJob,
    LogLines,
    Notice,
    TaskStopped,
    HeavyFunctions,
    RunWhereYouStand,
    SessionEnds,
]


class Frame(msgspec.Struct, frozen=True, array_like=True):
    id: int
    body: Body
