"""Nodes of a cluster that are cut off from the others, and what others could read of the traffic.

Real daemons on a real network. What a partition does to leases is proved in the simulator; here it
is seen once from outside: who is declared dead, when, and that who was comes back by itself.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shoal.testing import NetCluster, Node
from shoal.testing.polling import wait_until
from tests.cluster.conftest import LEASE_S, need_namespaces

LONG_S = 60.0


@pytest.fixture(scope="module")
def shared() -> Iterator[NetCluster]:
    """One for all tests that leave it as they found it: three nodes take seconds to start."""
    need_namespaces()
    with NetCluster(3, lease_s=LEASE_S) as made:
        yield made


@pytest.fixture
def cluster(shared: NetCluster) -> Iterator[NetCluster]:
    yield shared
    shared.heal()
    shared.wait_for_nodes(LONG_S)


def alive(node: Node) -> set[str]:
    return {row["name"] for row in rows(node) if row.get("state", "ALIVE") == "ALIVE"}


def ids(node: Node) -> dict[str, str]:
    return {row["name"]: row["node_id"] for row in rows(node)}


def rows(node: Node) -> list[dict[str, Any]]:
    """What it knows of all nodes; a machine that is busy with other things may answer late."""
    for _ in range(5):
        try:
            return node.observe("nodes")
        except TimeoutError:
            continue
    return node.observe("nodes")


def test_nodes_listen_where_they_are(cluster: NetCluster) -> None:
    """One port per node, at its own address, and nothing else in its network."""
    for node in cluster.nodes:
        host = cluster.network.hosts[node.name]
        lines = host.run(["ss", "-Htln"]).splitlines()
        addresses = {line.split()[3].rpartition(":")[0] for line in lines}
        assert addresses == {node.ip} and len(lines) == 1, lines


def test_who_is_cut_off_is_lost_and_comes_back(cluster: NetCluster) -> None:
    a, b, c = cluster.nodes
    begun = time.monotonic()
    cluster.isolate(c)
    assert wait_until(lambda: alive(a) == {a.name, b.name}, LONG_S)
    took_s = time.monotonic() - begun
    assert took_s > 0.7 * LEASE_S, f"declared dead after {took_s} s, while its lease was good"
    assert wait_until(lambda: alive(b) == {a.name, b.name}, LONG_S)
    cluster.heal()
    cluster.wait_for_nodes(LONG_S)


def test_one_way_is_enough_to_be_lost(cluster: NetCluster) -> None:
    """A lease is renewed by a question and an answer: either way alone renews nothing."""
    a, b, c = cluster.nodes
    cluster.cut(c, a)
    cluster.cut(a, b)
    assert wait_until(lambda: alive(a) == {a.name}, LONG_S)
    cluster.heal()
    cluster.wait_for_nodes(LONG_S)


def test_a_short_cut_loses_nobody(cluster: NetCluster) -> None:
    before = ids(cluster.head)
    c = cluster.nodes[2]
    cluster.isolate(c)
    time.sleep(LEASE_S / 3)  # that is what is tried
    cluster.heal()
    cluster.wait_for_nodes(LONG_S)
    seen = wait_until(lambda: alive(cluster.head) != set(before), LEASE_S + 1.0)
    assert not seen, "a node was lost although it was cut off for a third of its lease only"
    assert ids(cluster.head) == before


def test_a_node_without_power_is_declared_dead(cluster: NetCluster) -> None:
    a, b, c = cluster.nodes
    cluster.power_off(c)
    assert wait_until(lambda: alive(a) == alive(b) == {a.name, b.name}, LONG_S)
    cluster.remove_node(c)
    cluster.wait_for_nodes()


def test_nobody_on_the_way_can_read_it(tmp_path: Path) -> None:
    """From the first packet of a cluster to its last one: no secret, no name, nothing it has."""
    need_namespaces()
    word = secrets.token_hex(24)
    with NetCluster() as cluster:
        with cluster.capture(tmp_path / "traffic") as capture:
            head = cluster.add_node()
            cluster.add_node("somewhere-else", labels={"zone": word}, resources={"licence-x": 2})
            seen = {row["name"]: row for row in rows(head)}
            assert seen["somewhere-else"]["labels"]["zone"] == word, "it came over the network"
            line = cluster.join_line()
            cluster.shutdown()
    needles = [word.encode(), b"somewhere-else", b"licence-x", b"object_store_memory"]
    secret = [part.encode() for part in line.split() if len(part) > 30]
    assert secret, "it is in the join line"
    assert not capture.plaintext([*needles, *secret])
    runs = [run for stream in capture.streams() for run in stream.runs()]
    assert sum(map(len, runs)) > 4_000, "there was traffic"
