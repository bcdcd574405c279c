"""The public test kit: what proves Shoal, for those who build on it or want to look.

``SimCluster`` runs the deciding parts of Shoal on a virtual clock, with everything that can go
wrong going wrong, and checks after every step that the rules hold. See ``docs/simulation.md``.

``Cluster`` is real: several nodes on this machine, each with its own daemon, memory and directory.
In a ``NetCluster`` each has a network namespace too, so the network between them can be cut, slow
or lossy; ``Network`` is that network alone, for any program, ``Capture`` is what went over it, and
``FaultProxy`` does what one can do to a connection without any rights. See ``docs/test-kit.md``.
"""

from __future__ import annotations

from shoal.testing.capture import Capture
from shoal.testing.cluster import Cluster, ClusterError, Node, NodeOptions
from shoal.testing.lanes import Faults
from shoal.testing.net_cluster import NetCluster
from shoal.testing.networks import Host, Network, NetworkError, why_not
from shoal.testing.proxy import FaultProxy
from shoal.testing.sim.checkers import Violation
from shoal.testing.sim.cluster import Plan, Report, SimCluster, SimulationError, Visit, run, shrink
from shoal.testing.sim.faults import FAULTS, Fault

__all__ = [
    "FAULTS",
    "Capture",
    "Cluster",
    "ClusterError",
    "Fault",
    "FaultProxy",
    "Faults",
    "Host",
    "NetCluster",
    "Network",
    "NetworkError",
    "Node",
    "NodeOptions",
    "Plan",
    "Report",
    "SimCluster",
    "SimulationError",
    "Violation",
    "Visit",
    "run",
    "shrink",
    "why_not",
]
