"""Two nodes that tests send work between, and what must be true of both after each test.

The driver is on ``node-1``, which alone has the resource ``here``; ``node-2`` alone has ``there``
and the label ``zone=b``. A test that needs a task on one of them asks for a little of its resource
(``HERE``, ``THERE``).

After a test its driver leaves, and then nothing of its job may be left on either node: the audit of
node memory, which recounts everything, finds nothing in use; no worker is bound to anybody; all
that a node has is free.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import shoal
from shoal._proto import messages
from shoal._runtime import session as sessions
from shoal.testing import Cluster, Node
from shoal.testing.polling import wait_until

SETTLE_S = 10.0
HERE = {"resources": {"here": 0.1}}
THERE = {"resources": {"there": 0.1}}


@contextmanager
def made(**options: Any) -> Iterator[Cluster]:
    """The two of them, with ``options`` of the cluster."""
    with Cluster(**options) as cluster:
        cluster.add_node(num_cpus=2, resources={"here": 1})
        cluster.add_node(num_cpus=2, resources={"there": 1}, labels={"zone": "b"})
        yield cluster


@contextmanager
def driven(node: Node, audited: list[Node]) -> Iterator[None]:
    """This process as a driver on ``node``; afterwards ``audited`` are as they were."""
    shoal.init(node.address, log_to_driver=False)
    try:
        yield
    finally:
        gc.collect()
        shoal.shutdown()
    for each in audited:
        audit(each)


def audit(node: Node) -> None:
    """Nothing is in use on that node, and nobody's work is done there."""
    shoal.init(node.address, log_to_driver=False)
    try:
        found: dict[str, Any] = {}

        def is_clean() -> bool:
            memory = shoal.lowlevel.memory().audit()
            found.clear()
            found.update({name: count for name, count in memory.items() if count})
            found.update(_bound(node))
            found.update(_taken())
            return not found

        assert wait_until(is_clean, SETTLE_S), f"left on {node.name}: {found}"
    finally:
        shoal.shutdown()


def _bound(node: Node) -> dict[str, Any]:
    """Workers that belong to some job."""
    rows = node.observe("workers")
    return {f"worker {row['pid']}": row for row in rows if row["job"]}


def _taken() -> dict[str, Any]:
    """What is not free of what the node has to which this process is attached."""
    found = sessions.current().request(messages.GetResources(), messages.Resources)
    free = found.available
    return {name: free.get(name) for name in found.total if free.get(name) != found.total[name]}


def names() -> dict[str, str]:
    """Name of each node by its id."""
    return {str(row["NodeID"]): str(row["NodeName"]) for row in shoal.nodes()}
