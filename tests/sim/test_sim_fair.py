"""Fairness, reservations and what an idle or busy node costs, on a simulated node."""

from __future__ import annotations

from shoal._base.config import NodeConfig
from shoal._core import resources
from shoal._proto import messages as m
from shoal.testing.sim import checkers
from shoal.testing.sim.fakes import FakeProcess, FakeTask, Script
from shoal.testing.sim.world import World


def node(cpus: float, seed: int = 1, **more: float) -> World:
    config = NodeConfig(
        session="fair",
        directory="/nowhere",
        node_id=b"simulated node 1",
        total={"CPU": cpus, **more},
        cores=int(cpus),
        started=True,
    )
    return World(seed, config)


class Load:
    """A driver that submits equal tasks of one class."""

    def __init__(
        self,
        world: World,
        count: int,
        duration_s: float,
        amounts: dict[str, float] | None = None,
        config: m.JobConfig | None = None,
    ) -> None:
        self.world = world
        self.tasks: list[FakeTask] = []
        asked = {"CPU": 1.0} if amounts is None else amounts

        def opened(body: m.Message, process: FakeProcess) -> None:
            assert isinstance(body, m.QueueOpened)
            world.queues[body.queue].amounts = resources.parse(asked)
            for _ in range(count):
                self.tasks.append(world.submit(body.queue, process.job, Script(duration_s), 0))

        def begin(process: FakeProcess) -> None:
            world.request(process, m.OpenQueue(asked), lambda body: opened(body, process))

        self.process = world.join_driver(config or m.JobConfig(), begin)

    @property
    def done(self) -> int:
        return sum(task.is_over for task in self.tasks)

    def first_wait_s(self) -> float:
        started = [t.started_at - t.submitted_at for t in self.tasks if t.started_at is not None]
        return min(started, default=float("inf"))


def test_two_jobs_share_equally() -> None:
    world = node(4)
    first = Load(world, 3000, 0.01)
    second = Load(world, 3000, 0.01)
    world.run(4.0)
    assert first.done + second.done > 0.8 * 4 * 4.0 / 0.01
    assert 0.75 < first.done / second.done < 1.33


def test_weight_is_a_ratio() -> None:
    world = node(4)
    light = Load(world, 4000, 0.01, config=m.JobConfig(weight=1.0))
    heavy = Load(world, 4000, 0.01, config=m.JobConfig(weight=3.0))
    world.run(4.0)
    assert 2.2 < heavy.done / light.done < 3.8


def test_priority_comes_first() -> None:
    world = node(4)
    low = Load(world, 2000, 0.01)
    world.run(1.0)
    before = low.done
    high = Load(world, 1000, 0.01, config=m.JobConfig(priority=1))
    world.run(3.0)
    assert high.done > 0.85 * 4 * 2.0 / 0.01
    assert low.done - before < 0.15 * 4 * 2.0 / 0.01


def test_newcomer_waits_for_one_task_and_one_tick() -> None:
    world = node(2)
    Load(world, 5000, 0.03)
    world.run(2.0)
    newcomer = Load(world, 1, 0.001)
    world.run(3.0)
    assert newcomer.first_wait_s() < 0.05 + 0.03 + 0.02


def test_old_job_is_not_punished_for_its_past() -> None:
    """Who was alone for long starts level with who comes later."""
    world = node(2)
    old = Load(world, 2000, 0.01)
    world.run(4.0)
    before = old.done
    Load(world, 2000, 0.01)
    world.run(6.0)
    assert old.done - before > 0.35 * 2 * 2.0 / 0.01


def test_large_request_is_served_by_reservation() -> None:
    world = node(4)
    Load(world, 20_000, 0.01)
    world.run(1.0)
    large = Load(world, 3, 0.01, {"CPU": 4.0})
    world.run(4.0)
    assert large.done == 3


def test_classes_of_one_job_take_turns() -> None:
    world = node(1)
    Load(world, 5000, 0.01)
    world.run(0.5)
    queue = world.submit  # a second class in the same job, by the same driver
    driver = next(p for p in world.processes.values() if p.is_driver)
    made: list[FakeTask] = []

    def opened(body: m.Message) -> None:
        assert isinstance(body, m.QueueOpened)
        world.queues[body.queue].amounts = resources.parse({"CPU": 0.5})
        made.extend(queue(body.queue, driver.job, Script(0.01), 0) for _ in range(10))

    world.request(driver, m.OpenQueue({"CPU": 0.5}), opened)
    world.run(3.0)
    assert all(task.is_over for task in made)


def test_tiny_tasks_do_not_wake_the_daemon() -> None:
    attached = []
    for seed in range(1, 5):
        world = node(8, seed)
        load = Load(world, 5_000, 5e-6)
        world.run(2.0)
        assert load.done == 5_000
        assert world.steps < 200
        attached.append(len([p for p in world.processes.values() if p.attached]))
    # A second one may have come before the first look could tell how short they are.
    assert max(attached) <= 2 and sum(attached) <= 6


def test_long_tasks_get_every_cpu_at_once() -> None:
    world = node(8)
    load = Load(world, 8, 1.0)
    world.run(0.2)
    waits = [t.started_at - t.submitted_at for t in load.tasks if t.started_at is not None]
    assert len(waits) == 8 and max(waits) < 0.06


def test_idle_node_does_nothing() -> None:
    world = node(4)
    load = Load(world, 1000, 0.001)
    world.run(30.0)
    assert load.done == 1000
    steps = world.steps
    world.run(1000.0)
    assert world.steps - steps < 10


def test_tiny_classes_are_limited_by_processes() -> None:
    world = node(1)
    load = Load(world, 100, 0.1, {})
    most = 0

    def count() -> None:
        nonlocal most
        running = [p for p in world.processes.values() if p.running and not p.is_blocked]
        most = max(most, len(running))
        world.after(0.005, count)

    count()
    world.run(3.0)
    assert load.done == 100
    assert 16 < most <= 32


def nested(depth: int) -> Script:
    script = Script(0.001)
    if depth:
        script.child, script.child_amounts = nested(depth - 1), {"CPU": 1.0}
    return script


def test_nested_waits_do_not_deadlock() -> None:
    world = node(1)
    tasks: list[FakeTask] = []

    def begin(process: FakeProcess) -> None:
        world.request(process, m.OpenQueue({"CPU": 1.0}), lambda body: submit(body, process))

    def submit(body: m.Message, process: FakeProcess) -> None:
        assert isinstance(body, m.QueueOpened)
        world.queues[body.queue].amounts = resources.parse({"CPU": 1.0})
        tasks.append(world.submit(body.queue, process.job, nested(10), 0))

    world.join_driver(m.JobConfig(), begin)
    world.run(5.0)
    assert tasks[0].is_over
    checkers.check_progress(world)


def test_session_ends_with_the_driver_that_started_it() -> None:
    config = NodeConfig(
        session="own", directory="/", node_id=b"n" * 16, total={"CPU": 2.0}, cores=2
    )
    world = World(3, config)
    load = Load(world, 100, 0.01)
    world.run(0.05)
    world.die(load.process, signal=9)
    world.run(1.0)
    assert world.end_reason is not None


def test_infeasible_fails_within_a_second_where_nobody_can_join() -> None:
    config = NodeConfig(
        session="own", directory="/", node_id=b"n" * 16, total={"CPU": 2.0}, cores=2
    )
    world = World(3, config)
    load = Load(world, 3, 0.01, {"GPU": 1.0})
    world.run(0.9)
    assert load.done == 0
    world.run(1.2)
    assert load.done == 3
    assert b"UnschedulableError" in load.tasks[0].record


def alone_s(count: int, duration_s: float, cpus: float) -> float:
    """How long a job takes on a node of its own."""
    world = node(cpus)
    load = Load(world, count, duration_s)
    world.run(100.0)
    return max(t.ended_at for t in load.tasks)


def test_a_small_job_is_done_in_the_time_of_half_the_node() -> None:
    """10,000 tasks of 10 ms, and 100 of another program a little later (RULES S-3)."""
    world = node(4)
    Load(world, 10_000, 0.01)
    world.run(1.0)
    second = Load(world, 100, 0.01)
    world.run(10.0)
    assert second.done == 100
    took = max(t.ended_at for t in second.tasks) - 1.0
    assert took < 1.5 * alone_s(100, 0.01, 2)


def test_a_task_of_the_whole_node_starts_within_two_seconds() -> None:
    world = node(4)
    stream = Load(world, 20_000, 0.01)
    world.run(1.0)
    large = Load(world, 1, 0.01, {"CPU": 4.0})
    world.run(4.0)
    assert large.first_wait_s() < 2.0
    assert stream.done > 0.7 * 4 * 4.0 / 0.01, "the stream is held up only shortly"


def test_a_group_of_the_whole_node_gets_its_place_beside_a_stream() -> None:
    world = node(4)
    Load(world, 20_000, 0.01)
    world.run(1.0)
    placed_at: list[float] = []

    def begin(process: FakeProcess) -> None:
        body = m.CreateGroup("g", [{"CPU": 2.0}, {"CPU": 2.0}], "PACK", waits=True)
        world.request(process, body, lambda answer: placed_at.append(world.now))

    world.join_driver(m.JobConfig(), begin)
    world.run(4.0)
    assert placed_at and placed_at[0] < 1.0 + 2.0
