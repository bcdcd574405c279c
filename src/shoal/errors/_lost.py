"""The world: something died, is gone, is full or is late. Nobody's code is wrong."""

from __future__ import annotations

from typing import Any, ClassVar

from shoal.errors._base import ShoalError, exit_text, from_record, tail
from shoal.errors._explained import Explained


class LostError(ShoalError):
    """Something that was needed is gone, full or late; nobody's code is wrong."""


class WorkerCrashedError(LostError):
    """The process that ran a task died."""

    ray = ("WorkerCrashedError",)
    advice = (
        "read the last lines above and the worker's log; if such deaths are expected, give the task"
        " max_retries."
    )
    task: str = ""
    task_id: str = ""
    attempt: int = 1
    max_retries: int = 0
    pid: int = 0
    node: str = ""
    exit_code: int | None = None
    signal: int | None = None
    pids: list[int] = []
    reason: str = ""
    stderr: list[str] = []

    def describe(self) -> str:
        """Return what happened, from the facts."""
        what = f"the worker that ran {self.task or 'a task'} (attempt {self.attempt}) "
        where = f" (pid {self.pid}{', node ' + self.node if self.node else ''})" if self.pid else ""
        why = f": {self.reason}" if self.reason else ""
        return what + exit_text(self.exit_code, self.signal) + where + why + tail(self.stderr)


class OutOfMemoryError(WorkerCrashedError):
    """The process of a task used more memory than it had asked for, or than the node has, and was
    ended for it."""

    ray = ("OutOfMemoryError",)
    advice = (
        "give it memory= (bytes) for what it really needs, let it take less at a time, or run fewer"
        " such tasks at once (num_cpus=); `shoal.state.memory_peaks()` shows what functions took."
    )
    kind: str = ""
    """``"limit"``: more than it had asked for; ``"node"``: the node had too little left;
    ``"kernel"``: the kernel was quicker than the watch."""
    limit_bytes: int = 0
    """What it was not to exceed: its own ``memory=``, or the share of the node's memory."""
    peak_bytes: int = 0
    """The most that it was seen to take."""
    used_bytes: int = 0
    """Of the node, by all together, at that moment."""
    node_bytes: int = 0
    others: list[dict[str, Any]] = []
    """Who else was there (``name``, ``pid``, ``bytes``), the largest first."""
    evidence: str = ""
    """What shows that it was the kernel."""

    def describe(self) -> str:
        """Return what happened, from the facts."""
        attempt = f" (attempt {self.attempt})" if self.attempt > 1 else ""
        what = f"{self.task or 'a task'}{attempt} took {self.peak_bytes:,} bytes of memory"
        if self.kind == "kernel":
            return self._describe_kernel(attempt)
        if self.kind == "limit":
            text = f"{what}, and has asked for {self.limit_bytes:,} (memory=)"
        else:
            text = (
                f"{what} when the node had too little left: {self.used_bytes:,} of"
                f" {self.node_bytes:,} bytes were in use, the limit is {self.limit_bytes:,}"
            )
        text += f"; its process (pid {self.pid}) was ended for it"
        return text + self._company() + tail(self.stderr)

    def _describe_kernel(self, attempt: str) -> str:
        text = (
            f"the kernel ended the process (pid {self.pid}) of {self.task or 'a task'}{attempt} for"
            f" want of memory ({self.evidence})"
        )
        if self.peak_bytes:
            text += f"; it was last seen to have taken {self.peak_bytes:,} bytes"
        if self.limit_bytes:
            text += f", {self.used_bytes:,} of {self.limit_bytes:,} bytes of the node were in use"
        return text + self._company() + tail(self.stderr)

    def _company(self) -> str:
        rows = [f"    {row['name']} (pid {row['pid']}): {row['bytes']:,}" for row in self.others]
        return "\nWho else was there, in bytes:\n" + "\n".join(rows) if rows else ""


class PoisonTaskError(WorkerCrashedError):
    """One task killed its process in several places; it is not tried again."""

    advice = "find out with the lines above why this task kills its process."


_REASONS = {
    "crashed": "its process died and no restart was left",
    "killed": "it was killed with kill()",
    "exit_actor": "it called exit_actor()",
    "no_handle": "the last handle to it is gone",
    "job_ended": "the program that made it has ended",
    "unschedulable": "no node has what it asks for",
    "arguments_lost": "the arguments of its constructor are gone",
    "group_removed": "the placement group that it ran in is gone",
    "restarting": "its process died while this call was running",
    "out_of_memory": "it used more memory than it may, or than there is",
    "node_lost": "its node was lost and no restart was left",
    "lease_over": "its node had not heard from the control store for as long as its lease lasts",
    "drained": "its node was drained and it may not be restarted",
}


def _first(error: BaseException) -> str:
    """What happened, without advice."""
    return error.describe() if isinstance(error, ShoalError) else str(error)


class ActorError(LostError):
    """A call can not reach its actor."""

    ray = ("RayActorError",)
    actor_id: str = ""
    class_name: str = ""
    name: str | None = None
    incarnation: int = 0
    reason: str = ""
    pid: int = 0
    node: str = ""
    exit_code: int | None = None
    signal: int | None = None
    stderr: list[str] = []
    may_have_run: bool = False
    """The call was running when the process died."""
    error: bytes = b""
    """The constructor's exception, pickled; ``cause`` once it was loaded."""
    text: str = ""
    memory: bytes = b""
    """Record of the ``OutOfMemoryError`` for which its process was ended; ``cause`` is that."""

    cause: BaseException | None = None

    def __init__(self, message: str = "", **facts: Any) -> None:
        super().__init__(message, **facts)
        if self.memory:
            self.cause = self.__cause__ = from_record(self.memory)

    @property
    def _out_of_memory(self) -> str:
        return "" if not self.memory or self.cause is None else f". {_first(self.cause)}"

    @property
    def _who(self) -> str:
        name = f" {self.name!r}" if self.name else ""
        return f"actor {self.class_name or ''}{name} ({self.actor_id})".replace("  ", " ")

    @property
    def _end(self) -> str:
        where = f" (pid {self.pid})" if self.pid else ""
        return exit_text(self.exit_code, self.signal) + where


class ActorDiedError(ActorError):
    """The actor is dead and will not come back."""

    ray = ("ActorDiedError",)
    advice = "create the actor again; max_restarts lets it come back after a crash by itself."

    def describe(self) -> str:
        """Return what happened, from the facts."""
        if self.reason == "constructor":
            return f"the constructor of {self._who} raised:\n{self.text or self.cause}"
        text = f"{self._who} is dead: {_REASONS.get(self.reason, self.reason) or 'it has ended'}"
        if self.reason == "crashed":
            text += f"; the process {self._end}"
        if self.may_have_run:
            text += "; this call was running then and may have taken effect"
        return text + self._out_of_memory + tail(self.stderr)


class ActorOutOfMemoryError(ActorDiedError, OutOfMemoryError):
    """The actor is dead because it used more memory than it had asked for, or than there is."""

    advice = (
        "create it again with memory= (bytes) for what it really needs; max_restarts lets it come"
        " back by itself, with what it then has to hold."
    )

    def __init__(self, message: str = "", **facts: Any) -> None:
        super().__init__(message, **facts)
        if isinstance(self.cause, OutOfMemoryError):
            for name in ("kind", "limit_bytes", "peak_bytes", "used_bytes", "node_bytes", "others"):
                setattr(self, name, getattr(self.cause, name))


class ActorUnavailableError(ActorError):
    """The actor is away for now: its process died and it is being started again."""

    ray = ("ActorUnavailableError",)
    advice = "call again; max_task_retries does so by itself for calls that may run twice."

    def describe(self) -> str:
        """Return what happened, from the facts."""
        text = f"{self._who} is being started again: {_REASONS.get(self.reason, self.reason)}"
        text += f"; the process {self._end}"
        if self.may_have_run:
            text += "; this call was running then and may have taken effect"
        return text + self._out_of_memory + tail(self.stderr)


class ObjectLostError(LostError):
    """A value is gone although a ref to it lives."""

    ray: ClassVar[tuple[str, ...]] = (
        "ObjectLostError",
        "ObjectFreedError",
        "OwnerDiedError",
        "ObjectFetchTimedOutError",
        "ReferenceCountingAssertionError",
    )
    advice = "make the value again; keep a ref to a value for as long as it is needed."
    object_id: str = ""
    reason: str = ""

    def describe(self) -> str:
        """Return what happened, from the facts."""
        return f"the value of {self.object_id or 'an object'} is lost: {self.reason}"


class ObjectNotRebuiltError(ObjectLostError):
    """A value is gone, and the task that made it cannot make it again."""

    ray = ("ObjectReconstructionFailedError",)


class RebuildsUsedUpError(ObjectNotRebuiltError):
    """A value is gone, and its task has run as often as it may."""

    ray = ("ObjectReconstructionFailedMaxAttemptsExceededError",)
    advice = "give the task more max_retries (an actor's call: max_task_retries); -1: any number."


class LineageDroppedError(ObjectNotRebuiltError):
    """A value is gone, and how it was made was forgotten, as lineage has a budget."""

    ray = ("ObjectReconstructionFailedLineageEvictedError",)
    advice = "give init(lineage_bytes=) more bytes; by default it is a tenth of the store."


class ReplayDiffersError(ObjectNotRebuiltError):
    """An item of a generator is gone, and the generator yielded fewer when it ran again for it."""

    ray = ("StreamingGeneratorReplayInconsistentError",)
    advice = "have the generator yield the same for the same arguments, or give it max_retries=0."


class ObjectStoreFullError(LostError, MemoryError):
    """Node memory has no room for a value."""

    ray = ("ObjectStoreFullError", "OutOfDiskError")
    advice = (
        "drop refs to values that are not needed any more, use smaller values, or give"
        " init(object_store_memory=) more bytes."
    )
    asked_bytes: int = 0
    capacity_bytes: int = 0
    holders: list[str] = []
    """Who holds most of what is in the store."""
    reason: str = ""
    """Why values could not leave for files; empty: they may, or must not."""

    def describe(self) -> str:
        """Return what happened, from the facts."""
        larger = self.asked_bytes > self.capacity_bytes
        room = (
            "is larger than the whole object store"
            if larger
            else "finds no room in the object store"
        )
        text = f"a value of {self.asked_bytes:,} bytes {room} of {self.capacity_bytes:,} bytes"
        if self.holders:
            text += "; held are " + ", ".join(self.holders)
        if self.reason:
            text += f"; values cannot leave for files: {self.reason}"
        return text


class GetTimeoutError(Explained, LostError, TimeoutError):
    """What was asked for was not there in time; it still goes on."""

    ray = ("GetTimeoutError",)
    advice = "wait longer, or look at error.why for what it waits for."
    timeout_s: float = 0.0
    pending: int = 1
    what: str = ""
    reasons: bytes = b""
    """The chain of reasons at that moment, as it travels; ``why`` reads it."""

    def describe(self) -> str:
        """Return what happened, from the facts."""
        text = (
            self._message
            or f"{self.what or f'{self.pending} ref(s)'}: not ready after {self.timeout_s} s"
        )
        why = self.why
        return text if why is None else f"{text}: {why}"

    def __str__(self) -> str:
        return self.describe() if self.why is not None else ShoalError.__str__(self)


class ChannelError(LostError):
    """A channel gives, or takes, nothing: now or ever."""

    ray = ("RayChannelError",)


class ChannelTimeoutError(ChannelError, GetTimeoutError):
    """No message, or no free slot, came into a channel in time; nothing was read or written."""

    ray = ("RayChannelTimeoutError",)
    advice = "wait longer, or look whether the other side lives and how full the channel is."


class ChannelClosedError(ChannelError):
    """A channel was closed, and all that was written before has been read."""

    advice = "look at error.cause for why it was closed; a closed channel stays closed."
    cause: BaseException | None = None
    """What whoever closed it gave as the reason."""

    def describe(self) -> str:
        """Return what happened, from the facts."""
        why = f": {type(self.cause).__name__}: {self.cause}" if self.cause else ""
        return self._message or f"the channel is closed{why}"


class CollectiveError(LostError, RuntimeError):
    """A group of collective operations does not work: all its ranks get this error."""

    advice = (
        "find out why that rank died, left or called something else; then destroy the group on"
        " every rank, and join it again."
    )
    group: str = ""
    rank: int = -1
    """Who was told."""


class CollectiveTimeoutError(Explained, CollectiveError, TimeoutError):
    """A rank of a group did not come in time."""

    __new__ = TimeoutError.__new__  # type: ignore[assignment]  # of the two builtin classes, this
    advice = "look what the missing rank does; give the group a longer timeout_s if that is right."
    reasons: bytes = b""
    """What the missing rank did at that moment, as it travels; ``why`` reads it."""


class JobEndedError(LostError):
    """The program that asked for this result has ended."""

    job: int = 0
    reason: str = ""

    def describe(self) -> str:
        """Return what happened, from the facts."""
        return f"job {self.job} has ended{': ' + self.reason if self.reason else ''}"


class UnschedulableError(LostError):
    """No node can ever run this."""

    ray = ("TaskUnschedulableError", "ActorUnschedulableError")
    advice = "ask for less, or declare more in init(num_cpus=, num_gpus=, resources=)."
    what: str = ""
    asked: dict[str, float] = {}
    total: dict[str, float] = {}
    reason: str = ""
    """What else it needs that is not here."""

    def describe(self) -> str:
        """Return what happened, from the facts."""
        if self.reason:
            asked = f" asks for {_amounts(self.asked)} and" if self.asked else ""
            return f"{self.what or 'this'}{asked} can run nowhere: {self.reason}"
        total = {name: self.total.get(name, 0) for name in self.asked}
        return (
            f"{self.what or 'this'} asks for {_amounts(self.asked)}, and nothing here has more than"
            f" {_amounts(total)}"
        )


def _amounts(resources: dict[str, float]) -> str:
    return (
        ", ".join(f"{name} {amount:,.10g}" for name, amount in sorted(resources.items()))
        or "nothing"
    )


class GroupRemovedError(LostError):
    """The placement group in which this ran, or was to run, was removed."""

    ray = ("TaskPlacementGroupRemoved",)
    advice = "make the group again, or remove it only when nothing needs it any more."
    group_id: str = ""
    name: str | None = None
    what: str = ""
    reason: str = ""

    def describe(self) -> str:
        """Return what happened, from the facts."""
        name = f" {self.name!r}" if self.name else ""
        of = f" of {self.what}" if self.what else ""
        why = f": {self.reason}" if self.reason else ""
        return self._message or f"the placement group{name} ({self.group_id}){of} was removed{why}"


class ActorGroupRemovedError(ActorDiedError, GroupRemovedError):
    """The actor is dead because its placement group was removed."""

    ray = ("ActorPlacementGroupRemoved",)
    advice = "make the group and the actor again; remove a group only when nothing needs it."


class RuntimeEnvSetupError(LostError):
    """A runtime environment could not be made; what was to run in it did not start."""

    ray = ("RuntimeEnvSetupError",)
    advice = "correct the runtime_env with the lines above."
    step: str = ""
    """What failed, such as ``"pip"`` or ``"working_dir"``."""
    output: list[str] = []
    """The last lines of the tool that failed."""

    def describe(self) -> str:
        """Return what happened, from the facts."""
        step = f" ({self.step})" if self.step else ""
        text = self._message or f"the runtime environment could not be made{step}"
        return text + "".join("\n    " + line for line in self.output)


class SessionLostError(LostError, ConnectionError):
    """The node daemon died, and the session with it."""

    ray = ("RaySystemError", "LocalRayletDiedError", "NodeDiedError", "RpcError")
    advice = "call shoal.init() to start a new session; values of the lost one are gone."
    session: str = ""
    reason: str = ""

    def describe(self) -> str:
        """Return what happened, from the facts."""
        name = f" {self.session}" if self.session else ""
        return f"session{name} is lost: {self.reason or 'its node daemon has died'}"
