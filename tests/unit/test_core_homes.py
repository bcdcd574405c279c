"""Transcripts of actors whose home leaves the cluster: on the node that leaves, and on the next."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from shoal._core import commands as do
from shoal._core import events as seen
from shoal._core import guests
from shoal._core.actors import GONE, LEAVES
from shoal._core.reactions_homes import is_stopped, leaving
from shoal._proto import messages as m
from shoal._proto.strategies import InGroup
from tests.unit.test_core_abroad import (
    FAR,
    GUEST,
    GUEST_KEY,
    KEY,
    OTHER_DRIVER,
    THIRD,
    Member,
    only,
)
from tests.unit.test_core_node import DRIVER, WORKER, reply

GIVEN_KEY, GIVEN_CLASS = 170, 171


def detached(node: Member, **spec: Any) -> str:
    """A detached actor that lives; its id."""
    return node.living_actor(**{"detached": True, "max_restarts": 1, **spec})


def draining(node: Member) -> None:
    node.tell(seen.DrainBegun())


def ids(node: Member) -> list[str]:
    return [actor.actor_id for actor in leaving(node.tables)]


def died(index: int = WORKER, *running: seen.RunningTask) -> seen.ProcessDied:
    return seen.ProcessDied(index, 0, 0, "", list(running))


def stopped(node: Member, actor_id: str) -> None:
    node.tell(seen.HomeLeaves(actor_id))
    node.tell(died())
    assert is_stopped(node.tables.actors.living[actor_id])


# ---- the node of a program
def of_a_program() -> Member:
    """It leaves with its program, on a machine that has no node of the cluster."""
    node = Member()
    node.tables.config = msgspec.structs.replace(node.tables.config, is_driver=True)
    return node


def given_away(out: list[do.Command]) -> do.GiveAway:
    (command,) = (each for each in out if isinstance(each, do.GiveAway))
    assert not [each for each in out if isinstance(each, do.Reply)], "its creator waits"
    return command


def test_a_detached_actor_of_a_program_has_another_home_before_anybody_hears_of_it() -> None:
    node = of_a_program()
    asked = given_away(node.actor(detached=True))
    actor = node.tables.actors.living[asked.actor_id]
    assert is_stopped(actor) and not node.is_asking(asked.actor_id)
    node.tell(seen.AlarmRang(), after=60.0)
    assert not node.is_asking(asked.actor_id), "it never begins here"
    node.tell(seen.HomeFound(asked.actor_id, FAR))
    assert (actor.moves, actor.host, actor.incarnation) == (GONE, FAR, 0)
    (answer,) = node.tell(seen.GivenAway(asked.ticket))
    assert reply([answer], m.ActorInfo).actor_id == asked.actor_id
    assert node.tell(seen.GivenAway(asked.ticket)) == [], "once"


def test_one_that_is_ended_before_it_has_a_home_is_told_to_its_creator() -> None:
    node = of_a_program()
    asked = given_away(node.actor(detached=True))
    node.ask(DRIVER, m.KillActor(asked.actor_id, True))
    assert node.tables.actors.find(asked.actor_id).is_dead
    (answer,) = node.tell(seen.GivenAway(asked.ticket))
    assert reply([answer], m.ActorInfo).actor_id == asked.actor_id


def test_other_actors_of_a_program_stay_with_it() -> None:
    node = of_a_program()
    out = node.actor()
    assert node.is_asking(str(reply(out, m.ActorInfo).actor_id))
    elsewhere = Member()
    out = elsewhere.actor(detached=True)
    assert elsewhere.is_asking(str(reply(out, m.ActorInfo).actor_id)), "a node stays"


# ---- the node that leaves
def test_it_stops_behind_its_present_call_and_is_not_begun_again() -> None:
    node = Member()
    actor_id = detached(node)
    assert node.tell(seen.HomeLeaves(actor_id)) == [], "before there is a drain"
    draining(node)
    assert ids(node) == [actor_id]
    assert node.tell(seen.HomeLeaves(actor_id)) == [do.Leave(WORKER)]
    later = node.tell(seen.AlarmRang(), after=60.0)
    assert do.Kill(WORKER) not in later, "its call may take as long as it takes"
    actor = node.tables.actors.living[actor_id]
    assert actor.moves == LEAVES and not is_stopped(actor)
    out = node.tell(died())
    assert not [c for c in out if isinstance(c, do.KillQueue | do.Fail)], "its calls wait"
    assert is_stopped(actor) and not node.is_asking(actor_id)
    assert (actor.restarts, actor.incarnation) == (0, 1), "it was not charged"
    node.tell(seen.AlarmRang(), after=60.0)
    assert not node.is_asking(actor_id)


def test_it_has_another_home_then() -> None:
    node = Member()
    actor_id = detached(node)
    draining(node)
    stopped(node, actor_id)
    node.tell(seen.HomeFound(actor_id, FAR))
    actor = node.tables.actors.living[actor_id]
    assert (actor.moves, actor.host) == (GONE, FAR) and ids(node) == []
    assert actor_id not in node.tables.store.rows["actors"], "the row is at its home"
    assert node.ask(DRIVER, m.KillActor(actor_id, True))[0] == do.KillElsewhere(KEY, False)
    me = node.tables.config.node_id.hex()
    assert node.tell(seen.ActorEnds(me, KEY, may_restart=True)) == [do.KillElsewhere(KEY, True)]
    node.others(THIRD)
    assert actor.is_dead, "its home is lost, and with it the actor"


def test_one_that_waits_for_room_asks_no_more() -> None:
    node = Member()
    actor_id = str(reply(node.actor(detached=True, hold={"CPU": 8.0}), m.ActorInfo).actor_id)
    draining(node)
    assert ids(node) == [actor_id], "it has not begun: it may always"
    node.tell(seen.HomeLeaves(actor_id))
    assert not node.is_asking(actor_id)
    assert is_stopped(node.tables.actors.living[actor_id])


@pytest.mark.parametrize("state", ["DEAD", "REFUSED", "MOVED"])
def test_one_that_lives_elsewhere_stops_there(state: str) -> None:
    node = Member()
    actor_id = node.abroad(detached=True, max_restarts=1)
    draining(node)
    assert node.tell(seen.HomeLeaves(actor_id)) == []
    actor = node.tables.actors.living[actor_id]
    assert actor.moves == LEAVES and actor.host == FAR
    node.told(state)
    assert is_stopped(actor) and not actor.is_dead and not node.is_asking(actor_id)


def test_one_whose_host_is_lost_meanwhile_is_not_charged() -> None:
    node = Member()
    actor_id = node.abroad(detached=True, max_restarts=1)
    draining(node)
    node.tell(seen.HomeLeaves(actor_id))
    node.others(THIRD)
    actor = node.tables.actors.living[actor_id]
    assert is_stopped(actor) and actor.restarts == 0


def test_who_keeps_its_home() -> None:
    node = Member()
    assert node.living_actor(max_restarts=5), "of a program that is attached here"
    detached(node, worker=WORKER + 1, queue=7, max_restarts=0)
    used_up = detached(node, worker=WORKER + 2, queue=8, hold={"CPU": 0.0})
    node.tables.actors.living[used_up].restarts = 1
    draining(node)
    assert ids(node) == []


def test_one_in_a_group_keeps_its_home() -> None:
    node = Member()
    actor_id = detached(node)
    draining(node)
    actor = node.tables.actors.living[actor_id]
    actor.spec = msgspec.structs.replace(actor.spec, strategy=InGroup("g", 0, False))
    assert ids(node) == []


def test_one_that_crashed_meanwhile_is_charged() -> None:
    node = Member()
    actor_id = detached(node)
    draining(node)
    node.tell(seen.HomeLeaves(actor_id))
    node.tell(died(WORKER, seen.RunningTask(900, 1, 0, 0, 0, 6)))
    actor = node.tables.actors.living[actor_id]
    assert is_stopped(actor) and actor.restarts == 1 and ids(node) == [actor_id]


# ---- a state that comes along
def test_who_moves_brings_its_state() -> None:
    node = Member()
    actor_id = node.abroad(max_restarts=1)
    out = node.told("MOVED", checkpoint=300)
    assert do.Adopt(300) in out and node.is_asking(actor_id)
    actor = node.tables.actors.living[actor_id]
    node.tell(seen.ActorSent(actor_id, THIRD))
    assert actor.checkpoint == 300, "until it is there"
    node.told("PENDING", node=THIRD)
    node.told("REFUSED", node=THIRD)
    node.tell(seen.ActorSent(actor_id, FAR))
    assert do.Release(300) in node.told("ALIVE")
    assert actor.checkpoint == 0, "it would be an old one"


def test_its_next_host_has_it() -> None:
    node = Member()
    node.queues_made(node.came(checkpoint=310), 20)
    out = node.worker(WORKER)
    assert only_info(out).checkpoint == 310


def test_a_home_that_leaves_ends_it_there_with_its_state() -> None:
    node = Member()
    node.guest()
    node.ask(WORKER, m.KeepCheckpoint(GUEST, 320))
    assert do.Leave(WORKER) in node.tell(seen.ActorEnds(FAR, GUEST_KEY, is_moving=True))
    told = only(node.tell(died()), do.TellHome)
    assert (told.state, told.checkpoint) == ("MOVED", 320)


@pytest.mark.parametrize("is_called", [False, True])
def test_who_calls_it_where_it_was_calls_its_home(is_called: bool) -> None:
    node = Member()
    node.guest(groups={"io": 1})
    if is_called:
        opened = reply(node.ask(DRIVER, m.OpenActor(GUEST, 1234, 1)), m.ActorOpened)
        assert opened.queues == [(20, 1), (21, 1)]
    out = node.tell(seen.ActorEnds(FAR, GUEST_KEY, is_moving=True))
    killed = {c.queue for c in out if isinstance(c, do.KillQueue)}
    out = node.tell(died())
    freed = {c.queue for c in out if isinstance(c, do.FreeQueue)}
    assert killed == freed == (set() if is_called else {20, 21})
    assert (do.CallAbroad(1234, (20, 21)) in out) == is_called
    if is_called:
        node.queues_made(node.came(groups={"io": 1}), 40)
        opened = reply(node.ask(DRIVER, m.OpenActor(GUEST, 1234, 1)), m.ActorOpened)
        assert opened.queues == [(20, 1), (21, 1)], "all calls of this node go one way"


def only_info(out: list[do.Command]) -> m.ActorInfo:
    actor = reply(out, m.Assignment).actor
    assert isinstance(actor, m.ActorInfo)
    return actor


# ---- the next home
def given(here: Member, spec: dict[str, Any] | None = None, **more: Any) -> list[do.Command]:
    config = m.JobConfig(namespace="ns")
    usual = {
        "function": GIVEN_CLASS,
        "arguments": GIVEN_KEY,
        "class_name": "Given",
        "methods": b"",
        "detached": True,
        "max_restarts": 3,
        "name": "n",
    }
    fields = {
        "node": FAR,
        "actor_id": GUEST,
        "job": 0,
        "root": GUEST,
        "place": msgspec.msgpack.encode(guests.ClassPlace((), config)),
        "spec": m.ActorSpec(**{**usual, **(spec or {})}),
        "namespace": "ns",
        "incarnation": 4,
        "restarts": 2,
        **more,
    }
    return here.tell(seen.ActorGiven(**fields))


def test_it_lives_on_with_all_that_it_was() -> None:
    node = Member()
    out = given(node, checkpoint=172)
    assert {GIVEN_KEY, GIVEN_CLASS, 172} == {c.key for c in out if isinstance(c, do.Adopt)}
    assert only(out, do.TakeName) == do.TakeName("ns", "n", FAR)
    node.queues_made(out, 40)
    actor = node.tables.actors.named("ns", "n")
    assert actor is not None and actor.actor_id == GUEST and actor.home is None
    assert node.is_asking(GUEST)
    node.worker(WORKER)
    assert node.tell(seen.BellRang(gone=(GIVEN_KEY,))) == [], "nobody has to hold a detached one"
    info = node.state(GUEST)
    assert (info.incarnation, info.checkpoint) == (5, 172)
    assert node.row(GUEST)["restarts"] == 2
    assert (job := node.tables.jobs.running[actor.job]).root_actor == GUEST
    assert job.namespace == "ns"
    node.ask(DRIVER, m.KillActor(GUEST, True))
    out = node.tell(died())
    released = {c.key for c in out if isinstance(c, do.Release)}
    assert {GIVEN_CLASS, 172} <= released
    assert only(out, do.ReleaseName) == do.ReleaseName("ns", "n")


def test_it_has_the_queues_in_which_it_was_called() -> None:
    node = Member()
    node.opened(30)
    out = given(node)
    assert not [c for c in out if isinstance(c, do.NewQueue)]
    actor = node.tables.actors.living[GUEST]
    assert actor.queues == [30] and GUEST not in node.tables.callers
    opened = reply(node.ask(DRIVER, m.OpenActor(GUEST, GUEST_KEY)), m.ActorOpened)
    assert opened.queues == [(30, 1)]
    out = node.worker(WORKER)
    assert do.BringHome((30,)) in out, "what waits there comes back before it takes anything"


def test_of_a_program_here_it_ends_with_its_job() -> None:
    node = Member()
    node.driver(OTHER_DRIVER)
    job = node.tables.jobs.by_driver[OTHER_DRIVER].number
    spec = {"detached": False, "name": None}
    node.queues_made(given(node, job=job, root="", spec=spec), 40)
    actor = node.tables.actors.living[GUEST]
    assert actor.job == job
    out = node.ask(OTHER_DRIVER, m.LeaveJob())
    assert actor.is_dead and do.Release(GIVEN_CLASS) in out


def test_what_a_detached_one_has_made_comes_behind_it() -> None:
    node = Member()
    child = "e" * 40
    assert given(node, actor_id=child) == [], "what it works for is not here yet"
    node.queues_made(given(node), 40)
    spec = {"arguments": 180, "function": 181, "detached": False, "name": None}
    node.queues_made(given(node, spec, actor_id=child), 50)
    living = node.tables.actors.living
    assert living[child].job == living[GUEST].job


def test_what_cannot_be_taken_changes_nothing() -> None:
    node = Member()
    assert given(node, node="e" * 32) == [], "nobody knows that node"
    assert given(node, place=b"\xc1") == []
    assert given(node, job=77, root="") == [], "its program has ended"
    node.guest()
    assert given(node) == [], "its former life on this node is not over yet"
    assert node.tables.jobs.running.keys() == {1, 2}
