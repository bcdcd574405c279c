"""What people see of other nodes, and they of this one: lines that workers print, and what the
machine knows of the nodes for notices and explanations.

::

    WorkerLog, of a worker that runs for another node --> send_lines --PrintedLines--> show, there
    members of the cluster, as they are told -----------> tell_nodes --NodesChanged--> machine

Invariants:

1. The machine is told of nodes when something of them changes that lasts: not of what they have
   free, which changes all the time.
2. Nothing is sent to, or shown of, a node that is no member.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from shoal._core import events
from shoal._core.node import NodeMachine
from shoal._proto.bridge import PrintedLines
from shoal._proto.messages import LogLines
from shoal._runtime.bridge.printed import Home, Printed, as_shown
from shoal._runtime.daemon_cluster import ClusterNode
from shoal._runtime.daemon_members import PYTHON

PASSING: dict[str, Any] = {"number": 0, "free": {}, "gpus": (), "wait_s": 0.0, "demand": ()}
PASSING["pressure"] = 0.0
"""What a row says of a moment only."""


class Seen:
    """Lines and nodes, as one daemon tells of them."""

    def __init__(
        self,
        machine: NodeMachine,
        cluster: ClusterNode,
        post: Callable[[events.AnyEvent], None],
    ) -> None:
        self._machine = machine
        self._cluster = cluster
        self._post = post
        self._nodes: frozenset[str] = frozenset()
        self._told: events.NodesChanged | None = None
        """What the machine knows of the other nodes."""
        self._printed = Printed()
        self.show_lines: Callable[[int, LogLines, int], None] = lambda *_: None
        """Give what other nodes have printed to a driver; so many lines before it are left out."""

    def name_of(self, node: str) -> str:
        """What people call a node."""
        return self._cluster.rows.name_of(node)

    # ---- nodes
    def tell_nodes(self, nodes: frozenset[str]) -> None:
        """These are members; what they have said of themselves may be new."""
        self._nodes, known = nodes, []
        for row in self._cluster.rows.other_rows():
            if row.node in nodes:
                lasting = msgspec.structs.replace(row, **PASSING)
                known.append(events.KnownNode(self.name_of(row.node), lasting))
        news = events.NodesChanged(nodes, tuple(known), PYTHON, self._cluster.rows.drained())
        if news != self._told and (nodes or self._told is not None):
            self._told = news
            self._post(news)

    def node_lost(self, node: str) -> None:
        """Nobody there reads anything any more."""
        self._nodes -= {node}
        self._printed.forget(node)

    # ---- lines
    def send_lines(self, home: Home, lines: LogLines, left_out: int = 0) -> None:
        """What a worker has printed that works for a job of another node; ``left_out`` lines before
        it were not passed on."""
        node = home[0]
        if node not in self._nodes:
            return
        row = self._printed.row(home, lines, self._cluster.peers.waiting_bytes(node), left_out)
        if row is not None:
            self._cluster.peers.send(node, row)

    def show(self, node: str, body: PrintedLines) -> None:
        """Workers of another node have printed it, for a job of this one; or for one that stands
        here for another node's, which has the program: what a task there has submitted here may
        have gone on to a third node."""
        job = self._machine.tables.jobs.running.get(body.job)
        if node not in self._nodes or job is None:
            return
        lines = as_shown(body, self.name_of(node))
        if job.driver >= 0:
            self.show_lines(job.driver, lines, body.left_out)
        elif job.home is not None:
            self.send_lines(job.home, lines, body.left_out)
