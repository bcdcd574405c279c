"""Streams between two nodes: what may be on its way, and what is said of it."""

from __future__ import annotations

import random
from collections import deque

import pytest

from shoal._core import flows
from shoal._core.flows import WINDOW, Inflow, Outflow


class World:
    """A generator there, a link, memory and a consumer at home; every seed is another order."""

    def __init__(self, seed: int, first: int, limit: int) -> None:
        self.random = random.Random(seed)
        self.first = first
        self.limit = limit
        self.out, self.into = Outflow(first), Inflow(first)
        self.made = first
        self.unseen_there = 0
        """Items that the generator's back-pressure counts."""
        self.link: deque[tuple[int, int]] = deque()
        self.back: deque[tuple[int, int]] = deque()
        self.consumed = first

    def run(self, n: int) -> None:
        steps = (self.yields, self.sends, self.arrives, self.writes, self.takes, self.returns)
        for _ in range(200_000):
            if self.consumed == self.first + n:
                return
            self.n = n
            self.random.choice(steps)()
            self.check()
        raise AssertionError("it does not come to its end")

    def yields(self) -> None:
        many = 1 if self.limit else self.random.randrange(300)
        for _ in range(many):
            if self.made == self.first + self.n:
                return
            if self.limit and self.unseen_there >= self.limit:
                return
            self.made += 1
            self.unseen_there += 1

    def sends(self) -> None:
        count = min(self.out.room, flows.BATCH, self.made - self.out.sent)
        if count > 0:
            self.link.append((self.out.sent, count))
            self.out.sent += count

    def arrives(self) -> None:
        if self.link:
            assert self.into.came(*self.link.popleft())

    def writes(self) -> None:
        for _ in range(self.random.randrange(200)):
            if self.into.taken < self.into.come:
                self.into.took()
        self.says()

    def takes(self) -> None:
        if self.consumed < self.into.taken:
            self.consumed += 1
            if self.limit:
                self.into.saw()
                self.says()

    def says(self) -> None:
        if (news := self.into.news()) is not None:
            self.back.append(news)

    def returns(self) -> None:
        if self.back:
            more = self.out.heard(*self.back.popleft())
            assert more >= 0
            self.unseen_there -= more

    def check(self) -> None:
        assert self.out.sent - self.into.taken <= WINDOW
        assert self.out.seen <= self.out.taken <= self.out.sent <= self.made
        if self.limit:
            assert self.made - self.consumed <= self.limit


@pytest.mark.parametrize("limit", [0, 1, 7, 2000])
@pytest.mark.parametrize("seed", range(10))
def test_all_comes_and_never_too_much_at_once(seed: int, limit: int) -> None:
    World(seed, first=seed * 11, limit=limit).run(400 if limit == 1 else 2500)


def test_a_row_that_is_not_the_next_is_not_believed() -> None:
    into = Inflow(5)
    assert not into.came(4, 1) and not into.came(6, 1)
    assert not into.came(5, WINDOW + 1)
    assert into.came(5, WINDOW) and not into.came(5 + WINDOW, 1), "there is no window left"
    into.took()
    assert into.came(5 + WINDOW, 1)


def test_what_cannot_be_seen_is_not_believed() -> None:
    out = Outflow(3)
    out.sent = 10
    assert out.heard(11, 3) == out.heard(5, 6) == out.heard(2, 2) == -1
    assert out.heard(8, 4) == 1 and out.heard(7, 4) == -1, "it had more before"
    assert (out.taken, out.seen) == (8, 4)
    assert out.room == WINDOW - 2


def test_what_is_said_at_once_and_what_by_and_by() -> None:
    into = Inflow(0)
    assert into.came(0, WINDOW)
    said = 0
    for _ in range(WINDOW):
        into.took()
        said += into.news() is not None
    assert said == 4
    into.saw()
    assert into.news() == (WINDOW, 1) and into.news() is None
