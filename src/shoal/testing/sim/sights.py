"""What the simulated daemon sees of its fakes for an explanation, as ``daemon_sights`` does.

A program that has nothing left to do waits for its tasks; a task for its child, its consumer, for
room, or for a value that is not in memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from shoal._core import commands as do
from shoal._core import events as seen
from shoal._core.sight_rows import Away, ProcessSight, TaskSight
from shoal.testing.sim.fakes import FakeProcess, FakeTask
from shoal.testing.sim.spills import EXTENT_BYTES

if TYPE_CHECKING:
    from shoal.testing.sim.room import FakeValue
    from shoal.testing.sim.world import World

CELL = 1 << 40
"""Added to a stream's key: what its consumer gives when it has taken an item."""


def look(world: World, command: do.Inspect) -> seen.Inspected:
    """Perform ``Inspect``."""
    values = world.values
    held = None
    if command.has_holders:
        held = tuple(
            (index, sum(int(value.size * EXTENT_BYTES) for value in owned))
            for index, owned in world.handles.items()
        )
    return seen.Inspected(
        command.ticket,
        tuple(_of_key(world, key) for key in command.tasks),
        tuple(_of_process(world, index) for index in command.processes),
        tuple(_of_queue(world, number) for number in command.queues),
        values.used * EXTENT_BYTES,
        values.extents * EXTENT_BYTES,
        held,
    )


def child_of(world: World, task: FakeTask) -> FakeTask | None:
    """What it waits for in its middle."""
    if task.script.child is None or task.state != "RUNNING":
        return None
    children = (each for each in world.tasks.values() if each.parent == task.key)
    return next((each for each in children if not each.is_over), None)


def waits_for_consumer(world: World, task: FakeTask) -> bool:
    """It is a stream whose consumer has not taken enough of it."""
    return task.script.is_stream and world.stream_of(task).is_full


def wish_of(world: World, process: FakeProcess) -> tuple[bool, FakeValue | None]:
    """Whether it sleeps for room, and the value that it sleeps for."""
    has_wish = any(wish.owner[0] == process.index for wish in world.values.wishes)
    mine = (wish.value for wish in world.values.readers if wish.owner[0] == process.index)
    return has_wish, next(mine, None)


def _of_process(world: World, index: int) -> ProcessSight:
    process = world.processes.get(index)
    if process is None:
        return ProcessSight(index)
    waits_for_room, value = wish_of(world, process)
    waits_for = 0 if value is None else value.key
    watched = list(process.watched)
    for task in process.running:
        child = child_of(world, task)
        if child is not None:
            watched.append(child.key)
        elif waits_for_consumer(world, task):
            waits_for = CELL + task.key
    return ProcessSight(
        index,
        process.pid,
        waits_for=waits_for,
        waits_for_room=waits_for_room,
        running=tuple(task.key for task in process.running),
        watched=tuple(key for key in watched if not world.tasks[key].is_over),
        is_blocked=process.is_blocked,
        is_stopped=process.stopped_until > world.now,
    )


def _of_queue(world: World, number: int) -> seen.QueueState:
    queue = world.queues.get(number)
    if queue is None:
        return seen.QueueState(number, 0, 0)
    return seen.QueueState(number, len(queue.entries), queue.takes)


def _of_key(world: World, key: int) -> TaskSight:
    if key >= CELL:
        return _of_cell(world, world.tasks[key - CELL])
    task = world.tasks.get(key)
    if task is not None:
        return _of_task(world, task)
    value = world.values.values.get(key)
    if value is None:
        return TaskSight(key, is_gone=True)
    if value.is_sealed:
        ancestry = (0, 0, 0, 0)
        return TaskSight(
            key,
            format=1,
            is_error=bool(value.record),
            ancestry=ancestry,
            away=_away(world, value) if value.is_away else None,
        )
    maker = next((each for each in world.tasks.values() if value in each.script.outputs), None)
    if maker is None:
        return TaskSight(key, is_cell=True, ancestry=(0, 0, 0, 0))
    return msgspec.structs.replace(_of_task(world, maker), key=key, format=0)


def _of_cell(world: World, stream: FakeTask) -> TaskSight:
    is_given = stream.is_over or not world.stream_of(stream).is_full
    return TaskSight(
        CELL + stream.key,
        is_cell=True,
        format=int(is_given),
        ancestry=(0, 0, stream.job, 0),
    )


def _of_task(world: World, task: FakeTask) -> TaskSight:
    queue = world.queues.get(task.queue)
    is_call = queue is not None and queue.kind == do.QUEUE_ACTOR
    driver = next(
        (
            each.index
            for each in world.processes.values()
            if each.is_driver and each.job == task.job
        ),
        -1,
    )
    return TaskSight(
        task.key,
        task=task.key,
        format=int(task.is_over),
        is_error=task.state == "FAILED",
        stage="" if task.is_over else task.state.lower(),
        attempt=task.attempt,
        worker=task.runner,
        is_call=is_call,
        is_stream=task.script.is_stream,
        queue=task.queue,
        job=task.job,
        parent=task.parent,
        deadline=task.deadline or 0.0,
        submitted=task.submitted_at,
        taken=task.started_at or 0.0,
        owner=driver if not task.parent else -1,
        ancestry=(task.key, 0, task.job, 0),
    )


def _away(world: World, value: FakeValue) -> Away:
    if value.number:
        return Away(file="a file", is_wanted=bool(value.pins))
    found = world.values.lineage.work_for(value.key)
    if found is None:
        return Away()
    work, before, running = found
    tasks = [world.values.task_of_rebuild(name) for name in running]
    return Away(
        is_wanted=True,
        problem=work.lost[value.key],
        attempt=work.recipe.attempt + 1,
        attempts_most=max(0, work.recipe.max_retries + 1),
        task=tasks[0] if tasks else 0,
        before=before,
    )
