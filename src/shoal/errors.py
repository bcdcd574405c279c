"""Every error that Shoal raises, on one page, by whose fault it is.

::

    ShoalError
    |-- TaskError              your code raised; also an instance of the class of what it raised
    |-- LostError              the world: something died, is gone, is full or is late
    |   |-- WorkerCrashedError     a process died in a task
    |   |   `-- PoisonTaskError        ... in the same task, again and again
    |   |-- ActorError             a call can not reach its actor
    |   |   `-- ActorDiedError         ... ever again
    |   |-- ObjectLostError        a value is gone
    |   |-- ObjectStoreFullError   there is no room for a value              (MemoryError)
    |   |-- GetTimeoutError        it takes longer than you wanted to wait   (TimeoutError)
    |   |-- JobEndedError          the program that asked for it has ended
    |   |-- UnschedulableError     nothing here can ever run it
    |   `-- SessionLostError       the node daemon died                      (ConnectionError)
    |-- UsageError             misuse; each is also the builtin class that fits
    |   |-- OptionError            an option or argument is wrong            (ValueError)
    |   |-- NotARefError           get or wait of something that is no ref   (TypeError)
    |   |-- SerializationError     a value can not travel                    (TypeError)
    |   |-- ActorAlreadyExistsError  the name belongs to another actor       (ValueError)
    |   |-- ActorNotFoundError     no living actor has that name             (ValueError)
    |   |-- SessionEndedError      after shutdown                            (RuntimeError)
    |   |-- SessionExistsError     a second init                             (RuntimeError)
    |   |-- ForkedProcessError     a handle used in a forked child           (RuntimeError)
    |   |-- NotSupportedError      it is not there yet                       (NotImplementedError)
    |   `-- PendingTasksLimitError too many unfinished tasks                 (RuntimeError)
    `-- InternalError          our bug

An error is built from facts. They are attributes (declared in the class, with their defaults),
travel as a typed record (``to_record``, ``from_record``: msgpack of ``[class name, fields]``, so
that a daemon can make one without pickle) or by pickle, and the message is made from them where it
is read.

Invariants:

1. This module imports nothing of ours and neither pickle nor cloudpickle: daemons may load it.
2. ``from_record`` never fails: an unknown class becomes ``InternalError``, an unknown field is kept
   in
   ``facts``; the two ends of a connection may differ by a version.
3. A ``TaskError`` is never an instance of ``SystemExit`` or ``KeyboardInterrupt``: ``get`` of a
   task that called ``sys.exit`` must not end the program that asked.
"""

from __future__ import annotations

import signal as _signal
import types
from typing import Any, ClassVar

import msgspec

_TABLE: dict[str, type[ShoalError]] = {}
"""Every class by its name, as records say it."""


class ShoalError(Exception):
    """Base of every error of Shoal."""

    advice: ClassVar[str] = ""
    """What to do, as one or two sentences."""
    _defaults: ClassVar[dict[str, Any]] = {}

    facts: dict[str, Any]
    """Every fact that was given, by name."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        own = {
            name: vars(cls)[name]
            for name in vars(cls).get("__annotations__", ())
            if name in vars(cls) and not name.startswith("_") and name != "advice"
        }
        inherited: dict[str, Any] = {}
        for base in reversed(cls.__mro__[1:]):
            inherited.update(getattr(base, "_defaults", {}))
        cls._defaults = inherited | own
        if cls.__name__.isidentifier():  # no dual class
            _TABLE.setdefault(cls.__name__, cls)

    def __init__(self, message: str = "", **facts: Any) -> None:
        BaseException.__init__(self, message)  # not super(): a dual class has foreign constructors
        self._message = message
        self.facts = facts
        for name, value in facts.items():
            if name in self._defaults:
                setattr(self, name, value)

    def describe(self) -> str:
        """Return what happened, from the facts."""
        return self._message

    def __str__(self) -> str:
        text = self.describe() or self._message or type(self).__name__
        return f"{text}\nWhat to do: {self.advice}" if self.advice else text

    def __reduce__(self) -> Any:
        return _rebuild, (type(self).__name__, self._message, self.facts)


_TABLE["ShoalError"] = ShoalError


def _rebuild(name: str, message: str, facts: dict[str, Any]) -> ShoalError:
    return _TABLE.get(name, InternalError)(message, **facts)


def _tail(lines: list[str]) -> str:
    """The last lines a process wrote, as a paragraph of a message."""
    if not lines:
        return ""
    return "\nIts last lines on stderr:\n" + "\n".join("    " + line for line in lines)


def _exit_text(exit_code: int | None, signal: int | None) -> str:
    """How a process ended, in words."""
    if signal:
        try:
            name = _signal.Signals(signal).name
        except ValueError:
            name = "unknown signal"
        return f"was killed by signal {signal} ({name})"
    if exit_code is not None:
        return f"ended with exit code {exit_code}"
    return "died"


# ---- your code ----------------------------------------------------------------------------------


class TaskError(ShoalError):
    """A task or a method raised. Also an instance of the class of ``cause``."""

    task: str = ""
    """Name of the function or method."""
    task_id: str = ""
    attempt: int = 1
    pid: int = 0
    node: str = ""
    remote_traceback: str = ""
    """Frames of user code only, innermost last, one paragraph per task if tasks were nested."""

    cause: BaseException | None
    """What the task raised; None if it could not be brought here (the message says why)."""

    def __init__(self, message: str = "", cause: BaseException | None = None, **facts: Any) -> None:
        ShoalError.__init__(self, message, **facts)
        self.cause = cause
        if self.remote_traceback:
            self.add_note(self.remote_traceback)

    def __str__(self) -> str:
        return self._message

    def __reduce__(self) -> Any:
        return task_error, (self._message, self.cause, self.facts)


_dual_classes: dict[type[BaseException], type[TaskError]] = {}


def _dual_class(cause: type[BaseException]) -> type[TaskError]:
    """The class that is both ``TaskError`` and ``cause``; plain TaskError where that can not be."""
    found = _dual_classes.get(cause)
    if found is None:
        found = TaskError
        if issubclass(cause, Exception) and not issubclass(cause, TaskError):
            body = {
                "__module__": TaskError.__module__,
                "__qualname__": f"TaskError({cause.__name__})",
            }
            try:
                found = types.new_class(
                    f"TaskError({cause.__name__})",
                    (TaskError, cause),
                    exec_body=lambda ns: ns.update(body),
                )
            except Exception:  # a final class, a metaclass or a layout of its own: whatever it says
                found = TaskError
        _dual_classes[cause] = found
    return found


def task_error(message: str, cause: BaseException | None, facts: dict[str, Any]) -> TaskError:
    """Build the error of a task whose code raised ``cause``, with the attributes of ``cause``."""
    if cause is None:
        return TaskError(message, None, **facts)
    cls = _dual_class(type(cause))
    try:
        error = cls.__new__(cls, *cause.args)
        _copy_attributes(cause, error)
    except Exception:  # a constructor of the user's: whatever it says
        cls = TaskError
        error = TaskError.__new__(TaskError)
    TaskError.__init__(error, message, cause, **facts)
    if cls is not TaskError:
        error.args = cause.args
    return error


def _copy_attributes(source: BaseException, target: BaseException) -> None:
    """Copy the instance dictionary and what lives in slots (``errno``, ``code``, ``__slots__``)."""
    for name, value in vars(source).items():
        if name != "__notes__":
            setattr(target, name, value)
    for base in type(source).__mro__:
        if base in (BaseException, Exception, object):
            continue
        for name, kind in vars(base).items():
            slot = isinstance(kind, types.MemberDescriptorType | types.GetSetDescriptorType)
            if slot and not name.startswith("__"):
                value = getattr(source, name, None)
                try:
                    if value is not None:
                        setattr(target, name, value)
                except AttributeError:  # read-only: made by __new__ already
                    pass


# ---- the world ----------------------------------------------------------------------------------


class LostError(ShoalError):
    """Something that was needed is gone, full or late; nobody's code is wrong."""


class WorkerCrashedError(LostError):
    """The process that ran a task died."""

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
        return what + _exit_text(self.exit_code, self.signal) + where + why + _tail(self.stderr)


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
    "restarting": "its process died while this call was running",
}


class ActorError(LostError):
    """A call can not reach its actor."""

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

    cause: BaseException | None = None

    @property
    def _who(self) -> str:
        name = f" {self.name!r}" if self.name else ""
        return f"actor {self.class_name or ''}{name} ({self.actor_id})".replace("  ", " ")


class ActorDiedError(ActorError):
    """The actor is dead and will not come back."""

    advice = "create the actor again; max_restarts lets it come back after a crash by itself."

    def describe(self) -> str:
        """Return what happened, from the facts."""
        if self.reason == "constructor":
            return f"the constructor of {self._who} raised:\n{self.text or self.cause}"
        text = f"{self._who} is dead: {_REASONS.get(self.reason, self.reason) or 'it has ended'}"
        if self.reason in ("crashed", "restarting"):
            text += f"; the process {self._end}"
        if self.may_have_run:
            text += "; this call was running then and may have taken effect"
        return text + _tail(self.stderr)

    @property
    def _end(self) -> str:
        where = f" (pid {self.pid})" if self.pid else ""
        return _exit_text(self.exit_code, self.signal) + where


class ObjectLostError(LostError):
    """A value is gone although a ref to it lives."""

    advice = "make the value again; keep a ref to a value for as long as it is needed."
    object_id: str = ""
    reason: str = ""

    def describe(self) -> str:
        """Return what happened, from the facts."""
        return f"the value of {self.object_id or 'an object'} is lost: {self.reason}"


class ObjectStoreFullError(LostError, MemoryError):
    """Node memory has no room for a value."""

    advice = (
        "drop refs to values that are not needed any more, use smaller values, or give"
        " init(object_store_memory=) more bytes."
    )
    asked_bytes: int = 0
    capacity_bytes: int = 0

    def describe(self) -> str:
        """Return what happened, from the facts."""
        larger = self.asked_bytes > self.capacity_bytes
        room = (
            "is larger than the whole object store"
            if larger
            else "finds no room in the object store"
        )
        return f"a value of {self.asked_bytes:,} bytes {room} of {self.capacity_bytes:,} bytes"


class GetTimeoutError(LostError, TimeoutError):
    """What was asked for was not there in time; it still goes on."""

    advice = "wait longer, or look at shoal.state.tasks() for what it waits for."
    timeout_s: float = 0.0
    pending: int = 1
    what: str = ""

    def describe(self) -> str:
        """Return what happened, from the facts."""
        return (
            self._message
            or f"{self.what or f'{self.pending} ref(s)'}: not ready after {self.timeout_s} s"
        )


class JobEndedError(LostError):
    """The program that asked for this result has ended."""

    job: int = 0
    reason: str = ""

    def describe(self) -> str:
        """Return what happened, from the facts."""
        return f"job {self.job} has ended{': ' + self.reason if self.reason else ''}"


class UnschedulableError(LostError):
    """No node can ever run this."""

    advice = "ask for less, or declare more in init(num_cpus=, num_gpus=, resources=)."
    what: str = ""
    asked: dict[str, float] = {}
    total: dict[str, float] = {}

    def describe(self) -> str:
        """Return what happened, from the facts."""
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


class SessionLostError(LostError, ConnectionError):
    """The node daemon died, and the session with it."""

    advice = "call shoal.init() to start a new session; values of the lost one are gone."
    session: str = ""
    reason: str = ""

    def describe(self) -> str:
        """Return what happened, from the facts."""
        name = f" {self.session}" if self.session else ""
        return f"session{name} is lost: {self.reason or 'its node daemon has died'}"


# ---- misuse -------------------------------------------------------------------------------------


class UsageError(ShoalError):
    """The API was used in a way that can not work."""

    text: str = ""

    def describe(self) -> str:
        """Return what happened, from the facts."""
        return self._message or self.text


class OptionError(UsageError, ValueError):
    """An option or argument is unknown, of the wrong type or out of range."""

    option: str = ""
    valid: list[str] = []


class NotARefError(UsageError, TypeError):
    """Something that is no ref was given to ``get``, ``wait`` and the like."""


class SerializationError(UsageError, TypeError):
    """A value can not travel to another process."""

    path: str = ""
    """Where in the value the culprit is, such as ``args[0].session._lock``."""
    culprit: str = ""


class ActorAlreadyExistsError(UsageError, ValueError):
    """An actor of that name lives already."""

    advice = "choose another name, or pass get_if_exists=True to get the living one."
    name: str = ""
    namespace: str = ""

    def describe(self) -> str:
        """Return what happened, from the facts."""
        return f"an actor named {self.name!r} lives already in namespace {self.namespace!r}"


class ActorNotFoundError(UsageError, ValueError):
    """No living actor has that name."""

    advice = "look at shoal.state.actors(); a name is known only in the namespace it was given in."
    name: str = ""
    namespace: str = ""
    actor_id: str = ""

    def describe(self) -> str:
        """Return what happened, from the facts."""
        if not self.name:
            return f"there is no actor {self.actor_id}"
        return f"there is no living actor named {self.name!r} in namespace {self.namespace!r}"


class SessionEndedError(UsageError, RuntimeError):
    """A handle of a session that has been shut down was used."""

    advice = "refs and handles live as long as their session; make them again in the present one."
    session: str = ""
    now: str = ""

    def describe(self) -> str:
        """Return what happened, from the facts."""
        now = f"the present session is {self.now}" if self.now else "there is no session now"
        return self._message or f"this belongs to session {self.session}, which has ended; {now}"


class SessionExistsError(UsageError, RuntimeError):
    """``init`` was called twice."""

    advice = "call shoal.shutdown() first, or pass ignore_reinit_error=True."
    session: str = ""

    def describe(self) -> str:
        """Return what happened, from the facts."""
        return f"this process already has a session ({self.session})"


class ForkedProcessError(UsageError, RuntimeError):
    """A handle was used in a child that user code forked."""

    advice = (
        "use Shoal in the parent, or start the child with the 'spawn' method and call init() in it."
    )

    def describe(self) -> str:
        """Return what happened, from the facts."""
        return (
            self._message
            or "this process was forked from one that uses Shoal; handles do not work here"
        )


class NotSupportedError(UsageError, NotImplementedError):
    """Something that is not there yet."""


class PendingTasksLimitError(UsageError, RuntimeError):
    """A task may not submit more: too many tasks of its job are unfinished."""

    advice = (
        "wait for some results before submitting more, or give each task more to do (shoal.map)."
    )
    limit: int = 0

    def describe(self) -> str:
        """Return what happened, from the facts."""
        return self._message or "too many unfinished tasks in this job"


class InternalError(ShoalError):
    """A bug of Shoal."""

    advice = "please report this with the text above and the session's logs."
    story: str = ""


# ---- records ------------------------------------------------------------------------------------


def to_record(error: ShoalError) -> bytes:
    """Return the typed record of ``error``: facts that msgpack knows, and its message."""
    fields: dict[str, Any] = {}
    for name, value in error.facts.items():
        try:
            msgspec.msgpack.encode(value)
        except (TypeError, ValueError):
            value = repr(value)
        fields[name] = value
    if error._message:
        fields["message"] = error._message
    for cls in type(error).__mro__:
        if _TABLE.get(cls.__name__) is cls:
            return msgspec.msgpack.encode([cls.__name__, fields])
    return msgspec.msgpack.encode(["InternalError", fields])


def from_record(record: bytes | memoryview) -> ShoalError:
    """Return the error that ``record`` describes; an unreadable one is an ``InternalError``."""
    try:
        name, fields = msgspec.msgpack.decode(record, type=tuple[str, dict[str, Any]])
    except msgspec.MsgspecError as error:
        return InternalError(f"an unreadable error record ({error}): {bytes(record)[:200]!r}")
    message = str(fields.pop("message", ""))
    cls = _TABLE.get(name)
    if cls is None:
        return InternalError(message or f"{name}: {fields}", **fields)
    return cls(message, **fields)
