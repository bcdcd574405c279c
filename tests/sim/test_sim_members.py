"""Members of a cluster in simulated trouble: whole lives, and machines that are broken on purpose.

More seeds: `python -m shoal.testing.sim --members --seeds 5000`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import msgspec
import pytest

from shoal._core.members import interface as on
from shoal._core.members.actor_table import OFFERED, ActorTable, PlacedActor, is_lasting
from shoal._core.members.exchange import FactLog, Inbox
from shoal._core.members.groups import GroupPlaces
from shoal._core.members.lease import Lease
from shoal._core.members.node_side import MemberMachine
from shoal._core.members.nodes import NODES, Node, NodeTable
from shoal._core.members.outgoing import Outgoing
from shoal._core.members.placing_actors import ActorPlaces, Scene
from shoal._core.members.residents import Residents
from shoal._core.members.store_side import MembersMachine
from shoal._core.store import Effect
from shoal._proto import membership as m
from shoal.testing.sim.checkers import Violation
from shoal.testing.sim.members import FAULTS, SimMembers
from shoal.testing.sim.members_groups import SCENARIOS, Kill, TwoPhases, kills
from shoal.testing.sim.members_host import Host

SEEDS, AT_ONCE = 100, 20
Patch = pytest.MonkeyPatch


@pytest.mark.parametrize("first", range(0, SEEDS, AT_ONCE))
def test_members_in_trouble(first: int) -> None:
    for seed in range(first, first + AT_ONCE):
        # The machines look at themselves in every fourth run: that costs as much as the run.
        SimMembers(seed, validates=seed % 4 == 0).run()


def test_some_seeds_try_everything() -> None:
    """All faults happen; actors live several times, groups are made, nodes are declared dead."""
    faults: Counter[str] = Counter()
    lives = actors = groups = deaths = 0
    for seed in range(1000, 1010):
        report = SimMembers(seed, validates=False).run()
        faults.update(report.faults)
        lives, actors = lives + report.lives, actors + report.actors
        groups, deaths = groups + report.groups, deaths + report.deaths
    assert set(faults) == set(FAULTS)
    assert lives > 150 and actors > 200 and groups > 80 and deaths > 10


@pytest.mark.parametrize("way", ["refuses", "silent"])
def test_the_store_stays_away(way: str) -> None:
    """For three leases. If nobody listens where it was, named actors live on; if nothing is heard
    of its machine they end, and begin again when there is a store."""
    run = SimMembers(3, [], count=0)
    world = run.world
    world.store.is_silent = way == "silent"
    world.run(2.0)
    for _ in range(40):
        run.programs.act()
        world.run(world.now + 0.5)
    named = [asked for asked in world.oracle.actors.values() if is_lasting(asked.spec)]
    before = {id(life) for asked in named for life in asked.lives if life.ended > world.now}
    assert before
    world.store.stay_away(30.0)
    world.run(world.now + 30.0)
    ended = [life for asked in named for life in asked.lives if life.how == "lease"]
    living = {id(life) for asked in named for life in asked.lives if life.ended > world.now}
    assert (not living and ended) if way == "silent" else (before <= living and not ended)
    world.run(world.now + 30.0)
    world.oracle.check_quiet()


# ---- groups, with a kill after each message
@pytest.mark.parametrize("is_detached", [True, False])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_two_phases_with_a_kill_after_each_message(scenario: str, is_detached: bool) -> None:
    """Every third of them: ``test_sim_groups_together`` has all, with real machines of nodes."""
    every = list(kills(scenario, is_detached))
    assert len(every) > 50
    for number, kill in enumerate(every[::3]):
        phases = TwoPhases(scenario, is_detached, kill)
        phases.world.validates = number % 4 == 0
        try:
            phases.run()
        except (Violation, AssertionError) as error:
            raise Violation(f"{kill}: {error}") from error


# ---- broken on purpose
def deaths_are_declared_before_the_lease_is_over(monkeypatch: Patch) -> None:
    original = NodeTable._granted

    def granted(self: NodeTable, node: Node, now: float) -> None:
        original(self, node, now)
        self._silent.set(node.record.node, now + 6.0)

    monkeypatch.setattr(NodeTable, "_granted", granted)


def a_restarted_store_does_not_wait(monkeypatch: Patch) -> None:
    def served(self: NodeTable, now: float) -> None:
        self._acts_from = now
        for node in self.members():
            self._silent.set(node.record.node, now + 1.0)

    monkeypatch.setattr(NodeTable, "served", served)


def orders_of_a_former_store_are_followed(monkeypatch: Patch) -> None:
    original = MemberMachine._heard

    def heard(self: MemberMachine, now: float, body: m.ToNode) -> object:
        if isinstance(body, m.Orders) and body.store < self.store:
            body = msgspec.structs.replace(body, store=self.store)
        return original(self, now, body)

    monkeypatch.setattr(MemberMachine, "_heard", heard)


def late_orders_are_read(monkeypatch: Patch) -> None:
    original = Inbox.fresh

    def fresh(self: Inbox, orders: m.Orders) -> object:
        self._last = 0
        return original(self, msgspec.structs.replace(orders, settled_below=0))

    monkeypatch.setattr(Inbox, "fresh", fresh)


def what_was_refused_is_considered_again(monkeypatch: Patch) -> None:
    original = MemberMachine._happened

    def happened(self: MemberMachine, now: float, event: on.NodeEvent) -> object:
        if isinstance(event, on.OfferDecided) and not event.is_accepted:
            self._inbox._followed.discard(event.order)
        return original(self, now, event)

    monkeypatch.setattr(MemberMachine, "_happened", happened)


def the_lease_counts_from_the_answer(monkeypatch: Patch) -> None:
    original = MemberMachine._renewed

    def renewed(self: MemberMachine, now: float, number: int) -> object:
        original(self, now, number)
        self.lease.lease_from = self.lease._heard_from = now
        return [on.SetLease(self.lease.ends_at)]

    monkeypatch.setattr(MemberMachine, "_renewed", renewed)


def a_name_is_free_before_its_actor_has_ended(monkeypatch: Patch) -> None:
    original = ActorPlaces.end

    def end(self: ActorPlaces, actor: PlacedActor, cause: bytes, scene: Scene) -> None:
        self.table.by_name.pop((actor.spec.namespace, actor.spec.name), None)
        original(self, actor, cause, scene)

    monkeypatch.setattr(ActorPlaces, "end", end)


def offers_are_not_on_disk(monkeypatch: Patch) -> None:
    original = ActorTable.keep

    def keep(self: ActorTable, actor: PlacedActor, out: Outgoing) -> None:
        if actor.phase != OFFERED:
            original(self, actor, out)

    monkeypatch.setattr(ActorTable, "keep", keep)


def deaths_are_not_on_disk(monkeypatch: Patch) -> None:
    original = NodeTable.set_state

    def set_state(self: NodeTable, node: Node, state: str, why: str, effects: list[Effect]) -> None:
        original(self, node, state, why, [] if state == m.DEAD else effects)

    monkeypatch.setattr(NodeTable, "set_state", set_state)


def epochs_are_not_on_disk(monkeypatch: Patch) -> None:
    original = NodeTable._changed

    def changed(self: NodeTable, node: Node, effects: list[Effect]) -> None:
        count = len(effects)
        original(self, node, effects)
        if node.record.state == m.ALIVE:
            effects[count:] = [e for e in effects[count:] if e.kind != NODES]

    monkeypatch.setattr(NodeTable, "_changed", changed)


def it_joins_again_before_everything_has_ended(monkeypatch: Patch) -> None:
    original = MemberMachine._end_all

    def end_all(self: MemberMachine, why: str) -> object:
        return [*original(self, why), *self._ended(0.0)]

    monkeypatch.setattr(MemberMachine, "_end_all", end_all)


def a_suspect_is_dead(monkeypatch: Patch) -> None:
    original = MembersMachine.step

    def step(self: MembersMachine, now: float, event: on.StoreEvent) -> object:
        node = (
            self.nodes.living(event.node, event.epoch) if isinstance(event, on.Suspected) else None
        )
        if node is not None:
            self._lose(now, node, m.DEAD, "it is suspected")
        return original(self, now, event)

    monkeypatch.setattr(MembersMachine, "step", step)


def a_node_does_not_notice_that_it_was_stopped(monkeypatch: Patch) -> None:
    monkeypatch.setattr(Lease, "was_stopped", lambda self, now: None)
    monkeypatch.setattr(MemberMachine, "may_start", lambda self, now, spec: True)


def a_store_does_not_notice_that_it_was_stopped(monkeypatch: Patch) -> None:
    original = MembersMachine.step

    def step(self: MembersMachine, now: float, event: on.StoreEvent) -> object:
        self._alarm = None
        return original(self, now, event)

    monkeypatch.setattr(MembersMachine, "step", step)


def starts_go_on_under_an_old_lease(monkeypatch: Patch) -> None:
    monkeypatch.setattr(Lease, "may_start", lambda self, now: self.is_good(now))


def actors_outlive_the_lease(monkeypatch: Patch) -> None:
    monkeypatch.setattr(Host, "end_leased", lambda self: None)


def ends_are_not_told_to_another_store(monkeypatch: Patch) -> None:
    monkeypatch.setattr(FactLog, "unheard_ends", lambda self: [])


def facts_are_forgotten_when_they_are_sent(monkeypatch: Patch) -> None:
    original = FactLog.message

    def message(self: FactLog, *rest: object) -> object:
        found = original(self, *rest)  # type: ignore[arg-type]
        self.heard(self._sent_to)
        return found

    monkeypatch.setattr(FactLog, "message", message)


def a_new_store_is_told_of_no_actors(monkeypatch: Patch) -> None:
    original = Residents.whole

    def whole(self: Residents, gone: list[m.ActorGone]) -> object:
        return msgspec.structs.replace(original(self, gone), actors=[])

    monkeypatch.setattr(Residents, "whole", whole)


def a_new_store_is_told_of_no_bundles(monkeypatch: Patch) -> None:
    original = Residents.whole

    def whole(self: Residents, gone: list[m.ActorGone]) -> object:
        return msgspec.structs.replace(original(self, gone), bundles=[])

    monkeypatch.setattr(Residents, "whole", whole)


def it_is_settled_before_all_have_spoken(monkeypatch: Patch) -> None:
    monkeypatch.setattr(NodeTable, "is_all_reported", lambda self: True)


def committed_before_all_have_prepared(monkeypatch: Patch) -> None:
    def advance(self: GroupPlaces, group: object, scene: Scene) -> None:
        group.was_created = True  # type: ignore[attr-defined]
        self._commit(group, scene)  # type: ignore[arg-type]

    monkeypatch.setattr(GroupPlaces, "_advance", advance)


BROKEN_MEMBERS: list[tuple[Callable[[Patch], None], list[str], int]] = [
    (deaths_are_declared_before_the_lease_is_over, ["cut", "cut out"], 0),
    (a_restarted_store_does_not_wait, ["store killed", "cut", "slow"], 3),
    (orders_of_a_former_store_are_followed, ["store killed", "slow"], 0),
    (late_orders_are_read, ["slow", "actor killed"], 4),
    (what_was_refused_is_considered_again, ["lossy", "slow", "cut out"], 0),
    (the_lease_counts_from_the_answer, ["slow", "cut", "cut out"], 0),
    (a_name_is_free_before_its_actor_has_ended, ["slow", "lossy"], 0),
    (offers_are_not_on_disk, ["store killed", "cut", "actor killed"], 0),
    (deaths_are_not_on_disk, ["cut", "cut out"], 0),
    (epochs_are_not_on_disk, ["store killed"], 0),
    (it_joins_again_before_everything_has_ended, ["cut", "daemon stopped"], 0),
    (a_suspect_is_dead, ["suspected"], 0),
    (a_node_does_not_notice_that_it_was_stopped, ["daemon stopped"], 4),
    (a_store_does_not_notice_that_it_was_stopped, ["store stopped"], 2),
    (starts_go_on_under_an_old_lease, ["cut out", "daemon stopped", "cut in"], 5),
    (actors_outlive_the_lease, ["cut"], 2),
    (ends_are_not_told_to_another_store, ["store killed", "actor killed", "lossy"], 3),
    (facts_are_forgotten_when_they_are_sent, ["lossy"], 0),
    (a_new_store_is_told_of_no_actors, ["store killed"], 0),
    (a_new_store_is_told_of_no_bundles, ["store killed"], 0),
    (it_is_settled_before_all_have_spoken, ["store killed", "cut"], 0),
    (committed_before_all_have_prepared, [], 0),
]


@pytest.mark.parametrize(
    "broken, faults, first", BROKEN_MEMBERS, ids=[case[0].__name__ for case in BROKEN_MEMBERS]
)
def test_broken_members_are_caught(
    broken: Callable[[Patch], None], faults: list[str], first: int, monkeypatch: Patch
) -> None:
    """``first`` is a seed that shows it; others are tried if that is not so any more."""
    broken(monkeypatch)
    for seed in range(first, first + 40):
        try:
            SimMembers(seed, faults, count=20 if faults else 0, validates=False).run()
        except Violation as violation:
            assert str(violation)
            return
    pytest.fail("nobody noticed")


def a_refused_group_keeps_what_it_has(monkeypatch: Patch) -> None:
    def back_out(self: GroupPlaces, group: object, scene: Scene) -> None:
        for part in list(group.parts.values()):  # type: ignore[attr-defined]
            self.table.drop(group, part)  # type: ignore[arg-type]
        self._given_back(group, scene)  # type: ignore[arg-type]

    monkeypatch.setattr(GroupPlaces, "_back_out", back_out)


def removals_are_not_on_disk(monkeypatch: Patch) -> None:
    monkeypatch.setattr(GroupPlaces, "_given_back", lambda self, group, scene: None)


def a_restarted_store_commits_what_is_prepared_in_part(monkeypatch: Patch) -> None:
    def settle(self: GroupPlaces, group: object, scene: Scene) -> None:
        group.was_created = True  # type: ignore[attr-defined]
        self._commit(group, scene)  # type: ignore[arg-type]

    monkeypatch.setattr(GroupPlaces, "_settle", settle)


def lost_bundles_are_not_placed_again(monkeypatch: Patch) -> None:
    monkeypatch.setattr(GroupPlaces, "_after_loss", lambda self, group, lost, scene: None)


BROKEN_GROUPS = [
    a_refused_group_keeps_what_it_has,
    removals_are_not_on_disk,
    a_restarted_store_commits_what_is_prepared_in_part,
    lost_bundles_are_not_placed_again,
]


@pytest.mark.parametrize("broken", BROKEN_GROUPS)
def test_broken_groups_are_caught(broken: Callable[[Patch], None], monkeypatch: Patch) -> None:
    broken(monkeypatch)
    for scenario in SCENARIOS:
        for victim in ("store", "n1", "n2"):
            for message in range(1, 40):
                kill = Kill(scenario, victim, message, is_detached=True)
                try:
                    run = TwoPhases(scenario, True, kill)
                    run.world.validates = False
                    run.run()
                except (Violation, AssertionError, KeyError):
                    return
    pytest.fail("nobody noticed")
