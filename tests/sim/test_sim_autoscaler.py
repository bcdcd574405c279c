"""The autoscaler in a simulated cluster, and broken ones that its checkers must catch."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec
import pytest

from shoal._core import autoscaler as core
from shoal._core.autoscaler import AutoscalerMachine, InstanceRow, Looked, NodeRow, Terminate
from shoal._core.autoscaler_fitting import Outcome
from shoal._core.resources import parse
from shoal.testing.sim import autoscaler as sim
from shoal.testing.sim.autoscaler_checkers import Violation

Patch = pytest.MonkeyPatch
SEEDS = (*range(10), 16)
BROKEN_SEEDS = (16, 9, 6, *range(40))
"""Those that show most come first; nothing is wrong in them (they are among ``SEEDS``)."""


@pytest.mark.timeout(300)
def test_nothing_is_wrong() -> None:
    counts = dict.fromkeys((*sim.FAULTS, "refused", "terminated"), 0)
    for seed in SEEDS:
        try:
            cluster = sim.run(seed)
        except (Violation, AssertionError) as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        for kind in counts:
            counts[kind] += cluster.counts[kind]
    assert min(counts.values()) > 0, f"not everything has happened: {counts}"


def tasks(count: int, cpus: float, for_s: float) -> list[tuple[float, sim.Work]]:
    return [(20.0, sim.Work((parse({"CPU": cpus}),), "", for_s)) for _ in range(count)]


def test_no_more_nodes_than_needed() -> None:
    """16 tasks of one CPU: the one small node that is kept, and three more, or a large one."""
    cluster = sim.steady(1, tasks(16, 1, 60.0), 200.0)
    assert sorted(cluster.requests.values()) in (["small"] * 4, ["large", "small"])


def test_a_load_that_comes_and_goes_does_not_make_nodes_come_and_go() -> None:
    """5 s of work every 20 s, and nodes go after 30 idle seconds."""
    works = [(at, work) for at in range(20, 600, 20) for _, work in tasks(8, 1, 5.0)]
    cluster = sim.steady(2, works, 620.0)
    assert len(cluster.requests) <= 2 and cluster.counts["terminated"] == 0


def test_a_large_cluster_costs_little() -> None:
    """Looks of a thousand nodes: what one costs, in lines of the machine, grows with the nodes and
    not with the tasks."""
    machine = AutoscalerMachine(msgspec.structs.replace(sim.SETTINGS, nodes_most=5000), "x")
    total = parse({"CPU": 4})
    nodes = tuple(NodeRow(f"n{i}", total, total, request=f"r{i}") for i in range(1000))
    instances = tuple(InstanceRow(f"i{i}", f"r{i}", "small", core.RUNNING) for i in range(1000))
    wanted = tuple(sim.Demand(parse({"CPU": n}), 10**6) for n in (1, 2, 3))
    for now in range(5):
        machine.step(float(now), Looked(nodes, instances, wanted))
    assert all(each.count > 900_000 for each in machine.unmet)


# ---- broken on purpose
def nodes_go_without_a_drain(monkeypatch: Patch) -> None:
    def drain(self: AutoscalerMachine, now: float, node: str, idle_s: float) -> list[Terminate]:
        return [Terminate(node.removeprefix("n-"), "idle")]

    monkeypatch.setattr(AutoscalerMachine, "_drain", drain)


def drained_means_empty(monkeypatch: Patch) -> None:
    original = AutoscalerMachine._shrink

    def shrink(
        self: AutoscalerMachine,
        now: float,
        seen: Looked,
        by_request: Mapping[str, NodeRow],
        outcome: Outcome,
    ) -> list[core.Command]:
        empty = {
            request: msgspec.structs.replace(row, is_busy=False, primaries=0)
            if row.state == core.DRAINED
            else row
            for request, row in by_request.items()
        }
        return original(self, now, seen, empty, outcome)

    monkeypatch.setattr(AutoscalerMachine, "_shrink", shrink)


def what_is_on_its_way_does_not_count(monkeypatch: Patch) -> None:
    def count(self: AutoscalerMachine, seen: Looked) -> core.Counter[str]:
        return core.Counter(row.node_type for row in seen.nodes if row.state == core.ALIVE)

    monkeypatch.setattr(AutoscalerMachine, "_count", count)


def what_is_on_its_way_is_no_room(monkeypatch: Patch) -> None:
    original = AutoscalerMachine._bins

    def bins(self: AutoscalerMachine, seen: Looked, least: list[str]) -> list[core.Bin]:
        names = {row.node for row in seen.nodes}
        return [bin for bin in original(self, seen, least) if bin.name in names]

    monkeypatch.setattr(AutoscalerMachine, "_bins", bins)
    monkeypatch.setattr(
        AutoscalerMachine, "_allowed", lambda self, now, outcome, seen: list(outcome.new)
    )


def what_is_short_does_not_count(monkeypatch: Patch) -> None:
    """As it was: work that began and ended between two rows was never seen."""
    original = sim.FakeNode.row

    def row(self: sim.FakeNode, settings: core.Settings, now: float) -> NodeRow:
        return msgspec.structs.replace(original(self, settings, now), idle_s=float("inf"))

    monkeypatch.setattr(sim.FakeNode, "row", row)


def failures_are_not_held_back(monkeypatch: Patch) -> None:
    monkeypatch.setattr(AutoscalerMachine, "held_back", lambda self, now: {})


def lost_requests_are_waited_for(monkeypatch: Patch) -> None:
    monkeypatch.setattr(AutoscalerMachine, "_repeat", lambda self, now, instances: [])


def terminations_are_said_once(monkeypatch: Patch) -> None:
    original = AutoscalerMachine._repeat

    def repeat(
        self: AutoscalerMachine, now: float, instances: tuple[InstanceRow, ...]
    ) -> list[core.Command]:
        out = original(self, now, instances)
        return [each for each in out if not isinstance(each, Terminate)]

    monkeypatch.setattr(AutoscalerMachine, "_repeat", repeat)


def the_dead_are_kept(monkeypatch: Patch) -> None:
    original = AutoscalerMachine._give_back

    def give_back(
        self: AutoscalerMachine, now: float, instance: InstanceRow, why: str
    ) -> list[core.Command]:
        return [] if "lost" in why else original(self, now, instance, why)

    monkeypatch.setattr(AutoscalerMachine, "_give_back", give_back)


def who_never_joins_is_kept(monkeypatch: Patch) -> None:
    original = AutoscalerMachine._give_back

    def give_back(
        self: AutoscalerMachine, now: float, instance: InstanceRow, why: str
    ) -> list[core.Command]:
        has_joined = "lost" in why or "drained" in why
        return original(self, now, instance, why) if has_joined else []

    monkeypatch.setattr(AutoscalerMachine, "_give_back", give_back)


def the_least_goes_too(monkeypatch: Patch) -> None:
    original = AutoscalerMachine._staying
    monkeypatch.setattr(
        AutoscalerMachine, "_staying", lambda self, name, seen: original(self, name, seen) + 1
    )


def each_repetition_is_a_new_request(monkeypatch: Patch) -> None:
    original = AutoscalerMachine._repeat

    def repeat(
        self: AutoscalerMachine, now: float, instances: tuple[InstanceRow, ...]
    ) -> list[core.Command]:
        out: list[core.Command] = []
        for each in original(self, now, instances):
            if isinstance(each, core.Launch):
                each = core.Launch(f"{each.request}.{now}", each.node_type)
            out.append(each)
        return out

    monkeypatch.setattr(AutoscalerMachine, "_repeat", repeat)


VARIANTS = [
    nodes_go_without_a_drain,
    drained_means_empty,
    what_is_on_its_way_does_not_count,
    what_is_on_its_way_is_no_room,
    what_is_short_does_not_count,
    failures_are_not_held_back,
    lost_requests_are_waited_for,
    terminations_are_said_once,
    the_dead_are_kept,
    who_never_joins_is_kept,
    the_least_goes_too,
    each_repetition_is_a_new_request,
]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("break_it", VARIANTS, ids=lambda variant: variant.__name__)
def test_what_is_broken_is_caught(break_it: Callable[[Patch], None], monkeypatch: Patch) -> None:
    break_it(monkeypatch)
    monkeypatch.setattr(AutoscalerMachine, "validate", lambda self: None)
    for seed in BROKEN_SEEDS:
        try:
            sim.run(seed)
        except Violation as caught:
            print(seed, caught)
            return
    pytest.fail(f"{break_it.__name__} was not noticed in {len(BROKEN_SEEDS)} seeds")
