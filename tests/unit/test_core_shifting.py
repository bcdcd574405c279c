"""What waits means something else once nodes have changed: soft affinities, and a drained node."""

from __future__ import annotations

from typing import Any

import msgspec

from shoal._core import commands as do
from shoal._core import events as seen
from shoal._core import guests, node_row
from shoal._core.events import KnownNode
from shoal._core.resources import UNIT
from shoal._proto import messages as m
from shoal._proto.strategies import LabelRule
from shoal._proto.views import NodeRow
from tests.unit.test_core_guests import OTHER, PYTHON, THIRD, InCluster, place
from tests.unit.test_core_node import DRIVER, WORKER

ROW = NodeRow(OTHER, total={"CPU": 4 * UNIT}, python=PYTHON)
SOFT = m.NodeAffinity(OTHER, True)


def known(**more: Any) -> KnownNode:
    row = msgspec.structs.replace(ROW, **more)
    return KnownNode("node-" + row.node[0], row)


class Told(InCluster):
    """A node with a program that is told of others as they come and go."""

    def __init__(self, *others: KnownNode) -> None:
        super().__init__()
        self.tell(seen.Began())
        self.driver()
        self.others(*others)

    def others(self, *others: KnownNode) -> list[do.Command]:
        nodes = frozenset(each.row.node for each in others)
        return self.tell(seen.NodesChanged(nodes, others, PYTHON))

    def waits(self, number: int, entries: int = 3) -> None:
        self.tell(seen.Looked((seen.QueueState(number, entries, 0),), ()))

    def wish(self, number: int) -> Any:
        return guests.wish_of(self.tables, self.queue(number), PYTHON)


def rule(node: str) -> Any:
    return ((LabelRule("shoal.io/node-id", "in", (node,)),),)


# ---- soft affinities
def test_a_soft_affinity_holds_while_its_node_is_there() -> None:
    node = Told(known())
    queue = node.open_queue(7, SOFT)
    assert not queue.is_feasible and node.wish(7).labels == rule(OTHER)
    node.waits(7)
    out = node.others(known(node=THIRD))
    assert queue.is_feasible and node.wish(7).labels == ()
    assert do.Look(queues=(7,)) in out, "what waits is looked at at once"
    node.waits(7)
    assert queue.wants or queue.attachments, "and runs here"
    node.others(known())
    assert not queue.is_feasible and node.wish(7).labels == rule(OTHER), "it has come again"


def test_the_class_stays_what_was_meant() -> None:
    node = Told(known())
    node.open_queue(7, SOFT)
    node.others()
    out = node.ask(DRIVER, m.OpenQueue({"CPU": 1.0}, strategy=m.NodeAffinity(OTHER, False)))
    assert any(isinstance(c, do.NewQueue) for c in out), "a hard one is another class"
    assert list(node.tables.jobs.running[1].queues.values()) == [7]
    assert node.queue(7).meant.is_soft and not node.queue(7).target.is_soft


def test_a_soft_affinity_to_who_can_never_run_it_is_none() -> None:
    for other in (known(total={"CPU": UNIT // 2}), known(is_draining=True), known(python="3.9")):
        node = Told(other)
        assert node.open_queue(7, SOFT).is_feasible


def test_who_has_not_told_of_itself_is_believed_to_be_able() -> None:
    node = Told(known())
    node.tell(seen.NodesChanged(frozenset({OTHER})))
    assert not node.open_queue(7, SOFT).is_feasible


def test_a_hard_affinity_waits_for_its_node() -> None:
    node = Told(known())
    queue = node.open_queue(7, m.NodeAffinity(OTHER, False))
    node.others(known(node=THIRD))
    assert not queue.is_feasible and node.wish(7).labels == rule(OTHER)


def test_workers_let_go_of_what_is_for_another_node_again() -> None:
    node = Told(known(total={"CPU": UNIT // 2}))
    queue = node.open_queue(7, SOFT)
    node.waits(7)
    node.worker(WORKER)
    assert queue.attachments
    out = node.others(known())
    assert do.Assign(next(iter(queue.attachments)), 0) in out


def test_an_actor_that_waits_for_a_lost_node_asks_for_any() -> None:
    node = Told(known(total={"CPU": 8 * UNIT}))
    out = node.actor(6, hold={"CPU": 8.0}, strategy=SOFT)
    ask = next(iter(node.tables.scheduler.asks.values()))
    assert ask.target.labels == rule(OTHER), out
    node.others(known(node=THIRD, total={"CPU": 8 * UNIT}))
    (ask,) = node.tables.scheduler.asks.values()
    assert ask.target.labels == ()


# ---- this node is drained
def drained(node: Told) -> list[do.Command]:
    return node.tell(seen.DrainBegun())


def test_on_a_drained_node_nothing_begins_that_another_one_can_do() -> None:
    node = Told(known())
    before = node.open_queue(7)
    node.waits(7)
    node.worker(WORKER)
    drained(node)
    assert not before.is_feasible and node.wish(7).labels == ()
    assert all(each.is_leaving for each in before.attachments.values())
    assert not node.open_queue(8, m.Spread()).is_feasible and node.wish(8).spreads
    (demand, *_) = node_row.demand_of(node.tables, PYTHON)
    assert demand.count == 3


def test_on_a_drained_node_begins_what_nobody_else_can_do() -> None:
    node = Told(known(total={"CPU": UNIT // 2}))
    queue = node.open_queue(7)
    drained(node)
    assert queue.is_feasible
    node.others(known(), known(node=THIRD, total={"CPU": UNIT // 2}))
    assert not queue.is_feasible, "somebody has come who can"
    node.others()
    assert queue.is_feasible


def test_what_others_have_sent_is_not_shifted() -> None:
    node = Told(known())
    node.wanted(place(), 4)
    drained(node)
    assert node.queue(4).is_feasible, "its daemon gives it back"


def test_a_soft_affinity_to_the_drained_node_is_none() -> None:
    node = Told(known())
    me = node.tables.config.node_id.hex()
    soft, hard = node.open_queue(7, m.NodeAffinity(me, True)), None
    assert soft.is_feasible and node.wish(7).labels == rule(me)
    hard = node.open_queue(8, m.NodeAffinity(me, False))
    drained(node)
    assert not soft.is_feasible and node.wish(7).labels == ()
    assert hard.is_feasible, "that may still run here"


def test_an_actor_that_waits_on_a_drained_node_looks_for_another_one() -> None:
    node = Told(known())
    node.actor(6, hold={"CPU": 2.0})
    asks = node.tables.scheduler.asks
    assert not asks.impossible
    drained(node)
    assert list(asks.impossible) == list(asks.by_who)


def test_a_drained_node_takes_no_actor() -> None:
    node = Told(known())
    drained(node)
    spec = m.ActorSpec(function=150, arguments=160, class_name="Guest", methods=b"")
    place_there = guests._encoder.encode(guests.ClassPlace((), m.JobConfig()))
    out = node.tell(seen.ActorCame(OTHER, 77, "a" * 40, 9, place_there, spec))
    assert out == [do.TellHome(OTHER, 77, "REFUSED")]
