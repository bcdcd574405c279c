"""Asking the node daemon why something is not there yet.

The question never waits for what it is about: the daemon answers from its tables and from looks at
node memory, in a moment. If it does not answer in time, that is the reason (``NoAnswer``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from shoal import errors
from shoal._native import ObjectRef
from shoal._proto import messages, reasons
from shoal._runtime import actor, groups, session_dir, streams
from shoal._runtime import session as sessions
from shoal._runtime.client import Coming
from shoal.errors._explained import Explained
from shoal.errors._why import Why

E = TypeVar("E", bound=Explained)

ANSWER_S = 2.0
STOPPED_S = 0.5
"""A daemon that has not answered after so long may be stopped."""
SOON_S = 0.05
"""So long an error waits for its reason when it is raised."""


def why(about: Any, timeout_s: float = ANSWER_S) -> Why:
    """The chain of reasons for ``about``; see ``shoal.state.why``."""
    session = sessions.current()
    coming = session.begin(messages.AskWhy(name_of(about)))
    pid = session.daemon
    first_s = min(timeout_s, STOPPED_S)
    if not coming.wait(first_s):
        if session_dir.is_stopped(pid):
            return Why(reasons.NoAnswer(pid=pid, waited_s=first_s, is_stopped=True))
        if not coming.wait(timeout_s - first_s):
            return Why(reasons.NoAnswer(pid=pid, waited_s=timeout_s))
    return Why(reasons.unpack(session.result(coming, messages.WhyAnswer).reason))


def name_of(thing: Any) -> str:
    """The id by which the daemon knows ``thing``; "" for None, which means this program.

    Raises:
        NotARefError: it is nothing that has an id.
    """
    if thing is None:
        return ""
    if isinstance(thing, str):
        return thing
    if isinstance(thing, streams.ObjectRefGenerator):
        thing = thing.completed()
    if isinstance(thing, actor.ActorHandle):
        return thing._facts.actor_id
    if isinstance(thing, groups.PlacementGroup):
        return thing.id.hex()
    has_id = isinstance(thing, ObjectRef) or hasattr(type(thing), "from_hex")
    if not has_id:
        text = f"why needs a ref, a handle, a placement group or an id, not {thing!r:.80}"
        raise errors.NotARefError(text)
    return str(thing.hex())


def explained(error: E, about: Any = None, is_patient: bool = True) -> E:
    """``error``, whose ``why`` says why ``about`` (of ``shoal.state.why``) is not there.

    Example:
        >>> isinstance(shoal.lowlevel.explained(shoal.lowlevel.Explained("late")), Exception)
        True
    """
    if isinstance(about, list):
        error.ask(for_error(about, is_patient))
    elif (session := sessions.current_or_none()) is not None:
        question = _Question(session, name_of(about))
        if is_patient:
            question.take(SOON_S)
        error.ask(question.take)
    return error


def for_error(refs: list[ObjectRef], is_patient: bool = True) -> Callable[[float], bytes]:
    """The reason of the first of ``refs`` that is not there, for an error about it.

    What is returned gives it, waiting for so many seconds if it has not come yet; b"" if there is
    none. It is asked for at once and waited for a moment, unless ``is_patient`` is false: then it
    is asked for when it is first wanted.
    """
    pending = next((ref for ref in refs if not ref.is_sealed()), None)
    session = sessions.current_or_none()
    if pending is None or session is None:
        return lambda timeout_s: b""
    question = _Question(session, pending.hex())
    if is_patient:
        question.take(SOON_S)
    return question.take


class _Question:
    """A reason that is asked for, or will be."""

    def __init__(self, session: sessions.Session, about: str) -> None:
        self._session = session
        self._about = about
        self._coming: Coming | None = None

    def take(self, timeout_s: float) -> bytes:
        """The reason if it comes in time; b"" else. 0 does not even ask."""
        try:
            if self._coming is None:
                if not timeout_s:
                    return b""
                self._coming = self._session.begin(messages.AskWhy(self._about))
            if not self._coming.wait(timeout_s):
                return b""
            return self._session.result(self._coming, messages.WhyAnswer).reason
        except errors.ShoalError:  # the session has ended, or nobody knows the ref any more
            return b""
