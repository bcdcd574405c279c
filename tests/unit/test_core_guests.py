"""Guests: jobs that stand for those of other nodes, their queues, and what may leave a node."""

from __future__ import annotations

from typing import Any

import pytest

from shoal._base.config import Limits, NodeConfig
from shoal._core import commands as do
from shoal._core import events as seen
from shoal._core import guests, node_row, placement
from shoal._core.node import NodeMachine
from shoal._core.queues import ClassQueue
from shoal._proto import messages as m
from shoal._proto.strategies import LabelRule
from tests.unit.test_core_node import DRIVER, WORKER, Node, kinds, reply

OTHER, THIRD = "aa" * 16, "bb" * 16
PYTHON = "3.11"
ONE_CPU = (("CPU", 10_000),)


class InCluster(Node):
    """A node of a cluster, which knows one other."""

    def __init__(self, **total: float) -> None:
        super().__init__()
        given = {"CPU": 2.0, **total}
        self.machine = NodeMachine(
            NodeConfig(
                session="s",
                directory="/d",
                node_id=b"0123456789abcdef",
                total=given,
                cores=2,
                labels={"zone": "a"},
                limits=Limits(),
                in_cluster=True,
            )
        )
        self.tell(seen.NodesChanged(frozenset({OTHER})))

    @property
    def tables(self) -> Any:
        return self.machine.tables

    def queue(self, number: int) -> ClassQueue:
        return self.tables.scheduler.held.queues[number]

    def open_queue(self, number: int, strategy: Any = None, index: int = DRIVER) -> ClassQueue:
        """One of this node's own."""
        out = self.ask(index, m.OpenQueue({"CPU": 1.0}, strategy=strategy or m.Default()))
        (ticket,) = (c.ticket for c in out if isinstance(c, do.NewQueue))
        self.tell(seen.QueueCreated(ticket, number, 1))
        return self.queue(number)

    def wanted(self, place: bytes, number: int, job: int = 1, node: str = OTHER) -> list[Any]:
        """The first task of a kind has come; its queue is made at once."""
        out = self.tell(seen.GuestWanted(node, job, place))
        for made in [c for c in out if isinstance(c, do.NewQueue)]:
            out += self.tell(seen.QueueCreated(made.ticket, number, 1))
        return out


def place(cpus: float = 1.0, **config: Any) -> bytes:
    """As another node would describe what waits there."""
    amounts = (("CPU", int(cpus * 10_000)),)
    return guests._encoder.encode(guests.ClassPlace(amounts, m.JobConfig(**config)))


def test_what_a_node_describes_is_what_another_one_makes() -> None:
    home, there = InCluster(), InCluster()
    home.driver(priority=3, weight=2.0)
    home.open_queue(7)
    there.wanted(guests.describe(home.tables, 7), 4)
    queue = there.queue(4)
    assert queue.amounts == ONE_CPU and queue.target.hosts
    job = there.tables.jobs.running[queue.job]
    assert (job.home, job.config.priority, job.config.weight) == ((OTHER, 1), 3, 2.0)
    found = guests.find(there.tables, OTHER, 1, guests.describe(home.tables, 7))
    assert found == (4, 1, queue.job)


def test_a_job_abroad_is_one_guest() -> None:
    node = InCluster()
    node.wanted(place(1.0), 4)
    node.wanted(place(2.0), 5)
    node.wanted(place(1.0), 6)
    assert node.queue(4).job == node.queue(5).job
    assert 6 not in node.tables.scheduler.held.queues, "the first one has its queue"
    node.tell(seen.NodesChanged(frozenset({OTHER, THIRD})))
    node.wanted(place(1.0), 6, node=THIRD)
    node.wanted(place(1.0), 7, job=2)
    jobs = {node.queue(number).job for number in (4, 6, 7)}
    assert len(jobs) == 3 == len(node.tables.jobs.guests)
    assert node.ask(WORKER, m.GetTable("jobs"))[0].body.rows is not None


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        ((place(8.0), OTHER), "does not have"),
        ((place(1.0), THIRD), "not known"),
        ((b"\xc1 rubbish", OTHER), "not understood"),
    ],
)
def test_what_cannot_be_taken_in_says_why(wanted: tuple[bytes, str], why: str) -> None:
    node = InCluster()
    described, home = wanted
    assert node.wanted(described, 4, node=home) == []
    assert why in str(guests.find(node.tables, home, 1, described))
    assert not node.tables.jobs.guests
    node.tell(seen.NodesChanged(frozenset({OTHER, THIRD})))
    assert guests.find(node.tables, home, 1, described) is None, "it may be asked for again"


def test_a_guest_ends_with_its_job_or_its_node() -> None:
    node = InCluster()
    for job, queue in ((1, 4), (2, 5), (3, 6)):
        node.wanted(place(), queue, job)
    out = node.tell(seen.GuestEnded(OTHER, 2, "its driver has gone"))
    assert [c.queue for c in out if isinstance(c, do.KillQueue)] == [5]
    assert set(node.tables.jobs.guests) == {(OTHER, 1), (OTHER, 3)}
    assert guests.find(node.tables, OTHER, 2, place()) is None
    out = node.tell(seen.GuestEnded(OTHER, 0, "the node is lost"))
    assert sorted(c.queue for c in out if isinstance(c, do.KillQueue)) == [4, 6]
    assert not node.tables.jobs.guests and not node.tables.guests
    assert node.tell(seen.GuestEnded(OTHER, 0, "again")) == []


def test_what_has_come_does_not_go_on_and_what_it_submits_may() -> None:
    """Its worker submits what asks for the same: that has a queue of its own."""
    node = InCluster()
    node.wanted(place(), 4)
    guest = node.queue(4)
    assert guests.wish_of(node.tables, guest, PYTHON) is None
    node.tell(seen.Looked((seen.QueueState(4, 1, 0),), ()))
    assignment = reply(node.worker(WORKER), m.Assignment)
    assert assignment.is_guest and assignment.job == guest.job
    own = node.open_queue(5, index=WORKER)
    assert own.job == guest.job and not own.target.hosts
    wish = guests.wish_of(node.tables, own, PYTHON)
    assert wish is not None and wish.amounts == ONE_CPU
    # Retries: home's are home's, and what was submitted here has its own.
    (told, denied) = node.ask(WORKER, m.RetryTask(9, 1, is_last=True))
    assert told == do.NoteRetryable(9) and not denied.body.granted
    (requeue,) = node.ask(WORKER, m.RetryTask(10, 1))
    assert isinstance(requeue, do.Requeue) and requeue.charged


def test_its_home_may_cancel_what_it_has_sent() -> None:
    node = InCluster()
    (command,) = node.tell(seen.CancelAsked(9, True, True))
    assert (command.key, command.is_recursive, command.is_forced) == (9, True, True)


# ---- where a strategy says a task of this node may run
def test_strategies_in_a_cluster() -> None:
    node = InCluster()
    t, me = node.tables, node.tables.config.node_id.hex()
    assert placement.resolve(t, m.Default()) == t.scheduler.node
    spread = placement.resolve(t, m.Spread())
    assert spread == t.scheduler.node._replace(spreads=True)
    here = placement.resolve(t, m.NodeAffinity(me, False))
    there = placement.resolve(t, m.NodeAffinity(OTHER, False))
    nowhere = placement.resolve(t, m.NodeAffinity(THIRD, False))
    for target, node_id in ((here, me), (there, OTHER), (nowhere, THIRD)):
        assert target.labels == ((LabelRule(placement.NODE_ID_LABEL, "in", (node_id,)),),)
    assert here.room.accounts and not there.room.accounts and not nowhere.room.accounts
    assert "not there" in nowhere.why and "not there" not in there.why
    assert placement.resolve(t, m.NodeAffinity(THIRD, True)) == t.scheduler.node
    assert placement.resolve(t, m.NodeAffinity(OTHER, True)) == there._replace(is_soft=True)


def test_labels_are_asked_of_other_nodes() -> None:
    node = InCluster()
    node.driver()
    rules = ((LabelRule("zone", "in", ("b",)),),)
    queue = node.open_queue(7, m.NodeLabels(rules))
    assert not queue.is_feasible and queue.target.labels == rules
    node.tell(seen.Looked((seen.QueueState(7, 3, 0),), ()))
    (demand,) = node_row.demand_of(node.tables, PYTHON)
    assert demand.count == 3 and demand.wish.labels == rules
    (row,) = node_row.waiting_rows(node.tables)
    assert row["labels"] == [[["zone", "in", ["b"]]]], "the autoscaler reads them"
    assert (demand.wish.amounts, demand.wish.python) == (ONE_CPU, PYTHON)


def test_as_many_for_one_node_as_for_another_are_two_demands() -> None:
    node = InCluster()
    node.driver()
    for queue, id in ((7, OTHER), (8, THIRD)):
        node.open_queue(queue, m.NodeAffinity(id))
    states = (seen.QueueState(7, 3, 0), seen.QueueState(8, 3, 0))
    node.tell(seen.Looked(states, ()))
    assert [row.count for row in node_row.demand_of(node.tables, PYTHON)] == [3, 3]


def test_what_came_from_others_is_no_demand() -> None:
    node = InCluster()
    node.driver()
    node.wanted(place(), 4)
    node.open_queue(7)
    states = (seen.QueueState(4, 5, 0), seen.QueueState(7, 2, 0))
    node.tell(seen.Looked(states, ()))
    assert [row.count for row in node_row.demand_of(node.tables, PYTHON)] == [2]
    assert "GuestEnded" not in kinds(node.tell(seen.AlarmRang()))


def test_what_the_daemon_looks_for_a_node_for_waits_as_well() -> None:
    """A task that has come back stands in no queue: nobody would ever name a node for it."""
    node = InCluster()
    node.driver()
    node.open_queue(7, m.NodeAffinity(OTHER))
    node.tell(seen.Looked((seen.QueueState(7, 0, 1),), ()))
    assert node_row.demand_of(node.tables, PYTHON) == ()
    (demand,) = node_row.demand_of(node.tables, PYTHON, {7: 2})
    assert demand.count == 2
    (row,) = node_row.waiting_rows(node.tables, {7: 2})
    assert (row["kind"], row["count"]) == ("task", 2)
