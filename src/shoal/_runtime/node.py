"""The node daemon's program, exec'd by ``launch`` with the session's directory.

The one process of a node that decides. This file is only its beginning, in the order that makes a
session start fast: give away inherited descriptors, exec the zygote, and only then import the rest.

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

from shoal._runtime import starting
from shoal._runtime.zygote_spawn import spawn_zygote

LISTENER_FD = 3
_PREFIX = "session-"


def main(arguments: list[str]) -> int:
    """Run the daemon of the session in directory ``arguments[0]`` until the session ends."""
    (directory,) = arguments
    os.closerange(LISTENER_FD + 1, 1 << 20)
    os.set_inheritable(LISTENER_FD, False)
    session = os.path.basename(directory).removeprefix(_PREFIX)
    zygote = spawn_zygote(session, directory)
    starting.import_msgspec()
    from shoal._runtime import daemon_shell

    gc.freeze()
    gc.enable()
    code = daemon_shell.run(directory, LISTENER_FD, zygote)
    # Nothing is left to be tidied up, and the program that waits for our end has waited enough.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
