"""Programs whose tasks and actors take memory: modest, greedy, more than they asked for, in vain.

Only where the node watches the memory of processes. On top of programs that compute with values.
"""

from __future__ import annotations

import functools
from typing import Any

from shoal._core import resources
from shoal._proto import messages as m
from shoal.testing.sim.fakes import Appetite, Script
from shoal.testing.sim.value_programs import ValueProgram

SHARES = (0.002, 0.02, 0.1, 0.2, 0.4, 1.2)
"""Of the node's memory; the last one does not fit at all."""
FUNCTIONS_MOST = 4
FEASTS = 0.4


class HungryProgram(ValueProgram):
    """A driver that submits tasks which grow."""

    functions: tuple[Appetite, ...] = ()

    def next_burst(self) -> None:
        world = self.world
        is_busy = self.bursts > 0 and self.process.index in world.processes
        if world.limit_bytes and is_busy and world.random.random() < FEASTS:
            self.feast()
        super().next_burst()

    def appetite(self) -> Appetite:
        """One of its functions."""
        random, limit = self.world.random, self.world.limit_bytes
        if len(self.functions) < FUNCTIONS_MOST:
            grows = int(limit * random.choice(SHARES))
            keeps = int(limit * random.choice((0.0, 0.0, 0.01)))
            new = Appetite(self.world.new_key(), grows, keeps)
            self.functions = (*self.functions, new)
            return new
        return random.choice(self.functions)

    def feast(self) -> None:
        """Some tasks of one function."""
        world, random = self.world, self.world.random
        appetite = self.appetite()
        amounts = {"CPU": random.choice((1.0, 0.5))}
        if random.random() < 0.4:
            share = random.choice((0.5, 1.5, 1.5))
            amounts["memory"] = float(min(int(appetite.grows_bytes * share), world.limit_bytes))
        is_hopeless = appetite.grows_bytes > world.limit_bytes or "memory" in amounts

        def opened(body: m.Message) -> None:
            if not isinstance(body, m.QueueOpened):
                return
            queue = world.queues.get(body.queue)
            if queue is not None:
                queue.amounts = resources.parse(amounts)
                queue.env, queue.group = "", ""
            for _ in range(random.choice((1, 2, 5))):
                script = Script(random.choice((0.05, 0.5, 2.0)), appetite=appetite)
                if random.random() < 0.2:
                    script.child = Script(0.2, appetite=self.appetite())
                    script.child_amounts = {"CPU": 0.5}
                if random.random() < self.chaos * 0.1:
                    script.crashes, script.raises = random.choice(((1, 0), (0, 1)))
                retries = random.choice((0, 3)) if is_hopeless else random.choice((0, 3, -1))
                task = world.submit(body.queue, self.process.job, script, retries)
                self.tasks.append(task)
                if random.random() < self.chaos * 0.2:
                    world.after(world.delay(0.3), functools.partial(self.cancel, task))

        world.request(self.process, m.OpenQueue(amounts), opened)

    def call_script(self) -> Script:
        script = super().call_script()
        limit = self.world.limit_bytes
        if limit and self.world.random.random() < 0.2:
            script.appetite = Appetite(0, int(limit * 0.05), int(limit * 0.01))
        return script

    def actor_options(self) -> dict[str, Any]:
        options = super().actor_options()
        limit = self.world.limit_bytes
        if limit and self.world.random.random() < 0.3:
            options["hold"] = {"CPU": 1.0, "memory": float(int(limit * 0.06))}
        return options
