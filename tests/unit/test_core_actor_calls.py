"""Transcripts of actors whose calls run side by side: their queues, their deaths, their state."""

from __future__ import annotations

from typing import Any

from shoal._core import commands as do
from shoal._core import events as seen
from shoal._proto import messages as m
from tests.unit.test_core_node import DRIVER, WORKER, Node, kinds, reply

SPEC = m.ActorSpec(
    function=1,
    arguments=7,
    class_name="Grouped",
    methods=b"",
    place={"CPU": 1.0},
    max_restarts=2,
    groups={"io": 2, "disk": 1},
)


def grouped(**spec: Any) -> tuple[Node, m.ActorInfo]:
    """A living actor with queues 6 (its own), 7 (io) and 8 (disk)."""
    node = Node()
    node.tell(seen.Began())
    node.driver()
    fields = {name: getattr(SPEC, name) for name in SPEC.__struct_fields__}
    out = node.ask(DRIVER, m.CreateActor(m.ActorSpec(**{**fields, **spec})))
    tickets = [c.ticket for c in out if isinstance(c, do.NewQueue)]
    assert len(tickets) == 3
    for number, ticket in enumerate(tickets):
        assert "Reply" not in kinds(out), "who made it is told when every queue is there"
        out = node.tell(seen.QueueCreated(ticket, 6 + number, 1))
    info = reply(out, m.ActorInfo)
    node.worker(WORKER)
    node.ask(WORKER, m.ActorStarted(info.actor_id))
    return node, info


def killed(commands: list[do.Command]) -> list[int]:
    return [c.queue for c in commands if isinstance(c, do.KillQueue)]


def test_each_group_has_a_queue() -> None:
    _, info = grouped()
    assert info.queue == 6 and list(info.group_queues) == [(7, 1), (8, 1)]


def test_all_queues_end_with_the_actor() -> None:
    node, info = grouped()
    out = node.ask(DRIVER, m.KillActor(info.actor_id, no_restart=True))
    assert killed(out) == [6, 7, 8]
    node.tell(seen.ProcessDied(WORKER, None, 9))
    out = node.tell(seen.BellRang(gone=(7,)))
    assert [c.queue for c in out if isinstance(c, do.FreeQueue)] == [6, 7, 8]


def test_every_call_that_ran_is_answered_after_one_look_for_children() -> None:
    node, _ = grouped(max_task_retries=1)
    running = tuple(
        seen.RunningTask(key, 1, retries, 0, 0, 6 + key % 3)
        for key, retries in zip(range(20, 50), (0, 1) * 15)
    )
    out = node.tell(seen.ProcessDied(WORKER, None, 9, (), running))
    ends = [c for c in out if isinstance(c, do.EndChildren)]
    assert [end.parents for end in ends] == [tuple(range(20, 50))]
    assert [c.key for c in out if isinstance(c, do.Fail)] == list(range(20, 50, 2))
    assert [c.key for c in out if isinstance(c, do.Requeue)] == list(range(21, 50, 2))
    assert killed(out) == []


def test_it_drains_only_when_every_queue_is_empty() -> None:
    node, info = grouped()
    out = node.tell(seen.BellRang(gone=(7,)))
    look = next(c for c in out if isinstance(c, do.Look))
    assert look.queues == (6, 7, 8)
    idle = (seen.WorkerState(WORKER, 6, 6, 0, False),)

    def looked(*entries: int) -> list[do.Command]:
        states = [seen.QueueState(6 + n, left, 5) for n, left in enumerate(entries)]
        return node.tell(seen.Looked(tuple(states), idle))

    for _ in range(2):
        assert killed(looked(0, 0, 1)) == []
    for _ in range(2):
        assert killed(looked(0, 0)) == [], "the third was not looked at"
    looked(0, 0, 0)
    assert killed(looked(0, 0, 0)) == [6, 7, 8]
    assert node.state(info.actor_id).state == "DEAD"


def test_state_is_held_until_there_is_newer_or_the_actor_is_buried() -> None:
    node, info = grouped()
    out = node.ask(WORKER, m.KeepCheckpoint(info.actor_id, 100))
    assert out[0] == do.Adopt(100) and kinds(out) == ["Adopt", "Reply"]
    out = node.ask(WORKER, m.KeepCheckpoint(info.actor_id, 101))
    assert out[:2] == [do.Adopt(101), do.Release(100)]
    assert node.state(info.actor_id).checkpoint == 101
    node.tell(seen.ProcessDied(WORKER, 1))
    node.worker(3)
    out = node.tell(seen.AlarmRang(), after=0.06)
    body = next(c.body for c in out if isinstance(c, do.Reply))
    assert isinstance(body, m.Assignment) and body.actor is not None
    assert body.actor.checkpoint == 101, "the next life is told where its state is"
    node.ask(DRIVER, m.KillActor(info.actor_id, no_restart=True))
    assert do.Release(101) in node.tell(seen.ProcessDied(3, None, 9))


def test_state_of_somebody_else_is_not_taken() -> None:
    node, info = grouped()
    assert kinds(node.ask(DRIVER, m.KeepCheckpoint(info.actor_id, 100))) == ["Reply"]
    assert node.state(info.actor_id).checkpoint == 0
