"""Starting a node daemon: used by ``init()`` in the driver and by ``shoal start``.

The launcher makes the session directory and the listening socket itself and hands the socket to the
daemon as descriptor 3, so there is no moment at which a client has to poll for a socket that is
not there yet: a connection made before the daemon runs waits in the kernel's queue, and one whose
daemon died sees the end of the stream.

::

    launcher                                     ``main`` of shoal._runtime.node
      mkdir session-<id>, write settings.json
      listen on node.sock  ----- descriptor 3 ---> exec the zygote, then import the rest
      close its own copy
      connect, send Hello                          make node memory, answer
      receive Welcome | Failure | end of stream -> ``startup_failure``: what its log says

``-P`` keeps the user's working directory from the daemon's ``sys.path``: a ``select.py`` there
must not become ours. ``sh`` and ``subprocess`` are not used: ``posix_spawn`` takes 1 ms from a
driver of any size.
"""

from __future__ import annotations

import contextlib
import os
import sys

import msgspec

from shoal._base import ids
from shoal._runtime import session_dir, starting, wire

LISTENER_FD = 3
_LOG_TAIL_BYTES = 4 << 10


class NodeSettings(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a node daemon is told at its start (``settings.json``)."""

    session: str
    directory: str
    started: bool = False
    """By ``shoal start``: lives until ``shoal stop``; else it ends with ``owner_pid``."""
    owner_pid: int = 0
    owner_start_time: int = 0
    num_cpus: float | None = None
    """None: what this process may use."""
    num_gpus: float | None = None
    resources: dict[str, float] = {}
    labels: dict[str, str] = {}
    object_store_memory: int | None = None
    """Bytes; None: 30 % of the memory that this process may use."""


class Launched(msgspec.Struct, frozen=True):
    """A daemon that has been exec'd; whether it lives is seen by connecting to it."""

    pid: int
    """A child of the caller, who reaps it (``os.waitpid``) when the session has ended."""
    settings: NodeSettings

    @property
    def socket_path(self) -> str:
        """Where it listens."""
        return os.path.join(self.settings.directory, session_dir.SOCKET_NAME)


def launch(
    root: str,
    environment: dict[str, str],
    *,
    started: bool,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    resources: dict[str, float] | None = None,
    object_store_memory: int | None = None,
) -> Launched:
    """Make a session under ``root`` and exec its node daemon with ``environment``.

    Raises:
        SessionDirectoryError: ``root`` cannot be used.
        OSError: no more processes or descriptors.
    """
    session = ids.new_session_id()
    directory = session_dir.create(root, session)
    settings = NodeSettings(
        session=session,
        directory=directory,
        started=started,
        owner_pid=0 if started else os.getpid(),
        owner_start_time=0 if started else session_dir.process_start_time(os.getpid()) or 0,
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        resources=dict(resources or {}),
        object_store_memory=object_store_memory,
    )
    with contextlib.ExitStack() as undo:
        undo.callback(session_dir.remove, directory)
        with open(os.path.join(directory, session_dir.SETTINGS_NAME), "wb") as file:
            file.write(msgspec.json.encode(settings))
        launched = Launched(_spawn(settings, environment), settings)
        undo.pop_all()
    return launched


def _spawn(settings: NodeSettings, environment: dict[str, str]) -> int:
    directory = settings.directory
    environment = {**environment, "SHOAL_SESSION": settings.session}
    if python_path := environment.get("PYTHONPATH"):
        parts = [os.path.abspath(part) for part in python_path.split(os.pathsep) if part]
        environment["PYTHONPATH"] = os.pathsep.join(parts)
    listener = wire.listen(directory, session_dir.SOCKET_NAME)
    try:
        # Descriptors 0 to 3 of the daemon; everything else of the caller is close-on-exec or, if
        # user code made it inheritable, closed by the daemon first thing.
        log = os.path.join(directory, "logs", "node.log")
        actions = [
            (os.POSIX_SPAWN_DUP2, listener.fileno(), LISTENER_FD),
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        if listener.fileno() == LISTENER_FD:
            # dup2 onto itself would leave close-on-exec set; go over another number.
            actions[0:1] = [
                (os.POSIX_SPAWN_DUP2, LISTENER_FD, LISTENER_FD + 1),
                (os.POSIX_SPAWN_DUP2, LISTENER_FD + 1, LISTENER_FD),
            ]
        return os.posix_spawn(
            sys.executable,
            [*starting.program("shoal._runtime.node"), directory],
            environment,
            file_actions=actions,
            setsid=True,
        )
    finally:
        listener.close()


def startup_failure(settings: NodeSettings) -> str:
    """Return what the daemon wrote before it ended, for the error of a session that did not
    start."""
    try:
        with open(os.path.join(settings.directory, "logs", "node.log"), "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _LOG_TAIL_BYTES))
            return file.read().decode(errors="replace").strip()
    except OSError:
        return ""
