"""What the benchmarks conclude from figures: no figure is measured here."""

from __future__ import annotations

import os
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import is_meant
from benchmarks.case import BEST_PEER, Case, Need, Share
from benchmarks.cases import SUITES, suite
from benchmarks.limits import rates
from benchmarks.neighbours import busy_neighbours
from benchmarks.plots import Bar, Group, bar_chart
from benchmarks.publish import code_lines
from benchmarks.report import WHOLE, cells, markdown
from benchmarks.sides import AT_ONCE, CORES, at_once
from benchmarks.verdict import Row, Run

LIMITS = {
    "python_call": (0.1, "us"),
    "fork": (200.0, "us"),
    "memcpy_random": (10.0, "GB/s"),
    "movsb_random": (12.0, "GB/s"),
}


def side(median: float, cpu_s: float = 1.0, caller_s: float = 1.0) -> dict[str, Any]:
    return {
        "median": median,
        "p10": median,
        "p90": median,
        "cpu_s_per_operation": cpu_s,
        "caller_s_per_operation": caller_s,
        "pss_bytes": 1_000_000,
    }


CASE = Case("X1", "work", "call", ("shoal", "ray"), lambda _: nullcontext(lambda: 1))


def row_of(case: Case, sides: dict[str, Any], *others: Row) -> Row:
    measured = {"id": case.id, "sides": sides, "failures": {}}
    beside = {name: (value / 2, "GB/s") for name, (value, _) in LIMITS.items()}
    results = {
        "cases": [measured, *(other.measured for other in others)],
        "limits": {"alone": LIMITS, "neighbours": beside},
        "machine": {"cores": 2, "cpu": "a", "memory_gb": 1, "kernel": "k"},
        "versions": {},
        "plan": {"rounds": 1, "windows": 1, "window_s": 1.0},
        "load": {"before": [0.0], "after": [0.0]},
        "date": "2000-01-01",
    }
    cases = {case.id: case, **{other.case.id: other.case for other in others}}
    return Run(cases, results).rows()[0]


@pytest.mark.parametrize(
    ("median", "reached"), [(5.0, "**below**"), (10.0, "floor"), (19.0, "floor"), (20.0, "aim")]
)
def test_a_rate_reaches_its_floor_from_below(median: float, reached: str) -> None:
    row = row_of(replace(CASE, floor=10.0, aim=20.0), {"shoal": side(median)})
    assert row.reached() == reached


@pytest.mark.parametrize(("median", "reached"), [(5.0, "aim"), (9.0, "floor"), (11.0, "**below**")])
@pytest.mark.parametrize("quantity", ["time", "bytes"])
def test_times_and_bytes_are_better_when_less(quantity: Any, median: float, reached: str) -> None:
    case = replace(CASE, quantity=quantity, floor=10.0, aim=6.0)
    row = row_of(case, {"shoal": side(median), "ray": side(20.0)})
    assert row.reached() == reached
    assert row.better(row.median("shoal"), row.median("ray")) == 20.0 / median


@pytest.mark.parametrize(("median", "reached"), [(29.0, "**below**"), (30.0, "floor")])
def test_a_share_of_the_best_peer_is_of_the_best_that_was_measured(
    median: float, reached: str
) -> None:
    case = replace(CASE, sides=("shoal", "executor", "loky"), floor=Share(1.0, side=BEST_PEER))
    sides = {"shoal": side(median), "executor": side(30.0), "loky": side(20.0)}
    assert row_of(case, sides).reached() == reached
    assert row_of(case, {"shoal": side(median)}).reached() == "–"


def test_a_share_of_a_limit_is_of_the_limit_in_the_same_place() -> None:
    case = replace(CASE, floor=Share(0.75, limit="memcpy_random"))
    row = row_of(case, {"shoal": side(8.0), "neighbours": side(3.0)})
    assert row.reached("alone") == "floor"
    assert row.reached("neighbours") == "**below**"
    assert row.of_floor("neighbours") == 3.0 / 3.75


def test_a_share_of_a_side_is_of_what_that_side_reached() -> None:
    case = replace(CASE, floor=Share(0.5, side=AT_ONCE))
    row = row_of(case, {"shoal": side(8.0), AT_ONCE: side(18.0), "serial": side(9.0)})
    assert row.resolved(case.floor, "alone") == 9.0
    assert row.reached() == "**below**"
    assert row.best_peer() is None, "code without parallelism is no peer"


def test_serial_programs_at_once_all_do_the_work_each_time(tmp_path: Path) -> None:
    def work() -> None:
        (tmp_path / f"{os.getpid()}-{time.monotonic_ns()}").touch()

    with at_once(work) as together:
        assert together() == together() == CORES
    pids = [path.name.partition("-")[0] for path in tmp_path.iterdir()]
    assert sorted(map(pids.count, set(pids))) == [2] * CORES


def test_the_aim_may_be_raised_by_the_best_pool() -> None:
    case = replace(CASE, floor=1.0, aim=2.0, aim_of_best=5.0)
    sides = {"shoal": side(10.0), "multiprocessing": side(3.0), "ray": side(9.0)}
    assert row_of(case, sides).reached() == "floor"


def test_cpu_is_compared_with_the_need_wherever_that_was_measured() -> None:
    by_caller = replace(CASE, need=Need("", caller=True))
    assert row_of(by_caller, {"shoal": side(1.0, 3.0, 2.0)}).of_need() == 1.5
    by_side = replace(CASE, need=Need("", side="need"))
    apart = row_of(by_side, {"shoal": side(1.0, 3.0), "need": side(1.0, 1.0)})
    assert cells(apart)["CPU / need"] == "**3** / –"
    by_case = replace(CASE, id="X2", need=Need("", case="X1"))
    assert row_of(by_case, {"shoal": side(1.0, 1.5)}, apart).of_need() == 1.5


def test_a_failure_of_ours_is_said_in_the_table() -> None:
    row = row_of(CASE, {"ray": side(1.0)})
    row.measured["failures"]["shoal"] = "ended with 1"
    text = markdown([CASE], row.run.results)
    assert "failed: ended with 1" in text
    assert set(cells(row_of(CASE, {"shoal": side(1.0)}))) >= set(WHOLE)


def test_limits_are_rates_and_made_of_one_another() -> None:
    more = {**LIMITS, "fallocate": (4.0, "GB/s"), "first_copy": (4.0, "GB/s")}
    found = rates({**more, "first_touch": (1.0, "GB/s")}, cores=2)
    assert found["copy_random"] == 12.0
    assert found["fresh_copy"] == pytest.approx(2.0)
    assert found["python_call_per_core"] == pytest.approx(2e7)


def test_every_case_names_what_exists() -> None:
    cases = [case for name in SUITES for case in suite(name)]
    assert len({case.id for case in cases}) == len(cases)
    for case in cases:
        assert case.need is None or case.need.case in {"", *(other.id for other in cases)}
        assert case.smaller in {"", *(other.id for other in cases)} - {case.id}
        assert (case.limit is None) == (not case.least), f"{case.id}: a limit says why"


@pytest.mark.parametrize(
    ("case_id", "begin", "meant"),
    [("C1", "C1", True), ("C11", "C1", False), ("C15-1MiB", "C15", True), ("A4-small", "A", True)],
)
def test_cases_are_chosen_by_how_ids_begin(case_id: str, begin: str, meant: bool) -> None:
    assert is_meant(case_id, begin) == meant


def test_neighbours_end_with_the_block() -> None:
    with busy_neighbours(2) as children:
        assert [child.poll() for child in children] == [None, None]
    assert all(child.returncode == -9 for child in children)


def two_lines(value: int) -> int:
    """Not counted."""
    return value


def test_lines_of_programs_are_counted_without_docstrings() -> None:
    assert code_lines((two_lines,)) == 2


def test_a_chart_has_every_bar_and_the_line() -> None:
    groups = [Group("X1", [Bar("Shoal", 2.0, "Shoal 2 x"), Bar("Ray", 0.5, "Ray <0.5 x")])]
    text = bar_chart("title", "axis", groups, is_log=True, line=1.0)
    assert "Shoal 2 x" in text and "Ray &lt;0.5 x" in text and "stroke-dasharray" in text
