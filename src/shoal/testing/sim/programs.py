"""What simulated drivers do: random programs that use everything the machine decides about."""

from __future__ import annotations

from typing import Any

import msgspec

from shoal._core import resources
from shoal._proto import messages as m
from shoal._proto.environments import Environment, Packages
from shoal.testing.sim.fakes import FakeProcess, FakeTask, Script
from shoal.testing.sim.stalls import FakeStallWatch
from shoal.testing.sim.world import World

CLASSES: tuple[dict[str, float], ...] = (
    {"CPU": 1.0},
    {"CPU": 1.0},
    {"CPU": 2.0},
    {"CPU": 0.5},
    {},
    {"CPU": 0.01},
    {"CPU": 1.0, "GPU": 1.0},
    {"GPU": 0.25},
    {"CPU": 1.0, "disk": 1.0},
)


ENVIRONMENTS: tuple[Environment | None, ...] = (
    None,
    None,
    None,
    Environment(key="plain", env_vars={"A": "1"}),
    Environment(key="built", packages=Packages("built")),
    Environment(key="broken", packages=Packages("broken")),
)


def key_of(environment: Environment | None) -> str:
    """What a worker must have."""
    return "" if environment is None else environment.key


class Program:
    """One driver's life."""

    share_of_tasks = 0.6

    def __init__(self, world: World, name: str, bursts: int, chaos: float) -> None:
        self.world = world
        self.name = name
        self.bursts = bursts
        self.chaos = chaos
        """How likely something goes wrong."""
        self.actors: list[m.ActorInfo] = []
        self.calls: dict[str, list[FakeTask]] = {}
        self.tasks: list[FakeTask] = []
        self.lifetimes: list[int] = []
        """Keys that handles of its actors hold."""
        self.process = world.join_driver(m.JobConfig(entrypoint=name), self.begin)
        self.watch = FakeStallWatch(world, self.process) if world.has_stall_watches else None

    def begin(self, process: FakeProcess) -> None:
        """The driver has its job."""
        self.next_burst()

    def next_burst(self) -> None:
        """Do one thing, then another a little later."""
        world, random = self.world, self.world.random
        if self.process.index not in world.processes:
            return
        if self.process.stopped_until > world.now:
            world.after(self.process.stopped_until - world.now, self.next_burst)
            return
        if self.bursts == 0:
            self.leave()
            return
        self.bursts -= 1
        kind = random.random()
        if kind < self.share_of_tasks:
            self.submit_burst()
        elif kind < 0.85 or not self.actors:
            self.create_actor()
        else:
            self.end_an_actor()
        if random.random() < self.chaos * 0.05:
            world.after(world.delay(0.05), lambda: world.die(self.process, signal=9))
        world.after(world.delay(0.05), self.next_burst)

    # ---- tasks
    def script(self, depth: int = 0) -> Script:
        """A random task."""
        random = self.world.random
        script = Script(min(0.3, random.lognormvariate(-7.0, 2.0)))
        if random.random() < self.chaos * 0.1:
            script.crashes = random.choice((1, 1, 2, 10))
        elif random.random() < self.chaos * 0.1:
            script.raises = 1
        if depth < 2 and random.random() < 0.1:
            script.child = self.script(depth + 1)
            script.child_amounts = random.choice(({"CPU": 1.0}, {"CPU": 0.5}, {}))
        return script

    def strategy(self) -> m.Strategy:
        """Where the next thing is to run."""
        return m.Default()

    def submit_burst(self) -> None:
        """Open a queue and submit some tasks."""
        random = self.world.random
        amounts = random.choice(CLASSES)
        if random.random() < self.chaos * 0.03:
            amounts = {"CPU": 1e6}
        environment = random.choice(ENVIRONMENTS)
        strategy = self.strategy()

        def opened(body: m.Message) -> None:
            if not isinstance(body, m.QueueOpened):
                return
            queue = self.world.queues.get(body.queue)
            if queue is not None:
                queue.amounts = resources.parse(amounts)
                queue.env = key_of(environment)
                queue.group = getattr(strategy, "group_id", "")
            for _ in range(random.choice((1, 3, 30))):
                retries = random.choice((0, 3, -1))
                task = self.world.submit(body.queue, self.process.job, self.script(), retries)
                self.tasks.append(task)
                self.submitted(task)

        body = m.OpenQueue(amounts, strategy, environment)
        self.world.request(self.process, body, opened)

    def submitted(self, task: FakeTask) -> None:
        """A task or call is on its way."""

    # ---- actors
    def actor_options(self) -> dict[str, Any]:
        """How its calls run."""
        return {}

    def create_actor(self) -> None:
        """Create one, perhaps named, and call it."""
        random, world = self.world.random, self.world
        hold = random.choice(({}, {"CPU": 1.0}, {"CPU": 0.5, "GPU": 0.5}))
        class_name = "Counter"
        if random.random() < self.chaos * 0.2:
            class_name = random.choice(("Dying", "Raising"))
        arguments = world.new_key()
        self.lifetimes.append(arguments)
        spec = m.ActorSpec(
            function=world.new_key(),
            arguments=arguments,
            class_name=class_name,
            methods=b"",
            name=random.choice((None, None, "one", "two")),
            get_if_exists=random.random() < 0.5,
            place={"CPU": 1.0},
            hold=hold,
            max_restarts=random.choice((0, 0, 2)),
            strategy=self.strategy(),
        )
        spec = msgspec.structs.replace(spec, **self.actor_options())

        environment = random.choice(ENVIRONMENTS)

        def created(body: m.Message) -> None:
            if isinstance(body, m.ActorInfo) and body.queue in world.queues:
                for number in (body.queue, *(number for number, _ in body.group_queues)):
                    if number in world.queues:
                        world.queues[number].actor_id = body.actor_id
                        if body.created:
                            world.queues[number].env = key_of(environment)
                if body.created:
                    self.actors.append(body)
                self.call(body)

        world.request(self.process, m.CreateActor(spec, environment), created)

    def call_script(self) -> Script:
        """A random call."""
        script = Script(self.world.delay(0.002))
        if self.world.random.random() < self.chaos * 0.05:
            script.crashes = 1
        return script

    def call(self, actor: m.ActorInfo) -> None:
        """Some calls."""
        random = self.world.random
        for _ in range(random.choice((0, 1, 10))):
            script = self.call_script()
            retries = random.choice((0, 1))
            groups = [number for number, _ in actor.group_queues]
            number = random.choice([actor.queue, actor.queue, *groups])
            task = self.world.submit(number, self.process.job, script, retries)
            self.tasks.append(task)
            self.submitted(task)
            self.calls.setdefault(actor.actor_id, []).append(task)

    def end_an_actor(self) -> None:
        """Kill it, or drop its last handle once its calls are done."""
        random, world = self.world.random, self.world
        actor = self.actors.pop(random.randrange(len(self.actors)))
        if random.random() < 0.5:
            body = m.KillActor(actor.actor_id, no_restart=random.random() < 0.7)
            world.request(self.process, body)
            if not body.no_restart:
                self.actors.append(actor)
                return
        self.drop(actor)

    def drop(self, actor: m.ActorInfo) -> None:
        """A queued call holds the actor, so the last hold goes when the calls have ended."""
        calls = self.calls.get(actor.actor_id, [])
        if all(task.is_over for task in calls):
            self.world.drop_last_handle(actor.spec.arguments)
        else:
            self.world.after(0.01, lambda: self.drop(actor))

    # ---- the end
    def leave(self) -> None:
        """Let go of the actors, wait for the tasks, then shut down."""
        world = self.world
        while self.actors:
            self.drop(self.actors.pop())
        if self.process.index not in world.processes:
            return
        if not all(task.is_over for task in self.tasks):
            self.process.watched = self.process.watched or [task.key for task in self.tasks]
            world.after(0.05, self.leave)
            return

        def left(body: m.Message) -> None:
            world.die(self.process, code=0)

        world.request(self.process, m.LeaveJob(), left)

    def drop_everything(self) -> None:
        """After the process has gone its ledger is swept: no handle is left."""
        for key in self.lifetimes:
            self.world.drop_last_handle(key)
