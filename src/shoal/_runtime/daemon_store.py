"""The daemon's link to the control store: starts it, restarts it, carries writes and answers.

Used in a session that ``shoal start`` started; in one that ``init()`` started the machine holds the
tables itself and none of this exists. The machine asks again for every write that was not
answered when ``StoreConnected`` says that a (new) store takes connections, so this link keeps
nothing. What the store has to say to people (``StoreNotice``) is kept for ``GetTable("session")``.

The port of a cluster stays open from one store to the next, so dials wait for that a moment. While
none can be started, the port is closed to them (``door.refuse``): a refused dial says that no store
runs, and extends the lease of who dialled (RULES K-1). So:

1. The port is closed only between the end of a store that has been reaped and the start of another.
2. Only a store that is about to serve opens it again (``ClusterStore``).
"""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Callable
from typing import NamedTuple

from shoal._base import clock, environment
from shoal._core import commands, events
from shoal._core.events import AnyEvent
from shoal._core.mirror import Mirror
from shoal._core.store import Joined, StoreNotice
from shoal._runtime import session_dir, wire
from shoal._runtime.daemon_connections import Connection
from shoal._runtime.daemon_loop import Loop
from shoal._runtime.store_wire import (
    DAEMON_FD,
    LISTENER_FD,
    NOTICES_MOST,
    PORT_FD,
    OfCluster,
    StoreFrame,
    store_messages,
)

SHORT_LIFE_S = 0.5
PAUSE_S = 0.05
PAUSE_MOST_S = 1.0
"""Before a store is started again that never served, or several in a row that lived so short."""
AGAIN_S = 0.2
"""Until a connection that broke while its store lives is made again."""
REFUSES_LEASES = 0.2
"""So many leases dials wait for the next store; then they are refused."""
END_S = 1.0
"""For the last copy of the journal, when the session is stopped."""


class ClusterPort(NamedTuple):
    """What the store of a cluster is given: it stays here for the next life of the store."""

    told: OfCluster
    port: int
    """Descriptor of the listening socket that others know."""
    daemon: int
    """Descriptor through which it hands us connections that are ours."""
    refuse: Callable[[], None]
    """Closes the port to dials until a store listens again (``door.refuse``)."""


class StoreLink:
    """One store process at a time and the connection to it."""

    def __init__(
        self,
        loop: Loop,
        directory: str,
        kept: str,
        post: Callable[[AnyEvent], None],
        tell: Callable[[str], None],
        cluster: ClusterPort | None = None,
    ) -> None:
        """The socket is in ``directory``, the journal in ``kept``; ``tell`` reaches people;
        ``cluster`` is what the store of a cluster needs beside that."""
        self._cluster = cluster
        self.pid = 0
        self.notices: list[str] = []
        self._loop = loop
        self._path = os.path.join(directory, session_dir.STORE_SOCKET_NAME)
        self._kept = kept
        self._listening = session_dir.listen(directory, session_dir.STORE_SOCKET_NAME)
        self._post = post
        self._tell_people = tell
        self._connection: Connection | None = None
        self._away_since: float | None = clock.now()
        self._epoch = 0
        self._short_lives = 0
        self._start()

    def write(self, command: commands.WriteStore) -> None:
        """Send a write; one that meets no store is asked for again by the machine."""
        if self._connection is not None:
            self._connection.send(command.ticket, command.write)

    def row(self, mirror: Mirror) -> dict[str, object]:
        """What there is to know about it; ``mirror`` is the machine's."""
        away = self._away_since
        return {
            "pid": self.pid,
            "epoch": self._epoch,
            "away_s": 0.0 if away is None else clock.now() - away,
            "journal": self._kept,
            "waiting": mirror.unanswered,
            "notices": [*self.notices, *mirror.notices],
        }

    def ended(self, status: int) -> None:
        """The store's pid has been reaped: start another."""
        if os.WIFSIGNALED(status):
            how = f"signal {os.WTERMSIG(status)}"
        else:
            how = f"exit code {os.WEXITSTATUS(status)}"
        self._tell(f"the control store has ended ({how}): another one is started")
        self.pid = 0
        if self._connection is not None:
            self._connection.close()
        self._away_since = self._away_since or clock.now()
        self._refuse_dials()
        is_short = clock.now() < self._started_at + SHORT_LIFE_S
        self._short_lives = self._short_lives + 1 if is_short else 0
        if self._short_lives > 1:
            pause_s = min(PAUSE_S * 2.0**self._short_lives, PAUSE_MOST_S)
            self._loop.call_later(pause_s, self._start)
        else:
            self._start()

    def finish(self) -> None:
        """Let it write the last copy of the journal, and wait for that."""
        if not self.pid:
            return
        try:
            pidfd = os.pidfd_open(self.pid)
        except OSError:
            return
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)
            select.select([pidfd], [], [], END_S)
        except ProcessLookupError:
            pass
        finally:
            os.close(pidfd)

    def _start(self) -> None:
        self._started_at = clock.now()
        words = [sys.executable, "-P", "-m", "shoal._runtime.control", self._kept]
        given = [(self._listening, LISTENER_FD)]
        if self._cluster is not None:
            words += self._cluster.told.words()
            given += [(self._cluster.port, PORT_FD), (self._cluster.daemon, DAEMON_FD)]
        try:
            self.pid = os.posix_spawn(
                sys.executable,
                words,
                environment.inherited_variables(),
                file_actions=[(os.POSIX_SPAWN_DUP2, fd, number) for fd, number in given],
                setsid=True,
            )
        except OSError as error:
            self._tell(f"the control store cannot be started: {error}")
            self._refuse_dials()
            self._loop.call_later(PAUSE_MOST_S, self._start)
            return
        self._connect()

    def _refuse_dials(self) -> None:
        """There is no store: who dials it is told so, if that takes long."""
        away_s = clock.now() - (self._away_since or clock.now())
        if self._cluster is None or away_s < REFUSES_LEASES * self._cluster.told.lease_s:
            return
        try:
            self._cluster.refuse()
        except OSError as error:
            self._tell(f"the port of the cluster cannot be closed to dials: {error}")

    def _connect(self) -> None:
        if not self.pid or self._connection is not None:
            return
        connected = wire.connect(self._path)
        self._connection = Connection(
            self._loop, connected, self.pid, self._framed, self._closed, store_messages()
        )
        # Later, since nothing is ready for events while the daemon is being put together.
        self._loop.call_later(0.0, lambda: self._post(events.StoreConnected()))

    def _framed(self, connection: Connection, frame: StoreFrame) -> None:
        if isinstance(frame.body, StoreNotice):
            self._hear(frame.body.text)
            return
        if isinstance(frame.body, Joined):
            self._away_since, self._epoch = None, frame.body.epoch
            for text in frame.body.notices:
                if text not in self.notices:
                    self._hear(text)
        self._post(events.StoreWritten(frame.id, frame.body))

    def _closed(self, connection: Connection) -> None:
        if connection is self._connection:
            self._connection = None
            self._away_since = self._away_since or clock.now()
            # It is stopped or broken, or its end has not been seen yet.
            self._loop.call_later(AGAIN_S, self._connect)

    def _hear(self, text: str) -> None:
        """The store says something about the journal: that is for programs too."""
        self._keep_notice(text)
        self._tell_people(f"control store: {text}")

    def _tell(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)
        self._keep_notice(text)

    def _keep_notice(self, text: str) -> None:
        if text not in self.notices:
            self.notices = [*self.notices, text][-NOTICES_MOST:]
