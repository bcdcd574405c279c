"""Which tasks run again for a lost value, in which order, and what is given up."""

from __future__ import annotations

import random
from typing import Any

import pytest

from shoal._core import lineage as l

BUDGET = 1000


def recipe(key: int, *arguments: l.Argument, **facts: Any) -> l.Recipe:
    """Recipe ``key`` makes the value ``100 * key``."""
    known = {
        "is_kept": True,
        "attempt": 1,
        "charged": 0,
        "max_retries": 3,
        "function": 7,
        "has_queue": True,
        "is_call": False,
        "returns": (100 * key,),
    }
    return l.Recipe(key=key, arguments=arguments, **{**known, **facts})


def here(key: int) -> l.Argument:
    return l.Argument(key, True, False, 0)


def lost(key: int) -> l.Argument:
    return l.Argument(100 * key, True, True, key)


def gone(key: int) -> l.Argument:
    return l.Argument(100 * key, False, False, key)


def lose(machine: l.Lineage, first: int, *recipes: l.Recipe) -> list[l.AnyCommand]:
    out = machine.step(0.0, l.Lost(100 * first, "the file is damaged", first, recipes))
    machine.validate()
    return out


def end(machine: l.Lineage, key: int) -> list[l.AnyCommand]:
    out = machine.step(0.0, l.Ended(key))
    machine.validate()
    return out


def test_a_lost_value_is_filled_by_its_task() -> None:
    machine = l.Lineage(BUDGET)
    assert lose(machine, 1, recipe(1, here(5))) == [l.Submit(1, ())]
    assert machine.knows(100) and not machine.knows(200)
    assert end(machine, 1) == [l.Fill(100, 1), l.Forget(1)]
    assert not machine.work


def test_two_lost_results_of_one_task_run_it_once() -> None:
    machine = l.Lineage(BUDGET)
    both = recipe(1, returns=(100, 101))
    assert lose(machine, 1, both) == [l.Submit(1, ())]
    assert machine.step(0.0, l.Lost(101, "too", 1, (both,))) == []
    assert end(machine, 1) == [l.Fill(100, 1), l.Fill(101, 1), l.Forget(1)]


def test_a_lost_argument_is_filled_first() -> None:
    machine = l.Lineage(BUDGET)
    assert lose(machine, 2, recipe(2, lost(1)), recipe(1)) == [l.Submit(1, ())]
    assert end(machine, 1) == [l.Fill(100, 1), l.Submit(2, ()), l.Forget(1)]
    assert end(machine, 2) == [l.Fill(200, 2), l.Forget(2)]


def test_an_argument_that_is_lost_again_is_made_while_its_task_waits_for_it() -> None:
    machine = l.Lineage(BUDGET)
    lose(machine, 2, recipe(2, lost(1)), recipe(1))
    assert end(machine, 1) == [l.Fill(100, 1), l.Submit(2, ()), l.Forget(1)]
    assert lose(machine, 1, recipe(1)) == [l.Submit(1, ())]
    assert end(machine, 1) == [l.Fill(100, 1), l.Forget(1)]
    assert end(machine, 2) == [l.Fill(200, 2), l.Forget(2)]


def test_what_is_gone_is_made_for_as_long_as_it_is_needed() -> None:
    machine = l.Lineage(BUDGET)
    chain = [recipe(3, gone(2)), recipe(2, gone(1)), recipe(1)]
    assert lose(machine, 3, *chain) == [l.Submit(1, ())]
    assert end(machine, 1) == [l.Submit(2, (1,))]
    assert end(machine, 2) == [l.Submit(3, (2,)), l.Forget(1)]
    assert end(machine, 3) == [l.Fill(300, 3), l.Forget(2), l.Forget(3)]


def test_a_result_stays_until_the_last_who_needs_it() -> None:
    machine = l.Lineage(BUDGET)
    recipes = [recipe(3, gone(1), gone(2)), recipe(2), recipe(1)]
    assert set(lose(machine, 3, *recipes)) == {l.Submit(1, ()), l.Submit(2, ())}
    assert end(machine, 1) == []
    assert lose(machine, 1, recipe(1)) == [l.Fill(100, 1)]
    assert end(machine, 2) == [l.Submit(3, (1, 2))]
    # There is no room for it: what it needs is still there when there is.
    assert machine.step(5.0, l.NoRoomFor(3)) == [l.RetryAt(5.0 + l.RETRY_S)]
    assert machine.step(6.0, l.TimeToRetry()) == [l.Submit(3, (1, 2))]
    assert set(end(machine, 3)) == {l.Fill(300, 3), l.Forget(1), l.Forget(2), l.Forget(3)}


def test_a_result_fills_a_value_once() -> None:
    """Lost again while somebody still needs the rebuild: its reader asks again, and is served."""
    machine = l.Lineage(BUDGET)
    lose(machine, 3, recipe(3, lost(1), gone(2)), recipe(2), recipe(1))
    assert end(machine, 1) == [l.Fill(100, 1)]
    assert lose(machine, 1, recipe(1)) == [] and not machine.knows(100)
    assert lose(machine, 4, recipe(4, lost(1)), recipe(1)) == []
    assert end(machine, 2) == [l.Submit(3, (2,)), l.Forget(1)]
    assert end(machine, 3) == [l.Fill(300, 3), l.Forget(2), l.Forget(3)]
    assert lose(machine, 1, recipe(1)) == [l.Submit(1, ())]
    assert end(machine, 1) == [l.Fill(100, 1), l.Forget(1)]


def test_a_long_chain_needs_no_recursion() -> None:
    machine = l.Lineage(BUDGET)
    n = 5000
    recipes = [recipe(1), *(recipe(i, gone(i - 1)) for i in range(2, n + 1))]
    (command,) = lose(machine, n, *recipes)
    submitted = []
    while isinstance(command, l.Submit):
        submitted.append(command.recipe)
        out = machine.step(0.0, l.Ended(command.recipe))
        command = out[0]
    assert submitted == list(range(1, n + 1)) and command == l.Fill(100 * n, n)
    assert not machine.work


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"is_kept": False}, "its lineage was dropped: what can be kept for rebuilding is 1,000"),
        ({"charged": 2, "max_retries": 2}, "has run 3 times already, and max_retries=2"),
        ({"has_queue": False}, "its placement group was removed, or its queue was given up"),
        ({"has_queue": False, "has_job": False}, "the job of its task has ended"),
        ({"arguments": (l.Argument(5, False, False, 0),)}, "an argument of its task is gone"),
    ],
)
def test_what_cannot_run_again_says_why(facts: dict[str, Any], why: str) -> None:
    machine = l.Lineage(BUDGET)
    arguments = facts.pop("arguments", ())
    bad = recipe(1, *arguments, **facts)
    for first, recipes in ((1, (bad,)), (2, (recipe(2, gone(1)), bad))):
        (command,) = lose(machine, first, *recipes)
        assert isinstance(command, l.GiveUp)
        assert command.key == 100 * first and why in command.reason
        assert command.reason.startswith("the file is damaged; ")
    assert not machine.work


def test_without_end_means_without_end() -> None:
    machine = l.Lineage(BUDGET)
    endless = recipe(1, charged=1000, max_retries=-1)
    assert lose(machine, 1, endless) == [l.Submit(1, ())]


def test_nobody_knows_how_it_was_made() -> None:
    machine = l.Lineage(BUDGET)
    event = l.Lost(5, "the file is gone", why_not="it was made by put")
    assert machine.step(0.0, event) == [l.GiveUp(5, "the file is gone; it was made by put")]


def test_a_refusal_gives_up_whoever_waits() -> None:
    machine = l.Lineage(BUDGET)
    lose(machine, 3, recipe(3, gone(2)), recipe(2, lost(1)), recipe(1))
    out = machine.step(0.0, l.Refused(1, "no queue"))
    machine.validate()
    given_up = [c.key for c in out if isinstance(c, l.GiveUp)]
    assert given_up == [100, 300] and not machine.work
    assert all("no queue" in c.reason for c in out if isinstance(c, l.GiveUp))


def test_without_room_it_is_tried_again() -> None:
    machine = l.Lineage(BUDGET)
    lose(machine, 1, recipe(1))
    assert machine.step(5.0, l.NoRoomFor(1)) == [l.RetryAt(5.0 + l.RETRY_S)]
    assert machine.step(6.0, l.TimeToRetry()) == [l.Submit(1, ())]
    machine.validate()


class World:
    """Tasks that need each other, a store that loses values, and everything that may be seen."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.machine = l.Lineage(BUDGET)
        n = self.random.randint(2, 30)
        self.needs = {
            key: self.random.sample(range(1, key), min(key - 1, self.random.randint(0, 3)))
            for key in range(1, n + 1)
        }
        self.live = {key for key in self.needs if self.random.random() < 0.6} | {n}
        self.lost: set[int] = set()
        self.without_room: list[int] = []
        self.running: set[int] = set()
        self.results: set[int] = set()
        self.given: set[int] = set()
        """Results that some value has been given: nothing is left for another."""
        self.runs = 0

    def row(self, key: int) -> l.Recipe:
        arguments = [
            l.Argument(100 * a, a in self.live, a in self.lost, a) for a in self.needs[key]
        ]
        return recipe(key, *arguments, max_retries=-1)

    def closure(self, key: int) -> tuple[l.Recipe, ...]:
        found, todo = {key: self.row(key)}, [key]
        while todo:
            for argument in found[todo.pop()].arguments:
                missing = argument.is_lost or not argument.is_live
                if missing and argument.recipe not in found:
                    found[argument.recipe] = self.row(argument.recipe)
                    todo.append(argument.recipe)
        return tuple(found.values())

    def post(self, event: l.AnyEvent) -> None:
        for command in self.machine.step(0.0, event):
            self.perform(command)
        self.machine.validate()
        while self.without_room:
            self.post(l.NoRoomFor(self.without_room.pop()))

    def perform(self, command: l.AnyCommand) -> None:
        match command:
            case l.Submit(recipe=key, sources=sources):
                assert key not in self.running, "a task runs twice at once"
                for need in self.needs[key]:
                    assert need in self.live or need in sources
                assert set(sources) <= self.results
                if self.random.random() < 0.2:
                    self.without_room.append(key)
                    return
                self.running.add(key)
                self.runs += 1
            case l.Fill(key=value, recipe=key):
                assert value == 100 * key and key in self.results - self.given
                self.given.add(key)
                self.lost.discard(key)
            case l.Forget(recipe=key):
                self.results.remove(key)
                self.given.discard(key)
            case l.RetryAt():
                pass
            case _:
                raise AssertionError(command)

    def play(self) -> None:
        for _ in range(60):
            if self.random.random() < 0.5 and self.live - self.lost:
                key = self.random.choice(sorted(self.live - self.lost))
                self.lost.add(key)
                if self.random.random() < 0.7:  # else it was evicted: nobody wants it yet
                    self.post(l.Lost(100 * key, "lost", key, self.closure(key)))
            elif self.running:
                self.finish()
        for _ in range(100):  # who reads asks again and again
            self.post(l.TimeToRetry())
            for key in sorted(self.lost):
                if not self.machine.knows(100 * key):
                    self.post(l.Lost(100 * key, "wanted", key, self.closure(key)))
            while self.running:
                self.finish()
        assert not self.lost and not self.machine.work and not self.results

    def finish(self) -> None:
        key = self.random.choice(sorted(self.running))
        self.running.discard(key)
        self.results.add(key)
        self.post(l.Ended(key))


def test_whatever_is_lost_comes_back_and_nothing_stays() -> None:
    runs = 0
    for seed in range(300):
        world = World(seed)
        world.play()
        runs += world.runs
    assert runs > 1000
