"""What people are told of tasks and values of other nodes: the parts that decide it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from shoal._base.config import Limits, NodeConfig
from shoal._core import commands as do
from shoal._core import events as seen
from shoal._core import guests, stalls
from shoal._core.bridge import Bridge, Heard, TaskLent
from shoal._core.events import KnownNode
from shoal._core.node import NodeMachine
from shoal._core.resources import UNIT
from shoal._core.sight_rows import Away, Lent, TaskSight
from shoal._proto import bridge as rows
from shoal._proto import messages as m
from shoal._proto import reasons as r
from shoal._proto.views import NodeRow
from shoal._runtime.bridge.printed import UNREAD_BYTES_MOST, Printed, as_shown
from shoal.errors._why import Why
from tests.unit.why_node import DRIVER, NODE, TASK, Node, oid

FAR = "b" * 32
ROW = NodeRow(FAR, total={"CPU": 4 * UNIT, "licence": UNIT}, labels={"zone": "b"}, python="3.11")


def known(name: str = "node-2", **more: Any) -> KnownNode:
    return KnownNode(name, msgspec.structs.replace(ROW, **more))


def news(*nodes: KnownNode) -> seen.NodesChanged:
    return seen.NodesChanged(frozenset(each.row.node for each in nodes), nodes, "3.11")


class Member(Node):
    """A node of a cluster, ``node-1``, with one CPU and no licence."""

    def __init__(self, *others: KnownNode) -> None:
        super().__init__(started=True)
        tables = self.machine.tables
        tables.config = msgspec.structs.replace(tables.config, in_cluster=True, node_name="node-1")
        self.tell(news(*others))

    def notices(self, after_s: float = 2.0) -> list[str]:
        """What the program is told by then."""
        self.now += after_s
        out = self.tell(seen.AlarmRang())
        told = [c.body for c in out if isinstance(c, do.Notify) and c.index == DRIVER]
        return [body.text for body in told if isinstance(body, m.Notice)]


# ---- notices
def test_nobody_is_warned_while_another_node_could_run_it() -> None:
    node = Member(known())
    node.queue({"licence": 1})
    alarm = node.machine.tables.alarm_at
    assert node.notices() == [] and node.notices(100.0) == []
    assert alarm is None or alarm > 101.0, "nothing is due for what nobody is warned of"


def test_a_warning_speaks_of_the_cluster_and_comes_once() -> None:
    node = Member(known(), known("node-3", node="c" * 32, total={"CPU": 9 * UNIT}))
    node.queue({"CPU": 2, "licence": 5})
    (text,) = node.notices()
    assert "tasks that ask for {'CPU': 2.0, 'licence': 5.0} wait: no node of the cluster" in text
    assert "CPU: the most is 9, on node-3; licence: the most is 1, on node-2" in text
    assert node.notices() == []


def test_what_only_a_lost_node_had_is_warned_of_when_it_is_lost() -> None:
    node = Member(known())
    node.queue({"licence": 1})
    assert node.notices() == []
    node.tell(news())
    (text,) = node.notices(0.0)
    assert "licence: none has any" in text


@pytest.mark.parametrize(
    "change", [{"python": "3.12"}, {"is_draining": True}, {"is_driver": True}, {"labels": {}}]
)
def test_a_node_that_takes_no_such_task_could_not_run_it(change: dict[str, Any]) -> None:
    zone = m.NodeLabels(((m.LabelRule("zone", "in", ("b",)),),))
    for others, expected in ((known(), 0), (known(**change), 1)):
        node = Member(others)
        node.queue({"licence": 1}, strategy=zone)
        assert len(node.notices()) == expected


def test_a_warning_names_labels_that_no_node_has() -> None:
    node = Member(known())
    node.queue({"CPU": 1}, strategy=m.NodeLabels(((m.LabelRule("zone", "in", ("x",)),),)))
    (text,) = node.notices()
    assert "zone" in text and "most" not in text


def test_a_session_of_one_machine_says_what_it_always_said() -> None:
    node = Node(started=True)
    node.queue({"licence": 1})
    node.now += 2
    (told,) = [c.body for c in node.tell(seen.AlarmRang()) if isinstance(c, do.Notify)]
    assert isinstance(told, m.Notice) and "no node has that (total {'CPU': 1.0})" in told.text


# ---- why
def lent(to: Lent | None, **more: Any) -> Why:
    node = Member(known())
    queue = node.queue({"licence": 1})
    node.tasks[TASK] = TaskSight(
        TASK, task=TASK, stage="running", worker=0, queue=queue, lent=to, submitted=95.0, **more
    )
    return node.why()


def test_a_lent_task_is_on_its_node() -> None:
    why = lent(Lent(FAR, since=88.0))
    assert isinstance(why.reason, r.OnNode)
    assert (why.reason.node, why.reason.node_id, why.reason.since_s) == ("node-2", FAR, 12.0)
    assert "has been on node node-2 for 12 s" in str(why) and "waits for its turn" in str(why)
    assert stalls.is_moving(why.reason), "what another node has is no stall of this one"
    told = str(lent(Lent(FAR, since=88.0, runs=True)))
    assert "runs on node node-2" in told and "turn" not in told


def test_what_came_back_waits_for_room_on_a_node() -> None:
    why = lent(Lent())
    assert isinstance(why.reason, r.WaitsForNode) and why.reason.nodes == ["node-2"]
    assert "which node-2 can give" in str(why) and not stalls.is_moving(why.reason)


def test_what_is_just_being_given_away_is_no_worker_of_ours() -> None:
    assert isinstance(lent(None).reason, r.Delivering)


def test_what_waits_here_for_another_node_says_so() -> None:
    node = Member(known())
    node.waits(TASK, node.queue({"licence": 1}))
    reason = node.why().reason
    assert isinstance(reason, r.WaitsForNode)
    assert reason.asked == {"licence": 1.0} and reason.nodes_count == 1


def test_what_makes_a_list_of_items_again_waits_for_what_will_not_come() -> None:
    node = Member(known())
    node.waits(TASK, node.queue({"licence": 1}), stays=True)
    why = node.why()
    assert isinstance(why.reason, r.Infeasible) and why.reason.fails_in_s is None
    assert "runs on the node of its caller" in str(why) and "node-2 could run it" in str(why)


def test_a_generator_waits_for_room_as_every_task() -> None:
    node = Member(known())
    node.waits(TASK, node.queue({"licence": 1}), is_stream=True)
    assert isinstance(node.why().reason, r.WaitsForNode)


def test_what_no_node_has_is_said_of_the_cluster() -> None:
    node = Member(known())
    node.waits(TASK, node.queue({"licence": 2}))
    why = node.why()
    assert isinstance(why.reason, r.Infeasible)
    assert "no node of the cluster has that (licence: the most is 1, on node-2)" in str(why)


def test_a_value_on_another_node_is_there_or_arrives() -> None:
    node = Member(known())
    for is_wanted, kind in ((False, r.Ready), (True, r.Arriving)):
        away = Away(node=FAR, is_wanted=is_wanted)
        node.tasks[TASK] = TaskSight(TASK, task=TASK, format=3, away=away)
        reason = node.why().reason
        assert isinstance(reason, kind) and reason.node == "node-2"
        if isinstance(reason, r.Ready):
            assert not reason.is_evicted, "nothing has to be made again"


def test_a_value_of_another_node_that_is_not_there_yet() -> None:
    node = Member(known())
    node.tasks[TASK] = TaskSight(TASK, home=FAR)
    why = node.why()
    assert isinstance(why.reason, r.MadeElsewhere) and why.reason.object == oid(TASK)
    assert "comes from node node-2" in str(why)


@pytest.mark.parametrize(
    ("state", "told"), [("ALIVE", "lives on node node-2"), ("PENDING", "is being started on node")]
)
def test_an_actor_on_another_node_says_which(state: str, told: str) -> None:
    node = Member(known())
    info = node.actor()
    actor = node.machine.tables.actors.find(info.actor_id)
    assert actor is not None
    node.tell(seen.ActorSent(info.actor_id, FAR))
    key = actor.spec.arguments
    node.tell(seen.ActorTold(FAR, key, state, 17 if state == "ALIVE" else 0))
    for about in (info.actor_id, oid(TASK)):
        why = node.why(about)
        assert isinstance(why.reason, r.ActorOnNode) and told in str(why)
        assert (why.reason.node_id, why.reason.state) == (FAR, state)
    node.tasks[TASK] = msgspec.structs.replace(
        node.tasks[TASK], stage="running", worker=0, lent=Lent()
    )
    assert isinstance(node.why().reason, r.ActorOnNode), "it waits for the actor's next place"


def test_a_lending_says_since_when_and_whether_it_runs() -> None:
    bridge = Bridge()
    bridge.step(7.0, TaskLent(TASK, FAR, 0))
    lending = bridge.lending_of(TASK)
    assert lending is not None and (lending.node, lending.since) == (FAR, 7.0)
    assert not lending.runs and bridge.lending_of(TASK + 1) is None
    bridge.step(8.0, Heard(FAR, rows.TaskRuns(1)))
    assert lending.runs


# ---- lines
def lines(count: int, size: int = 10) -> m.LogLines:
    return m.LogLines(1, "f", "stdout", ["x" * size] * count)


def test_a_node_that_does_not_read_is_sent_no_more_and_told_how_much() -> None:
    printed, home, large = Printed(), (FAR, 3), lines(20, UNREAD_BYTES_MOST // 10)
    row = printed.row(home, large, 0)
    assert row is not None and (row.job, row.left_out) == (3, 0)
    waiting = 2 * UNREAD_BYTES_MOST
    assert printed.row(home, lines(5), waiting) is None
    assert printed.row((FAR, 4), lines(2), waiting) is None
    assert printed.row(("c" * 32, 3), lines(1), 0) is not None, "another node is not to blame"
    row = printed.row(home, lines(1), 100)
    assert row is not None and row.left_out == 5
    row = printed.row(home, lines(1), 100)
    assert row is not None and row.left_out == 0
    row = printed.row((FAR, 4), lines(1), 100)
    assert row is not None and row.left_out == 2
    shown = as_shown(row, "node-2")
    assert (shown.node, shown.pid, shown.label, shown.lines) == ("node-2", 1, "f", row.lines)


def test_what_waits_besides_lines_does_not_keep_lines_back() -> None:
    printed = Printed()
    for _ in range(10):
        assert printed.row((FAR, 3), lines(5), 100 * UNREAD_BYTES_MOST) is not None


def test_of_a_lost_node_nothing_is_kept() -> None:
    printed = Printed()
    printed.row((FAR, 3), lines(20, UNREAD_BYTES_MOST // 10), 0)
    assert printed.row((FAR, 3), lines(5), 2 * UNREAD_BYTES_MOST) is None
    printed.forget(FAR)
    row = printed.row((FAR, 3), lines(1), 2 * UNREAD_BYTES_MOST)
    assert row is not None and row.left_out == 0


@pytest.mark.parametrize("is_wanted", [True, False])
def test_workers_of_a_guest_are_labelled_with_its_home(is_wanted: bool) -> None:
    config = NodeConfig(
        "s", "/d", NODE, {"CPU": 1.0}, 2, limits=Limits(prestart_most=0), in_cluster=True
    )
    machine = NodeMachine(config)
    machine.step(1.0, seen.Began())
    machine.step(1.0, news(known()))
    place = guests.ClassPlace((("CPU", UNIT),), m.JobConfig(log_to_driver=is_wanted))
    data = msgspec.msgpack.encode(place)
    (new,) = machine.step(1.0, seen.GuestWanted(FAR, 5, data))
    assert isinstance(new, do.NewQueue)
    machine.step(1.0, seen.QueueCreated(new.ticket, 3, 1))
    out = machine.step(1.0, seen.Looked((seen.QueueState(3, 1, 0),)))
    (start,) = [c.start for c in out if isinstance(c, do.StartWorker)]
    machine.step(1.0, seen.WorkerForked(start, 9, 1009))
    machine.step(1.0, seen.WorkerJoined(9, 0, 1009))
    out = machine.step(1.0, seen.Requested(9, 1, m.GetAssignment()))
    (label,) = [c for c in out if isinstance(c, do.LabelWorker)]
    assert (label.driver, label.home) == (-1, (FAR, 5) if is_wanted else None)
