"""One simulated node: the real ``NodeMachine`` on a virtual clock, with naive memory and processes.

Everything that happens is an entry of one heap of (time, number, action); the only chance is one
``random.Random(seed)``, so a seed is a whole run. ``perform`` does what the shell of the daemon
does, by the table at the top of ``shoal._core.events``. After every step the machine must be valid
and the checkers (``checkers``) must agree with what the processes really do. Its layers::

    Clock -> FakeCancels -> FakeMemory -> FakeWorkers -> FakeStarts -> FakeData -> FakeStreams
          -> FakeProcessMemory -> World
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

import msgspec

from shoal._base.config import NodeConfig
from shoal._core import commands as do
from shoal._core import events as seen
from shoal._core import resources
from shoal._core.node import NodeMachine
from shoal._proto import messages as m
from shoal.testing.sim import checkers, sights
from shoal.testing.sim.fakes import FakeProcess
from shoal.testing.sim.process_memory import FakeProcessMemory
from shoal.testing.sim.rebuilds import FakeRebuilds
from shoal.testing.sim.store import FakeStore

LOG_MOST = 200_000


class World(FakeProcessMemory):
    """A node, its memory, its processes and the clock."""

    def __init__(
        self, seed: int, config: NodeConfig, *, extents: int = 24, lineage: float = 1e6
    ) -> None:
        """``extents``: how large node memory is; ``lineage``: how much recipes may keep."""
        super().__init__(seed)
        self.config = config
        self.total = resources.parse(config.total)
        """What there is, however many daemons there have been."""
        self.begin_watch(config)
        self.machine = NodeMachine(config)
        self.steps = 0
        self.has_stall_watches = False
        """Programs ask now and then why they wait. Who asks makes the node look around, which would
        hide that it had missed something, so not all lives have it."""
        self.notices: list[tuple[int, m.Message]] = []
        self.log: deque[tuple[float, object]] = deque(maxlen=LOG_MOST)
        """What happened last: events and commands, as they are."""
        self.warnings: list[str] = []
        self.lives = 1
        """How many daemons there have been."""
        self.store = FakeStore(self, self._from_store)
        self.values = FakeRebuilds(self, extents, lineage, random.Random(seed))
        self.values.told = self._told
        self.handles = {}
        self.overused_since: float | None = None
        self.alarms_now = 0
        self._is_stepping = False
        self._alarm = 0
        self.begin_life()

    def begin_life(self) -> None:
        """A daemon begins."""
        self.feed(seen.Began())
        if self.config.started:
            self.store.begin()

    def _from_store(self, event: seen.Event) -> None:
        self.feed(event)

    def _told(self, what: object) -> None:
        self.log.append((self.now, what))

    def note(self, text: str) -> None:
        """A line for the story."""
        self.log.append((self.now, text))

    def feed(self, event: seen.Event) -> None:
        """One event and everything that follows at once."""
        self._pending.append(event)
        if self._is_stepping:
            return
        self._is_stepping = True
        while self._pending and self.end_reason is None:
            event = self._pending.popleft()
            self.log.append((self.now, event))
            self.see(event)
            for command in self.machine.step(self.now, event):
                self.log.append((self.now, command))
                self.perform(command)
            self.steps += 1
            if not self._pending:
                self.machine.validate()
                checkers.check(self)
                self.rules.look(self)
        self._is_stepping = False

    def perform(self, command: do.Command) -> None:
        """What the shell does."""
        name = "do_" + type(command).__name__.lower()
        getattr(self, name)(command)

    def is_ended_for_memory(self, process: FakeProcess) -> bool:
        ended = self.machine.tables.memory.ended.get(process.index)
        return ended is not None and ended.kind != "kernel"

    def do_reply(self, command: do.Reply) -> None:
        self.rules.replied(self, command.index, command.request)
        process = self.processes.get(command.index)
        action = self.replies.pop((command.index, command.request), None)
        if process is not None and action is not None:
            self.act(process, self.delay(20e-6), lambda: action(command.body))

    def do_notify(self, command: do.Notify) -> None:
        self.notices.append((command.index, command.body))
        process = self.processes.get(command.index)
        if process is not None and isinstance(command.body, m.CancelAttempt):
            body = command.body
            self.act(process, self.delay(20e-6), lambda: self.asked_to_end(process, body))
        elif process is not None and isinstance(command.body, m.HeavyFunctions):
            self.heard_heavy(process, command.body)

    def do_labelworker(self, command: do.LabelWorker) -> None:
        # The process may have ended, and the daemon not heard of it.
        assert command.index > 0 and command.job in self.machine.tables.jobs.running

    def do_setalarm(self, command: do.SetAlarm) -> None:
        self._alarm += 1
        number = self._alarm
        checkers.check_alarm(self, command.at)
        delay = max(0.0, command.at - self.now)

        def ring() -> None:
            if number == self._alarm:
                self.feed(seen.AlarmRang())

        self.after(delay, ring)

    def do_siftqueues(self, command: do.SiftQueues) -> None:
        recipes = self.values.recipes.values()
        found = {recipe.task.queue for recipe in recipes if recipe.is_kept}
        spare = tuple(queue for queue in command.queues if queue not in found)
        needed = tuple(queue for queue in command.queues if queue in found)
        self._pending.append(seen.QueuesSifted(spare, needed))

    def do_inspect(self, command: do.Inspect) -> None:
        self._pending.append(sights.look(self, command))

    def is_asking(self, process: FakeProcess) -> bool:
        """Whether an answer of the daemon to it is due."""
        return any(index == process.index for index, _ in self.replies)

    def do_writestore(self, command: do.WriteStore) -> None:
        self.store.write(command)

    def do_readvalues(self, command: do.ReadValues) -> None:
        self._pending.append(
            seen.ValuesRead(command.ticket, tuple(b"value %d" % key for key in command.keys))
        )

    def do_putvalues(self, command: do.PutValues) -> None:
        keys = tuple(self.new_key() for _ in command.values)
        self.put.update(keys)
        self._pending.append(seen.ValuesPut(command.ticket, keys))

    def do_warn(self, command: do.Warn) -> None:
        self.warnings.append(command.text)

    def do_endsession(self, command: do.EndSession) -> None:
        self.end_reason = command.reason

    def restart_node(self) -> None:
        """The daemon is killed: its session's processes and memory end with it, and so does its
        store. Then `shoal start` begins anew on the same directory."""
        self.store.end()
        self.end_life()
        self.values.restart()
        self.handles.clear()
        self.lives += 1
        for task in self.tasks.values():
            if not task.is_over:
                task.state, task.record, task.runner = "FAILED", b"session", -1
                task.ended_at = self.now
        for process in self.processes.values():
            process.running.clear()
        for held in (self.processes, self.queues, self.adopted, self.streams, self.replies):
            held.clear()
        for used in (self.starts, self._forking, self._making, self.environments, self._pending):
            used.clear()
        for group in self.groups.values():
            group.removed_at = self.now if group.removed_at is None else group.removed_at
        self.forget()
        self._alarm += 1
        self.alarms_now = 0
        self.overused_since = None
        node_id = b"%04d of clusters" % self.lives
        self.config = msgspec.structs.replace(self.config, node_id=node_id)
        self.machine = NodeMachine(self.config)
        self.begin_life()

    def join_driver(
        self, config: m.JobConfig, action: Callable[[FakeProcess], None]
    ) -> FakeProcess:
        """A program begins; ``action`` runs when it has its job."""
        process = self._open(is_driver=True)

        def welcomed(body: m.Message) -> None:
            if isinstance(body, m.Welcome):
                process.job = body.job
                action(process)

        request = self._ask(process, welcomed)
        self.feed(seen.DriverJoined(process.index, request, process.pid, config))
        return process
