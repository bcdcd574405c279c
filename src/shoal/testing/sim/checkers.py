"""What must be true of a simulated node, looked at from outside.

The checkers read the fakes (what processes really do), never the machine's own books.

* Never more of a resource is in use than the node has, except CPUs of tasks that have been blocked
  and go on (RULES S-7).
* No GPU id is given twice: shares of the processes that are alive.
* A worker takes only from queues of the job it is bound to (S-10).
* A worker takes only from queues that want the environment it has, and only while that is there.
* A task is run by one process at a time, an actor has one process at a time.
* At the end every task has ended, and everything has been given back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shoal._core import resources
from shoal.testing.sim.fakes import FakeProcess, FakeQueue, FakeTask

if TYPE_CHECKING:
    from shoal.testing.sim.workers import FakeWorkers
    from shoal.testing.sim.world import World


class Violation(AssertionError):
    """A rule of RULES.md is broken."""


def check(world: World) -> None:
    """After every step."""
    used: dict[str, int] = {}
    excess = 0
    gpus: dict[str, int] = {}
    actors: set[str] = set()
    for process in world.processes.values():
        if process.is_driver or process.assignment is None:
            continue
        amounts = _held(world, process)
        for name, units in amounts:
            if name == resources.CPU and (process.is_blocked and process.running):
                continue
            used[name] = used.get(name, 0) + units
        if process.has_resumed and not process.is_blocked:
            excess += resources.units_of(amounts, resources.CPU)
        _count_gpus(world, process, gpus)
        if process.actor is not None:
            if process.actor.actor_id in actors:
                raise Violation(f"two processes of actor {process.actor.actor_id}")
            actors.add(process.actor.actor_id)
    for name, units in used.items():
        total = resources.units_of(world.total, name)
        if units > total + (excess if name == resources.CPU else 0):
            raise Violation(f"{name}: {units} units in use, {total} exist")
    _check_debt(world, used.get(resources.CPU, 0))
    if world.groups:
        check_groups(world)
    for gpu, units in gpus.items():
        if units > resources.UNIT:
            raise Violation(f"GPU id {gpu} given out {units / resources.UNIT} times")


DEBT_S = 2.0
"""So soon somebody is asked to give CPU back that is used beyond what there is."""


def _check_debt(world: World, cpu: int) -> None:
    """A task that goes on after it was blocked may bring CPU use above the total: then workers are
    asked to let go after their task, however long that takes."""
    total = resources.units_of(world.total, resources.CPU)
    if cpu > total:
        cpu -= sum(
            resources.units_of(_held(world, process), resources.CPU)
            for process in world.processes.values()
            if process.assigned != process.attached and not process.is_blocked
        )
    if cpu <= total:
        world.overused_since = None
    elif world.overused_since is None:
        world.overused_since = world.now
    elif world.since(world.overused_since) > DEBT_S:
        raise Violation(f"too much CPU in use since {world.overused_since}")


def check_groups(world: World) -> None:
    """What runs in a group uses no more than the group has; what does not, leaves it alone.

    A group counts from when its maker was told until anybody has asked for its end; what is still
    running in it afterwards is an ordinary user of the node.
    """
    living = {
        group_id: resources.sum_of(resources.parse(bundle) for bundle in group.bundles)
        for group_id, group in world.groups.items()
        if group.is_ready and group.removed_at is None
    }
    used: dict[tuple[str, str], int] = {}
    excess: dict[str, int] = {}
    for process in world.processes.values():
        if process.is_driver or process.assignment is None:
            continue
        group_id = process.assignment.group if process.assignment.group in living else ""
        amounts = _held(world, process)
        for name, units in amounts:
            if name != resources.CPU or not (process.is_blocked and process.running):
                used[group_id, name] = used.get((group_id, name), 0) + units
        if process.has_resumed and not process.is_blocked:
            cpu = resources.units_of(amounts, resources.CPU)
            excess[group_id] = excess.get(group_id, 0) + cpu
    for (group_id, name), units in used.items():
        if group_id:
            most = resources.units_of(living[group_id], name)
        else:
            most = resources.units_of(world.total, name)
            most -= sum(resources.units_of(size, name) for size in living.values())
        if units > most + (excess.get(group_id, 0) if name == resources.CPU else 0):
            where = f"group {group_id}" if group_id else "outside of groups"
            raise Violation(f"{name}: {units} units in use {where}, {most} are there")


def check_groups_progress(world: World) -> None:
    """Nothing has happened for long: a group that would fit has its place."""
    free = dict(resources.parse(world.config.total))
    for group in world.groups.values():
        if group.is_ready and group.removed_at is None:
            for name, units in resources.sum_of(map(resources.parse, group.bundles)):
                free[name] -= units
    for process in world.processes.values():
        is_inside = process.assignment is not None and process.assignment.group
        if process.assignment is not None and not is_inside and (process.actor or process.running):
            for name, units in _held(world, process):
                free[name] -= units
    for group_id, group in world.groups.items():
        if group.is_ready or group.removed_at is not None or not group.is_possible:
            continue
        asked = resources.sum_of(map(resources.parse, group.bundles))
        has_gpus = resources.units_of(asked, resources.GPU)
        if not has_gpus and all(free.get(name, 0) >= units for name, units in asked):
            raise Violation(f"group {group_id} fits and has no place")


GROUP_END_S = 0.05
"""Time for the processes of a removed group to be killed."""


def _check_group_of(world: FakeWorkers, process: FakeProcess, queue: FakeQueue) -> None:
    assert process.assignment is not None
    own = process.assignment.group
    if queue.group is not None and queue.actor_id == "" and queue.group != own:
        raise Violation(f"a task for group {queue.group!r} is taken in group {own!r}")
    group = world.groups.get(own)
    if group is None or group.removed_at is None:
        return
    if world.since(group.removed_at) > GROUP_END_S:
        raise Violation(f"something runs in group {own}, which was removed")


def _held(world: World, process: FakeProcess) -> resources.Amounts:
    if process.actor is not None:
        return resources.parse(process.actor.spec.hold)
    queue = world.queues.get(process.attached)
    return () if queue is None else queue.amounts


def _count_gpus(world: World, process: FakeProcess, gpus: dict[str, int]) -> None:
    assert process.assignment is not None
    ids = process.assignment.gpu_ids
    if process.actor is not None:
        asked = process.actor.spec.hold.get("GPU", 0.0)
    else:
        asked = process.assignment.resources.get("GPU", 0.0)
    for gpu in ids:
        share = round(asked * resources.UNIT / len(ids))
        gpus[gpu] = gpus.get(gpu, 0) + share
    if asked and not ids:
        raise Violation(f"asked for {asked} GPUs and got no id")


def check_alarm(world: World, at: float) -> None:
    """An alarm for now is allowed once or twice, not for ever."""
    world.alarms_now = world.alarms_now + 1 if at <= world.now else 0
    if world.alarms_now > 3:
        raise Violation(f"alarm after alarm at {world.now}: something is due and never done")


def check_assignment(world: FakeWorkers, process: FakeProcess) -> None:
    """A process is told what it is for."""
    assert process.assignment is not None
    if process.assignment.actor is not None and process.assignment.job == 0:
        raise Violation("an actor without a job")


LATE_S = 0.05
"""Time for the alarm, and for words on their way."""


def check_take(world: FakeWorkers, process: FakeProcess, queue: FakeQueue, task: FakeTask) -> None:
    """A worker takes a task."""
    assert process.assignment is not None
    if task.state != "QUEUED":
        raise Violation(f"task {task.key} is taken while it is {task.state}")
    is_actor_queue = queue.actor_id != "" or queue.kind == 2
    if not is_actor_queue and queue.job != process.assignment.job:
        raise Violation(
            f"worker of job {process.assignment.job} takes from a queue of job {queue.job}"
        )
    if is_actor_queue and (process.actor is None or queue.queue not in process.limits()):
        raise Violation("somebody else takes an actor's call")
    if is_actor_queue and 0 <= task.max_retries < task.attempt - 1:
        raise Violation(
            f"a call with {task.max_retries} retries is run for the {task.attempt}th time"
        )
    if task.cancelled_at is not None:
        raise Violation(f"{task} was cancelled, and begins")
    # The daemon of the node decides it, and hears of a task that comes too late already (a child of
    # who runs on after its own time) when it is submitted, not before.
    if task.deadline is not None:
        known_at = max(task.deadline, task.submitted_at)
        if world.since(known_at) > LATE_S:
            raise Violation(f"{task} begins after its time is over")
    if not is_actor_queue and process.actor is not None:
        raise Violation("an actor takes a plain task")
    if (task.key, task.attempt) in world.taken:
        raise Violation(f"attempt {task.attempt} of task {task.key} is run a second time")
    world.taken.add((task.key, task.attempt))
    if process.actor is not None:
        _check_order(process, queue, task)
    if queue.dead_record is not None:
        raise Violation("a task of a dead queue is taken")
    _check_group_of(world, process, queue)
    environment = process.assignment.environment
    if queue.env not in (None, "" if environment is None else environment.key):
        raise Violation(f"a task for environment {queue.env!r} is taken in {environment}")
    is_made = environment is not None and environment.has_to_be_made()
    if is_made and environment is not None and environment.key not in world.environments:
        raise Violation(f"{environment} is used and not there")


def _check_order(process: FakeProcess, queue: FakeQueue, task: FakeTask) -> None:
    """Calls of one caller begin in the order in which it made them (DESIGN section 6)."""
    if process.limits().get(queue.queue) != 1:
        return
    earlier = [other.key for other in queue.entries if other.job == task.job]
    if any(key < task.key for key in earlier):
        raise Violation(f"call {task.key} begins before an earlier one of its caller")


def check_all_over(world: World) -> None:
    """Nothing is left unfinished."""
    for task in world.tasks.values():
        if not task.is_over:
            queue = world.queues.get(task.queue)
            raise Violation(
                f"task {task.key} of job {task.job} is {task.state} for ever; queue {queue}; "
                f"story {world.machine.story(f'queue {task.queue}')[-5:]}"
            )
        if task.state == "FAILED" and not task.record:
            raise Violation(f"task {task.key} failed without a cause")


def check_progress(world: World) -> None:
    """Faults have stopped long ago: what has not ended waits for something that nobody has."""
    for task in world.tasks.values():
        queue = world.queues.get(task.queue)
        if task.is_over or queue is None:
            continue
        known = world.machine.tables.scheduler.held.queues.get(task.queue)
        if known is not None and not known.is_feasible:
            continue
        group = world.groups.get(queue.group or "")
        if group is not None and not group.is_ready and group.removed_at is None:
            continue
        if task.script.child is not None:
            continue
        raise Violation(f"{task} does not get on; {_why(world, task)}")


def _why(world: World, task: FakeTask) -> str:
    scheduler = world.machine.tables.scheduler
    known = scheduler.held.queues.get(task.queue)
    names = ("wants", "entries", "is_armed")
    facts = {} if known is None else {name: getattr(known, name) for name in names}
    return (
        f"queue {facts}; free {scheduler.held.account.free}; waiting {len(scheduler.waiting)}; "
        f"story {world.machine.story(f'queue {task.queue}')[-5:]}"
    )


def check_given_back(world: World) -> None:
    """All drivers have left: what the machine held for them is gone."""
    t = world.machine.tables
    if t.account.free != t.account.total:
        raise Violation(f"free {t.account.free} of {t.account.total}")
    left = {
        "jobs": t.jobs.running,
        "queues": t.scheduler.held.queues,
        "asks": t.scheduler.asks,
        "actors": t.actors.living,
        "adopted": world.adopted,
        "freeing": t.freeing,
        "doomed": t.doomed,
        "tickets": t.tickets,
        "groups": t.groups.living,
        "groups that end": t.groups.ending,
        "bundles": t.scheduler.held.accounts.bundles,
        "waits for groups": t.groups.waits,
        "environments": t.environments.entries,
        "environments in use": world.environments,
        "cancels under way": t.cancels.asked,
        "cancelled tasks": t.cancels.running,
    }
    for what, things in left.items():
        if things:
            raise Violation(f"{what} left: {things}")
    bound = [p for p in world.processes.values() if not p.is_driver and p.assignment is not None]
    if bound:
        raise Violation(f"workers left: {bound}")
    live = [q for q in world.queues.values() if q.actor_id == "" and q.kind == 1]
    if live:
        raise Violation(f"queues left in memory: {live}")
