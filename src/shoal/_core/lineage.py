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
6. A generator's run makes those of its items that were asked for before it was submitted. Who asks
   later waits for another run, which has a name of its own (``recipe_of``): one of the first run's
   users may be the one who asks. Each item may be made again ``max_retries`` times. A large list
   of its refs is item ``LIST``, which another run makes: the whole task once more.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

RETRY_S = 0.05
"""Until a task is submitted again for whose arguments there was no room."""
_NO_ARGUMENT = (
    "an argument of its task is gone, and nothing is known of how it was made",
    "no_argument",
)
LIST = 0x7FFFFFFF
"""Number of the list that a generator has returned (``native/layout.hpp``)."""
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
    number: int = 0
    """Which item of a generator it is,"""
    times: int = 0
    """and how often it was made again."""


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
    is_generator: bool = False
    """Its items are made again, each run some of them."""
    job: int = 0
    has_job: bool = True
    """False: the job has ended."""


class Item(msgspec.Struct, frozen=True):
    """What a generator has yielded: which one, and how often it was made again."""

    key: int
    number: int
    times: int = 0


class Lost(msgspec.Struct, frozen=True):
    """A value is gone. ``why_not``: nothing can make it again, and why."""

    key: int
    problem: str
    recipe: int = 0
    recipes: tuple[Recipe, ...] = ()
    """Its own and all that may be needed for it."""
    why_not: str = ""
    item: Item | None = None
    """Of a generator: which one it is,"""
    others: tuple[Item, ...] = ()
    """and those of it that are lost too, as far as they should be made by the same run."""


class Ended(msgspec.Struct, frozen=True):
    """The task of a rebuild has ended, with values or an error."""

    recipe: int


class Refused(msgspec.Struct, frozen=True):
    """A task could not be submitted, for good."""

    recipe: int
    problem: str
    kind: str = ""


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
    items: tuple[Item, ...] = ()
    """Of a generator: what it is to make."""


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
    kind: str = ""
    """As of ``causes.object_lost``."""


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
    items: dict[int, Item] = {}
    """Of a generator: what it is to make, by key."""


_OF_LIST = 1 << 64
"""In the names of runs that make a list."""
_RUN = 65


def recipe_of(name: int) -> int:
    """The recipe that a run is of. The first run of each is called as it."""
    return name & (_OF_LIST - 1)


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
        root, recipes = self._named(event)
        known = self.work.get(root)
        if event.item is not None and (known is None or known.state == "waiting"):
            recipe = recipes[root] if known is None else known.recipe
            if problem := _problem_of_item(recipe, event.item.times):
                return [GiveUp(event.key, f"{event.problem}; {problem}", "used_up")]
        if known is not None:
            if known.state == "ended":
                return self._fill(known, [event.key])
            self._want(known, event)
            return []
        needed = self._needed(root, recipes)
        for key in needed:
            if key not in self.work and (why := self._problem_of(recipes.get(key), recipes)):
                return [GiveUp(event.key, f"{event.problem}; {why[0]}", why[1])]
        if self._has_spent(needed, recipes):
            return []
        return self._begin(event, root, needed, recipes)

    def _named(self, event: Lost) -> tuple[int, dict[int, Recipe]]:
        """Its recipe and all others, where a generator has the name of the run that is to make the
        item in question."""
        recipes = {recipe.key: recipe for recipe in event.recipes}
        generators = {key for key, recipe in recipes.items() if recipe.is_generator}
        if not generators:
            return event.recipe, recipes
        fresh: dict[int, int] = {}

        def name_of(recipe: int, key: int, number: int) -> int:
            if recipe not in generators:
                return recipe
            return self._run_for(recipe, key, number == LIST, fresh)

        root = name_of(event.recipe, event.key, event.item.number if event.item else 0)
        for key, recipe in recipes.items():
            arguments = [
                msgspec.structs.replace(a, recipe=name_of(a.recipe, a.key, a.number))
                if _is_missing(a)
                else a
                for a in recipe.arguments
            ]
            recipes[key] = msgspec.structs.replace(recipe, arguments=tuple(arguments))
        for name in fresh.values():
            recipes[name] = msgspec.structs.replace(recipes[recipe_of(name)], key=name)
        return root, recipes

    def _run_for(self, recipe: int, key: int, is_list: bool, fresh: dict[int, int]) -> int:
        """The run of a generator that makes item ``key``, or can be told to; else a new one."""
        first = recipe | _OF_LIST if is_list else recipe
        for name, work in self.work.items():
            makes_it = key in work.items and key not in work.filled
            is_like_it = name & (_OF_LIST * 2 - 1) == first
            if is_like_it and (makes_it or work.state == "waiting"):
                return name
        if first not in fresh:
            name, number = first, 0
            while name in self.work:
                number += 1
                name = first | number << _RUN
            fresh[first] = name
        return fresh[first]

    def _want(self, work: Work, event: Lost) -> None:
        """``work`` is to fill what is lost, and of a generator the others."""
        work.lost[event.key] = event.problem
        if event.item is None or work.state != "waiting":
            return
        work.items[event.key] = event.item
        for other in event.others:
            if not self.knows(other.key) and not _problem_of_item(work.recipe, other.times):
                work.items[other.key] = other
                work.lost[other.key] = event.problem

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

    def _problem_of(
        self, recipe: Recipe | None, recipes: dict[int, Recipe]
    ) -> tuple[str, str] | None:
        """Why it cannot run again, and the kind of that reason; None: it can."""
        if recipe is None:
            return _NO_ARGUMENT
        if not recipe.is_kept:
            return (
                f"its lineage was dropped: what can be kept for rebuilding is {self._budget:,}"
                " bytes (init(lineage_bytes=))"
            ), "dropped"
        if 0 <= recipe.max_retries <= recipe.charged:
            tried = recipe.charged + 1
            return (
                f"its task has run {tried} times already, and {_limit_of(recipe)} allows no more"
            ), "used_up"
        if not recipe.has_job:
            return "the job of its task has ended, so it cannot run again", "no_queue"
        if not recipe.has_queue and recipe.is_call:
            return "the actor whose method returned it has ended", "no_queue"
        if not recipe.has_queue:
            # A queue that recipes name goes only where there is no other one (RULES S-15).
            return (
                "its task cannot run again: its placement group was removed, or its queue was"
                " given up, as there were as many kinds of tasks (options, environment) as there"
                " may be"
            ), "no_queue"
        for argument in _missing(recipe):
            if not argument.recipe:
                return _NO_ARGUMENT
            source = recipes.get(argument.recipe)
            if source is not None and (problem := _problem_of_item(source, argument.times)):
                return f"an argument of its task cannot be made again: {problem}", "used_up"
        return None

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
        self, event: Lost, root: int, needed: Iterable[int], recipes: dict[int, Recipe]
    ) -> list[AnyCommand]:
        fresh = [key for key in needed if key not in self.work]
        for key in fresh:
            self.work[key] = Work(recipes[key])
        self._want(self.work[root], event)
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
            if other.recipe.is_generator and other.state == "waiting":
                item = Item(argument.key, argument.number, argument.times)
                other.items.setdefault(argument.key, item)
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
        items = sorted(work.items.values(), key=lambda item: item.number)
        return Submit(key, work.sources, tuple(items))

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
                out += [GiveUp(lost, reason, event.kind) for lost, reason in reasons.items()]
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


def _is_missing(argument: Argument) -> bool:
    return argument.is_lost or not argument.is_live


def _missing(recipe: Recipe) -> list[Argument]:
    return [argument for argument in recipe.arguments if _is_missing(argument)]


def _problem_of_item(recipe: Recipe, times: int) -> str:
    """Why an item that was made again so often is not made once more; empty: it is."""
    if not recipe.is_generator or not 0 <= recipe.max_retries <= recipe.charged + times:
        return ""
    made = recipe.charged + times + 1
    return (
        f"its generator has run {made} times for it already, and {_limit_of(recipe)} allows no more"
    )


def _limit_of(recipe: Recipe) -> str:
    name = "max_task_retries" if recipe.is_call else "max_retries"
    return f"{name}={recipe.max_retries}"
