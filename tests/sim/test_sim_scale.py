"""How tasks spread over many nodes: bounds on time, evenness and messages, and broken machines."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict

import pytest

from benchmarks import scale_chart
from shoal._base.config import ForwardingLimits
from shoal._core import forwarding_events as ev
from shoal._core import hosting
from shoal._core.choosing import Chooser
from shoal._core.forwarding import Forwarding
from shoal._core.loans import Held, Outlet, Source
from shoal._core.policies import local_first, recall
from shoal._core.policies.candidates import CandidateIndex
from shoal._core.policies.ring import Ring
from shoal.testing.sim import scale
from shoal.testing.sim.scale_checkers import ScaleChecker, ScaleViolation
from shoal.testing.sim.scale_cluster import ScaleCluster, ScaleReport, Trouble
from shoal.testing.sim.scale_tasks import LOADS, jain


def run(
    name: str,
    nodes: int,
    tasks: int,
    seed: int = 1,
    troubles: tuple[Trouble, ...] = (),
    is_checked: bool = False,
) -> ScaleReport:
    load = LOADS[name](nodes, tasks, seed)
    return ScaleCluster(load, seed, is_checked=is_checked).run(60.0, troubles)


# ---- bounds
@pytest.mark.parametrize(
    ("name", "nodes", "efficiency"),
    [
        ("one", 8, 0.85),
        ("one", 40, 0.6),
        ("all", 8, 0.7),
        ("all", 40, 0.7),
        ("mixed", 20, 0.5),
        ("spread", 8, 0.85),
        ("data", 20, 0.6),
    ],
)
def test_the_time_is_near_what_nobody_can_beat(name: str, nodes: int, efficiency: float) -> None:
    report = run(name, nodes, 200 * nodes)
    assert report.efficiency > efficiency, report
    assert report.backs < 0.02 * report.tasks, "few were sent what they had no room for"


def test_spread_tasks_are_even_and_data_stays_where_it_is() -> None:
    assert run("spread", 16, 3000).evenness > 0.98
    data = run("data", 16, 3000)
    assert data.at_bytes > 0.9, data


def test_who_submits_as_much_waits_as_long() -> None:
    """Five nodes of twenty submit the same; together more than all can run at once."""
    load = LOADS["one"](20, 5000, 1)
    for task in load.tasks:
        task.home, task.length_s = 4 * (task.key % 5), 0.05
    report = ScaleCluster(load, 1).run()
    assert report.fairness > 0.9 and report.efficiency > 0.8, report


def test_a_decision_costs_the_same_on_many_nodes() -> None:
    """Messages are counted, not time: that is measured by ``make sim-scale``."""
    few, many = run("one", 16, 4000), run("one", 128, 4000)
    assert many.messages_per_task < 2 * few.messages_per_task + 0.5


def test_one_node_alone_says_nothing_to_others() -> None:
    report = run("all", 1, 500)
    assert not {"visit", "done", "candidates"} & set(report.messages)


# ---- seeds, troubles
@pytest.mark.parametrize("seed", range(12))
def test_rules_hold_whatever_happens(seed: int) -> None:
    names = sorted(LOADS)
    load = names[seed % len(names)]
    nodes = 3 + seed % 9
    troubles = (
        Trouble(0.02, 1, 1.5, is_busy=True),
        Trouble(0.03 + seed / 100, 2, 0.4),
    )
    if load in {"one", "spread"}:
        # Nodes that submit must live: what a lost node had submitted is lost with it.
        troubles += (Trouble(0.05, nodes - 1),)
    run(load, nodes, 60 * nodes, seed, troubles, is_checked=True)


def test_the_same_seed_is_the_same_run() -> None:
    def told() -> dict[str, object]:
        facts = asdict(run("mixed", 12, 600, seed=3))
        del facts["spent_s"], facts["store_spent_s"]
        return facts

    assert told() == told()


def test_without_the_store_the_last_view_is_used() -> None:
    load = LOADS["one"](6, 3000, 1)
    cluster = ScaleCluster(load, 1)
    cluster.at(0.05, setattr, cluster, "store_away_until", 100.0)
    report = cluster.run()
    assert report.efficiency > 0.8, report


def test_what_waits_behind_somebody_else_is_taken_back() -> None:
    """A node takes tasks in, and then has no slot for them for ten seconds."""
    report = run("one", 4, 600, troubles=(Trouble(0.1, 1, 10.0, is_busy=True),))
    assert report.backs > 0 and report.drain_s < 4.0, report


# ---- broken machines
def _no_limit(self: Outlet, now: float) -> int:
    return 1000


def everybody_gets_everything(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Outlet, "room", _no_limit)


def everything_is_taken_in(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Outlet, "room", _no_limit)
    patch.setattr(hosting, "OVERFLOW", 1 << 30)


def nothing_is_for_others(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(local_first, "surplus", lambda here, limits: 0)


def nothing_is_taken_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(recall, "how_many", lambda there, startable, limits: 0)


def what_runs_there_runs_here_too(patch: pytest.MonkeyPatch) -> None:
    honest = Forwarding.step

    def step(self: Forwarding, now: float, event: ev.Event) -> list[ev.Command]:
        if isinstance(event, ev.Running):
            event = ev.Returned(event.queue, event.node, event.keys)
        return honest(self, now, event)

    patch.setattr(Forwarding, "step", step)


def what_comes_back_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    honest = Source.hold

    def hold(self: Source, task: Held) -> None:
        if not task.outings:
            honest(self, task)

    patch.setattr(Source, "hold", hold)


def what_was_back_goes_out_like_new(patch: pytest.MonkeyPatch) -> None:
    honest = Source.hold

    def hold(self: Source, task: Held) -> None:
        task.outings = 0
        honest(self, task)

    patch.setattr(Source, "hold", hold)
    patch.setattr(hosting, "OVERFLOW", 0)


def what_is_done_is_still_lent(patch: pytest.MonkeyPatch) -> None:
    def land(self: Forwarding, queue: int, node: str, keys: tuple[int, ...]) -> object:
        return self.sources[queue].outlets.get(node), []

    patch.setattr(Forwarding, "_land", land)


def what_was_named_stays_named(patch: pytest.MonkeyPatch) -> None:
    honest = CandidateIndex.heard

    def heard(self: CandidateIndex, row: object) -> None:
        kept = {id(lists): dict(lists.named) for lists in self._wishes.values()}
        honest(self, row)  # type: ignore[arg-type]
        for lists in self._wishes.values():
            lists.named.update(kept.get(id(lists), {}))
            for node in list(lists.ready.nodes):
                if lists.named.get(node):
                    lists.ready.discard(node)

    patch.setattr(CandidateIndex, "heard", heard)
    patch.setattr(Chooser, "shorter_wait_of_two", lambda self, now, source: None)


def all_are_told_of_the_same(patch: pytest.MonkeyPatch) -> None:
    honest = CandidateIndex.candidates

    def named(self: CandidateIndex, now: float, asker: str, wish: object, count: int) -> object:
        answer = honest(self, now, asker, wish, count)  # type: ignore[arg-type]
        for lists in self._wishes.values():
            lists.named.clear()
            lists.ready, lists.able = Ring(), Ring()
            for row in self.rows.values():
                self._sort(wish, lists, row)  # type: ignore[arg-type]
        return answer

    patch.setattr(CandidateIndex, "candidates", named)


BROKEN: list[tuple[Callable[[pytest.MonkeyPatch], None], str, str]] = [
    (everybody_gets_everything, "one", "each slot"),
    (everything_is_taken_in, "one", "each slot"),
    (nothing_is_for_others, "one", "has had room"),
    (nothing_is_taken_back, "stall", "tasks never ended"),
    (what_runs_there_runs_here_too, "long", "does not have it"),
    (what_comes_back_is_forgotten, "stall", "tasks never ended"),
    (what_was_back_goes_out_like_new, "stall", "time"),
    (what_is_done_is_still_lent, "one", ""),
    (what_was_named_stays_named, "twice", "has had room"),
    (all_are_told_of_the_same, "herd", "each slot"),
]


def broken_run(kind: str) -> None:
    """A load that shows what is broken; harmless for machines that are not."""
    troubles: tuple[Trouble, ...] = ()
    if kind == "stall":
        load = LOADS["one"](5, 900, 2)
        troubles = tuple(Trouble(0.1, index, 30.0, is_busy=True) for index in (1, 2))
    elif kind == "herd":
        # Forty nodes want ten times what the other ten have.
        load = LOADS["one"](50, 40 * 30, 2)
        for task in load.tasks:
            task.home, task.length_s = 10 + task.key % 40, 0.2
    elif kind == "long":
        # Short tasks, and a few that take so long that they are asked back while they run.
        load = LOADS["one"](5, 600, 2)
        for task in load.tasks[1::40]:
            task.length_s = 4.0
    elif kind == "twice":
        load = LOADS["one"](6, 600, 2)
        for task in load.tasks[300:]:
            task.arrives_at, task.home = 3.0, 1
            task.length_s = 0.1
    else:
        load = LOADS[kind](6, 1500, 2)

    def checker(cluster: ScaleCluster) -> ScaleChecker:
        return ScaleChecker(cluster, idle_s=0.5, crowd=4.0, back_share=0.05)

    ScaleCluster(load, 2, ForwardingLimits(), checker=checker).run(20.0, troubles)


@pytest.mark.parametrize("kind", sorted({kind for _, kind, _ in BROKEN}))
def test_machines_that_are_not_broken_break_no_rule(kind: str) -> None:
    broken_run(kind)


@pytest.mark.parametrize(
    ("broken", "kind", "said"), BROKEN, ids=lambda part: str(getattr(part, "__name__", ""))
)
def test_broken_machines_are_caught(
    broken: Callable[[pytest.MonkeyPatch], None],
    kind: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken(monkeypatch)
    with pytest.raises((ScaleViolation, AssertionError, KeyError)) as caught:
        broken_run(kind)
    assert said in str(caught.value)


# ---- what is published
def test_the_program_prints_a_line_for_each_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert scale.main(["--loads", "one", "spread", "--nodes", "1", "3", "--tasks", "60"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 + 3 and lines[0].startswith("load")


def test_the_chart_is_that_of_the_figures() -> None:
    kept = json.loads(scale_chart.KEPT.read_text())
    for path, text in scale_chart.rendered(kept).items():
        assert path.read_text() == text, f"{path.name}: python -m benchmarks.scale_chart"


def test_jain() -> None:
    assert jain([1, 1, 1]) == 1.0 and jain([1, 0, 0, 0]) == 0.25 and jain([]) == 1.0
