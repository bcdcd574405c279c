"""Programs that compute with values: tasks on values of earlier tasks, puts, reads, dropped refs.

Small node memory, so that values leave for files and come back all the time. What every value must
be follows from what it was made of (``data.content_of``), so each read is checked exactly.
"""

from __future__ import annotations

from shoal._core import resources
from shoal._proto import messages as m
from shoal.testing.sim import value_checkers
from shoal.testing.sim.data import content_of
from shoal.testing.sim.endings import EndingProgram, EndingWorld
from shoal.testing.sim.fakes import Script
from shoal.testing.sim.room import FakeValue, Wish

SIZES = (0.25, 0.25, 0.25, 1.0, 1.0, 3.0, 6.0)
REFS_MOST = 12


class ValueProgram(EndingProgram):
    """A driver that keeps refs to values."""

    world: EndingWorld
    retries: tuple[int, ...] = (0, 1, 3, -1, -1)
    results: tuple[int, ...] = (1, 1, 2)
    """How many a task may have."""

    def __init__(self, world: EndingWorld, name: str, bursts: int, chaos: float) -> None:
        self._looks = 0
        super().__init__(world, name, bursts, chaos)

    def next_burst(self) -> None:
        if self.bursts > 0 and self.process.index in self.world.processes:
            if self.world.random.random() < 0.5:
                self.compute()
            for _ in range(self.world.random.choice((0, 2, 5))):
                self.look_or_drop()
        super().next_burst()

    @property
    def refs(self) -> list[FakeValue]:
        """What it has refs to."""
        return self.world.handles.get(self.process.index, [])

    # ---- making
    def compute(self) -> None:
        """Submit some tasks on values, or put one."""
        world, random = self.world, self.world.random
        if random.random() < 0.2:
            self.put()
            return
        amounts = random.choice(({"CPU": 1.0}, {"CPU": 0.5}))

        def opened(body: m.Message) -> None:
            if not isinstance(body, m.QueueOpened):
                return
            queue = world.queues.get(body.queue)
            if queue is not None:
                queue.amounts = resources.parse(amounts)
                queue.env, queue.group = "", ""
            for _ in range(random.choice((1, 3, 6))):
                self.submit_one(body.queue)

        world.request(self.process, m.OpenQueue(amounts), opened)

    def submit_one(self, queue: int) -> None:
        """One task on up to three of the values that there are."""
        world, random = self.world, self.world.random
        there = [value for value in self.refs if value.is_sealed and not value.record]
        inputs = tuple(random.sample(there, min(len(there), random.choice((0, 1, 1, 3)))))
        script = Script(min(0.3, random.lognormvariate(-6.0, 1.5)), inputs=inputs)
        script.function = world.new_key()
        if random.random() < self.chaos * 0.1:
            script.crashes = random.choice((1, 2))
        read = [value.expected for value in inputs]
        script.outputs = tuple(
            FakeValue(
                world.new_key(),
                random.choice(SIZES),
                0,
                content_of(script.function, number, read),
            )
            for number in range(random.choice(self.results))
        )
        retries = random.choice(self.retries)
        task = world.submit_data(self.process, queue, script, retries)
        self.tasks.append(task)
        if random.random() < self.chaos * 0.1:
            world.after(world.delay(0.05), lambda: self.cancel(task))

    def put(self) -> None:
        """A value that no task can make again."""
        world = self.world
        content = content_of(world.new_key(), 0, ())
        size = world.random.choice(SIZES)
        value = FakeValue(world.new_key(), size, content, content)
        self._looks += 1
        owner = (self.process.index, -self._looks)

        def there(problem: str) -> None:
            # The owner may have died in the moment in which it was given room.
            if problem or self.process.index not in world.processes:
                return
            world.values.add(value)
            world.values.hold(value)
            world.handles.setdefault(self.process.index, []).append(value)
            world.values.seal_here(value, owner, None)

        world.values.ask_room(Wish(owner, there, size, value))

    # ---- reading
    def look_or_drop(self) -> None:
        """Read a value and keep it for a while, or let go of one."""
        world, random = self.world, self.world.random
        refs = self.refs
        if not refs:
            return
        value = random.choice(refs)
        if len(refs) > REFS_MOST or random.random() < 0.15:
            world.drop_ref(self.process, value)
            return
        self._looks += 1
        owner = (self.process.index, -self._looks)

        def there(problem: str) -> None:
            if self.process.index in world.processes:
                if not problem and not value.record:
                    value_checkers.check_read(value)
                    world.values.counts["read"] += 1
                world.act(self.process, world.delay(0.05), done)

        def done() -> None:
            world.values.unpin(value, owner)

        world.values.read(value, owner, there)

    def leave(self) -> None:
        world = self.world
        if self.process.index in world.processes:
            for value in list(self.refs):
                world.drop_ref(self.process, value)
        super().leave()
