"""How a node daemon begins: exec'd before it is known what it is to be.

Whoever begins it makes the session directory and the listening socket itself and hands the socket
to the daemon as descriptor 3, so there is no moment at which a client has to poll for a socket that
is not there yet: a connection made before the daemon runs waits in the kernel's queue, and one
whose daemon died sees the end of the stream. The settings follow through a pipe, descriptor 4, so
that the daemon imports while its client still does.

::

    init() or shoal start                        ``main`` of shoal._runtime.node
      mkdir session-<id>
      listen on node.sock  ----- descriptor 3 ---> import, fork the zygote, import the rest
      import the rest
      settings ----------------- descriptor 4 ---> make node memory
      connect, send Hello                          answer
      receive Welcome | Failure | end of stream -> ``launch.startup_failure``: what its log says

Light: nothing is imported that an interpreter has not loaded already (``signal`` makes enums, which
takes 2 ms: ``_signal`` knows the numbers too). ``-P`` keeps the user's
working directory from the daemon's ``sys.path``: a ``select.py`` there must not become ours.
``posix_spawn`` takes 1 ms from a driver of any size.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import fcntl
import os
import sys

from shoal._base import environment, ids
from shoal._runtime import session_dir, starting

LISTENER_FD = 3
SETTINGS_FD = 4


class Begun:
    """A daemon that has been exec'd and waits for its settings."""

    def __init__(self, pid: int, session: str, directory: str, settings_fd: int) -> None:
        self.pid = pid
        """A child of this process, who reaps it when the session has ended."""
        self.session = session
        self.directory = directory
        self.name = self.kept = ""
        """Of a started session that has a name; where its journal stays."""
        self._settings_fd = settings_fd

    def settle(self, settings: bytes) -> None:
        """Send the settings; empty ones end the daemon."""
        try:
            if settings:
                os.write(self._settings_fd, settings + b"\n")
        except BrokenPipeError:
            pass  # it has ended: the socket tells, and its log says why
        finally:
            os.close(self._settings_fd)


def begin(root: str, variables: dict[str, str] | None = None) -> Begun:
    """Make a session under ``root`` and exec its node daemon, with the present environment or the
    one given.

    Raises:
        SessionDirectoryError: ``root`` cannot be used.
        OSError: no more processes or descriptors.
    """
    session = ids.new_session_id()
    directory = session_dir.create(root, session)
    opened: list[int] = []
    begun: Begun | None = None
    try:
        opened.append(session_dir.listen(directory, session_dir.SOCKET_NAME))
        opened.extend(os.pipe2(os.O_CLOEXEC))
        # Above 4: a dup2 onto itself would leave close-on-exec set, and one of the two may have
        # the number that the other is to get.
        opened.extend(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 5) for fd in opened[:2])
        _, _, tells, listener, told = opened
        pid = _spawn(directory, _environment(session, variables), listener, told)
        opened.remove(tells)
        begun = Begun(pid, session, directory, tells)
    finally:
        for fd in opened:
            os.close(fd)
        if begun is None:
            session_dir.remove(directory)
    return begun


def abandon(begun: Begun) -> None:
    """End a daemon that is not wanted after all; its zygote, if there is one, sees that it ended.

    The directory goes here: the daemon may not have come far enough to know it.
    """
    begun.settle(b"")
    os.kill(begun.pid, _signal.SIGKILL)
    os.waitpid(begun.pid, 0)
    session_dir.remove(begun.directory)


def _environment(session: str, variables: dict[str, str] | None) -> dict[str, str]:
    found = environment.inherited_variables() if variables is None else dict(variables)
    found[environment.SESSION_VARIABLE] = session
    if python_path := found.get("PYTHONPATH"):
        parts = [os.path.abspath(part) for part in python_path.split(os.pathsep) if part]
        found["PYTHONPATH"] = os.pathsep.join(parts)
    return found


def _spawn(directory: str, variables: dict[str, str], listener: int, settings: int) -> int:
    """Descriptors 0 to 4 of the daemon; everything else of the caller is close-on-exec or, if user
    code made it inheritable, closed by the daemon first thing."""
    log = os.path.join(directory, "logs", "node.log")
    actions = [
        (os.POSIX_SPAWN_DUP2, listener, LISTENER_FD),
        (os.POSIX_SPAWN_DUP2, settings, SETTINGS_FD),
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    return os.posix_spawn(
        sys.executable,
        [*starting.program("shoal._runtime.node"), directory],
        variables,
        file_actions=actions,
        setsid=True,
    )
