"""Placement groups over the nodes of a cluster: real daemons, and the audit of all of them after
every test. What becomes of a group whose node is lost stands in ``test_groups_losses``.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
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

LONG_S = 60.0
CPU = {"CPU": 1.0}


@pytest.fixture(scope="module", autouse=True)
def _nothing_is_left() -> Iterator[None]:
    with looked_around():
        yield


@pytest.fixture(scope="module")
def cluster(_nothing_is_left: None) -> Iterator[Cluster]:
    """Of three: the first has a program, the third has most."""
    with Cluster() as made:
        made.add_node(num_cpus=2)
        made.add_node(num_cpus=2, labels={"zone": "b"}, resources={"there": 1})
        made.add_node(num_cpus=4, num_gpus=2)
        yield made


@pytest.fixture(autouse=True)
def _driver(cluster: Cluster) -> Iterator[None]:
    with two_nodes.driven(cluster.head, cluster.nodes):
        yield


def get(refs: Any) -> Any:
    return shoal.get(refs, timeout=LONG_S)


def made(*bundles: dict[str, float], **given: Any) -> Any:
    """A group that has its place."""
    group = placement_group(list(bundles), **given)
    assert group.wait(LONG_S), shoal.state.why(group)
    return group


def nodes_of(group: Any) -> list[str]:
    """Names of the nodes of its bundles."""
    return named(placement_group_table(group)["bundles_to_node_id"].values())


def named(nodes: Iterable[str]) -> list[str]:
    """What people call them."""
    names = two_nodes.names()
    return [names[node] for node in nodes]


def at(refs: list[Any]) -> list[str]:
    """Names of the nodes that these have run on."""
    return named(get(refs))


def free() -> dict[str, float]:
    return {str(name): amount for name, amount in shoal.available_resources().items()}


@shoal.remote
def where(*_: Any) -> str:
    return str(shoal.get_runtime_context().get_node_id())


@shoal.remote
def nap(seconds: float) -> str:
    time.sleep(seconds)
    return str(shoal.get_runtime_context().get_node_id())


@shoal.remote
class Place:
    def where(self) -> str:
        return str(shoal.get_runtime_context().get_node_id())


# ---- where bundles go, and what runs in them
def test_strict_spread_has_a_node_for_each_and_tasks_run_there() -> None:
    group = made(CPU, CPU, CPU, strategy="STRICT_SPREAD")
    found = nodes_of(group)
    assert sorted(found) == ["node-1", "node-2", "node-3"]
    for index, name in enumerate(found):
        assert at([where.options(scheduling_strategy=InGroup(group, index)).remote()]) == [name]
    refs = [nap.options(scheduling_strategy=InGroup(group)).remote(0.1) for _ in range(12)]
    assert set(at(refs)) == set(found), "any bundle: all of them"
    assert get(group.ready()) == group
    assert wait_until(lambda: free()["CPU"] == 5, LONG_S)


@pytest.mark.parametrize(
    ("strategy", "count", "nodes"),
    [("PACK", 3, 1), ("PACK", 7, 3), ("SPREAD", 3, 3), ("SPREAD", 6, 3), ("STRICT_PACK", 4, 1)],
)
def test_strategies(strategy: str, count: int, nodes: int) -> None:
    assert wait_until(lambda: free()["CPU"] == 8, LONG_S)
    found = nodes_of(made(*[CPU] * count, strategy=strategy))
    assert len(found) == count and len(set(found)) == nodes, found


def test_labels_custom_resources_and_gpus() -> None:
    labelled = made(CPU, bundle_label_selector=[{"zone": "b"}])
    assert nodes_of(labelled) == ["node-2"]
    group = made({"there": 0.5}, {"GPU": 1, "CPU": 1}, {"GPU": 1}, strategy="PACK")
    assert nodes_of(group) == ["node-2", "node-3", "node-3"]

    @shoal.remote(num_gpus=1, num_cpus=0)
    def gpus() -> list[str]:
        return list(shoal.get_runtime_context().get_accelerator_ids()["GPU"])

    ids = [
        get(gpus.options(scheduling_strategy=InGroup(group, index)).remote()) for index in (1, 2)
    ]
    assert sorted(ids) == [["0"], ["1"]]
    task = where.options(
        num_cpus=0, resources={"there": 0.5}, scheduling_strategy=InGroup(group, 0)
    )
    assert at([task.remote()]) == ["node-2"]


def test_a_bundle_is_no_larger_than_it_is() -> None:
    group = made(CPU, CPU, CPU, strategy="STRICT_SPREAD")
    index = nodes_of(group).index("node-3")
    begun = time.monotonic()
    refs = [nap.options(scheduling_strategy=InGroup(group, index)).remote(0.2) for _ in range(4)]
    assert set(at(refs)) == {"node-3"}
    assert time.monotonic() - begun >= 0.8, "one after the other, though the node has more"


def test_children_are_captured_by_the_group_and_not_by_their_node() -> None:
    group = made(CPU, CPU, CPU, strategy="STRICT_SPREAD")
    index = nodes_of(group).index("node-2")

    @shoal.remote(num_cpus=0.5)
    def parent(count: int) -> tuple[list[str], bool]:
        current = shoal.util.get_current_placement_group()
        found = shoal.get([nap.options(num_cpus=0.5).remote(0.1) for _ in range(count)])
        return found, current is not None and current.bundle_count == 3

    held = InGroup(group, index, placement_group_capture_child_tasks=True)
    found, is_inside = get(parent.options(scheduling_strategy=held).remote(12))
    assert is_inside and len(set(found)) > 1, "its children have all of the group"


def test_actors_live_in_their_bundles() -> None:
    group = made(CPU, CPU, CPU, strategy="STRICT_SPREAD")
    found = nodes_of(group)
    for index, name in enumerate(found):
        actor = Place.options(num_cpus=0.5, scheduling_strategy=InGroup(group, index)).remote()
        assert at([actor.where.remote()]) == [name]
        del actor
    either = [Place.options(num_cpus=1, scheduling_strategy=InGroup(group)) for _ in range(3)]
    actors = [each.remote() for each in either]
    assert sorted(at([actor.where.remote() for actor in actors])) == sorted(found)
    waits = either[0].remote().where.remote()
    assert shoal.wait([waits], timeout=0.5) == ([], [waits]), "every bundle is full"
    shoal.kill(actors.pop())
    assert at([waits])[0] in found


def test_actors_of_any_bundle_fill_all_of_them_again_and_again() -> None:
    group = made(*[CPU] * 6, strategy="SPREAD")
    found = sorted(nodes_of(group))
    anywhere = Place.options(num_cpus=1, scheduling_strategy=InGroup(group))
    for _ in range(3):
        actors = [anywhere.remote() for _ in range(6)]
        assert sorted(at([actor.where.remote() for actor in actors])) == found
        del actors
        tasks = [where.options(scheduling_strategy=InGroup(group)).remote() for _ in range(6)]
        assert set(at(tasks)) <= set(found)


def test_a_task_on_another_node_uses_a_group_and_makes_one() -> None:
    group = made(CPU, CPU, strategy="STRICT_SPREAD")
    there = {"resources": {"there": 0.1}, "num_cpus": 0}

    @shoal.remote(**there)
    def use(group: Any) -> tuple[list[str], str]:
        tasks = [where.options(scheduling_strategy=InGroup(group, index)) for index in (0, 1)]
        found = shoal.get([task.remote() for task in tasks])
        return found, str(placement_group_table(group)["state"])

    found, state = get(use.remote(group))
    assert (named(found), state) == (nodes_of(group), "CREATED")

    @shoal.remote(**there)
    def make() -> list[str]:
        inner = placement_group([CPU, CPU, CPU], strategy="SPREAD")
        assert inner.wait(30)
        tasks = [where.options(scheduling_strategy=InGroup(inner, index)) for index in range(3)]
        found = shoal.get([task.remote() for task in tasks])
        remove_placement_group(inner)
        return found

    assert len(set(get(make.remote()))) == 3


# ---- the end
def test_removed_it_is_free_everywhere_and_what_ran_in_it_has_ended() -> None:
    group = made(CPU, CPU, CPU, strategy="STRICT_SPREAD")
    tasks = [nap.options(scheduling_strategy=InGroup(group, index)) for index in range(3)]
    running = [task.remote(60) for task in tasks]
    waiting = tasks[1].remote(0)
    assert not shoal.wait(running, timeout=0.3)[0]
    remove_placement_group(group)
    for ref in (*running, waiting, tasks[0].remote(0)):
        with pytest.raises(errors.GroupRemovedError):
            get(ref)
    assert placement_group_table(group)["state"] == "REMOVED"
    assert wait_until(lambda: free()["CPU"] == 8, LONG_S)


def test_actors_end_with_their_group() -> None:
    group = made(CPU, CPU, CPU, strategy="STRICT_SPREAD")
    actors = [
        Place.options(
            num_cpus=1, scheduling_strategy=InGroup(group, index), max_restarts=3
        ).remote()
        for index in range(3)
    ]
    get([actor.where.remote() for actor in actors])
    remove_placement_group(group)
    for actor in actors:
        with pytest.raises(errors.GroupRemovedError):
            get(actor.where.remote())


def test_a_group_ends_with_its_program_or_lives_on(cluster: Cluster) -> None:
    made(CPU, CPU, CPU, strategy="STRICT_SPREAD")
    kept = made(CPU, CPU, name="kept", lifetime="detached", strategy="STRICT_SPREAD")
    space = shoal.get_runtime_context().namespace
    shoal.shutdown()
    shoal.init(cluster.nodes[1].address, namespace=space, log_to_driver=False)
    assert wait_until(lambda: free()["CPU"] == 6, LONG_S), free()
    with pytest.raises(errors.GroupAlreadyExistsError):
        placement_group([CPU], name="kept")
    found = shoal.util.get_placement_group("kept")
    assert found == kept
    inside = where.options(scheduling_strategy=InGroup(found, 1)).remote()
    assert at([inside]) == nodes_of(found)[1:]
    remove_placement_group(found)
    assert wait_until(lambda: free()["CPU"] == 8, LONG_S), free()
    with pytest.raises(errors.GroupNotFoundError):
        shoal.util.get_placement_group("kept")


# ---- what waits
def test_a_group_waits_until_there_is_room_everywhere() -> None:
    first = made(*[{"CPU": 2.0}] * 2, strategy="STRICT_SPREAD")
    second = placement_group([{"CPU": 2.0}] * 3, strategy="STRICT_SPREAD")
    inside = where.options(num_cpus=2, scheduling_strategy=InGroup(second, 1)).remote()
    assert not second.wait(1.0) and shoal.wait([inside], timeout=0) == ([], [inside])
    assert free()["CPU"] == 4, "nothing is kept while it waits"
    why = str(shoal.state.why(second))
    assert "is not reserved yet" in why and "node-3" in why, why
    remove_placement_group(first)
    assert second.wait(LONG_S)
    assert at([inside]) == [nodes_of(second)[1]]


def test_what_the_cluster_can_not_hold_waits_and_says_why() -> None:
    group = placement_group([CPU, {"CPU": 64.0}])
    assert not group.wait(0.5)
    assert "bundle 1 (CPU=64)" in str(shoal.state.why(group))
    four = placement_group([CPU] * 4, strategy="STRICT_SPREAD")
    assert "4 nodes that differ" in str(shoal.state.why(four))
    inside = where.options(scheduling_strategy=InGroup(four, 0)).remote()
    assert "4 nodes that differ" in str(shoal.state.why(inside))
    remove_placement_group(four)
    with pytest.raises(errors.GroupRemovedError):
        get(inside)


def test_a_program_elsewhere_has_a_group_too(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    shoal.shutdown()
    monkeypatch.setenv("SHOAL_DIR", str(tmp_path_factory.mktemp("elsewhere")))
    shoal.init(cluster.join_line().strip(), log_to_driver=False)
    try:
        group = made(CPU, CPU, CPU, strategy="STRICT_SPREAD")
        found = nodes_of(group)
        assert sorted(found) == ["node-1", "node-2", "node-3"]
        tasks = [where.options(scheduling_strategy=InGroup(group, index)) for index in range(3)]
        assert at([task.remote() for task in tasks]) == found
        assert get(group.ready()) == group
        actor = Place.options(scheduling_strategy=InGroup(group, 2)).remote()
        assert at([actor.where.remote()]) == [found[2]]
    finally:
        shoal.shutdown()
    monkeypatch.undo()
    shoal.init(cluster.head.address, log_to_driver=False)
    assert wait_until(lambda: free()["CPU"] == 8, LONG_S), "it ended with its program"
