"""Nodes that come and go: node types, providers of nodes, and the autoscaler. A tour.

* ``provider.py`` is the interface through which nodes are asked for and given back, and the words
  that a configuration file uses.
* ``processes.py`` is a provider: node processes on this machine, each with a directory of its own.
* ``autoscaler.py`` looks at a cluster, lets ``_core.autoscaler`` decide, and tells the provider.

``shoal autoscale FILE`` runs it. A provider of another kind is a class with the four methods of
``Provider``; everything that could be called twice may be called twice.
"""

from __future__ import annotations

from shoal.cluster.autoscaler import Autoscaler
from shoal.cluster.provider import (
    Instance,
    NodeType,
    Provider,
    ProviderError,
    Scaling,
    ScalingError,
)

__all__ = [
    "Autoscaler",
    "Instance",
    "NodeType",
    "Provider",
    "ProviderError",
    "Scaling",
    "ScalingError",
]
