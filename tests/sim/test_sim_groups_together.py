"""The two phases of a group with the real machine of every node, and a kill after each message.

``testing.sim.members_groups`` has the scenarios and the rules; there a node's room is a model. Here
it is a ``NodeMachine``, told by what tells it in the daemon (``daemon_groups_abroad``). After every
run what the store believes of a node, what the node's members machine has and what its node machine
has reserved is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from shoal._base.config import Limits, NodeConfig
from shoal._core import commands as do
from shoal._core import events as seen
from shoal._core import reactions_shared_groups as reactions
from shoal._core.members import interface as on
from shoal._core.node import NodeMachine
from shoal._core.tables import NodeTables
from shoal._proto import membership as m
from shoal._proto.views import NodeRow
from shoal._runtime.daemon_groups_abroad import GroupsAbroad
from shoal.testing.sim import members_node
from shoal.testing.sim.checkers import Violation
from shoal.testing.sim.members_groups import SCENARIOS, TwoPhases, kills
from shoal.testing.sim.members_host import Host, Reserved


class MachineHost(Host):
    """A node whose bundles are those of its ``NodeMachine``."""

    def __init__(self, world: Any, name: str, cpus: float, around: Any) -> None:
        super().__init__(world, name, cpus, around)
        node_id = name.encode().ljust(16, b"\0")
        config = NodeConfig(
            session="s",
            directory="/d",
            node_id=node_id,
            total={"CPU": cpus},
            cores=int(cpus),
            limits=Limits(),
            in_cluster=True,
        )
        self.machine = NodeMachine(config)
        self._orders: dict[int, m.PrepareBundles] = {}
        cluster: Any = SimpleNamespace(
            rows=SimpleNamespace(node_id=name, epoch=0),
            ask=self._ask,
            happened=self._happened,
            ask_room=lambda: None,
        )
        self._groups = GroupsAbroad(cluster, self._tell)
        self._follow = cluster.groups_told

    def _tell(self, event: seen.AnyEvent) -> None:
        """One step, and what the daemon would do."""
        for command in self.machine.step(self._world.now, event):
            match command:
                case do.AskStore():
                    self._groups.perform_ask_store(command)
                case do.SayReserved():
                    self._groups.perform_say_reserved(command)
                case do.SayGivenBack():
                    self._groups.perform_say_given_back(command)
                case do.SetAlarm(at):
                    delay_s = max(0.0, at - self._world.now)
                    self._around.after(delay_s, lambda: self._tell(seen.AlarmRang()))

    def _ask(self, body: m.AskBody, then: Any) -> None:
        self._world.nodes[self.name].ask(body, then)

    def _happened(self, event: on.BundlesDecided | on.BundlesFreed) -> None:
        if isinstance(event, on.BundlesFreed):
            self.bundles.pop((event.group_id, event.request), None)
        elif event.is_accepted:
            body = self._orders.pop(event.order)
            grants: Any = dict.fromkeys(body.indexes)
            self.bundles[body.spec.group_id, body.request] = Reserved(body, grants, {})
        self._around.post(event)
        self.row()

    # ---- as the daemon of a real node follows them
    def reserve(self, command: on.ReserveBundles) -> None:
        self._orders[command.order] = command.body
        self._follow(command)

    def open(self, command: on.OpenBundles) -> None:
        self._follow(command)
        super().open(command)

    def free(self, command: on.FreeBundles) -> None:
        self._follow(command)

    def news(self, command: on.NewsHeard) -> None:
        self._follow(command)
        super().news(command)

    def heard(self, spec: m.GroupSpec) -> None:
        for part in self.machine.tables.groups.parts.values():
            if (reserved := self.bundles.get((part.spec.group_id, part.request))) is not None:
                grants: Any = dict.fromkeys(part.indexes)
                reserved.grants = grants

    def end_everything(self) -> None:
        self._groups.end("given up")
        super().end_everything()

    def row(self) -> None:
        if not hasattr(self, "machine"):
            return
        free = self.machine.tables.scheduler.held.available()
        row = NodeRow(self.name, total=dict(self.machine.tables.account.total), free=free)
        self._around.post(on.RowChanged(row, m.Standing()))

    def check(self) -> None:
        """All three have the same of it."""
        self.machine.validate()
        parts = self.machine.tables.groups.parts
        assert {(p.spec.group_id, p.request) for p in parts.values()} == set(self.bundles)
        assert all(part.accounts and not part.is_ending for part in parts.values())
        held = sum(len(part.indexes) for part in parts.values()) * 3.0
        free = self.machine.tables.scheduler.held.available()["CPU"] / 10_000
        assert free == self._cpus - held, (free, held)


def play(scenario: str, is_detached: bool) -> int:
    """All kills of a scenario; how many runs. Raises Violation."""
    runs = 0
    for kill in kills(scenario, is_detached):
        phases = TwoPhases(scenario, is_detached, kill)
        # The members' machines look at themselves in every fourth run: that costs half of it.
        phases.world.validates = runs % 4 == 0
        try:
            phases.run()
            for node in phases.world.living():
                node.host.check()
                node.machine.validate()
        except (Violation, AssertionError) as error:
            raise Violation(f"{kill}: {error}") from error
        runs += 1
    return runs


@pytest.mark.parametrize("is_detached", [True, False])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_kill_after_each_message_leaves_nothing_reserved(
    scenario: str, is_detached: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(members_node, "Host", MachineHost)
    assert play(scenario, is_detached) > 50


# ---- broken on purpose
def what_is_given_back_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def give_back_due(t: NodeTables) -> list[do.Command]:
        out: list[do.Command] = []
        for key in sorted(t.groups.part_ends):
            part = t.groups.parts[key]
            part.is_ending = False
            out.append(do.SayGivenBack(part.spec.group_id, part.request))
        t.groups.part_ends.clear()
        return out

    monkeypatch.setattr(reactions, "give_back_due", give_back_due)


def a_try_that_failed_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    original = reactions.on_unwanted

    def on_unwanted(t: NodeTables, now: float, event: seen.BundlesUnwanted) -> list[do.Command]:
        if not event.is_removed:
            return [do.SayGivenBack(event.group_id, event.request)]
        return original(t, now, event)

    monkeypatch.setattr(reactions, "on_unwanted", on_unwanted)


def too_much_is_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    original = reactions.on_wanted

    def on_wanted(t: NodeTables, now: float, event: seen.BundlesWanted) -> list[do.Command]:
        every = tuple(range(len(event.spec.bundles)))
        return original(t, now, msgspec.structs.replace(event, indexes=every))

    monkeypatch.setattr(reactions, "on_wanted", on_wanted)


@pytest.mark.parametrize(
    ("broken", "scenario"),
    [
        (what_is_given_back_is_kept, "remove"),
        (a_try_that_failed_is_kept, "create"),
        (too_much_is_reserved, "create"),
    ],
)
def test_broken_nodes_are_caught(
    broken: Callable[[pytest.MonkeyPatch], None], scenario: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(members_node, "Host", MachineHost)
    broken(monkeypatch)
    with pytest.raises(Violation):
        play(scenario, is_detached=True)
