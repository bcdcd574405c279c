"""Node memory: slots, rings, blocks, holds and waiting. Typed manual of the native module.

Words used here:

* *key*: one object's 64-bit name on this node, ``slot | generation << 32``. A key of a slot that
  has been freed since never matches again.
* *format*: how the bytes of a value are read back, one of the ``FORMAT_*`` constants.
* *record*: a typed error made without pickle, msgpack of ``[class name, fields]``.

Every blocking call releases the GIL, ends on signals (the handler runs, then the wait goes on or
the handler's exception comes out), and raises ``SessionLostError`` once ``close()`` was called.
"""

import asyncio
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Any, Generic, Literal, TypeVar, final

from shoal._base.typed_ids import JobID, TaskID

T_co = TypeVar("T_co", covariant=True)

LAYOUT_HASH: int
"""Hash of every size and offset of node memory; two builds may share memory only if it is equal."""

FORMAT_PICKLE: int
FORMAT_BYTES: int
FORMAT_ERROR_PICKLE: int
FORMAT_RECIPE: int
FLAG_REBUILD: int
FLAG_ITEMS: int
FLAG_PLACE: int
"""Of a rebuild that makes items of a generator."""
_ArgumentRow = tuple[int, bool, bool, int, int, int]
_RecipeRow = tuple[
    int, bool, int, int, int, int, bool, bool, list[_ArgumentRow], list[int], bool, int
]
"""A pickled exception, written by a worker."""
FORMAT_ERROR_RECORD: int
"""A typed record, written by a daemon."""

FLAG_HELP: int
"""A worker that waits for this task may run it (RULES S-6)."""
FLAG_ACTOR: int
"""A call of an actor: goes to an actor's queue, ordered per caller."""
FLAG_UNORDERED: int
"""The actor runs several calls side by side: one whose arguments are there waits for no other."""
FLAG_RETRY_EXCEPTIONS: int
FLAG_NO_RETURN: int
FLAG_STREAM: int
"""The task seals a chain of cells: its last two contained refs are the first cell."""
FLAG_DYNAMIC: int
"""The task's generator is run to its end, and its value is the list of refs."""
FLAG_FILLS: int
"""The payload names places that the values of the dependencies fill."""

def punch_hole(fd: int, offset: int, size: int) -> bool:
    """Give a part of a file back to its disk; it reads as zeros then."""

EXTENT_BYTES: int
"""Memory is given to values in steps of this."""
QUEUE_CLASS: int
QUEUE_ACTOR: int

EVENT_METHOD: int
EVENT_NAME: int
EVENT_ERROR: int
"""Bit of an event's ``about``: the rest is the number of an actor's method."""

WORKER_EXIT: int
"""Value for ``Memory.assign``: leave the loop and end the process."""

def fork_worker(output: tuple[int, int], kept: list[int], name: str, oom_score: int) -> int:
    """Fork a process that has one thread; the child is a worker as far as the kernel knows it.

    It has a session of its own, the descriptors ``output`` as 1 and 2, of all others only ``kept``
    (sorted), a name, and how readily the kernel ends it. Python's precautions are left out: no hook
    of ``os.register_at_fork`` is run, and ``threading`` knows the main thread by the parent's
    native id.

    Raises:
        OSError: there is no room for another process.
    """

def become_subreaper() -> None:
    """Make orphans among our descendants children of this process (``prctl``)."""

def lease_of(memory_fd: int) -> float:
    """Until when (seconds of CLOCK_BOOTTIME) this node may begin anything; 0: for ever. Nothing is
    mapped.

    Raises:
        RuntimeError: the descriptor is not node memory of this build.
    """

def leased_processes(memory_fd: int) -> list[int]:
    """Pids of processes that must not outlive the node's lease. Nothing is mapped.

    Raises:
        RuntimeError: the descriptor is not node memory of this build.
    """

class SessionLostError(Exception):
    """Raised by any wait after ``Memory.close``; ``shoal.errors`` turns it into the public
    class."""

class ForkedError(RuntimeError):
    """The memory was used in a child that user code forked."""

class FullError(MemoryError):
    """No room: ``args`` is ``(asked_bytes, capacity_bytes, kind)``."""

class PendingError(RuntimeError):
    """A worker may not queue more tasks: the ring of its job is full."""

@final
class ObjectRef(Generic[T_co]):
    """A counted handle to one object. Dropping the last handle frees the object."""

    @property
    def key(self) -> int: ...
    @property
    def memory(self) -> Memory: ...
    def binary(self) -> bytes:
        """The bytes of its ``shoal.ids.ObjectID``, the same in every process.

        Raises:
            SessionLostError: the session has ended; ask before that.
        """
    def hex(self) -> str:
        """``binary`` as text."""
    def is_sealed(self) -> bool: ...
    def __await__(self) -> Generator[Any, None, T_co]: ...
    def future(self) -> Future[T_co]:
        """A ``concurrent.futures.Future`` of the value (built by the ``future`` hook)."""
    def as_future(self) -> asyncio.Future[T_co]:
        """A future of the running event loop (built by the ``about`` hook, as the next three)."""
    def task_id(self) -> TaskID:
        """Id of the task whose result this is, or that put it (a driver has one too)."""
    def job_id(self) -> JobID:
        """Id of the job that ``task_id`` belongs to; of an actor's call, the actor's."""
    @classmethod
    def from_binary(cls, binary: bytes) -> ObjectRef[Any]:
        """The ref to the value with these bytes, which somebody else must hold (`refs.py`).

        Raises:
            TypeError: they are no bytes.
            ValueError: an id has another number of bytes.
            ObjectLostError: nobody holds the value any more, or it is one of another session.
            NotSupportedError: it is the id of nothing.
        """
    @classmethod
    def from_hex(cls, text: str) -> ObjectRef[Any]:
        """As ``from_binary``, of what ``hex`` has written."""
    @classmethod
    def nil(cls) -> ObjectRef[Any]:
        """Raise NotSupportedError: there is no ref to nothing."""
    @classmethod
    def from_random(cls) -> ObjectRef[Any]:
        """Raise NotSupportedError, as ``nil`` does."""
    @classmethod
    def size(cls) -> int:
        """How many bytes ``binary`` has."""
    def is_nil(self) -> bool:
        """False: a ref always names a value."""
    def call_site(self) -> str:
        """File and line of the call, if they are recorded (SHOAL_RECORD_CALL_SITES=1)."""
    def __reduce__(self) -> Any: ...
    def __hash__(self) -> int: ...
    def __eq__(self, other: object) -> bool: ...

@final
class Template:
    """What all calls of one remote function or method share; made once, used for each submit."""

    def __init__(
        self,
        *,
        function: int,
        queue: int,
        queue_generation: int,
        job: int,
        method: int = 0,
        n_returns: int = 1,
        max_retries: int = 0,
        flags: int = 0,
        actor: int = 0,
        limit: int = 0,
        timeout_s: float = 0.0,
        actor_job: int = 0,
    ) -> None:
        """``actor`` is the key of the actor's lifetime slot, 0 for plain functions, and
        ``actor_job`` the job that its id names."""

@final
class Task:
    """One claimed attempt. Only its claimer may use it, on the thread that runs it."""

    key: int
    first: int
    """``key``, or of a rebuild the key of the task that it does again."""
    function: int
    method: int
    attempt: int
    n_returns: int
    max_retries: int
    flags: int
    job: int
    queue: int
    actor: int
    caller: int
    """Key of the actor in whose process it was submitted, 0 for none."""
    parent: int
    n_dependencies: int
    limit: int
    """Of a stream: how many items may be unseen; 0: any number."""
    @property
    def returns(self) -> list[int]:
        """Keys of its results; of a task without any, that of its completion."""
    @property
    def charged(self) -> int:
        """How many attempts have been counted against ``max_retries``."""
    @property
    def left_s(self) -> float:
        """Until its deadline; negative: it has none."""
    def write_image(
        self,
        index: int,
        format: int,
        in_block: bool,
        data: Any,
        contained: Sequence[ObjectRef | None] = (),
    ) -> bool:
        """Write a return as ``Memory.open_image`` of another node has read it. False: no room
        now. Raises ValueError if it is damaged."""
    def write_elsewhere(
        self, index: int, format: int, size: int, contained: Sequence[ObjectRef | None] = ()
    ) -> bool:
        """Write a return whose ``size`` bytes stay on another node, see ``Memory.seal_elsewhere``:
        it holds ``contained``, the refs in it, and the recipe of its task if that may run again.
        False: no room for that now."""
    def item_elsewhere(
        self, number: int, format: int, size: int, contained: Sequence[ObjectRef | None] = ()
    ) -> ObjectRef | None:
        """As ``put_item``, of an item whose bytes stay on another node. None: no room for what it
        holds now."""
    @property
    def ending(self) -> bytes | None:
        """What it is to fail with, if somebody wants it to end; None otherwise."""
    def stream(self) -> ObjectRef | None:
        """A cell of this task's stream from which the first unsealed one is reached."""
    def advance_stream(self, cell: ObjectRef) -> None:
        """The stream has come to ``cell``; what is before it is let go."""
    def put_item(
        self,
        number: int,
        format: int,
        data: Any,
        buffers: Sequence[Any],
        contained: Sequence[ObjectRef],
        timeout_s: float = 0.0,
    ) -> ObjectRef:
        """``Memory.put`` of what this generator's task has yielded: lineage can make it again."""
    def items(self) -> list[int]:
        """Numbers of the items that this task is to make again, one per return."""
    def payload(self) -> memoryview | None:
        """The pickled arguments, read-only; None for a call without arguments."""
    @property
    def memory(self) -> Memory: ...
    def dependencies(self, first: int, n: int, patience_s: float = 0.5) -> list[Any]:
        """The values of top-level arguments, as ``Memory.get_many`` would give them."""
    def take_back(self, index: int) -> tuple[int, bytes, list[bytes], list[ObjectRef]] | None:
        """What was written into return ``index``, no longer in memory: as ``write`` takes it. None:
        it is a value that needs no room, and stays."""
    def discard(self, n: int) -> None:
        """Let go of what was written into the first ``n`` returns."""
    def loading(self) -> None:
        """Make this task's table of contained refs the one ``restore_ref`` reads (``loaded`` ends
        it)."""
    def loaded(self) -> None: ...
    def seal(self, value: Any) -> bool:
        """Fast finish of one return: None, bool, int64, float, short str or bytes. False if it
        needs pickling."""
    def write(
        self,
        index: int,
        format: int,
        data: Any,
        buffers: Sequence[Any],
        contained: Sequence[ObjectRef],
        timeout_s: float = 30.0,
    ) -> None:
        """Write return ``index``. Raises FullError; an error of <= 4 KiB always fits."""
    def write_simple(self, index: int, value: Any) -> bool: ...
    def forget(self) -> None:
        """Let go of an attempt without sealing it: the daemon has put the task back into its
        queue."""
    def commit(self) -> None:
        """Commit every return at once, publish them, drop what the arguments held."""

@final
class Moving:
    """A value on its way to a file (a read-only buffer) or back (a writable one), and held."""

    def __buffer__(self, flags: int, /) -> memoryview: ...

@final
class Rebuilt:
    """The results of a rebuild, kept until they are taken over."""

    keys: list[int]
    left_s: float
    """Until its deadline; negative: it has none."""

@final
class Draft:
    """A value that is being made in node memory; its buffer is writable until it is sealed."""

    @property
    def key(self) -> int: ...
    @property
    def is_sealed(self) -> bool: ...
    def seal(self) -> ObjectRef:
        """Make it an object. Raises ValueError the second time."""

def set_channel_hooks(
    *,
    dumps: Callable[[Memory, Any], tuple[Any, Any, Any]],
    pack: Callable[[Memory, Any], tuple[int, bytes]],
    failed: Callable[[str, Any, Any], BaseException],
    translate: Callable[[BaseException, Memory], BaseException],
) -> None:
    """What blocks and channels of this process call: ``dumps(memory, value)`` answers (pickle,
    buffers, refs); ``pack(memory, error)`` answers (format, bytes); ``failed`` makes the error of
    "closed" (cause, None), "large" (size, capacity), "read" or "write" (timeout, None);
    ``translate`` that of what native code raised."""

@final
class SharedBlock:
    """Memory of the store that stays writable by every process that has it.

    A buffer (``memoryview(block)``, ``numpy.frombuffer(block, dtype)``), and signed 64-bit words,
    whose operations are atomic and sequentially consistent. Pickled it travels like its ref.
    """

    @property
    def ref(self) -> ObjectRef[bytes]:
        """The object underneath; ``get`` of it copies the present bytes."""
    @property
    def nbytes(self) -> int: ...
    def load(self, index: int) -> int:
        """The word at ``index``. Raises IndexError beyond the block."""
    def store(self, index: int, value: int) -> None:
        """Set the word, and wake who waits for it; no system call if nobody does."""
    def add(self, index: int, delta: int) -> int:
        """Add to the word (modulo 2**64), wake who waits for it; the new value."""
    def compare_swap(self, index: int, old: int, new: int) -> bool:
        """Set the word to ``new`` if it is ``old``; whether it was."""
    def wait(self, index: int, old: int, timeout_s: float | None = None) -> int:
        """Wait until the word is not ``old``; its value then, which is ``old`` after
        ``timeout_s``."""
    def __reduce__(self) -> Any: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

@final
class Channel:
    """Messages of one writer to a fixed number of readers, in order, through a shared block.

    Pickled it travels like its ref. It does not mind deaths: a reader or writer that is killed
    leaves the others a whole message or none, and who supervises closes the channel. One thread
    writes at a time, and one reads for each reader: a second one raises RuntimeError.
    """

    @property
    def ref(self) -> ObjectRef[None]: ...
    @property
    def memory(self) -> Memory: ...
    @property
    def capacity_bytes(self) -> int: ...
    @property
    def slots(self) -> int: ...
    @property
    def readers(self) -> int: ...
    @property
    def is_closed(self) -> bool: ...
    def unread(self, reader: int = 0) -> int:
        """How many messages wait for ``reader``."""
    def write(self, value: Any, timeout_s: float | None = None) -> None:
        """Write a message to all readers; waits while no slot is free.

        Raises MessageTooLargeError (a ValueError), ChannelTimeoutError, ChannelClosedError,
        SerializationError."""
    def write_error(self, error: BaseException | bytes, timeout_s: float | None = None) -> None:
        """Write a message that ``read`` raises: an exception, or a typed record."""
    def read(self, reader: int = 0, timeout_s: float | None = None) -> Any:
        """The next message for ``reader``; raises it if it is an error.

        Large arrays in it are read-only and stand in the slot, which is free again when the last
        of them is gone; readers that keep more than half of the slots get copies.

        Raises ChannelTimeoutError, and ChannelClosedError when all is read that was written
        before ``close``."""
    def follow(self, leader: Channel) -> None:
        """Have reads through this object wait where the writer of ``leader`` says
        (native/berth.hpp). Once; pickles do not keep it."""
    def lead(self, is_alone: bool, may_look: bool) -> None:
        """A round of messages begins in the calling thread with the next write: say where those
        who follow wait, if no other round is in flight, and whether they may look meanwhile."""
    def close(self, error: BaseException | bytes | None = None) -> None:
        """End all waits and later uses with ChannelClosedError, whose cause is ``error``. Anybody
        may; the second time does nothing."""
    def __reduce__(self) -> Any: ...

@final
class Memory:
    """This process's view of its node's memory."""

    # ---- every process
    @staticmethod
    def create(capacity_bytes: int, cores: int, node_id: bytes, max_extents: int = 0) -> Memory:
        """Make node memory (the daemon; process index 0)."""
    @staticmethod
    def attach(fd: int, eventfd: int, index: int) -> Memory:
        """Map the memory behind ``fd`` as process ``index``. Raises ValueError for another
        layout."""
    @property
    def fd(self) -> int: ...
    @property
    def eventfd(self) -> int:
        """The daemon's bell: written when something asks the daemon to look."""
    @property
    def index(self) -> int: ...
    @property
    def capacity_bytes(self) -> int: ...
    @property
    def lookers(self) -> int:
        """How many processes may look for messages at once; the others sleep."""
    def close(self) -> None:
        """End every wait with SessionLostError, make handles inert, let go of the memory.

        Values that Python still looks at stay readable as private copies.
        """
    @property
    def is_closed(self) -> bool: ...
    def set_hooks(
        self,
        *,
        loads: Callable[..., Any],
        error: Callable[[int, Any, ObjectRef], BaseException],
        help: Callable[[Task], None] | None,
        future: Callable[[ObjectRef], Any],
        wait: Callable[[ObjectRef], Any],
        escaped: Callable[[ObjectRef], Any],
        about: Callable[[ObjectRef, str], Any] | None = None,
        timed: Callable[[int, float], None] | None = None,
    ) -> None:
        """``loads(data, buffers=...)`` unpickles; ``error(format, bytes, ref)`` builds what ``get``
        raises;
        ``help(task)`` runs a task that the waiting worker claimed; ``wait(ref)`` is
        ``ref.__await__``;
        ``escaped(ref)`` answers ``__reduce__`` outside any capture; ``about(ref, "task_id")`` is
        ``ref.task_id()``, and so on."""
    def capture(self, into: list[ObjectRef] | None) -> list[ObjectRef] | None:
        """Collect the refs pickled from now on by this thread into ``into``; returns the former
        list."""
    def restore_ref(self, index: int) -> ObjectRef:
        """Called by pickles: a ref to entry ``index`` of the table of what is being loaded."""

    # ---- objects
    def put_simple(self, value: Any) -> ObjectRef | None:
        """Put None, bool, int64, float, short str or bytes inline; None if it needs pickling."""
    def put(
        self,
        format: int,
        data: Any,
        buffers: Sequence[Any],
        contained: Sequence[ObjectRef],
        timeout_s: float = 0.0,
    ) -> ObjectRef: ...
    def draft(self, pickle: bytes, size_bytes: int, timeout_s: float = 0.0) -> Draft:
        """A value of this pickle and one out-of-band buffer of ``size_bytes``, which is yet to be
        filled."""
    def shared_block(self, size_bytes: int, timeout_s: float = 0.0) -> SharedBlock:
        """A block of zeros; waits for room as ``put`` does."""
    def channel(
        self, capacity_bytes: int, slots: int, readers: int, timeout_s: float = 0.0
    ) -> Channel:
        """A channel whose messages have ``capacity_bytes`` at most. Raises ValueError for more
        than 64 slots or readers."""
    def get(self, ref: ObjectRef, timeout_s: float | None = None) -> Any:
        """The value; raises what the ``error`` hook builds; TimeoutError when time is up."""
    def get_many(
        self, refs: Sequence[ObjectRef], timeout_s: float | None = None, patience_s: float = 0.5
    ) -> list[Any]:
        """All values. FullError if one of them finds no room beside those before it while, for
        ``patience_s``, no value of anybody has come back."""
    def take_turn(self, timeout_s: float, /) -> bool:
        """Whether this process may now wait for room beside what it looks at; ``end_turn``."""
    def end_turn(self, is_served: bool = False) -> None:
        """Let the next one have it; ``is_served``: there was room."""
    @property
    def served(self) -> int:
        """How often who had the turn has found room."""
    def peek(self, ref: ObjectRef) -> tuple[int, bytes] | None:
        """(format, bytes) of a sealed error, else None: to look at an error without raising it."""
    def wait(
        self, refs: list[ObjectRef], n: int, timeout_s: float | None
    ) -> tuple[list[ObjectRef], list[ObjectRef]]:
        """(first ``n`` sealed, the rest), in the order of ``refs``, as soon as ``n`` are sealed or
        time is up.

        Raises:
            TypeError: an item is no ref; the text is its index.
            IndexError: an item stands twice; the text is its index.
        """
    def new_pending(self, number: int = 0) -> ObjectRef:
        """An object that has no value yet. One process may seal it, once; until then ``submit``
        refuses it as a dependency."""
    def seal_pending(
        self,
        ref: ObjectRef,
        format: int = 0,
        data: Any = None,
        contained: Sequence[ObjectRef] = (),
    ) -> bool:
        """Give a pending object its value (None without ``data``); False if it has one."""
    def pending_number(self, ref: ObjectRef) -> int:
        """The number that ``new_pending`` got."""
    def watch(self, ref: ObjectRef, token: int) -> bool:
        """False if sealed already; else ``token`` comes out of ``completions`` once it is."""
    def completions(self, timeout_s: float | None) -> list[int]:
        """Tokens of watched refs sealed since the last call; waits for the first. [] on timeout or
        poke."""
    def poke(self) -> None:
        """End a ``completions`` wait in another thread."""
    def ref(self, key: int) -> ObjectRef | None:
        """A counted ref from a key reachable through something held; None if it is gone."""
    def load_key(self, key: int) -> Any:
        """Value of a sealed object that somebody is known to hold (function tables, actor
        arguments)."""

    # ---- submitting
    def submit(
        self,
        template: Template,
        payload: bytes | None,
        dependencies: Sequence[ObjectRef] | None = None,
        contained: Sequence[ObjectRef] | None = None,
    ) -> ObjectRef | list[ObjectRef] | None:
        """One ref for n_returns 1, None for 0, else a list. Raises FullError, PendingError."""
    def unsealed(self, keys: list[int]) -> list[int]:
        """Those of ``keys`` whose objects have no value yet."""
    def is_queue_dead(self, queue: int, generation: int) -> bool: ...

    # ---- workers
    def take(self, timeout_s: float | None = None) -> Task | int | None:
        """The next task of the assigned queue. An int when the assignment changed: the new queue
        (0:
        none), or WORKER_EXIT. None on timeout."""
    def claim(self, key: int) -> Task | None:
        """The queued task ``key``, whoever else would have taken it; None if it waits no more."""
    def run_side_by_side(self, current: ContextVar[Task | None]) -> None:
        """From now on tasks of this process end in any order, and what a thread or coroutine
        submits has the task in ``current`` as its parent."""
    @property
    def door(self) -> int:
        """Count of rings of this process's doorbell, for ``take_many``."""
    def take_many(
        self, queues: list[tuple[int, int]], seen: int, timeout_s: float | None = None
    ) -> list[Task] | int:
        """The next tasks of ``queues`` (each with how many of it may be taken), as soon as there
        are any. [] when the doorbell has been rung since it was ``seen``, or on timeout; an int
        when the assignment changed, as from ``take``."""
    def set_blocked(self, blocked: bool) -> None:
        """Lend (take back) the CPU of this worker's task; ``get`` and ``wait`` do it themselves."""
    @property
    def running(self) -> int:
        """Key of the innermost running task of this process, 0 for none."""
    job: int
    """The job whose values this process makes."""
    actor: int
    """Key of the actor that lives in this process, 0 for none."""
    def ancestry(self, key: int) -> tuple[int, int, int, int] | None:
        """(key of its task or 0, key of the actor it is from or 0, job, number of the return from
        1, or 0 if it was put): what the id of an object says besides its key; None: it is gone."""

    # ---- the daemon
    def new_queue(self, kind: int, job: int) -> tuple[int, int]:
        """(queue, generation)."""
    def free_queue(self, queue: int) -> bool:
        """False while somebody may still be inside a push to it: try again later."""
    def queue_state(self, queue: int) -> tuple[int, int, bool]:
        """(entries, takes so far, dead). Entries may be stale: an upper bound."""
    def set_hungry(self, queue: int, hungry: bool) -> bool:
        """Ask for (no longer ask for) a ring of the bell at the next push; True if the queue has
        entries now."""
    def set_starving(self, starving: bool) -> None:
        """Ask workers that go idle or block to ring the bell."""
    def kill_queue(self, queue: int, record: bytes) -> int:
        """Mark the queue dead and fail what is in it with ``record``; how many. Repeat for late
        pushes."""
    def drain_dead(self) -> list[int]:
        """Queues marked dead that have entries (late pushes): call ``kill_queue`` again on each."""
    def open_process(self, kind: int) -> int:
        """A free process index (kind 1: driver, 2: worker), its record reset. -1 when the table is
        full."""
    def assign(self, index: int, queue: int) -> None:
        """Attach worker ``index`` to ``queue`` (0: detach, WORKER_EXIT: leave) after its present
        task."""
    def set_lease(self, until_s: float) -> None:
        """No process begins a task from then on (seconds of CLOCK_BOOTTIME; 0: they always may)."""
    def set_leased(self, index: int, pid: int) -> None:
        """Process ``index`` is to end with the node's lease; with its own end that is forgotten."""
    def process_state(self, index: int) -> tuple[int, int, int, bool, int]:
        """(assigned, attached, running depth, blocked, key of the outermost running task).
        ``attached`` is what the worker acknowledged."""
    def ring(self, index: int) -> None:
        """Wake a process that sleeps on its doorbell."""
    def repair(self, index: int) -> list[tuple[int, int, int, int, int, int]]:
        """Finish what dead process ``index`` was in the middle of, drop what it held, ring every
        bell.
        Call only after its pidfd says dead. Returns its running tasks, innermost first:
        (key, attempt, max_retries, times charged, flags, queue); each must be answered with
        ``requeue`` or ``fail``."""
    def has_forked(self, index: int) -> bool:
        """Whether user code forked there while it looked at values: its children may look at them
        still, so ``repair`` leaves them until ``release_pins``."""
    def fork_mark(self, index: int) -> int:
        """Offset of the page, in the file of node memory, that those children have mapped without
        any access: /proc/PID/maps tells by it whose child a process is."""
    def release_pins(self, index: int) -> None:
        """Let go of what ``repair`` has left: no child of ``index`` is there any more."""
    def close_process(self, index: int) -> None:
        """Give the index back, after every task that ``repair`` returned is answered."""
    def requeue(self, key: int, charged: bool, front: bool) -> bool:
        """RUNNING by a dead process (or by one that asks for a retry) -> QUEUED, attempt + 1.
        ``front`` puts
        an actor's call before all others (the ``redo`` word)."""
    def fail(self, key: int, record: bytes, kept: Sequence[ObjectRef] = ()) -> bool:
        """Seal the returns of a task that is HELD, QUEUED, or RUNNING by a dead process. False if
        it ended otherwise. The error holds ``kept``, and so does what fails because of it."""
    def call_of(self, key: int) -> tuple[int, int, int, int, int, int, bytes] | None:
        """(function, key of the actor or 0, method, flags, job, number of dependencies, payload)
        of a task that runs here, or whose process ``repair`` has named; None for anything else."""
    def contained(self, key: int) -> list[int]:
        """What a sealed value holds, or the arguments of such a task: first its dependencies."""
    def loading(self, ref: ObjectRef) -> None:
        """Make the table of a sealed small value the one ``restore_ref`` reads (``loaded`` ends
        it)."""
    def loaded(self) -> None: ...
    def fail_queued(self, queue: int, record: bytes) -> int:
        """Fail what is QUEUED in ``queue`` now; how many. What is pushed later stays."""
    def end_job(self, job: int, record: bytes) -> int:
        """Fail every HELD or QUEUED task of ``job``; how many."""
    def cancel(
        self, key: int, recursive: bool, held: bytes, queued: bytes, late: bool = False
    ) -> list[tuple[int, int, int, int]]:
        """Fail the task (and those below it) with the record of its stage if it has not started.

        (key, attempt, worker, flags) of those that run: they are marked, and must be asked."""
    def end_children(self, parents: Sequence[int], record: bytes) -> int:
        """Fail unstarted tasks that the attempts ``parents`` submitted and nobody holds a ref to.

        How many; after ``repair`` of the process that ran them."""
    def adopt(self, key: int) -> bool:
        """Take the daemon's own hold on an object (functions, actors). False if it is gone."""
    def release(self, key: int) -> None:
        """Drop the daemon's own hold."""
    def handles(self, key: int) -> int:
        """Holds on an adopted object besides the daemon's own; 0 when nobody else has it."""
    def inbox(self) -> list[int]:
        """Keys of adopted objects whose last other hold has gone since the last call (each may be
        repeated)."""
    def populate(self, budget_bytes: int, headroom_bytes: int) -> tuple[int, bool]:
        """Back up to ``budget_bytes`` of the extents that are asked for, or of the reserve, with
        memory, while
        ``headroom_bytes`` allows. (bytes populated, whether more is wanted)."""
    def give_back(self, headroom_bytes: int, /) -> int:
        """Daemon: give free warm memory back beyond what ``populate`` would keep with that
        headroom; how many bytes that were."""
    @property
    def is_asked_for_memory(self) -> bool:
        """Whether a process waits until ``populate`` has answered it."""
    spills: int
    """1: values may leave for files, who finds no room asks the daemon first. 2: some have a record
    there, whoever frees a value says so."""
    def spillable(self) -> list[tuple[int, float, list[int], int]]:
        """Memory that is free once some values left: (place, extents, keys, mark). The mark changes
        whenever one of the values is looked at. Below one extent: others in it have to stay."""
    def hollow_out(self, most: int, /) -> None:
        """Give memory back from inside extents in use, about so many extents of it: free blocks,
        and what is behind the last byte of a large value. The store may use as much elsewhere."""
    def shortage(self, headroom: int) -> int:
        """How many extents have to become free before what is asked for can be given, on a machine
        that gives so many bytes more."""
    def offset_of(self, buffer: Any, /) -> int | None:
        """Where the bytes of a value stand in the file of node memory; None: not in it."""
    @property
    def inbox_overflows(self) -> int:
        """How often rows of the inbox could not be told."""
    def tell_restored(self) -> None:
        """Those who wait for spilled values go on waiting: one is being read."""
    def answer_room(self, is_given: bool) -> None:
        """Answer those who wait for room below the reserve."""
    def begin_spill(self, key: int) -> Moving | None:
        """Hold a value whose bytes go to a file; None if it may not leave (any more)."""
    def end_spill(self, moving: Moving, number: int) -> int:
        """The bytes are in the files as ``number``: give the block back. Bytes that became free; 0
        if somebody looks at the value."""
    def is_adopted(self, key: int) -> bool:
        """Whether the daemon wants to hear when nobody else has it."""
    def is_live(self, key: int) -> bool:
        """Whether the object of this key is not freed yet."""
    def spilled(self, key: int) -> tuple[int, int, int] | None:
        """(number, bytes, pins) of a value that is in a file; None if it is in memory, or gone."""
    def begin_restore(self, key: int) -> Moving | bool | None:
        """Memory for a value that comes back; False if there is none now, None if it is gone."""
    def end_restore(self, moving: Moving) -> None:
        """The bytes are there: readers go on."""
    def lose(self, key: int, record: bytes) -> bool:
        """A spilled value will not come back: readers get the error ``record``."""
    lineage_most: int
    """Bytes that recipes may keep; 0: none are made."""
    @property
    def lineage_bytes(self) -> int:
        """What they keep, about."""
    @property
    def lineage_over(self) -> bool:
        """They keep more: ``trim_lineage`` is due."""
    def trim_lineage(self, most: int, spared: list[int]) -> int:
        """Empty the oldest recipes until all keep at most ``most`` bytes, but for ``spared``; how
        many were."""
    def queues_of_recipes(self) -> list[int]:
        """Queues that tasks would need which are run again."""
    def needed(self) -> list[int]:
        """What tasks that have not ended were given, sorted."""
    def ready_extent(self, headroom: int) -> bool:
        """Have an extent for what the daemon writes; what others have asked for stays asked."""
    def recipe_of(self, key: int) -> _RecipeRow | None:
        """How this value is made again; None if nothing knows."""
    def recipe(self, key: int) -> _RecipeRow | None:
        """The recipe with this key."""
    def set_lost(self, key: int) -> bool:
        """A spilled value is gone from its file: its readers wait. False: it is not spilled."""
    def is_lost(self, key: int) -> bool:
        """Whether a value waits to be made again."""
    def evict(self, key: int) -> int:
        """Lose a value that can be made again; bytes that became free, 0 if it stays."""
    def item(self, key: int) -> tuple[int, int, int] | None:
        """Of an item that its generator's recipe can make again: key, number, and how often it was;
        None: it is none."""
    def items_away(self, recipe: int) -> list[tuple[int, int, int]]:
        """The items of that generator that are not in memory, as of ``item``."""
    def rebuild(
        self, recipe: int, arguments: list[int], items: list[tuple[int, int]] = ...
    ) -> Rebuilt | Literal[False] | None:
        """Submit a recipe's task once more; of a generator, for these items (key and number).
        False: no room now; None: it can not run again."""
    def fill(self, key: int, source: int) -> bool:
        """A lost value takes over that of ``source``, a result of a rebuild."""
    def new_proxy(self, job: int, id: bytes = b"") -> int:
        """Key of a slot for an object whose home is another node, which calls it ``id`` (32 bytes,
        or none). The daemon holds it as what it has adopted: ``inbox`` says when nobody else does,
        ``release`` lets it go."""
    def seal_image(
        self,
        key: int,
        format: int,
        in_block: bool,
        data: Any,
        contained: Sequence[ObjectRef | None] = (),
    ) -> bool | None:
        """Give a proxy its value, as ``open_image`` of another node has read it; ``contained``: our
        refs to what its entries named. False: no room now; None: it has one, or is gone."""
    def seal_elsewhere(self, key: int, format: int, size: int) -> bool:
        """Give a proxy a value of ``size`` bytes that stays on another node: who looks at it asks
        (its key comes out of ``inbox``), and ``begin_restore`` and ``end_pull`` bring it here."""
    def is_elsewhere(self, key: int) -> bool:
        """Whether a value is on another node only."""
    def open_image(
        self, key: int, /
    ) -> tuple[int, bool, int, list[int], bytes | Moving] | Moving | None:
        """(format, whether it stands in a block, bytes, keys that its table names or 0, the bytes),
        pinned as long as the last is kept. None: no value yet, or gone. While it is in a file or
        elsewhere the pin alone, for which it comes back. Raises ValueError for memory that stays
        writable."""
    def end_pull(self, moving: Moving, contained: Sequence[ObjectRef | None] = ()) -> bool:
        """The image of a value that was elsewhere is here: its readers go on. False: it is damaged,
        or a count of ``contained`` is full."""
    def queued(self, queue: int, most: int, /) -> list[int]:
        """Tasks that wait in ``queue``, oldest first; each may be taken at any moment."""
    def collapse(self, budget_extents: int) -> bool:
        """Turn populated free extents into huge pages; True if more could be done."""
    def punch(self) -> None:
        """Give all memory back to the kernel (end of the session)."""
    def usage(self) -> tuple[int, int, int]:
        """(bytes of live values counted by extent and holder words, bytes populated, capacity)."""
    def audit(self) -> dict[str, int]:
        """Recount from slots, holder words, ledgers, specs and tables, reading no counter:
        ``bytes``, ``slots``, ``specs``,
        ``leaked_blocks``, ``wrong_counts``. Exact only while nothing else runs."""

    # ---- views (any process)
    def task_state(self, key: int) -> tuple[int, int, int, int, float, float, float] | None:
        """(1 held, 2 queued or 3 running; attempt, worker, flags, seconds held, queued, running);
        None if it has ended or is no task. The seconds are 0 without a deadline."""
    def sight(self, key: int) -> tuple[int, ...] | None:
        """What explanations look at: (task whose result it is or 0; format or 0 while pending;
        claim state as of ``task_state`` or 0; attempt, worker, flags, ``about`` as of a take,
        queue, job, parent; argument and earlier call that it waits for, or 0; 1 for a pending
        object that no task makes; deadline, submit and take in ns, or 0; size in bytes; index of
        the process that made it or -1; then the four numbers of ``ancestry``). None if it is
        gone."""
    def process_sight(self, index: int) -> tuple[int, float, int, list[int], list[int]]:
        """(key that process ``index`` sleeps for, 2**64 - 1: room, 0: nothing; since when; events
        that it has written; running tasks, outermost first; unsealed keys that it watches)."""
    def list_holds(self, limit: int) -> list[tuple[int, int, int, int, int]]:
        """(key, kind, holder, refs, pins): who holds what. Kind 0: process ``holder``, 1: the task
        ``holder``, 2: the value ``holder``, in which the ref stands."""
    @property
    def events_lost(self) -> int:
        """How many events have been overwritten."""
    def is_running(self, key: int, attempt: int) -> bool:
        """Whether this very attempt runs."""
    def list_tasks(
        self, limit: int
    ) -> list[tuple[int, int, int, int, int, int, int, int, int, int]]:
        """(key, claim state 1 HELD 2 QUEUED 3 RUNNING, attempt, worker index, ``about`` as of a
        take, queue, job, parent key, key of the actor that submitted it or 0, job of its id)."""
    def list_objects(self, limit: int) -> list[tuple[int, int, int, int, int, int]]:
        """(key, format or 0 while pending, size in bytes, refs, pins, owner index or -1)."""
    def note(self, key: int, kind: int, text: str) -> None:
        """Leave up to 64 bytes of text about a task among the events: EVENT_NAME, of its call, or
        EVENT_ERROR, the class of its error."""
    def list_events(self, limit: int) -> list[tuple[int, int, int, int, int, int, int, bool]]:
        """(time in ns of CLOCK_BOOTTIME, process index, kind, key, about, number, job of the key's
        id, whether an actor's process wrote it), oldest first.

        ``about`` of a take: key of the function, or EVENT_METHOD | key of the actor | number of the
        method << 22 (1,023: some larger one), and ``number`` is its attempt. Of a submit: key of
        the parent. Of a put: of the task, or the actor. Of a seal: as of a take if it was failed
        without being run, the actor without the method if one ran it, else 0, and
        ``number`` is the format of its first return. Of a free: ``number`` is 1 if its time was not
        taken: it came then or later, before the next event of that process. Of a note: eight bytes
        of text, and ``number`` is their place."""
