"""Streams that another node fills, in real node memories with real workers; the links are queues in
memory (`bridge_nodes`), so that they can be cut, and nodes be lost, between two items. Each test
ends by asserting that nothing is left anywhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from shoal import _native
from shoal._core import flows
from shoal._proto import bridge as rows
from tests.cluster import bridge_nodes
from tests.cluster.bridge_nodes import GO, Failed, Nodes

YIELDED: list[Any] = []
"""What generators were about to yield."""


def _count(worker: Any, n: int) -> Iterator[int]:
    for i in range(n):
        YIELDED.append(i)
        yield i


def _halves(worker: Any, n: int) -> Iterator[tuple[str, int]]:
    """The second half when it is let go on."""
    for i in range(n):
        if i == n // 2:
            assert GO.wait(20), "nobody let it go on"
        yield worker.where, i


def _sizes(worker: Any, *sizes: int) -> Iterator[bytes]:
    for size in sizes:
        yield b"s" * size


def _boxes(worker: Any, n: int) -> Iterator[list[Any]]:
    for i in range(n):
        yield [worker.put(i), worker.put(b"b" * 30_000), b"c" * 30_000]


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    for name, function in (
        ("count", _count), ("halves", _halves), ("sizes", _sizes), ("boxes", _boxes),
    ):  # fmt: skip
        monkeypatch.setitem(bridge_nodes.FUNCTIONS, name, function)
    YIELDED.clear()
    GO.clear()
    made = Nodes("a", "b", "c")
    for name in ("b", "c"):
        made[name].add_worker()
    yield made
    GO.set()
    made.finish()
    for node in made.living():
        assert not node.memory.process_sight(0)[4], f"{node.name} watches what nobody will seal"


def lent(nodes: Nodes, node: str, function: str, *arguments: Any, **more: Any) -> Any:
    """A stream of a's that `node` fills."""
    stream = nodes["a"].stream(function, *arguments, **more)
    nodes["a"].lend(stream.completed(), node)
    return stream


def following(nodes: Nodes, stream: Any) -> Any:
    nodes.until(stream.next_ready)
    return nodes.get("a", next(stream))


def rest(nodes: Nodes, stream: Any) -> list[Any]:
    values = []
    while True:
        try:
            values.append(following(nodes, stream))
        except StopIteration:
            return values


def rows_of(nodes: Nodes, kind: Any) -> list[Any]:
    return [body for _, _, body in nodes.rows if isinstance(body, kind)]


def test_items_come_in_their_order(nodes: Nodes) -> None:
    assert rest(nodes, lent(nodes, "b", "count", 2000)) == list(range(2000))
    sizes = [0, 10, 5_000, 9_000, 16_000, 17_000, 100_000, 20]
    assert [len(v) for v in rest(nodes, lent(nodes, "b", "sizes", *sizes))] == sizes
    assert len(nodes.pulled) == 2, "small ones come with the news of them"


def test_refs_in_items(nodes: Nodes) -> None:
    stream = lent(nodes, "b", "boxes", 5)
    for i in range(5):
        number, large, data = following(nodes, stream)
        assert nodes.get("a", number) == i and len(nodes.get("a", large)) == len(data) == 30_000
    assert rest(nodes, stream) == []
    del number, large


def test_a_large_item_is_an_argument_where_it_lies_and_elsewhere(nodes: Nodes) -> None:
    stream = lent(nodes, "b", "boxes", 2)
    nodes.until(stream.next_ready)
    item = next(stream)
    for node in ("b", "c"):
        boxed = nodes["a"].submit("boxed", args=[item])
        nodes["a"].lend(boxed, node)
        (again,) = nodes.get("a", boxed)
        number, large, _ = nodes.get("a", again)
        assert nodes.get("a", number) == 0 and len(nodes.get("a", large)) == 30_000
        del boxed, again, number, large
    assert len(rest(nodes, stream)) == 1
    del item


def test_no_more_than_the_limit_is_yielded(nodes: Nodes) -> None:
    stream = lent(nodes, "b", "count", 10, limit=3)
    nodes.until(lambda: len(YIELDED) == 3)
    for i in range(4):
        nodes.quiet()
        assert len(YIELDED) == 3 + i
        assert following(nodes, stream) == i
        nodes.until(lambda i=i: len(YIELDED) == 4 + i)
    assert rest(nodes, stream) == list(range(4, 10))


def test_no_more_than_a_window_is_on_its_way(nodes: Nodes) -> None:
    many = 3 * flows.WINDOW
    stream = lent(nodes, "b", "count", many)
    nodes.until(lambda: rows_of(nodes, rows.ForwardTask))
    nodes.cut.add("a")
    nodes.until(lambda: len(YIELDED) == many)
    nodes.quiet()
    link = [bridge_nodes._decoder.decode(data) for data in nodes.links["b", "a"]]
    sent = sum(len(body.items) for body in link if isinstance(body, rows.StreamItems))
    assert sent <= flows.WINDOW and not stream.next_ready()
    nodes.cut.clear()
    assert rest(nodes, stream) == list(range(many))


@pytest.mark.parametrize("retries", [0, 1])
def test_its_node_is_lost(nodes: Nodes, retries: int) -> None:
    """It goes on, on a third node, behind what its consumer has, or can have."""
    stream = lent(nodes, "b", "halves", 10, retries=retries)
    assert following(nodes, stream) == ("b", 0)
    nodes.until(lambda: sum(len(body.items) for body in rows_of(nodes, rows.StreamItems)) == 5)
    nodes.kill("b")
    GO.set()
    if not retries:
        assert [following(nodes, stream) for _ in range(4)] == [("b", i) for i in range(1, 5)]
        with pytest.raises(Failed, match="WorkerCrashedError"):
            following(nodes, stream)
        assert rest(nodes, stream) == []
        return
    nodes["a"].lend(stream.completed(), "c")
    items = [("b", i) for i in range(1, 5)] + [("c", i) for i in range(5, 10)]
    assert rest(nodes, stream) == items


def test_what_was_on_its_way_is_yielded_again(nodes: Nodes) -> None:
    stream = lent(nodes, "b", "halves", 10, retries=1)
    nodes.until(lambda: rows_of(nodes, rows.ForwardTask))
    nodes.cut.add("a")
    nodes.until(lambda: nodes.links.get(("b", "a")))
    nodes.kill("b")
    nodes.cut.clear()
    GO.set()
    nodes["a"].add_worker()
    assert rest(nodes, stream) == [("a", i) for i in range(10)]


def test_home_is_lost(nodes: Nodes) -> None:
    """What nobody reads any more ends, whether it waits for somebody or yields on."""
    for limit in (2, 0):
        lent(nodes, "b" if limit else "c", "halves", 10, limit=limit)
    nodes.until(lambda: len(rows_of(nodes, rows.StreamItems)) >= 2)
    nodes.kill("a")
    GO.set()
    nodes.until(lambda: all(len(nodes[n].bridging.visiting.streams) == 0 for n in ("b", "c")))
    assert len(nodes["b"].cancelled) and len(nodes["c"].cancelled)


@pytest.mark.parametrize("limit", [0, 2])
def test_the_consumer_lets_go(nodes: Nodes, limit: int) -> None:
    stream = lent(nodes, "b", "halves", 10, limit=limit)
    assert following(nodes, stream) == ("b", 0)
    home, key = nodes["a"], stream.completed().key
    del stream
    home.memory.cancel(key, False, b"", b"")
    assert home.bridging.cancel(key, recursive=False, forced=False, late=False)
    GO.set()
    nodes.until(lambda: len(home.bridging.lending) == 0)


def test_items_that_come_for_nobody_are_let_go_where_they_lie(nodes: Nodes) -> None:
    stream = lent(nodes, "b", "sizes", *[20_000] * 60)
    nodes.until(lambda: rows_of(nodes, rows.ForwardTask))
    nodes.cut.add("a")
    nodes.until(lambda: nodes.links.get(("b", "a")))
    del stream
    nodes.cut.clear()
    nodes.until(lambda: len(nodes["a"].bridging.lending) == 0)
    nodes.until(lambda: len(nodes["b"].bridging.visiting) == 0)


def test_what_was_seen_is_freed_while_it_runs(nodes: Nodes) -> None:
    stream = lent(nodes, "b", "halves", 800)
    for i in range(400):
        assert following(nodes, stream) == ("b", i)
    nodes.quiet()
    for name in ("a", "b"):
        assert nodes[name].memory.audit()["slots"] < 20, name
    GO.set()
    assert len(rest(nodes, stream)) == 400


@pytest.mark.parametrize("many", [300, 1500])
def test_what_finds_no_room_waits_and_so_does_the_end(nodes: Nodes, many: int) -> None:
    home = nodes["a"]
    stream = lent(nodes, "b", "sizes", *[9_000] * many)
    nodes.until(lambda: rows_of(nodes, rows.ForwardTask))
    nodes.cut.add("a")
    filling: list[Any] = []
    fill(nodes, filling)
    nodes.cut.clear()
    coming = home.bridging.lending.streams
    nodes.until(lambda: rows_of(nodes, rows.StreamItems))
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        nodes.turn()
    assert not stream.completed().is_sealed() and len(coming) == 1
    filling.clear()
    taken = 0
    while True:
        try:
            assert len(following(nodes, stream)) == 9_000
        except StopIteration:
            break
        taken += 1
    assert taken == many


def fill(nodes: Nodes, filling: list[Any]) -> None:
    """All memory of a is in use, but for small pieces that others are made of."""
    memory = nodes["a"].memory
    for size in (3_000_000, 300_000, 30_000, 8_900):
        while True:
            memory.populate(64 << 20, 1 << 40)
            key = memory.new_proxy(5)
            ref = memory.ref(key)
            is_written = memory.seal_image(key, _native.FORMAT_BYTES, False, bytes(size))
            memory.release(key)
            if not is_written:
                break
            filling.append(ref)


def test_rows_that_cannot_be_are_not_believed(nodes: Nodes) -> None:
    blamed: list[str] = []
    nodes["a"].bridging._around.blame = lambda node, why: blamed.append(why)
    nodes["b"].bridging._around.blame = lambda node, why: blamed.append(why)
    stream = lent(nodes, "b", "halves", 4)
    assert following(nodes, stream) == ("b", 0)
    item = rows.Result(_native.FORMAT_BYTES, 1, False, b"x")
    home, there = nodes["a"].bridging, nodes["b"].bridging
    home.receive("b", rows.StreamItems(1, 0, (item,)))
    home.receive("c", rows.StreamItems(1, 2, (item,)))
    home.receive("b", rows.StreamItems(9, 0, (item,)))
    there.receive("a", rows.StreamSeen(1, 50, 0))
    there.receive("c", rows.StreamSeen(1, 2, 0))
    assert len(blamed) == 2
    home.receive("b", rows.StreamItems(1, 2, (rows.Result(8, 40, True, b"no image" * 5),)))
    with pytest.raises(Failed, match="no value"):
        assert following(nodes, stream) == ("b", 1)
        following(nodes, stream)
    GO.set()
    nodes.until(lambda: len(blamed) == 3)
    nodes.until(stream.completed().is_sealed)
