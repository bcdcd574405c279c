"""The daemon's link to the control store: starts it, restarts it, carries writes and answers.

Used in a session that ``shoal start`` started; in one that ``init()`` started the machine holds the
tables itself and none of this exists. The machine asks again for every write that was not
answered when ``StoreConnected`` says that a (new) store serves, so this link keeps nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from shoal._base import clock, environment
from shoal._core import commands, events
from shoal._core.events import AnyEvent
from shoal._runtime import session_dir, wire
from shoal._runtime.control import LISTENER_FD, StoreFrame, store_messages
from shoal._runtime.daemon_connections import Connection
from shoal._runtime.daemon_loop import Loop

RESTART_PAUSE_S = 0.5
"""Before a store that ended within this time of its start is started again."""


class StoreLink:
    """One store process at a time and the connection to it."""

    def __init__(self, loop: Loop, directory: str, post: Callable[[AnyEvent], None]) -> None:
        self.pid = 0
        self._loop = loop
        self._path = os.path.join(directory, session_dir.STORE_SOCKET_NAME)
        self._listening = session_dir.listen(directory, session_dir.STORE_SOCKET_NAME)
        self._post = post
        self._connection: Connection | None = None
        self._start()

    def write(self, command: commands.WriteStore) -> None:
        """Send a write; one that meets no store is asked for again by the machine."""
        if self._connection is not None:
            self._connection.send(command.ticket, command.write)

    def ended(self) -> None:
        """The store's pid has been reaped: start another."""
        print("the control store has ended: starting another", file=sys.stderr, flush=True)
        if self._connection is not None:
            self._connection.close()
        if clock.now() < self._started_at + RESTART_PAUSE_S:
            self._loop.call_later(RESTART_PAUSE_S, self._start)
        else:
            self._start()

    def _start(self) -> None:
        self._started_at = clock.now()
        self.pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-P", "-m", "shoal._runtime.control"],
            environment.inherited_variables(),
            file_actions=[(os.POSIX_SPAWN_DUP2, self._listening, LISTENER_FD)],
            setsid=True,
        )
        connected = wire.connect(self._path)
        self._connection = Connection(
            self._loop, connected, self.pid, self._framed, self._closed, store_messages()
        )
        # Later, since nothing is ready for events while the daemon is being put together.
        self._loop.call_later(0.0, lambda: self._post(events.StoreConnected()))

    def _framed(self, connection: Connection, frame: StoreFrame) -> None:
        self._post(events.StoreWritten(frame.id, frame.body))

    def _closed(self, connection: Connection) -> None:
        if connection is self._connection:
            self._connection = None
