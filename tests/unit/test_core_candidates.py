"""Whom the control store names, and what it chooses for actors and groups."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal._base.config import ForwardingLimits
from shoal._core.policies.candidates import CandidateIndex
from shoal._core.policies.choices import Choices
from shoal._core.resources import parse
from shoal._proto.membership import GroupSpec, RegisterActor
from shoal._proto.messages import LabelRule, NodeAffinity
from shoal._proto.views import Demand, NodeRow, Wish
from shoal.testing.sim import scale_places

LIMITS = ForwardingLimits()
ONE = Wish(parse({"CPU": 1}))


def row(name: str, total: dict[str, float], free: dict[str, float] | None = None) -> NodeRow:
    used = total if free is None else free
    return NodeRow(name, 1, 1, dict(parse(total)), dict(parse(used)))


# ---- candidates
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("row"), st.integers(0, 7), st.integers(0, 4)),
        st.tuples(st.just("lost"), st.integers(0, 7), st.just(0)),
        st.tuples(st.just("ask"), st.integers(0, 7), st.integers(1, 12)),
    ),
    max_size=40,
)


@settings(deadline=None)
@given(EVENTS)
def test_what_is_named_is_there_and_is_not_named_twice(
    events: list[tuple[str, int, int]],
) -> None:
    index = CandidateIndex(ForwardingLimits(candidates_most=5))
    free: dict[str, int] = {}
    named: Counter[str] = Counter()
    epochs = Counter[str]()
    for number, (what, node, count) in enumerate(events):
        name = f"n{node}"
        if what == "row":
            total = {"CPU": 40_000}
            index.heard(NodeRow(name, epochs[name], number, total, {"CPU": count * 10_000}))
            free[name] = count
            named[name] = 0
        elif what == "lost":
            index.lost(name)
            free.pop(name, None)
            epochs[name] += 1
        else:
            answer = index.candidates(float(number), name, ONE, count)
            rows = (*answer.ready, *answer.able)
            assert len(rows) <= 5 and len({r.node for r in rows}) == len(rows)
            assert name not in {r.node for r in rows}
            assert {r.node for r in rows} <= set(free)
            assert len(answer.slots) == len(answer.ready)
            for one, share in zip(answer.ready, answer.slots):
                room = free[one.node] - named[one.node]
                assert 0 < share <= room, "its slots have been named to others"
                named[one.node] += share
            if not answer.ready:
                others = [n for n in free if n != name]
                assert not any(free[n] - named[n] > 0 for n in others), "there was one"
        index.validate()


def test_an_answer_names_as_much_as_is_wanted() -> None:
    index = CandidateIndex(LIMITS)
    for at in range(100):
        index.heard(row(f"n{at}", {"CPU": 4.0}))
    assert index.candidates(0.0, "me", ONE, 3).slots == (4, 2), "twice as much, for a choice"
    assert index.candidates(0.0, "me", ONE, 40).slots == (4,) * 10
    assert len(index.candidates(0.0, "me", ONE, 10_000).ready) == 32
    assert index.candidates(0.0, "me", ONE, 300).slots[0] in (2, 4)
    rest = index.candidates(0.0, "me", ONE, 10_000)
    assert len(rest.ready) + len(rest.able) == 32 and rest.known == 100
    spreads = Wish(ONE.amounts, spreads=True)
    named = [r.node for _ in range(4) for r in index.candidates(0.0, "me", spreads, 1).ready]
    assert len(set(named)) == 100, "all of them, in turn"


def test_wishes_that_nobody_has_any_more_are_forgotten() -> None:
    index = CandidateIndex(ForwardingLimits(wishes_most=3))
    index.heard(row("a", {"CPU": 4.0}))
    for cpus in range(1, 9):
        index.candidates(float(cpus), "me", Wish(parse({"CPU": cpus / 2})), 1)
        index.validate()
    assert len(index._wishes) <= 3


# ---- as the members ask
def test_choices_for_actors_and_groups() -> None:
    choices = Choices(1, LIMITS)
    rows = {name: row(name, {"CPU": 2.0}) for name in "abc"}
    rows["full"] = row("full", {"CPU": 8.0}, {"CPU": 0.0})
    spec = RegisterActor("x", place={"CPU": 1.0}, hold={"CPU": 2.0})
    assert choices.actor(spec, rows) in set("abc")
    large = RegisterActor("x", place={"CPU": 4.0}, hold={"CPU": 4.0})
    assert choices.actor(large, rows) == "" and choices.offer(large, rows).is_possible
    there = RegisterActor("x", strategy=NodeAffinity("full"))
    assert choices.actor(there, rows) == "full", "it holds nothing"
    group = GroupSpec("g", [{"CPU": 1.0}, {"CPU": 2.0}, {"CPU": 2.0}], "STRICT_SPREAD")
    places = choices.group(group, [0, 1, 2], {}, rows)
    assert places is not None and sorted(places.values()) == ["a", "b", "c"]
    again = choices.group(group, [1], {0: "a", 2: "c"}, rows)
    assert again == {1: "b"}, "apart from what stands"
    assert choices.group(group, [1], {0: "a", 2: "b"}, {"full": rows["full"]}) is None
    labelled = GroupSpec("g", [{"CPU": 1.0}], "PACK", labels=[(LabelRule("zone", "exists"),)])
    assert not choices.plan(labelled, [0], {}, rows).is_possible


def test_candidates_follow_the_rows_that_come_with_each_question() -> None:
    choices = Choices(1, LIMITS)
    rows = {name: row(name, {"CPU": 2.0}) for name in "abc"}
    (first,) = choices.candidates("a", [Demand(ONE, 3)], rows)
    assert {one.node for one in first.ready} == {"b", "c"} and first.known == 3
    del rows["b"]
    rows["c"] = NodeRow("c", 1, 1, rows["c"].total, {"CPU": 0})
    (second,) = choices.candidates("a", [Demand(ONE, 3)], rows)
    assert not second.ready and [one.node for one in second.able] == ["c"]
    rows["b"] = NodeRow("b", 2, 1, {"CPU": 20_000}, {"CPU": 20_000})
    (third,) = choices.candidates("a", [Demand(ONE, 1)], rows)
    assert [one.node for one in third.ready] == ["b"], "it has come back in another epoch"
    choices.validate()


@pytest.mark.parametrize("nodes", [4, 30])
def test_a_cluster_is_filled(nodes: int) -> None:
    report = scale_places.run(nodes, seed=nodes)
    assert report.actors_evenness > 0.85 and report.groups >= nodes // 2, report
