"""What a daemon says of itself and knows of the other nodes: the tables ``members``, ``demand``,
``nodes`` and ``cluster``.

In a session of one machine there is one node, this one; in a cluster the rows of the others are
what the control store has told (``daemon_cluster`` brings them), and are hints. People, the
autoscaler and ``shoal.nodes()`` read these tables; nothing here decides.

Every daemon has these tables, and most are never asked: what their rows are made of is imported
with the first question (``_parts``).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

import msgspec

from shoal._base import clock
from shoal._core.node import NodeMachine
from shoal._core.policies.labels import HEAD_LABEL
from shoal._core.resources import UNIT
from shoal._runtime.daemon_door import Door

if TYPE_CHECKING:
    from shoal._proto.membership import Left, MemberRow, Standing
    from shoal._proto.views import NodeRow

Row = dict[str, Any]
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def _parts() -> tuple[ModuleType, ModuleType]:
    """``node_row`` and ``membership``: 8 ms of a daemon's start."""
    from shoal._core import node_row
    from shoal._proto import membership

    return node_row, membership


class Members:
    """This node, and the others."""

    def __init__(self, machine: NodeMachine, door: Door, used_bytes: Callable[[], int]) -> None:
        """``used_bytes``: what values take in node memory; the tables are read at ``door``."""
        self.door = door
        self._machine = machine
        self._used_bytes = used_bytes
        self._busy_at = clock.now()
        self._takes = 0
        self._number = 0
        self.others: dict[str, MemberRow] = {}
        """By node id, this one among them once the store has told."""
        self.changes = 0
        """How often it has changed who there is, or what one of them has."""
        self.epoch = 0
        self.is_draining = False
        self.is_drained = False
        self.left: Left | None = None
        """What this node has yet to get rid of, while it is being drained."""
        self.kept: Callable[[], dict[int, int]] = dict
        """Of how many tasks of each queue the daemon itself looks for a node."""
        self.cluster: Row = {}
        """The row of the table ``cluster``; empty: a session of one machine."""

        for name, rows in (
            ("members", self.members),
            ("nodes", self.nodes),
            ("demand", self.demand),
        ):
            door.add_table(name, rows, is_of_others=True)
        door.add_table("cluster", self.clusters)

    @property
    def labels(self) -> dict[str, str]:
        """That this node was given."""
        return dict(self._machine.tables.config.labels)

    @property
    def node_id(self) -> str:
        """Of this node."""
        return self._machine.tables.config.node_id.hex()

    @property
    def directory(self) -> str:
        """Of this node's session."""
        return self._machine.tables.config.directory

    # ---- of the others
    def heard(self, rows: Iterable[MemberRow]) -> None:
        """The control store has told these. One that has just begun knows of members, and not yet
        what they have: that is as it was."""
        for row in rows:
            known = self.others.get(row.node)
            if known is not None and known.epoch == row.epoch and not row.row.total:
                row = msgspec.structs.replace(row, row=known.row)
            self.changes += known is None or _who(known) != _who(row)
            self.others[row.node] = row

    def head_node(self) -> str:
        """The node through which the cluster is reached; empty: it is not there."""
        if self.cluster.get("role") == "head":
            return self.node_id
        _, kinds = _parts()
        for node, member in self.others.items():
            if HEAD_LABEL in member.labels and member.state in (kinds.ALIVE, kinds.DRAINING):
                return node
        return ""

    def name_of(self, node: str) -> str:
        """What people call it; its id if nobody has told."""
        known = self.others.get(node)
        return node if known is None else known.name

    def other_rows(self) -> list[NodeRow]:
        """Of each other node that lives, what it has told last."""
        _, kinds = _parts()
        living, rows = (kinds.ALIVE, kinds.DRAINING), self.others.items()
        return [_row_of(m) for node, m in rows if node != self.node_id and m.state in living]

    def drained(self) -> frozenset[str]:
        """Nodes that have been drained, of the last ones that were lost."""
        _, kinds = _parts()
        return frozenset(n for n, m in self.others.items() if m.state == kinds.DRAINED)

    # ---- of this node
    def row(self) -> NodeRow:
        """What goes out with a renewal."""
        node_row, _ = _parts()
        self._number += 1
        row: NodeRow = node_row.row_of(
            self._machine.tables, self.epoch, self._number, PYTHON, self.is_draining, self.kept()
        )
        return row

    def standing(self) -> Standing:
        """Whether this node could be given back."""
        node_row, membership = _parts()
        is_busy = node_row.is_busy(self._machine.tables)
        takes = sum(queue.takes for queue in self._machine.tables.scheduler.held.queues.values())
        if is_busy or takes != self._takes:  # what is short is not seen running
            self._busy_at, self._takes = clock.now(), takes
        idle_s = 0.0 if is_busy else clock.now() - self._busy_at
        # Whose bytes they are is not asked: one is enough for a node to stay.
        primaries = 1 if self._used_bytes() else 0
        left = self.left
        if left is not None:  # what is here and nobody needs goes with the node
            is_busy, primaries = not left.is_nothing, left.values
        standing: Standing = membership.Standing(
            is_busy=is_busy, primaries=primaries, idle_s=idle_s, left=left
        )
        return standing

    def _own(self) -> Row:
        _, kinds = _parts()
        config = self._machine.tables.config
        if self.is_drained:
            state = kinds.DRAINED
        else:
            state = kinds.DRAINING if self.is_draining else kinds.ALIVE
        address = str(self.cluster.get("address", ""))
        return _row(config.node_name, address, state, self.row(), self.standing(), "")

    # ---- tables
    def members(self, about: str = "") -> list[Row]:
        """All nodes; this one as it is now."""
        _, kinds = _parts()
        rows = [self._own()]
        for node, member in self.others.items():
            if node != self.node_id:
                rows.append(
                    _row(
                        member.name,
                        member.address,
                        member.state,
                        member.row,
                        member.standing,
                        member.why,
                    )
                )
        return sorted(rows, key=lambda row: (row["state"] == kinds.DEAD.upper(), row["name"]))

    def nodes(self, about: str = "") -> list[Row]:
        """The same as programs see it: alive or dead, amounts as people write them. Nodes that only
        have a driver are none (RULES S-19)."""
        _, kinds = _parts()
        living = (kinds.ALIVE.upper(), kinds.DRAINING.upper())
        return [
            {
                "node_id": row["node_id"],
                "name": row["name"],
                "state": "ALIVE" if row["state"] in living else "DEAD",
                "total": {name: units / UNIT for name, units in row["total_units"].items()},
                "cores": row["cores"],
                "labels": row["labels"],
                "address": row["address"].rpartition(":")[0],
                "host": _host_of(row),
            }
            for row in self.members()
            if row["role"] == kinds.ROLE_NODE
        ]

    def demand(self, about: str = "") -> list[Row]:
        """What waits here, with its reasons, and what the others say waits there."""
        node_row, kinds = _parts()
        rows: list[Row] = node_row.waiting_rows(self._machine.tables, self.kept())
        for node, member in self.others.items():
            if node == self.node_id or member.state in (kinds.DEAD, kinds.DRAINED):
                continue
            for demand in member.row.demand:
                rows.append(
                    {
                        "kind": "task",
                        "job": 0,
                        "units": dict(demand.wish.amounts),
                        "count": demand.count,
                        "labels": [
                            [[rule.key, rule.operator, list(rule.values)] for rule in rules]
                            for rules in demand.wish.labels
                        ],
                        "why": f"waits on node {member.name}",
                    }
                )
        return rows

    def clusters(self, about: str = "") -> list[Row]:
        """The one cluster that this node is in."""
        return [self.cluster] if self.cluster else []


def _row(name: str, address: str, state: str, row: NodeRow, standing: Standing, why: str) -> Row:
    return {
        "node_id": row.node,
        "name": name,
        "role": "driver" if row.is_driver else "node",
        "state": state.upper(),
        "address": address,
        "total_units": row.total,
        "free_units": row.free,
        "labels": row.labels,
        "cores": row.cores,
        "is_busy": standing.is_busy,
        "primaries": standing.primaries,
        "idle_s": standing.idle_s,
        "left": None if standing.left is None else msgspec.structs.asdict(standing.left),
        "why": why,
    }


def _who(member: MemberRow) -> tuple[int, str, Mapping[str, int]]:
    """What rarely changes of a node."""
    return member.epoch, member.state, member.row.total


def _row_of(member: MemberRow) -> NodeRow:
    """Its last row; that it is being drained it may not have said itself yet."""
    if member.state == "draining" and not member.row.is_draining:
        return msgspec.structs.replace(member.row, is_draining=True)
    return member.row


def _host_of(row: Row) -> str:
    """The address of the node's machine, also if it cannot be dialled: it stands in the name of the
    resource by which programs ask for that very node."""
    names = [name.removeprefix("node:") for name in row["total_units"] if name.startswith("node:")]
    own: list[str] = [name for name in names if not name.startswith("__")]
    listens_at: str = row["address"].rpartition(":")[0].strip("[]")
    if len(own) != 1 or (own[0].startswith("127.") and listens_at):
        return listens_at  # a machine without a route to elsewhere does not know its own
    return own[0]
