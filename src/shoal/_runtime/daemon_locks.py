"""Locks in a cluster: one line for each name, which the head's daemon keeps.

``shoal.lock`` excludes everybody who uses the name, on whatever node; so every request of every
node, the head's too, goes to the head::

    AcquireLock, ReleaseLock, IsLocked  --> LockAsk(number, process, body) --> head: its LockTable
                                        <-- LockTold(number, held)         <-- now, or in its turn
    a process has ended                 --> LockAsk(0, process)            --> all that it had

1. What has been asked is in ``_open`` until it is told, and sent again to a head that begins anew,
   behind what is held here (``_held``): that is asked for anew at first.
2. What a node has ends with it: when the head has lost it, and here with the epoch.
3. Without a head nobody gets a lock, and who has one keeps it.
"""

from __future__ import annotations

from typing import NamedTuple

from shoal._base import clock, records
from shoal._core.locks import LockTable, Waiter
from shoal._proto import bridge as rows
from shoal._proto import messages
from shoal._runtime.bridge.around import LockRow
from shoal._runtime.bridge.bridging import Bridging
from shoal._runtime.daemon_cluster import ClusterNode
from shoal._runtime.daemon_connections import Connection
from shoal._runtime.daemon_loop import Loop, Timer

Body = messages.AcquireLock | messages.ReleaseLock | messages.IsLocked


class _Asked(NamedTuple):
    """Who asks for what."""

    connection: Connection
    request: int
    process: int
    body: Body


class SharedLocks:
    """The locks of all nodes, as one daemon knows them."""

    def __init__(self, loop: Loop, cluster: ClusterNode, seen: LockTable) -> None:
        """``seen`` is the machine's, which says why a process waits."""
        self._seen = seen
        self._loop = loop
        self._cluster = cluster
        self._me = cluster.rows.node_id
        self._bridging: Bridging | None = None
        self._numbers = 0
        self._open: dict[int, _Asked] = {}
        self._held: dict[tuple[int, str, str], None] = {}
        """Process, lock and token of what the head has given to this node."""
        self._users: set[int] = set()
        """Processes of this node that the head knows."""
        self._lines = LockTable()
        """On the head."""
        self._indexes: dict[tuple[str, int], int] = {}
        """How ``_lines`` calls a process of a node ..."""
        self._places: dict[int, tuple[str, int]] = {}
        """... and the other way round."""
        self._last_index = 0
        self._timer: Timer | None = None
        door = cluster.rows.door
        for kind in (messages.AcquireLock, messages.ReleaseLock, messages.IsLocked):
            door.add_request(kind, self._take)
        door.gone = self._gone

    # ---- what processes of this node ask
    def _take(self, connection: Connection, request: int, body: Body) -> None:
        if connection.index is None:
            return
        self._numbers += 1
        self._users.add(connection.index)
        self._open[self._numbers] = _Asked(connection, request, connection.index, body)
        if isinstance(body, messages.AcquireLock):
            self._seen.awaited[connection.index] = body.name
        self._ask(rows.LockAsk(self._numbers, connection.index, body))

    def _gone(self, process: int) -> None:
        if process not in self._users:
            return
        self._users.discard(process)
        for number in [n for n, each in self._open.items() if each.process == process]:
            del self._open[number]
        self._seen.awaited.pop(process, None)
        for each in [each for each in self._held if each[0] == process]:
            self._let_go(*each)
        self._ask(rows.LockAsk(0, process))

    def _ask(self, body: rows.LockAsk) -> None:
        head = self._cluster.rows.head_node()
        if head == self._me:
            self._asked(self._me, body)
        elif head and self._bridging is not None and self._bridging.has_joined(head):
            self._bridging.send(head, body)

    def _told(self, body: rows.LockTold) -> None:
        asked = self._open.pop(body.number, None)
        if asked is None:
            return
        answer: messages.Message = messages.LockAnswer(held=body.held)
        match asked.body:
            case messages.AcquireLock(name, token):
                self._seen.awaited.pop(asked.process, None)
                if body.held:
                    self._held[asked.process, name, token] = None
                    self._seen.held[name] = asked.process
            case messages.ReleaseLock(name, token):
                self._let_go(asked.process, name, token)
                answer = messages.Done()
        if body.record:
            answer = messages.Failure(body.record)
        asked.connection.send(asked.request, answer)

    def _let_go(self, process: int, name: str, token: str) -> None:
        if self._held.pop((process, name, token), process) is None:
            self._seen.held.pop(name, None)

    # ---- on the head
    def _asked(self, node: str, ask: rows.LockAsk) -> None:
        place = (node, ask.process)
        if ask.body is None:
            self._end(place)
            return
        index = self._indexes.get(place)
        if index is None:
            self._last_index += 1
            index = self._indexes[place] = self._last_index
            self._places[index] = place
        try:
            held = self._do(index, ask.number, ask.body)
        except ValueError as error:
            record = records.pack("UsageError", message=str(error))
            self._tell(node, rows.LockTold(ask.number, record=record))
        else:
            if held is not None:
                self._tell(node, rows.LockTold(ask.number, held))
        self._set_timer()

    def _do(self, index: int, number: int, body: Body) -> bool | None:
        """None: it waits."""
        match body:
            case messages.AcquireLock(name, token, timeout_s):
                until = None if timeout_s is None else clock.now() + timeout_s
                is_try = timeout_s is not None and timeout_s <= 0
                return self._lines.acquire(name, Waiter(index, token, number, until), is_try)
            case messages.ReleaseLock(name, token):
                following = self._lines.release(name, index, token)
                if following is not None:
                    self._give(following, held=True)
                return False
            case messages.IsLocked(name):
                return self._lines.is_locked(name)

    def _give(self, waiter: Waiter, *, held: bool) -> None:
        self._tell(self._places[waiter.index][0], rows.LockTold(waiter.request, held))

    def _tell(self, node: str, body: rows.LockTold) -> None:
        if not body.number:
            return
        if node == self._me:
            self._told(body)
        elif self._bridging is not None:
            self._bridging.send(node, body)

    def _end(self, place: tuple[str, int]) -> None:
        index = self._indexes.pop(place, None)
        if index is None:
            return
        following = self._lines.end_process(index)
        del self._places[index]
        for waiter in following:
            self._give(waiter, held=True)

    def _set_timer(self) -> None:
        at = self._lines.next_deadline()
        if self._timer is not None and (at is None or at < self._timer.at):
            self._timer.cancel()
            self._timer = None
        if at is not None and self._timer is None:
            self._timer = self._loop.call_at(at, self._expire)

    def _expire(self) -> None:
        self._timer = None
        for waiter in self._lines.expire(clock.now()):
            self._give(waiter, held=False)
        self._set_timer()

    # ---- what other nodes say, and who they are
    def row(self, node: str, body: LockRow) -> None:
        """It asks the head, or the head answers."""
        if isinstance(body, rows.LockAsk):
            self._asked(node, body)
        elif node == self._cluster.rows.head_node():
            self._told(body)

    def begin(self, bridging: Bridging) -> None:
        """A new epoch."""
        self._bridging = bridging

    def node_joined(self, node: str) -> None:
        """If it is the head, it is to know who has what here, and who waits."""
        if node != self._cluster.rows.head_node():
            return
        for process, name, token in self._held:
            again = messages.AcquireLock(name, token, None)
            self._ask(rows.LockAsk(0, process, again))
        for number, asked in self._open.items():
            self._ask(rows.LockAsk(number, asked.process, asked.body))

    def node_lost(self, node: str) -> None:
        """Its processes have no locks any more."""
        for place in [each for each in self._indexes if each[0] == node]:
            self._end(place)

    def end(self) -> None:
        """The epoch of this node is over: others may have what was held here."""
        self._bridging = None
        self._held.clear()
        self._seen.held.clear()
