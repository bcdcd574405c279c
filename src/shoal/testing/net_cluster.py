"""A cluster whose nodes are hosts of a network: real addresses, real TCP, real faults.

Owns: a network (``networks``) and, in each of its hosts, one node (``cluster``). All faults of the
network are there for nodes; two are about both:

``power_off``  first the host is cut off, in silence, then everything in it is killed, and then it
               is gone: nobody gets the end of a connection, as when a machine loses power;
``capture``    all that hosts say to each other, in a file.

The driver is outside of all hosts and reaches the first node through its unix socket, which knows
no networks. A driver in a host of its own is a program: ``cluster.network.add_host("driver")``,
then ``host.begin(words, env=node.variables())``.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from shoal.testing.capture import Capture
from shoal.testing.cluster import USUAL_S, Cluster, Node
from shoal.testing.lanes import Faults
from shoal.testing.networks import Network


class NetCluster(Cluster):
    """Several nodes, each in a network namespace of its own; a context manager.

    Args:
        nodes: How many to begin with, each with ``options`` (those of ``add_node``).
        network: Where; default: a new network. ``Network(proxied=True)`` has delays too.
        lease_s: As in ``Cluster``.

    Raises:
        NetworkError: namespaces cannot be made here; the text says what is missing.
        ClusterError: a node did not start.

    Example:
        >>> with NetCluster(3) as cluster:  # doctest: +SKIP
        ...     a, b, c = cluster.nodes
        ...     cluster.connect()
        ...     cluster.partition(a, b)
        ...     cluster.heal()
    """

    def __init__(
        self,
        nodes: int = 0,
        network: Network | None = None,
        *,
        lease_s: float = USUAL_S,
        **options: Any,
    ) -> None:
        self.network = network or Network()
        with ExitStack() as undo:
            undo.callback(self.network.close)
            super().__init__(nodes, lease_s=lease_s, **options)
            undo.pop_all()

    def _put_into_place(self, node: Node) -> None:
        host = self.network.add_host(node.name)
        node.ip, node.enter = host.ip, host.enter

    def _take_from_place(self, node: Node) -> None:
        if node.name in self.network.hosts:
            self.network.remove_host(node.name)

    def shutdown(self) -> None:
        """End every node, and let the network go."""
        try:
            super().shutdown()
        finally:
            self.network.close()

    # ---- faults, by nodes
    def cut(self, sender: Node, receiver: Node) -> None:
        """One way only: what ``sender`` sends does not arrive."""
        self.network.cut(sender.name, receiver.name)

    def partition(self, one: Node, other: Node) -> None:
        """Neither hears the other; third nodes hear both."""
        self.network.partition(one.name, other.name)

    def isolate(self, node: Node) -> None:
        """Nobody hears it, and it hears nobody."""
        self.network.isolate(node.name)

    def lose(self, one: Node, other: Node, share: float) -> None:
        """A random share of packets between them is lost, both ways."""
        self.network.lose(one.name, other.name, share)
        self.network.lose(other.name, one.name, share)

    def reset(self, one: Node, other: Node, per_s: int) -> None:
        """Connections between them are reset, so often per second."""
        self.network.reset(one.name, other.name, per_s)
        self.network.reset(other.name, one.name, per_s)

    def delay(self, one: Node, other: Node, faults: Faults) -> None:
        """What they say to each other is late, or whatever else a stream can suffer."""
        self.network.delay(one.name, other.name, faults)
        self.network.delay(other.name, one.name, faults)

    def limit(self, node: Node, bytes_per_s: float) -> None:
        """Its line has that speed."""
        self.network.limit(node.name, bytes_per_s)

    def heal(self) -> None:
        """No faults any more."""
        self.network.heal()

    def power_off(self, node: Node) -> None:
        """Its machine loses power: silence first, then nothing. It stays in ``nodes`` until it is
        removed."""
        self.network.isolate(node.name)
        self.kill_node(node)
        # With the host goes its kernel, which would say goodbye for its programs after a healing.
        self.network.remove_host(node.name)

    def capture(self, path: Path) -> Capture:
        """Write down all that passes between hosts from now on."""
        return Capture(path, self.network)
