"""Where the control store puts things: policies, fed with rows as members bring them."""

from __future__ import annotations

from shoal._core.cluster_choices import ClusterChoices
from shoal._core.resources import UNIT, parse
from shoal._proto.membership import GroupSpec, RegisterActor
from shoal._proto.messages import NodeAffinity
from shoal._proto.views import Demand, NodeRow, Wish


def row(node: str, cpus: float, free: float | None = None, number: int = 1) -> NodeRow:
    have = cpus if free is None else free
    total = {"CPU": int(cpus * UNIT)}
    return NodeRow(node, 1, number, total, {"CPU": int(have * UNIT)})


ROWS = {each.node: each for each in (row("a", 4, 0), row("b", 4), row("c", 1))}


def test_an_actor_goes_where_there_is_room() -> None:
    choices = ClusterChoices(1)
    asked = RegisterActor("x", place={"CPU": 2}, hold={"CPU": 2})
    assert choices.actor(asked, ROWS) == "b"
    assert choices.actor(asked, {"a": ROWS["a"]}) == "", "it is full"
    there = RegisterActor("x", place={"CPU": 1}, strategy=NodeAffinity("c"))
    assert choices.actor(there, ROWS) == "c"


def test_a_group_is_placed_whole_or_not() -> None:
    choices = ClusterChoices(1)
    spec = GroupSpec("g", [{"CPU": 1}, {"CPU": 1}, {"CPU": 3}], "STRICT_SPREAD")
    assert choices.group(spec, [0, 1, 2], {}, ROWS) is None
    two = GroupSpec("g", [{"CPU": 1}, {"CPU": 3}], "STRICT_SPREAD")
    assert choices.group(two, [0, 1], {}, ROWS) == {0: "c", 1: "b"}


def test_a_lost_bundle_keeps_away_from_those_that_stand() -> None:
    choices = ClusterChoices(1)
    spec = GroupSpec("g", [{"CPU": 1}, {"CPU": 1}], "STRICT_SPREAD")
    assert choices.group(spec, [1], {0: "b"}, ROWS) == {1: "c"}


def test_candidates_are_those_that_renew() -> None:
    choices = ClusterChoices(1)
    wish = Demand(Wish(parse({"CPU": 1})), 2)
    assert choices.candidates("b", [], ROWS) == []
    (found,) = choices.candidates("a", [wish], ROWS)
    assert [each.node for each in found.ready] == ["b"] and found.wish == wish.wish
    left = {"a": ROWS["a"]}
    (found,) = choices.candidates("a", [wish], left)
    assert found.ready == () and found.known <= 1, "b has gone"
