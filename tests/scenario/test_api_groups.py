"""Placement groups through the public API: what they reserve, what runs in them, how they end."""

from __future__ import annotations

import itertools
import os
import pickle
import time
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal import errors
from shoal.util.placement_group import (
    PlacementGroup,
    PlacementGroupID,
    check_placement_group_index,
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from shoal.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from tests.torture.processes import eventually

NODE = "ray.io/node-id"


@shoal.remote
def where() -> tuple[int, Any, list[Any]]:
    return os.getpid(), get_current_placement_group(), shoal.get_gpu_ids()


@shoal.remote(num_cpus=0)
def where_a_child_is(**given: Any) -> Any:
    return shoal.get(where.options(**given).remote())[1]


@shoal.remote
def stay(path: str) -> None:
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(600)


@shoal.remote
class Member:
    def group(self) -> Any:
        return get_current_placement_group()

    def group_of_a_child(self) -> Any:
        return shoal.get(where.remote())[1]

    def gpu_ids(self) -> list[Any]:
        return shoal.get_gpu_ids()

    def crash(self) -> None:
        os._exit(3)


def inside(group: PlacementGroup, bundle: int = -1, captures: bool = False) -> dict[str, Any]:
    return {"scheduling_strategy": PlacementGroupSchedulingStrategy(group, bundle, captures)}


def free(name: str) -> float:
    return shoal.available_resources().get(name, 0)


def test_a_group_reserves_all_its_bundles_until_it_is_removed() -> None:
    shoal.init(num_cpus=4, num_gpus=1, resources={"disk": 2})
    group = placement_group([{"CPU": 2, "GPU": 0.5}, {"CPU": 1, "disk": 1.5}])
    assert group.wait(timeout_seconds=10)
    assert (free("CPU"), free("GPU"), free("disk")) == (1, 0.5, 0.5)
    assert group.bundle_count == 2
    assert group.bundle_specs == [{"CPU": 2, "GPU": 0.5}, {"CPU": 1, "disk": 1.5}]
    remove_placement_group(group)
    assert (free("CPU"), free("GPU"), free("disk")) == (4, 1, 2)
    remove_placement_group(group)


def test_ready_gives_the_group_once_it_has_its_place() -> None:
    shoal.init(num_cpus=2)
    first = placement_group([{"CPU": 2}])
    assert shoal.get(first.ready(), timeout=30) == first
    second = placement_group([{"CPU": 1}])
    ref = second.ready()
    assert not second.wait(timeout_seconds=0) and not second.wait(0.05)
    assert shoal.wait([ref], timeout=0.05) == ([], [ref])
    assert placement_group_table(second)["state"] == "PENDING"
    remove_placement_group(first)
    assert shoal.get(ref, timeout=30) == second and second.wait(30)
    with pytest.raises(errors.GetTimeoutError):
        shoal.get(placement_group([{"CPU": 2}]).ready(), timeout=0.05)


def test_tasks_run_in_the_bundle_they_name_or_in_any() -> None:
    shoal.init(num_cpus=3, num_gpus=2)
    group = placement_group([{"CPU": 1, "GPU": 1}, {"CPU": 1, "GPU": 1}])
    refs = [where.options(num_gpus=1, **inside(group, index)).remote() for index in (0, 1)]
    rows = shoal.get(refs, timeout=30)
    assert [row[1] for row in rows] == [group, group]
    assert sorted(row[2] for row in rows) == [[0], [1]]
    pid, current, gpus = shoal.get(where.options(**inside(group)).remote(), timeout=30)
    assert current == group and gpus == []
    assert current.bundle_specs == group.bundle_specs
    outside = shoal.get(where.remote(), timeout=30)
    assert outside[1] is None and outside[0] != pid, "a worker belongs to one group for life"
    assert shoal.get_runtime_context().get_placement_group_id() is None


def test_a_bundle_is_no_larger_than_itself_and_leaves_the_rest_alone() -> None:
    """Tasks of one CPU in a bundle of one take turns; outside there is another CPU."""
    shoal.init(num_cpus=2)
    group = placement_group([{"CPU": 1}])

    @shoal.remote
    def busy() -> tuple[float, float]:
        begin = time.monotonic()
        while time.monotonic() < begin + 0.05:
            pass
        return begin, time.monotonic()

    refs = [busy.options(**inside(group)).remote() for _ in range(4)]
    assert shoal.get(where.remote(), timeout=30)[1] is None
    times = sorted(shoal.get(refs, timeout=20))
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(times))


def test_children_are_captured_if_asked_for() -> None:
    shoal.init(num_cpus=4)
    group = placement_group([{"CPU": 1}, {"CPU": 1}])
    parent = where_a_child_is.options(**inside(group, 0, captures=True))
    assert shoal.get(parent.remote(), timeout=30) == group
    assert shoal.get(parent.remote(scheduling_strategy="DEFAULT"), timeout=30) is None
    leave = PlacementGroupSchedulingStrategy(None)
    assert shoal.get(parent.remote(scheduling_strategy=leave), timeout=30) is None
    free_parent = where_a_child_is.options(**inside(group, 0, captures=False))
    assert shoal.get(free_parent.remote(), timeout=30) is None
    member = Member.options(num_cpus=0, **inside(group, captures=True)).remote()
    assert shoal.get(member.group_of_a_child.remote(), timeout=30) == group


def test_removal_ends_what_runs_in_it_and_what_waits(tmp_path: Path) -> None:
    shoal.init(num_cpus=3, num_gpus=1)
    group = placement_group([{"CPU": 2, "GPU": 1}], name="short")
    path = str(tmp_path / "pids")
    running = stay.options(**inside(group)).remote(path)
    waiting = [stay.options(num_cpus=2, **inside(group)).remote(path) for _ in range(2)]
    actor = Member.options(num_gpus=1, num_cpus=0, **inside(group)).remote()
    assert shoal.get(actor.gpu_ids.remote(), timeout=30) == [0]
    eventually(lambda: os.path.exists(path), 30, "the task runs")
    outside = shoal.put(7)
    remove_placement_group(group)
    for ref in (running, *waiting, group.ready(), stay.options(**inside(group)).remote(path)):
        with pytest.raises(errors.GroupRemovedError, match="short"):
            shoal.get(ref, timeout=30)
    with pytest.raises(errors.ActorGroupRemovedError) as caught:
        shoal.get(actor.gpu_ids.remote(), timeout=30)
    assert isinstance(caught.value, errors.ActorDiedError)
    assert isinstance(caught.value, errors.GroupRemovedError)
    with pytest.raises(errors.GroupRemovedError):
        Member.options(**inside(group)).remote()
    with pytest.raises(errors.GroupRemovedError):
        group.wait(1)
    pids = [int(line) for line in Path(path).read_text().split()]
    eventually(lambda: not any(os.path.exists(f"/proc/{p}") for p in pids), 30, "the task's end")
    eventually(lambda: (free("CPU"), free("GPU")) == (3, 1), 30, "everything given back")
    assert placement_group_table(group)["state"] == "REMOVED"
    assert shoal.get(outside) == 7


def test_an_actor_that_restarts_stays_in_its_bundle() -> None:
    shoal.init(num_cpus=2, num_gpus=2)
    group = placement_group([{"CPU": 1, "GPU": 1}])
    other = placement_group([{"CPU": 1, "GPU": 1}])
    assert group.wait(30) and other.wait(30)
    given: dict[str, Any] = {"num_gpus": 1, "max_restarts": 1, "max_task_retries": 2}
    member = Member.options(**given, **inside(other)).remote()
    assert shoal.get(member.gpu_ids.remote(), timeout=30) == [1]
    member.crash.options(max_task_retries=0).remote()
    assert shoal.get(member.gpu_ids.remote(), timeout=30) == [1]
    assert shoal.get(member.group.remote(), timeout=30) == other


def test_what_no_node_can_have_fails_within_a_second_or_two() -> None:
    shoal.init(num_cpus=2, labels={"zone": "a"})
    for group, why in (
        (placement_group([{"CPU": 2}, {"CPU": 1}]), "no node has that much"),
        (placement_group([{"GPU": 1}]), "no node has that much"),
        (placement_group([{"CPU": 1}] * 2, strategy="STRICT_SPREAD"), "needs 2 nodes"),
        (placement_group([{"CPU": 1}], bundle_label_selector=[{"zone": "b"}]), "zone=b"),
        (placement_group([{"CPU": 1}], topology_strategy={"rack": "STRICT_PACK"}), "rack"),
        (placement_group([{"CPU": 1}] * 2, topology_strategy={NODE: "STRICT_SPREAD"}), "2 nodes"),
    ):
        with pytest.raises(errors.UnschedulableError, match=why):
            group.wait(30)
        with pytest.raises(errors.UnschedulableError, match=why):
            shoal.get(group.ready(), timeout=30)
        with pytest.raises(errors.UnschedulableError, match=why):
            shoal.get(where.options(num_cpus=0, **inside(group)).remote(), timeout=30)
    assert placement_group([{"CPU": 1}], bundle_label_selector=[{"zone": "a"}]).wait(30)
    assert placement_group([{"CPU": 1}], strategy="STRICT_SPREAD").wait(30)


def test_a_strategy_for_each_level_of_a_cluster() -> None:
    shoal.init(num_cpus=4, labels={"zone": "a"})
    for levels in (
        {},
        {NODE: "SPREAD"},
        {"zone": "STRICT_PACK"},
        {"zone": "STRICT_PACK", NODE: "STRICT_PACK"},
    ):
        group = placement_group([{"CPU": 2}, {"CPU": 2}], topology_strategy=levels)
        assert group.wait(30)
        row = placement_group_table(group)
        assert row["strategy"] == levels.get(NODE, "PACK")
        remove_placement_group(group)


def test_names_are_of_living_groups() -> None:
    shoal.init(num_cpus=2)
    group = placement_group([{"CPU": 1}], name="one")
    assert get_placement_group("one") == group
    with pytest.raises(errors.GroupAlreadyExistsError, match="one"):
        placement_group([{"CPU": 1}], name="one")
    remove_placement_group(group)
    with pytest.raises(errors.GroupNotFoundError, match="one"):
        get_placement_group("one")
    with pytest.raises(ValueError):
        get_placement_group("")
    again = placement_group([{"CPU": 1}], name="one")
    assert get_placement_group("one") == again != group


def test_handles_travel() -> None:
    shoal.init(num_cpus=2)
    group = placement_group([{"CPU": 1}])
    copy = pickle.loads(pickle.dumps(group))
    assert copy == group and hash(copy) == hash(group) and copy.wait(30)

    @shoal.remote(num_cpus=0)
    def use(groups: list[PlacementGroup]) -> Any:
        return shoal.get(where.options(**inside(groups[0])).remote())[1], groups[0].wait(30)

    assert shoal.get(use.remote([group]), timeout=30) == (group, True)
    known = PlacementGroup(PlacementGroupID.from_hex(group.id.hex()))
    assert known.bundle_specs == [{"CPU": 1}]
    unknown = PlacementGroup(PlacementGroupID(b"x" * 18))
    with pytest.raises(errors.GroupNotFoundError):
        assert unknown.bundle_specs
    assert PlacementGroup.empty().is_empty and PlacementGroup.empty().id.is_nil()


def test_tables_show_what_is_there() -> None:
    shoal.init(num_cpus=2)
    group = placement_group([{"CPU": 1}], strategy="SPREAD", name="shown")
    assert group.wait(30)
    row = placement_group_table(group)
    assert row == placement_group_table()[group.id.hex()]
    assert (row["name"], row["state"], row["strategy"]) == ("shown", "CREATED", "SPREAD")
    assert row["bundles"] == {0: {"CPU": 1}}
    assert row["bundles_to_node_id"] == {0: shoal.nodes()[0]["NodeID"]}
    (shown,) = shoal.state.groups(state="CREATED")
    assert (shown.group_id, shown.bundles) == (group.id.hex(), [{"CPU": 1}])


def test_mistakes_are_told_where_they_are_made() -> None:
    shoal.init(num_cpus=2)
    for bundles in ([], [{}], [{"CPU": 0}], [{"CPU": -1}], "CPU", [{"GPU": 1.5}], [("CPU", 1)]):
        with pytest.raises(errors.OptionError):
            placement_group(bundles)  # type: ignore[arg-type]
    wrong: list[dict[str, Any]] = [
        {"strategy": "PACKED"},
        {"lifetime": "long"},
        {"name": 3},
        {"_soft_target_node_id": "ab"},
        {"bundle_label_selector": [{}, {}]},
        {"topology_strategy": [{}]},
        {"topology_strategy": {"": "PACK"}},
        {"topology_strategy": {"rack": "PACK"}},
        {"topology_strategy": {"ray.io/node-id": "PACKED"}},
        {"topology_strategy": {"rack": "STRICT_PACK", "row": "STRICT_PACK"}},
        {"topology_strategy": {"rack": "STRICT_PACK"}, "strategy": "PACK"},
        {"topology_strategy": {"rack": "STRICT_PACK"}, "_soft_target_node_id": "ab"},
    ]
    for given in wrong:
        with pytest.raises(errors.OptionError):
            placement_group([{"CPU": 1}], **given)
    group = placement_group([{"CPU": 1}, {"CPU": 1}])
    for index in (2, -2, True, "0"):
        with pytest.raises(errors.OptionError, match="no bundle"):
            check_placement_group_index(group, index)  # type: ignore[arg-type]
    with pytest.raises(errors.OptionError, match="no bundle 2"):
        where.options(**inside(group, 2)).remote()
    with pytest.raises(ValueError, match="no bundle of its placement group has as much"):
        where.options(num_cpus=2, **inside(group)).remote()
    with pytest.raises(ValueError, match="asks for"):
        Member.options(num_gpus=1, **inside(group, 1)).remote()
    with pytest.raises(errors.OptionError, match="not both"):
        where.options(placement_group=group, **inside(group)).remote()
    with pytest.raises(errors.OptionError):
        group.wait(-1)
    with pytest.raises(TypeError):
        remove_placement_group("g")  # type: ignore[arg-type]


def test_the_older_spelling_works_too() -> None:
    shoal.init(num_cpus=2)
    group = placement_group([{"CPU": 1}])
    given = {"placement_group": group, "placement_group_bundle_index": 0}
    assert shoal.get(where.options(**given).remote(), timeout=30)[1] == group
    assert shoal.get(where.options(placement_group="default").remote(), timeout=30)[1] is None


def test_a_task_may_wait_for_a_group_without_holding_a_cpu() -> None:
    shoal.init(num_cpus=1)

    @shoal.remote
    def make() -> bool:
        group = placement_group([{"CPU": 1}])
        return group.wait(30)

    assert shoal.get(make.remote(), timeout=20)
