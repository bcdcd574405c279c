"""A node in a started session: what waits for the control store, and what it begins with."""

from __future__ import annotations

from shoal._core import commands as do
from shoal._core import events as seen
from shoal._core.node import NodeMachine
from shoal._core.store import (
    Answered,
    Join,
    Joined,
    KvEntry,
    PutRow,
    Report,
    Request,
    StoreMachine,
)
from shoal._proto import messages as m
from tests.unit.test_core_node import DRIVER, Node, busy_node, reply


def test_writes_wait_for_the_store() -> None:
    node = Node(started=True)
    node.store = None
    (write,) = node.driver()
    assert isinstance(write, do.WriteStore) and isinstance(write.write, Request)
    assert isinstance(write.write.write, PutRow)
    (put,) = node.ask(DRIVER, m.KvPut(b"k", b"v"))
    assert isinstance(put, do.WriteStore)
    assert reply(node.ask(DRIVER, m.KvGet(b"k")), m.KvAnswer).value is None
    (join,) = node.tell(seen.StoreConnected())
    assert isinstance(join, do.WriteStore) and isinstance(join.write, Join)
    again = node.tell(seen.StoreWritten(join.ticket, Joined(epoch=2, sequence=0)))
    assert isinstance(again[0], do.WriteStore) and isinstance(again[0].write, Report)
    assert again[1:] == [write, put], "a new store is told again what was not answered"
    out = node.tell(seen.StoreWritten(write.ticket, Answered(1, m.Done())))
    assert reply(out, m.Welcome).job == 1
    out = node.tell(seen.StoreWritten(put.ticket, Answered(2, m.KvAnswer(existed=False))))
    assert reply(out, m.KvAnswer) == m.KvAnswer(existed=False)
    assert reply(node.ask(DRIVER, m.KvGet(b"k")), m.KvAnswer).value == b"v"
    twice = seen.StoreWritten(put.ticket, Answered(2, m.KvAnswer()))
    assert node.tell(twice) == [], "told twice: harmless"


def test_nothing_is_asked_of_a_node_that_knows_nothing_yet() -> None:
    node = Node(started=True)
    fresh = NodeMachine(node.machine.tables.config)
    assert fresh.step(0.0, seen.DriverJoined(DRIVER, 1, 100, m.JobConfig())) == []
    assert fresh.step(0.0, seen.Requested(DRIVER, 2, m.KvGet(b"k"))) == []
    (join,) = (c for c in fresh.step(0.0, seen.StoreConnected()) if isinstance(c, do.WriteStore))
    state = Report(
        [PutRow("jobs", "7", OLD_JOB)], kv=[KvEntry("", b"k", b"v")], is_whole=False, sequence=9
    )
    out = fresh.step(0.0, seen.StoreWritten(join.ticket, Joined(2, 9, state=state)))
    assert reply(out, m.KvAnswer).value == b"v"
    ended = [c.write.write for c in out if is_request(c)]
    assert ended[0].row["state"] == "ENDED", "a driver of a former session is no more"
    assert ended[1].row["job"] == 8, "a number that was told is not given again"


def test_who_has_gone_before_the_store_was_there_leaves_nothing() -> None:
    fresh = NodeMachine(Node(started=True).machine.tables.config)
    for index in (DRIVER, DRIVER + 1):
        fresh.step(0.0, seen.DriverJoined(index, 1, 100 + index, m.JobConfig()))
        fresh.step(0.0, seen.Requested(index, 2, m.KvGet(b"k")))
    assert do.CloseProcess(DRIVER) in fresh.step(0.1, seen.ProcessDied(DRIVER, None, 9))
    (join,) = (c for c in fresh.step(0.2, seen.StoreConnected()) if isinstance(c, do.WriteStore))
    fresh.step(0.2, seen.StoreWritten(join.ticket, Joined(2, 9, state=Report([]))))
    assert list(fresh.tables.jobs.by_driver) == [DRIVER + 1], "no job of who is dead"


def is_request(command: do.Command) -> bool:
    return isinstance(command, do.WriteStore) and isinstance(command.write, Request)


OLD_JOB = {
    "job": 7,
    "state": "RUNNING",
    "namespace": "n",
    "entrypoint": "old.py",
    "pid": 4,
    "root_actor": "",
    "priority": 0,
    "weight": 1.0,
    "reason": "",
}


def test_work_that_needs_no_lasting_fact_never_waits_for_the_store() -> None:
    node = busy_node(started=True)
    node.store = None
    assert reply(node.actor(queue=8), m.ActorInfo).state == "PENDING"
    exported = node.ask(DRIVER, m.ExportFunction(b"d", "f", 70, 10))
    assert reply(exported, m.FunctionExported).key == 70
    named = node.actor(queue=9, name="n")
    assert not any(isinstance(c, do.Reply) and c.request == node.number for c in named)


def test_a_detached_actor_is_made_again_from_its_record() -> None:
    node = Node(started=True)
    node.driver(namespace="n")
    out = node.actor(queue=8, detached=True, name="kept", max_restarts=1)
    (read,) = (c for c in out if isinstance(c, do.ReadValues))
    assert not any(isinstance(c, do.Reply) for c in out), "it waits for its record"
    told = node.tell(seen.ValuesRead(read.ticket, (b"class", b"arguments")))
    before = reply(told, m.ActorInfo)
    assert node.store is not None
    second = StoreMachine()
    second.restore(dict(node.store.contents()).items())
    fresh = Node(started=True, store=second)
    (put,) = (c for c in fresh.first if isinstance(c, do.PutValues))
    assert put.values == (b"class", b"arguments")
    made = fresh.tell(seen.ValuesPut(put.ticket, (71, 72)))
    assert do.Adopt(72) in made and do.Adopt(71) in made
    (new_queue,) = (c for c in made if isinstance(c, do.NewQueue))
    fresh.tell(seen.QueueCreated(new_queue.ticket, 3, 1))
    fresh.driver(namespace="n")
    after = reply(fresh.ask(DRIVER, m.GetActor("kept", "")), m.ActorInfo)
    assert (after.actor_id, after.spec.arguments) == (before.actor_id, 72)
    assert after.incarnation == before.incarnation
    fresh.ask(DRIVER, m.KillActor(after.actor_id, True))
    assert second.records == {} and second.rows["actors"][after.actor_id]["state"] == "DEAD"


def test_a_detached_actor_that_cannot_return_says_why() -> None:
    node = Node(started=True)
    node.driver(namespace="n")
    out = node.actor(queue=8, detached=True, name="kept", holds_refs=True)
    (read,) = (c for c in out if isinstance(c, do.ReadValues))
    node.tell(seen.ValuesRead(read.ticket, (b"class", b"arguments")))
    assert node.store is not None
    second = StoreMachine()
    second.restore(dict(node.store.contents()).items())
    fresh = Node(started=True, store=second)
    (warned,) = (c for c in fresh.first if isinstance(c, do.Warn))
    assert "refs" in warned.text
    (row,) = second.rows["actors"].values()
    assert row["state"] == "DEAD"


def test_a_detached_group_is_asked_for_again() -> None:
    node = Node(started=True)
    node.driver(namespace="n")
    node.ask(DRIVER, m.CreateGroup("g1", [{"CPU": 1.0}], "PACK", "g", detached=True))
    node.ask(DRIVER, m.CreateGroup("g2", [{"CPU": 1.0}], "PACK", "h"))
    assert node.store is not None
    second = StoreMachine()
    second.restore(dict(node.store.contents()).items())
    fresh = Node(started=True, store=second)
    fresh.driver(namespace="n")
    assert reply(fresh.ask(DRIVER, m.GetGroup(name="g")), m.GroupFacts).group_id == "g1"
    assert second.rows["groups"]["g1"]["state"] == "CREATED" and "g2" not in second.rows["groups"]
    fresh.ask(DRIVER, m.RemoveGroup("g1"))
    assert second.records == {} and second.rows["groups"]["g1"]["state"] == "REMOVED"
