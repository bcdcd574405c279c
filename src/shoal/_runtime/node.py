"""The node daemon's program, exec'd by ``launch`` with the session's directory.

The one process of a node that decides. This file is only its beginning, in the order that makes a
session start fast: close inherited descriptors, import what daemon and zygote both need, fork the
zygote, and only then import the rest, each for itself.

=====================  ===========================================================================
``daemon_shell``       the shell around the pure ``NodeMachine``: events in, commands out
``daemon_loop``        epoll, timers, idle work
``daemon_door``        who is let in, and how requests reach the machine
``daemon_connections`` the unix socket: frames and descriptors
``daemon_processes``   drivers and workers from before they exist until nothing of them is left
``daemon_zygote``      asking the zygote for workers, and starting another zygote
``daemon_memory``      queues, tasks and objects in node memory; warm pages
``daemon_store``       the link to the control store's process, in a started session
``worker_logs``        what workers print
=====================  ===========================================================================
"""

from __future__ import annotations

import gc
import os
import sys
from typing import NoReturn

from shoal._runtime import session_dir, starting
from shoal._runtime.node_spawn import LISTENER_FD, SETTINGS_FD

_PREFIX = "session-"


def main(arguments: list[str]) -> NoReturn:
    """Run the daemon of the session in directory ``arguments[0]`` until the session ends."""
    (directory,) = arguments
    os.closerange(SETTINGS_FD + 1, 1 << 20)
    os.set_inheritable(LISTENER_FD, False)
    os.set_inheritable(SETTINGS_FD, False)
    starting.import_msgspec()
    # Nothing of these starts a thread or opens a descriptor; no pickle among them.
    from shoal import _native  # noqa: F401
    from shoal._proto import forking, frames  # noqa: F401
    from shoal._runtime import daemon_loop, descendants, registry, wire, zygote_spawn  # noqa: F401

    daemon = os.getpid()
    pid, channel = zygote_spawn.fork_zygote()
    if pid == 0:
        _become_zygote(daemon, channel, directory)
    from shoal._runtime import daemon_shell

    if not _receive_settings(directory):
        os._exit(0)  # whoever began this session does not want it
    gc.freeze()
    gc.enable()
    code = daemon_shell.run(directory, LISTENER_FD, (pid, channel))
    # Nothing is left to be tidied up, and the program that waits for our end has waited enough.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _receive_settings(directory: str) -> bytes:
    """Read the settings, one line, and keep them in the session's directory; empty: there are none.

    The end of the line counts, not of the pipe: another thread of the program that began us may
    have forked meanwhile, and its child keeps the pipe open.
    """
    settings = b""
    while not settings.endswith(b"\n") and (part := os.read(SETTINGS_FD, 1 << 16)):
        settings += part
    os.close(SETTINGS_FD)
    if settings:
        with open(os.path.join(directory, session_dir.SETTINGS_NAME), "wb") as file:
            file.write(settings)
    return settings


def _become_zygote(daemon: int, channel: int, directory: str) -> NoReturn:
    os.close(LISTENER_FD)
    os.close(SETTINGS_FD)
    os.setsid()
    from shoal._runtime import zygote

    session = os.path.basename(directory).removeprefix(_PREFIX)
    zygote.main([str(channel), str(daemon), session, directory])
