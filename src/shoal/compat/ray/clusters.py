"""``ray.cluster_utils``: several nodes on one machine, for tests, with Ray's names and arguments.

Owns nothing of its own: a ``Cluster`` here is one of ``shoal.testing``, a node is a record of one
of its nodes. As in Ray (RULES T9): the driver is attached to the first node, a node has one CPU and
a store of 150 MiB unless said otherwise, and all have the same address. ``kill_raylet`` ends the
node daemon, which is what Ray calls raylet.

Arguments of nodes that mean nothing here are named once in a warning; unknown ones raise.
"""

from __future__ import annotations

import atexit
import warnings
from typing import Any

import shoal
from shoal import errors
from shoal.compat.ray import api
from shoal.testing import cluster as nodes

_PASSED = ("num_cpus", "num_gpus", "resources", "labels", "object_store_memory")
_ADDRESSES = "all nodes are on this machine"
_DASHBOARD = "there is no dashboard"
IGNORED = {
    "_system_config": "it sets constants of Ray's own processes",
    "dashboard_agent_listen_port": _DASHBOARD,
    "dashboard_host": _DASHBOARD,
    "dashboard_port": _DASHBOARD,
    "enable_object_reconstruction": "values are made again where they can be",
    "env_vars": "workers have the environment of whoever starts the node",
    "external_addresses": _ADDRESSES,
    "gcs_server_port": _ADDRESSES,
    "include_dashboard": _DASHBOARD,
    "include_log_monitor": "logs are read where they are",
    "max_worker_port": "workers have no ports",
    "memory": "memory is what the machine has",
    "min_worker_port": "workers have no ports",
    "node_ip_address": _ADDRESSES,
    "node_manager_port": _ADDRESSES,
    "object_manager_port": _ADDRESSES,
    "plasma_directory": "node memory is anonymous",
    "raylet_ip_address": _ADDRESSES,
    "redis_password": "there is no Redis",
    "redis_port": "there is no Redis",
    "temp_dir": "each node has a directory of its own",
}
"""Arguments of Ray's ``add_node`` that mean nothing here, and why."""

_told: set[str] = set()
cluster_not_supported = False
"""Ray says here whether this system can have clusters at all."""


class RayNode:
    """A node, as ``add_node`` of Ray returns it."""

    def __init__(self, node: nodes.Node, cluster: nodes.Cluster, is_head: bool) -> None:
        self.node = node
        """Ours."""
        self.head = is_head
        self._cluster = cluster
        (row,) = (row for row in node.observe("nodes") if row["name"] == node.name)
        self.node_id: str = row["node_id"]
        self.unique_id = self.node_id
        self.node_name = node.name
        self.node_ip_address = self.raylet_ip_address = api.get_node_ip_address()
        self.raylet_socket_name = node.entry.socket_path
        self.address = self.gcs_address = cluster.address

    def __repr__(self) -> str:
        return f"RayNode({self.node_name}, {self.node_id})"

    def kill_raylet(self, check_alive: bool = True) -> None:
        """SIGKILL to the node daemon; what it leaves ends by itself."""
        if check_alive and not self.node.is_alive():
            raise RuntimeError(f"the daemon of {self.node_name} is dead already")
        self._cluster.kill_daemon(self.node)

    def kill_all_processes(self, check_alive: bool = True, allow_graceful: bool = False) -> None:
        """End everything of the node."""
        if check_alive and not self.node.is_alive():
            raise RuntimeError(f"the daemon of {self.node_name} is dead already")
        self._cluster.kill_node(self.node)

    def any_processes_alive(self) -> bool:
        """Whether anything of the node runs."""
        return bool(self.node.processes())

    def remaining_processes_alive(self) -> bool:
        """Whether its daemon runs."""
        return self.node.is_alive()

    def get_session_dir_path(self) -> str:
        """The directory of its session."""
        return self.node.entry.directory


class Cluster:
    """Several nodes on this machine, as ``ray.cluster_utils.Cluster``.

    Args:
        initialize_head: Start the first node now.
        connect: Attach this process to it, as ``ray.init(address=...)`` would.
        head_node_args: Arguments of ``add_node`` for it.
        shutdown_at_exit: End everything when this process ends.

    Raises:
        RuntimeError: to connect there must be a node.
    """

    def __init__(
        self,
        initialize_head: bool = False,
        connect: bool = False,
        head_node_args: dict[str, Any] | None = None,
        shutdown_at_exit: bool = True,
    ) -> None:
        if connect and not initialize_head:
            raise RuntimeError("a cluster without nodes cannot be connected to")
        self.head_node: RayNode | None = None
        self.worker_nodes: set[RayNode] = set()
        self.connected = False
        self._cluster = nodes.Cluster()
        if shutdown_at_exit:
            atexit.register(self.shutdown)
        if initialize_head:
            self.add_node(**(head_node_args or {}))
            if connect:
                self.connect()

    @property
    def address(self) -> str:
        """What ``ray.init(address=...)`` joins the cluster by."""
        return self._cluster.address

    gcs_address = address

    def connect(self, namespace: str | None = None) -> api.RayContext:
        """Attach this process to the first node."""
        if self.head_node is None:
            raise RuntimeError("a cluster without nodes cannot be connected to")
        context = api.init(self.address, namespace=namespace, ignore_reinit_error=True)
        self.connected = True
        return context

    def add_node(self, wait: bool = True, **node_args: Any) -> RayNode:
        """Start one more node; the first one is the head.

        Args:
            wait: Until it answers and is known.
            node_args: ``num_cpus`` (1), ``num_gpus`` (0), ``resources``, ``labels``,
                ``object_store_memory`` (150 MiB), ``node_name``.
        """
        name = node_args.pop("node_name", None) or ""
        passed = {key: node_args.pop(key) for key in _PASSED if node_args.get(key) is not None}
        _tell(node_args)
        is_head = self.head_node is None
        started = self._cluster.add_node(name, wait=wait, **passed)
        node = RayNode(started, self._cluster, is_head)
        if is_head:
            self.head_node = node
        else:
            self.worker_nodes.add(node)
        return node

    def remove_node(self, node: RayNode, allow_graceful: bool = True) -> None:
        """End a node and everything in it.

        Raises:
            ValueError: this process is attached to it.
        """
        if node is self.head_node:
            if self.connected and shoal.is_initialized():
                shoal.shutdown()
                raise ValueError("this process is attached to that node: it would lose its session")
            self.head_node = None
        self._cluster.remove_node(node.node, gracefully=allow_graceful)
        self.worker_nodes.discard(node)

    def wait_for_nodes(self, timeout: float = 30) -> None:
        """Until every node that was added and not removed is known.

        Raises:
            TimeoutError: one is not.
        """
        self._cluster.wait_for_nodes(timeout)

    def list_all_nodes(self) -> list[RayNode]:
        """The head, and the others."""
        return [*([self.head_node] if self.head_node else []), *self.worker_nodes]

    def remaining_processes_alive(self) -> bool:
        """Whether all daemons run."""
        return all(node.remaining_processes_alive() for node in self.list_all_nodes())

    def shutdown(self) -> None:
        """End all nodes; repeated, nothing happens."""
        atexit.unregister(self.shutdown)
        if self.connected:
            self.connected = False
            shoal.shutdown()
        self.head_node = None
        self.worker_nodes.clear()
        self._cluster.shutdown()


def _tell(left: dict[str, Any]) -> None:
    """Name arguments that mean nothing here, each once, and refuse those that nobody knows."""
    for name in left:
        if name not in IGNORED:
            known = ", ".join((*_PASSED, "node_name"))
            raise errors.OptionError(f"a node has no option {name!r}. Valid: {known}", option=name)
    new = sorted(name for name in left if left[name] and name not in _told)
    _told.update(new)
    if new:
        reasons = "; ".join(f"{name} ({IGNORED[name]})" for name in new)
        warnings.warn(f"add_node ignores {reasons}.", UserWarning, stacklevel=3)
