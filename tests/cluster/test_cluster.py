"""Several real daemons on this machine: each has its own memory and directory, and leaves nothing.

The same through ``ray.cluster_utils``, as programs written for Ray call it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal import errors
from shoal.testing import Cluster, ClusterError, Node, NodeOptions, leftovers
from shoal.testing import cluster as clusters
from shoal.testing.polling import wait_until

LONG_S = 60.0


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster() as made:
        yield made


def test_nodes_have_their_own_daemon_memory_and_directory(cluster: Cluster) -> None:
    a = cluster.add_node(num_cpus=2)
    b = cluster.add_node("other", num_cpus=1, resources={"licence": 2}, labels={"zone": "b"})
    assert [node.name for node in cluster.nodes] == ["node-1", "other"]
    assert a.entry.pid != b.entry.pid and a.directory != b.directory
    assert set(a.processes()) & set(b.processes()) == set()
    for node in cluster.nodes:
        rows = {row["name"]: row for row in node.observe("nodes")}
        assert set(rows) == {"node-1", "other"}
        assert rows["node-1"]["node_id"] != rows["other"]["node_id"]
        assert rows["other"]["total"]["licence"] == 2 and rows["other"]["labels"]["zone"] == "b"
    cluster.connect()
    assert {row["NodeName"] for row in shoal.nodes() if row["Alive"]} == {"node-1", "other"}
    assert shoal.get_runtime_context().gcs_address == a.address
    assert os.stat(a.directory).st_mode & 0o077 == 0, "others do not enter"


def test_the_driver_leaves_with_the_cluster(cluster: Cluster) -> None:
    cluster.add_node(num_cpus=2)
    cluster.connect()
    assert shoal.is_initialized()
    cluster.shutdown()
    assert not shoal.is_initialized() and not cluster.nodes
    cluster.shutdown()
    with pytest.raises(ClusterError, match=r"add_node\(\) first"):
        cluster.connect()


def test_a_killed_daemon_takes_its_node_along(cluster: Cluster) -> None:
    a, b = cluster.add_node(), cluster.add_node()
    assert len(b.processes()) > 1
    cluster.kill_daemon(b)
    assert wait_until(lambda: not b.is_alive(), LONG_S)
    assert wait_until(lambda: not b.processes(), LONG_S), "what it leaves ends by itself"
    assert a.is_alive()
    with pytest.raises(TimeoutError, match="node-2 sees nobody"):
        cluster.wait_for_nodes(0.1)
    cluster.remove_node(b)
    cluster.wait_for_nodes()  # the other one has heard of it


def test_a_lost_machine_is_all_of_a_node_at_once(cluster: Cluster) -> None:
    a, b = cluster.add_node(), cluster.add_node()
    cluster.kill_node(b)
    assert not b.processes() and a.is_alive()


def test_a_frozen_node_answers_when_it_is_thawed(cluster: Cluster) -> None:
    node = cluster.add_node()
    cluster.freeze(node)
    try:  # the signal is on its way to all of them when it has been sent
        is_frozen = wait_until(lambda: {_state(pid) for pid in node.processes()} == {"T"}, 10.0)
    finally:
        cluster.thaw(node)
    assert is_frozen
    cluster.wait_for_nodes()


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_process_that_is_left_is_an_error(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clusters, "END_S", 0.5)
    node = cluster.add_node()
    words = [sys.executable, "-S", "-c", "import time; print(1, flush=True); time.sleep(600)"]
    environment = {**os.environ, leftovers.VARIABLE: node.mark}
    with subprocess.Popen(words, stdout=subprocess.PIPE, env=environment) as stray:
        assert stray.stdout is not None
        stray.stdout.readline()
        with pytest.raises(ClusterError, match=f"node-1 were left after its stop: .*{stray.pid}"):
            cluster.remove_node(node)
        assert stray.wait(LONG_S) == -signal.SIGKILL


def test_what_cannot_start_says_why(cluster: Cluster) -> None:
    cluster.add_node()
    with pytest.raises(ClusterError, match="num-cpus"):
        cluster.add_node("wrong", num_cpus=-1)
    with pytest.raises(TypeError):
        cluster.add_node(colour="blue")
    with pytest.raises(ClusterError, match="already"):
        cluster.add_node("node-1")
    assert [node.name for node in cluster.nodes] == ["node-1"]
    assert cluster.add_node("wrong").is_alive(), "the name is free again"


def test_two_clusters_do_not_see_each_other(cluster: Cluster) -> None:
    cluster.add_node("ours")
    with Cluster() as other:
        theirs = other.add_node("theirs")
        other.add_node("theirs too")
        cluster.wait_for_nodes()
        assert {row["name"] for row in cluster.head.observe("nodes")} == {"ours"}
        assert {row["name"] for row in theirs.observe("nodes")} == {"theirs", "theirs too"}
        # Not even on purpose: our secret at their address.
        (row,) = theirs.observe("cluster")
        place = Node("stranger", NodeOptions(), cluster.mark, Path(cluster.head.directory))
        os.mkdir(place.directory, 0o700)
        with pytest.raises(ClusterError, match="did not join"):
            place.command("join", "--address", row["address"], told=cluster.join_line())
        other.wait_for_nodes()


# ---- under Ray's names

RAY = """
    import shoal.compat.ray
    shoal.compat.ray.install()
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, connect=True, head_node_args={"num_cpus": 2})
    assert ray.is_initialized() and ray.cluster_resources()["CPU"] >= 2
    node = cluster.add_node(num_cpus=1, resources={"licence": 1}, node_ip_address="10.0.0.1")
    cluster.wait_for_nodes()
    assert cluster.list_all_nodes() == [cluster.head_node, node]
    assert node.unique_id != cluster.head_node.unique_id

    @ray.remote
    def double(n):
        return 2 * n

    assert ray.get([double.remote(n) for n in range(10)]) == [2 * n for n in range(10)]
    assert cluster.remaining_processes_alive()
    node.kill_raylet()
    while node.any_processes_alive():
        pass
    assert not cluster.remaining_processes_alive()
    cluster.remove_node(node)
    try:
        cluster.remove_node(cluster.head_node)
    except ValueError:
        assert not ray.is_initialized()
    cluster.shutdown()
    print("done")
"""


def test_cluster_utils() -> None:
    done = _run(RAY)
    assert done.stdout == "done\n", done.stderr
    assert "node_ip_address (all nodes are on this machine)" in done.stderr


def test_cluster_utils_ends_with_the_program() -> None:
    done = _run(
        """
        import shoal.compat.ray
        shoal.compat.ray.install()
        from ray.cluster_utils import Cluster
        cluster = Cluster(initialize_head=True)
        print(cluster.head_node.node.mark)
        """
    )
    mark = done.stdout.strip().partition("/")[0]
    assert mark and not leftovers.processes(mark) and not (leftovers.root() / mark).exists()


def _run(code: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(words, capture_output=True, text=True, timeout=100)


def test_cluster_utils_refuses_what_it_does_not_know() -> None:
    from shoal.compat.ray import clusters as cluster_utils

    made: Any = cluster_utils.Cluster(shutdown_at_exit=False)
    try:
        with pytest.raises(errors.OptionError, match="colour"):
            made.add_node(colour="blue")
        with pytest.raises(RuntimeError, match="cannot be connected"):
            made.connect()
        with pytest.raises(RuntimeError, match="cannot be connected"):
            cluster_utils.Cluster(connect=True)
    finally:
        made.shutdown()
