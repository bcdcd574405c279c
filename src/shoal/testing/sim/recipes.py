"""Simulated recipes: how a value was made stands beside it, as in ``native/lineage.cpp``.

A recipe lives as long as a value that it can make again, or a recipe that needs one of its values;
it keeps its arguments, or their recipes. Over the budget the oldest are emptied.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from shoal._core import lineage
from shoal.testing.sim.fakes import FakeTask
from shoal.testing.sim.memory import FakeMemory
from shoal.testing.sim.room import FakeValue
from shoal.testing.sim.spills import FakeSpilling

KEPT_AFTER_TRIM = 0.8


@dataclass(eq=False)
class FakeRecipe:
    """What a task was."""

    key: int
    task: FakeTask
    arguments: tuple[tuple[int, FakeValue | None, FakeRecipe | None], ...]
    """(key, the value or None, the recipe that stands for it)"""
    returns: tuple[int, ...]
    attempt: int
    charged: int
    users: int = 0
    """Values and recipes that need it."""
    is_kept: bool = True
    runs: list[FakeTask] = field(default_factory=list)
    """Its rebuilds."""

    @property
    def cost(self) -> float:
        return 1 + sum(value.size for _, value, _ in self.arguments if value is not None)


class FakeRecipes(FakeSpilling):
    """All recipes of node memory."""

    def __init__(
        self, world: FakeMemory, extents: int, budget: float, chance: random.Random
    ) -> None:
        self._memory = world
        self.budget = budget
        super().__init__(world, extents, chance)

    def _begin(self) -> None:
        super()._begin()
        self.recipes: dict[int, FakeRecipe] = {}

    def recipe_for(self, task: FakeTask) -> FakeRecipe | None:
        """What the results of this task, which has just run, are to hold."""
        if task.script.recipe is not None:
            return task.script.recipe
        if not task.max_retries or not self.budget:
            return None
        arguments = []
        for value in task.script.inputs:
            known = value.recipe
            arguments.append((value.key, None if known else value, known))
            if known is None:
                self.hold(value)
            else:
                known.users += 1
        returns = tuple(value.key for value in task.script.outputs)
        made = FakeRecipe(
            self._memory.new_key(), task, tuple(arguments), returns, task.attempt, task.charged
        )
        self.recipes[made.key] = made
        task.script.recipe = made
        return made

    def drop_recipe(self, recipe: FakeRecipe) -> None:
        """One fewer needs it; nothing recurses, however long the chain."""
        todo = [recipe]
        while todo:
            each = todo.pop()
            each.users -= 1
            assert each.users >= 0, each.key
            if not each.users and each.key in self.recipes:
                del self.recipes[each.key]
                todo += self._empty(each)

    def _empty(self, recipe: FakeRecipe) -> list[FakeRecipe]:
        arguments, recipe.arguments = recipe.arguments, ()
        for _, value, _ in arguments:
            if value is not None:
                self.hold(value, -1)
        return [known for _, _, known in arguments if known is not None]

    def on_freed(self, value: FakeValue) -> None:
        recipe, value.recipe = value.recipe, None
        if recipe is not None:
            self.drop_recipe(recipe)

    def trim(self) -> None:
        """The oldest are emptied while all of them keep too much."""
        kept = sum(recipe.cost for recipe in self.recipes.values() if recipe.is_kept)
        if kept <= self.budget:
            return
        spared = self.counted_on()
        for key in sorted(self.recipes):
            recipe = self.recipes.get(key)
            if kept <= KEPT_AFTER_TRIM * self.budget:
                return
            if recipe is not None and recipe.is_kept and key not in spared:
                kept -= recipe.cost
                recipe.is_kept = False
                self.counts["recipes dropped"] += 1
                for other in self._empty(recipe):
                    self.drop_recipe(other)

    def counted_on(self) -> set[int]:
        """Recipes that values count on which were given up (the layer above)."""
        raise NotImplementedError

    def row(self, recipe: FakeRecipe) -> lineage.Recipe:
        arguments = []
        for key, _, known in recipe.arguments:
            value = self.values.get(key)
            own = value.recipe if value is not None else known
            number = 0 if own is None else own.key
            is_lost = value is not None and value.is_lost
            arguments.append(lineage.Argument(key, value is not None, is_lost, number))
        return lineage.Recipe(
            key=recipe.key,
            is_kept=recipe.is_kept,
            attempt=recipe.attempt,
            charged=recipe.charged,
            max_retries=recipe.task.max_retries,
            function=0,
            has_queue=self.has_queue(recipe),
            is_call=False,
            arguments=tuple(arguments),
            returns=recipe.returns,
        )

    def recipe_of(self, value: FakeValue) -> FakeRecipe | None:
        """How it is made again."""
        return value.recipe

    def has_queue(self, recipe: FakeRecipe) -> bool:
        """Whether its task could be submitted."""
        queue = self._memory.queues.get(recipe.task.queue)
        return queue is not None and queue.dead_record is None

    def closure(self, first: FakeRecipe) -> list[lineage.Recipe]:
        found = {first.key: self.row(first)}
        todo = [found[first.key]]
        while todo:
            for argument in todo.pop().arguments:
                is_missing = argument.is_lost or not argument.is_live
                known = self.recipes.get(argument.recipe)
                if is_missing and known is not None and known.key not in found:
                    found[known.key] = self.row(known)
                    todo.append(found[known.key])
        return list(found.values())
