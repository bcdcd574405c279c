"""How simulated processes begin and end: the zygote, failing forks, environments that are made."""

from __future__ import annotations

from shoal._core import commands as do
from shoal._core import events as seen
from shoal._proto import messages as m
from shoal.testing.sim.fakes import FakeProcess
from shoal.testing.sim.memory import LEAVE
from shoal.testing.sim.workers import FakeWorkers


class FakeStarts(FakeWorkers):
    """Everything between the wish for a process and its first request."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.start_failure_rate = 0.0
        self._forking: set[int] = set()
        """Starts that the zygote has been asked for and has not answered."""
        self._making: dict[str, int] = {}
        self._builds = 0
        self._next_index = 1

    def do_startworker(self, command: do.StartWorker) -> None:
        if self.random.random() < self.start_failure_rate:
            self.after(
                self.delay(0.002),
                lambda: self.feed(seen.WorkerStartFailed(command.start, "simulated")),
            )
            return
        self._forking.add(command.start)
        self.after(self.delay(0.003), lambda: self._fork(command.start))

    def lose_zygote(self) -> None:
        """It was killed: what it had been asked is void, another one begins."""
        lost, self._forking = sorted(self._forking), set()
        for start in lost:
            self.feed(seen.WorkerStartFailed(start, "the zygote has ended"))

    def _fork(self, start: int) -> None:
        if start not in self._forking:
            return
        self._forking.discard(start)
        process = self._open(is_driver=False)
        self.starts[start] = process.index
        self.feed(seen.WorkerForked(start, process.index, process.pid))
        if self.processes.get(process.index) is process:
            self.act(process, self.delay(0.002), lambda: self._join(start, process))

    def _open(self, is_driver: bool) -> FakeProcess:
        index = self._next_index
        self._next_index += 1
        process = FakeProcess(index, 10_000 + index, is_driver)
        self.processes[index] = process
        return process

    def _join(self, start: int, process: FakeProcess) -> None:
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
        self._forking.discard(command.start)
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
