"""Placement groups of a cluster that are resized: real daemons on three nodes, and one more."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

import shoal
from shoal import errors
from shoal.testing import Cluster
from shoal.testing.polling import wait_until
from shoal.util import placement_group, placement_group_table, remove_placement_group
from shoal.util.scheduling_strategies import PlacementGroupSchedulingStrategy as InGroup
from tests.cluster import two_nodes
from tests.cluster.conftest import looked_around
from tests.cluster.test_groups_losses import store_pid

LONG_S = 60.0
CPU = {"CPU": 1.0}


@shoal.remote
def where() -> str:
    return str(shoal.get_runtime_context().get_node_id())


@shoal.remote
def sleep_long() -> None:
    time.sleep(600)


@shoal.remote
class Member:
    def where(self) -> str:
        return str(shoal.get_runtime_context().get_node_id())


@shoal.remote(num_cpus=0, resources={"third": 0.1})
def add_from_there(group: Any) -> list[int]:
    added: list[int] = group.add_bundles([CPU])
    assert group.wait(LONG_S)
    return added


@pytest.fixture(scope="module", autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """The look around comes after the last test: the cluster lives that long."""
    with looked_around():
        yield


@pytest.fixture(scope="module")
def three(_nothing_is_left: None) -> Iterator[Cluster]:
    with Cluster() as made:
        made.add_node(num_cpus=2)
        made.add_node(num_cpus=2)
        made.add_node(num_cpus=2, resources={"third": 1})
        yield made


@pytest.fixture
def cluster(three: Cluster) -> Iterator[Cluster]:
    """The test is a driver on the first node; what it has added goes."""
    nodes = list(three.nodes)
    with two_nodes.driven(three.head, nodes):
        yield three
    for added in [node for node in three.nodes if node not in nodes]:
        three.remove_node(added)


def get(refs: Any) -> Any:
    return shoal.get(refs, timeout=LONG_S)


def at(group: Any, *indexes: int) -> list[str]:
    """The nodes of these bundles, by what runs there."""
    inside = [InGroup(group, index) for index in indexes]
    found: list[str] = get([where.options(scheduling_strategy=each).remote() for each in inside])
    return found


def all_is_free(cpus: float) -> None:
    assert wait_until(lambda: shoal.available_resources().get("CPU") == cpus, LONG_S)


def test_it_grows_over_the_nodes_and_shrinks(cluster: Cluster) -> None:
    group = placement_group([CPU], strategy="STRICT_SPREAD")
    assert group.add_bundles([CPU, CPU]) == [1, 2]
    assert group.wait(LONG_S), shoal.state.why(group)
    assert len(set(at(group, 0, 1, 2))) == 3
    actors = [
        Member.options(num_cpus=0, scheduling_strategy=InGroup(group, index)).remote()
        for index in range(3)
    ]
    homes = get([actor.where.remote() for actor in actors])
    assert homes == at(group, 0, 1, 2)
    runs = sleep_long.options(num_cpus=0, scheduling_strategy=InGroup(group, 1)).remote()
    group.remove_bundles([1])
    with pytest.raises(errors.GroupRemovedError, match="bundle 1 was removed"):
        get(runs)
    with pytest.raises(errors.ActorGroupRemovedError):
        get(actors[1].where.remote())
    assert get([actors[0].where.remote(), actors[2].where.remote()]) == [homes[0], homes[2]]
    all_is_free(4.0)
    assert get(add_from_there.remote(group)) == [3]
    assert at(group, 3) == [homes[1]], "the only node that has none"
    remove_placement_group(group)
    all_is_free(6.0)


def test_what_the_cluster_has_not_is_waited_for_and_the_rest_goes_on(cluster: Cluster) -> None:
    group = placement_group([CPU] * 3, strategy="STRICT_SPREAD")
    assert group.wait(LONG_S)
    (index,) = group.add_bundles([CPU])
    assert not group.wait(0.2) and placement_group_table(group)["state"] == "RESCHEDULING"
    waits = where.options(scheduling_strategy=InGroup(group, index)).remote()
    before = at(group, 0, 1, 2)
    cluster.add_node(num_cpus=2)
    assert get(waits) not in before and group.wait(LONG_S)


def test_a_store_that_is_killed_forgets_no_resize(cluster: Cluster) -> None:
    group = placement_group([CPU, CPU], strategy="SPREAD")
    assert group.wait(LONG_S)
    group.add_bundles([CPU])
    group.remove_bundles([0])
    os.kill(store_pid(cluster), signal.SIGKILL)
    assert group.wait(LONG_S) and len(at(group, 1, 2)) == 2
    assert group.add_bundles([CPU]) == [3] and group.wait(LONG_S)
    assert placement_group_table(group)["bundles"] == {1: CPU, 2: CPU, 3: CPU}
    remove_placement_group(group)
    all_is_free(6.0)
