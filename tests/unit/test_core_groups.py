"""Placement groups: what the node's machine answers, and accounts of bundles."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal._base import records
from shoal._core import commands as do
from shoal._core import events as seen
from shoal._core.resources import GPU, UNIT, Account, Room, parse, sum_of
from shoal._proto import messages as m
from tests.unit.test_core_node import DRIVER, WORKER, Node, cause, kinds, refusal, reply

QUEUE = 7


def ask_for(node: Node, *bundles: dict[str, float], **more: Any) -> list[do.Command]:
    body = m.CreateGroup("g", list(bundles), more.pop("strategy", "PACK"), **more)
    return node.ask(DRIVER, body)


def state(node: Node, group_id: str = "g") -> str:
    group = node.machine.tables.groups.find(group_id)
    row = node.machine.tables.store.rows["groups"][group_id]
    assert group is not None and row["state"] == group.state
    return group.state


def free(node: Node) -> dict[str, float]:
    units = node.machine.tables.scheduler.held.available()
    return {name: amount / UNIT for name, amount in units.items()}


def with_driver(started: bool = False, **total: float) -> Node:
    node = Node(started, **total)
    node.driver()
    return node


def open_queue(node: Node, strategy: m.Strategy, **amounts: float) -> int:
    """The number of a new queue of that class."""
    out = node.ask(DRIVER, m.OpenQueue(amounts, strategy))
    (ticket,) = [c.ticket for c in out if isinstance(c, do.NewQueue)]
    number = QUEUE + len(node.machine.tables.scheduler.held.queues)
    node.tell(seen.QueueCreated(ticket, number, 1))
    return number


def attached(commands: list[do.Command]) -> list[tuple[int, int]]:
    return [(c.index, c.queue) for c in commands if isinstance(c, do.Assign)]


def busy_in_group(node: Node, queue: int) -> list[do.Command]:
    """A worker is attached and runs a task of ``queue``."""
    node.tell(seen.Began())
    node.worker(WORKER)
    out = node.tell(seen.Looked((seen.QueueState(queue, 1, 0),)))
    running = seen.WorkerState(WORKER, queue, queue, 1, False, 99)
    node.tell(seen.Looked((seen.QueueState(queue, 0, 1),), (running,)))
    return out


def test_a_group_is_known_then_placed_and_given_back() -> None:
    node = with_driver()
    assert kinds(ask_for(node, {"CPU": 1}, {"CPU": 0.5})) == ["Reply"]
    assert state(node) == "CREATED" and free(node) == {"CPU": 0.5}
    assert reply(node.ask(DRIVER, m.WaitGroup("g", None)), m.GroupAnswer).is_ready
    facts = reply(node.ask(DRIVER, m.GetGroup("g")), m.GroupFacts)
    assert facts.bundles == [{"CPU": 1}, {"CPU": 0.5}]
    assert kinds(node.ask(DRIVER, m.RemoveGroup("g"))) == ["Reply"]
    assert state(node) == "REMOVED" and free(node) == {"CPU": 2}
    assert refusal(node.ask(DRIVER, m.WaitGroup("g", None))) == "GroupRemovedError"
    assert kinds(node.ask(DRIVER, m.RemoveGroup("g"))) == ["Reply"], "again does no harm"


def test_who_only_tells_gets_no_answer() -> None:
    node = with_driver()
    ask_for(node, {"CPU": 1})
    assert node.tell(seen.Requested(DRIVER, 0, m.RemoveGroup("g"))) == []
    assert state(node) == "REMOVED"


def test_all_bundles_or_none() -> None:
    node = with_driver()
    ask_for(node, {"CPU": 1.5})
    node.ask(DRIVER, m.CreateGroup("h", [{"CPU": 0.5}, {"CPU": 0.5}], "PACK"))
    assert state(node, "h") == "PENDING" and free(node) == {"CPU": 0.5}
    out = node.ask(DRIVER, m.WaitGroup("h", 0.5))
    assert not out
    out = node.tell(seen.AlarmRang(), after=0.5)
    assert not reply(out, m.GroupAnswer).is_ready
    node.ask(DRIVER, m.WaitGroup("h", None))
    out = node.ask(DRIVER, m.RemoveGroup("g"))
    assert reply(out, m.GroupAnswer).is_ready and state(node, "h") == "CREATED"


def test_the_maker_may_be_answered_when_it_is_placed() -> None:
    node = with_driver()
    assert reply(ask_for(node, {"CPU": 2}, waits=True), m.GroupAnswer).is_ready
    body = m.CreateGroup("h", [{"CPU": 1}], "PACK", waits=True)
    assert not any(isinstance(c, do.Reply) for c in node.ask(DRIVER, body))
    assert refusal(node.ask(DRIVER, m.RemoveGroup("h"))) == "GroupRemovedError"


def test_a_task_in_a_bundle_and_the_end_of_its_group() -> None:
    """What it held goes back when its process is reaped, not before."""
    node = with_driver()
    ask_for(node, {"CPU": 1})
    queue = open_queue(node, m.InGroup("g", 0, True), CPU=1)
    out = busy_in_group(node, queue)
    assignment = reply(out, m.Assignment)
    assert (assignment.group, assignment.captures) == ("g", True)
    assert free(node) == {"CPU": 1}
    out = node.ask(DRIVER, m.RemoveGroup("g"))
    assert kinds(out) == ["KillQueue", "Kill", "Reply"]
    assert free(node) == {"CPU": 1} and state(node) == "REMOVED"
    task = seen.RunningTask(99, 1, 3, 0, 0, queue)
    out = node.tell(seen.ProcessDied(WORKER, None, 9, (), (task,)))
    (failed,) = [c for c in out if isinstance(c, do.Fail)]
    assert (failed.key, records.unpack(failed.record)[0]) == (99, "GroupRemovedError")
    assert kinds(out)[-2:] == ["CloseProcess", "FreeQueue"]
    assert free(node) == {"CPU": 2}
    assert refusal(node.ask(DRIVER, m.OpenQueue({"CPU": 1}, m.InGroup("g")))) == "GroupRemovedError"


def test_an_actor_ends_with_its_group() -> None:
    node = with_driver()
    ask_for(node, {"CPU": 1}, name="one")
    node.tell(seen.Began())
    actor = node.living_actor(strategy=m.InGroup("g"), hold={"CPU": 1.0}, max_restarts=-1)
    assert node.state(actor).state == "ALIVE"
    out = node.ask(DRIVER, m.RemoveGroup("g"))
    assert "Kill" in kinds(out)
    assert cause(node.state(actor)) == ("ActorGroupRemovedError", "group_removed")
    node.tell(seen.ProcessDied(WORKER, None, 9))
    assert free(node) == {"CPU": 2} and node.state(actor).state == "DEAD"


def test_tasks_wait_for_the_place_of_their_group_and_nobody_polls_meanwhile() -> None:
    node = with_driver()
    ask_for(node, {"CPU": 2})
    node.ask(DRIVER, m.CreateGroup("h", [{"CPU": 1}], "PACK"))
    inside = open_queue(node, m.InGroup("h"), CPU=1)
    gate = open_queue(node, m.GroupReady("h"))
    node.tell(seen.Began())
    node.worker(WORKER)
    node.worker(WORKER + 1)
    states = (seen.QueueState(inside, 1, 0), seen.QueueState(gate, 1, 0))
    assert attached(node.tell(seen.Looked(states))) == []
    out = node.ask(DRIVER, m.RemoveGroup("g"))
    assert sorted(attached(out)) == [(WORKER, inside), (WORKER + 1, gate)]
    bodies = [c.body for c in out if isinstance(c, do.Reply)]
    groups = [body.group for body in bodies if isinstance(body, m.Assignment)]
    assert sorted(groups) == ["", "h"], "who says that it is ready is a worker like any other"


def test_names_are_free_when_their_group_is_removed() -> None:
    node = with_driver()
    ask_for(node, {"CPU": 1}, name="one")
    body = m.CreateGroup("h", [{"CPU": 1}], "PACK", name="one")
    assert refusal(node.ask(DRIVER, body)) == "GroupAlreadyExistsError"
    assert reply(node.ask(DRIVER, m.GetGroup(name="one")), m.GroupFacts).group_id == "g"
    node.ask(DRIVER, m.RemoveGroup("g"))
    assert refusal(node.ask(DRIVER, m.GetGroup(name="one"))) == "GroupNotFoundError"
    assert reply(node.ask(DRIVER, body), m.Done) == m.Done()


@pytest.mark.parametrize(
    ("bundles", "more"),
    [
        ([{"CPU": 3.0}], {}),
        ([{"CPU": 1.0}, {"CPU": 1.0}], {"strategy": "STRICT_SPREAD"}),
        ([{"GPU": 0.6}, {"GPU": 0.6}], {}),
        ([{"CPU": 1.0}], {"labels": [(m.LabelRule("zone", "in", ("b",)),)]}),
    ],
)
def test_the_impossible_fails_after_a_second_where_nobody_can_join(
    bundles: list[dict[str, float]], more: dict[str, Any]
) -> None:
    node = with_driver(GPU=1.0)
    ask_for(node, *bundles, **more)
    queue = open_queue(node, m.InGroup("g"), CPU=0.5)
    node.ask(DRIVER, m.WaitGroup("g", None))
    assert node.tell(seen.AlarmRang(), after=0.9) == []
    out = node.tell(seen.AlarmRang(), after=0.2)
    assert refusal(out) == "UnschedulableError"
    killed = [c for c in out if isinstance(c, do.KillQueue)]
    assert [c.queue for c in killed] == [queue]
    assert records.unpack(killed[0].record)[0] == "UnschedulableError"
    assert state(node) == "REMOVED"


def test_the_impossible_waits_where_nodes_may_join() -> None:
    node = with_driver(started=True)
    ask_for(node, {"CPU": 3})
    out = node.tell(seen.AlarmRang(), after=1.1)
    (notice,) = [c.body for c in out if isinstance(c, do.Notify)]
    assert isinstance(notice, m.Notice) and "no node has that much" in notice.text
    assert [c for c in node.tell(seen.AlarmRang(), after=1.1) if isinstance(c, do.Notify)] == []
    assert state(node) == "PENDING"


def test_groups_end_with_their_job_but_detached_ones() -> None:
    node = with_driver(started=True)
    node.driver(5)
    ask_for(node, {"CPU": 1})
    node.ask(DRIVER, m.CreateGroup("h", [{"CPU": 0.5}], "PACK", detached=True))
    node.tell(seen.ProcessDied(DRIVER, None, 9))
    rows = reply(node.ask(5, m.GetTable("groups")), m.Table).rows
    assert {row["group_id"]: row["state"] for row in rows} == {"g": "REMOVED", "h": "CREATED"}
    assert dict(reply(node.ask(5, m.GetResources()), m.Resources).available) == {"CPU": 1.5}


def test_requests_that_make_no_sense() -> None:
    node = with_driver()
    assert refusal(ask_for(node)) == "UsageError"
    assert refusal(ask_for(node, {"CPU": 0.0})) == "UsageError"
    assert refusal(ask_for(node, {"CPU": -1.0})) == "UsageError"
    assert refusal(ask_for(node, {"CPU": 1.0}, strategy="NEAR")) == "UsageError"
    ask_for(node, {"CPU": 1.0})
    body = m.OpenQueue({"CPU": 1.0}, m.InGroup("g", 1))
    assert refusal(node.ask(DRIVER, body)) == "UsageError"
    body = m.OpenQueue({"CPU": 1.0}, m.InGroup("unknown"))
    assert refusal(node.ask(DRIVER, body)) == "GroupRemovedError"
    assert refusal(node.ask(DRIVER, m.WaitGroup("unknown", 1.0))) == "GroupRemovedError"
    assert refusal(node.ask(DRIVER, m.GetGroup("unknown"))) == "GroupNotFoundError"


def test_tombstones_are_limited() -> None:
    node = with_driver()
    for number in range(1100):
        node.now += 1.0
        node.machine.step(
            node.now, seen.Requested(DRIVER, 3, m.CreateGroup(f"g{number}", [{"CPU": 1}], "PACK"))
        )
        node.machine.step(node.now, seen.Requested(DRIVER, 3, m.RemoveGroup(f"g{number}")))
    node.machine.validate()
    assert len(node.machine.tables.groups.tombstones) == 1000
    assert len(node.machine.tables.store.rows["groups"]) == 1000


# ---- accounts of bundles
BUNDLE = st.fixed_dictionaries(
    {},
    optional={
        "CPU": st.sampled_from((0.5, 1.0, 2.0)),
        "GPU": st.sampled_from((0.25, 0.5, 0.75, 1.0, 2.0)),
        "disk": st.just(1.0),
    },
).map(parse)


@given(st.lists(BUNDLE, min_size=1, max_size=5), st.lists(BUNDLE, max_size=6))
@settings(max_examples=200, deadline=None)
def test_bundles_are_exact_parts_of_the_node(bundles: list[Any], asked: list[Any]) -> None:
    node = Account({"CPU": 4, "GPU": 3, "disk": 2})
    before = dict(node.free), dict(node.gpus)
    grants = node.take_all(bundles)
    node.validate()
    if grants is None:
        assert (node.free, node.gpus) == before
        return
    for grant in grants:
        account = Account.of_bundle(grant)
        assert sum(account.gpus.values()) == dict(grant.amounts).get(GPU, 0)
        taken = [got for got in map(account.take, asked) if got is not None]
        account.validate()
        used = dict(sum_of(got.amounts for got in taken))
        assert all(units <= account.total[name] for name, units in used.items())
        assert all(gpu in dict(grant.gpus) for got in taken for gpu, _ in got.gpus)
        for got in taken:
            account.give(got)
        assert account.free == account.total
    assert all(0 <= free <= UNIT for free in node.gpus.values())
    for grant in grants:
        node.give(grant)
    assert (node.free, node.gpus) == before


def test_the_nearest_account_of_a_room_is_the_one_that_lacks_least() -> None:
    node = Account({"CPU": 8})
    room = Room([parse({"CPU": 2}), parse({"CPU": 4})])
    assert room.nearest(parse({"CPU": 1})) is None and not room.could_serve(())
    small, large = (Account.of_bundle(g) for g in node.take_all(room.sizes) or [])
    room.accounts = [small, large]
    assert room.nearest(parse({"CPU": 3})) is large and not room.can_ever(parse({"CPU": 5}))
    large.take(parse({"CPU": 4}))
    assert room.nearest(parse({"CPU": 2})) is small
    large.pin(parse({"CPU": 4}))
    assert room.nearest(parse({"CPU": 3})) is None
