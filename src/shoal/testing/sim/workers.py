"""Naive workers: they take, run, block, crash and let go, as late and as unkindly as is allowed."""

from __future__ import annotations

from collections.abc import Callable

from shoal._core import events as seen
from shoal._core import resources
from shoal._proto import messages as m
from shoal.testing.sim import checkers
from shoal.testing.sim.fakes import FakeGroup, FakeProcess, FakeTask, Script
from shoal.testing.sim.memory import LEAVE, FakeMemory


class FakeWorkers(FakeMemory):
    """The processes of one node and what they do by themselves."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.replies: dict[tuple[int, int], Callable[[m.Message], None]] = {}
        self.starts: dict[int, int] = {}
        """Start number -> process index, until it has joined."""
        self.groups: dict[str, FakeGroup] = {}
        self.environments: set[str] = set()
        """Those that have been made and are still held."""
        self.taken: set[tuple[int, int]] = set()
        """(task, attempt) of every take there was."""

    # ---- what a process does, when it runs
    def act(self, process: FakeProcess, delay_s: float, action: Callable[[], None]) -> None:
        """The process does something then, if it lives, and as soon as it is not stopped."""

        def due() -> None:
            if self.processes.get(process.index) is not process:
                return
            if process.stopped_until > self.now:
                self.after(process.stopped_until - self.now, due)
                return
            action()

        self.after(delay_s, due)

    def stop(self, process: FakeProcess, for_s: float) -> None:
        """SIGSTOP, and SIGCONT so much later. What it runs does not listen meanwhile."""
        process.stopped_until = max(process.stopped_until, self.now + for_s)
        for task in process.running:
            task.script.is_deaf = True
        self.disturb(for_s)

    # ---- asking the daemon
    def _ask(self, process: FakeProcess, action: Callable[[m.Message], None]) -> int:
        process.requests += 1
        self.replies[process.index, process.requests] = action
        return process.requests

    def request(
        self,
        process: FakeProcess,
        body: m.Message,
        action: Callable[[m.Message], None] = lambda body: None,
    ) -> None:
        """Ask the daemon something."""
        request = self._ask(process, action)

        def arrive() -> None:
            if self.processes.get(process.index) is process:
                self.feed(seen.Requested(process.index, request, body))

        self.after(self.delay(20e-6), arrive)

    # ---- taking and running
    def wake(self, process: FakeProcess) -> None:
        """A doorbell: the worker looks a little later."""
        if not process.is_waking:
            process.is_waking = True
            self.act(process, self.delay(30e-6), lambda: self._look_around(process))

    def _look_around(self, process: FakeProcess) -> None:
        process.is_waking = False
        if process.running and (process.actor is None or process.assigned == LEAVE):
            return
        if process.assigned == LEAVE:
            self.die(process, code=0)
            return
        if not process.is_ready:
            return
        if process.attached != process.assigned:
            # A worker that was about to take may take once more before it notices.
            if process.attached and self.random.random() < 0.3 and self._take(process):
                return
            process.attached = process.assigned
            process.has_resumed = False
            if self.is_starving:
                self.bell()
        if not self._take(process) and self.is_starving:
            self.bell()

    def _take(self, process: FakeProcess) -> bool:
        queues = (self.queues.get(number) for number in process.limits())
        ready = (q for q in queues if q is not None and q.entries and process.has_room(q.queue))
        queue = next(ready, None)
        if queue is None:
            return False
        task = queue.entries.popleft()
        queue.takes, queue.took_at = queue.takes + 1, self.now
        checkers.check_take(self, process, queue, task)
        task.state, task.runner = "RUNNING", process.index
        task.started_at = task.moved_at = self.now
        process.running.append(task)
        if queue.entries:
            for other in self.processes.values():
                if other.has_room(queue.queue):
                    self.wake(other)
                    break
        attempt = task.attempt
        half_s = task.script.duration_s / 2
        middle = lambda: self.act(  # noqa: E731
            process, half_s, lambda: self._middle(process, task, attempt)
        )
        self.load(process, task, attempt, middle)
        if process.actor is not None:
            self.wake(process)  # for what may run beside it
        return True

    def load(
        self, process: FakeProcess, task: FakeTask, attempt: int, go_on: Callable[[], None]
    ) -> None:
        """Read the arguments, then go on (the layer of values)."""
        raise NotImplementedError

    def keep(
        self, process: FakeProcess, task: FakeTask, attempt: int, done: Callable[[], None]
    ) -> None:
        """Write the results, then it is done (the layer of values)."""
        raise NotImplementedError

    def produce(
        self, process: FakeProcess, task: FakeTask, attempt: int, done: Callable[[], None]
    ) -> None:
        """Yield its items, then it is done (the layer of streams)."""
        raise NotImplementedError

    def function_over(self, process: FakeProcess, task: FakeTask, is_well: bool) -> None:
        """Its function has returned or raised, if it ran at all (the layer of process memory)."""
        raise NotImplementedError

    def _is_running(self, process: FakeProcess, task: FakeTask, attempt: int) -> bool:
        is_alive = self.processes.get(process.index) is process
        return is_alive and task.runner == process.index and task.attempt == attempt

    def _middle(self, process: FakeProcess, task: FakeTask, attempt: int) -> None:
        if not self._is_running(process, task, attempt):
            return
        script = task.script
        if attempt <= script.crashes and not script.is_stream:
            self.die(process, signal=11)
            return
        if script.child is not None and script.child_amounts is not None:
            assert process.assignment is not None
            group = process.assignment.group if process.assignment.captures else ""
            strategy = m.InGroup(group, -1, True) if group else m.Default()
            body = m.OpenQueue(script.child_amounts, strategy)
            child = script.child

            def opened(answer: m.Message) -> None:
                if isinstance(answer, m.QueueOpened) and self._is_running(process, task, attempt):
                    self.queues[answer.queue].amounts = resources.parse(body.resources)
                    self.queues[answer.queue].group = group
                    self.queues[answer.queue].env = ""
                    made = self.submit(answer.queue, task.job, child, max_retries=0)
                    made.parent = task.key
                    self.watch(process, made, task.deadline)
                    self._block(process, task, attempt, made)

            self.request(process, body, opened)
            return
        self._second_half(process, task, attempt)

    def _block(self, process: FakeProcess, task: FakeTask, attempt: int, child: FakeTask) -> None:
        def late() -> None:
            if self._is_running(process, task, attempt) and not child.is_over:
                process.is_blocked = True
                if self.is_starving:
                    self.bell()

        self.act(process, 0.001, late)

        def go_on() -> None:
            if self._is_running(process, task, attempt):
                self._resume(process, task, attempt)

        if child.is_over:
            go_on()
        else:
            child.waiters.append(lambda: self.act(process, 0.0, go_on))

    def _resume(self, process: FakeProcess, task: FakeTask, attempt: int) -> None:
        process.has_resumed = process.has_resumed or process.is_blocked
        process.is_blocked = False
        self._second_half(process, task, attempt)

    def _second_half(self, process: FakeProcess, task: FakeTask, attempt: int) -> None:
        def over() -> None:
            if not self._is_running(process, task, attempt):
                return
            was_told = task.told is not None and task.told[0] == attempt
            # Who was told a moment ago may have asked already.
            if attempt <= task.script.raises and not (was_told and self.random.random() < 0.5):
                self.function_over(process, task, is_well=False)
                body = m.RetryTask(task.key, attempt)
                self.request(process, body, lambda answer: self._retried(process, task, answer))
                return
            self.function_over(process, task, is_well=True)
            self.keep(process, task, attempt, lambda: self._finish(process, task, "DONE"))

        if task.script.is_stream:
            self.produce(process, task, attempt, over)
            return
        self.act(process, task.script.duration_s / 2, over)

    def _retried(self, process: FakeProcess, task: FakeTask, answer: m.Message) -> None:
        assert isinstance(answer, m.RetryDecision)
        if answer.granted:
            self.wake(process)
        else:
            self._finish(process, task, "FAILED")

    def _finish(
        self, process: FakeProcess, task: FakeTask, state: str, why: bytes = b"user"
    ) -> None:
        self.function_over(process, task, is_well=False)
        process.running.remove(task)
        if task.told is not None and task.told[0] == task.attempt:
            self.seal(task, "FAILED", task.told[1])
        else:
            self.seal(task, state, why if state == "FAILED" else b"")
        if process.assignment is not None and process.assignment.gpu_ids and not process.actor:
            self.die(process, code=0)  # RULES S-9: one task, then the process ends
            return
        self.wake(process)

    # ---- ends that others want
    def watch(self, process: FakeProcess, task: FakeTask, inherited: float | None = None) -> None:
        """Tell the daemon how long the task may take: as long as its parent at most."""
        times = [at for at in (task.deadline, inherited) if at is not None]
        if times:
            task.deadline = min(times)
            self.request(process, m.WatchDeadline(task.key, task.deadline - self.now))

    def asked_to_end(self, process: FakeProcess, body: m.CancelAttempt) -> None:
        """Python code ends soon, C code does not hear; a call in a thread goes on."""
        task = self.tasks[body.key]
        if not self._is_running(process, task, body.attempt):
            return
        task.told = (body.attempt, body.record)
        listens = (
            not task.script.is_deaf if process.actor is None else process.actor.spec.is_asyncio
        )

        def end() -> None:
            if self._is_running(process, task, body.attempt):
                process.has_resumed = process.has_resumed or process.is_blocked
                process.is_blocked = False
                self._finish(process, task, "FAILED")

        if listens:
            self.act(process, self.delay(0.005), end)

    # ---- life
    def _assigned(self, process: FakeProcess, body: m.Message) -> None:
        if isinstance(body, m.Failure):
            self.die(process, code=1)
            return
        assert isinstance(body, m.Assignment)
        process.assignment = body
        process.job = body.job
        checkers.check_assignment(self, process)
        if body.actor is None:
            process.is_ready = True
            self.wake(process)
            return
        process.actor = body.actor
        script = self.constructor_of(body.actor)
        self.act(process, script.duration_s, lambda: self._constructed(process, script))

    def constructor_of(self, actor: m.ActorInfo) -> Script:
        """How the constructor goes; the class name says it."""
        crashes = 10**6 if actor.spec.class_name == "Dying" else 0
        raises = 1 if actor.spec.class_name == "Raising" else 0
        return Script(self.delay(0.002), crashes=crashes, raises=raises)

    def _constructed(self, process: FakeProcess, script: Script) -> None:
        assert process.actor is not None
        if script.crashes:
            self.die(process, code=3)
        elif script.raises:
            body = m.ActorFailed(process.actor.actor_id, b"pickled", "ValueError: no")
            self.request(process, body)
        else:
            process.is_ready = True
            self.request(process, m.ActorStarted(process.actor.actor_id))
            self.wake(process)

    def die(self, process: FakeProcess, code: int | None = None, signal: int | None = None) -> None:
        """The process is gone; the daemon hears of it a little later."""
        if self.processes.get(process.index) is not process:
            return
        del self.processes[process.index]
        process.attached = 0
        number = next((s for s, i in self.starts.items() if i == process.index), None)

        def heard() -> None:
            if number is not None and number in self.starts:
                del self.starts[number]
                self.feed(seen.WorkerStartFailed(number, "died"))
                return
            rows = tuple(
                seen.RunningTask(
                    *(t.key, t.attempt, t.max_retries, t.charged, 0, t.queue),
                    about=0 if t.script.appetite is None else t.script.appetite.function,
                )
                for t in reversed(process.running)
                if t.state == "RUNNING"
            )
            oom, words = process.kernel_oom, ("last words",)
            self.feed(seen.ProcessDied(process.index, code, signal, words, rows, oom))

        self.after(self.delay(0.0003), heard)
