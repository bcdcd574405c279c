"""Members, the store's side: single decisions of `_core/members`. (Whole clusters: tests/sim.)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import pytest

from shoal._base.config import LeaseTimes, lease_times
from shoal._core.members import interface as on
from shoal._core.members.actor_table import ACTORS
from shoal._core.policies.view import View
from shoal._proto import membership as m
from shoal._proto.messages import Done, Failure
from shoal._proto.views import Candidates, Demand, NodeRow, Wish
from tests.unit.members_by_hand import (
    NAMED,
    ROW,
    Cluster,
    silence,
    state_of,
)


# ---- joining, leases, deaths
def test_an_epoch_is_on_disk_before_it_is_told() -> None:
    cluster = Cluster()
    cluster.ask_to_join("a")
    assert state_of(cluster, "a") == m.ALIVE
    (admitted,) = cluster.take(m.Admitted)
    assert admitted == m.Admitted("a", 1, 1, 1, 10.0)


def test_a_request_that_is_repeated_gets_the_same_epoch() -> None:
    cluster = Cluster("a")
    cluster.ask_to_join("a")
    assert cluster.take(m.Admitted) == [m.Admitted("a", 1, 1, 1, 10.0)]


def test_who_begins_anew_ends_its_former_epoch() -> None:
    cluster = Cluster("a", "b")
    cluster.start_actor("a", NAMED, asker="b")
    assert cluster.join("a", request=2, former=1) == 2
    assert "it has begun anew" in cluster.notices[-1]
    facts = cluster.machine.actors.table.find("x")
    assert facts is not None and facts.incarnation == 2 and facts.restarts == 1


def test_its_row_is_of_the_epoch_that_it_gets() -> None:
    """It wrote it in its former one, of which the others believe nothing any more."""
    cluster = Cluster("a", "b")
    cluster.ask_to_join("a", request=2, former=1)
    rows = [body for to, body in cluster.told if to == "b" and isinstance(body, m.MembersChanged)]
    (row,) = (member.row for member in rows[-1].rows if member.row.node == "a")
    view = View(10)
    assert view.hear(NodeRow("a", 1, 40))
    view.lose("a")
    assert view.hear(row) and (row.epoch, row.total) == (2, ROW)


def test_an_old_request_is_not_read() -> None:
    cluster = Cluster("a")
    cluster.join("a", request=2, former=1)
    cluster.ask_to_join("a", request=1)
    assert cluster.take(m.Admitted) == []


def test_a_name_that_another_node_has_is_refused_in_one_line() -> None:
    cluster = Cluster()
    cluster.ask_to_join("a", name="blue")
    cluster.ask_to_join("b", name="blue")
    assert not cluster.take(m.NotAdmitted), "nobody knows yet whether that node lives"
    cluster.now += 0.5
    cluster.renew("a")
    cluster.ask_to_join("b", name="blue")
    (refused,) = cluster.take(m.NotAdmitted)
    assert isinstance(refused, m.NotAdmitted) and refused.node == "b"
    assert "'blue'" in refused.why and "What to do" in refused.why and "\n" not in refused.why


def test_a_name_that_a_silent_node_has_is_free_when_its_lease_is_over() -> None:
    cluster = Cluster("c")
    cluster.ask_to_join("a", name="blue")
    cluster.renew("a")
    for _ in range(10):
        silence(cluster, 1.0, "c")
        cluster.ask_to_join("b", name="blue")
        assert not cluster.take(m.NotAdmitted) and "b" not in cluster.machine.nodes.nodes
    silence(cluster, 1.0, "c")
    cluster.ask_to_join("b", name="blue")
    assert state_of(cluster, "a") == m.DEAD and state_of(cluster, "b") == m.ALIVE


def test_silence_of_eleven_seconds_is_death_and_not_a_moment_less() -> None:
    cluster = Cluster("a", "b")
    silence(cluster, 10.5, "b")
    assert state_of(cluster, "a") == m.ALIVE
    silence(cluster, 0.5, "b")
    assert state_of(cluster, "a") == m.DEAD and state_of(cluster, "b") == m.ALIVE


def test_a_driver_node_has_a_longer_lease() -> None:
    cluster = Cluster("b")
    cluster.ask_to_join("d", role=m.ROLE_DRIVER)
    (admitted,) = cluster.take(m.Admitted)
    assert isinstance(admitted, m.Admitted) and admitted.lease_s == 60.0
    silence(cluster, 60.5, "b")
    assert state_of(cluster, "d") == m.ALIVE
    silence(cluster, 0.5, "b")
    assert state_of(cluster, "d") == m.DEAD


def with_lease(lease_s: float, *nodes: str) -> Cluster:
    """A cluster whose leases last so long."""
    cluster = Cluster()
    cluster.times = lease_times(lease_s)
    cluster.restart()
    for node in nodes:
        cluster.join(node)
    return cluster


def test_others_act_a_second_after_any_lease() -> None:
    for lease_s in (2.0, 3.0, 30.0, 300.0):
        times = lease_times(lease_s)
        assert times.takeover_s - times.lease_s == 1.0 and times.cautious_s == lease_s / 2
        assert times.renew_s <= lease_s / 10 and times.renew_s <= 1.0
        cluster = with_lease(lease_s, "b")
        cluster.ask_to_join("a")
        (admitted,) = cluster.take(m.Admitted)
        assert isinstance(admitted, m.Admitted) and admitted.lease_s == lease_s
        silence(cluster, lease_s + 0.5, "b")
        assert state_of(cluster, "a") == m.ALIVE
        silence(cluster, 0.5, "b")
        assert state_of(cluster, "a") == m.DEAD and state_of(cluster, "b") == m.ALIVE
    assert lease_times(10.0) == LeaseTimes()


def test_a_lease_that_nobody_can_keep_is_refused() -> None:
    for lease_s in (1.9, 0.0, -3.0, 301.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="a lease lasts from 2 to 300 seconds"):
            lease_times(lease_s)


def test_a_store_with_shorter_leases_waits_for_those_of_its_former_life() -> None:
    cluster = Cluster("a", "b")
    cluster.times = lease_times(2.0)
    cluster.restart()
    silence(cluster, 5.0, "b")
    assert state_of(cluster, "a") == m.ALIVE, "its lease lasts 10 s, whatever others get now"
    cluster.renew("a")
    silence(cluster, 10.5, "b")
    assert state_of(cluster, "a") == m.ALIVE
    silence(cluster, 0.5, "b")
    assert state_of(cluster, "a") == m.DEAD
    cluster.ask_to_join("b", 2, former=1)
    (admitted,) = cluster.take(m.Admitted)
    assert isinstance(admitted, m.Admitted) and admitted.lease_s == 2.0, "its next epoch has less"
    cluster.ask_to_join("b", 2, former=1)
    assert cluster.take(m.Admitted) == [admitted]


def test_a_restarted_store_acts_on_no_death_for_eleven_seconds() -> None:
    cluster = Cluster("a", "b")
    silence(cluster, 10.0, "b")
    cluster.restart()
    silence(cluster, 10.5, "b")
    assert state_of(cluster, "a") == m.ALIVE
    silence(cluster, 0.5, "b")
    assert state_of(cluster, "a") == m.DEAD


def test_a_store_that_was_stopped_counts_anew() -> None:
    cluster = Cluster("a", "b")
    cluster.now += 40.0
    cluster.step(on.AlarmRang())
    assert state_of(cluster, "a") == m.ALIVE
    silence(cluster, 11.0, "b")
    assert state_of(cluster, "a") == m.DEAD


def test_who_was_declared_dead_is_told_so_whatever_it_says() -> None:
    cluster = Cluster("a", "b")
    silence(cluster, 11.0, "b")
    cluster.told.clear()
    cluster.renew("a")
    cluster.fact("a")
    cluster.ask("a", NAMED)
    (verdict,) = cluster.take(m.DeclaredDead)
    assert isinstance(verdict, m.DeclaredDead) and "nothing was heard" in verdict.why
    assert cluster.machine.actors.table.find("x") is None


def test_a_node_that_the_journal_does_not_know_is_over() -> None:
    cluster = Cluster()
    cluster.renew("ghost", 7)
    (verdict,) = cluster.take(m.DeclaredDead)
    assert isinstance(verdict, m.DeclaredDead) and "does not know" in verdict.why


def test_the_fate_of_a_node_can_be_asked_for() -> None:
    cluster = Cluster("a", "b")
    assert cluster.ask("a", m.AskAboutNode("b", 1)) == m.NodeFate("b", 1, False)
    assert cluster.ask("a", m.AskAboutNode("b", 0)) == m.NodeFate("b", 0, True)
    assert cluster.ask("a", m.AskAboutNode("z", 3)) == m.NodeFate("z", 3, True)


def test_suspicion_only_keeps_new_things_away() -> None:
    cluster = Cluster("a", "b")
    cluster.start_actor("a", NAMED, asker="b")
    cluster.step(on.Suspected("a", 1, "end of the connection"))
    assert state_of(cluster, "a") == m.ALIVE
    cluster.ask("b", m.RegisterActor("y", hold={"CPU": 1.0}))
    assert cluster.number_of("b", m.OfferActor)
    cluster.renew("a")
    cluster.ask("b", m.RegisterActor("z", hold={"CPU": 1.0}))
    assert cluster.number_of("a", m.OfferActor)


def test_changes_of_members_come_whole_and_once() -> None:
    cluster = Cluster("a")
    cluster.renew("a")
    cluster.take(m.MembersChanged)
    cluster.ask_to_join("b")
    (changed,) = cluster.take(m.MembersChanged)
    assert isinstance(changed, m.MembersChanged)
    assert {row.node for row in changed.rows} >= {"b"}
    row = NodeRow("a", total=ROW, free=ROW)
    known = changed.version
    cluster.step(on.Heard(m.Renew("a", 1, 9, cluster.life, row, m.Standing(), known)))
    assert cluster.take(m.MembersChanged) == []
    cluster.restart()
    cluster.step(on.Heard(m.Renew("a", 1, 9, cluster.life, row, m.Standing(), known)))
    assert len(cluster.take(m.MembersChanged)) == 1, "another life has other versions"


def test_each_renewal_is_a_row_for_who_looks_for_candidates() -> None:
    asked = []

    def find(node: str, demand: Sequence[Demand], rooms: Mapping[str, NodeRow]) -> list[Candidates]:
        asked.append((node, len(demand), sorted(rooms)))
        return [Candidates(Wish())]

    cluster = Cluster("a", "b")
    cluster.machine._find_candidates = find
    cluster.renew("a")
    assert asked == [("a", 0, ["a", "b"])]  # it waits for nobody, and others may want it
    asked.clear()
    wanting = NodeRow("a", total=ROW, free=ROW, demand=(Demand(Wish(), 3),))
    cluster.told.clear()
    cluster.renew("a", row=wanting)
    assert asked == [("a", 1, ["a", "b"])]
    (renewed,) = cluster.take(m.Renewed)
    assert isinstance(renewed, m.Renewed) and len(renewed.candidates) == 1


# ---- actors
def test_name_and_offer_are_on_disk_with_the_answer() -> None:
    cluster = Cluster("a", "b")
    told = cluster.ask("b", NAMED)
    assert isinstance(told, m.ActorFacts) and told.state == "PENDING" and told.created
    assert (ACTORS, b"x") in cluster.disk
    assert cluster.orders("a") == [m.OfferActor(NAMED, 1, 0)]


def test_a_refusal_costs_nothing() -> None:
    cluster = Cluster("a", "b")
    cluster.ask("b", NAMED)
    order = cluster.number_of("a", m.OfferActor)
    cluster.fact("a", m.OfferAnswered(order, "x", 1, False, "no room"))
    cluster.now += 0.2
    cluster.step(on.AlarmRang())
    assert cluster.orders("b") == [m.OfferActor(NAMED, 1, 0)], "elsewhere, and the same life"


def test_a_repeated_registration_makes_no_second_actor() -> None:
    cluster = Cluster("a", "b")
    cluster.start_actor("a", NAMED, asker="b")
    again = cluster.ask("b", NAMED)
    assert isinstance(again, m.ActorFacts) and again.state == "ALIVE" and again.incarnation == 1


def test_the_first_with_a_name_keeps_it() -> None:
    cluster = Cluster("a", "b")
    cluster.start_actor("a", NAMED, asker="b")
    other = msgspec.structs.replace(NAMED, actor_id="y")
    refused = cluster.ask("b", other)
    assert isinstance(refused, Failure) and b"ActorAlreadyExistsError" in refused.record
    found = cluster.ask("b", msgspec.structs.replace(other, get_if_exists=True))
    assert isinstance(found, m.ActorFacts) and found.actor_id == "x" and not found.created


def test_a_name_is_free_when_its_process_is_gone() -> None:
    cluster = Cluster("a", "b")
    cluster.start_actor("a", NAMED, asker="b")
    assert cluster.ask("b", m.KillActor("x")) == Done()
    found = cluster.ask("b", m.FindActor(name="n"))
    assert isinstance(found, Failure), "for everybody else it is gone at once"
    other = msgspec.structs.replace(NAMED, actor_id="y")
    assert cluster.ask("b", other) is None, "its answer waits"
    cluster.told.clear()
    cluster.fact("a", m.ActorGone("x", 1, "killed"))
    (told,) = cluster.take(m.Told)
    assert isinstance(told, m.Told) and isinstance(told.body, m.ActorFacts)
    assert told.body.actor_id == "y" and told.body.created


def test_an_at_most_once_actor_waits_for_the_end_of_the_lease() -> None:
    cluster = Cluster("a", "b")
    cluster.start_actor("a", NAMED, asker="b")
    silence(cluster, 10.5, "b")
    assert not any(isinstance(body, m.OfferActor) for body in cluster.orders("b"))
    silence(cluster, 0.5, "b")
    assert m.OfferActor(NAMED, 2, 1) in cluster.orders("b")


def test_an_obituary_is_acted_on_at_once() -> None:
    cluster = Cluster("a", "b")
    cluster.start_actor("a", NAMED, asker="b")
    cluster.step(on.Heard(m.Obituary("a", 1)))
    assert m.OfferActor(NAMED, 2, 1) in cluster.orders("b")


def test_no_restart_left_is_death_with_a_cause() -> None:
    cluster = Cluster("a", "b")
    once = msgspec.structs.replace(NAMED, max_restarts=0)
    cluster.start_actor("a", once, asker="b")
    cluster.step(on.Heard(m.Obituary("a", 1)))
    facts = cluster.machine.actors.table.find("x")
    assert facts is not None and facts.state == "DEAD" and b"node_lost" in facts.cause


def test_a_drained_life_is_not_charged() -> None:
    cluster = Cluster("a", "b")
    once = msgspec.structs.replace(NAMED, max_restarts=1)
    cluster.start_actor("a", once, asker="b")
    cluster.fact("a", m.ActorGone("x", 1, "drained"))
    facts = cluster.machine.actors.table.find("x")
    assert facts is not None and facts.restarts == 0 and facts.incarnation == 2


def test_a_crash_is_followed_by_a_pause_that_doubles() -> None:
    cluster = Cluster("a", "b")
    cluster.start_actor("a", NAMED, asker="b")
    pauses = []
    for incarnation in (1, 2, 3):
        cluster.fact("a", m.ActorGone("x", incarnation, "crashed"))
        at = cluster.machine.actors.table.pauses.next()
        assert at is not None
        pauses.append(round(at - cluster.now, 3))
        cluster.now = at
        cluster.step(on.AlarmRang())
        order = cluster.number_of("a", m.OfferActor)
        cluster.fact("a", m.OfferAnswered(order, "x", incarnation + 1, True))
        cluster.fact("a", m.ActorAlive("x", incarnation + 1))
    assert pauses == [0.05, 0.1, 0.2]


def test_after_a_restart_only_the_node_that_may_have_it_is_waited_for() -> None:
    cluster = Cluster("a", "b")
    cluster.ask("b", NAMED)
    cluster.restart()
    cluster.report("b")
    assert cluster.machine.actors.table.find("x").node == "a"  # type: ignore[union-attr]
    cluster.report("a")
    cluster.renew("b")
    facts = cluster.machine.actors.table.find("x")
    assert facts is not None and facts.node == "b"
    assert facts.incarnation == 1, "it never ran: the same life again"
    assert cluster.machine.is_settled


def test_after_a_restart_what_is_reported_lives_on() -> None:
    cluster = Cluster("a", "b")
    cluster.start_actor("a", NAMED, asker="b")
    cluster.restart()
    cluster.report("a", whole=m.Whole([m.ActorHere(NAMED, 1, 0, True)], []))
    facts = cluster.machine.actors.table.find("x")
    assert facts is not None and facts.state == "ALIVE" and facts.node == "a"


def test_what_is_named_and_not_in_the_journal_is_ended() -> None:
    cluster = Cluster("a", "b")
    cluster.restart()
    stray = m.ActorHere(NAMED, 3, 2, True)
    anonymous = m.ActorHere(m.RegisterActor("y"), 1, 0, True)
    cluster.report("a", whole=m.Whole([stray, anonymous], []))
    assert m.EndActor("x", 3, "killed") in cluster.orders("a")
    facts = cluster.machine.actors.table.find("y")
    assert facts is not None and facts.state == "ALIVE", "anonymous ones are adopted"


def test_a_kill_that_was_acknowledged_survives_the_store() -> None:
    cluster = Cluster("a", "b")
    anonymous = m.RegisterActor("y", hold={"CPU": 1.0})
    cluster.start_actor("a", anonymous, asker="b")
    assert cluster.ask("b", m.KillActor("y")) == Done()
    cluster.restart()
    cluster.report("a", whole=m.Whole([m.ActorHere(anonymous, 1, 0, True)], []))
    assert any(isinstance(body, m.EndActor) for body in cluster.orders("a"))
    cluster.fact("a", m.ActorGone("y", 1, "killed"))
    facts = cluster.machine.actors.table.find("y")
    assert facts is not None and facts.state == "DEAD"


def test_a_dead_actor_is_not_made_again_by_who_has_not_heard() -> None:
    cluster = Cluster("a", "b")
    anonymous = m.RegisterActor("y", hold={"CPU": 1.0})
    cluster.start_actor("a", anonymous, asker="b")
    cluster.fact("a", m.ActorGone("y", 1, "crashed"))
    assert (ACTORS, b"y") in cluster.disk, "b has not taken any news of it"
    cluster.restart()
    cluster.report("a")
    cluster.report("b", whole=m.Whole([], [], created=[anonymous], watched=["y"]))
    facts = cluster.machine.actors.table.find("y")
    assert facts is not None and facts.state == "DEAD"
    order = cluster.number_of("b", m.ActorNews)
    cluster.fact("b", m.Took(order))
    assert (ACTORS, b"y") not in cluster.disk, "now it has"


def test_an_anonymous_actor_is_placed_when_all_have_spoken() -> None:
    cluster = Cluster("a", "b")
    cluster.restart()
    cluster.report("b")
    cluster.ask("b", m.RegisterActor("y", hold={"CPU": 1.0}))
    assert not any(isinstance(body, m.Orders) and body.orders for _, body in cluster.told)
    cluster.report("a")
    cluster.renew("a")
    assert cluster.number_of("a", m.OfferActor)


def test_actors_end_with_the_node_of_their_driver() -> None:
    cluster = Cluster("a", "b")
    rooted = msgspec.structs.replace(NAMED, root="b", root_epoch=1)
    cluster.start_actor("a", rooted, asker="b")
    cluster.step(on.Heard(m.Obituary("b", 1)))
    assert any(isinstance(body, m.EndActor) for body in cluster.orders("a"))
    late = cluster.ask("a", msgspec.structs.replace(rooted, actor_id="z", name=""))
    assert isinstance(late, Failure) and b"JobEndedError" in late.record
