"""Exec'ing a zygote: kept apart and light, because it is the first thing a node daemon does.

The zygote needs longer to import what workers need than the daemon needs to get ready; so it starts
before the daemon imports anything, and both use a core each.
"""

from __future__ import annotations

import os
import socket
import sys


def spawn_zygote(session: str, directory: str) -> tuple[int, socket.socket]:
    """Exec a zygote of our own interpreter; return its pid and our end of the channel to it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        os.set_inheritable(theirs.fileno(), True)
        arguments = [str(theirs.fileno()), str(os.getpid()), session, directory]
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-P", "-m", "shoal._runtime.zygote", *arguments],
            os.environ,
            setsid=True,
        )
    finally:
        theirs.close()
    return pid, ours
