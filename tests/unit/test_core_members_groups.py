"""Members, the store's side: groups over nodes, and drains. (Whole clusters: tests/sim.)"""

from __future__ import annotations

import msgspec
import pytest

from shoal._core.members import interface as on
from shoal._core.members.group_table import GROUPS
from shoal._proto import membership as m
from shoal._proto.messages import Done, Failure
from shoal._proto.views import NodeRow
from tests.unit.members_by_hand import (
    NAMED,
    ROW,
    Cluster,
    state_of,
)

# ---- groups
GROUP = m.GroupSpec("g", [{"CPU": 1.0}, {"CPU": 1.0}], "STRICT_SPREAD", detached=True)


def prepare(cluster: Cluster, *nodes: str) -> None:
    for node in nodes:
        order = cluster.number_of(node, m.PrepareBundles)
        request = next(b for b in cluster.orders(node) if isinstance(b, m.PrepareBundles)).request
        cluster.fact(node, m.BundlesPrepared(order, "g", request, True))


def commit(cluster: Cluster, *nodes: str) -> None:
    for node in nodes:
        order = cluster.number_of(node, m.CommitBundles)
        request = next(b for b in cluster.orders(node) if isinstance(b, m.CommitBundles)).request
        cluster.fact(node, m.BundlesCommitted(order, "g", request))


def group_state(cluster: Cluster) -> str:
    return cluster.machine.groups.table.groups["g"].state


def test_a_group_is_prepared_then_committed_then_there() -> None:
    cluster = Cluster("a", "b")
    told = cluster.ask("a", GROUP)
    assert isinstance(told, m.GroupFacts) and told.state == "PENDING"
    prepare(cluster, "a")
    assert not any(isinstance(body, m.CommitBundles) for body in cluster.orders("a"))
    prepare(cluster, "b")
    commit(cluster, "a")
    assert group_state(cluster) == "PENDING"
    commit(cluster, "b")
    assert group_state(cluster) == "CREATED"
    assert cluster.machine.groups.table.bundle_nodes("g", 1) == ["b"]


def test_one_refusal_gives_everything_back_and_it_is_tried_again() -> None:
    cluster = Cluster("a", "b")
    cluster.ask("a", GROUP)
    request = next(b for b in cluster.orders("a") if isinstance(b, m.PrepareBundles)).request
    prepare(cluster, "a")
    order = cluster.number_of("b", m.PrepareBundles)
    cluster.fact("b", m.BundlesPrepared(order, "g", request, False, "no room"))
    assert m.ReleaseBundles("g", request) in cluster.orders("a")
    order = cluster.number_of("a", m.ReleaseBundles)
    cluster.fact("a", m.BundlesReleased(order, "g", request))
    cluster.now += 0.2
    cluster.step(on.AlarmRang())
    again = next(b for b in cluster.orders("b") if isinstance(b, m.PrepareBundles))
    assert again.request > request


@pytest.mark.parametrize("committed", [False, True])
@pytest.mark.parametrize("both", [False, True])
def test_a_restarted_store_comes_to_the_same(committed: bool, both: bool) -> None:
    """Any committed, or all prepared: it is there. Else it is released, and placed anew."""
    cluster = Cluster("a", "b", "c")
    cluster.ask("a", GROUP)
    request = next(b for b in cluster.orders("a") if isinstance(b, m.PrepareBundles)).request
    cluster.restart()
    cluster.report("a", whole=m.Whole([], [m.BundlesHere(GROUP, request, [0], committed)]))
    other = [m.BundlesHere(GROUP, request, [1], False)] if both else []
    cluster.report("b", whole=m.Whole([], other))
    cluster.report("c")
    for node in "abc":
        cluster.renew(node)
    wants_a = cluster.orders("a")
    if both:
        assert any(isinstance(body, m.CommitBundles) for body in cluster.orders("b"))
    if committed:
        assert not any(isinstance(body, m.ReleaseBundles) for body in wants_a)
        if not both:
            assert group_state(cluster) == "RESCHEDULING"
            prepared = [b for b in cluster.orders("b") if isinstance(b, m.PrepareBundles)]
            assert prepared and prepared[0].indexes == [1]
    elif both:
        assert any(isinstance(body, m.CommitBundles) for body in wants_a)
    else:
        assert m.ReleaseBundles("g", request) in wants_a


def test_the_bundles_of_a_lost_node_are_placed_again_and_the_others_stay() -> None:
    cluster = Cluster("a", "b", "c")
    cluster.ask("c", GROUP)
    prepare(cluster, "a", "b")
    commit(cluster, "a", "b")
    cluster.told.clear()
    cluster.step(on.Heard(m.Obituary("b", 1)))
    (body,) = [b for b in cluster.orders("c") if isinstance(b, m.PrepareBundles)]
    assert body.indexes == [1] and group_state(cluster) == "RESCHEDULING"
    prepare(cluster, "c")
    commit(cluster, "c")
    assert group_state(cluster) == "CREATED"


def test_a_removed_group_is_remembered_until_all_is_given_back_and_heard() -> None:
    cluster = Cluster("a", "b")
    passing = msgspec.structs.replace(GROUP, detached=False)
    cluster.ask("a", passing)
    assert (GROUPS, b"g") not in cluster.disk, "where it is the nodes know"
    prepare(cluster, "a", "b")
    commit(cluster, "a", "b")
    assert cluster.ask("b", m.RemoveGroup("g")) == Done()
    assert (GROUPS, b"g") in cluster.disk
    for node in "ab":
        release = next(b for b in cluster.orders(node) if isinstance(b, m.ReleaseBundles))
        assert release.is_removed
        order = cluster.number_of(node, m.ReleaseBundles)
        cluster.fact(node, m.BundlesReleased(order, "g", release.request))
    assert (GROUPS, b"g") in cluster.disk, "its creator could ask for it again"
    cluster.renew("a")
    cluster.fact("a", m.Took(cluster.number_of("a", m.GroupNews)))
    assert (GROUPS, b"g") not in cluster.disk


def test_an_actor_in_a_removed_group_ends() -> None:
    from shoal._proto.messages import InGroup

    cluster = Cluster("a", "b")
    cluster.ask("a", GROUP)
    cluster.ask("a", m.RegisterActor("x", hold={"CPU": 1.0}, strategy=InGroup("g", 0)))
    facts = cluster.machine.actors.table.find("x")
    assert facts is not None and facts.state == "PENDING", "it waits for its bundle"
    cluster.ask("a", m.RemoveGroup("g"))
    facts = cluster.machine.actors.table.find("x")
    assert facts is not None and facts.state == "DEAD"


# ---- drain
def test_a_drain_is_told_to_the_node_and_to_everybody() -> None:
    cluster = Cluster("a", "b")
    assert cluster.ask("b", m.DrainMember("a", 30.0)) == Done()
    assert m.DrainNode(30.0) in cluster.orders("a")
    cluster.ask("b", NAMED)
    assert cluster.number_of("b", m.OfferActor), "nothing new is offered to it"
    cluster.step(on.Heard(m.Obituary("a", 1, is_drained=True)))
    assert state_of(cluster, "a") == m.DRAINED


def test_a_drain_that_is_for_idle_nodes_is_refused_by_a_busy_one() -> None:
    cluster = Cluster("a", "b")
    row = NodeRow("a", total=ROW, free=ROW)
    busy = m.Standing(is_busy=True)
    cluster.step(on.Heard(m.Renew("a", 1, 2, cluster.life, row, busy)))
    told = cluster.ask("b", m.DrainMember("a", 30.0, only_if_idle=True))
    assert isinstance(told, m.DrainRefused) and state_of(cluster, "a") == m.ALIVE
    unknown = cluster.ask("b", m.DrainMember("zz", 30.0))
    assert isinstance(unknown, Failure) and b"shoal status" in unknown.record


def test_a_drain_goes_on_after_a_restart_of_the_store() -> None:
    cluster = Cluster("a", "b")
    cluster.ask("b", m.DrainMember("a", 30.0))
    cluster.restart()
    cluster.report("a")
    assert m.DrainNode(30.0) in cluster.orders("a")
