"""What a daemon says of itself and knows of the other nodes: the tables ``members``, ``demand``,
``nodes`` and ``cluster``.

In a session of one machine there is one node, this one; in a cluster the rows of the others are
what the control store has told (``daemon_cluster`` brings them), and are hints. People, the
autoscaler and ``shoal.nodes()`` read these tables; nothing here decides.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from shoal._base import clock
from shoal._core import node_row
from shoal._core.node import NodeMachine
from shoal._core.resources import UNIT
from shoal._proto import views
from shoal._proto.membership import ALIVE, DEAD, DRAINED, DRAINING, MemberRow, Standing
from shoal._runtime.daemon_door import Door

Row = dict[str, Any]
_LIVING = (ALIVE.upper(), DRAINING.upper())
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


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
        self.epoch = 0
        self.is_draining = False
        self.is_drained = False
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

    # ---- of this node
    def row(self) -> views.NodeRow:
        """What goes out with a renewal."""
        self._number += 1
        tables = self._machine.tables
        return node_row.row_of(tables, self.epoch, self._number, PYTHON, self.is_draining)

    def standing(self) -> Standing:
        """Whether this node could be given back."""
        is_busy = node_row.is_busy(self._machine.tables)
        takes = sum(queue.takes for queue in self._machine.tables.scheduler.held.queues.values())
        if is_busy or takes != self._takes:  # what is short is not seen running
            self._busy_at, self._takes = clock.now(), takes
        idle_s = 0.0 if is_busy else clock.now() - self._busy_at
        # Whose bytes they are is not asked: one is enough for a node to stay.
        primaries = 1 if self._used_bytes() else 0
        return Standing(is_busy=is_busy, primaries=primaries, idle_s=idle_s)

    def _own(self) -> Row:
        config = self._machine.tables.config
        state = DRAINED if self.is_drained else DRAINING if self.is_draining else ALIVE
        address = str(self.cluster.get("address", ""))
        return _row(config.node_name, address, state, self.row(), self.standing(), "")

    # ---- tables
    def members(self, about: str = "") -> list[Row]:
        """All nodes; this one as it is now."""
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
        return sorted(rows, key=lambda row: (row["state"] == DEAD.upper(), row["name"]))

    def nodes(self, about: str = "") -> list[Row]:
        """The same as programs see it: alive or dead, amounts as people write them."""
        cores = self._machine.tables.config.cores
        return [
            {
                "node_id": row["node_id"],
                "name": row["name"],
                "state": "ALIVE" if row["state"] in _LIVING else "DEAD",
                "total": {name: units / UNIT for name, units in row["total_units"].items()},
                "cores": cores if row["node_id"] == self.node_id else 0,
                "labels": row["labels"],
                "address": row["address"].rpartition(":")[0],
            }
            for row in self.members()
        ]

    def demand(self, about: str = "") -> list[Row]:
        """What waits here, with its reasons, and what the others say waits there."""
        rows = node_row.waiting_rows(self._machine.tables)
        for node, member in self.others.items():
            if node == self.node_id or member.state in (DEAD, DRAINED):
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


def _row(
    name: str, address: str, state: str, row: views.NodeRow, standing: Standing, why: str
) -> Row:
    return {
        "node_id": row.node,
        "name": name,
        "state": state.upper(),
        "address": address,
        "total_units": row.total,
        "free_units": row.free,
        "labels": row.labels,
        "is_busy": standing.is_busy,
        "primaries": standing.primaries,
        "idle_s": standing.idle_s,
        "why": why,
    }
