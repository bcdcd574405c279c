"""Exec'ing a zygote: kept apart and light, because it is the first thing a node daemon does.

The zygote needs longer to import what workers need than the daemon needs to get ready; so it starts
before the daemon imports anything, and both use a core each. That is why this file takes
``_socket`` and not ``socket``, which brings ``enum``, ``re`` and ``selectors``.
"""

from __future__ import annotations

import _socket
import os
import sys


def program(module: str) -> list[str]:
    """Return the arguments of an interpreter that runs ``main`` of ``module`` with what follows.

    ``-P`` keeps the user's working directory from ``sys.path``. ``-m`` would import ``runpy`` and
    what that needs first, and run the module under a second name.
    """
    text = f"import sys; from {module} import main; sys.exit(main(sys.argv[1:]))"
    return [sys.executable, "-P", "-c", text]


def spawn_zygote(session: str, directory: str) -> tuple[int, int]:
    """Exec a zygote of our own interpreter; return its pid and our end of the channel to it."""
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    os.set_inheritable(theirs.fileno(), True)
    arguments = [str(theirs.fileno()), str(os.getpid()), session, directory]
    try:
        pid = os.posix_spawn(
            sys.executable,
            [*program("shoal._runtime.zygote"), *arguments],
            os.environ,
            setsid=True,
        )
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
    return pid, ours.detach()
