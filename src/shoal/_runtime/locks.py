"""``shoal.lock``: mutual exclusion between tasks, actors and drivers.

The daemon keeps the line: first come, first served, and given back when the holder's process ends.
A lock object is only a name and, while held, a token; it travels like any value (without being held
there).
"""

from __future__ import annotations

import os
import threading
import types
from typing import Any

from shoal import errors
from shoal._proto import messages
from shoal._runtime import session as sessions


class Lock:
    """A lock by name; use it with ``with``."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._held = threading.local()

    def acquire(self, timeout: float | None = None) -> bool:
        """Take the lock; False if it is still another's after ``timeout`` seconds.

        Raises:
            RuntimeError: this thread holds it already through this object.
        """
        if timeout is not None and (isinstance(timeout, bool) or timeout < 0):
            raise errors.OptionError(f"timeout must be None or seconds >= 0, not {timeout!r}")
        if getattr(self._held, "token", None) is not None:
            raise RuntimeError(f"lock {self.name!r} is held by this thread already")
        session = sessions.current()
        token = os.urandom(8).hex()
        body = messages.AcquireLock(self.name, token, timeout)
        memory = session.memory
        lends = memory.running != 0
        if lends:
            memory.set_blocked(True)
        try:
            # After Ctrl-C a request that nobody waits for must not hold the lock.
            undo = messages.ReleaseLock(self.name, token)
            held = session.request(body, messages.LockAnswer, undo).held
        finally:
            if lends:
                memory.set_blocked(False)
        if held:
            self._held.token = token
        return held

    def release(self) -> None:
        """Give the lock to the next in line.

        Raises:
            RuntimeError: this thread does not hold it.
        """
        token = getattr(self._held, "token", None)
        if token is None:
            raise RuntimeError(f"lock {self.name!r} is not held by this thread")
        self._held.token = None
        sessions.current().request(messages.ReleaseLock(self.name, token), messages.Done)

    def locked(self) -> bool:
        """Whether anybody holds it now."""
        answer = sessions.current().request(messages.IsLocked(self.name), messages.LockAnswer)
        return answer.held

    def __enter__(self) -> Lock:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        self.release()

    def __reduce__(self) -> Any:
        return Lock, (self.name,)

    def __repr__(self) -> str:
        return f"<lock {self.name}>"


def lock(name: str | None = None) -> Lock:
    """Return a lock that all processes of the session share by its name; a new one without a name.

    First come, first served; released when its holder's process dies.

    Example:
        >>> with shoal.lock("table"):
        ...     pass
    """
    if name is not None and (not isinstance(name, str) or not name):
        raise errors.OptionError(f"a lock's name must be a text that is not empty, not {name!r}")
    return Lock(name or f"anonymous-{os.urandom(8).hex()}")
