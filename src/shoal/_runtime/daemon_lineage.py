"""Lineage as the daemon does it: what the machine of ``_core.lineage`` decides, done to memory.

::

    a file with a value is damaged (daemon_spill)     -> lost()
    bell: somebody reads a value that was evicted      -> lost()
          the task of a rebuild has ended              -> Ended
    the node that a result stayed on is lost (bridge)  -> gone(): lost() when somebody reads it
          recipes keep more than the budget            -> the oldest are emptied

A lost value has a block word that says so, and its readers sleep (``native/spill.cpp``). The
results of a rebuild are slots of the daemon's own, pinned until they are taken over. A rebuild may
be run by another node, and its results may stay there, as those of its first run did. Nothing here
is on anybody's way: without a loss this is one look at a flag per bell.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Container

import msgspec

from shoal._base import clock
from shoal._core import events, lineage
from shoal._core.sight_rows import Away
from shoal._native import Memory, Rebuilt
from shoal._proto import messages
from shoal._runtime.daemon_given_up import GivenUp, to_recipe
from shoal._runtime.daemon_loop import Loop
from shoal._runtime.daemon_standing import Behind

KEPT_AFTER_TRIM = 0.8
"""Of the budget, so that not every recipe that comes makes another go."""
ITEMS_SHARE = 0.2
"""Of the store: so much may be made by one more run of a generator, which has all of it at once."""
ITEMS_MOST = 1000
SHARE_OF_STORE = 0.1
BYTES_MOST = 1 << 30
"""The default budget: this share of the store, at most so many bytes."""


def budget_of(given: int | None, capacity_bytes: int) -> int:
    """Bytes that lineage may keep."""
    return given if given is not None else min(BYTES_MOST, int(SHARE_OF_STORE * capacity_bytes))


class LostValues:
    """Makes lost values again, or says why not."""

    def __init__(
        self, loop: Loop, memory: Memory, most: int, post: Callable[[events.AnyEvent], None]
    ) -> None:
        """``most`` is the budget in bytes; ``post`` takes events for the node's machine.

        ``make_room`` warms memory before the daemon writes; ``first`` is shown the inbox before us;
        ``jobs`` are those that run. ``made_again`` is called with a value that was filled, and with
        what it was filled.
        """
        self._loop = loop
        self._memory = memory
        self._most = most
        self._tell = post
        self.make_room: Callable[[], None] = lambda: None
        self.first: Callable[[list[int]], None] = lambda keys: None
        self.jobs: Callable[[], Container[int]] = tuple
        self.made_again: Callable[[int, int], None] = lambda key, by: None
        memory.lineage_most = most
        self._machine = lineage.Lineage(most)
        self._results: dict[int, Rebuilt] = {}
        """By recipe."""
        self._names: dict[int, tuple[int, ...]] = {}
        """What they were called in their first life, by recipe."""
        self._held: dict[int, list[object]] = {}
        """By run, until it is submitted: refs to its recipe and to what is there of its
        arguments."""
        self._uses: dict[int, list[int]] = {}
        """By recipe: the arguments that its task has, until it has ended."""
        self._running: dict[int, int] = {}
        """Key of the first result of a task that runs -> its recipe."""
        self.behind = Behind(loop, memory, self._running)
        self._events: deque[lineage.AnyEvent] = deque()
        self._is_stepping = False
        self._problems: dict[int, str] = {}
        """By value that was lost beside another one: what has happened to it."""
        self.given_up = GivenUp(memory)
        self.given_up.in_use = lambda: {key for keys in self._uses.values() for key in keys}
        self.counts = {"rebuilt": 0, "given_up": 0, "dropped": 0}

    # ---- what is seen
    def gone(self, key: int, problem: str) -> bool:
        """The value of ``key`` was on a node that is lost: it is made again when somebody reads it.
        False: it is a result of a rebuild, which nobody makes again by itself."""
        if any(key in result.keys for result in self._results.values()):
            return False
        memory = self._memory
        if not memory.set_lost(key):
            return True  # it was freed meanwhile
        memory.tell_restored()  # readers ask again
        found = memory.spilled(key)
        if memory.recipe_of(key) is None or (found is not None and found[2]):
            self.lost(key, problem)
        else:
            self._problems[key] = problem
        return True

    def want(self, key: int) -> bool:
        """Have the value of ``key`` made again, if it is lost; False: it is not."""
        if not self._memory.is_lost(key):
            return False
        if not self._machine.knows(key):
            text = "it had left memory, as there was no room for it"
            self.lost(key, self._problems.pop(key, text))
        return True

    def lost(self, key: int, problem: str) -> None:
        """The value of ``key``, which is in no memory, is gone from where it was."""
        if not self._memory.set_lost(key):
            return  # it was freed meanwhile
        found = self._memory.recipe_of(key)
        if found is None:
            self._post(lineage.Lost(key, problem, why_not=self._why_not(key)))
            return
        recipes = self._closure(to_recipe(found))
        if len(recipes) > lineage.CHAIN_MOST:
            why_not = f"more than {lineage.CHAIN_MOST:,} tasks would have to run again for it"
            self._post(lineage.Lost(key, problem, why_not=why_not))
            return
        keeping: dict[int, list[object]] = {
            name: [
                self._memory.ref(name),
                *(self._memory.ref(a.key) for a in recipe.arguments if a.is_live),
            ]
            for name, recipe in recipes.items()
        }
        item, others = self._items(key, found[0])
        rows = tuple(recipes.values())
        self._post(lineage.Lost(key, problem, found[0], rows, item=item, others=others))
        for name, work in self._machine.work.items():
            refs = keeping.get(lineage.recipe_of(name))
            if refs is not None and work.state != "ended" and name not in self._results:
                self._held.setdefault(name, refs)
        if item is None:
            problems, returns = self._problems, recipes[found[0]].returns
            # All are taken out first: each of them has the others beside it too.
            beside = [(k, problems.pop(k)) for k in returns if k in problems]
            for other, text in beside:
                self.lost(other, text)

    def _items(self, key: int, recipe: int) -> tuple[lineage.Item | None, tuple[lineage.Item, ...]]:
        """Which item of a generator ``key`` is, if it is one; and those that are lost as well: they
        come with it, those behind it first, as whoever reads goes forward."""
        row = self._memory.item(key)
        if row is None:
            return None, ()
        mine = lineage.Item(*row)
        others = [lineage.Item(*each) for each in self._memory.items_away(recipe)]
        others = [
            each
            for each in others
            if each.key != key
            and lineage.LIST not in (mine.number, each.number)
            and self._memory.is_lost(each.key)
        ]
        others.sort(key=lambda each: (each.number < mine.number, each.number))
        bytes_left = int(ITEMS_SHARE * self._memory.capacity_bytes)
        chosen = []
        for each in others[:ITEMS_MOST]:
            found = self._memory.spilled(each.key)
            bytes_left -= found[1] if found is not None else 0
            if bytes_left < 0:
                break
            chosen.append(each)
        return mine, tuple(chosen)

    def lost_beside(self, key: int, others: list[int], problem: str) -> list[int]:
        """Those of ``others``, which are gone from their files as ``key`` is, that the same task
        makes again in the same run: they are lost from now on."""
        memory = self._memory
        found = memory.recipe_of(key)
        if found is None:
            return []
        recipe = to_recipe(found)
        same = {row[0] for row in memory.items_away(recipe.key)} or set(recipe.returns)
        lost = [other for other in others if other in same and memory.set_lost(other)]
        self._problems = {k: text for k, text in self._problems.items() if memory.is_lost(k)}
        self._problems.update(dict.fromkeys(lost, problem))
        return lost

    def look(self, keys: list[int]) -> None:
        """Slots out of the inbox: somebody wants a value that was evicted; and what has ended."""
        self.first(keys)
        memory = self._memory
        if memory.lineage_over:
            most = int(KEPT_AFTER_TRIM * self._most)
            self.counts["dropped"] += memory.trim_lineage(most, self.given_up.recipes())
        for key in keys:
            self.given_up.look(key)
            if memory.is_lost(key) and not self._machine.knows(key):
                found = memory.spilled(key)
                if found is not None and found[2]:
                    self.want(key)
        if self._running:
            pending = set(memory.unsealed(list(self._running)))
            for key in [key for key in self._running if key not in pending]:
                recipe = self._running.pop(key)
                self._uses.pop(recipe, None)
                self._post(lineage.Ended(recipe))

    def rebuild_of(self, key: int) -> Away | None:
        """How the lost value is being made again; None: nobody does, as nobody has wanted it."""
        found = self._machine.work_for(key)
        if found is None:
            return None
        work, before, running = found
        tasks = [self._results[name].keys[0] for name in running if name in self._results]
        most = work.recipe.max_retries
        return Away(
            is_wanted=True,
            problem=work.lost[key],
            attempt=work.recipe.attempt + 1,
            attempts_most=most + 1 if most >= 0 else 0,
            task=tasks[0] if tasks else 0,
            before=before,
        )

    def _closure(self, first: lineage.Recipe) -> dict[int, lineage.Recipe]:
        found = {first.key: first}
        todo = [first]
        while todo and len(found) <= lineage.CHAIN_MOST:
            for argument in todo.pop().arguments:
                is_missing = argument.is_lost or not argument.is_live
                if not is_missing or not argument.recipe or argument.recipe in found:
                    continue
                row = self._memory.recipe(argument.recipe)
                if row is not None:
                    found[argument.recipe] = to_recipe(row)
                    todo.append(found[argument.recipe])
        jobs = self.jobs()
        for key, recipe in found.items():
            if not recipe.has_queue and recipe.job not in jobs:
                found[key] = msgspec.structs.replace(recipe, has_job=False)
        return found

    def _why_not(self, key: int) -> str:
        ancestry = self._memory.ancestry(key)
        if ancestry is None or not ancestry[3]:
            return (
                "it was made by put, or yielded by a generator that may not run again"
                " (max_retries=0), so no task can make it again"
            )
        if not self._most:
            return "no lineage is kept (init(lineage_bytes=0))"
        if ancestry[1]:
            return (
                "an actor's method returned it, and what an actor has done is not done again"
                " (max_task_retries=0)"
            )
        return "its task may not run again (max_retries=0)"

    # ---- decisions
    def _post(self, event: lineage.AnyEvent) -> None:
        self._events.append(event)
        if self._is_stepping:
            return
        self._is_stepping = True
        while self._events:
            self._loop.guard(self._step, self._events.popleft())
        self._is_stepping = False

    def _step(self, event: lineage.AnyEvent) -> None:
        for command in self._machine.step(clock.now(), event):
            self._perform(command)

    def _perform(self, command: lineage.AnyCommand) -> None:
        match command:
            case lineage.Submit():
                self._submit(command)
            case lineage.Fill():
                self._fill(command)
            case lineage.Forget():
                self._held.pop(command.recipe, None)
                self._results.pop(command.recipe, None)
                self._names.pop(command.recipe, None)
            case lineage.GiveUp():
                self._give_up(command)
            case lineage.RetryAt():
                self._loop.call_at(command.at, lambda: self._post(lineage.TimeToRetry()))

    def _submit(self, command: lineage.Submit) -> None:
        row = self._memory.recipe(lineage.recipe_of(command.recipe))
        if row is None:
            self._events.append(lineage.Refused(command.recipe, "its lineage is gone", "dropped"))
            return
        recipe = to_recipe(row)
        made = {
            name: key
            for source in command.sources
            for name, key in zip(self._names[source], self._results[source].keys, strict=True)
        }
        keys = [a.key if a.is_live else made.get(a.key, 0) for a in recipe.arguments]
        self.make_room()
        items = [(item.key, item.number) for item in command.items]
        result = self._memory.rebuild(recipe.key, keys, items)
        if isinstance(result, Rebuilt):
            self._results[command.recipe] = result
            self._names[command.recipe] = tuple(key for key, _ in items) or recipe.returns
            self._running[result.keys[0]] = command.recipe
            self._uses[command.recipe] = keys
            self.behind.begun()
            if result.left_s >= 0:
                watch = messages.WatchDeadline(result.keys[0], result.left_s)
                self._tell(events.Requested(0, 0, watch))
            self._held.pop(command.recipe, None)
        elif result is None:
            problem = "its task can not run again: what it needs has gone meanwhile"
            self._events.append(lineage.Refused(command.recipe, problem, "no_queue"))
        else:
            self._events.append(lineage.NoRoomFor(command.recipe))

    def _fill(self, command: lineage.Fill) -> None:
        keys = dict(
            zip(self._names[command.recipe], self._results[command.recipe].keys, strict=True)
        )
        if self._memory.fill(command.key, keys[command.key]):
            self.counts["rebuilt"] += 1
            self.made_again(command.key, keys[command.key])
        self.given_up.back(command.key)

    def _give_up(self, command: lineage.GiveUp) -> None:
        print(f"a value is lost: {command.reason}", file=sys.stderr, flush=True)
        self.counts["given_up"] += 1
        self.given_up.back(command.key)
        self.make_room()
        ancestry = self._memory.ancestry(command.key)
        self._tell(events.ValueLost(command.key, command.reason, ancestry, command.kind))

    def row(self) -> dict[str, int]:
        """For people and tests: how many, and how much."""
        return {**self.counts, "evicted_bytes": self.given_up.evicted_bytes}

    def close(self) -> None:
        """Let go of everything, before memory is closed."""
        self._results.clear()
        self._held.clear()
        self.given_up.close()
