"""Programs that use what must survive: keys of the key-value table and detached actors.

On top of everything that ``endings.EndingProgram`` does. Each key belongs to one program, and is
asked for by one request at a time, so that its history has one order (``KeyHistory``). Detached
actors are found by their names, also by programs of a later life of the node. ``Reader`` is the
last program: it reads every key, finds every detached actor, and ends them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from shoal._base.config import NodeConfig
from shoal._proto import messages as m
from shoal.testing.sim.checkers import Violation
from shoal.testing.sim.endings import EndingWorld
from shoal.testing.sim.fakes import FakeProcess, Script
from shoal.testing.sim.hungry_programs import HungryProgram
from shoal.testing.sim.store_checkers import KeyHistory

NAMESPACE = "kept"
KEYS = 3
"""That one program uses again and again, beside those that it makes once."""


class KeptActor:
    """One detached actor, as those know it who asked for it."""

    def __init__(self) -> None:
        self.actor_id = ""
        """Once it is acknowledged."""
        self.is_unwanted = False
        """Somebody has asked for its end."""


class ClusterWorld(EndingWorld):
    """A node and its store, with programs that rely on both."""

    def __init__(
        self, seed: int, config: NodeConfig, *, extents: int = 24, lineage: float = 1e6
    ) -> None:
        self.histories: dict[bytes, KeyHistory] = {}
        self.kept: dict[str, KeptActor] = {}
        """Detached actors by name, from when somebody has asked for them."""
        self.has_lost = False
        """The disk has lost what was acknowledged, and no daemon lived that could tell it again."""
        super().__init__(seed, config, extents=extents, lineage=lineage)
        self.store.on_loss = self._lost

    def _lost(self) -> None:
        """What remains is said to be incomplete (the store's notices), so any of it may be so."""
        self.has_lost = self.has_lost or self.machine.tables.mirror.is_fresh


class ClusterProgram(HungryProgram):
    """A driver that keeps things."""

    world: ClusterWorld

    def __init__(self, world: ClusterWorld, name: str, bursts: int, chaos: float) -> None:
        self.made = 0
        super().__init__(world, name, bursts, chaos)

    def next_burst(self) -> None:
        random = self.world.random
        is_busy = self.bursts > 0 and self.process.index in self.world.processes
        if is_busy:
            for _ in range(random.choice((0, 1, 3))):
                self.touch_a_key()
            kind = random.random()
            if kind < 0.12:
                self.make_kept()
            elif kind < 0.25:
                self.use_kept()
        super().next_burst()

    # ---- keys
    def touch_a_key(self) -> None:
        """Ask for one, which nobody else asks for."""
        random, world = self.world.random, self.world
        number = random.randrange(KEYS)
        is_once = random.random() < 0.3
        if is_once:
            self.made += 1
            number = KEYS + self.made
        key = f"{self.name} {number}".encode()
        history = world.histories.setdefault(key, KeyHistory(key))
        if history.is_asked:
            return
        value = b"%d" % history.asked
        kind = random.random()
        body: m.Message
        if is_once or kind < 0.5:
            body = m.KvPut(key, value, overwrite=not is_once and random.random() < 0.7)
        elif kind < 0.75:
            body = m.KvDelete(key)
        else:
            body = m.KvGet(key)
        history.ask(body)
        world.request(self.process, body, history.answer)

    # ---- detached actors
    def make_kept(self) -> None:
        """One that outlives its program, and its node."""
        world = self.world
        self.made += 1
        name = f"{self.name} {self.made}"
        arguments = world.new_key()
        self.lifetimes.append(arguments)
        spec = m.ActorSpec(
            function=world.new_key(),
            arguments=arguments,
            class_name="Counter",
            methods=b"",
            name=name,
            namespace=NAMESPACE,
            detached=True,
            place={"CPU": 1.0},
            max_restarts=-1,
        )

        def created(body: m.Message) -> None:
            if isinstance(body, m.ActorInfo):
                kept.actor_id = body.actor_id
                self.call_kept(body)

        kept = world.kept[name] = KeptActor()
        world.request(self.process, m.CreateActor(spec), created)

    def use_kept(self) -> None:
        """Call one of anybody's, or end it."""
        world = self.world
        names = sorted(name for name, kept in world.kept.items() if kept.actor_id)
        if not names:
            return
        name = world.random.choice(names)
        kept = world.kept[name]
        if world.random.random() < 0.3:
            kept.is_unwanted = True
            world.request(self.process, m.KillActor(kept.actor_id, no_restart=True))
            return

        def found(body: m.Message) -> None:
            if isinstance(body, m.ActorInfo):
                self.lifetimes.append(body.spec.arguments)
                self.call_kept(body)

        world.request(self.process, m.GetActor(name, NAMESPACE), found)

    def call_kept(self, actor: m.ActorInfo) -> None:
        """Some calls, in the order in which they are made."""
        world = self.world
        if actor.queue not in world.queues:
            return
        world.queues[actor.queue].actor_id = actor.actor_id
        for _ in range(world.random.choice((1, 5))):
            script = Script(world.delay(0.002))
            task = world.submit(actor.queue, self.process.job, script, 0)
            self.tasks.append(task)


class Reader:
    """The last program: what was acknowledged is there."""

    def __init__(self, world: ClusterWorld) -> None:
        self.world = world
        self.is_done = False
        self._open = 0
        self.process = world.join_driver(m.JobConfig(entrypoint="reader"), self._begin)

    def _begin(self, process: FakeProcess) -> None:
        world = self.world
        for history in world.histories.values():
            self._ask(m.KvGet(history.key), functools.partial(self._read, history))
        for name, kept in world.kept.items():
            body = m.GetActor(name, NAMESPACE)
            self._ask(body, functools.partial(self._found, kept))
        self._ask(m.KvKeys(b""), self._listed)

    def _ask(self, body: m.Message, action: Callable[[m.Message], None]) -> None:
        self._open += 1

        def answered(answer: m.Message) -> None:
            self._open -= 1
            action(answer)
            if not self._open:
                self.is_done = True
                leave = lambda answer: self.world.die(self.process, code=0)  # noqa: E731
                self.world.request(self.process, m.LeaveJob(), leave)

        self.world.request(self.process, body, answered)

    def _read(self, history: KeyHistory, body: m.Message) -> None:
        assert isinstance(body, m.KvAnswer)
        if not self.world.has_lost:
            history.check(body.value)

    def _listed(self, body: m.Message) -> None:
        """No key is there that nobody has asked for."""
        assert isinstance(body, m.KvAnswer)
        unknown = [key for key in body.keys if key not in self.world.histories]
        if unknown:
            raise Violation(f"nobody has ever put {unknown[:5]}")

    def _found(self, kept: KeptActor, body: m.Message) -> None:
        is_there = isinstance(body, m.ActorInfo) and body.state != "DEAD"
        if is_there:
            assert isinstance(body, m.ActorInfo)
            self._ask(m.KillActor(body.actor_id, no_restart=True), lambda done: None)
        if kept.is_unwanted or self.world.has_lost or not kept.actor_id:
            return
        if not is_there:
            raise Violation(f"detached actor {kept.actor_id} was acknowledged and is gone: {body}")
        assert isinstance(body, m.ActorInfo)
        if body.actor_id != kept.actor_id:
            raise Violation(f"the name of {kept.actor_id} belongs to {body.actor_id}")
