"""Tables of the whole cluster, as one daemon gathers and tells them.

::

    GetTable(is_everywhere) --> AskRows  --> each member: its own table, as it is now
                            <-- RowsTold <--
    all have told, or ANSWER_S is over --> Table, with what is missing

``_core.listings`` says which rows are one thing. The tables ``tasks`` and ``objects`` are made
here, of node memory and of what the bridge knows.

1. Whoever asks is answered within ``ANSWER_S``, whatever other nodes do.
2. Only members are asked, and answered.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Container, Mapping
from typing import NamedTuple

from shoal._base import clock
from shoal._core import listings
from shoal._core.node import NodeMachine
from shoal._native import Memory
from shoal._proto import messages
from shoal._proto.listings import AskRows, RowsTold
from shoal._runtime import task_rows
from shoal._runtime.bridge.bridging import Bridging
from shoal._runtime.daemon_cluster import ClusterNode
from shoal._runtime.daemon_connections import Connection
from shoal._runtime.daemon_loop import Loop, Timer
from shoal._runtime.event_names import NamedActor, Names

ANSWER_S = 2.0
"""A node that lives answers in milliseconds."""
ROWS_MOST = 10_000
"""Of one table of one node."""
Row = listings.Row


class _Asked(NamedTuple):
    """Who waits for a table."""

    connection: Connection
    request: int
    body: messages.GetTable
    gathering: listings.Gathering
    timer: Timer


class Listings:
    """Rows of all nodes for the programs of this one, and of this one for all."""

    def __init__(
        self,
        loop: Loop,
        memory: Memory,
        machine: NodeMachine,
        cluster: ClusterNode,
        bridges: Callable[[], list[Bridging]],
    ) -> None:
        self._loop = loop
        self._memory = memory
        self._machine = machine
        self._cluster = cluster
        self._bridges = bridges
        self._me = cluster.rows.node_id
        self._nodes: frozenset[str] = frozenset()
        self._numbers = itertools.count(1)
        self._open: dict[int, _Asked] = {}
        door = cluster.rows.door
        door.add_table("tasks", lambda _: self._tasks())
        door.add_table("objects", lambda _: self._objects())
        door.everywhere = self._take

    def tell_nodes(self, nodes: frozenset[str]) -> None:
        """These are members."""
        lost, self._nodes = self._nodes - nodes, nodes
        for number, asked in list(self._open.items()):
            for node in lost:
                asked.gathering.lost(node)
            self._look(number)

    # ---- what programs ask
    def _take(self, connection: Connection, request: int, body: messages.GetTable) -> bool:
        if body.table not in listings.TABLES:
            return False
        number = next(self._numbers)
        gathering = listings.Gathering({self._me, *self._nodes})
        timer = self._loop.call_later(ANSWER_S, lambda: self._answer(number))
        self._open[number] = _Asked(connection, request, body, gathering, timer)
        chosen = listings.for_nodes(body.table, body.filters)
        limit = min(body.limit, ROWS_MOST)
        ask = AskRows(number, body.table, limit, chosen)
        for node in self._nodes:
            self._cluster.peers.send(node, ask)

        def told(rows: list[Row], left_out: int) -> None:
            self._told(number, listings.Answer(self._me, rows, left_out, self._guests()))

        self._read(ask, told)
        return True

    def _told(self, number: int, answer: listings.Answer) -> None:
        asked = self._open.get(number)
        if asked is not None:
            asked.gathering.told(answer)
            self._look(number)

    def _look(self, number: int) -> None:
        if not self._open[number].gathering.awaited:
            self._answer(number)

    def _answer(self, number: int) -> None:
        asked = self._open.pop(number)
        asked.timer.cancel()
        name_of, body = self._cluster.rows.name_of, asked.body
        answers = asked.gathering.answers(self._me, name_of)
        rows = listings.together(body.table, answers, self._me, name_of)
        chosen = listings.fitting(rows, body.filters)
        shown, left_out = listings.cut(chosen, body.limit, listings.TABLE_BYTES_MOST)
        notices = asked.gathering.notices(ANSWER_S, name_of)
        if left_out:
            notices.append(f"{left_out:,} rows more than one answer holds are not shown")
        asked.connection.send(asked.request, messages.Table(shown, notices))

    # ---- what other nodes say
    def received(self, node: str, body: AskRows | RowsTold) -> None:
        """It asks, or answers."""
        if node not in self._nodes:
            return
        if isinstance(body, RowsTold):
            rows = listings.shifted(body.rows, body.booted_s - _booted_s())
            answer = listings.Answer(node, rows, body.left_out, body.guests)
            self._told(body.number, answer)
            return

        def tell(rows: list[Row], left_out: int) -> None:
            if node in self._nodes:
                told = RowsTold(body.number, rows, left_out, _booted_s(), self._guests())
                self._cluster.peers.send(node, told)

        self._read(body, tell, is_other=True)

    def _read(
        self, ask: AskRows, then: Callable[[list[Row], int], None], *, is_other: bool = False
    ) -> None:
        """Call ``then`` with the rows of this node, and how many are left out."""

        def choose(rows: list[Row]) -> None:
            if is_other:
                rows = listings.for_others(ask.table, rows)
            chosen = listings.fitting(rows, ask.filters)
            then(*listings.cut(chosen, ask.limit, listings.ROWS_BYTES_MOST))

        if ask.table not in listings.TABLES:  # a newer node has it
            then([], 0)
            return
        self._cluster.rows.door.read(messages.GetTable(ask.table, ROWS_MOST), choose)

    # ---- tables of this node
    def _tasks(self) -> list[Row]:
        homes: dict[int, tuple[str, int]] = {}
        for each in self._bridges():
            homes |= each.visiting.of_others()[0]
        rows = task_rows.TaskRows(self._memory, self._node_id, self._names(), self._places())
        shown: list[Row] = []
        for row in rows.unended(ROWS_MOST):
            home = homes.get(row["key"])
            shown.append(row if home is None else {**row, "home": home})
        living = {str(row["task_id"]) for row in shown}
        guests = self._guests()
        for row in itertools.islice(rows.ended(living), ROWS_MOST):
            if not self._was_visit(row, rows.told[row["key"]].by, guests):
                shown.append(row)
        return shown

    def _was_visit(self, row: Row, by: int, guests: Container[int]) -> bool:
        """Whether another node tells of it: of a guest's what is not known to be of this node."""
        is_of_guest = row["job"] in guests
        if by == task_rows.DAEMON:
            return is_of_guest or bool(row["actor_id"])
        return is_of_guest and by < 0

    def _objects(self) -> list[Row]:
        results: set[int] = set()
        homes: dict[int, tuple[str, int]] = {}
        for each in self._bridges():
            results |= each.visiting.of_others()[1]
            homes |= each.proxies.homes()
        rows = list(task_rows.of_values(self._memory, self._node_id, ROWS_MOST, frozenset(results)))
        for row in rows:
            key = int(row["key"])
            if (home := homes.get(key)) is not None:
                row["home"] = home
            places = (each.pulling.place_of(key) for each in self._bridges())
            row["node_id"] = next(filter(None, places), row["node_id"])
        return rows

    def _guests(self) -> dict[int, tuple[str, int]]:
        """Jobs that stand for those of other nodes."""
        tables = self._machine.tables.jobs
        jobs = [*tables.running.values(), *tables.ended.values()]
        return {job.number: job.home for job in jobs if job.home is not None}

    @property
    def _node_id(self) -> bytes:
        return self._machine.tables.config.node_id

    def _places(self) -> Mapping[int, str]:
        """Nodes of this one's tasks that another one has, or has had."""
        found: dict[int, str] = {}
        for each in self._bridges():
            found |= each.ran_on
            found |= {lent.key: lent.node for lent in each.machine.lendings.values()}
        return found

    def _names(self) -> Names:
        tables = self._machine.tables
        functions = {
            key: name
            for job in tables.jobs.running.values()
            for key, name, _ in job.functions.values()
        }
        known = [*tables.actors.tombstones.values(), *tables.actors.living.values()]
        actors = {a.spec.arguments: NamedActor(a.actor_id, a.spec.class_name) for a in known}

        def methods_of(actor_id: str) -> bytes:
            actor = tables.actors.find(actor_id)
            return b"" if actor is None else actor.spec.methods

        return Names(functions, actors, methods_of)


def _booted_s() -> float:
    """When this machine was booted."""
    return clock.wall() - clock.now()
