"""Tables of the whole cluster, asked on any of its nodes.

Real daemons: one cluster of two nodes for all tests, whose driver is this process. ``node-2`` alone
has a licence.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import shoal
from shoal import state
from shoal.compat.ray import states
from shoal.testing import Cluster
from shoal.testing.polling import wait_until
from tests.cluster.conftest import looked_around

LONG_S = 60.0
SHARED: dict[str, Any] = {"resources": {"licence": 0.1}}


@pytest.fixture(scope="module", autouse=True)
def _nothing_is_left() -> Iterator[Cluster]:
    """Of all tests together: the cluster lives while they run."""
    with looked_around(), Cluster() as made:
        made.add_node(num_cpus=2)
        made.add_node(num_cpus=2, resources={"licence": 1})
        yield made


@pytest.fixture
def cluster(_nothing_is_left: Cluster) -> Cluster:
    """Each test is a driver of its own."""
    _nothing_is_left.connect()
    return _nothing_is_left


@pytest.fixture
def names(cluster: Cluster) -> dict[str, str]:
    """Of the nodes, by id."""
    return {str(node["NodeID"]): str(node["NodeName"]) for node in shoal.nodes()}


@shoal.remote
class Keeper:
    def pid(self) -> int:
        return os.getpid()

    def make(self, name: str) -> Any:
        made = Keeper.options(name=name).remote()
        assert shoal.get(made.pid.remote())
        return made

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


@shoal.remote
def sleep(seconds: float = 60.0) -> None:
    time.sleep(seconds)


def get(ref: Any) -> Any:
    return shoal.get(ref, timeout=LONG_S)


def command(cluster: Cluster, *words: str) -> Any:
    """What ``shoal`` prints on the second node, and says of what is missing."""
    done = subprocess.run(
        [sys.executable, "-m", "shoal", *words],
        env={**os.environ, "SHOAL_DIR": cluster.nodes[1].directory},
        capture_output=True,
        text=True,
        timeout=LONG_S,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_actors_and_their_names_are_those_of_all_nodes(
    cluster: Cluster, names: dict[str, str]
) -> None:
    near = Keeper.options(name="near").remote()
    far = Keeper.options(name="far", **SHARED).remote()
    pids = {"near": get(near.pid.remote()), "far": get(far.pid.remote())}
    nested = get(far.make.remote("nested"))  # whose home is node-2
    pids["nested"] = get(nested.pid.remote())

    wanted = {"near": "node-1", "far": "node-2", "nested": "node-2"}
    rows = {row.name: row for row in state.actors(state="ALIVE")}
    assert {name: names[row.node_id] for name, row in rows.items()} == wanted
    assert {name: row.pid for name, row in rows.items()} == pids
    assert [row.name for row in state.actors(pid=pids["far"])] == ["far"]
    assert sorted(shoal.util.list_named_actors()) == sorted(wanted)
    rays = {row.name: names[row.node_id] for row in states.list_actors([]) if row.pid}
    assert rays == wanted

    listed, said = command(cluster, "list", "actors", "--json")
    assert not said
    mine = {row["name"]: names[row["node_id"]] for row in listed if row["state"] == "ALIVE"}
    assert mine == wanted, "the same from the other node"

    @shoal.remote
    def names_there() -> list[Any]:
        return sorted(shoal.util.list_named_actors())

    assert get(names_there.options(**SHARED).remote()) == sorted(wanted)
    for actor in (near, far, nested):
        shoal.kill(actor)
    assert wait_until(lambda: not shoal.util.list_named_actors(), LONG_S)


def test_a_task_on_another_node_is_one_row_which_says_where_it_is(
    cluster: Cluster, names: dict[str, str]
) -> None:
    @shoal.remote
    def nest() -> None:
        shoal.get(sleep.options(name="child", **SHARED).remote(60))

    parent = nest.options(name="parent", **SHARED).remote()

    def running() -> dict[str, state.Task]:
        rows = [row for row in state.tasks(state="RUNNING") if row.node == "node-2"]
        assert len({row.name for row in rows}) == len(rows), rows
        return {row.name: row for row in rows}

    assert wait_until(lambda: set(running()) == {"parent", "child"}, LONG_S)
    rows = running()
    assert rows["parent"].task_id == parent.task_id().hex()
    assert rows["child"].parent == rows["parent"].task_id
    assert {names[row.node_id] for row in rows.values()} == {"node-2"}
    assert {row.job for row in rows.values()} == {row.job for row in state.jobs(state="RUNNING")}
    for row in rows.values():
        assert row.worker > 0 and row.submitted_s and row.started_s
        assert -1 < row.started_s - row.submitted_s < LONG_S, "as the clock is here"
    shoal.cancel(parent)
    with pytest.raises(shoal.exceptions.TaskCancelledError):
        get(parent)

    def ended() -> bool:
        rows = [row for row in state.tasks() if row.name in ("parent", "child")]
        places = sorted((row.name, row.state, names[row.node_id]) for row in rows)
        return places == [("child", "FAILED", "node-2"), ("parent", "FAILED", "node-2")]

    assert wait_until(ended, LONG_S), [row for row in state.tasks() if row.name == "parent"]


def test_workers_jobs_groups_and_values_are_those_of_all_nodes(
    cluster: Cluster, names: dict[str, str]
) -> None:
    @shoal.remote
    def big() -> Any:
        return np.ones(200_000)

    @shoal.remote
    def make_group() -> None:
        group = shoal.util.placement_group([{"CPU": 0.1}], name="nested")
        assert group.wait(LONG_S)

    @shoal.remote
    def look_up(box: list[Any]) -> list[tuple[int, str]]:
        rows = state.objects(object_id=box[0].hex())
        return [(row.size_bytes, row.node_id) for row in rows]

    ours = shoal.put(np.ones(100_000))
    theirs = big.options(**SHARED).remote()
    shoal.wait([theirs], timeout=LONG_S)
    rows = {row.object_id: (row.size_bytes, names[row.node_id]) for row in state.objects()}
    assert rows[ours.hex()][0] >= 800_000 and rows[ours.hex()][1] == "node-1"
    assert rows[theirs.hex()][0] >= 1_600_000 and rows[theirs.hex()][1] == "node-2"
    assert len([row for row in rows.values() if row[0] >= 1_600_000]) == 1, "no visit's result"
    ((size, node),) = get(look_up.options(**SHARED).remote([ours]))
    assert size >= 800_000 and names[node] == "node-1", "by its id on the other node"
    assert {names[row.node_id] for row in state.memory()} == {"node-1", "node-2"}

    assert {names[row.node_id] for row in state.workers()} == {"node-1", "node-2"}
    assert len({row.worker_id for row in states.list_workers()}) == len(state.workers())
    assert [names[row.node_id] for row in state.jobs(state="RUNNING")] == ["node-1"]

    group = shoal.util.placement_group([{"CPU": 0.1}, {"CPU": 0.1}], "STRICT_SPREAD", "wide")
    assert group.wait(LONG_S)
    get(make_group.options(**SHARED).remote())
    groups = {row.name: row for row in state.groups() if row.state == "CREATED"}
    assert set(groups) == {"wide", "nested"} and groups["wide"].job > 0
    tables: Any = shoal.util.placement_group_table()
    assert {row["name"] for row in tables.values() if row["state"] == "CREATED"} == set(groups)
    for name in groups:
        shoal.util.remove_placement_group(shoal.util.get_placement_group(name))


def test_a_node_that_is_silent_is_named_and_nobody_waits_for_it(cluster: Cluster) -> None:
    near = Keeper.options(name="near").remote()
    get(near.pid.remote())
    daemon = cluster.nodes[1].entry.pid
    os.kill(daemon, signal.SIGSTOP)
    try:
        began = time.monotonic()
        with pytest.warns(RuntimeWarning, match="node node-2 has not answered within 2 s"):
            rows = state.actors(state="ALIVE")
        assert time.monotonic() - began < 8
        assert [row.name for row in rows] == ["near"]
    finally:
        os.kill(daemon, signal.SIGCONT)
    assert [row.name for row in state.actors(state="ALIVE")] == ["near"]
    shoal.kill(near)
