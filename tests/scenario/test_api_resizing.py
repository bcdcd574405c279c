"""Placement groups that are resized, through the public API, on one machine."""

from __future__ import annotations

import os
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal import errors
from shoal.testing.polling import wait_until
from shoal.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from shoal.util.scheduling_strategies import PlacementGroupSchedulingStrategy as InGroup

CPU = {"CPU": 1.0}


@shoal.remote
def pid() -> int:
    return os.getpid()


@shoal.remote(max_retries=-1)
def note_and_wait(path: str, go: str) -> int:
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\n")
    while not os.path.exists(go):
        pass
    return 1


@shoal.remote
class Member:
    def pid(self) -> int:
        return os.getpid()


@shoal.remote(num_cpus=0)
def add_one(group: PlacementGroup) -> list[int]:
    return group.add_bundles([CPU])


@pytest.fixture
def group() -> Any:
    shoal.init(num_cpus=4)
    made = placement_group([CPU, CPU])
    assert made.wait(10)
    yield made
    remove_placement_group(made)
    assert wait_until(lambda: free() == 4, 10.0)
    shoal.shutdown()


def free() -> float:
    return shoal.available_resources().get("CPU", 0.0)


def at(group: PlacementGroup, index: int) -> Any:
    return {"scheduling_strategy": InGroup(group, index)}


def test_it_grows_and_shrinks(group: PlacementGroup) -> None:
    assert group.add_bundles([{"CPU": 0.5}, CPU]) == [2, 3]
    assert shoal.get(group.ready(), timeout=10) == group
    assert group.bundle_count == 4 and free() == 0.5
    assert shoal.get(pid.options(**at(group, 3)).remote(), timeout=10)
    group.remove_bundles([0, 2])
    assert group.bundle_specs == [{}, CPU, {}, CPU] and group.bundle_count == 2
    assert placement_group_table(group)["bundles"] == {1: CPU, 3: CPU}
    assert wait_until(lambda: free() == 2, 10.0)
    assert group.add_bundles([CPU]) == [4], "indexes are not used again"
    assert group.wait(10) and free() == 1


def test_what_runs_in_a_removed_bundle_ends_and_the_rest_goes_on(
    group: PlacementGroup, tmp_path: Path
) -> None:
    seen, go = str(tmp_path / "seen"), str(tmp_path / "go")
    inside = note_and_wait.options(**at(group, 0)).remote(seen, go)
    actors = [Member.options(num_cpus=0, **at(group, index)).remote() for index in (0, 1)]
    stays = shoal.get(actors[1].pid.remote(), timeout=10)
    shoal.get(actors[0].pid.remote(), timeout=10)
    assert wait_until(lambda: os.path.exists(seen), 10.0)
    group.remove_bundles([0])
    with pytest.raises(errors.GroupRemovedError, match="bundle 0 was removed"):
        shoal.get(inside, timeout=10)
    with pytest.raises(errors.ActorGroupRemovedError):
        shoal.get(actors[0].pid.remote(), timeout=10)
    assert shoal.get(actors[1].pid.remote(), timeout=10) == stays
    with pytest.raises(errors.OptionError, match="bundle 0 of the placement group was removed"):
        pid.options(**at(group, 0)).remote()


def test_a_task_of_any_bundle_runs_again_in_another(group: PlacementGroup, tmp_path: Path) -> None:
    seen, go = str(tmp_path / "seen"), str(tmp_path / "go")
    busy = Member.options(num_cpus=1, **at(group, 1)).remote()
    shoal.get(busy.pid.remote(), timeout=10)
    ref = note_and_wait.options(**at(group, -1)).remote(seen, go)
    assert wait_until(lambda: os.path.exists(seen), 10.0)
    group.add_bundles([CPU])
    group.remove_bundles([0])
    assert wait_until(lambda: len(Path(seen).read_text().split()) == 2, 10.0)
    Path(go).touch()
    assert shoal.get(ref, timeout=10) == 1


def test_more_than_there_is(group: PlacementGroup) -> None:
    with pytest.raises(errors.UnschedulableError):
        group.add_bundles([{"CPU": 3}])
    other = placement_group([{"CPU": 2}])
    assert other.wait(10)
    (index,) = group.add_bundles([CPU])
    assert not group.wait(0.1) and placement_group_table(group)["state"] == "RESCHEDULING"
    ready, waits = group.ready(), pid.options(**at(group, index)).remote()
    assert shoal.wait([ready, waits], timeout=0.2)[0] == []
    assert shoal.get(pid.options(**at(group, 0)).remote(), timeout=10), "the others go on"
    remove_placement_group(other)
    assert shoal.get(ready, timeout=10) == group and shoal.get(waits, timeout=10)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda group: group.add_bundles([]), "not empty"),
        (lambda group: group.add_bundles([{"CPU": 0}]), "name resources"),
        (lambda group: group.remove_bundles([]), "not empty"),
        (lambda group: group.remove_bundles([0, 1]), "keeps a bundle"),
        (lambda group: group.remove_bundles([2]), "no bundle 2"),
        (lambda group: group.remove_bundles([-1]), "any bundle"),
    ],
)
def test_what_makes_no_sense(group: PlacementGroup, change: Any, text: str) -> None:
    with pytest.raises(errors.OptionError, match=text):
        change(group)
    assert group.bundle_specs == [CPU, CPU]


def test_who_has_another_handle_sees_it_when_it_matters(group: PlacementGroup) -> None:
    other = pickle.loads(pickle.dumps(group))
    assert shoal.get(add_one.remote(group), timeout=10) == [2]
    assert group.bundle_count == 2, "what this handle has heard"
    assert shoal.get(pid.options(**at(other, 2)).remote(), timeout=10)
    assert other.bundle_count == 3
    group.remove_bundles([0])
    with pytest.raises(errors.GroupRemovedError):
        shoal.get(pid.options(**at(other, 0)).remote(), timeout=10)


def test_two_at_once_both_get_theirs(group: PlacementGroup) -> None:
    handles = [pickle.loads(pickle.dumps(group)) for _ in range(4)]
    got: list[int] = []

    def add(handle: PlacementGroup) -> None:
        got.extend(index for _ in range(5) for index in handle.add_bundles([{"CPU": 0.05}]))

    threads = [threading.Thread(target=add, args=(handle,)) for handle in handles]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == [*range(2, 22)] and group.wait(10)
    with pytest.raises(errors.GroupRemovedError):
        remove_placement_group(group)
        group.add_bundles([CPU])
