"""One simulated node: the real ``NodeMachine`` on a virtual clock, with naive memory and processes.

Everything that happens is an entry of one heap of (time, number, action); the only chance is one
``random.Random(seed)``, so a seed is a whole run. ``perform`` does what the shell of the daemon
does, by the table at the top of ``shoal._core.events``. After every step the machine must be valid
and the checkers (``checkers``) must agree with what the processes really do. Four layers::

    Clock -> FakeMemory -> FakeWorkers -> World
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from shoal._base.config import NodeConfig
from shoal._core import commands as do
from shoal._core import events as seen
from shoal._core.node import NodeMachine
from shoal._core.store import StoreAsked, StoreMachine, StoreReply
from shoal._proto import messages as m
from shoal.testing.sim import checkers
from shoal.testing.sim.fakes import FakeGroup, FakeProcess
from shoal.testing.sim.memory import LEAVE
from shoal.testing.sim.workers import FakeWorkers


class World(FakeWorkers):
    """A node, its memory, its processes and the clock."""

    def __init__(self, seed: int, config: NodeConfig) -> None:
        super().__init__(seed)
        self.config = config
        self.machine = NodeMachine(config)
        self.steps = 0
        self.notices: list[tuple[int, m.Message]] = []
        self.start_failure_rate = 0.0
        self.store = StoreMachine()
        self.groups: dict[str, FakeGroup] = {}
        self.environments: set[str] = set()
        """Those that have been made and are still held."""
        self._making: dict[str, int] = {}
        self._builds = 0
        self.overused_since: float | None = None
        self.alarms_now = 0
        self._is_stepping = False
        self._alarm = 0
        self._next_index = 1
        self.feed(seen.Began())
        if config.started:
            self.feed(seen.StoreConnected())

    def feed(self, event: seen.Event) -> None:
        """One event and everything that follows at once."""
        self._pending.append(event)
        if self._is_stepping:
            return
        self._is_stepping = True
        while self._pending and self.end_reason is None:
            for command in self.machine.step(self.now, self._pending.popleft()):
                self.perform(command)
            self.steps += 1
            if not self._pending:
                self.machine.validate()
                checkers.check(self)
        self._is_stepping = False

    def perform(self, command: do.Command) -> None:
        """What the shell does."""
        name = "do_" + type(command).__name__.lower()
        getattr(self, name)(command)

    def do_reply(self, command: do.Reply) -> None:
        process = self.processes.get(command.index)
        action = self.replies.pop((command.index, command.request), None)
        if process is not None and action is not None:
            self.after(self.delay(20e-6), lambda: self._alive(process, action, command.body))

    def _alive(
        self, process: FakeProcess, action: Callable[[m.Message], None], body: m.Message
    ) -> None:
        if self.processes.get(process.index) is process:
            action(body)

    def do_notify(self, command: do.Notify) -> None:
        self.notices.append((command.index, command.body))
        process = self.processes.get(command.index)
        if process is not None and isinstance(command.body, m.CancelAttempt):
            body = command.body
            self.after(self.delay(20e-6), lambda: self.asked_to_end(process, body))

    def do_labelworker(self, command: do.LabelWorker) -> None:
        # The process may have ended, and the daemon not heard of it.
        assert command.index > 0 and command.job in self.machine.tables.jobs.running

    def do_startworker(self, command: do.StartWorker) -> None:
        if self.random.random() < self.start_failure_rate:
            self.after(
                self.delay(0.002),
                lambda: self.feed(seen.WorkerStartFailed(command.start, "simulated")),
            )
            return
        self.after(self.delay(0.003), lambda: self._fork(command.start))

    def _fork(self, start: int) -> None:
        process = self._open(is_driver=False)
        self.starts[start] = process.index
        self.feed(seen.WorkerForked(start, process.index, process.pid))
        if self.processes.get(process.index) is process:
            self.after(self.delay(0.002), lambda: self._join(start, process))

    def _open(self, is_driver: bool) -> FakeProcess:
        index = self._next_index
        self._next_index += 1
        process = FakeProcess(index, 10_000 + index, is_driver)
        self.processes[index] = process
        return process

    def _join(self, start: int, process: FakeProcess) -> None:
        if self.processes.get(process.index) is not process:
            return
        if self.random.random() < self.start_failure_rate:
            del self.processes[process.index]
            self.feed(seen.WorkerStartFailed(start, "died before Hello"))
            return
        self.starts.pop(start, None)
        request = self._ask(process, lambda body: self._welcomed(process))
        self.feed(seen.WorkerJoined(process.index, request, process.pid))

    def _welcomed(self, process: FakeProcess) -> None:
        self.request(process, m.GetAssignment(), lambda body: self._assigned(process, body))

    def do_abandonstart(self, command: do.AbandonStart) -> None:
        index = self.starts.pop(command.start, None)
        if index is not None:
            self.processes.pop(index, None)

    def do_kill(self, command: do.Kill) -> None:
        process = self.processes.get(command.index)
        if process is not None:
            self.after(self.delay(0.0005), lambda: self.die(process, signal=9))

    def do_leave(self, command: do.Leave) -> None:
        process = self.processes.get(command.index)
        if process is not None:
            process.assigned = LEAVE
            self.wake(process)

    def do_closeprocess(self, command: do.CloseProcess) -> None:
        assert command.index not in self.processes
        for task in self.tasks.values():
            assert task.runner != command.index or task.state != "RUNNING", task

    def do_setalarm(self, command: do.SetAlarm) -> None:
        self._alarm += 1
        number = self._alarm
        checkers.check_alarm(self, command.at)
        delay = max(0.0, command.at - self.now)

        def ring() -> None:
            if number == self._alarm:
                self.feed(seen.AlarmRang())

        self.after(delay, ring)

    def do_writestore(self, command: do.WriteStore) -> None:
        """The store answers later, what is lasting on its disk by then."""
        delay = 0.0 if self.machine.tables.mirror.is_fresh else self.delay(0.001)
        asked = StoreAsked(1, command.ticket, command.write)
        for done in self.store.step(self.now, asked):
            if isinstance(done, StoreReply):
                written = seen.StoreWritten(done.ticket, done.body)
                self.after(delay, functools.partial(self.feed, written))

    def do_readvalues(self, command: do.ReadValues) -> None:
        self.feed(seen.ValuesRead(command.ticket, tuple(b"value" for _ in command.keys)))

    def do_buildenvironment(self, command: do.BuildEnvironment) -> None:
        key = command.environment.key
        assert command.environment.has_to_be_made() and key not in self._making
        assert key not in self.environments, "it is there already"
        self._builds += 1
        number = self._making[key] = self._builds

        def over() -> None:
            if self._making.get(key) != number:
                return  # it was dropped meanwhile
            del self._making[key]
            if key == "broken" or self.random.random() < self.start_failure_rate:
                self.feed(seen.EnvironmentFailed(key, "pip", "simulated", ("last words",)))
            else:
                self.environments.add(key)
                self.feed(seen.EnvironmentBuilt(key))

        self.after(self.random.choice((0.0, 0.05, 1.0)), over)

    def do_dropenvironment(self, command: do.DropEnvironment) -> None:
        self._making.pop(command.key, None)
        self.environments.discard(command.key)

    def do_warn(self, command: do.Warn) -> None:
        assert command.text

    def do_endsession(self, command: do.EndSession) -> None:
        self.end_reason = command.reason

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
