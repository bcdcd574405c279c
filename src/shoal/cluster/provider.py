"""The interface through which nodes are asked for and given back, and what may be asked for.

A provider has *instances*: machines, containers, processes, jobs of a batch system. The autoscaler
makes a request, whose id it chooses, and later finds an instance for it; the node that runs there
joins the cluster by itself, with two labels that say which request it is the answer to::

    launch("7f2a-3", type) ---->  instance "i-0b9", request "7f2a-3", starting
                                      |  shoal start --address ... --token-file ...
                                      v
                                  node with labels shoal.io/request=7f2a-3,
                                                   shoal.io/node-type=<type.name>
    terminate("i-0b9")   ------>  ending, and not listed any more (or ended) when it is gone

What a provider must promise:

1. ``launch`` makes at most one instance for a request, however often it is called and whoever dies
   in between: the id is kept where the instance is (a tag, a file). A repeated one does nothing.
2. ``terminate`` may be called for what has ended already.
3. ``instances`` may be some seconds old, but shows everything that costs something, also what an
   earlier life of this program has asked for. What is not listed does not exist.
4. Nothing blocks for long: what takes time goes on behind an instance that is *starting*.
5. An instance is ended together with all that runs in it.
6. The cluster's secret is handed to an instance by a file that only its owner reads, never as an
   argument or a variable of the environment.
"""

from __future__ import annotations

import re
import tomllib
from typing import Any, Protocol

import msgspec

from shoal._core import autoscaler as core
from shoal._core.autoscaler import InstanceRow as Instance
from shoal._core.autoscaler_fitting import NodeType as CoreType
from shoal._core.resources import AmountError, parse

REQUEST_LABEL = "shoal.io/request"
TYPE_LABEL = "shoal.io/node-type"
STARTING, RUNNING, ENDING, ENDED = core.STARTING, core.RUNNING, core.ENDING, core.ENDED

__all__ = [
    "ENDED",
    "ENDING",
    "REQUEST_LABEL",
    "RUNNING",
    "STARTING",
    "TYPE_LABEL",
    "Instance",
    "NodeType",
    "Provider",
    "ProviderError",
    "Scaling",
    "ScalingError",
    "read_scaling",
]


class ProviderError(Exception):
    """The provider cannot do what was asked, and will not by itself: one line that says why."""


class ScalingError(ValueError):
    """The configuration of the autoscaler cannot be meant; the text says where and why."""


class NodeType(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A kind of node that may be asked for."""

    name: str = ""
    resources: dict[str, float] = {}
    """``CPU``, ``GPU``, ``memory`` (bytes) and names of one's own."""
    labels: dict[str, str] = {}
    min: int = 0
    max: int = 0
    options: dict[str, Any] = {}
    """What only its provider understands."""


class Provider(Protocol):
    """Whoever has nodes to give."""

    def launch(self, request: str, node_type: NodeType) -> None:
        """Begin to make one node; raises ProviderError if there will be none."""

    def terminate(self, instance: str) -> None:
        """Begin to end one; raises ProviderError if that cannot be done now."""

    def instances(self) -> list[Instance]:
        """All that there are, and those that have ended of late."""

    def close(self) -> None:
        """Nothing more is wanted; instances live on."""


class Scaling(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ``shoal autoscale`` is told: a file of TOML.

    ::

        provider = "processes"
        max_nodes = 8

        [types.small]
        resources = {CPU = 2}
        max = 6
    """

    types: dict[str, NodeType]
    provider: str = "processes"
    max_nodes: int = 100
    idle_timeout_s: float = 300.0
    join_timeout_s: float = 300.0
    patience_s: float = 2.0
    upscaling_speed: float = 1.0
    options: dict[str, Any] = {}
    """What only the provider understands."""

    def settings(self) -> core.Settings:
        """The same for the machine that decides.

        Raises:
            ScalingError: something in it cannot be meant.
        """
        types = []
        for name, each in self.types.items():
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", name):
                raise ScalingError(f"a node type must have a simple name, not {name!r}")
            if not 0 <= each.min <= each.max:
                raise ScalingError(
                    f"types.{name}: min is {each.min} and max {each.max};"
                    " it must be 0 <= min <= max"
                )
            try:
                total = parse(each.resources)
            except AmountError as error:
                raise ScalingError(f"types.{name}.resources: {error}") from None
            labels = {**each.labels, TYPE_LABEL: name}
            types.append(CoreType(name, total, tuple(labels.items()), each.min, each.max))
        if not types:
            raise ScalingError("there is no [types.NAME]: nothing could be asked for")
        for name in ("idle_timeout_s", "join_timeout_s", "upscaling_speed", "max_nodes"):
            if getattr(self, name) <= 0:
                raise ScalingError(f"{name} must be more than 0")
        return core.Settings(
            types=tuple(types),
            nodes_most=self.max_nodes,
            idle_timeout_s=self.idle_timeout_s,
            patience_s=self.patience_s,
            speed=self.upscaling_speed,
            join_timeout_s=self.join_timeout_s,
        )

    def named_types(self) -> dict[str, NodeType]:
        """The types, each with its name in it."""
        return {name: msgspec.structs.replace(each, name=name) for name, each in self.types.items()}


def read_scaling(text: str) -> Scaling:
    """Read a configuration.

    Raises:
        ScalingError: it is not TOML, or says what nobody understands.
    """
    try:
        found = msgspec.convert(tomllib.loads(text), Scaling)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ScalingError(str(error)) from None
    found.settings()
    return found
