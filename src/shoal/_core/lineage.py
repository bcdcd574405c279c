"""How lost values are made again: the deciding machine of lineage.

::

    Lost -> Submit ... -> (a task runs) -> Ended -> Fill, Submit (who waited for it), Forget
         -> GiveUp                                  nobody can make it again, and why

A *recipe* is what a task was (``native/lineage.cpp``); its key names it here. It owns ``work``: the
recipes that are being run again, which lost values each of them fills, and who waits for whom.

Rules:

1. A recipe runs at most once at a time, whoever has lost how many of its results. Only lost results
   are filled; the others stay as they are.
2. A recipe runs when every argument of it is there: one that is lost too is filled first, one that
   is gone (nobody but lineage knew it) is made again for as long as it is needed. Nothing recurses:
   ``Lost`` brings all recipes that may be needed, in any order.
3. A rebuild is one more attempt of the same task, counted by the same ``max_retries``. Before
   anything runs it is looked whether all of it may: half a rebuild would be for nothing.
4. Each lost value is filled or given up exactly once for each time that it is lost.
5. The results of a rebuild stay until the tasks that are given them have ended: one for which there
   is no room is submitted again. A result fills one value once. Who loses it again meanwhile asks
   again (readers do), and is served when the rebuild that has it is forgotten: so nobody keeps one
   who may himself wait for a value that was filled by it.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

RETRY_S = 0.05
"""Until a task is submitted again for whose arguments there was no room."""
CHAIN_MOST = 10_000
"""Tasks that one lost value may need; more is no rebuild but the whole program again."""


class Argument(msgspec.Struct, frozen=True):
    """One argument of a recipe."""

    key: int
    is_live: bool
    """Its slot is there, with a value or without."""
    is_lost: bool
    recipe: int
    """What makes it again; 0: nothing."""


class Recipe(msgspec.Struct, frozen=True):
    """What a task was."""

    key: int
    is_kept: bool
    """False: it was emptied, as lineage has a budget."""
    attempt: int
    charged: int
    max_retries: int
    function: int
    has_queue: bool
    is_call: bool
    """Of an actor."""
    arguments: tuple[Argument, ...]
    returns: tuple[int, ...]


class Lost(msgspec.Struct, frozen=True):
    """A value is gone. ``why_not``: nothing can make it again, and why."""

    key: int
    problem: str
    recipe: int = 0
    recipes: tuple[Recipe, ...] = ()
    """Its own and all that may be needed for it."""
    why_not: str = ""


class Ended(msgspec.Struct, frozen=True):
    """The task of a rebuild has ended, with values or an error."""

    recipe: int


class Refused(msgspec.Struct, frozen=True):
    """A task could not be submitted, for good."""

    recipe: int
    problem: str


class NoRoomFor(msgspec.Struct, frozen=True):
    """A task could not be submitted now."""

    recipe: int


class TimeToRetry(msgspec.Struct, frozen=True):
    """The alarm of ``RetryAt``."""


AnyEvent = Lost | Ended | Refused | NoRoomFor | TimeToRetry


class Submit(msgspec.Struct, frozen=True):
    """Run the task of a recipe once more; arguments that are gone come from ``sources``."""

    recipe: int
    sources: tuple[int, ...]
    """Recipes whose results are kept for this."""


class Fill(msgspec.Struct, frozen=True):
    """The lost value is there again: a result of this recipe."""

    key: int
    recipe: int


class Forget(msgspec.Struct, frozen=True):
    """Nobody needs the results of this rebuild any more."""

    recipe: int


class GiveUp(msgspec.Struct, frozen=True):
    """The readers of a value are told that it is lost, and why."""

    key: int
    reason: str


class RetryAt(msgspec.Struct, frozen=True):
    """Come back at that time."""

    at: float


AnyCommand = Submit | Fill | Forget | GiveUp | RetryAt


class Work(msgspec.Struct):
    """A recipe that is being run again."""

    recipe: Recipe
    lost: dict[int, str] = {}
    """Values that it fills -> what has happened to them."""
    waits_for: set[int] = set()
    sources: tuple[int, ...] = ()
    users: set[int] = set()
    """Recipes that need this one, and have not ended yet."""
    filled: set[int] = set()
    """Values that have been given its results: there is nothing left for them."""
    state: str = "waiting"
    """Or "running", "ended"."""


class Lineage:
    """Decides; ``budget`` is the bytes that lineage may keep, for what people are told."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self.work: dict[int, Work] = {}
        self._kept: dict[int, None] = {}
        """Those that have ended, and whose results are needed."""
        self._to_retry: list[int] = []

    def step(self, now: float, event: AnyEvent) -> list[AnyCommand]:
        """What has happened; what is to be done."""
        match event:
            case Lost():
                return self._lost(event)
            case Ended():
                return self._ended(event.recipe)
            case Refused():
                return self._refused(event)
            case NoRoomFor():
                self._to_retry.append(event.recipe)
                return [RetryAt(now + RETRY_S)] if len(self._to_retry) == 1 else []
            case TimeToRetry():
                again, self._to_retry = self._to_retry, []
                return [self._submit(key) for key in again if key in self.work]

    def knows(self, key: int) -> bool:
        """Whether the lost value ``key`` is being made again."""
        return any(key in work.lost for work in self.work.values() if work.state != "ended")

    def work_for(self, key: int) -> tuple[Work, int, list[int]] | None:
        """What is being done for the lost value ``key``: its own work, how many others come before
        it, and those of all of them that run now."""
        works = self.work.values()
        mine = next((w for w in works if key in w.lost and w.state != "ended"), None)
        if mine is None:
            return None
        order = [mine.recipe.key]
        for name in order:  # grows while it is walked
            order += [other for other in sorted(self.work[name].waits_for) if other not in order]
        running = [name for name in order if self.work[name].state == "running"]
        return mine, len(order) - 1, running

    # ---- what is lost
    def _lost(self, event: Lost) -> list[AnyCommand]:
        if event.why_not:
            return [GiveUp(event.key, f"{event.problem}; {event.why_not}")]
        recipes = {recipe.key: recipe for recipe in event.recipes}
        known = self.work.get(event.recipe)
        if known is not None:
            known.lost[event.key] = event.problem
            if known.state != "ended":
                return []
            del known.lost[event.key]
            return self._fill(known, [event.key])
        needed = self._needed(event.recipe, recipes)
        for key in needed:
            if key not in self.work and (problem := self._problem_of(recipes.get(key))):
                return [GiveUp(event.key, f"{event.problem}; {problem}")]
        if self._has_spent(needed, recipes):
            return []
        return self._begin(event, needed, recipes)

    def _needed(self, root: int, recipes: dict[int, Recipe]) -> list[int]:
        """The recipes that must run, ``root`` first."""
        order = [root]
        seen = {root}
        for key in order:  # grows while it is walked
            recipe = recipes.get(key)
            if recipe is None or key in self.work:
                continue
            for argument in _missing(recipe):
                if argument.recipe not in seen:
                    seen.add(argument.recipe)
                    order.append(argument.recipe)
        return order

    def _problem_of(self, recipe: Recipe | None) -> str:
        if recipe is None:
            return "an argument of its task is gone, and nothing is known of how it was made"
        if not recipe.is_kept:
            return (
                f"its lineage was dropped: what can be kept for rebuilding is {self._budget:,}"
                " bytes (init(lineage_bytes=))"
            )
        if 0 <= recipe.max_retries <= recipe.charged:
            tried = recipe.charged + 1
            limit = "max_task_retries" if recipe.is_call else "max_retries"
            return (
                f"its task has run {tried} times already, and {limit}={recipe.max_retries}"
                " allows no more"
            )
        if not recipe.has_queue and recipe.is_call:
            return "the actor whose method returned it has ended"
        if not recipe.has_queue:
            return "its task cannot run again: the job or the placement group of it has ended"
        if any(not argument.recipe for argument in _missing(recipe)):
            return "an argument of its task is gone, and nothing is known of how it was made"
        return ""

    def _has_spent(self, needed: Iterable[int], recipes: dict[int, Recipe]) -> bool:
        """Whether a value was filled, and is lost again while others need that rebuild."""
        return any(
            argument.is_live and argument.key in self.work[argument.recipe].filled
            for key in needed
            if key not in self.work
            for argument in _missing(recipes[key])
            if argument.recipe in self.work
        )

    def _fill(self, work: Work, keys: Iterable[int]) -> list[AnyCommand]:
        fresh = [key for key in keys if key not in work.filled]
        work.filled.update(fresh)
        return [Fill(key, work.recipe.key) for key in fresh]

    def _begin(
        self, event: Lost, needed: Iterable[int], recipes: dict[int, Recipe]
    ) -> list[AnyCommand]:
        fresh = [key for key in needed if key not in self.work]
        for key in fresh:
            self.work[key] = Work(recipes[key])
        self.work[event.recipe].lost[event.key] = event.problem
        out: list[AnyCommand] = []
        for key in fresh:
            out += self._link(self.work[key])
        return [*out, *self._go_on(fresh)]

    def _link(self, work: Work) -> list[AnyCommand]:
        """Make it wait for what it needs; fill what is there already."""
        out: list[AnyCommand] = []
        sources = []
        for argument in _missing(work.recipe):
            other = self.work[argument.recipe]
            is_there = other.state == "ended"
            if not argument.is_live:
                sources.append(argument.recipe)
            elif is_there:
                out += self._fill(other, [argument.key])
            else:
                other.lost.setdefault(argument.key, "an argument of a task that runs again")
            if not is_there:
                work.waits_for.add(argument.recipe)
            other.users.add(work.recipe.key)
        work.sources = tuple(dict.fromkeys(sources))
        return out

    def _go_on(self, keys: Iterable[int]) -> list[AnyCommand]:
        """Submit those of ``keys`` that wait for nothing; forget what nobody needs any more."""
        out: list[AnyCommand] = []
        for key in keys:
            work = self.work[key]
            if work.state == "waiting" and not work.waits_for:
                out.append(self._submit(key))
                self._let_go(work)
        for key in [key for key in self._kept if not self.work[key].users]:
            del self.work[key], self._kept[key]
            out.append(Forget(key))
        return out

    def _let_go(self, work: Work) -> None:
        """Arguments that were filled are their own masters: were one lost again, it is made again,
        while the task that reads it waits for it."""
        kept = set(work.sources)
        for argument in _missing(work.recipe):
            if argument.recipe not in kept:
                self.work[argument.recipe].users.discard(work.recipe.key)

    def _submit(self, key: int) -> Submit:
        work = self.work[key]
        work.state = "running"
        return Submit(key, work.sources)

    # ---- what has come of it
    def _ended(self, key: int) -> list[AnyCommand]:
        work = self.work.get(key)
        if work is None or work.state != "running":
            return []
        work.state = "ended"
        self._kept[key] = None
        out = self._fill(work, work.lost)
        work.lost = {}
        for argument in _missing(work.recipe):
            if argument.recipe in self.work:
                self.work[argument.recipe].users.discard(key)
        users = sorted(work.users)
        for user in users:
            self.work[user].waits_for.discard(key)
        return [*out, *self._go_on(users)]

    def _refused(self, event: Refused) -> list[AnyCommand]:
        """Everything that waits for it is given up too."""
        out: list[AnyCommand] = []
        doomed = [event.recipe]
        for key in doomed:  # grows while it is walked
            work = self.work.pop(key, None)
            self._kept.pop(key, None)
            if work is not None:
                reasons = {lost: f"{was}; {event.problem}" for lost, was in work.lost.items()}
                out += [GiveUp(lost, reason) for lost, reason in reasons.items()]
                out.append(Forget(key))
                doomed += sorted(work.users)
        for work in self.work.values():
            work.users.difference_update(doomed)
        return [*out, *self._go_on(())]

    def validate(self) -> None:
        """Assert what must hold between steps."""
        assert {k for k, work in self.work.items() if work.state == "ended"} == set(self._kept)
        for key, work in self.work.items():
            for other in work.waits_for:
                assert key in self.work[other].users and self.work[other].state != "ended"
            for user in work.users:
                assert self.work[user].state != "ended"
            assert work.state != "ended" or (work.users and not work.lost)
            assert bool(work.waits_for) == (work.state == "waiting")


def _missing(recipe: Recipe) -> list[Argument]:
    return [argument for argument in recipe.arguments if argument.is_lost or not argument.is_live]
