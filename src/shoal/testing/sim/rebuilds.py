"""Simulated lineage: a lost value is made again by its task.

The real ``Lineage`` machine is inside; around it what ``_runtime.daemon_lineage`` does. A rebuild
is a real task of the simulated node: it waits for a worker, which may die.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from shoal._core import events as seen
from shoal._core import lineage
from shoal.testing.sim import value_checkers
from shoal.testing.sim.fakes import FakeTask, Script
from shoal.testing.sim.given_up import FakeGivenUp
from shoal.testing.sim.recipes import FakeRecipe
from shoal.testing.sim.room import FakeValue

DAEMON = (0, 0)
LOOK_S = 0.0002
NO_ROOM_RATE = 0.3
"""How often there is no room for a task that is submitted again."""


@dataclass(eq=False)
class Rebuild:
    """One more run of a recipe's task, and its results, which the daemon has for itself."""

    task: FakeTask
    results: tuple[FakeValue, ...]


class FakeRebuilds(FakeGivenUp):
    """Values that are made again when they are lost."""

    def _begin(self) -> None:
        super()._begin()
        self.lineage = lineage.Lineage(int(self.budget))
        self._results: dict[int, Rebuild] = {}
        self._held: dict[int, tuple[FakeRecipe, list[FakeValue]]] = {}
        self._running: dict[int, int] = {}
        """Key of the task of a rebuild -> its recipe."""
        self._todo: deque[lineage.AnyEvent] = deque()
        self._is_deciding = False

    def look(self, keys: Iterable[int]) -> None:
        keys = list(keys)
        super().look(keys)
        self.trim()
        for key in keys:
            value = self.values.get(key)
            if value is not None and value.is_lost and value.pins and not self.lineage.knows(key):
                self.lost(key, "it had left memory")

    def ended(self, task: FakeTask) -> None:
        """The daemon hears of the end of a rebuild by its bell."""
        if task.key in self._running:
            self._world.after(self._world.delay(LOOK_S), lambda: self._told(task.key))

    def _told(self, key: int) -> None:
        recipe = self._running.pop(key, None)
        if recipe is not None:
            self._decide(lineage.Ended(recipe))

    def lost(self, key: int, problem: str) -> None:
        value = self.values.get(key)
        if value is None or not value.is_away:
            return
        value.number = 0
        recipe = value.recipe
        if recipe is None:
            self._decide(lineage.Lost(key, problem, why_not="nothing knows how it was made"))
            return
        rows = self.closure(recipe)
        for each in rows:
            if each.key not in self.lineage.work:
                live = [
                    found
                    for name, _, _ in self.recipes[each.key].arguments
                    if (found := self.values.get(name)) is not None
                ]
                for one in live:
                    self.hold(one)
                self.recipes[each.key].users += 1
                self._held[each.key] = (self.recipes[each.key], live)
        self._decide(lineage.Lost(key, problem, recipe.key, tuple(rows)))
        for name in [name for name in self._held if name not in self.lineage.work]:
            self._let_held_go(name)

    def _let_held_go(self, name: int) -> None:
        held = self._held.pop(name, None)
        if held is not None:
            for value in held[1]:
                self.hold(value, -1)
            self.drop_recipe(held[0])

    def arguments_in_use(self) -> set[int]:
        inputs = [self._results[name].task.script.inputs for name in self._running.values()]
        return {value.key for each in inputs for value in each}

    def task_of_rebuild(self, name: int) -> int:
        """The task that runs for it now."""
        return self._results[name].task.key

    def _decide(self, event: lineage.AnyEvent) -> None:
        self._todo.append(event)
        if self._is_deciding:
            return
        self._is_deciding = True
        while self._todo:
            event = self._todo.popleft()
            self.told(event)
            for command in self.lineage.step(self._world.now, event):
                self.told(command)
                self._carry_out(command)
        self._is_deciding = False
        self.lineage.validate()

    def _carry_out(self, command: lineage.AnyCommand) -> None:
        match command:
            case lineage.Submit():
                self._submit(command)
            case lineage.Fill():
                self._fill(command)
            case lineage.Forget():
                self._let_held_go(command.recipe)
                self._forget(command.recipe)
            case lineage.GiveUp():
                self.counts["given up"] += 1
                value_checkers.check_given_up(self, command.key, command.reason)
                self.back(command.key)
                self._memory.feed(seen.ValueLost(command.key, command.reason))
            case lineage.RetryAt():
                at = command.at - self._world.now
                self._world.after(at, lambda: self._decide(lineage.TimeToRetry()))

    def _submit(self, command: lineage.Submit) -> None:
        recipe = self.recipes.get(command.recipe)
        made = {
            name: value
            for source in command.sources
            for name, value in zip(
                self._names_of(source), self._results[source].results, strict=True
            )
        }
        keys = () if recipe is None else tuple(key for key, _, _ in recipe.arguments)
        inputs = [self.values.get(key) or made.get(key) for key in keys]
        if recipe is None or not self.has_queue(recipe) or None in inputs or not recipe.is_kept:
            self._todo.append(lineage.Refused(command.recipe, "what it needs has gone"))
            return
        if self.chance.random() < NO_ROOM_RATE:
            self._todo.append(lineage.NoRoomFor(command.recipe))
            return
        value_checkers.check_rebuild(recipe)
        self._run(recipe, tuple(value for value in inputs if value is not None))
        self._let_held_go(command.recipe)

    def _names_of(self, name: int) -> tuple[int, ...]:
        """What the results of a rebuild were called in their first life."""
        recipe = self._results[name].task.script.recipe
        assert recipe is not None
        return recipe.returns

    def _run(self, recipe: FakeRecipe, inputs: tuple[FakeValue, ...]) -> None:
        first = recipe.task
        sizes = {value.key: value for value in first.script.outputs}
        results = tuple(
            FakeValue(self._memory.new_key(), sizes[key].size, 0, sizes[key].expected)
            for key in recipe.returns
        )
        for value in results:
            self.add(value)
            self.pin(value, DAEMON)
            self.hold(value)
        for value in inputs:
            self.hold(value)
        recipe.users += 1
        old = first.script
        script = Script(
            old.duration_s,
            crashes=old.crashes,
            raises=old.raises,
            inputs=inputs,
            outputs=results,
            recipe=recipe,
            function=old.function,
            appetite=old.appetite,
        )
        recipe.attempt += 1
        recipe.charged += 1
        self._results[recipe.key] = Rebuild(first, results)
        task = self._memory.submit_again(first, script, recipe.attempt, recipe.charged)
        self._results[recipe.key].task = task
        recipe.runs.append(task)
        self._running[task.key] = recipe.key
        if task.is_over:
            self.ended(task)

    def _fill(self, command: lineage.Fill) -> None:
        self._take_over(command)
        self.back(command.key)

    def _take_over(self, command: lineage.Fill) -> None:
        """The value has what its rebuild has made."""
        rebuild = self._results[command.recipe]
        names = dict(zip(self._names_of(command.recipe), rebuild.results, strict=True))
        value, source = self.values.get(command.key), names[command.key]
        if value is None or not value.is_lost or not source.is_sealed:
            return
        if source.is_away or (source.place is None and not source.record):
            return  # it has left for a file itself, or was taken over already
        value.place, source.place = source.place, None
        value.record, source.record = source.record, b"taken over"
        value.content = source.content
        if value.place is not None:
            value.place.tenants[value.place.tenants.index(source)] = value
        if value.record:
            self.on_freed(value)
        self.counts["rebuilt"] += 1
        self.tell(value)

    def _forget(self, name: int) -> None:
        rebuild = self._results.pop(name, None)
        if rebuild is not None:
            for value in rebuild.results:
                self.unpin(value, DAEMON)
            recipe = rebuild.task.script.recipe
            assert recipe is not None
            self.drop_recipe(recipe)

    def lose(self, key: int, record: bytes) -> None:
        """Nothing brings it back: its readers get the record."""
        value = self.values.get(key)
        if value is None or not value.is_away:
            return
        value.record = record
        self.on_freed(value)
        self.tell(value)
