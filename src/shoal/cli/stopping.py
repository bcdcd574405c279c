"""``shoal stop``: ends the started sessions of this user, and waits until nothing is left of them.

It takes no options, so ``cli.main`` begins it without the parser of the other commands: nothing is
imported here that a look at a session does not need.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from shoal import errors
from shoal._base import clock, environment
from shoal._runtime import registry, session_dir
from shoal._runtime.observer import Observer
from shoal._runtime.registry import Entry

STOP_S = 5.0
"""How long `shoal stop` waits before it uses SIGKILL."""


def run() -> int:
    """``stop`` as a command of its own, with what may be wrong in one line."""
    try:
        return stop()
    except (errors.ShoalError, session_dir.SessionDirectoryError) as error:
        print(f"shoal: {error}", file=sys.stderr)
        return 1


def stop() -> int:
    """End your started session and everything in it."""
    entries = registry.started_sessions(session_dir.check_root(environment.read().root))
    if not entries:
        print("No session that `shoal start` started is running.")
        return 0
    for entry in entries:
        _stop(entry)
    return 0


def _stop(entry: Entry) -> None:
    try:
        pidfd = os.pidfd_open(entry.pid)
    except ProcessLookupError:
        return
    try:
        try:
            with Observer(entry.socket_path) as observer:
                workers = len(observer.table("workers"))
                actors = sum(row.get("state") != "DEAD" for row in observer.table("actors"))
                observer.stop()
            what = f"{_count(workers, 'worker')} and {_count(actors, 'actor')}"
        except (OSError, errors.ShoalError):
            what = "it did not answer"
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        if not _wait_gone(entry):
            what += "; it had to be killed"
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            _wait_gone(entry)
    finally:
        os.close(pidfd)
    print(f"Session {entry.session} has ended ({what}).")


def _count(number: int, noun: str) -> str:
    """``report.count``, without what that module imports."""
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"


def _wait_gone(entry: Entry) -> bool:
    deadline = clock.now() + STOP_S
    while clock.now() < deadline:
        alive = session_dir.is_alive(entry.pid, entry.start_time)
        if not alive and not os.path.exists(entry.directory):
            return True
        time.sleep(0.01)
    return False
