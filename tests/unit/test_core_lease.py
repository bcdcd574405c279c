"""Transcripts of a node whose lease ends: what ends with it, what waits, what is told."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from shoal._core import commands as do
from shoal._core import events as seen
from shoal._proto import reasons as r
from tests.unit import why_node
from tests.unit.test_core_abroad import FAR, GUEST, GUEST_KEY, Member
from tests.unit.test_core_node import WORKER

LEASE_S = 10.0


def leased(**total: float) -> Member:
    node = Member(**total)
    node.tell(seen.LeaseSet(node.now + LEASE_S))
    return node


def over(node: Member) -> list[do.Command]:
    """What follows when nothing is heard for a lease."""
    return node.tell(seen.AlarmRang(), after=LEASE_S)


def killed(node: Member, index: int = WORKER) -> list[do.Command]:
    return node.tell(seen.ProcessDied(index, 0, 9, "", []))


def marks(node: Member, out: list[do.Command]) -> list[do.Command]:
    return [c for c in out if isinstance(c, do.MarkLeased)]


LEASED: list[dict[str, Any]] = [
    {"max_restarts": 1},
    {"max_restarts": -1},
    {"is_known": True},
]


@pytest.mark.parametrize("spec", LEASED)
def test_a_guest_that_may_live_elsewhere_ends_with_the_lease(spec: dict[str, Any]) -> None:
    node = leased()
    node.guest(**spec)
    assert do.Kill(WORKER) not in node.tell(seen.AlarmRang(), after=LEASE_S - 0.1)
    assert do.Kill(WORKER) in node.tell(seen.AlarmRang(), after=0.1)


def test_who_is_leased_is_marked_before_it_hears_who_it_is() -> None:
    for spec, is_leased in (({"max_restarts": 1}, True), ({}, False)):
        node = leased()
        node.queues_made(node.came(**spec), 20)
        out = node.worker(WORKER)
        at = {type(c): place for place, c in enumerate(out)}
        assert (do.MarkLeased in at) == is_leased
        assert not is_leased or at[do.MarkLeased] < at[do.Reply] < at[do.Assign]


def test_a_guest_that_nobody_begins_again_goes_on() -> None:
    node = leased()
    node.guest()
    assert do.Kill(WORKER) not in over(node)


def test_of_its_own_actors_those_end_that_others_may_have() -> None:
    node = leased()
    node.living_actor(detached=True)
    assert do.Kill(WORKER) in over(node)
    node = leased()
    node.living_actor(max_restarts=5)
    assert do.Kill(WORKER) not in over(node), "its home is here: nobody else has it"


def test_the_next_life_waits_until_the_store_is_heard_again() -> None:
    node = leased()
    node.guest(max_restarts=1)
    over(node)
    told = [c for c in killed(node) if isinstance(c, do.TellHome)]
    assert [c.state for c in told] == ["RESTARTING"]
    for _ in range(3):
        node.tell(seen.AlarmRang(), after=0.3)
        assert not node.is_asking(GUEST)
    node.tell(seen.LeaseSet(node.now + LEASE_S))
    node.tell(seen.AlarmRang(), after=0.3)
    assert node.is_asking(GUEST)


def test_who_stood_in_the_line_waits_too() -> None:
    node = leased(CPU=1.0)
    node.queues_made(node.came(max_restarts=1, hold={"CPU": 1.0}), 20)
    node.tables.scheduler.asks.by_who[GUEST].since = node.now
    assert node.is_asking(GUEST)
    over(node)
    assert not node.is_asking(GUEST)
    node.tell(seen.LeaseSet(node.now + LEASE_S))
    node.tell(seen.AlarmRang(), after=0.3)
    assert node.is_asking(GUEST)


def test_who_waits_for_another_home_is_not_begun_here() -> None:
    node = leased()
    actor_id = node.living_actor(detached=True, max_restarts=1)
    node.tell(seen.DrainBegun())
    node.tell(seen.HomeLeaves(actor_id))
    killed(node)
    assert not node.is_asking(actor_id), "it has stopped, and asks for nothing"
    over(node)
    node.tell(seen.LeaseSet(node.now + LEASE_S))
    node.tell(seen.AlarmRang(), after=1.0)
    assert not node.is_asking(actor_id)


def test_whatever_is_read_first_after_a_stop_comes_after_the_clock() -> None:
    node = leased()
    node.guest(max_restarts=1)
    out = node.tell(seen.Looked(), after=60.0)
    assert do.Kill(WORKER) in out


def test_an_end_without_another_life_says_why() -> None:
    node = leased()
    node.guest(is_known=True)
    over(node)
    told = [c for c in killed(node) if isinstance(c, do.TellHome)]
    assert [(c.node, c.key, c.state) for c in told] == [(FAR, GUEST_KEY, "DEAD")]
    name, fields = msgspec.msgpack.decode(told[0].cause)
    assert (name, fields["reason"]) == ("ActorDiedError", "lease_over")


def test_tasks_that_wait_say_that_the_lease_is_over() -> None:
    node = why_node.Node()
    node.tell(seen.LeaseSet(node.now + LEASE_S))
    queue = node.queue({"CPU": 1.0})
    node.waits(why_node.TASK, queue)
    node.now += LEASE_S + 2.5
    why = node.why()
    assert isinstance(why.reason, r.LeaseOver) and why.reason.over_s == 2.5
    assert "control store" in str(why) and "2.5 s" in str(why)
    node.tell(seen.LeaseSet(node.now + LEASE_S))
    assert not isinstance(node.why().reason, r.LeaseOver)
