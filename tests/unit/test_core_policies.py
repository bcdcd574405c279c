"""Policies against naive models: brute force, the real account, sorted lists."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal._base.config import ForwardingLimits
from shoal._core.policies import (
    actors,
    affinity,
    argument_bytes,
    labels,
    local_first,
    pack,
    recall,
    spread,
    spread_groups,
)
from shoal._core.policies.dice import Dice
from shoal._core.policies.local_first import Here
from shoal._core.policies.ring import Bag, Ring
from shoal._core.policies.spread_groups import Bundle
from shoal._core.policies.view import Left, View, slots, slots_ever, slots_now
from shoal._core.resources import Account, Amounts, parse
from shoal._proto.messages import (
    Default,
    LabelRule,
    NodeAffinity,
    NodeLabels,
    Spread,
    Strategy,
)
from shoal._proto.views import NodeRow, Wish

LIMITS = ForwardingLimits()
ONE = Wish(parse({"CPU": 1}))


def row(
    name: str,
    total: dict[str, float],
    free: dict[str, float] | None = None,
    number: int = 1,
    **more: object,
) -> NodeRow:
    used = total if free is None else free
    row = NodeRow(name, 1, number, dict(parse(total)), dict(parse(used)))
    return msgspec.structs.replace(row, **more)


# ---- dice and rings
def test_dice_are_splitmix() -> None:
    # The first outputs for seed 0, as published with the generator.
    dice = Dice(0)
    assert [dice.next_u64() for _ in range(2)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]


def test_dice_are_fair_and_two_differ() -> None:
    dice = Dice(7)
    counts = Counter(dice.below(10) for _ in range(20_000))
    assert set(counts) == set(range(10)) and max(counts.values()) < 2_300
    pairs = Counter(dice.two("abc") for _ in range(6_000))
    assert all(first != second for first, second in pairs)
    assert len(pairs) == 6 and min(pairs.values()) > 800
    assert dice.two("a") == ("a", "a")


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("+-t"), st.sampled_from("abcdefg"))))
def test_ring_is_a_set_whose_turns_reach_everybody(steps: list[tuple[str, str]]) -> None:
    ring, bag = Ring(), Bag()
    model: set[str] = set()
    for what, name in steps:
        if what == "+":
            ring.add(name)
            bag.add(name)
            model.add(name)
        elif what == "-":
            ring.discard(name)
            bag.discard(name)
            model.discard(name)
        else:
            seen = list(ring.turns())
            assert sorted(seen) == sorted(model)
        bag.validate()
        assert set(ring.nodes) == set(bag.nodes) == model
        assert len(ring) == len(bag) == len(model)
        assert (name in ring) == (name in bag) == (name in model)


@settings(deadline=None)
@given(st.sets(st.sampled_from("abcdefgh"), min_size=1), st.data())
def test_who_takes_its_turn_may_leave(names: set[str], data: st.DataObject) -> None:
    ring = Ring()
    for name in sorted(names):
        ring.add(name)
    for _ in range(data.draw(st.integers(0, 5))):
        next(ring.turns())
    seen = []
    for name in ring.turns():
        seen.append(name)
        if data.draw(st.booleans()):
            ring.discard(name)
    assert sorted(seen) == sorted(names)


def test_turns_are_even() -> None:
    ring = Ring()
    for name in "abcde":
        ring.add(name)
    taken = Counter(name for _ in range(20) for name in itertools.islice(ring.turns(), 3))
    assert set(taken.values()) == {12}


# ---- what fits
AMOUNTS = st.fixed_dictionaries(
    {},
    optional={
        "CPU": st.sampled_from([0.25, 0.5, 1, 2, 3]),
        "GPU": st.sampled_from([0.25, 0.5, 0.75, 1, 2]),
        "memory": st.integers(1, 40),
        "fast": st.sampled_from([0.5, 1]),
    },
).map(parse)
TOTAL = {"CPU": 6.0, "GPU": 3.0, "memory": 100.0, "fast": 2.0}


def account_row(account: Account) -> NodeRow:
    return NodeRow("n", 1, 1, dict(account.total), dict(account.free), tuple(account.gpus.values()))


@settings(deadline=None)
@given(st.lists(AMOUNTS, max_size=6), AMOUNTS)
def test_slots_are_how_often_the_account_would_grant(held: list[Amounts], wanted: Amounts) -> None:
    account = Account(TOTAL)
    for amounts in held:
        account.take(amounts)
    said = slots_now(account_row(account), Wish(wanted))
    count = 0
    while count < 32 and account.take(wanted) is not None:
        count += 1
    assert min(said, 32) == count


@settings(deadline=None)
@given(AMOUNTS)
def test_slots_ever_are_those_of_an_empty_account(wanted: Amounts) -> None:
    account = Account(TOTAL)
    said = slots_ever(account_row(account), Wish(wanted))
    count = 0
    while count < 32 and account.take(wanted) is not None:
        count += 1
    assert min(said, 32) == count


@settings(deadline=None)
@given(st.lists(AMOUNTS, max_size=6), st.lists(AMOUNTS, max_size=8))
def test_a_plan_takes_what_the_account_would_take(
    held: list[Amounts], bundles: list[Amounts]
) -> None:
    account = Account(TOTAL)
    for amounts in held:
        account.take(amounts)
    left = Left.now(account_row(account))
    for amounts in bundles:
        assert left.fits(amounts) == account.fits(amounts)
        assert left.take(amounts) == (account.take(amounts) is not None)
        assert sorted(left.gpus) == sorted(account.gpus.values())
        assert all(left.free.get(name, 0) == units for name, units in account.free.items())


def test_nobody_goes_to_a_driver_a_draining_node_or_another_python() -> None:
    total = {"CPU": 4.0}
    assert slots_now(row("a", total), ONE) == 4
    assert slots_now(row("a", total, is_driver=True), ONE) == 0
    assert slots_ever(row("a", total, is_draining=True), ONE) == 0
    other = Wish(ONE.amounts, python="3.12")
    assert slots_now(row("a", total, python="3.11"), other) == 0
    assert slots_now(row("a", total, python="3.12"), other) == 4
    assert slots_now(row("a", total), Wish(())) == 32, "limited by processes (RULES S-8)"
    assert slots({"CPU": 40_000}, (), parse({"CPU": 1, "GPU": 1})) == 0


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 3), st.integers(0, 5))),
    st.integers(1, 3),
)
def test_a_view_keeps_the_newest_of_a_few(heard: list[tuple[str, int, int]], most: int) -> None:
    view = View(most)
    newest: dict[str, tuple[int, int]] = {}
    order: list[str] = []
    for name, epoch, number in heard:
        is_new = view.hear(NodeRow(name, epoch, number))
        assert is_new == (newest.get(name, (-1, -1)) < (epoch, number))
        if is_new:
            newest[name] = (epoch, number)
            order = [other for other in order if other != name] + [name]
            for gone in order[:-most]:
                del newest[gone]
            order = order[-most:]
        view.validate()
        assert {n: (r.epoch, r.number) for n, r in view.rows.items()} == newest


def test_nothing_of_an_epoch_that_is_over_comes_back() -> None:
    view = View(10)
    assert view.hear(NodeRow("a", 3, 7))
    view.lose("a")
    assert not view.rows and not view.hear(NodeRow("a", 3, 9)) and not view.hear(NodeRow("a", 2, 1))
    assert view.hear(NodeRow("a", 4, 0))


# ---- labels and affinity
def test_label_rules() -> None:
    has = {"zone": "eu", "disk": "ssd"}

    def rule(key: str, operator: str, *values: str) -> LabelRule:
        return LabelRule(key, operator, values)

    holding = [
        rule("zone", "in", "eu", "us"),
        rule("zone", "not_in", "us"),
        rule("disk", "exists"),
        rule("gpu", "does_not_exist"),
        rule("gpu", "not_in", "a"),
    ]
    broken = [
        rule("zone", "in", "us"),
        rule("zone", "not_in", "eu"),
        rule("gpu", "exists"),
        rule("disk", "does_not_exist"),
    ]
    assert all(labels.holds(one, has) for one in holding)
    assert not any(labels.holds(one, has) for one in broken)
    assert labels.agrees(has, ()) and labels.agrees(has, [(broken[0],), tuple(holding)])
    assert not labels.agrees(has, [(holding[0], broken[0])])
    assert labels.mismatch(has, [(broken[0],), (broken[2],)]) == "zone=us or gpu set"
    assert labels.mismatch(has, [(broken[0],), (holding[0],)]) == ""
    wish = Wish(ONE.amounts, ((rule("zone", "in", "eu"),),))
    assert slots_now(row("a", {"CPU": 2.0}, labels=has), wish) == 2
    assert slots_now(row("a", {"CPU": 2.0}), wish) == 0
    itself = Wish(ONE.amounts, ((rule(labels.NODE_ID_LABEL, "in", "a"),),))
    assert slots_now(row("a", {"CPU": 2.0}), itself) == 2
    assert slots_now(row("b", {"CPU": 2.0}), itself) == 0


@pytest.mark.parametrize(
    ("node", "soft", "expected"),
    [
        ("a", False, affinity.Meant("a")),
        ("a", True, affinity.Meant("a")),
        ("small", True, affinity.Meant(is_free=True)),
        ("gone", True, affinity.Meant(is_free=True)),
        ("gone", False, affinity.Meant(why="there is no node gone")),
        ("small", False, affinity.Meant(why="node small can never run what was asked for")),
    ],
)
def test_affinity(node: str, soft: bool, expected: affinity.Meant) -> None:
    known = {"a": True, "small": False}
    strategy = NodeAffinity(node, soft)
    assert affinity.resolve(strategy, known.__contains__, known.__getitem__) == expected


# ---- local first
HERE = st.builds(
    Here,
    entries=st.integers(0, 1000),
    startable=st.integers(0, 16),
    attached=st.integers(0, 16),
    task_s=st.none() | st.floats(1e-6, 100),
    is_feasible=st.booleans(),
    movable=st.integers(0, 1000),
)


@settings(deadline=None)
@given(HERE)
def test_what_is_for_others_waits_here_and_would_wait(here: Here) -> None:
    here = here._replace(movable=min(here.movable, here.entries))
    count = local_first.surplus(here, LIMITS)
    assert 0 <= count <= here.movable
    if not here.is_feasible:
        assert count == here.movable
        return
    assert count <= max(0, here.entries - here.startable), "what can start here does"
    if here.task_s is not None and here.task_s < LIMITS.tiny_s:
        assert count == 0
    if here.task_s is not None and here.task_s > LIMITS.worth_s * 64:
        assert count == min(here.movable, max(0, here.entries - here.startable))


@settings(deadline=None)
@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_no_two_nodes_would_both_gain(first: float, second: float) -> None:
    there = local_first.is_worth(first, second, LIMITS)
    back = local_first.is_worth(second, first, LIMITS)
    assert not (there and back)
    if there:
        # Nor would it gain by coming back after having waited there for nothing.
        assert not local_first.is_worth(second, first - second, LIMITS)


@settings(deadline=None)
@given(st.floats(0.2, 100), st.floats(0, 0.05), st.integers(1, 64), st.floats(0.001, 10))
def test_waits_do_not_cross(here_s: float, there_s: float, count: int, task_s: float) -> None:
    moved = local_first.share_by_wait(here_s, there_s, count, task_s)
    assert moved >= 1
    assert moved == 1 or there_s + moved * task_s / count <= (here_s + there_s) / 2 + 1e-6


# ---- argument bytes
@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from("abcd"), st.integers(0, 10**9), max_size=3),
    st.dictionaries(st.sampled_from("abcdef"), st.none() | st.floats(0, 20), min_size=6),
    st.lists(st.sampled_from("abcdef"), min_size=1),
)
def test_the_node_where_a_task_starts_first(
    bytes_at: dict[str, int], waits: dict[str, float | None], others: list[str]
) -> None:
    rate = 1e8
    chosen = argument_bytes.choose(bytes_at, others, waits.__getitem__, rate)
    most = max(bytes_at.values(), default=0)

    def begins(node: str) -> float:
        absent = most - bytes_at.get(node, 0)
        wait = waits[node]
        return 1e9 if wait is None else wait + (absent / rate if absent > 1_000_000 else 0)

    fitting = [node for node in {*bytes_at, *others} if waits[node] is not None]
    if not fitting:
        assert chosen is None
    else:
        assert chosen in fitting
        assert begins(chosen) == min(begins(node) for node in fitting)


def test_little_more_elsewhere_draws_nobody() -> None:
    assert not argument_bytes.is_drawn({}, "a")
    assert not argument_bytes.is_drawn({"b": 1_000_000}, "a")
    assert argument_bytes.is_drawn({"b": 1_000_001}, "a")
    assert not argument_bytes.is_drawn({"b": 5_000_000, "a": 4_500_000}, "a")


# ---- spread and recall
@settings(deadline=None)
@given(st.integers(1, 40), st.integers(0, 1 << 16), st.integers(1, 200))
def test_spread_is_even(nodes: int, turn: int, tasks: int) -> None:
    names = [str(n) for n in range(nodes)]
    got: Counter[str] = Counter(dict.fromkeys(names, 0))
    for _ in range(tasks):
        node, turn = spread.choose(names[1:], turn, lambda _: True, names[0])
        assert node is not None
        got[node] += 1
    assert max(got.values()) - min(got.values()) <= 1


def test_spread_passes_over_the_full() -> None:
    node, turn = spread.choose(["a", "b", "c"], 0, lambda node: node == "c")
    assert (node, turn) == ("c", 3)
    assert spread.choose(["a", "b"], 4, lambda _: False) == (None, 6)
    assert spread.choose([], 4, lambda _: True) == (None, 4)


def test_what_is_overdue_and_could_start_elsewhere_is_asked_back() -> None:
    quiet = recall.Outstanding(tasks=8, slots=4, silent_s=9.0, task_s=0.01)
    assert recall.is_stalled(quiet, LIMITS)
    assert recall.how_many(quiet, 3, LIMITS) == 3
    assert recall.how_many(quiet, 100, LIMITS) == 8
    assert recall.how_many(quiet, 0, LIMITS) == 0, "nobody else could start it"
    assert not recall.is_stalled(quiet._replace(task_s=10.0), LIMITS), "its tasks are long"
    assert not recall.is_stalled(quiet._replace(tasks=0), LIMITS)
    busy = recall.Outstanding(tasks=40, slots=4, silent_s=0.0, task_s=0.1)
    assert recall.how_many(busy, 10, LIMITS) == 10, "they would wait for 0.9 s there"
    assert recall.how_many(busy._replace(tasks=5), 10, LIMITS) == 0, "the next one, soon"


# ---- groups
BUNDLE = st.builds(
    Bundle,
    st.fixed_dictionaries({"CPU": st.sampled_from([1, 2, 3])}, optional={"fast": st.just(1)}).map(
        parse
    ),
    st.sampled_from([(), (), (LabelRule("zone", "in", ("eu",)),)]),
)
ROWS = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 1), st.booleans()),
    min_size=1,
    max_size=4,
).map(
    lambda rows: [
        row(
            f"n{at}",
            {"CPU": max(total, free), "fast": fast},
            {"CPU": free, "fast": fast},
            labels={"zone": "eu"} if is_eu else {},
        )
        for at, (total, free, fast, is_eu) in enumerate(rows)
    ]
)


def is_possible(
    strategy: str, bundles: Sequence[Bundle], rows: Sequence[NodeRow], nodes: Sequence[str]
) -> bool:
    """Whether this is a way to place them, by what is free."""
    by_name = {row.node: Account({n: u / 10_000 for n, u in row.free.items()}) for row in rows}
    eu = {row.node for row in rows if row.labels}
    if strategy == "STRICT_PACK" and len(set(nodes)) > 1:
        return False
    if strategy == "STRICT_SPREAD" and len(set(nodes)) < len(nodes):
        return False
    for bundle, node in zip(bundles, nodes):
        if bundle.labels and node not in eu:
            return False
        if by_name[node].take(bundle.amounts) is None:
            return False
    return True


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"]),
    st.lists(BUNDLE, min_size=1, max_size=4),
    ROWS,
)
def test_a_group_has_a_plan_if_brute_force_finds_one(
    strategy: str, bundles: list[Bundle], rows: list[NodeRow]
) -> None:
    plan = spread_groups.plan(strategy, bundles, rows)
    names = [row.node for row in rows]
    every = [
        nodes
        for nodes in itertools.product(names, repeat=len(bundles))
        if is_possible(strategy, bundles, rows, nodes)
    ]
    if plan.nodes:
        assert plan.nodes in every
    else:
        assert not every and plan.why
        emptied = [NodeRow(r.node, 1, 1, r.total, r.total, labels=r.labels) for r in rows]
        could = any(
            is_possible(strategy, bundles, emptied, nodes)
            for nodes in itertools.product(names, repeat=len(bundles))
        )
        assert plan.is_possible == could
    if every and strategy == "SPREAD":
        apart = [n for n in every if len(set(n)) == len(n)]
        assert not apart or plan.nodes in apart, "there is a node for each"
    if every and strategy == "PACK":
        together = [n for n in every if len(set(n)) == 1]
        assert not together or plan.nodes in together, "one node has room for all"


def test_what_was_lost_goes_beside_or_apart_from_what_stands() -> None:
    rows = [row(name, {"CPU": 4.0}) for name in "abc"]
    bundle = [Bundle(parse({"CPU": 1}))]
    assert spread_groups.plan("PACK", bundle, rows, taken=["b"]).nodes == ("b",)
    assert spread_groups.plan("STRICT_PACK", bundle, rows, taken=["c"]).nodes == ("c",)
    assert spread_groups.plan("SPREAD", bundle, rows, taken=["a", "b"]).nodes == ("c",)
    assert spread_groups.plan("STRICT_SPREAD", bundle, rows, taken=["a", "c"]).nodes == ("b",)
    none = spread_groups.plan("STRICT_SPREAD", bundle, rows, taken=list("abc"))
    assert not none.nodes and not none.is_possible
    again = spread_groups.plan("SPREAD", bundle, rows, taken=list("abca"))
    assert again.nodes in (("b",), ("c",))


def test_a_matching_moves_those_that_have_a_choice() -> None:
    """Greedy would give the only fast node to who could have any."""
    rows = [row("a", {"CPU": 2.0, "fast": 1.0}), row("b", {"CPU": 2.0}), row("c", {"CPU": 1.0})]
    bundles = [Bundle(parse(a)) for a in ({"CPU": 1}, {"CPU": 2}, {"fast": 1})]
    assert spread_groups.plan("STRICT_SPREAD", bundles, rows).nodes == ("c", "b", "a")


def test_reasons_of_infeasible_groups() -> None:
    rows = [row("a", {"CPU": 2.0}), row("b", {"CPU": 2.0})]

    def why(strategy: str, *bundles: Bundle) -> str:
        plan = spread_groups.plan(strategy, bundles, rows)
        assert not plan.is_possible
        return plan.why

    cpu = Bundle(parse({"CPU": 1}))
    assert "GPU=1" in why("PACK", cpu, Bundle(parse({"GPU": 1})))
    assert "labels that bundle 0" in why("PACK", Bundle(cpu.amounts, (LabelRule("x", "exists"),)))
    assert "3 nodes that differ" in why("STRICT_SPREAD", cpu, cpu, cpu)
    assert "together" in why("STRICT_PACK", cpu, cpu, cpu)
    assert "even if they were empty" in why("PACK", cpu, cpu, cpu, cpu, cpu)


def test_many_bundles_on_many_nodes_are_placed_in_one_pass() -> None:
    rows = [row(f"n{at}", {"CPU": 8.0}) for at in range(200)]
    bundles = [parse({"CPU": 1})] * 400
    lefts = [Left.now(one) for one in rows]
    nodes = pack.onto_few(bundles, lefts, [None] * 400)
    assert nodes is not None and len(set(nodes)) == 50 and max(Counter(nodes).values()) == 8
    apart = spread_groups.plan("STRICT_SPREAD", [Bundle(parse({"CPU": 1}))] * 200, rows)
    assert len(set(apart.nodes)) == 200
    twice = spread_groups.plan("SPREAD", [Bundle(parse({"CPU": 1}))] * 400, rows)
    assert set(Counter(twice.nodes).values()) == {2}


# ---- actors
def test_actors_go_where_both_amounts_are() -> None:
    rows = [
        row("full", {"CPU": 4.0}, {"CPU": 0.0}),
        row("small", {"memory": 5.0}),
        row("good", {"CPU": 4.0}, {"CPU": 2.0}),
    ]
    dice = Dice(1)
    hold = parse({"CPU": 1})
    for _ in range(20):
        assert actors.offer(rows, ONE, hold, Default(), dice).node == "good"
    owns = {actors.offer(rows, ONE, (), Default(), dice).node for _ in range(100)}
    assert owns == {"full", "good"}, "what holds nothing may be on a full node"
    waits = actors.offer(rows, ONE, parse({"CPU": 3}), Default(), dice)
    assert not waits.node and waits.is_possible
    never = actors.offer(rows, Wish(parse({"GPU": 1})), parse({"GPU": 1}), Default(), dice)
    assert not never.node and not never.is_possible


def test_actors_are_spread_and_a_scarce_node_is_found() -> None:
    free = {f"n{at}": 8 for at in range(50)}
    dice = Dice(2)
    for _ in range(200):
        rows = [row(name, {"CPU": 8.0}, {"CPU": float(left)}) for name, left in free.items()]
        free[actors.offer(rows, ONE, parse({"CPU": 1}), Spread(), dice).node] -= 1
    assert min(free.values()) >= 1, "two choices keep the fullest near the mean of 4"
    rows = [row(f"n{at}", {"CPU": 1.0}) for at in range(500)] + [row("gpu", {"GPU": 1.0})]
    gpu = Wish(parse({"GPU": 1}))
    assert actors.offer(rows, gpu, gpu.amounts, Default(), dice).node == "gpu"


def test_strategies_of_actors() -> None:
    rows = [row("a", {"CPU": 1.0}, {"CPU": 0.0}), row("b", {"CPU": 1.0}, labels={"zone": "eu"})]
    hold, dice = ONE.amounts, Dice(3)

    def offer(strategy: NodeAffinity | NodeLabels) -> actors.Offer:
        return actors.offer(rows, ONE, hold, strategy, dice)

    assert offer(NodeAffinity("b")).node == "b"
    assert offer(NodeAffinity("a")) == actors.Offer(why="node a is full")
    assert offer(NodeAffinity("a", soft=True)).node == "b"
    assert offer(NodeAffinity("x")) == actors.Offer(why="there is no node x", is_possible=False)
    assert offer(NodeAffinity("x", soft=True)).node == "b"
    eu, us = LabelRule("zone", "in", ("eu",)), LabelRule("zone", "in", ("us",))
    assert offer(NodeLabels(((eu,),))).node == "b"
    assert not offer(NodeLabels(((us,),))).is_possible
    assert offer(NodeLabels((), (us,))).node == "b", "soft: only if there is one"


def test_an_actor_waits_only_where_it_could_live() -> None:
    hold, dice = parse({"CPU": 2}), Dice(1)
    rows = [
        row("a", {"CPU": 4}, {"CPU": 0}, labels={"zone": "eu"}),
        row("b", {"CPU": 4}, {"CPU": 0}),
        row("small", {"CPU": 1}),
        row("leaves", {"CPU": 4}, is_draining=True),
    ]

    def nodes(strategy: Strategy) -> set[str]:
        return {actors.wait_at(rows, ONE, hold, strategy, dice) for _ in range(100)}

    assert nodes(Default()) == nodes(NodeAffinity("a", soft=True)) == {"a", "b"}
    assert nodes(NodeAffinity("b")) == {"b"} and nodes(NodeAffinity("small")) == {""}
    assert nodes(NodeLabels(((LabelRule("zone", "in", ("eu",)),),))) == {"a"}
