"""Placement groups that are resized: on one machine, on a node of a cluster, and in the store."""

from __future__ import annotations

from typing import Any

import pytest

from shoal._base import records
from shoal._core import commands as do
from shoal._core import events as seen
from shoal._core.groups import is_resize
from shoal._core.members import interface as on
from shoal._core.members.group_table import GROUPS
from shoal._proto import membership, messages
from shoal._proto import messages as m
from shoal._proto.messages import Failure
from tests.unit import test_core_groups as one
from tests.unit import test_core_members_groups as store
from tests.unit import test_core_shared_groups as member
from tests.unit.members_by_hand import Cluster
from tests.unit.test_core_guests import OTHER, THIRD
from tests.unit.test_core_node import DRIVER, WORKER, Node, cause, refusal, reply

CPU = {"CPU": 1.0}
ANY, FIRST, SECOND = (m.InGroup("g", index, False) for index in (-1, 0, 1))


def test_bundles_stay_or_are_removed_or_are_added() -> None:
    assert is_resize([CPU], [CPU, CPU]) and is_resize([CPU, CPU], [{}, CPU])
    assert is_resize([CPU, {}], [CPU, {}, CPU])
    assert not is_resize([CPU], [{}]), "none is left"
    assert not is_resize([CPU, CPU], [CPU]), "indexes stay"
    assert not is_resize([CPU], [{"CPU": 2.0}]) and not is_resize([CPU, {}], [CPU, CPU])
    assert not is_resize([CPU], [CPU, {}])


# ---- on one machine
def resize(node: Node, revision: int, *bundles: dict[str, float], by: str = "me") -> Any:
    return node.ask(DRIVER, m.ResizeGroup("g", revision, by, list(bundles), []))


def test_it_grows_when_there_is_room_and_goes_on_meanwhile() -> None:
    node = one.with_driver(CPU=3)
    one.ask_for(node, CPU)
    node.ask(DRIVER, m.CreateGroup("h", [{"CPU": 2.0}], "PACK"))
    facts = reply(resize(node, 1, CPU, CPU), m.GroupFacts)
    assert (facts.bundles, facts.revision, facts.resized_by) == ([CPU, CPU], 1, "me")
    assert one.state(node) == "RESCHEDULING"
    queue = one.open_queue(node, FIRST, CPU=1)
    assert one.attached(one.busy_in_group(node, queue)) == [(WORKER, queue)], (
        "the first one is there"
    )
    assert not reply(node.ask(DRIVER, m.WaitGroup("g", 0)), m.GroupAnswer).is_ready
    node.ask(DRIVER, m.WaitGroup("g", None))
    out = node.ask(DRIVER, m.RemoveGroup("h"))
    assert reply(out, m.GroupAnswer).is_ready and one.state(node) == "CREATED"
    assert one.free(node) == {"CPU": 1}


def test_what_runs_in_a_removed_bundle_ends_before_it_is_given_back() -> None:
    node = one.with_driver()
    one.ask_for(node, CPU, CPU)
    queue = one.open_queue(node, SECOND, CPU=1)
    one.busy_in_group(node, queue)
    out = resize(node, 1, CPU, {})
    assert {do.KillQueue, do.Kill} <= {type(c) for c in out}
    assert one.free(node) == {"CPU": 0} and one.state(node) == "CREATED"
    task = seen.RunningTask(99, 1, 3, 0, 0, queue)
    out = node.tell(seen.ProcessDied(WORKER, None, 9, running=(task,)))
    (failed,) = [c for c in out if isinstance(c, do.Fail)]
    assert records.unpack(failed.record)[0] == "GroupRemovedError"
    assert one.free(node) == {"CPU": 1}
    assert refusal(node.ask(DRIVER, m.OpenQueue(CPU, SECOND))) == "GroupRemovedError"
    assert node.machine.tables.groups.leaving == []


def test_who_may_run_in_any_bundle_is_run_again_in_another() -> None:
    node = one.with_driver()
    one.ask_for(node, CPU, {"CPU": 0.5})
    queue = one.open_queue(node, ANY, CPU=1)
    one.busy_in_group(node, queue)
    out = resize(node, 1, {}, {"CPU": 0.5}, CPU)
    assert not any(isinstance(c, do.KillQueue) for c in out)
    task = seen.RunningTask(99, 1, 3, 0, 0, queue)
    out = node.tell(seen.ProcessDied(WORKER, None, 9, running=(task,)))
    assert any(isinstance(c, do.Requeue) and not c.charged for c in out)


@pytest.mark.parametrize("strategies", [[FIRST], [ANY], [FIRST, ANY]])
def test_a_group_of_one_bundle_has_one_queue_until_it_is_resized(strategies: list[Any]) -> None:
    """Who runs in the one bundle helps with what may run in any."""
    node = one.with_driver()
    one.ask_for(node, CPU)
    queue = one.open_queue(node, strategies[0], CPU=1)
    for each in strategies[1:]:
        opened = reply(node.ask(DRIVER, m.OpenQueue(CPU, each)), m.QueueOpened)
        assert opened.queue == queue
    out = resize(node, 1, {}, CPU)
    is_dead = any(isinstance(c, do.KillQueue) and c.queue == queue for c in out)
    assert is_dead == (ANY not in strategies)
    group: Any = node.machine.tables.groups.find("g")
    assert group.any_room is not group.rooms[1] and group.any_room.sizes == group.rooms[1].sizes


def test_an_actor_ends_with_its_bundle() -> None:
    node = one.with_driver()
    one.ask_for(node, CPU, CPU)
    node.tell(seen.Began())
    actor = node.living_actor(strategy=SECOND, hold={"CPU": 1.0}, max_restarts=-1)
    resize(node, 1, CPU, {})
    assert cause(node.state(actor)) == ("ActorGroupRemovedError", "group_removed")
    node.tell(seen.ProcessDied(WORKER, None, 9))
    assert one.free(node) == {"CPU": 1} and node.state(actor).state == "DEAD"


def test_to_repeat_it_is_harmless_and_who_is_late_is_told_what_there_is() -> None:
    node = one.with_driver()
    one.ask_for(node, {"CPU": 0.5})
    half = {"CPU": 0.5}
    for _ in range(2):
        facts = reply(resize(node, 1, half, half), m.GroupFacts)
        assert (facts.revision, facts.resized_by) == (1, "me")
    late = reply(resize(node, 1, half, half, half, by="you"), m.GroupFacts)
    assert (late.revision, late.resized_by, len(late.bundles)) == (1, "me", 2)
    assert one.free(node) == {"CPU": 1}


def test_what_this_machine_can_never_have_beside_the_rest_is_refused() -> None:
    node = one.with_driver()
    one.ask_for(node, CPU)
    assert refusal(resize(node, 1, CPU, {"CPU": 1.5})) == "UnschedulableError"
    assert one.state(node) == "CREATED" and one.free(node) == {"CPU": 1}
    apart = one.with_driver()
    one.ask_for(apart, CPU, strategy="STRICT_SPREAD")
    assert refusal(resize(apart, 1, CPU, CPU)) == "UnschedulableError"
    started = one.with_driver(True)
    one.ask_for(started, CPU)
    assert reply(resize(started, 1, CPU, {"CPU": 1.5}), m.GroupFacts).revision == 1
    assert one.state(started) == "RESCHEDULING", "nodes may join"
    assert reply(resize(started, 2, CPU, {}), m.GroupFacts).revision == 2
    assert one.state(started) == "CREATED" and one.free(started) == {"CPU": 1}


def test_requests_that_make_no_sense() -> None:
    node = one.with_driver()
    assert refusal(resize(node, 1, CPU)) == "GroupNotFoundError"
    one.ask_for(node, CPU)
    assert refusal(resize(node, 1, {})) == "UsageError"
    assert refusal(resize(node, 1, {"CPU": 2.0})) == "UsageError"
    node.ask(DRIVER, m.RemoveGroup("g"))
    assert refusal(resize(node, 1, CPU, CPU)) == "GroupRemovedError"


# ---- on a node of a cluster
def resized(*bundles: dict[str, float], revision: int = 1) -> messages.CreateGroup:
    return m.CreateGroup("g", list(bundles), "SPREAD", revision=revision, resized_by="me")


def told(node: member.Member, spec: m.CreateGroup, state: str, *nodes: str) -> list[Any]:
    return node.tell(seen.GroupTold(0, spec, state, nodes))


def test_the_store_is_asked_and_its_answer_is_news() -> None:
    node = member.placed(OTHER, THIRD)
    body = m.ResizeGroup("g", 1, "me", [CPU, CPU, CPU], [])
    ask = member.only(node.ask(DRIVER, body), do.AskStore)
    assert ask.body == body
    spec = resized(CPU, CPU, CPU)
    out = node.tell(seen.GroupTold(ask.ticket, spec, "RESCHEDULING", (OTHER, THIRD, "")))
    assert reply(out, m.GroupFacts).bundles == spec.bundles and node.state() == "RESCHEDULING"
    assert not node.ask(DRIVER, m.WaitGroup("g", 9.0)), "the new one has no place"
    out = told(node, spec, "CREATED", OTHER, THIRD, OTHER)
    assert reply(out, m.GroupAnswer).is_ready
    queue = node.in_group(m.InGroup("g", 2, False))
    assert queue is not None and node.wish() is not None


def test_older_news_change_nothing() -> None:
    node = member.placed(OTHER, THIRD)
    spec = resized(CPU, CPU, CPU)
    told(node, spec, "RESCHEDULING", OTHER, THIRD, "")
    assert told(node, member.spec_of(), "CREATED", OTHER, THIRD) == []
    assert node.state() == "RESCHEDULING"


def test_a_part_goes_on_without_what_was_removed() -> None:
    node = member.placed(member.ME, member.ME)
    assert node.free() == 0
    node.in_group(m.InGroup("g", 1, False))
    out = told(node, resized(CPU, {}), "CREATED", member.ME, "")
    assert any(isinstance(c, do.KillQueue) for c in out)
    (part,) = node.tables.groups.parts.values()
    assert part.indexes == (0,) and node.free() == 1
    assert refusal(node.ask(DRIVER, m.OpenQueue(CPU, SECOND))) == "GroupRemovedError"


def test_what_was_removed_before_its_part_was_opened() -> None:
    node = member.Member()
    ask = node.make()
    assert node.reserve(0, 1) == [do.SayReserved(5, True)]
    node.told(ask, "PENDING")
    told(node, resized({}, CPU), "PENDING", "", "")
    assert node.free() == 0, "the store takes it back or opens it"
    node.tell(seen.BundlesOpened("g", 1))
    (part,) = node.tables.groups.parts.values()
    assert part.indexes == (1,) and node.free() == 1


def test_a_new_bundle_comes_before_the_news_of_it() -> None:
    node = member.placed(OTHER, THIRD)
    spec = resized(CPU, CPU, CPU)
    assert node.reserve(2, spec=spec) == [do.SayReserved(5, True)]
    node.tell(seen.BundlesOpened("g", 1))
    group: Any = node.tables.groups.find("g")
    assert group.spec == spec and [*group.accounts] == [2] and not group.is_placed
    told(node, spec, "CREATED", OTHER, THIRD, member.ME)
    assert node.state() == "CREATED"


# ---- the store
def there(*nodes: str, detached: bool = True) -> Cluster:
    """A group of two bundles, on the first two of these nodes."""
    cluster = Cluster(*nodes)
    root = {} if detached else {"root": nodes[0], "root_epoch": 1}
    cluster.ask(
        nodes[0], membership.GroupSpec("g", [CPU, CPU], "STRICT_SPREAD", detached=detached, **root)
    )
    store.prepare(cluster, *nodes[:2])
    store.commit(cluster, *nodes[:2])
    assert store.group_state(cluster) == "CREATED"
    return cluster


def ask(cluster: Cluster, revision: int, *bundles: dict[str, float], by: str = "me") -> Any:
    return cluster.ask("a", membership.ResizeGroup("g", revision, by, list(bundles), []))


@pytest.mark.parametrize("detached", [True, False])
def test_new_bundles_are_placed_like_lost_ones_and_are_on_disk(detached: bool) -> None:
    cluster = there("a", "b", "c", detached=detached)
    facts = ask(cluster, 1, CPU, CPU, CPU)
    assert facts.state == "RESCHEDULING" and facts.places[2] == "" and facts.spec.revision == 1
    assert (GROUPS, b"g") in cluster.disk
    store.prepare(cluster, "c")
    store.commit(cluster, "c")
    assert store.group_state(cluster) == "CREATED"
    assert cluster.machine.groups.table.bundle_nodes("g", 2) == ["c"]


def test_a_removed_bundle_is_nobodys_and_its_part_is_released() -> None:
    cluster = there("a", "b", "c")
    facts = ask(cluster, 1, CPU, {})
    assert facts.state == "CREATED" and facts.places[1] == ""
    (release,) = [b for b in cluster.orders("b") if isinstance(b, membership.ReleaseBundles)]
    assert not release.is_removed, "the group is not"
    assert cluster.machine.groups.table.bundle_nodes("g", 1) == []


def test_whoever_was_faster_wins() -> None:
    cluster = there("a", "b", "c")
    ask(cluster, 1, CPU, CPU, CPU)
    for by, count in (("me", 3), ("you", 3)):
        facts = ask(cluster, 1, CPU, CPU, CPU, CPU, by=by)
        assert facts.spec.resized_by == "me" and len(facts.spec.bundles) == count
    assert isinstance(cluster.ask("a", membership.ResizeGroup("h", 1, "me", [CPU], [])), Failure)


def test_what_is_being_prepared_is_asked_for_again_as_it_is_now() -> None:
    cluster = Cluster("a", "b", "c")
    cluster.ask("a", store.GROUP)
    store.prepare(cluster, "a")
    facts = ask(cluster, 1, CPU, {}, CPU)
    assert facts.state == "PENDING"
    for node in ("a", "b"):
        (release,) = [b for b in cluster.orders(node) if isinstance(b, membership.ReleaseBundles)]
        order = cluster.number_of(node, membership.ReleaseBundles)
        cluster.fact(node, membership.BundlesReleased(order, "g", release.request))
    cluster.now += 0.2
    group = cluster.machine.groups.table.groups["g"]
    assert group.missing == [0, 2] and group.spec.revision == 1


def test_a_node_that_reports_a_former_revision_hears_of_the_new_one() -> None:
    cluster = there("a", "b", "c")
    request = next(iter(cluster.machine.groups.table.groups["g"].parts))[1]
    former = cluster.machine.groups.table.groups["g"].spec
    ask(cluster, 1, CPU, {}, CPU)
    cluster.restart()
    whole = [membership.BundlesHere(former, request, [0, 1], True)]
    cluster.report("a", whole=membership.Whole([], whole))
    cluster.report("b")
    cluster.report("c")
    for node in "abc":
        cluster.renew(node)
    group = cluster.machine.groups.table.groups["g"]
    assert group.spec.revision == 1 and group.held(("committed",)) == {0: "a"}
    news = [b.facts for b in cluster.orders("a") if isinstance(b, membership.GroupNews)]
    assert any(facts.spec is not None and facts.spec.revision == 1 for facts in news)


def test_a_lost_bundle_does_not_wait_for_new_ones_that_have_no_place() -> None:
    cluster = there("a", "b", "c")
    ask(cluster, 1, CPU, CPU, CPU, CPU)
    assert not any(to == "c" and isinstance(b, membership.Orders) for to, b in cluster.told)
    cluster.step(on.Heard(membership.Obituary("b", 1)))
    store.prepare(cluster, "c")
    store.commit(cluster, "c")
    group = cluster.machine.groups.table.groups["g"]
    assert group.held(("committed",)) == {0: "a", 1: "c"} and group.state == "RESCHEDULING"
    cluster.machine.validate()
