"""The door: who is let into a session, as what, and how their requests reach the machine.

==========  ========================================  ======================================
role        must show                                 becomes
==========  ========================================  ======================================
driver      our uid, our layout of node memory        a process index, a job
worker      the same, and be the pid that was forked  the process that was started
            for its index
observer    our uid                                   a negative number: asks, holds nothing
==========  ========================================  ======================================

The first message of a connection is a ``Hello``; anything else, and any ``Hello`` that is refused,
is answered with a ``Failure`` that says why, and closed. Tables about the daemon itself are
answered here, every other request is an event.
"""

from __future__ import annotations

import itertools
import os
import socket
import sys
from collections.abc import Callable
from typing import Any

import msgspec

from shoal._base import records
from shoal._base.config import NodeConfig
from shoal._core import events
from shoal._core.events import AnyEvent
from shoal._native import LAYOUT_HASH
from shoal._proto import messages
from shoal._runtime import session_dir
from shoal._runtime.daemon_connections import Connection, Listener
from shoal._runtime.daemon_loop import Loop
from shoal._runtime.daemon_processes import KIND_DRIVER, Processes

EARLY_HELLO_S = 0.001
FIRST_OBSERVER = -2


class Door:
    """All connections of a daemon."""

    def __init__(
        self,
        loop: Loop,
        listening: socket.socket,
        node: NodeConfig,
        processes: Processes,
        post: Callable[[AnyEvent], None],
    ) -> None:
        self._loop = loop
        self._node = node
        self._processes = processes
        self._post = post
        self._tables: dict[str, Callable[[str], list[dict[str, object]]]] = {}
        self._requests: dict[type, Callable[[Connection, int, Any], None]] = {}
        self._refreshed: set[str] = set()
        self.refresh: Callable[[Callable[[], None]], None] = lambda then: then()
        """Calls ``then`` when what other nodes say is new enough to be shown."""
        self.everywhere: Callable[[Connection, int, messages.GetTable], bool] = lambda *_: False
        """Takes a question for a table of the whole cluster; False: this node is all there is."""
        self._inner: dict[int, Callable[[list[dict[str, object]]], None]] = {}
        """Questions of the daemon's own, as if observers had asked."""
        self.gone: Callable[[int], None] = lambda index: None
        """Told of each process whose connection has ended."""
        self._observers: dict[int, Connection] = {}
        self._observer_numbers = itertools.count(FIRST_OBSERVER, -1)
        self.drivers: list[tuple[int, int]] = []
        """(pid, start time) of those that joined and were alive when the last one did."""
        self._listener = Listener(loop, listening, self.let_in)

    def add_table(
        self,
        name: str,
        rows: Callable[[str], list[dict[str, object]]],
        is_of_others: bool = False,
    ) -> None:
        """Answer ``GetTable(name)`` with ``rows(about)``, made by the shell; what ``is_of_others``
        after a ``refresh``."""
        self._tables[name] = rows
        if is_of_others:
            self._refreshed.add(name)

    def add_request(
        self, kind: type[messages.Message], take: Callable[[Connection, int, Any], None]
    ) -> None:
        """Have requests of ``kind`` taken by the shell: ``take(connection, request, body)``."""
        self._requests[kind] = take

    def pass_on(self, connection: Connection, request: int, body: messages.Message) -> None:
        """Have the machine take a request that the shell was asked first."""
        if connection.index is not None:
            self._post(events.Requested(connection.index, request, body))

    def read(
        self, body: messages.GetTable, then: Callable[[list[dict[str, object]]], None]
    ) -> None:
        """Call ``then`` with the rows of one of this node's own tables, soon."""
        if body.table in self._tables:
            then(self._tables[body.table](body.about)[: body.limit])
            return
        index = next(self._observer_numbers)
        self._inner[index] = then
        self._post(events.Requested(index, 0, body))

    def answered(self, index: int, body: object) -> bool:
        """Whether the daemon itself has asked that."""
        then = self._inner.pop(index, None)
        if then is not None:
            then(body.rows if isinstance(body, messages.Table) else [])
        return then is not None

    def connection(self, index: int) -> Connection | None:
        """The connection of a process or observer, if it is there."""
        if index < 0:
            return self._observers.get(index)
        process = self._processes.get(index)
        return process.connection if process is not None else None

    def sizes(self) -> dict[str, int]:
        """How much is kept."""
        asked = len(self._observers) + len(self._inner)
        return {"observers": asked, "drivers": len(self.drivers)}

    def tell_all(self, news: messages.Body) -> None:
        """Send ``news`` to everybody who is connected."""
        for process in self._processes:
            if process.connection is not None:
                process.connection.send(0, news)
        for connection in self._observers.values():
            connection.send(0, news)

    def tell_drivers(self, news: messages.Body) -> None:
        """Send ``news`` to every program that is attached."""
        for process in self._processes:
            if process.kind == KIND_DRIVER and process.connection is not None:
                process.connection.send(0, news)

    def close(self) -> None:
        """Let nobody in any more."""
        self._listener.close()

    def let_in(self, connected: socket.socket, pid: int) -> Connection:
        """Serve a connection whose other end process ``pid`` has."""
        return Connection(self._loop, connected, pid, self._framed, self._closed)

    def _framed(self, connection: Connection, frame: messages.Frame) -> None:
        body = frame.body
        if isinstance(body, messages.Hello):
            if connection.index is None:
                self._greet(connection, frame.id, body)
        elif connection.index is None:
            self._refuse(connection, frame.id, "the first message must be a Hello")
        elif isinstance(body, messages.GetTable) and self._is_of_all(connection, frame.id, body):
            pass
        elif isinstance(body, messages.GetTable) and body.table in self._tables:
            self._answer_table(connection, frame.id, body)
        elif type(body) in self._requests:
            self._requests[type(body)](connection, frame.id, body)
        else:
            self._post(events.Requested(connection.index, frame.id, body))

    def _is_of_all(self, connection: Connection, request: int, body: messages.GetTable) -> bool:
        return body.is_everywhere and self.everywhere(connection, request, body)

    def _answer_table(self, connection: Connection, request: int, body: messages.GetTable) -> None:
        def answer() -> None:
            rows = self._tables[body.table](body.about)
            connection.send(request, messages.Table(rows[: body.limit]))

        if body.table in self._refreshed:
            self.refresh(answer)
        else:
            answer()

    def _greet(self, connection: Connection, request: int, hello: messages.Hello) -> None:
        if hello.role == "observer":
            self._greet_observer(connection, request)
        elif hello.layout != LAYOUT_HASH:
            text = (
                f"this program has another build of Shoal ({hello.version}, Python {hello.python})"
                f" than the session (Python {sys.version.split()[0]}): node memory is laid out"
                f" differently ({hello.layout:#x}, {LAYOUT_HASH:#x})"
            )
            self._refuse(connection, request, text)
        elif hello.role == "worker":
            self._greet_worker(connection, request, hello.index)
        elif hello.role == "driver" and hello.job is not None:
            self._greet_driver(connection, request, hello.job)
        else:
            self._refuse(connection, request, f"a Hello as {hello.role!r} that makes no sense")

    def _greet_driver(self, connection: Connection, request: int, job: messages.JobConfig) -> None:
        try:
            process = self._processes.open_driver(connection)
        except OSError:
            connection.close()
            return
        if process is None:
            self._refuse(connection, request, "the node's table of processes is full (4,095)")
            return
        if _is_same_python(job.python):
            job = msgspec.structs.replace(job, python=sys.executable)
        start_time = session_dir.process_start_time(process.pid) or 0
        self.drivers = [driver for driver in self.drivers if session_dir.is_alive(*driver)]
        self.drivers.append((process.pid, start_time))
        self._post(events.DriverJoined(process.index, request, process.pid, job))

    def _greet_worker(self, connection: Connection, request: int, index: int) -> None:
        if self._processes.is_starting(index):
            # The worker was faster than the zygote's word that it exists.
            retry = lambda: self._greet_worker(connection, request, index)  # noqa: E731
            self._loop.call_later(EARLY_HELLO_S, retry)
        elif connection.is_closed:
            return
        elif self._processes.join_worker(index, connection):
            self._post(events.WorkerJoined(index, request, connection.pid))
        else:
            self._refuse(connection, request, "this worker was not started by the session's zygote")

    def _greet_observer(self, connection: Connection, request: int) -> None:
        index = next(self._observer_numbers)
        connection.index = index
        self._observers[index] = connection
        node = self._node
        welcome = messages.Welcome(
            node.session, node.directory, node.node_id, index, 0, "", dict(node.total)
        )
        connection.send(request, welcome)

    def _refuse(self, connection: Connection, request: int, text: str) -> None:
        connection.send(request, messages.Failure(records.pack("UsageError", message=text)))
        connection.close()

    def _closed(self, connection: Connection) -> None:
        if connection.index is not None and connection.index < 0:
            del self._observers[connection.index]
            return
        if connection.index is not None:
            self.gone(connection.index)
        self._processes.connection_closed(connection)


def _is_same_python(path: str) -> bool:
    """Whether ``path`` is our interpreter by another name (``python3`` beside ``python``).

    Links elsewhere to the same file are not: a virtual environment is the directory of its link.
    """
    return os.path.dirname(path) == os.path.dirname(sys.executable) and (
        os.path.realpath(path) == os.path.realpath(sys.executable)
    )
