"""Calls of actors that live on another node, in real node memories with real workers; the links are
queues in memory (`bridge_nodes`). Each test ends by asserting that nothing is left anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from shoal import _native
from shoal._base import records
from tests.cluster.bridge_nodes import BEGUN, CALLS, GO, JOB, Failed, Nodes


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    made = Nodes("a", "b", "c")
    CALLS.clear()
    GO.clear()
    BEGUN.clear()
    yield made
    made.finish()


def actor_on(nodes: Nodes, node: str) -> tuple[Any, tuple[int, int], Any]:
    """An actor of a's that lives on `node`: its lifetime object, its queue here, its worker."""
    actor = nodes["a"].driver.put("an actor")
    queue = nodes["a"].memory.new_queue(_native.QUEUE_ACTOR, 5)
    nodes["a"].bridging.actors.place(queue[0], node)
    return actor, queue, live_on(nodes, node, actor)


def live_on(nodes: Nodes, node: str, actor: Any) -> Any:
    there = nodes[node].memory.new_queue(_native.QUEUE_ACTOR, 5)
    around = nodes[node].bridging._around
    around.find_actor = lambda name, place: (*there, JOB)  # this test has one actor
    return nodes[node].add_worker(there[0])


def test_calls_go_in_order(nodes: Nodes) -> None:
    actor, queue, _ = actor_on(nodes, "b")
    slow = nodes["a"].submit("wait")
    refs = [nodes["a"].call(actor, queue, number) for number in range(20)]
    nodes["a"].add_worker()
    refs += [nodes["a"].call(actor, queue, [slow])]
    refs += [nodes["a"].call(actor, queue, number) for number in range(20, 40)]
    nodes.until(BEGUN.is_set)
    GO.set()
    assert [nodes.get("a", ref) for ref in refs] == list(range(1, 42))
    numbers = [arguments[0] for arguments in CALLS]
    assert [n for n in numbers if isinstance(n, int)] == list(range(40))
    assert isinstance(numbers[20][0], _native.ObjectRef)
    CALLS.clear()
    del refs, slow, numbers, actor
    nodes["a"].bridging.actors.remove(next(iter(nodes["a"].bridging.actors._lines)), b"")


def test_calls_wait_for_the_next_place(nodes: Nodes) -> None:
    actor, queue, _ = actor_on(nodes, "b")
    nodes.cut.add("b")
    sent = [nodes["a"].call(actor, queue, number, retries=-1) for number in range(10)]
    lost = nodes["a"].call(actor, queue, "at most once")
    nodes.turn()
    assert len(nodes["a"].bridging.machine.lendings) == 11
    nodes.cut.clear()
    nodes.kill("b")
    later = [nodes["a"].call(actor, queue, number) for number in range(10, 20)]
    with pytest.raises(Failed, match="node_lost"):
        nodes.get("a", lost)
    nodes.quiet()
    assert CALLS == [] and len(nodes["a"].memory.queued(queue[0], 99)) == 10
    live_on(nodes, "c", actor)
    nodes["a"].bridging.actors.place(queue[0], "c")
    assert [nodes.get("a", ref) for ref in sent + later] == list(range(1, 21))
    assert CALLS[:] == [(number,) for number in range(20)]
    nodes["a"].bridging.actors.remove(queue[0], b"")
    del sent, lost, later, actor


def test_what_waits_for_a_place_ends_with_its_actor(nodes: Nodes) -> None:
    actor, queue, _ = actor_on(nodes, "b")
    nodes.cut.add("b")
    ref = nodes["a"].call(actor, queue, 1, retries=5)
    nodes.turn()
    nodes.kill("b")
    nodes.cut.clear()
    nodes["a"].bridging.actors.remove(queue[0], records.pack("ActorDiedError", reason="killed"))
    with pytest.raises(Failed, match="ActorDiedError"):
        nodes.get("a", ref)
    del ref, actor


def test_an_actor_that_comes_home_has_its_calls_in_order(nodes: Nodes) -> None:
    actor, queue, _ = actor_on(nodes, "b")
    actors = nodes["a"].bridging.actors
    nodes.cut.add("b")
    refs = [nodes["a"].call(actor, queue, number, retries=-1) for number in range(10)]
    nodes.turn()
    nodes.cut.clear()
    nodes.kill("b")
    refs += [nodes["a"].call(actor, queue, number) for number in range(10, 20)]
    nodes.quiet()
    assert len(nodes["a"].memory.queued(queue[0], 99)) == 10, "the others were taken out before"
    actors.bring_home(queue[0])
    assert len(nodes["a"].memory.queued(queue[0], 99)) == 20 and CALLS == []
    assert actors.is_quiet(queue[0]), "nothing of it is abroad"
    actors.bring_home(queue[0])
    nodes["a"].add_worker(queue[0])
    assert [nodes.get("a", ref) for ref in refs] == list(range(1, 21))
    assert CALLS[:] == [(number,) for number in range(20)]
    CALLS.clear()
    del refs, actor


def test_a_line_is_quiet_when_nothing_waits_or_is_lent(nodes: Nodes) -> None:
    actor, queue, _ = actor_on(nodes, "b")
    actors = nodes["a"].bridging.actors
    assert actors.is_quiet(queue[0])
    nodes.cut.add("b")
    ref = nodes["a"].call(actor, queue, 1, retries=-1)
    nodes.turn()
    assert not actors.is_quiet(queue[0]), "it is lent"
    nodes.cut.clear()
    nodes.kill("b")
    nodes.quiet()
    assert not actors.is_quiet(queue[0]), "it waits for a place"
    live_on(nodes, "c", actor)
    actors.place(queue[0], "c")
    assert nodes.get("a", ref) == 1
    assert actors.is_quiet(queue[0])
    actors.remove(queue[0], b"")
    CALLS.clear()
    del ref, actor
