"""What becomes of placement groups when a node with bundles of theirs is lost, or the control
store's process.

One test of losses: it takes eleven seconds until a node is declared dead, so everything is begun
first, then one node is killed, and each check looks at how one of these things has ended.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal import errors
from shoal.testing import Cluster, Node
from shoal.testing.polling import wait_until
from shoal.util import placement_group, placement_group_table, remove_placement_group
from shoal.util.scheduling_strategies import PlacementGroupSchedulingStrategy as InGroup
from tests.cluster.conftest import LEASE_S

LONG_S = 60.0
CPU = {"CPU": 1.0}


def get(ref: Any) -> Any:
    return shoal.get(ref, timeout=LONG_S)


@shoal.remote(num_cpus=0.25)
def where() -> str:
    return str(shoal.get_runtime_context().get_node_id())


@shoal.remote(num_cpus=0.25)
class Place:
    def where(self) -> str:
        return str(shoal.get_runtime_context().get_node_id())


def places(group: Any) -> list[str]:
    """Node of each bundle."""
    return list(placement_group_table(group)["bundles_to_node_id"].values())


def state(group: Any) -> str:
    return str(placement_group_table(group)["state"])


def node_with(cluster: Cluster, node_id: str) -> Node:
    names = {str(row["NodeID"]): str(row["NodeName"]) for row in shoal.nodes()}
    return next(node for node in cluster.nodes if node.name == names[node_id])


def test_a_node_that_comes_back_has_bundles_of_the_same_group_again() -> None:
    with Cluster(lease_s=LEASE_S) as cluster:
        cluster.add_node(num_cpus=1)
        other = cluster.add_node(num_cpus=1, resources={"far": 1})
        shoal.init(cluster.head.address, log_to_driver=False)
        group = placement_group([{"far": 1}])
        assert group.wait(LONG_S)
        only = [where.options(scheduling_strategy=InGroup(group, at), num_cpus=0) for at in (0, -1)]
        there = [get(each.options(resources={"far": 0.1}).remote()) for each in only]
        assert there == places(group) * 2
        cluster.freeze(other)
        assert wait_until(lambda: state(group) == "RESCHEDULING", LONG_S)
        refs = [each.options(resources={"far": 0.1}).remote() for each in only]
        cluster.thaw(other)
        assert wait_until(lambda: state(group) == "CREATED", LONG_S)
        assert get(refs) == there, "the same machine, as another epoch"
        remove_placement_group(group)


def test_lost_bundles_are_placed_again_when_there_is_a_node(tmp_path: Path) -> None:
    with Cluster(lease_s=LEASE_S) as cluster:
        for _ in range(3):
            cluster.add_node(num_cpus=2)
        shoal.init(cluster.head.address, log_to_driver=False)
        head = shoal.get_runtime_context().get_node_id()
        group = placement_group([CPU] * 2, strategy="STRICT_SPREAD")
        full = placement_group([{"CPU": 0.5}] * 3, strategy="STRICT_SPREAD")
        assert group.wait(LONG_S) and full.wait(LONG_S)
        lost = next(index for index, node in enumerate(places(group)) if node != head)
        victim, rest = places(group)[lost], places(group)[1 - lost]
        inside = InGroup(group, lost)

        @shoal.remote(num_cpus=0.25)
        def run(name: str) -> str:
            node = str(shoal.get_runtime_context().get_node_id())
            (tmp_path / f"{name} {node}").touch()
            while not (tmp_path / f"go {node}").exists():
                time.sleep(0.01)
            return node

        tried = run.options(scheduling_strategy=inside, max_retries=1).remote("tried")
        once = run.options(scheduling_strategy=inside, max_retries=0).remote("once")
        lives = Place.options(scheduling_strategy=inside, max_restarts=1, max_task_retries=1)
        again, gone = lives.remote(), Place.options(scheduling_strategy=inside).remote()
        assert [get(actor.where.remote()) for actor in (again, gone)] == [victim] * 2
        for name in ("tried", "once"):
            assert wait_until((tmp_path / f"{name} {victim}").exists, LONG_S)
        cluster.kill_node(node_with(cluster, victim))
        assert wait_until(lambda: state(full) == "RESCHEDULING", LONG_S), "nobody else has room"
        assert wait_until(lambda: victim not in places(group) and state(group) == "CREATED", LONG_S)
        moved = places(group)[lost]
        assert moved not in ("", victim, rest) and places(group)[1 - lost] == rest
        (tmp_path / f"go {moved}").touch()
        assert (
            get(tried) == moved and get(where.options(scheduling_strategy=inside).remote()) == moved
        )
        with pytest.raises(errors.WorkerCrashedError):
            get(once)
        assert get(again.where.remote()) == moved
        with pytest.raises(errors.ActorDiedError):
            get(gone.where.remote())
        missing = places(full).index("")
        waits = where.options(scheduling_strategy=InGroup(full, missing)).remote()
        assert not full.wait(0.3) and shoal.wait([waits], timeout=0) == ([], [waits])
        assert "3 nodes that differ" in str(shoal.state.why(full))
        assert "is not reserved yet" in str(shoal.state.why(waits))
        remove_placement_group(group)
        remove_placement_group(full)
        with pytest.raises(errors.GroupRemovedError):
            get(waits)
        assert wait_until(lambda: shoal.available_resources().get("CPU") == 4.0, LONG_S)
        shoal.shutdown()


def test_the_stores_process_is_killed_and_groups_are_there_and_end() -> None:
    with Cluster() as cluster:
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        shoal.init(cluster.head.address, log_to_driver=False)
        group = placement_group([CPU] * 2, strategy="STRICT_SPREAD")
        assert group.wait(LONG_S)
        waits = placement_group([CPU])
        os.kill(store_pid(cluster), signal.SIGKILL)
        tasks = [where.options(scheduling_strategy=InGroup(group, index)) for index in (0, 1)]
        assert [get(task.remote()) for task in tasks] == places(group), "they need no store"
        remove_placement_group(group)
        assert waits.wait(LONG_S), "what waited is found again"
        assert (
            get(where.options(scheduling_strategy=InGroup(waits, 0)).remote()) == places(waits)[0]
        )
        shoal.shutdown()


def store_pid(cluster: Cluster) -> int:
    """The process that holds the head's port."""
    (row,) = cluster.head.observe("session")
    return int(row["store_pid"])
