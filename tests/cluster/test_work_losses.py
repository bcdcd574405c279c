"""What becomes of tasks and values when the node that runs them, or has them, is lost.

One test: it takes seconds until a node is declared dead, so everything is begun first, then one
node is killed and another one is frozen, and each check looks at how one of these things has ended.
In the end the frozen node goes on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from shoal import errors
from shoal.testing import Cluster, Node
from shoal.testing.polling import wait_until
from tests.cluster import two_nodes
from tests.cluster.conftest import LEASE_S

LONG_S = 60.0
KILLED, FROZEN = "killed", "frozen"
"""Names of the nodes, and of the resource that only they have, until another one joins."""


@dataclass
class Begun:
    """What was begun on a node that is lost then."""

    folder: Path
    refs: dict[str, Any] = field(default_factory=dict)
    kept: Any = None
    firsts: dict[str, Any] = field(default_factory=dict)
    """The first item of each stream."""
    larges: dict[str, Any] = field(default_factory=dict)
    """And a ref to the second, which nobody has read."""

    def begin(self, resource: str) -> None:
        """Tasks that write down where they begin and end; they end where they are told to."""
        self.folder.mkdir()
        folder, place = self.folder, {"num_cpus": 0, "resources": {resource: 0.1}}

        @shoal.remote(**place)
        def run(name: str) -> str:
            node = str(shoal.get_runtime_context().get_node_id())
            with open(folder / name, "a") as file:
                file.write(f"begun {node} {os.getpid()}\n")
            while not (folder / f"go {node}").exists():
                time.sleep(0.01)
            with open(folder / name, "a") as file:
                file.write(f"ended {node} {os.getpid()}\n")
            return node

        @shoal.remote(**place)
        def make() -> Any:
            return np.ones(300_000)

        @shoal.remote(**place)
        def give() -> list[Any]:
            return [shoal.put(np.ones(300_000))]

        @shoal.remote(**place)
        def tell(name: str) -> Iterator[Any]:
            node = str(shoal.get_runtime_context().get_node_id())
            yield "first", node
            yield np.ones(300_000)
            while not (folder / f"go {node}").exists():
                time.sleep(0.01)
            yield "last", node

        for name, retries in (("stream", 1), ("stream that ends", 0)):
            stream = self.refs[name] = tell.options(max_retries=retries).remote(name)
            self.firsts[name] = shoal.get(stream._next_sync(LONG_S), timeout=LONG_S)
            self.larges[name] = stream._next_sync(LONG_S)
        refs = self.refs
        for name, retries in (("retried", 1), ("not retried", 0)):
            refs[name] = run.options(max_retries=retries).remote(name)
        refs["large"] = make.options(max_retries=0).remote()
        refs["made again"] = make.remote()
        refs["read before"] = make.options(max_retries=0).remote()
        self.kept = shoal.get(refs["read before"], timeout=LONG_S)
        (refs["put there"],) = shoal.get(give.remote(), timeout=LONG_S)
        made = [refs["large"], refs["made again"], refs["put there"]]
        assert not shoal.wait(made, num_returns=3, timeout=LONG_S, fetch_local=False)[1]
        for name in ("retried", "not retried"):
            assert wait_until(lambda name=name: self.lines(name), LONG_S), "it has not begun"

    def get(self, name: str) -> Any:
        return shoal.get(self.refs[name], timeout=LONG_S)

    def lines(self, name: str) -> list[list[str]]:
        """What the runs of a task have written: what, the node, the process."""
        try:
            return [line.split() for line in (self.folder / name).read_text().splitlines()]
        except FileNotFoundError:
            return []


@dataclass
class Aftermath:
    cluster: Cluster
    begun: dict[str, Begun]
    lost: dict[str, str]
    """Ids of the nodes that were lost, by name."""
    other: str
    """Id of the one that has joined since."""


@contextmanager
def _lost(folder: Path) -> Iterator[Aftermath]:
    """A cluster that has lost two nodes; afterwards nothing is left on any other."""
    with Cluster(lease_s=LEASE_S) as cluster:
        head = cluster.add_node(num_cpus=1)
        nodes = {name: _add(cluster, name) for name in (KILLED, FROZEN)}
        with two_nodes.driven(head, []):
            ids = {name: node for node, name in two_nodes.names().items()}
            begun = {name: Begun(folder / name) for name in nodes}
            for name, each in begun.items():
                each.begin(name)
            cluster.kill_node(nodes[KILLED])
            cluster.freeze(nodes[FROZEN])
            cluster.add_node("other", wait=False, resources={KILLED: 1, FROZEN: 1})
            assert wait_until(lambda: "other" in two_nodes.names().values(), LONG_S)
            other = {name: node for node, name in two_nodes.names().items()}["other"]
            for each in begun.values():
                (each.folder / f"go {other}").touch()
            yield Aftermath(cluster, begun, {name: ids[name] for name in nodes}, other)
            begun.clear()
        cluster.remove_node(nodes[KILLED], gracefully=False)
        for node in cluster.nodes:
            two_nodes.audit(node)


def _add(cluster: Cluster, name: str) -> Node:
    return cluster.add_node(name, num_cpus=1, resources={name: 1, f"only {name}": 1})


def test_what_a_node_takes_with_it(tmp_path: Path) -> None:
    with _lost(tmp_path) as aftermath:
        for name, begun in aftermath.begun.items():
            _check(begun, aftermath.lost[name], aftermath.other)
        _goes_on(aftermath)


def _check(begun: Begun, lost: str, other: str) -> None:
    assert begun.get("retried") == other
    runs = [(what, node) for what, node, _ in begun.lines("retried")]
    assert runs == [("begun", lost), ("begun", other), ("ended", other)]
    with pytest.raises(errors.WorkerCrashedError, match="is lost") as crashed:
        begun.get("not retried")
    assert crashed.value.node == lost
    assert len(begun.lines("not retried")) == 1
    for name in ("large", "put there"):
        with pytest.raises(errors.ObjectLostError, match=lost):
            begun.get(name)
    assert begun.get("made again").sum() == 300_000, "its task may run again"
    _check_streams(begun, lost, other)
    assert begun.get("read before").sum() == begun.kept.sum() == 300_000, "its bytes are here too"


def _check_streams(begun: Begun, lost: str, other: str) -> None:
    """One goes on behind what its consumer has; the other ends."""
    assert set(begun.firsts.values()) == {("first", lost)}
    ref = begun.refs["stream"]._next_sync(LONG_S)
    assert shoal.get(ref, timeout=LONG_S) == ("last", other)
    ended = begun.refs["stream that ends"]
    last = ended._next_sync(LONG_S)
    with pytest.raises(errors.WorkerCrashedError, match="is lost"):
        shoal.get(last, timeout=LONG_S)
    for stream in (begun.refs["stream"], ended):
        with pytest.raises(StopIteration):
            stream._next_sync(LONG_S)
    again = shoal.get(begun.larges["stream"], timeout=LONG_S)
    assert again.sum() == 300_000, "its generator may run again"
    with pytest.raises(errors.ObjectLostError, match=lost):
        shoal.get(begun.larges["stream that ends"], timeout=LONG_S)


def _goes_on(aftermath: Aftermath) -> None:
    """It ends what it has before anything else, and then it is a node like any other."""
    begun = aftermath.begun[FROZEN]
    before = {name: begun.lines(name) for name in ("retried", "not retried")}
    pids = {int(lines[0][2]) for lines in before.values()}
    (frozen,) = (node for node in aftermath.cluster.nodes if node.name == FROZEN)
    assert pids <= set(frozen.processes())
    aftermath.cluster.thaw(frozen)
    assert wait_until(lambda: not pids & set(frozen.processes()), LONG_S)
    assert {name: begun.lines(name) for name in before} == before, "nothing ended a second time"

    @shoal.remote(resources={f"only {FROZEN}": 0.1})
    def where() -> str:
        return str(shoal.get_runtime_context().get_node_id())

    assert shoal.get(where.remote(), timeout=LONG_S) == aftermath.lost[FROZEN]
