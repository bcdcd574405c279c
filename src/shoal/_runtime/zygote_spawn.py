"""Exec'ing a zygote: kept apart and light, because it is the first thing a node daemon does.

The zygote needs longer to import what workers need than the daemon needs to get ready; so it starts
before the daemon imports anything, and both use a core each. That is why this file takes
``_socket`` and not ``socket``, which brings ``enum``, ``re`` and ``selectors``.
"""

from __future__ import annotations

import _socket
import os
import sys

from shoal._runtime import starting


def spawn_zygote(session: str, directory: str) -> tuple[int, int]:
    """Exec a zygote of our own interpreter; return its pid and our end of the channel to it."""
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    os.set_inheritable(theirs.fileno(), True)
    arguments = [str(theirs.fileno()), str(os.getpid()), session, directory]
    try:
        pid = os.posix_spawn(
            sys.executable,
            [*starting.program("shoal._runtime.zygote", "begin_with_msgspec"), *arguments],
            os.environ,
            setsid=True,
        )
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
    return pid, ours.detach()
