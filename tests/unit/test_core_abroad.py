"""Transcripts of actors that cross nodes: at home, and at their host."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from shoal._base import records
from shoal._core import causes, guests
from shoal._core import commands as do
from shoal._core import events as seen
from shoal._proto import messages as m
from tests.unit.test_core_node import DRIVER, WORKER, Node, cause, kinds, reply

ME = b"0123456789abcdef".hex()
FAR, THIRD = "b" * 32, "c" * 32
OTHER_DRIVER = 5
KEY = 66
"""Of the lifetime object of an actor with queue 6."""
GUEST, GUEST_KEY, GUEST_JOB = "a" * 40, 77, 9


class Member(Node):
    """A node of a cluster, beside ``FAR`` and ``THIRD``, with the driver of a program."""

    def __init__(self, **total: float) -> None:
        super().__init__(**total)
        self.tables = self.machine.tables
        self.tables.config = msgspec.structs.replace(self.tables.config, in_cluster=True)
        self.tell(seen.Began())
        self.others(FAR, THIRD)
        self.driver()

    def others(self, *nodes: str) -> list[do.Command]:
        return self.tell(seen.NodesChanged(frozenset(nodes)))

    def sent(self, node: str = FAR, queue: int = 6, **spec: Any) -> str:
        """An actor that there is no room for here is on its way to ``node``; its id."""
        out = self.actor(queue, **{"hold": {"CPU": 8.0}, **spec})
        more = [c for c in out if isinstance(c, do.NewQueue)][1:]
        actor_id = str(reply([*out, *self.queues_made([*more], queue + 1)], m.ActorInfo).actor_id)
        out = self.tell(seen.ActorSent(actor_id, node))
        assert out == [do.HostActor(actor_id, node)]
        return actor_id

    def told(self, state: str, key: int = KEY, node: str = FAR, **more: Any) -> list[do.Command]:
        return self.tell(seen.ActorTold(node, key, state, **more))

    def abroad(self, **spec: Any) -> str:
        """An actor that is alive on ``FAR``."""
        actor_id = self.sent(**spec)
        assert self.told("ALIVE", pid=70) == []
        return actor_id

    def row(self, actor_id: str) -> Any:
        return self.tables.store.rows["actors"][actor_id]

    def is_asking(self, actor_id: str) -> bool:
        return actor_id in self.tables.scheduler.asks.by_who

    def came(
        self, key: int = GUEST_KEY, actor_id: str = GUEST, checkpoint: int = 0, **spec: Any
    ) -> list[do.Command]:
        """An actor of ``FAR`` is to live here."""
        place = guests.ClassPlace((), m.JobConfig())
        given = {"function": 150, "arguments": 160, "class_name": "Guest", "methods": b""}
        return self.tell(
            seen.ActorCame(
                FAR,
                key,
                actor_id,
                GUEST_JOB,
                msgspec.msgpack.encode(place),
                m.ActorSpec(**{**given, **spec}),
                checkpoint,
            )
        )

    def guest(self, worker: int = WORKER, queue: int = 20, **spec: Any) -> str:
        """A guest whose constructor has returned; its id."""
        self.queues_made(self.came(**spec), queue)
        self.worker(worker)
        told = self.alive(worker)
        assert told == do.TellHome(FAR, GUEST_KEY, "ALIVE", 1000 + worker)
        return GUEST

    def alive(self, worker: int) -> do.TellHome:
        """The constructor of the guest has returned; what its home hears."""
        told = only(self.ask(worker, m.ActorStarted(GUEST)), do.TellHome)
        assert isinstance(told, do.TellHome)
        return told

    def queues_made(self, out: list[do.Command], queue: int) -> list[do.Command]:
        """Those asked for in ``out`` are there, numbered from ``queue``."""
        tickets = [c.ticket for c in out if isinstance(c, do.NewQueue)]
        made: list[do.Command] = []
        for number, ticket in enumerate(tickets):
            made += self.tell(seen.QueueCreated(ticket, queue + number, 1))
        return made

    def opened(self, queue: int = 30, **more: Any) -> list[do.Command]:
        """A handle of ``FAR``'s actor has come here."""
        return self.queues_made(self.ask(DRIVER, m.OpenActor(GUEST, GUEST_KEY, **more)), queue)


def only(out: list[do.Command], kind: type[Any]) -> Any:
    """The one command of that kind."""
    (found,) = [command for command in out if isinstance(command, kind)]
    return found


def reason_of(record: bytes) -> tuple[str, Any]:
    name, fields = records.unpack(record)
    return name, fields.get("reason")


# ---- at home
def test_an_actor_that_does_not_fit_here_lives_on_another_node() -> None:
    node = Member()
    info = reply(node.actor(hold={"CPU": 8.0}), m.ActorInfo)
    assert node.is_asking(info.actor_id)
    out = node.tell(seen.ActorSent(info.actor_id, FAR))
    assert out == [do.HostActor(info.actor_id, FAR)]
    assert not node.is_asking(info.actor_id) and node.row(info.actor_id)["state"] == "PENDING"
    assert node.tables.actors.living[info.actor_id].host == FAR
    assert node.told("PENDING") == [] and node.row(info.actor_id)["state"] == "PENDING"
    assert node.told("ALIVE", pid=70) == []
    row = node.row(info.actor_id)
    assert (row["state"], row["pid"], row["incarnation"]) == ("ALIVE", 70, 1)
    assert node.state(info.actor_id).state == "ALIVE"


def test_who_is_not_in_the_line_is_not_sent() -> None:
    node = Member()
    actor_id = node.living_actor()
    assert node.tell(seen.ActorSent(actor_id, FAR)) == []
    assert node.tell(seen.ActorSent("nobody", FAR)) == []
    abroad = node.sent(queue=7)
    assert node.tell(seen.ActorSent(abroad, THIRD)) == [], "one node is asked at a time"


def test_its_host_restarts_it_as_often_as_it_may() -> None:
    node = Member()
    actor_id = node.abroad(max_restarts=4)
    for restarts in (1, 2):
        node.told("RESTARTING", restarts=restarts)
        assert node.row(actor_id)["state"] == "RESTARTING"
        node.told("ALIVE", pid=70 + restarts, restarts=restarts)
        row = node.row(actor_id)
        assert (row["restarts"], row["pid"]) == (restarts, 70 + restarts)
        assert row["incarnation"] == 1 + restarts
    node.others(THIRD)
    assert node.row(actor_id)["restarts"] == 3, "those of its host and its host's loss"
    node.tell(seen.ActorSent(actor_id, THIRD))
    node.told("RESTARTING", node=THIRD, restarts=1)
    assert node.row(actor_id)["restarts"] == 4
    node.others(FAR)
    assert cause(node.state(actor_id)) == ("ActorDiedError", "node_lost")


def test_who_is_refused_asks_again() -> None:
    node = Member()
    actor_id = node.sent()
    assert node.told("REFUSED") == [] and node.is_asking(actor_id)
    assert node.row(actor_id)["state"] == "PENDING" and node.row(actor_id)["incarnation"] == 0
    assert node.told("ALIVE", pid=70) == [], "it is that node's no more"
    assert node.row(actor_id)["state"] == "PENDING"
    assert node.tell(seen.ActorSent(actor_id, THIRD)) == [do.HostActor(actor_id, THIRD)]
    assert node.told("ALIVE", node=FAR) == [] and node.told("ALIVE", node=THIRD, pid=71) == []
    assert node.row(actor_id)["pid"] == 71


def test_who_has_died_there_has_ended_here() -> None:
    node = Member()
    actor_id = node.abroad(groups={"io": 1})
    record = causes.actor_died({"actor_id": actor_id}, "crashed")
    out = node.told("DEAD", cause=record)
    info = node.state(actor_id)
    assert info.state == "DEAD" and info.cause == record
    assert only(out, do.EndCalls) == do.EndCalls(KEY, (6, 7), record)
    killed = [c for c in out if isinstance(c, do.KillQueue)]
    assert killed == [do.KillQueue(6, record), do.KillQueue(7, record)]
    assert node.told("ALIVE", pid=1) == []
    assert node.tell(seen.BellRang(gone=(KEY,))) == [
        do.Release(KEY),
        do.FreeQueue(6),
        do.FreeQueue(7),
    ]


def test_a_host_is_lost_and_it_asks_again_then_lives_here() -> None:
    node = Member()
    actor_id = node.abroad(hold={"CPU": 1.0}, max_restarts=1)
    node.others(THIRD)
    row = node.row(actor_id)
    assert (row["state"], row["restarts"], row["pid"]) == ("RESTARTING", 1, 0)
    out = node.worker(WORKER)
    assert kinds(out) == ["Reply", "BringHome", "Assign"]
    assert only(out, do.BringHome) == do.BringHome((6,)), "before its worker takes any"
    assert reply(out, m.Assignment).actor.incarnation == 2
    node.ask(WORKER, m.ActorStarted(actor_id))
    assert node.state(actor_id).state == "ALIVE"
    out = node.ask(DRIVER, m.KillActor(actor_id, True))
    assert not {"EndCalls", "EndHosted"} & set(kinds(out)), "nothing of it is abroad"


def test_a_host_is_lost_and_no_restart_is_left() -> None:
    node = Member()
    actor_id = node.abroad()
    out = node.others(THIRD)
    assert cause(node.state(actor_id)) == ("ActorDiedError", "node_lost")
    record = only(out, do.EndCalls).record
    assert records.unpack(record)[1]["node"] == FAR and records.unpack(record)[1]["may_have_run"]
    assert do.KillQueue(6, record) in out


def test_only_those_on_the_lost_node_are_lost() -> None:
    node = Member()
    actor_id = node.abroad()
    assert node.others(FAR) == [] and node.state(actor_id).state == "ALIVE"


def test_one_that_is_killed_ends_here_at_once_and_there() -> None:
    node = Member()
    actor_id = node.abroad(max_restarts=3)
    out = node.ask(DRIVER, m.KillActor(actor_id, no_restart=True))
    assert only(out, do.EndHosted) == do.EndHosted(FAR, ME, KEY)
    assert reason_of(only(out, do.EndCalls).record) == ("ActorDiedError", "killed")
    assert reply(out, m.Done) == m.Done() and node.state(actor_id).state == "DEAD"


def test_one_that_is_killed_and_may_restart_crashes_there() -> None:
    node = Member()
    actor_id = node.abroad(max_restarts=1)
    out = node.ask(DRIVER, m.KillActor(actor_id, no_restart=False))
    assert only(out, do.EndHosted) == do.EndHosted(FAR, ME, KEY, may_restart=True)
    assert kinds(out) == ["EndHosted", "Reply"] and node.state(actor_id).state == "ALIVE"
    node.told("RESTARTING", restarts=1)
    out = node.ask(DRIVER, m.KillActor(actor_id, no_restart=False))
    assert only(out, do.EndHosted) == do.EndHosted(FAR, ME, KEY), "no restart is left"
    assert cause(node.state(actor_id)) == ("ActorDiedError", "killed")


def test_without_handles_it_ends_when_two_looks_have_found_nothing() -> None:
    node = Member()
    actor_id = node.abroad()
    assert node.tell(seen.BellRang(gone=(KEY,))) == [do.Look((6,))]
    empty = seen.Looked((seen.QueueState(6, 0, 5),))
    for is_quiet in (True, False, True):
        assert node.tell(empty) == [do.LookAbroad(actor_id, (6,))]
        assert node.tell(seen.AbroadLooked(actor_id, is_quiet)) == []
        assert node.tell(seen.AlarmRang(), after=0.3) == [do.Look((6,))]
    full = seen.Looked((seen.QueueState(6, 1, 5),))
    assert node.tell(full) == [], "what waits here is a call"
    assert node.tell(seen.AbroadLooked(actor_id, True)) == [], "the second look begins anew"
    out = node.tell(seen.AbroadLooked(actor_id, True))
    assert only(out, do.EndHosted) == do.EndHosted(FAR, ME, KEY, is_gentle=True)
    assert cause(node.state(actor_id)) == ("ActorDiedError", "no_handle")
    assert {do.Release(KEY), do.FreeQueue(6)} <= set(out)
    assert node.tell(seen.AbroadLooked(actor_id, True)) == []


def test_the_end_of_its_job_is_its_end() -> None:
    node = Member()
    node.driver(OTHER_DRIVER)
    made = node.actor(index=OTHER_DRIVER, hold={"CPU": 8.0})
    actor_id = reply(made, m.ActorInfo).actor_id
    node.tell(seen.ActorSent(actor_id, FAR))
    out = node.ask(OTHER_DRIVER, m.LeaveJob())
    assert only(out, do.EndHosted) == do.EndHosted(FAR, ME, KEY)
    assert cause(node.state(actor_id)) == ("ActorDiedError", "job_ended")


def test_somebody_on_another_node_kills_ours() -> None:
    node = Member()
    actor_id = node.living_actor(max_restarts=1)
    assert kinds(node.tell(seen.ActorEnds(ME, KEY, may_restart=True))) == ["Kill"]
    assert node.state(actor_id).state == "ALIVE", "until its process has been reaped"
    out = node.tell(seen.ActorEnds(ME, KEY))
    assert cause(node.state(actor_id)) == ("ActorDiedError", "killed")
    assert only(out, do.KillQueue).queue == 6
    assert node.tell(seen.ActorEnds(ME, KEY)) == []
    abroad = node.sent(queue=7)
    out = node.tell(seen.ActorEnds(ME, 67))
    assert only(out, do.EndHosted) == do.EndHosted(FAR, ME, 67)
    assert node.state(abroad).state == "DEAD"
    assert node.tell(seen.ActorEnds(ME, 999)) == []


# ---- SPREAD
def test_with_spread_it_is_asked_whose_turn_it_is() -> None:
    node = Member()
    actor_id = reply(node.actor(strategy=m.Spread()), m.ActorInfo).actor_id
    assert not node.is_asking(actor_id)
    assert node.tell(seen.ActorSent(actor_id, FAR)) == [do.HostActor(actor_id, FAR)]
    out = node.told("REFUSED")
    assert out == [do.SpreadActor(actor_id)]
    assert node.tell(seen.ActorSent(actor_id, ME)) == [] and node.is_asking(actor_id)
    assert node.tell(seen.ActorSent(actor_id, ME)) == [], "it stands in the line already"
    assert kinds(node.worker(WORKER)) == ["Reply", "BringHome", "Assign"]


def test_with_spread_and_no_other_node_it_lives_here() -> None:
    node = Member()
    node.others()
    out = node.actor(strategy=m.Spread())
    assert "SpreadActor" not in kinds(out)
    assert node.is_asking(reply(out, m.ActorInfo).actor_id)


# ---- at its host
def test_a_guest_lives_here() -> None:
    node = Member()
    out = node.came(groups={"io": 2}, hold={"CPU": 1.0})
    job = node.tables.jobs.guests[FAR, GUEST_JOB].number
    assert [c for c in out if isinstance(c, do.NewQueue)] == out and len(out) == 2
    assert {c.job for c in out if isinstance(c, do.NewQueue)} == {job}
    assert node.queues_made(out, 20) == [do.TellHome(FAR, GUEST_KEY, "PENDING")]
    assignment = reply(node.worker(WORKER), m.Assignment)
    assert assignment.job == job and assignment.actor.actor_id == GUEST
    assert assignment.actor.queue == 20 and assignment.actor.group_queues == [(21, 1)]
    assert node.alive(WORKER) == do.TellHome(FAR, GUEST_KEY, "ALIVE", 1000 + WORKER)
    assert GUEST not in node.tables.store.rows["actors"], "its home has the row"


def test_a_guest_that_died_is_told_of() -> None:
    node = Member()
    node.guest(max_restarts=1)
    out = node.tell(seen.ProcessDied(WORKER, None, 9))
    assert only(out, do.TellHome) == do.TellHome(FAR, GUEST_KEY, "RESTARTING", 0, 1)
    node.tell(seen.AlarmRang(), after=1.0)
    node.worker(3)
    assert node.alive(3) == do.TellHome(FAR, GUEST_KEY, "ALIVE", 1003, 1)
    out = node.tell(seen.ProcessDied(3, None, 9))
    told = only(out, do.TellHome)
    assert told.state == "DEAD" and reason_of(told.cause) == ("ActorDiedError", "crashed")
    assert do.KillQueue(20, told.cause) in out and do.FreeQueue(20) in out
    assert GUEST in node.tables.actors.tombstones


def test_a_constructor_that_raised_is_told_of() -> None:
    node = Member()
    node.queues_made(node.came(), 20)
    node.worker(WORKER)
    out = node.ask(WORKER, m.ActorFailed(GUEST, b"error", "text"))
    told = only(out, do.TellHome)
    assert told.state == "DEAD" and reason_of(told.cause) == ("ActorDiedError", "constructor")


@pytest.mark.parametrize("amounts", [{"place": {"GPU": 1.0}}, {"hold": {"CPU": 3.0}}])
def test_what_it_never_has_is_refused(amounts: dict[str, Any]) -> None:
    node = Member()
    assert node.came(**amounts) == [do.TellHome(FAR, GUEST_KEY, "REFUSED")]
    assert not node.tables.jobs.guests and not node.tables.actors.living


def test_an_unknown_node_and_what_is_not_understood_are_refused() -> None:
    node = Member()
    node.others(THIRD)
    assert node.came() == [do.TellHome(FAR, GUEST_KEY, "REFUSED")]
    node.others(FAR)
    spec = m.ActorSpec(1, 2, "C", b"")
    out = node.tell(seen.ActorCame(FAR, GUEST_KEY, GUEST, 1, b"\xff", spec))
    assert out == [do.TellHome(FAR, GUEST_KEY, "REFUSED")]


def test_a_guest_that_is_here_is_not_made_again() -> None:
    node = Member()
    node.guest()
    assert node.came() == [do.TellHome(FAR, GUEST_KEY, "REFUSED")]


def test_its_home_ends_a_guest() -> None:
    for is_gentle, how, reason in ((True, do.Leave, "no_handle"), (False, do.Kill, "killed")):
        node = Member()
        node.guest(max_restarts=5)
        out = node.tell(seen.ActorEnds(FAR, GUEST_KEY, is_gentle=is_gentle))
        assert only(out, how) is not None
        told = only(out, do.TellHome)
        assert told.state == "DEAD" and reason_of(told.cause)[1] == reason
        assert node.tell(seen.ActorEnds(FAR, GUEST_KEY)) == [], "once"
        out = node.tell(seen.ProcessDied(WORKER, 0, None))
        assert do.FreeQueue(20) in out and GUEST in node.tables.actors.tombstones


def test_its_home_wants_a_guest_to_crash() -> None:
    node = Member()
    node.guest(max_restarts=1)
    out = node.tell(seen.ActorEnds(FAR, GUEST_KEY, may_restart=True))
    assert kinds(out) == ["Kill"]
    out = node.tell(seen.ProcessDied(WORKER, None, 9))
    assert only(out, do.TellHome).state == "RESTARTING"


def test_a_guest_of_another_home_is_not_meant() -> None:
    node = Member()
    node.guest()
    assert node.tell(seen.ActorEnds(THIRD, GUEST_KEY)) == []
    assert node.tell(seen.ActorEnds(FAR, GUEST_KEY + 1)) == []


def test_the_home_of_a_guest_is_lost() -> None:
    node = Member()
    node.guest()
    node.others(THIRD)
    out = node.tell(seen.GuestEnded(FAR, 0, "it is lost"))
    assert {"Kill", "EndJobTasks", "KillQueue"} <= set(kinds(out))
    assert node.tables.actors.living[GUEST].is_dead and not node.tables.jobs.guests
    assert do.FreeQueue(20) in node.tell(seen.ProcessDied(WORKER, None, 9))


def test_a_guest_that_ends_before_its_queue_is_there_leaves_none() -> None:
    node = Member()
    made = node.came(groups={"io": 2})
    told = only(node.tell(seen.ActorEnds(FAR, GUEST_KEY)), do.TellHome)
    assert told.state == "DEAD"
    assert node.queues_made(made, 20) == [do.FreeQueue(20), do.FreeQueue(21)]
    node.queues_made(node.came(), 22)
    assert node.tables.actors.living[GUEST].queue == 22, "it may come again"


def test_handles_of_a_guest_here_do_not_keep_or_end_it() -> None:
    node = Member()
    node.guest()
    assert node.tell(seen.BellRang(gone=(160,))) == []
    assert node.tables.actors.living[GUEST].drain is None


def test_a_guest_that_is_killed_here_is_killed_by_its_home() -> None:
    node = Member()
    node.guest()
    for no_restart in (True, False):
        out = node.ask(DRIVER, m.KillActor(GUEST, no_restart))
        ends = do.EndHosted(FAR, FAR, GUEST_KEY, may_restart=not no_restart)
        assert out == [ends, out[-1]] and reply(out, m.Done) == m.Done()
    assert node.tables.actors.living[GUEST].state == "ALIVE"


# ---- a guest that finds no room
def moves(node: Member, after: float = 0.0) -> list[do.Command]:
    return node.tell(seen.ActorMoves(GUEST), after)


def a_task_runs(node: Member, worker: int, queue: int = 30) -> None:
    """One of this node's program has the CPU."""
    out = node.ask(DRIVER, m.OpenQueue({"CPU": 1.0}))
    node.queues_made(out, queue)
    node.tell(seen.Looked((seen.QueueState(queue, 1, 0),), ()))
    node.worker(worker)
    busy = seen.WorkerState(worker, queue, queue, 1, False)
    node.tell(seen.Looked((seen.QueueState(queue, 0, 1),), (busy,)))


def test_a_guest_for_whom_there_is_no_room_goes_home() -> None:
    node = Member(CPU=1.0)
    node.living_actor(hold={"CPU": 1.0})
    node.queues_made(node.came(hold={"CPU": 1.0}), 20)
    told = only(moves(node), do.TellHome)
    assert told.state == "REFUSED" and GUEST not in node.tables.actors.living
    assert not node.is_asking(GUEST)


def test_a_guest_that_waits_for_its_process_stays() -> None:
    node = Member(CPU=1.0)
    node.queues_made(node.came(hold={"CPU": 1.0}), 20)
    assert moves(node, after=60.0) == [] and node.is_asking(GUEST)


def test_a_guest_waits_for_tasks_only_a_little() -> None:
    node = Member(CPU=1.0)
    a_task_runs(node, WORKER)
    node.queues_made(node.came(hold={"CPU": 1.0}), 20)
    assert moves(node, after=1.9) == []
    assert only(moves(node, after=0.2), do.TellHome).state == "REFUSED"


@pytest.mark.parametrize("has_checkpoint", [False, True])
def test_one_that_restarts_and_finds_no_room_takes_its_checkpoint_along(
    has_checkpoint: bool,
) -> None:
    node = Member(CPU=1.0)
    node.guest(max_restarts=1, hold={"CPU": 1.0})
    if has_checkpoint:
        node.ask(WORKER, m.KeepCheckpoint(GUEST, 900))
    node.tell(seen.ProcessDied(WORKER, None, 9))
    a_task_runs(node, 3)
    node.tell(seen.AlarmRang(), after=1.0)
    assert node.is_asking(GUEST)
    out = moves(node, after=2.1)
    told = only(out, do.TellHome)
    assert told.state == "MOVED", "a restart that it is owed"
    assert told.checkpoint == (900 if has_checkpoint else 0)
    if has_checkpoint:
        assert out.index(do.Release(900)) > out.index(told), "home has been told of it before"
