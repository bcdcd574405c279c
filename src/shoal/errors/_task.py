"""Your code raised, or you stopped it: ``TaskError`` with its dual class, and cancellation.

A ``TaskError`` is also an instance of the class of what the task raised, so that ``except`` works
as if the function had been called here. The class is made once per cause's class; where it can not
be (a final class, a layout of its own, ``SystemExit``), the error is a plain ``TaskError`` whose
``cause`` says what it was.
"""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any

from shoal.errors._base import ShoalError

if TYPE_CHECKING:
    from shoal.errors._why import Why


class TaskError(ShoalError):
    """A task or a method raised. Also an instance of the class of ``cause``."""

    ray = ("RayTaskError", "UserCodeException")
    task: str = ""
    """Name of the function or method."""
    task_id: str = ""
    attempt: int = 1
    pid: int = 0
    node: str = ""
    remote_traceback: str = ""
    """Frames of user code only, innermost last, one paragraph per task if tasks were nested."""

    cause: BaseException | None = None
    """What the task raised; None if it could not be brought here (the message says why)."""

    def __init__(self, message: str = "", cause: BaseException | None = None, **facts: Any) -> None:
        ShoalError.__init__(self, message, **facts)
        self.cause = cause
        if self.remote_traceback:
            self.add_note(self.remote_traceback)

    def __str__(self) -> str:
        if not self._message and type(self) is TaskError and self.cause is not None:
            return type(self.cause).__name__  # our own class does not say it
        return self._message

    def __reduce__(self) -> Any:
        cause = self.cause
        if cause is not None and _needs_no_constructor(cause):
            return _rebuild, (self._message, Bare(cause), self.facts)
        return task_error, (self._message, cause, self.facts)


class Bare:
    """An exception that is pickled so that it is made again without its constructor."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        return _make_bare, (type(self.error), self.error.args, vars(self.error))


def _make_bare(
    cls: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]
) -> BaseException:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


def _needs_no_constructor(error: BaseException) -> bool:
    """Whether its class takes other arguments than it keeps in ``args``, a common mistake."""
    cls = type(error)
    if cls.__init__ in (Exception.__init__, BaseException.__init__):
        return False
    try:
        parts = error.__reduce_ex__(4)
        if parts[0] is cls:
            cls(*parts[1])
    except Exception:  # a constructor of the user's: it would say the same where it is loaded
        return True
    return False


def _rebuild(message: str, cause: Bare | BaseException, facts: dict[str, Any]) -> TaskError:
    # Pickle has made the exception of it already; ``copy.copy`` has not.
    return task_error(message, cause.error if isinstance(cause, Bare) else cause, facts)


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


# ---- what you stopped ---------------------------------------------------------------------------


class TaskCancelledError(ShoalError):
    """The task or call was cancelled before it had a result."""

    ray = ("TaskCancelledError",)
    advice = "submit it again if its result is needed after all."
    task: str = ""
    task_id: str = ""
    stage: str = ""
    """Where it was: ``"held"``, ``"queued"`` or ``"running"``; "" if nobody knows."""
    reason: str = ""

    def describe(self) -> str:
        """Return what happened, from the facts."""
        where = {"held": "while it waited for its arguments", "queued": "before it started"}
        when = where.get(self.stage, "while it was running" if self.stage else "")
        why = f": {self.reason}" if self.reason else ""
        return self._message or f"{self.task or 'the task'} was cancelled {when}".rstrip() + why


class DeadlineExceededError(TaskCancelledError, TimeoutError):
    """The task or call was not done when its time was over, and was ended."""

    advice = "give it more timeout_s, or less to do; a child has no more time than its parent."
    timeout_s: float = 0.0
    stages_s: dict[str, float] = {}
    """Seconds that each stage took: ``"held"``, ``"queued"``, ``"running"``."""

    @property
    def why(self) -> Why:
        """How long it was at each stage, as a reason (docs/why.md).

        Example:
            >>> error = shoal.errors.DeadlineExceededError(timeout_s=2.0, stages_s={"queued": 2.0})
            >>> error.why.reason.stages_s
            {'queued': 2.0}
        """
        from shoal._proto import reasons
        from shoal.errors import _why

        over = reasons.TimeOver(
            task=self.task_id,
            name=self.task,
            stage=self.stage,
            timeout_s=self.timeout_s,
            stages_s=self.stages_s,
        )
        return _why.Why(over)

    def describe(self) -> str:
        """Return what happened, from the facts."""
        words = {"held": "waiting for its arguments", "queued": "in the queue"}
        took = [f"{s:.3g} s {words.get(name, name)}" for name, s in self.stages_s.items()]
        spent = f" ({', '.join(took)})" if took else ""
        what = self.task or "the task"
        return self._message or f"{what} was not done within {self.timeout_s:g} s{spent}"
