"""Misuse: the API was used in a way that can not work. Each is also the builtin class that fits."""

from __future__ import annotations

from shoal.errors._base import ShoalError
from shoal.errors._lost import ChannelClosedError


class UsageError(ShoalError):
    """The API was used in a way that can not work."""

    text: str = ""

    def describe(self) -> str:
        """Return what happened, from the facts."""
        return self._message or self.text


class OptionError(UsageError, ValueError, TypeError):
    """An option or argument is unknown, of the wrong type or out of range.

    Programs written for Ray catch it as ``ValueError`` or as ``TypeError``.
    """

    option: str = ""
    valid: list[str] = []


class NotARefError(UsageError, TypeError, ValueError):
    """Something that is no ref or handle was given to ``get``, ``wait``, ``kill`` and the like.

    Programs written for Ray catch it as ``ValueError`` in some places, as ``TypeError`` in others.
    """


class NotReplayableError(UsageError, LookupError):
    """A failed task can not be run again here: what it was called with is not there."""


class SerializationError(UsageError, TypeError):
    """A value can not travel to another process."""

    ray = ("UnserializableException", "OufOfBandObjectRefSerializationException")
    path: str = ""
    """Where in the value the culprit is, such as ``args[0].session._lock``."""
    culprit: str = ""


class MessageTooLargeError(UsageError, ValueError):
    """A value does not fit into a slot of the channel that it was written into."""

    advice = "make the channel with a larger capacity, or send a ref to the value."
    size_bytes: int = 0
    capacity_bytes: int = 0

    def describe(self) -> str:
        """Return what happened, from the facts."""
        return (
            f"a message of {self.size_bytes:,} bytes is larger than the capacity of its channel,"
            f" {self.capacity_bytes:,} bytes"
        )


class ActorAlreadyExistsError(UsageError, ValueError):
    """An actor of that name lives already."""

    ray = ("ActorAlreadyExistsError",)
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


class GroupAlreadyExistsError(UsageError, ValueError):
    """A placement group of that name exists already."""

    advice = "choose another name, or get the group that has it with get_placement_group(name)."
    name: str = ""
    namespace: str = ""

    def describe(self) -> str:
        """Return what happened, from the facts."""
        return f"a placement group named {self.name!r} exists in namespace {self.namespace!r}"


class GroupNotFoundError(UsageError, ValueError):
    """There is no such placement group."""

    advice = "look at shoal.state.groups(); a name is known only in the namespace it was given in."
    name: str = ""
    namespace: str = ""
    group_id: str = ""

    def describe(self) -> str:
        """Return what happened, from the facts."""
        if not self.name:
            return f"there is no placement group {self.group_id}"
        return f"there is no placement group named {self.name!r} in namespace {self.namespace!r}"


class NotInActorError(UsageError, RuntimeError, TypeError):
    """Something was asked or done that only code in an actor can."""


class SessionEndedError(UsageError, RuntimeError):
    """A handle of a session that has been shut down was used."""

    ray = ("ActorHandleNotFoundError",)
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


class PendingCallsLimitError(UsageError, RuntimeError):
    """An actor has as many waiting calls as its ``max_pending_calls`` allows."""

    ray = ("PendingCallsLimitExceeded",)
    advice = "wait for some results before calling more, or raise max_pending_calls."
    limit: int = 0
    class_name: str = ""

    def describe(self) -> str:
        """Return what happened, from the facts."""
        who = f"actor {self.class_name}" if self.class_name else "the actor"
        return self._message or f"{who} has {self.limit} waiting calls, which is its limit"


class PendingTasksLimitError(UsageError, RuntimeError):
    """A task may not submit more: too many tasks of its job are unfinished."""

    advice = (
        "wait for some results before submitting more, or give each task more to do (shoal.map)."
    )
    limit: int = 0

    def describe(self) -> str:
        """Return what happened, from the facts."""
        return self._message or "too many unfinished tasks in this job"


class GraphError(UsageError, ValueError):
    """A graph can not be built, compiled or run like that."""


class GraphCapacityError(UsageError, RuntimeError):
    """A compiled graph has as many executions in flight as it may have."""

    ray = ("RayCgraphCapacityExceeded",)
    advice = (
        "get some results (or drop their refs) before executing again, or compile the graph with"
        " more max_inflight_executions."
    )
    limit: int = 0

    def describe(self) -> str:
        """Return what happened, from the facts."""
        return (
            f"the compiled graph has {self.limit} executions whose results nobody took, which is"
            " its limit"
        )


class GraphEndedError(UsageError, ChannelClosedError, RuntimeError):
    """A compiled graph was used after its teardown."""

    advice = "compile the graph again; results that are not needed after teardown are taken before."

    def describe(self) -> str:
        """Return what happened, from the facts."""
        return self._message or "this compiled graph was torn down"
