"""The shell of the autoscaler: it looks, lets the machine decide, and tells provider and cluster.

One round each ``LOOK_S``: the tables of the local node daemon (which knows what the control store
knows), the instances of the provider, one step of ``_core.autoscaler.AutoscalerMachine``, its
commands. All of it may fail or be late: a look that fails is no look (the machine notices gaps), a
command that fails is told to the machine or repeated by it. Nothing is kept: kill it and start it
again, it finds what there is.

It runs beside the head's daemon (``shoal autoscale FILE``) and needs no key of its own: it joins
the session's unix socket like any other command of the same user.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from shoal import errors
from shoal._base import clock, ids
from shoal._core import autoscaler as core
from shoal._core.autoscaler import AutoscalerMachine
from shoal._core.autoscaler_fitting import Demand, GroupDemand, Rules
from shoal._core.resources import Amounts
from shoal._proto import messages
from shoal._runtime.observer import Observer
from shoal.cluster.provider import (
    REQUEST_LABEL,
    TYPE_LABEL,
    Provider,
    ProviderError,
    Scaling,
)

LOOK_S = 1.0
DRAIN_S = 5.0
"""An idle node has nothing to hand over."""

View = tuple[tuple[core.NodeRow, ...], tuple[Demand | GroupDemand, ...]]


class Autoscaler:
    """One cluster, one provider."""

    def __init__(
        self,
        scaling: Scaling,
        provider: Provider,
        socket_path: str,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        """The session whose daemon listens at ``socket_path`` is the cluster; ``tell`` gets one
        line for each thing that is done."""
        self._types = scaling.named_types()
        self._provider = provider
        self._path = socket_path
        self._tell = tell if tell is not None else lambda line: print(line, flush=True)
        self.machine = AutoscalerMachine(scaling.settings(), ids.new_session_id())
        self._said: dict[str, str] = {}

    def run(self, until: int) -> None:
        """Look until descriptor ``until`` is readable."""
        while not select.select([until], [], [], LOOK_S)[0]:
            self.look()

    def look(self) -> bool:
        """One round; False if it could not see everything."""
        try:
            with Observer(self._path) as observer:
                nodes, wanted = view(observer)
                instances = tuple(self._provider.instances())
                seen = core.Looked(nodes, instances, wanted)
                commands = self.machine.step(clock.now(), seen)
                for command in commands:
                    self._perform(observer, command)
        except (OSError, errors.ShoalError, ProviderError) as error:
            self._say("look", f"the cluster cannot be looked at: {error}")
            return False
        self._say("look", "")
        for unmet in self.machine.unmet:
            self._say(f"unmet {unmet.what}", f"waits: {described(unmet.what)}: {unmet.why}")
        return True

    def _perform(self, observer: Observer, command: core.Command) -> None:
        match command:
            case core.Launch(request, node_type):
                self._tell(f"asks for a node of type {node_type} (request {request})")
                try:
                    self._provider.launch(request, self._types[node_type])
                except ProviderError as error:
                    self._tell(f"there will be none: {error}")
                    self.machine.step(clock.now(), core.LaunchFailed(request, str(error)))
            case core.Drain(node, why):
                self._tell(f"drains node {node[:12]}: {why}")
                asked = messages.AskDrain(node, DRAIN_S, only_if_idle=True)
                try:
                    observer.ask(asked, messages.Done)
                except errors.ShoalError as error:
                    self._tell(f"it stays: {error}")
                    self.machine.step(clock.now(), core.DrainRefused(node, str(error)))
            case core.Terminate(instance, why):
                self._tell(f"gives {instance} back: {why}")
                try:
                    self._provider.terminate(instance)
                except ProviderError as error:
                    self._tell(f"not yet: {error}")  # and it is told again

    def _say(self, about: str, line: str) -> None:
        """Once, until it is something else."""
        if line and self._said.get(about) != line:
            self._tell(line)
        self._said[about] = line


def view(observer: Observer) -> View:
    """What the machine wants to know, out of a daemon's tables."""
    rows = observer.table("members")
    nodes = tuple(_node(row) for row in rows if row["role"] == "node")  # drivers run nothing
    wanted = tuple(_wanted(row) for row in observer.table("demand"))
    return nodes, wanted


def _node(row: Mapping[str, Any]) -> core.NodeRow:
    labels: Mapping[str, str] = row["labels"]
    return core.NodeRow(
        node=row["node_id"],
        total=_amounts(row["total_units"]),
        free=_amounts(row["free_units"]),
        state=row["state"].lower(),
        request=labels.get(REQUEST_LABEL, ""),
        node_type=labels.get(TYPE_LABEL, ""),
        labels=tuple(labels.items()),
        is_busy=row["is_busy"],
        primaries=row["primaries"],
        idle_s=row["idle_s"],
    )


def _wanted(row: Mapping[str, Any]) -> Demand | GroupDemand:
    if row["kind"] == "group":
        labels = tuple(_rules(each) for each in row.get("bundle_labels", ()))
        return GroupDemand(tuple(map(_amounts, row["bundles"])), row["strategy"], labels)
    return Demand(_amounts(row["units"]), row["count"], _rules(row["labels"]))


def _rules(alternatives: Sequence[Any]) -> Rules:
    return tuple(
        tuple(messages.LabelRule(key, operator, tuple(values)) for key, operator, values in each)
        for each in alternatives
    )


def _amounts(units: Mapping[str, int]) -> Amounts:
    return tuple(sorted((name, count) for name, count in units.items() if count))


def described(what: Demand | GroupDemand) -> str:
    """For people: ``3 x 2 CPU, 1 GPU``."""
    if isinstance(what, GroupDemand):
        bundles = "; ".join(map(_in_words, what.bundles))
        return f"a group ({what.strategy}) of {len(what.bundles)} bundles: {bundles}"
    return f"{what.count} x {_in_words(what.amounts)}"


def _in_words(amounts: Sequence[tuple[str, int]]) -> str:
    return ", ".join(f"{units / 10_000:g} {name}" for name, units in amounts) or "nothing"


def stop_pipe() -> tuple[int, int]:
    """(read end, write end) for ``run``: a signal's wake-up descriptor is the write end."""
    return os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)


def warn(line: str) -> None:
    """One line for whoever started it."""
    print(f"shoal: {line}", file=sys.stderr, flush=True)
