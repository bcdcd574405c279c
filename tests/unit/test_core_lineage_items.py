"""Which items of a generator one more run of it makes, and which wait for another run."""

from __future__ import annotations

import random
from typing import Any

from shoal._core import lineage as l

GENERATOR, USER = 9, 2
SECOND_RUN = GENERATOR | 1 << 65
OF_LIST = GENERATOR | 1 << 64


def generator(*, charged: int = 0, max_retries: int = 3) -> l.Recipe:
    return l.Recipe(
        key=GENERATOR,
        is_kept=True,
        attempt=1,
        charged=charged,
        max_retries=max_retries,
        function=7,
        has_queue=True,
        is_call=False,
        arguments=(),
        returns=(900,),
        is_generator=True,
    )


def user(key: int, *arguments: l.Argument) -> l.Recipe:
    """A task that makes the value ``100 * key``."""
    return l.Recipe(key, True, 1, 0, 3, 7, True, False, arguments, (100 * key,))


def item(number: int, times: int = 0) -> l.Item:
    return l.Item(1000 + number, number, times)


THE_LIST = l.Item(900, l.LIST)
"""What a generator with ``num_returns="dynamic"`` has returned."""


def argument(number: int, *, is_live: bool = True, times: int = 0) -> l.Argument:
    return l.Argument(1000 + number, is_live, is_live, GENERATOR, number, times)


def lose(
    machine: l.Lineage, number: int, *others: l.Item, times: int = 0, **facts: Any
) -> list[l.AnyCommand]:
    recipes = (generator(**facts),)
    mine = item(number, times)
    event = l.Lost(mine.key, "the file is damaged", GENERATOR, recipes, item=mine, others=others)
    out = machine.step(0.0, event)
    machine.validate()
    return out


def end(machine: l.Lineage, name: int) -> list[l.AnyCommand]:
    out = machine.step(0.0, l.Ended(name))
    machine.validate()
    return out


def test_what_is_lost_beside_it_comes_by_the_same_run() -> None:
    machine = l.Lineage(1000)
    wanted = (item(2), item(3), item(5))
    assert lose(machine, 3, item(5), item(2)) == [l.Submit(GENERATOR, (), wanted)]
    assert lose(machine, 5) == []  # somebody reads it: it is on its way
    assert end(machine, GENERATOR) == [
        l.Fill(1003, GENERATOR),
        l.Fill(1005, GENERATOR),
        l.Fill(1002, GENERATOR),
        l.Forget(GENERATOR),
    ]
    assert not machine.work


def test_who_comes_later_waits_for_another_run() -> None:
    machine = l.Lineage(1000)
    assert lose(machine, 0) == [l.Submit(GENERATOR, (), (item(0),))]
    assert lose(machine, 1) == [l.Submit(SECOND_RUN, (), (item(1),))]
    assert l.recipe_of(SECOND_RUN) == GENERATOR
    assert end(machine, SECOND_RUN) == [l.Fill(1001, SECOND_RUN), l.Forget(SECOND_RUN)]
    assert end(machine, GENERATOR) == [l.Fill(1000, GENERATOR), l.Forget(GENERATOR)]


def test_an_item_that_is_gone_is_kept_for_who_needs_it() -> None:
    machine = l.Lineage(1000)
    recipes = (user(USER, argument(4, is_live=False), argument(1)), generator())
    out = machine.step(0.0, l.Lost(200, "the file is damaged", USER, recipes))
    assert out == [l.Submit(GENERATOR, (), (item(1), item(4)))]
    assert end(machine, GENERATOR) == [l.Fill(1001, GENERATOR), l.Submit(USER, (GENERATOR,))]
    # Its user may read another item while it runs: that is another run's.
    assert lose(machine, 2) == [l.Submit(SECOND_RUN, (), (item(2),))]
    assert end(machine, SECOND_RUN) == [l.Fill(1002, SECOND_RUN), l.Forget(SECOND_RUN)]
    # So is one that was filled, and is lost again.
    assert lose(machine, 1, times=1) == [l.Submit(SECOND_RUN, (), (item(1, 1),))]
    assert end(machine, USER) == [l.Fill(200, USER), l.Forget(GENERATOR), l.Forget(USER)]
    assert end(machine, SECOND_RUN) == [l.Fill(1001, SECOND_RUN), l.Forget(SECOND_RUN)]
    assert not machine.work


def test_each_item_has_its_own_retries() -> None:
    machine = l.Lineage(1000)
    assert lose(machine, 0, times=2, max_retries=3) == [
        l.Submit(GENERATOR, (), (item(0, 2),)),
    ]
    end(machine, GENERATOR)
    (refused,) = lose(machine, 0, times=3, max_retries=3)
    assert isinstance(refused, l.GiveUp) and refused.kind == "used_up"
    assert "run 4 times for it already, and max_retries=3" in refused.reason
    assert lose(machine, 1, item(0, 3), max_retries=3) == [l.Submit(GENERATOR, (), (item(1),))]
    end(machine, GENERATOR)
    (refused,) = lose(machine, 1, charged=2, times=0, max_retries=2)
    assert isinstance(refused, l.GiveUp) and refused.kind == "used_up"
    assert isinstance(lose(machine, 1, times=50, max_retries=-1)[0], l.Submit)


def test_an_argument_that_may_not_be_made_again() -> None:
    machine = l.Lineage(1000)
    recipes = (user(USER, argument(4, times=3)), generator())
    (refused,) = machine.step(0.0, l.Lost(200, "the file is damaged", USER, recipes))
    assert isinstance(refused, l.GiveUp) and refused.kind == "used_up"
    assert "an argument of its task cannot be made again" in refused.reason
    assert not machine.work


def test_a_generator_that_cannot_be_submitted() -> None:
    machine = l.Lineage(1000)
    recipes = (user(USER, argument(4)), generator())
    machine.step(0.0, l.Lost(200, "the file is damaged", USER, recipes))
    out = machine.step(0.0, l.Refused(GENERATOR, "its job has ended", "no_queue"))
    assert {(c.key, c.kind) for c in out if isinstance(c, l.GiveUp)} == {
        (1004, "no_queue"),
        (200, "no_queue"),
    }
    assert not machine.work


def test_a_list_of_items_is_made_by_a_run_of_its_own() -> None:
    machine = l.Lineage(1000)
    recipes = (user(USER, argument(4), l.Argument(900, True, True, GENERATOR, l.LIST)), generator())
    out = machine.step(0.0, l.Lost(200, "the file is damaged", USER, recipes))
    assert out == [l.Submit(GENERATOR, (), (item(4),)), l.Submit(OF_LIST, (), (THE_LIST,))]
    machine.validate()
    assert l.recipe_of(OF_LIST) == GENERATOR
    event = l.Lost(900, "the file is damaged", GENERATOR, (generator(),), item=THE_LIST)
    assert machine.step(0.0, event) == [] and machine.knows(900)
    assert end(machine, OF_LIST) == [l.Fill(900, OF_LIST)]
    assert end(machine, GENERATOR) == [
        l.Fill(1004, GENERATOR),
        l.Submit(USER, ()),
        l.Forget(OF_LIST),
        l.Forget(GENERATOR),
    ]
    assert end(machine, USER) == [l.Fill(200, USER), l.Forget(USER)]
    assert not machine.work


class World:
    """Generators, tasks that are given items, and a store that loses everything again and again.

    Value ``k`` is made by task ``k`` out of items; item ``(g, n)`` by generator ``g``. Its
    last item is the list of them.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.machine = l.Lineage(1000)
        chance = self.random
        self.generators = [10_000 + i for i in range(chance.randint(1, 2))]
        self.items = {g: chance.randint(1, 5) for g in self.generators}
        self.tasks = {
            k: [
                (g, chance.randrange(self.items[g]))
                for g in chance.choices(self.generators, k=chance.randint(0, 3))
            ]
            for k in range(1, chance.randint(2, 6))
        }
        all_items = [(g, n) for g in self.generators for n in range(self.items[g])]
        self.live = {self.key(*item) for item in all_items if chance.random() < 0.6}
        self.live |= {100 * k for k in self.tasks}
        self.lost: set[int] = set()
        self.running: dict[int, set[int]] = {}
        """Runs, by name, and what they make."""
        self.results: dict[int, set[int]] = {}
        self.given: set[tuple[int, int]] = set()
        self.without_room: list[int] = []
        self.runs = 0

    @staticmethod
    def key(generator: int, number: int) -> int:
        return generator * 100 + number

    def number(self, key: int) -> int:
        """Which item it is."""
        return l.LIST if key % 100 == self.items[key // 100] - 1 else key % 100

    def recipe_of(self, value: int) -> int:
        return value // 100

    def row(self, recipe: int) -> l.Recipe:
        if recipe in self.items:
            return l.Recipe(recipe, True, 1, 0, -1, 7, True, False, (), (1,), True)
        arguments = tuple(
            l.Argument(key, key in self.live, key in self.lost, g, self.number(key))
            for g, n in dict.fromkeys(self.tasks[recipe])
            for key in [self.key(g, n)]
        )
        return l.Recipe(recipe, True, 1, 0, -1, 7, True, False, arguments, (100 * recipe,))

    def lose(self, value: int) -> None:
        recipe = self.recipe_of(value)
        rows = [self.row(recipe)]
        missing = {a.recipe for a in rows[0].arguments if a.is_lost or not a.is_live}
        rows += [self.row(other) for other in sorted(missing)]
        item, others = None, ()
        if recipe in self.items:
            item = l.Item(value, self.number(value))
            beside = [k for k in sorted(self.lost) if self.recipe_of(k) == recipe and k != value]
            items = [l.Item(k, self.number(k)) for k in beside if self.random.random() < 0.5]
            if l.LIST not in (item.number, *(each.number for each in items)):
                others = tuple(items)
        self.post(l.Lost(value, "lost", recipe, tuple(rows), item=item, others=others))

    def post(self, event: l.AnyEvent) -> None:
        for command in self.machine.step(0.0, event):
            self.perform(command)
        self.machine.validate()
        while self.without_room:
            self.post(l.NoRoomFor(self.without_room.pop()))

    def perform(self, command: l.AnyCommand) -> None:
        match command:
            case l.Submit(recipe=name, sources=sources, items=items):
                self.submit(name, sources, items)
            case l.Fill(key=value, recipe=name):
                assert value in self.results[name] and (name, value) not in self.given
                self.given.add((name, value))
                self.lost.discard(value)
            case l.Forget(recipe=name):
                self.given -= {(name, value) for value in self.results.pop(name)}
            case l.RetryAt():
                pass
            case _:
                raise AssertionError(command)

    def submit(self, name: int, sources: tuple[int, ...], items: tuple[l.Item, ...]) -> None:
        recipe = l.recipe_of(name)
        assert name not in self.running and name not in self.results
        assert bool(items) == (recipe in self.items)
        assert len(items) == 1 or l.LIST not in {item.number for item in items}
        made = {value for source in sources for value in self.results[source]}
        for g, n in self.tasks.get(recipe, ()):
            assert self.key(g, n) in self.live | made
        if self.random.random() < 0.2:
            self.without_room.append(name)
            return
        self.running[name] = {item.key for item in items} or {100 * recipe}
        self.runs += 1

    def finish(self) -> None:
        name = self.random.choice(sorted(self.running))
        self.results[name] = self.running.pop(name)
        self.post(l.Ended(name))

    def play(self) -> None:
        for _ in range(60):
            here = sorted(self.live - self.lost)
            if here and self.random.random() < 0.5:
                value = self.random.choice(here)
                self.lost.add(value)
                if self.random.random() < 0.7:  # else nobody has looked yet
                    self.lose(value)
            elif self.running:
                self.finish()
        for _ in range(100):  # who reads asks again and again
            self.post(l.TimeToRetry())
            for value in sorted(self.lost):
                if not self.machine.knows(value):
                    self.lose(value)
            while self.running:
                self.finish()
        assert not self.lost and not self.machine.work and not self.results


def test_whatever_is_lost_of_generators_comes_back_and_nothing_stays() -> None:
    runs = 0
    for seed in range(300):
        world = World(seed)
        world.play()
        runs += world.runs
    assert runs > 1000
