"""The control store's own process, in a session that ``shoal start`` started.

``python -P -m shoal._runtime.control DIRECTORY`` is exec'd by the node daemon with the listening
socket ``store.sock`` as descriptor 3. The daemon keeps its copy of that socket: what connects while
no store runs waits in the kernel's queue for the next one. All decisions are in
``_core.store.StoreMachine``, what is lasting is in ``DIRECTORY`` (``journal``).

A round of the loop takes in everything that has arrived; at its end what is lasting is on disk with
one sync, and only then the answers go out. If that fails, answers wait and it is tried again, with
everything that has come since, until it works.

The store serves whoever connects (its own user only), and ends when the daemon that started it has
ended. Like the daemon it never loads pickle. Its exit codes: 3, another store serves from that
directory; 4, the journal can be neither read nor written.

On the head of a cluster it is told where the keys are too and how long leases last, and has two
descriptors more: the port that others know, and the way to the daemon (``store_cluster``).
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from shoal._base import clock
from shoal._core import store
from shoal._core.store import StoreAsked, StoreLeft, StoreMachine, StoreReply
from shoal._proto.messages import GetTable, Table
from shoal._runtime import descendants
from shoal._runtime.daemon_connections import Connection, Listener
from shoal._runtime.daemon_loop import Loop
from shoal._runtime.journal import COPY_S, Journal, JournalError, JournalInUseError
from shoal._runtime.store_wire import (
    DAEMON_FD,
    LISTENER_FD,
    MEMBER_KINDS,
    NOTICES_MOST,
    PORT_FD,
    OfCluster,
    StoreFrame,
    store_messages,
)

if TYPE_CHECKING:
    from shoal._runtime.store_cluster import ClusterStore

EXIT_IN_USE = 3
EXIT_NO_JOURNAL = 4
RETRY_S = 0.1
RETRY_MOST_S = 1.0


class ControlStore:
    """The shell around the machine and its journal."""

    def __init__(
        self,
        loop: Loop,
        listening: socket.socket,
        journal: Journal,
        cluster: OfCluster | None = None,
    ) -> None:
        """Serve; on the head of a ``cluster`` that too."""
        self._loop = loop
        self._journal = journal
        self._machine = StoreMachine()
        own = {place: row for place, row in journal.rows.items() if place[0] not in MEMBER_KINDS}
        self._machine.restore(own.items())
        self._machine.epoch, self._machine.sequence = journal.epoch, journal.sequence
        self._effects: list[store.Effect] = []
        self._replies: list[StoreReply | Callable[[], None]] = []
        self._connections: dict[int, Connection] = {}
        self._numbers: dict[Connection, int] = {}
        self._number = 0
        self._is_flushing = False
        self._is_copying = False
        self._failure = ""
        self._retry_s = RETRY_S
        self._take_notices()
        self._copy_later()
        self._cluster = None if cluster is None else self._serve_cluster(cluster)
        self._listener = Listener(loop, listening, self._connected)

    def _serve_cluster(self, cluster: OfCluster) -> ClusterStore:
        from shoal._runtime.store_cluster import ClusterStore

        rows = {p: row for p, row in self._journal.rows.items() if p[0] in MEMBER_KINDS}
        return ClusterStore(
            self._loop,
            cluster,
            (socket.socket(fileno=PORT_FD), socket.socket(fileno=DAEMON_FD)),
            (self._journal.epoch, rows.items()),
            self.keep,
            self._tell,
            self._machine,
        )

    # ---- connections
    def _connected(self, connected: socket.socket, pid: int) -> None:
        connection = Connection(
            self._loop, connected, pid, self._framed, self._closed, store_messages()
        )
        self._number += 1
        self._numbers[connection] = self._number
        self._connections[self._number] = connection

    def _closed(self, connection: Connection) -> None:
        number = self._numbers.pop(connection)
        del self._connections[number]
        self._machine.step(clock.now(), StoreLeft(number))

    def _framed(self, connection: Connection, frame: StoreFrame) -> None:
        if isinstance(frame.body, GetTable):
            connection.send(frame.id, Table([self._row()]))
            return
        asked = StoreAsked(self._numbers[connection], frame.id, frame.body)
        for command in self._machine.step(clock.now(), asked):
            if isinstance(command, StoreReply):
                self._replies.append(command)
            else:
                self._effects.append(command)
        self._flush_soon()

    def keep(self, effects: Sequence[store.Effect], then: Callable[[], None]) -> None:
        """Have ``effects`` on disk, then call ``then``, in the order of these calls."""
        self._effects += effects
        self._replies.append(then)
        self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._is_flushing:
            # After everything else that is ready now: one sync for all of it.
            self._is_flushing = True
            self._loop.call_at(0.0, self._flush)

    def _row(self) -> dict[str, object]:
        return {
            "pid": os.getpid(),
            "epoch": self._machine.epoch,
            "sequence": self._machine.sequence,
            "failure": self._failure,
            "notices": list(self._machine.notices),
            "modules": sorted(sys.modules),
            "links": [] if self._cluster is None else self._cluster.rows(),
        }

    # ---- the disk
    def _flush(self) -> None:
        self._is_flushing = False
        effects, self._effects = self._effects, []
        if effects:
            try:
                self._journal.keep(effects, self._machine.sequence, self._machine.epoch)
            except JournalError as error:
                self._failed(str(error))
        if self._failure:
            return
        replies, self._replies = self._replies, []
        for reply in replies:
            if not isinstance(reply, StoreReply):
                self._loop.guard(reply)
                continue
            connection = self._connections.get(reply.caller)
            if connection is not None:
                connection.send(reply.ticket, reply.body)
        self._take_notices()
        if effects:
            self._copy_later()

    def _failed(self, text: str) -> None:
        if not self._failure:
            self._retry_s = RETRY_S
            self._tell(f"the journal cannot be written ({text}): changes wait until it can")
            self._loop.call_later(RETRY_S, self._heal)
        self._failure = text

    def _heal(self) -> None:
        try:
            self._journal.heal()
        except JournalError as error:
            self._failure = str(error)
            self._retry_s = min(2 * self._retry_s, RETRY_MOST_S)
            self._loop.call_later(self._retry_s, self._heal)
            return
        self._failure = ""
        self._tell("the journal can be written again: everything is in a new file")
        self._flush()

    def _copy_later(self) -> None:
        if not self._is_copying:
            self._is_copying = True
            self._loop.call_later(COPY_S, self._copy)

    def _copy(self) -> None:
        self._is_copying = False
        self._journal.copy()

    # ---- what is said
    def _take_notices(self) -> None:
        notices, self._journal.notices = self._journal.notices, []
        for text in notices:
            self._tell(text)

    def _tell(self, text: str) -> None:
        print(f"control store: {text}", file=sys.stderr, flush=True)
        self._machine.notices = [*self._machine.notices, text][-NOTICES_MOST:]
        for connection in list(self._connections.values()):
            connection.send(0, store.StoreNotice(text))


def main(arguments: list[str]) -> int:
    """Serve until the daemon that started us has ended."""
    directory, *words = arguments
    cluster = OfCluster.of(words)
    descendants.set_process_name("shoal-store")
    for fd in (LISTENER_FD, PORT_FD, DAEMON_FD)[: 3 if cluster else 1]:
        os.set_inheritable(fd, False)
    try:
        journal = Journal(directory)
    except JournalInUseError as error:
        print(f"control store: {error}", file=sys.stderr, flush=True)
        return EXIT_IN_USE
    except (JournalError, OSError) as error:
        print(f"control store: it cannot serve: {error}", file=sys.stderr, flush=True)
        return EXIT_NO_JOURNAL
    loop = Loop()
    loop.watch(os.pidfd_open(os.getppid()), lambda _: loop.stop())
    # SIGTERM ends it like the end of its daemon: with a last copy of the journal.
    waker, wakee = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wakee, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, lambda *_: None)
    loop.watch(waker, lambda _: loop.stop())
    ControlStore(loop, socket.socket(fileno=LISTENER_FD), journal, cluster)
    loop.run()
    journal.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
