"""The bridge over real links: three nodes in one process, TLS over loopback between them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shoal._runtime.daemon_loop import Loop
from shoal._runtime.links import keys
from shoal._runtime.links.door import Door, listen_anywhere
from shoal._runtime.links.peers import PeerEvents, PeerOptions, Peers
from tests.cluster.bridge_nodes import CALLS, GO, Node, Nodes


class LinkedNodes(Nodes):
    """As `Nodes`, whose daemons have real links."""

    def __init__(self, directory: str, *names: str) -> None:
        self.loop = Loop()
        super().__init__(*names)
        line = keys.new_cluster(directory, "127.0.0.1:1")
        self.peers: dict[str, Peers] = {}
        self.doors: list[Door] = []
        addresses = {}
        for name, node in self.all.items():
            listening, addresses[name] = listen_anywhere("127.0.0.1")
            peers = Peers(
                self.loop,
                keys.load(directory, name),
                self.events(node),
                PeerOptions(epoch=1, address=addresses[name]),
            )
            self.doors.append(Door(self.loop, listening, line.secret.id, peers.desks()))
            self.peers[name] = peers
            node.bridging._around.links = peers
        for name, peers in self.peers.items():
            for other in names:
                peers.connect(other, addresses[other]) if other != name else None

    def events(self, node: Node) -> PeerEvents:
        def received(frm: str, body: Any) -> None:
            self.rows.append((frm, node.name, body))
            node.bridging.receive(frm, body)

        return PeerEvents(
            received=received,
            linked=lambda other: None,
            suspected=lambda other, why: None,
            open_source=node.bridging.open_source,
        )

    def turn(self) -> bool:
        before = len(self.rows)
        self.loop.call_later(0.001, lambda: None)
        self.loop._run_once()
        busy = super().turn()
        return busy or len(self.rows) > before

    def until(self, is_true: Callable[[], Any], seconds: float = 30.0) -> None:
        super().until(is_true, seconds)

    def quiet(self) -> None:
        end = time.monotonic() + 10
        still = time.monotonic()
        while time.monotonic() < still + 0.2:
            assert time.monotonic() < end, "it goes on and on"
            if self.turn():
                still = time.monotonic()

    def close(self) -> None:
        for door in self.doors:
            door.close()
        for peers in self.peers.values():
            peers.close()


@pytest.fixture
def linked(tmp_path: Path) -> Iterator[LinkedNodes]:
    CALLS.clear()
    GO.clear()
    nodes = LinkedNodes(str(tmp_path / "keys"), "a", "b", "c")
    yield nodes
    nodes.finish()
    nodes.close()


@pytest.mark.timeout(120)
def test_tasks_values_and_refs_over_tls(linked: LinkedNodes) -> None:
    for name in "bc":
        linked[name].add_worker()
    value = linked["a"].driver.put(b"v" * 3_000_000)
    sizes = [linked["a"].submit("size", args=[value]) for _ in range(10)]
    for number, ref in enumerate(sizes):
        linked["a"].lend(ref, "bc"[number % 2])
    assert [linked.get("a", ref) for ref in sizes] == [3_000_000] * 10
    large = linked["a"].submit("large", 20_000)
    linked["a"].lend(large, "b")
    length = linked["a"].submit("size", args=[large])
    linked.until(large.is_sealed)
    linked["a"].lend(length, "c")
    assert linked.get("a", length) == 5_000_000
    box = linked["a"].submit("boxed", b"i" * 200_000)
    linked["a"].lend(box, "b")
    assert len(linked.get("a", linked.get("a", box)[0])) == 200_000
    del value, sizes, ref, large, length, box


@pytest.mark.timeout(120)
def test_a_broken_connection_loses_nothing(linked: LinkedNodes) -> None:
    linked["b"].add_worker()
    refs = []
    for number in range(200):
        refs.append(linked["a"].submit("add", number))
        linked["a"].lend(refs[-1], "b")
        if number % 50 == 25:
            linked.turn()
            linked.peers["b"]._connections.close("the test breaks it")
    assert [linked.get("a", ref) for ref in refs] == list(range(200))
    assert len(linked["b"].workers[0].ran) == 200
    del refs
