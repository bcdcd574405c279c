"""How a zygote begins: the first is forked from a daemon that has nothing yet, later ones exec'd.

A daemon and its zygote need half of their modules in common. The node's program imports those and
forks before it has opened anything: one interpreter start and one import of msgspec, 50 of the
200 ms of CPU that a whole session costs, are paid once. At that moment the process has one
thread, its own log and the listening socket; the child closes the socket, so it is as clean as
if it had been exec'd. Once there is node memory and there are clients, that is over: a zygote that
was killed is replaced by an interpreter of its own.
"""

from __future__ import annotations

import os
import socket
import sys

from shoal._base import environment
from shoal._runtime import starting


def _channel() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def fork_zygote() -> tuple[int, int]:
    """Fork; return (pid of the zygote, our end of the channel), and in the zygote (0, its end)."""
    ours, theirs = _channel()
    pid = os.fork()
    kept, other = (ours, theirs) if pid else (theirs, ours)
    other.close()
    return pid, kept.detach()


def spawn_zygote(session: str, directory: str) -> tuple[int, int]:
    """Exec a zygote of our own interpreter; return its pid and our end of the channel to it."""
    ours, theirs = _channel()
    theirs.set_inheritable(True)
    arguments = [str(theirs.fileno()), str(os.getpid()), session, directory]
    try:
        pid = os.posix_spawn(
            sys.executable,
            [*starting.program("shoal._runtime.zygote", "begin_with_msgspec"), *arguments],
            environment.inherited_variables(),
            setsid=True,
        )
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
    return pid, ours.detach()
