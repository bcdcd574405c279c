"""The session of this process: its one process-wide variable, and what belongs to it.

::

    none --init()--> open --shutdown()--> ended
                       `---daemon dies--> lost --init()--> open (another one)

A ``Session`` ties together node memory, the connection to the daemon and the facts of the job, and
owns the caches whose entries are only valid in it: queues by scheduling class, exported functions,
templates that are ready to submit. ``current()`` gives the open session and starts one if there has
been none, or the last one was ended by ``shutdown`` (a *lost* session is not replaced silently: its
values are gone).

Invariants:

1. At most one session is open in a process.
2. After ``end`` nothing of the session does anything: native waits raise, and every ready template
   is taken back from its remote function (``on_end``).
3. Native errors become public ones in ``translate`` only.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar

from shoal import _native, errors
from shoal._proto import messages
from shoal._proto.environments import Environment
from shoal._runtime.client import Coming, Connection

T = TypeVar("T")
HOLDERS_MOST = 10
"""Rows about a full store."""

NATIVE_ERRORS = (
    _native.SessionLostError,
    _native.ForkedError,
    _native.FullError,
    _native.PendingError,
)
"""What ``translate`` knows."""


_ANYWHERE = messages.Default()


class Resettable(Protocol):
    """Something that keeps what is only valid in one session."""

    def reset(self) -> None:
        """Forget it."""


class Session:
    """One connection of this process to one node."""

    def __init__(
        self, memory: _native.Memory, connection: Connection, welcome: messages.Welcome, role: str
    ) -> None:
        self.memory = memory
        self.connection = connection
        self.role = role
        self.id = welcome.session
        self.directory = welcome.directory
        self.node_id = welcome.node_id
        self.index = welcome.index
        self.job = memory.job = welcome.job
        self.namespace = welcome.namespace
        self.total = welcome.total
        self.environment: Environment | None = None
        """The runtime environment of this process: what its calls inherit."""
        self.job_environment: Environment | None = None
        self.is_owner = welcome.owner
        self.state = "open"
        self.reason = ""
        self.is_leaving = False
        """``shutdown`` has begun: the end of the connection is no loss."""
        self.daemon = welcome.daemon_pid
        """Its pid."""
        self.daemon_pid = 0
        """The same, if it is a child of this process."""
        self.flush_logs: Callable[[], None] = lambda: None
        self.lock = threading.RLock()
        self.functions: dict[int, Any] = {}
        """Callables by key."""
        self.heavy: set[int] = set()
        """Functions that have to be admitted before they run (``heavy_functions``)."""
        self._queues: dict[tuple[Any, ...], messages.QueueOpened] = {}
        self._prepared: weakref.WeakSet[Resettable] = weakref.WeakSet()

    def request(self, body: messages.Body, expect: type[T], undo: messages.Body | None = None) -> T:
        """Ask the daemon; see ``Connection.request``."""
        try:
            return self.connection.request(body, expect, undo)
        except errors.SessionLostError:
            raise self.gone() from None

    def begin(self, body: messages.Body) -> Coming:
        """Ask the daemon and do not wait; see ``Connection.begin``."""
        try:
            return self.connection.begin(body)
        except errors.SessionLostError:
            raise self.gone() from None

    def result(self, coming: Coming, expect: type[T]) -> T:
        """The answer that has come."""
        try:
            return coming.result(expect)
        except errors.SessionLostError:
            raise self.gone() from None

    def tell(self, body: messages.Body) -> None:
        """Tell the daemon something that has no answer."""
        try:
            self.connection.tell(body)
        except errors.SessionLostError:
            raise self.gone() from None

    def queue(
        self,
        resources: dict[str, float],
        strategy: messages.Strategy = _ANYWHERE,
        environment: Environment | None = None,
    ) -> messages.QueueOpened:
        """The queue of a scheduling class, opened at its first use; the environment is the job's
        own if there is none given."""
        env = None if environment is None else environment.key
        key = (strategy, env, *sorted(resources.items()))
        found = self._queues.get(key)
        if found is None or self.memory.is_queue_dead(found.queue, found.generation):
            body = messages.OpenQueue(resources, strategy, environment)
            found = self.request(body, messages.QueueOpened)
            self._queues[key] = found
        return found

    def on_end(self, thing: Resettable) -> None:
        """Have ``thing.reset()`` called when this session ends, if ``thing`` still lives."""
        self._prepared.add(thing)

    def end(self, state: str, reason: str = "") -> None:
        """Leave the open state: ``ended`` (on purpose) or ``lost``."""
        global _current
        with self.lock:
            if self.state != "open":
                return
            self.state = state
            self.reason = reason
            if _current is self and state == "ended":
                _current = None
            _former.append((self.memory, self.id, state, reason))
            del _former[:-16]
            for thing in list(self._prepared):
                thing.reset()
            self._queues.clear()
            self.memory.close()

    def gone(self) -> errors.ShoalError:
        """The error for a use of this session after its end."""
        state = self.state
        if state == "open":
            # Who waits for an answer hears of the end before the session does.
            state = "ended" if self.is_leaving else "lost"
        return _gone(self.id, state, self.reason)


_current: Session | None = None
_former: list[tuple[_native.Memory, str, str, str]] = []
"""Memory, id, state and reason of the last sessions, to name them in errors."""


def current() -> Session:
    """The open session; one is started if there is none."""
    session = _current
    if session is not None:
        if session.state == "open":
            return session
        raise session.gone()
    from shoal._runtime import init

    init.init()
    assert _current is not None
    return _current


def owner(session: str) -> Session:
    """The open session if it is ``session``; none is started.

    Raises:
        SessionEndedError: the one that is open is another.
        SessionLostError: its daemon died.
    """
    if _current is None or _current.id != session:
        raise errors.SessionEndedError(session=session, now=_current.id if _current else "")
    return current()


def current_or_none() -> Session | None:
    """The open session, if there is one."""
    session = _current
    return session if session is not None and session.state == "open" else None


def install(session: Session) -> None:
    """Make ``session`` the one of this process."""
    global _current
    _current = session


def forget() -> Session | None:
    """Let go of a lost session, so that another may be started; that session."""
    global _current
    lost, _current = _current, None
    return lost


def is_forked() -> bool:
    """Whether this process was forked, by user code, from one that has a session."""
    return _current is not None and _current.state == "forked"


def _in_child() -> None:
    """The session stays the parent's; its stream and its daemon must not be touched from here."""
    if _current is not None and _current.state == "open":
        _current.state = "forked"


os.register_at_fork(after_in_child=_in_child)


def _gone(session: str, state: str, reason: str) -> errors.ShoalError:
    if state == "forked":
        return errors.ForkedProcessError()
    if state == "lost":
        return errors.SessionLostError(session=session, reason=reason)
    now = current_or_none()
    return errors.SessionEndedError(session=session, now=now.id if now else "")


def translate(error: BaseException, memory: _native.Memory | None = None) -> BaseException:
    """The public error for what native code raised."""
    if isinstance(error, _native.SessionLostError):
        for known, session, state, reason in _former:
            if memory is None or known is memory:
                return _gone(session, state, reason)
        return errors.SessionLostError()
    if isinstance(error, _native.ForkedError):
        return errors.ForkedProcessError()
    if isinstance(error, _native.FullError):
        if error.args[2:] == ("hold",):
            return errors.ObjectLostError(reason="it was freed while it was being passed on")
        return store_full(error, memory)
    if isinstance(error, _native.PendingError):
        return errors.PendingTasksLimitError()
    return error


def check_home(memory: _native.Memory, refs: Iterable[_native.ObjectRef]) -> None:
    """Raise ``SessionEndedError`` if a ref belongs to another session than ``memory``."""
    for ref in refs:
        if ref.memory is not memory:
            error = translate(_native.SessionLostError(), ref.memory)
            raise error


def store_full(
    error: _native.FullError, memory: _native.Memory | None = None
) -> errors.ObjectStoreFullError:
    """The public error for a value that finds no room in ``memory``, whose daemon is asked who has
    it all (None: nobody is asked)."""
    asked, capacity = error.args[:2] if len(error.args) > 1 else (0, 0)
    full = errors.ObjectStoreFullError(asked_bytes=asked, capacity_bytes=capacity)
    session = current_or_none()
    if session is None or session.memory is not memory or asked > capacity:
        return full
    try:
        rows = session.request(messages.GetTable("holders", HOLDERS_MOST), messages.Table).rows
    except errors.ShoalError:
        return full  # it has just ended
    texts = [str(row["text"]) for row in rows if row["kind"] == "holder"]
    reason = "".join(str(row["text"]) for row in rows if row["kind"] == "problem")
    return errors.ObjectStoreFullError(
        asked_bytes=asked, capacity_bytes=capacity, holders=texts, reason=reason
    )


def say_full(
    write: Callable[[_native.Task, errors.ShoalError], None],
    task: _native.Task,
    error: _native.FullError,
    memory: _native.Memory,
) -> None:
    """End ``task`` by ``write``: with who holds what, which mostly finds room; else without."""
    try:
        write(task, store_full(error, memory))
    except _native.FullError:
        write(task, store_full(error))
