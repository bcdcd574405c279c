"""The autoscaler: its packing against a naive model, and its decisions one by one."""

from __future__ import annotations

import itertools

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal._core import autoscaler as core
from shoal._core.autoscaler import (
    AutoscalerMachine,
    Drain,
    DrainRefused,
    InstanceRow,
    Launch,
    LaunchFailed,
    Looked,
    NodeRow,
    Settings,
    Terminate,
)
from shoal._core.autoscaler_fitting import (
    Bin,
    Demand,
    GroupDemand,
    NodeType,
    Outcome,
    Unmet,
    fit,
    why_not,
)
from shoal._core.resources import UNIT, Amounts, parse
from shoal._proto.messages import LabelRule

SMALL = NodeType("small", parse({"CPU": 4}), max_count=5)
LARGE = NodeType("large", parse({"CPU": 16}), (("zone", "a"),), max_count=2)
ACCELERATED = NodeType("accelerated", parse({"CPU": 8, "GPU": 2}), max_count=2)
TYPES = (SMALL, LARGE, ACCELERATED)
ROOM = {each.name: each.max_count for each in TYPES}


def packed(*wanted: Demand | GroupDemand, bins: tuple[Bin, ...] = (), most: int = 100) -> Outcome:
    return fit(bins, wanted, TYPES, ROOM, most)


def cpus(count: float) -> Amounts:
    return parse({"CPU": count})


# ---- packing
def test_what_fits_where_there_is_room_needs_nothing_new() -> None:
    idle, used = Bin("idle", "small", cpus(4)), Bin("used", "small", cpus(4), cpus(2))
    outcome = packed(Demand(cpus(1), 2), bins=(idle, used))
    assert outcome == Outcome(new=[], used={"used"}, unmet=[]), "the idle node stays idle"


def test_a_million_tasks_are_one_row() -> None:
    outcome = packed(Demand(cpus(1), 1_000_000))
    assert sorted(outcome.new) == ["accelerated"] * 2 + ["large"] * 2 + ["small"] * 5
    (left,) = outcome.unmet
    assert left.count == 1_000_000 - 20 - 32 - 16 and left.why == ""


def test_accelerators_are_not_wasted_on_who_asked_for_none() -> None:
    assert packed(Demand(cpus(7))).new == ["large"], "though the other would be filled better"
    assert packed(Demand(parse({"CPU": 1, "GPU": 1}))).new == ["accelerated"]


def test_a_type_is_filled_well() -> None:
    assert packed(Demand(cpus(1), 4)).new == ["small"]
    assert packed(Demand(cpus(1), 16)).new == ["large"], "one full node instead of four"
    assert packed(Demand(cpus(12)), Demand(cpus(4))).new == ["large"]


def test_labels_choose_the_type() -> None:
    zone = ((LabelRule("zone", "in", ("a",)),),)
    assert packed(Demand(cpus(1), rules=zone)).new == ["large"]
    nowhere = packed(Demand(cpus(1), rules=((LabelRule("zone", "in", ("b",)),),)))
    assert nowhere.new == [] and "has the labels" in nowhere.unmet[0].why


def test_bundles_of_a_group_go_where_their_labels_are() -> None:
    zone: tuple[tuple[LabelRule, ...], ...] = ((LabelRule("zone", "in", ("a",)),),)
    nowhere = ((LabelRule("zone", "in", ("b",)),),)
    two = (cpus(1), cpus(2))
    for strategy in ("PACK", "SPREAD", "STRICT_PACK"):
        assert packed(GroupDemand(two, strategy, (zone, zone))).new == ["large"], strategy
        outcome = packed(GroupDemand(two, strategy, (zone, nowhere)))
        assert outcome.new == [] and "has the labels" in outcome.unmet[0].why, strategy
    apart = packed(GroupDemand(two, "STRICT_SPREAD", (zone, ())))
    assert sorted(apart.new) == ["large", "small"]
    there = Bin("there", "small", cpus(4), labels={"zone": "b"})
    assert packed(GroupDemand(two, "PACK", (zone, ())), bins=(there,)).used == {"there"}, "one part"


def test_what_no_type_has_is_said() -> None:
    (left,) = packed(Demand(parse({"licence": 1}))).unmet
    assert left.why == "no node type has 1 licence (small, large, accelerated)"
    assert why_not(Demand(cpus(1)), ()) == "there are no node types that could be asked for"


def test_groups_are_placed_whole() -> None:
    two = (cpus(3), cpus(3))
    assert packed(GroupDemand(two, "STRICT_PACK")).new == ["large"]
    assert packed(GroupDemand(two, "STRICT_SPREAD")).new == ["small", "small"]
    assert packed(GroupDemand(two, "STRICT_PACK"), bins=(Bin("n", "", cpus(6)),)).new == []
    assert packed(GroupDemand(two, "STRICT_SPREAD"), bins=(Bin("n", "", cpus(6)),)).new == ["small"]
    six = GroupDemand((cpus(12),) * 6, "STRICT_SPREAD")
    outcome = packed(six, Demand(cpus(1)), bins=(Bin("n", "", cpus(12)),))
    assert outcome.used == {"n"} and outcome.new == [], "the group took nothing with it"
    assert [each.what for each in outcome.unmet] == [six]


AMOUNTS = st.builds(
    lambda cpu, gpu: parse({"CPU": cpu, "GPU": gpu}),
    st.integers(0, 20),
    st.sampled_from([0, 0, 0, 0.5, 1, 2]),
)
DEMANDS = st.builds(Demand, AMOUNTS, st.integers(1, 12))
GROUPS = st.builds(
    GroupDemand,
    st.lists(AMOUNTS, min_size=1, max_size=4).map(tuple),
    st.sampled_from(["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"]),
)
BINS = st.lists(st.tuples(st.integers(0, 16), st.integers(0, 2)), max_size=4)


class Naive:
    """Puts one thing after the other wherever it fits, and counts."""

    def __init__(self, bins: list[Amounts]) -> None:
        self.free = [dict(each) for each in bins]

    def takes(self, amounts: Amounts, not_in: set[int]) -> int | None:
        for number, free in enumerate(self.free):
            if number not in not_in and all(free.get(n, 0) >= u for n, u in amounts):
                for name, units in amounts:
                    free[name] -= units
                return number
        return None


@given(BINS, st.lists(DEMANDS | GROUPS, max_size=8), st.integers(0, 9))
@settings(max_examples=150, deadline=None)
def test_packing_against_counting(
    sizes: list[tuple[int, int]], wanted: list[Demand | GroupDemand], most: int
) -> None:
    there = [parse({"CPU": cpu, "GPU": gpu}) for cpu, gpu in sizes]
    bins = [Bin(f"n{number}", "", total) for number, total in enumerate(there)]
    outcome = fit(bins, wanted, TYPES, ROOM, most)
    again = [Bin(f"n{number}", "", total) for number, total in enumerate(there)]
    assert fit(again, wanted, TYPES, ROOM, most) == outcome, "no chance in it"
    assert len(outcome.new) <= most
    for each in TYPES:
        assert outcome.new.count(each.name) <= each.max_count
    # What was placed fits by its sums.
    types = {each.name: each for each in TYPES}
    totals = there + [types[name].total for name in outcome.new]
    left: dict[int, int] = {}
    for unmet in outcome.unmet:
        number = next(i for i, each in enumerate(wanted) if i not in left and is_of(unmet, each))
        left[number] = unmet.count
    used: dict[str, int] = {}
    for number, each in enumerate(wanted):
        rows = (
            [(each.amounts, each.count - left.get(number, 0))]
            if isinstance(each, Demand)
            else [(amounts, 1 - left.get(number, 0)) for amounts in each.bundles]
        )
        for amounts, count in rows:
            for name, units in amounts:
                used[name] = used.get(name, 0) + units * count
    have: dict[str, int] = {}
    for total in totals:
        for name, units in total:
            have[name] = have.get(name, 0) + units
    assert all(units <= have.get(name, 0) for name, units in used.items())
    # What is unmet without a reason would not have fitted into one more, or there is no more.
    for unmet in outcome.unmet:
        if unmet.why or not isinstance(unmet.what, Demand):
            continue
        able = [each for each in TYPES if Bin("", "", each.total).holds(unmet.what.amounts)]
        exhausted = [t for t in able if outcome.new.count(t.name) == t.max_count]
        assert len(outcome.new) == most or exhausted == able


def is_of(unmet: Unmet, each: Demand | GroupDemand) -> bool:
    """Whether it is a part of this row."""
    if isinstance(each, Demand) and isinstance(unmet.what, Demand):
        return each.amounts == unmet.what.amounts and unmet.count <= each.count
    return each == unmet.what


@given(BINS, st.lists(DEMANDS, max_size=6))
@settings(max_examples=100, deadline=None)
def test_nothing_new_is_asked_for_if_a_naive_one_finds_room(
    sizes: list[tuple[int, int]], wanted: list[Demand]
) -> None:
    """Equal unit tasks: then first-fit is exact, and so must the packing be."""
    units = [msgspec.structs.replace(each, amounts=cpus(1)) for each in wanted]
    naive = Naive([parse({"CPU": cpu}) for cpu, _ in sizes])
    missing = sum(
        naive.takes(each.amounts, set()) is None for each in units for _ in range(each.count)
    )
    bins = [Bin(f"n{number}", "", parse({"CPU": cpu})) for number, (cpu, _) in enumerate(sizes)]
    outcome = fit(bins, units, (SMALL,), {"small": 1000}, 1000)
    assert len(outcome.new) == -(-missing // 4) and not outcome.unmet


# ---- decisions
SETTINGS = Settings(types=(SMALL,), idle_timeout_s=30.0, patience_s=2.0, join_timeout_s=60.0)


class World:
    """Hands the machine rows, and keeps time."""

    def __init__(self, settings: Settings = SETTINGS) -> None:
        self.machine = AutoscalerMachine(settings, "x")
        self.now = 0.0
        self.nodes: dict[str, NodeRow] = {}
        self.instances: dict[str, InstanceRow] = {}
        self.wanted: tuple[Demand | GroupDemand, ...] = ()

    def look(self, for_s: float = 0.0, every_s: float = 1.0) -> list[core.Command]:
        """Look every second for so long."""
        out: list[core.Command] = []
        for at in itertools.takewhile(
            lambda at: at <= self.now + for_s, itertools.count(self.now, every_s)
        ):
            rows, instances = tuple(self.nodes.values()), tuple(self.instances.values())
            out += self.machine.step(at, Looked(rows, instances, self.wanted))
            self.machine.validate()
        self.now += for_s + every_s
        return out

    def make(self, request: str, node_type: str = "small", state: str = core.RUNNING) -> None:
        self.instances[request] = InstanceRow(f"i-{request}", request, node_type, state)

    def join(self, request: str, **facts: object) -> None:
        self.make(request)
        row = NodeRow(f"n-{request}", cpus(4), cpus(4), request=request, node_type="small")
        self.nodes[request] = msgspec.structs.replace(row, **facts)

    def change(self, request: str, **facts: object) -> None:
        self.nodes[request] = msgspec.structs.replace(self.nodes[request], **facts)


def with_one_node(settings: Settings = SETTINGS) -> World:
    world = World(settings)
    world.join("x-1")
    return world


def test_demand_is_answered_when_it_lasts() -> None:
    world = World()
    world.wanted = (Demand(cpus(1), 6),)
    assert world.look(1.0) == []
    world.wanted = ()
    assert world.look() == [], "it was gone again"
    world.wanted = (Demand(cpus(1), 6),)
    assert world.look(1.0) == []
    assert world.look() == [Launch("x-1", "small"), Launch("x-2", "small")]
    assert world.look(5.0) == [], "they are on their way"
    assert world.machine.on_its_way() == {"small": 2}


def test_a_request_is_repeated_until_the_provider_shows_it() -> None:
    world = World()
    world.wanted = (Demand(cpus(1)),)
    assert world.look(2.0) == [Launch("x-1", "small")]
    assert world.look(10.0) == [Launch("x-1", "small")]
    world.make("x-1", state=core.STARTING)
    assert world.look(20.0) == []


def test_a_node_goes_when_nothing_has_needed_it() -> None:
    world = with_one_node()
    assert world.look(28.0) == []
    assert [type(each) for each in world.look(2.0)] == [Drain]
    world.change("x-1", state=core.DRAINED)
    assert world.look() == [Terminate("i-x-1", "it is drained")]
    assert world.look(8.0, every_s=0.5) == []
    assert world.look(1.0) == [Terminate("i-x-1", "it is drained")], "it is still there"
    world.make("x-1", state=core.ENDING)
    assert world.look(30.0) == []


def test_who_is_busy_or_holds_values_stays() -> None:
    for facts in ({"is_busy": True}, {"primaries": 1}):
        world = with_one_node()
        world.change("x-1", **facts)
        assert world.look(100.0) == []
        world.change("x-1", state=core.DRAINED)
        assert world.look(100.0) == [], "drained by a person, and not empty yet"


def test_a_refusal_begins_the_wait_anew() -> None:
    world = with_one_node()
    assert len(world.look(30.0)) == 1
    world.machine.step(world.now, DrainRefused("n-x-1"))
    assert world.look(29.0) == []
    assert len(world.look(1.0)) == 1


def test_a_node_that_waiting_work_would_use_stays() -> None:
    world = with_one_node()
    world.wanted = (Demand(cpus(1)),)
    assert world.look(100.0) == [], "there is room, it only has not been taken yet"


def test_a_view_that_was_away_makes_nobody_idle() -> None:
    world = with_one_node()
    world.look(25.0)
    world.now += 100.0
    assert world.look(25.0) == []


def test_min_count_is_kept() -> None:
    least = msgspec.structs.replace(SMALL, min_count=1)
    world = World(msgspec.structs.replace(SETTINGS, types=(least,)))
    assert world.look(2.0) == [Launch("x-1", "small")]
    world.join("x-1")
    assert world.look(100.0) == []
    world.join("x-2")
    drained = {each.node for each in world.look(30.0) if isinstance(each, Drain)}
    assert drained == {"n-x-1"}, "one, and said again"


def test_a_failing_type_is_held_back_longer_and_longer() -> None:
    world = World()
    world.wanted = (Demand(cpus(1)),)
    asked = []
    for _ in range(200):
        for command in world.look():
            assert isinstance(command, Launch)
            asked.append(world.now)
            world.machine.step(world.now, LaunchFailed(command.request, "no capacity"))
    pauses = [b - a for a, b in itertools.pairwise(asked)]
    assert pauses == sorted(pauses) and pauses[0] <= 8 and pauses[-1] >= 80, pauses
    assert "held back" in world.machine.unmet[0].why and "no capacity" in world.machine.unmet[0].why


def test_a_launch_that_does_not_join_is_given_back() -> None:
    world = World()
    world.wanted = (Demand(cpus(1)),)
    world.look(2.0)
    world.make("x-1")
    out = world.look(62.0)
    assert Terminate("i-x-1", "it did not join within 60 s") in out
    assert [each for each in out if isinstance(each, Launch)] == [], "its type is held back"
    assert [each for each in world.look(6.0) if isinstance(each, Launch)] == [
        Launch("x-2", "small")
    ]


def test_a_lost_node_is_given_back() -> None:
    world = with_one_node()
    world.look()
    world.change("x-1", state=core.DEAD)
    assert world.look(58.0) == []
    assert world.look(3.0) == [Terminate("i-x-1", "its node has been lost")]


def test_a_new_life_takes_over_what_there_is() -> None:
    world = World()
    world.make("old-7", state=core.STARTING)
    world.wanted = (Demand(cpus(1), 4),)
    assert world.look(10.0) == [], "it is on its way"
    world.join("old-8")
    world.wanted = ()
    out = world.look(60.0)
    assert Terminate("i-old-7", "it did not join within 60 s") in out


def test_nodes_of_others_are_room_and_nothing_else() -> None:
    world = World()
    world.nodes["head"] = NodeRow("head", cpus(4), cpus(4))
    world.wanted = (Demand(cpus(1), 4),)
    assert world.look(10.0) == []
    world.wanted = ()
    assert world.look(200.0) == []
    world.nodes["head"] = NodeRow("head", cpus(4), cpus(4), state=core.DRAINED)
    assert world.look(200.0) == []


def test_speed_limits_what_is_on_its_way() -> None:
    many = msgspec.structs.replace(SMALL, max_count=100)
    quick = msgspec.structs.replace(SETTINGS, types=(many,), launches_least=2, speed=0.5)
    world = World(quick)
    world.wanted = (Demand(cpus(1), 4 * UNIT),)
    assert len(world.look(30.0, every_s=3.0)) - 2 * 2 <= 2, "two, and repeated"
    for request in ("x-1", "x-2", *(f"y-{number}" for number in range(8))):
        world.join(request, free=())
    assert sum(isinstance(each, Launch) for each in world.look(3.0)) == 5


def test_most_of_a_type_and_altogether() -> None:
    world = World(msgspec.structs.replace(SETTINGS, nodes_most=3))
    world.wanted = (Demand(cpus(1), 100),)
    assert len(world.look(3.0)) == 3
    assert world.machine.unmet[0].why == "no more nodes may be asked for (at most 5 small)"
