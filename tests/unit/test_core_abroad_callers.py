"""Transcripts of a node that has handles or names of actors of other nodes."""

from __future__ import annotations

from typing import Any

from shoal._core import causes
from shoal._core import commands as do
from shoal._core import events as seen
from shoal._core.actors import Abroad
from shoal._proto import messages as m
from tests.unit.test_core_abroad import FAR, GUEST, GUEST_KEY, OTHER_DRIVER, Member, only
from tests.unit.test_core_node import DRIVER, WORKER, kinds, refusal, reply


# ---- handles of actors of other nodes
def test_a_handle_of_an_actor_that_is_ours_has_its_queues() -> None:
    node = Member()
    actor_id = node.living_actor()
    out = node.ask(DRIVER, m.OpenActor(actor_id, 1234))
    assert reply(out, m.ActorOpened) == m.ActorOpened([(6, 1)], is_ours=True)


def test_a_handle_of_a_guest_has_its_queues() -> None:
    node = Member()
    node.guest(groups={"io": 1})
    out = node.ask(DRIVER, m.OpenActor(GUEST, 1234, 1))
    assert reply(out, m.ActorOpened) == m.ActorOpened([(20, 1), (21, 1)], is_ours=False)


def test_a_handle_of_an_actor_elsewhere_gets_queues_here() -> None:
    node = Member()
    out = node.opened(n_groups=2)
    queues = [(30, 1), (31, 1), (32, 1)]
    assert kinds(out) == ["CallAbroad", "Reply"]
    assert out[0] == do.CallAbroad(GUEST_KEY, (30, 31, 32))
    assert reply(out, m.ActorOpened) == m.ActorOpened(queues, is_ours=False)
    out = node.ask(DRIVER, m.OpenActor(GUEST, GUEST_KEY, 2))
    assert kinds(out) == ["Reply"] and reply(out, m.ActorOpened).queues == queues


def test_several_that_open_it_at_once_wait_for_one_creation() -> None:
    node = Member()
    node.driver(OTHER_DRIVER)
    made = node.ask(DRIVER, m.OpenActor(GUEST, GUEST_KEY, 1))
    assert kinds(made) == ["NewQueue", "NewQueue"]
    assert node.ask(OTHER_DRIVER, m.OpenActor(GUEST, GUEST_KEY, 1)) == []
    out = node.queues_made(made[:1], 30)
    assert out == [], "it has two"
    assert node.ask(OTHER_DRIVER, m.OpenActor(GUEST, GUEST_KEY, 1)) == []
    out = node.queues_made(made[1:], 31)
    assert kinds(out) == ["CallAbroad", "Reply", "Reply", "Reply"]
    asked = [c.index for c in out if isinstance(c, do.Reply)]
    assert asked == [DRIVER, OTHER_DRIVER, OTHER_DRIVER]


def test_who_called_an_actor_that_has_ended_is_told() -> None:
    node = Member()
    node.opened(n_groups=1)
    record = causes.actor_died({"actor_id": GUEST}, "killed")
    out = node.tell(seen.CallersGone(GUEST_KEY, record))
    assert out == [do.KillQueue(30, record), do.KillQueue(31, record)]
    assert node.tell(seen.BellRang(dead=(31,))) == [do.KillQueue(31, record)], "later calls too"
    assert reply(node.ask(DRIVER, m.OpenActor(GUEST, GUEST_KEY, 1)), m.ActorOpened).queues
    out = node.tell(seen.CallersGone(GUEST_KEY, record, is_unused=True))
    assert {do.FreeQueue(30), do.FreeQueue(31)} <= set(out)
    assert not node.tables.callers
    again = node.tell(seen.QueueFreed(30, False))
    assert [c for c in again if not isinstance(c, do.KillQueue)] == []
    assert node.tell(seen.AlarmRang(), after=0.1) == [do.FreeQueue(30)]


def test_an_actor_that_ends_while_its_queues_are_made() -> None:
    node = Member()
    made = node.ask(DRIVER, m.OpenActor(GUEST, GUEST_KEY, 1))
    node.queues_made(made[:1], 30)
    record = causes.actor_died({"actor_id": GUEST}, "killed")
    assert node.tell(seen.CallersGone(GUEST_KEY, record)) == [do.KillQueue(30, record)]
    out = node.queues_made(made[1:], 31)
    assert kinds(out) == ["KillQueue", "Reply"] and out[0] == do.KillQueue(31, record)


def test_a_queue_that_nobody_wants_any_more_is_freed() -> None:
    node = Member()
    made = node.ask(DRIVER, m.OpenActor(GUEST, GUEST_KEY))
    node.tell(seen.CallersGone(GUEST_KEY, b"", is_unused=True))
    assert node.queues_made(made, 30) == [do.FreeQueue(30)]
    assert node.opened(31)[0] == do.CallAbroad(GUEST_KEY, (31,))


def test_other_callers_are_not_meant() -> None:
    node = Member()
    node.opened()
    assert node.tell(seen.CallersGone(GUEST_KEY + 1, b"r", is_unused=True)) == []
    assert GUEST in node.tables.callers


def test_an_actor_that_is_elsewhere_is_killed_by_its_home() -> None:
    node = Member()
    node.opened()
    for no_restart in (True, False):
        out = node.ask(DRIVER, m.KillActor(GUEST, no_restart))
        assert out[0] == do.KillElsewhere(GUEST_KEY, may_restart=not no_restart)
        assert kinds(out) == ["KillElsewhere", "Reply"]
    assert refusal(node.ask(DRIVER, m.KillActor("f" * 40, True))) == "ActorNotFoundError"


def test_what_was_a_guest_once_is_elsewhere_now() -> None:
    """The cluster gave this node up for a while: its actors live on other nodes since."""
    node = Member()
    node.guest()
    node.tell(seen.GuestEnded(FAR, 0, "lost"))
    node.tell(seen.ProcessDied(WORKER, None, 9))
    assert GUEST in node.tables.actors.tombstones
    out = node.opened()
    assert kinds(out) == ["CallAbroad", "Reply"]
    out = node.ask(DRIVER, m.KillActor(GUEST, True))
    assert out[0] == do.KillElsewhere(GUEST_KEY, may_restart=False)


# ---- names
def claim(node: Member, **spec: Any) -> tuple[list[do.Command], Any]:
    out = node.actor(**{"name": "keeper", "namespace": "shop", **spec})
    return out, only(out, do.ClaimName)


FOUND = m.ActorInfo(GUEST, 3, 1, m.ActorSpec(1, GUEST_KEY, "C", b"", name="keeper"), "ALIVE")


def test_a_name_is_claimed_before_the_actor_is_made() -> None:
    node = Member()
    out, asked = claim(node)
    assert kinds(out) == ["ClaimName"] and (asked.namespace, asked.name) == ("shop", "keeper")
    out = node.queues_made(node.tell(seen.NameAnswered(asked.ticket, None)), 6)
    actor_id = reply(out, m.ActorInfo).actor_id
    assert node.tell(seen.NameAnswered(asked.ticket, None)) == [], "answered once"
    node.worker(WORKER)
    node.ask(WORKER, m.ActorStarted(actor_id))
    assert "ReleaseName" not in kinds(node.ask(DRIVER, m.KillActor(actor_id, True)))
    out = node.tell(seen.ProcessDied(WORKER, None, 9))
    assert only(out, do.ReleaseName) == do.ReleaseName("shop", "keeper")
    assert not node.tables.claimed
    assert kinds(claim(node)[0]) == ["ClaimName"], "it is claimed anew"


def test_a_name_that_another_node_has_is_refused_or_found() -> None:
    node = Member()
    _, asked = claim(node)
    out = node.tell(seen.NameAnswered(asked.ticket, FOUND))
    assert refusal(out) == "ActorAlreadyExistsError"
    _, asked = claim(node, get_if_exists=True)
    out = node.tell(seen.NameAnswered(asked.ticket, FOUND))
    assert reply(out, m.ActorInfo) == FOUND
    assert not node.tables.actors.living and not node.tables.claimed


def test_a_claim_that_comes_to_nothing_is_released() -> None:
    node = Member()
    node.driver(OTHER_DRIVER)
    out, asked = claim(node, index=OTHER_DRIVER, namespace="")
    node.ask(OTHER_DRIVER, m.LeaveJob())
    out = node.tell(seen.NameAnswered(asked.ticket, None))
    assert only(out, do.ReleaseName) == do.ReleaseName(asked.namespace, "keeper")
    assert asked.namespace and not node.tables.claimed


def test_two_claims_of_one_name_here_are_one_actor() -> None:
    node = Member()
    (_, first), (_, second) = claim(node), claim(node, get_if_exists=True)
    made = node.tell(seen.NameAnswered(first.ticket, None))
    actor_id = reply(node.queues_made(made, 6), m.ActorInfo).actor_id
    out = node.tell(seen.NameAnswered(second.ticket, None))
    assert reply(out, m.ActorInfo).actor_id == actor_id and "ReleaseName" not in kinds(out)
    assert node.tables.claimed == {("shop", "keeper")}


def test_an_actor_of_another_node_is_found_by_its_name() -> None:
    node = Member()
    for info in (FOUND, None):
        find = only(node.ask(DRIVER, m.GetActor("keeper", "shop")), do.FindName)
        assert (find.namespace, find.name) == ("shop", "keeper")
        out = node.tell(seen.NameAnswered(find.ticket, info))
        if info is not None:
            assert reply(out, m.ActorInfo) == info
        else:
            assert refusal(out) == "ActorNotFoundError"


def test_ours_is_found_here_also_when_it_lives_elsewhere() -> None:
    node = Member()
    _, asked = claim(node, hold={"CPU": 8.0})
    made = node.tell(seen.NameAnswered(asked.ticket, None))
    actor_id = reply(node.queues_made(made, 6), m.ActorInfo).actor_id
    node.tell(seen.ActorSent(actor_id, FAR))
    assert reply(node.ask(DRIVER, m.GetActor("keeper", "shop")), m.ActorInfo).actor_id == actor_id
    assert isinstance(node.tables.actors.living[actor_id].phase, Abroad)
    out = node.ask(DRIVER, m.KillActor(actor_id, True))
    assert only(out, do.ReleaseName) == do.ReleaseName("shop", "keeper"), "no process is here"
