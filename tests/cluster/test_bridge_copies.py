"""One value for many nodes: who has got it gives it to the next. Real node memories, links in
memory (`bridge_nodes`); each test ends by asserting that nothing is left anywhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from shoal._proto import holds
from tests.cluster.bridge_nodes import BEGUN, CALLS, GO, Failed, Nodes

NAMES = "abcdefgh"
SIZE = 200_000


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    made = Nodes(*NAMES)
    CALLS.clear()
    GO.clear()
    BEGUN.clear()
    yield made
    GO.set()
    made.finish()


def keep(nodes: Nodes, value: Any, *names: str) -> list[Any]:
    """Have the value kept in these nodes, by a task there that waits."""
    refs = []
    for name in names:
        nodes[name].add_worker()
        ref = nodes["a"].submit("wait", args=[value])
        nodes["a"].lend(ref, name)
        refs.append(ref)
    nodes.until(lambda: all(nodes[name].workers[0].ran or _has(nodes, name) for name in names))
    return refs


def _has(nodes: Nodes, name: str) -> bool:
    return any(to == name for _, to, _ in nodes.pulled)


def size_at(nodes: Nodes, value: Any, name: str, function: str = "size") -> Any:
    """Have a task there look at the value."""
    nodes[name].add_worker()
    ref = nodes["a"].submit(function, args=[value])
    nodes["a"].lend(ref, name)
    return nodes.get("a", ref)


def sources(nodes: Nodes) -> Counter[str]:
    return Counter(frm for frm, _, _ in nodes.pulled)


def test_a_value_for_all_goes_from_node_to_node(nodes: Nodes) -> None:
    value = nodes["a"].driver.put(b"v" * SIZE)
    refs = keep(nodes, value, *NAMES[1:])
    assert sorted(to for _, to, _ in nodes.pulled) == list(NAMES[1:]), "each gets it once"
    assert max(sources(nodes).values()) <= 3, "home gives as often as anybody"
    GO.set()
    assert [nodes.get("a", ref) for ref in refs] == ["waited"] * 7
    del refs, value


def test_who_got_it_from_another_reads_the_same(nodes: Nodes) -> None:
    """A value with a ref of c's in it, which the third node has from the second."""
    nodes["c"].add_worker()
    box = nodes["a"].submit("boxed", "of c")
    nodes["a"].lend(box, "c")
    (inner,) = nodes.get("a", box)
    value = nodes["a"].driver.put([inner, b"p" * SIZE])
    del box, inner
    refs = keep(nodes, value, "b")
    assert size_at(nodes, value, "d", "open") == "of c"
    assert ("b", "d") in [pull[:2] for pull in nodes.pulled]
    GO.set()
    assert nodes.get("a", refs[0]) == "waited"
    del refs, value


def test_a_copy_goes_with_its_ref_and_home_gives_again(nodes: Nodes) -> None:
    value = nodes["a"].driver.put(b"v" * SIZE)
    refs = keep(nodes, value, "b")
    GO.set()
    assert nodes.get("a", refs[0]) == "waited"
    del refs
    nodes.quiet()
    assert nodes["a"].bridging.pulling.is_empty, "nobody else has it any more"
    assert size_at(nodes, value, "c") == SIZE
    assert sources(nodes) == {"a": 2}
    del value


def hold_back(nodes: Nodes, to: str, frm: str, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Transfers from one node to another do not begin; the list is of those that wait."""
    held: list[Any] = []
    transfer = nodes._transfer

    def wait(*pull: Any) -> None:
        if pull[:2] == (to, frm):
            held.append(pull)
        else:
            transfer(*pull)

    monkeypatch.setattr(nodes, "_transfer", wait)
    return held


def test_a_copy_that_is_gone_meanwhile_is_had_from_home(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = nodes["a"].driver.put(b"v" * SIZE)
    refs = keep(nodes, value, "b")
    held = hold_back(nodes, "c", "b", monkeypatch)
    nodes["c"].add_worker()
    ref = nodes["a"].submit("size", args=[value])
    nodes["a"].lend(ref, "c")
    nodes.until(lambda: held)
    # Before the transfer begins, the only one who had it there is done.
    GO.set()
    assert nodes.get("a", refs[0]) == "waited"
    del refs
    nodes.quiet()
    monkeypatch.undo()
    nodes._transfer(*held.pop())
    assert nodes.get("a", ref) == SIZE
    assert [pull[:2] for pull in nodes.pulled] == [("a", "b"), ("a", "c")]
    del ref, value


def test_a_lost_source_is_replaced(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    value = nodes["a"].driver.put(b"v" * SIZE)
    refs = keep(nodes, value, "b")
    held = hold_back(nodes, "c", "b", monkeypatch)
    nodes["c"].add_worker()
    ref = nodes["a"].submit("size", args=[value])
    nodes["a"].lend(ref, "c")
    nodes.until(lambda: held)
    nodes.kill("b")
    held.pop()[-1]("the node is lost")
    assert nodes.get("a", ref) == SIZE
    assert [pull[:2] for pull in nodes.pulled] == [("a", "b"), ("a", "c")]
    with pytest.raises(Failed, match="node b, which ran it, is lost"):
        nodes.get("a", refs[0])
    del refs, ref, value


def test_nobody_wants_what_is_on_its_way(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The task is withdrawn while its argument comes; then it is wanted again."""
    value = nodes["a"].driver.put(b"v" * SIZE)
    held = hold_back(nodes, "b", "a", monkeypatch)
    ref = nodes["a"].submit("size", args=[value])
    nodes["a"].lend(ref, "b")
    nodes.until(lambda: held)
    key = ref.key
    nodes["a"].bridging.recall(key)
    nodes.until(lambda: not nodes["a"].bridging.machine.is_lent(key))
    nodes.quiet()
    monkeypatch.undo()
    nodes._transfer(*held.pop())
    nodes.quiet()
    assert nodes["a"].bridging.pulling.is_empty and nodes["b"].bridging.pulling.is_empty
    nodes["b"].add_worker()
    nodes["a"].lend(ref, "b")
    assert nodes.get("a", ref) == SIZE
    del ref, value


def test_nobody_pulls_from_a_drivers_machine_without_need(nodes: Nodes) -> None:
    nodes["a"].bridging.pulling.node_joined("b", is_driver=True)
    value = nodes["a"].driver.put(b"v" * SIZE)
    refs = keep(nodes, value, *NAMES[1:])
    assert sources(nodes)["b"] == 0 and _has(nodes, "b")
    GO.set()
    for ref in refs:
        nodes.get("a", ref)
    del refs, ref, value


def test_what_is_lost_with_its_home_stays_where_it_has_come(nodes: Nodes) -> None:
    """Values of b's: c has the bytes of one, and only a ref to the other."""
    nodes["b"].add_worker()
    box = nodes["a"].submit("boxed", b"w" * SIZE)
    nodes["a"].lend(box, "b")
    (inner,) = nodes.get("a", box)
    assert len(nodes.get("a", inner)) == SIZE
    nodes.kill("b")
    nodes.quiet()
    assert len(nodes.get("a", inner)) == SIZE
    assert not [body for _, _, body in nodes.rows if isinstance(body, holds.NoCopy)]
    del box, inner
