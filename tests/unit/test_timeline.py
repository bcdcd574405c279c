"""Slices of a timeline: how takes and seals are paired, and where overlapping ones are drawn."""

from __future__ import annotations

from shoal._runtime.history import Row
from shoal._runtime.timeline import Slice, lanes_of, slices_of

SUBMITTED, TAKEN, SEALED = 1, 2, 3


def taken(ns: int, process: int, key: int) -> Row:
    return ns, process, TAKEN, key, 0, 1, 6, False


def sealed(ns: int, process: int, key: int) -> Row:
    return ns, process, SEALED, key, 0, 0, 6, False


def test_a_slice_lasts_from_taken_to_sealed() -> None:
    rows = [(1, 9, SUBMITTED, 7, 0, 0, 6, False), taken(5, 2, 7), sealed(8, 2, 7)]
    assert list(slices_of(rows, {2}, 100)) == [Slice(5, 8, 2, 7, 0, False, 6)]


def test_what_nobody_sealed_runs_or_ended_with_its_process() -> None:
    rows = [taken(5, 2, 7), taken(6, 3, 8), sealed(9, 3, 1)]
    assert list(slices_of(rows, {2}, 100)) == [
        Slice(5, 100, 2, 7, 0, True, 6),
        Slice(6, 9, 3, 8, 0, False, 6),
    ]


def test_an_attempt_that_was_given_back_ends_where_the_next_begins() -> None:
    rows = [taken(5, 2, 7), taken(8, 3, 7), sealed(9, 3, 7)]
    spans = [(s.begin_ns, s.end_ns, s.process) for s in slices_of(rows, {2, 3}, 100)]
    assert spans == [(5, 8, 2), (8, 9, 3)]


def lanes(*spans: tuple[int, int]) -> list[int]:
    slices = [Slice(begin, end, 0, key, 0, False) for key, (begin, end) in enumerate(spans)]
    by_key = {piece.key: lane for piece, lane in lanes_of(slices)}
    return [by_key[key] for key in range(len(spans))]


def test_nested_and_following_slices_share_a_row() -> None:
    assert lanes((0, 10), (1, 4), (2, 3), (5, 9), (11, 12)) == [0, 0, 0, 0, 0]


def test_slices_that_overlap_without_being_nested_do_not() -> None:
    assert lanes((0, 10), (5, 15), (6, 8), (12, 20), (16, 17)) == [0, 1, 0, 0, 0]
    assert sorted(lanes(*((i, 100 + i) for i in range(5)))) == [0, 1, 2, 3, 4]
