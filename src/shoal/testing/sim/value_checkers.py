"""What must be true of values, looked at from outside: who reads, what the disk has, what ran.

* **Exact** (``check_read``): who reads a value gets what was made, or an error; never other bytes.
* **Bounded** (``check_room``): no more memory is given out than there is.
* **Kept whole** (``check_values``): a value that is not in memory stands in a file, or is lost and
  somebody works at it; nothing that is looked at leaves.
* **Refused last** (``check_refusal``): room is refused only if nothing could leave.
* **Given up last** (``check_given_up``): a value is given up only if its task may not run again.
* **Never lost by choice** (``check_choice``, ``check_given_away``, ``check_runs_set_aside``): what
  leaves for nowhere, as there is no room, can be made again; no more than is asked for leaves, and
  what a task waits for leaves last. Later it is lost only if something else has happened to it.
* **At most so often** (``check_rebuild``): a task runs as often as ``max_retries`` says, and never
  beside itself.
* **Everything goes** (``check_nothing_left``): after the last ref memory and files are empty.
* **Nobody waits for ever** (``check_nobody_waits``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from shoal.testing.sim.checkers import Violation

if TYPE_CHECKING:
    from shoal._core import evicting
    from shoal.testing.sim.given_up import FakeGivenUp
    from shoal.testing.sim.rebuilds import FakeRebuilds
    from shoal.testing.sim.recipes import FakeRecipe
    from shoal.testing.sim.room import FakeRoom, FakeValue
from shoal.testing.sim.spills import FakeSpilling

TROUBLE_S = 1.0
"""After a disk has refused something, room may be refused too."""


def check_read(value: FakeValue) -> None:
    """Somebody reads a value that is there."""
    if value.is_freed:
        raise Violation(f"value {value.key} is read, and was freed")
    if value.content != value.expected:
        raise Violation(f"value {value.key} has other bytes than were made")


def check_room(values: FakeRoom) -> None:
    """Memory was given out."""
    if values.used > values.extents:
        raise Violation(f"{values.used} extents in use, {values.extents} exist")


def check_moves_once(moving: Mapping[int, object], value: FakeValue) -> None:
    """A value begins to leave, or to come back."""
    if value.key in moving:
        raise Violation(f"value {value.key} moves, and is moving already")


def check_values(values: FakeSpilling) -> None:
    """Spilling has decided something."""
    for value in values.values.values():
        if value.is_away and value.number:
            record = values.disk.records.get(value.number)
            if record is None or record.key != value.key:
                raise Violation(f"value {value.key} stands in no file and in no memory")


def check_leaves(value: FakeValue) -> None:
    """Its memory is given back."""
    if value.pins:
        raise Violation(f"value {value.key} leaves while {sorted(value.pins)} look at it")


def check_refusal(values: FakeSpilling, missing: int) -> None:
    """Those who wait for room are told that there will be none."""
    disk = values.disk
    if disk.is_full or disk.is_failing or values.since(disk.troubled_at) < TROUBLE_S:
        return
    could_leave = sum(unit.n_extents for unit in values.units())
    if could_leave >= missing:
        raise Violation(f"{missing} extents are refused, and {could_leave} could leave for files")


def check_given_up(values: FakeRebuilds, key: int, reason: str) -> None:
    """The readers of a value will be told that it is lost."""
    value = values.values.get(key)
    if value is None or not value.is_away:
        return
    if value.number and not values.disk.is_damaged(value.number):
        raise Violation(f"value {key} is given up, and its file is whole: {reason}")
    if _can_be_made(values, value, set()):
        raise Violation(f"value {key} is given up, and its task may run again: {reason}")
    recipe = values.recipe_of(value)
    is_over = recipe is None or not values.has_queue(recipe)
    if key in values.given_up() and not is_over and not values.counts["lost"]:
        raise Violation(f"value {key} was given up to have room, and is lost now: {reason}")


def _can_be_made(values: FakeRebuilds, value: FakeValue, seen: set[int]) -> bool:
    from_recipe = values.recipe_of(value)
    return from_recipe is not None and _may_run(values, from_recipe, seen)


def _may_run(values: FakeRebuilds, recipe: FakeRecipe, seen: set[int]) -> bool:
    if recipe.key in seen:
        return True
    seen.add(recipe.key)
    if any(not run.is_over for run in recipe.runs):
        return True
    most = recipe.task.max_retries
    if not recipe.is_kept or not values.has_queue(recipe) or 0 <= most <= recipe.charged:
        return False
    for key, _, known in recipe.arguments:
        argument = values.values.get(key)
        if argument is not None and not argument.is_lost:
            continue
        made_by = known if argument is None else values.recipe_of(argument)
        if made_by is None or not _may_run(values, made_by, seen):
            return False
    return True


def check_choice(values: FakeGivenUp, chosen: Sequence[evicting.Unit], n_extents: int) -> None:
    """These are about to be given up, as so many extents are missing."""
    sizes = [unit.n_extents for unit in chosen]
    if sizes and sum(sizes) - sizes[-1] >= n_extents:
        raise Violation(f"{sum(sizes)} extents are given up for {n_extents}")
    needed, in_use = values.needed(), values.arguments_in_use()
    gone = {unit.place for unit in chosen}
    is_all_easy = {
        unit.place: all(_is_surely_made(values, values.values[key]) for key in unit.keys)
        and not (needed | in_use).intersection(unit.keys)
        for unit in values.units()
    }
    left = [place for place, is_easy in is_all_easy.items() if is_easy and place not in gone]
    if left and sum(sizes) < n_extents:
        raise Violation(f"{n_extents} extents are missing, and place {left[0]} could be given up")
    early = [unit.place for unit in chosen if needed.intersection(unit.keys)]
    if left and early:
        raise Violation(f"place {early[0]} is given up before place {left[0]}, and is needed")


def check_runs_set_aside(values: FakeGivenUp) -> None:
    """Some values were given up: all that are out can be made again, one after the other."""
    counted: dict[int, int] = {}
    for key in values.given_up():
        value = values.values.get(key)
        if value is None or value.recipe is None or not value.is_lost:
            continue
        for recipe in _all_that_run(values, value.recipe):
            counted[recipe.key] = counted.get(recipe.key, 0) + 1
    for name, count in counted.items():
        recipe = values.recipes[name]
        left = recipe.task.max_retries - recipe.charged
        is_running = name in values.lineage.work
        if recipe.task.max_retries < 0 or is_running or values.counts["lost"]:
            continue
        if count > left:
            task = recipe.task.key
            raise Violation(f"{count} values count on task {task}, which may run {left} times")


def _all_that_run(values: FakeGivenUp, first: FakeRecipe) -> list[FakeRecipe]:
    found = [first]
    for recipe in found:  # grows while it is walked
        for key, _, known in recipe.arguments:
            if values.values.get(key) is None and known is not None and known not in found:
                found.append(known)
    return found


def check_given_away(values: FakeGivenUp, value: FakeValue) -> None:
    """It is about to be given up."""
    if not values.may_leave(value):
        raise Violation(f"value {value.key} is given up, and cannot leave: {value.pins}")
    if value.key in values.arguments_in_use():
        raise Violation(f"value {value.key} is given up, and a task that runs again reads it")
    if value.recipe is None:
        raise Violation(f"value {value.key} is given up, and nothing knows how it was made")
    if problem := _problem_of(values, value.recipe, set()):
        raise Violation(f"value {value.key} is given up, and not to be made again: {problem}")


def _problem_of(values: FakeGivenUp, recipe: FakeRecipe, seen: set[int]) -> str:
    """Why its task could not run once more now."""
    if recipe.key in seen:
        return ""
    seen.add(recipe.key)
    name = f"task {recipe.task.key}"
    if not recipe.is_kept or not values.has_queue(recipe):
        return f"{name} is not known any more, or its job is over"
    if 0 <= recipe.task.max_retries <= recipe.charged:
        return f"{name} has used its retries up"
    for key, _, known in recipe.arguments:
        value = values.values.get(key)
        if value is not None and value.record:
            return f"value {key}, which {name} reads, is an error"
        if value is not None and (not value.is_lost or values.lineage.knows(key)):
            continue
        made_by = known if value is None else value.recipe
        if made_by is None:
            return f"value {key}, which {name} reads, is gone"
        if problem := _problem_of(values, made_by, seen):
            return problem
    return ""


def _is_surely_made(values: FakeGivenUp, value: FakeValue) -> bool:
    """As often as you like, of what is in memory."""
    recipe = value.recipe
    if recipe is None or not recipe.is_kept or not values.has_queue(recipe):
        return False
    there = [values.values.get(key) for key, _, _ in recipe.arguments]
    is_whole = all(each is not None and each.place is not None for each in there)
    return recipe.task.max_retries < 0 and is_whole


def check_rebuild(recipe: FakeRecipe) -> None:
    """Its task is about to be submitted once more."""
    if any(not run.is_over for run in recipe.runs):
        raise Violation(f"task {recipe.task.key} is made again twice at the same time")
    runs = 1 + len(recipe.runs)
    if 0 <= recipe.task.max_retries < runs:
        raise Violation(
            f"task {recipe.task.key} has run {runs} times with {recipe.task.max_retries} retries"
        )


def check_nobody_waits(values: FakeRebuilds) -> None:
    """Nothing has gone wrong for long."""
    if values.wishes:
        raise Violation(f"{len(values.wishes)} wait for room for ever: {values.wishes[0]}")
    for wish in values.readers:
        if wish.value is not None and wish.value.is_away:
            raise Violation(f"process {wish.owner[0]} waits for value {wish.value.key} for ever")
    if values.lineage.work:
        raise Violation(f"recipes {sorted(values.lineage.work)} are being made again for ever")


def check_nothing_left(values: FakeRebuilds) -> None:
    """All have left."""
    left = {
        "values": values.values,
        "memory": values.places,
        "records in files": values.disk.records,
        "known to be out": values.machine.out,
        "known copies": values.machine.copies,
        "recipes": values.recipes,
        "given up": values.given_up(),
        "runs set aside": values.evictions.out,
        "rebuilds": values.lineage.work,
        "wishes": values.wishes,
        "readers": values.readers,
        "what processes were writing": values.claims,
    }
    for what, things in left.items():
        if things:
            raise Violation(f"{what} left: {str(things)[:300]}")
