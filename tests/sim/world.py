"""One simulated node: the real ``NodeMachine`` on a virtual clock, naive memory and processes
around it.

Everything that happens is an entry of one heap of (time, number, action); the only chance is one
``random.Random(seed)``, so a seed is a whole run. ``perform`` does what the shell of the daemon
does, by the table at the top of ``shoal._core.events``. After every step the machine must be valid
and the checkers (``checkers``) must agree with what the processes really do.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable

from shoal._base.config import NodeConfig
from shoal._core import commands as do
from shoal._core import events as seen
from shoal._core import resources
from shoal._core.node import NodeMachine
from shoal._proto import messages as m
from tests.sim import checkers
from tests.sim.fakes import FakeProcess, FakeQueue, FakeTask, Script

LEAVE = -1


class World:
    """A node, its memory, its processes and the clock."""

    def __init__(self, seed: int, config: NodeConfig, machine: NodeMachine | None = None) -> None:
        self.random = random.Random(seed)
        self.config = config
        self.machine = machine or NodeMachine(config)
        self.now = 0.0
        self.steps = 0
        self.queues: dict[int, FakeQueue] = {}
        self.processes: dict[int, FakeProcess] = {}
        self.tasks: dict[int, FakeTask] = {}
        self.replies: dict[tuple[int, int], Callable[[m.Message], None]] = {}
        self.adopted: set[int] = set()
        self.starts: dict[int, int] = {}
        self.is_starving = False
        self.end_reason: str | None = None
        self.notices: list[tuple[int, m.Message]] = []
        self.start_failure_rate = 0.0
        self.is_store_up = True
        self.overused_since: float | None = None
        self.alarms_now = 0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._pending: deque[seen.Event] = deque()
        self._is_stepping = False
        self._bell_pending = False
        self._gone: list[int] = []
        self._alarm = 0
        self._keys = 100
        self._next_index = 1
        self._next_queue = 1
        self.feed(seen.Began())

    # ---- the clock
    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        """Do ``action`` later."""
        self._number += 1
        heapq.heappush(self._heap, (self.now + delay_s, self._number, action))

    def run(self, until: float) -> None:
        """Let time pass."""
        while self._heap and self._heap[0][0] <= until and self.end_reason is None:
            at, _, action = heapq.heappop(self._heap)
            self.now = max(self.now, at)
            action()
        self.now = max(self.now, until)

    def delay(self, mean_s: float) -> float:
        """A random time."""
        return self.random.expovariate(1 / mean_s)

    # ---- the round of events and commands
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

    # ---- commands to processes
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

    def do_labelworker(self, command: do.LabelWorker) -> None:
        assert command.index in self.processes

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

    # ---- commands to memory
    def do_newqueue(self, command: do.NewQueue) -> None:
        queue = FakeQueue(self._next_queue, 1, command.kind, command.job)
        self._next_queue += 1
        self.queues[queue.queue] = queue
        self._pending.append(seen.QueueCreated(command.ticket, queue.queue, 1))

    def do_freequeue(self, command: do.FreeQueue) -> None:
        ok = self.random.random() < 0.7
        if ok:
            queue = self.queues.pop(command.queue)
            assert not any(p.attached == queue.queue for p in self.processes.values())
            for task in queue.entries:
                self.seal(task, "FAILED", b"freed")
        self._pending.append(seen.QueueFreed(command.queue, ok))

    def do_killqueue(self, command: do.KillQueue) -> None:
        queue = self.queues.get(command.queue)
        if queue is None:
            return
        queue.dead_record = command.record
        while queue.entries:
            self.seal(queue.entries.popleft(), "FAILED", command.record)

    def do_assign(self, command: do.Assign) -> None:
        process = self.processes.get(command.index)
        if process is not None and process.assigned != LEAVE:
            process.assigned = command.queue
            self.wake(process)

    def do_sethungry(self, command: do.SetHungry) -> None:
        queue = self.queues.get(command.queue)
        if queue is None:
            return
        queue.is_hungry = command.on
        if command.on and queue.entries:
            queue.is_hungry = False
            self._pending.append(seen.Looked((self._queue_state(queue),)))

    def do_setstarving(self, command: do.SetStarving) -> None:
        self.is_starving = command.on

    def do_look(self, command: do.Look) -> None:
        queues = [self.queues[q] for q in command.queues if q in self.queues]
        workers = [self.processes[w] for w in command.workers if w in self.processes]
        states = tuple(
            seen.WorkerState(
                p.index,
                p.assigned,
                p.attached,
                len(p.running),
                p.is_blocked,
                p.running[0].key if p.running else 0,
            )
            for p in workers
        )
        self._pending.append(seen.Looked(tuple(self._queue_state(q) for q in queues), states))

    def _queue_state(self, queue: FakeQueue) -> seen.QueueState:
        return seen.QueueState(queue.queue, len(queue.entries), queue.takes)

    def do_requeue(self, command: do.Requeue) -> None:
        task = self.tasks[command.key]
        ok = task.state == "RUNNING"
        if ok:
            task.state = "QUEUED"
            task.attempt += 1
            task.charged += command.charged
            holder = self.processes.get(task.runner)
            if holder is not None:
                holder.running = [other for other in holder.running if other is not task]
            task.runner = -1
            self._push(task, command.front)
        if command.ticket:
            self._pending.append(seen.Requeued(command.ticket, ok))

    def do_fail(self, command: do.Fail) -> None:
        task = self.tasks[command.key]
        if not task.is_over:
            self.seal(task, "FAILED", command.record)

    def do_endjobtasks(self, command: do.EndJobTasks) -> None:
        for queue in self.queues.values():
            for task in [x for x in queue.entries if x.job == command.job]:
                queue.entries.remove(task)
                self.seal(task, "FAILED", command.record)

    def do_adopt(self, command: do.Adopt) -> None:
        assert command.key not in self.adopted
        self.adopted.add(command.key)

    def do_release(self, command: do.Release) -> None:
        self.adopted.remove(command.key)

    # ---- commands about the rest
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
        answer: m.Message = m.KvAnswer() if isinstance(command.write, m.KvPut) else m.Done()
        if self.is_store_up:
            self.after(
                self.delay(0.001), lambda: self.feed(seen.StoreWritten(command.ticket, answer))
            )

    def do_warn(self, command: do.Warn) -> None:
        assert command.text

    def do_endsession(self, command: do.EndSession) -> None:
        self.end_reason = command.reason

    # ---- what processes do
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

    def bell(self) -> None:
        """Somebody rang; the daemon wakes up a little later."""
        if not self._bell_pending:
            self._bell_pending = True
            self.after(self.delay(20e-6), self._ring)

    def _ring(self) -> None:
        self._bell_pending = False
        gone, self._gone = self._gone, []
        dead = []
        for queue in self.queues.values():
            if queue.dead_record is not None and queue.entries:
                dead.append(queue.queue)
        self.feed(seen.BellRang(tuple(k for k in gone if k in self.adopted), tuple(dead)))

    def drop_last_handle(self, key: int) -> None:
        """Nobody but the daemon holds ``key`` any more."""
        self._gone.append(key)
        self.bell()

    def new_key(self) -> int:
        """A fresh object."""
        self._keys += 1
        return self._keys

    def submit(self, queue_number: int, job: int, script: Script, max_retries: int) -> FakeTask:
        """Make a task and push it."""
        task = FakeTask(self.new_key(), job, queue_number, script, max_retries)
        task.submitted_at = self.now
        self.tasks[task.key] = task
        if queue_number in self.queues:
            self._push(task, front=False)
        else:
            self.seal(task, "FAILED", b"gone")
        return task

    def _push(self, task: FakeTask, front: bool) -> None:
        queue = self.queues[task.queue]
        if front:
            queue.entries.appendleft(task)
        else:
            queue.entries.append(task)
        if queue.dead_record is not None:
            self.bell()
            return
        for process in self.processes.values():
            if process.attached == queue.queue and not process.running:
                self.wake(process)
                return
        if queue.is_hungry:
            queue.is_hungry = False
            self.bell()

    def wake(self, process: FakeProcess) -> None:
        """A doorbell: the worker looks a little later."""
        if not process.is_waking:
            process.is_waking = True
            self.after(self.delay(30e-6), lambda: self._look_around(process))

    def _look_around(self, process: FakeProcess) -> None:
        process.is_waking = False
        if self.processes.get(process.index) is not process or process.running:
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
        queue = self.queues.get(process.attached)
        if queue is None or not queue.entries:
            return False
        task = queue.entries.popleft()
        queue.takes += 1
        checkers.check_take(self, process, queue, task)
        task.state, task.runner = "RUNNING", process.index
        task.started_at = self.now
        process.running.append(task)
        if queue.entries:
            for other in self.processes.values():
                if other.attached == queue.queue and not other.running:
                    self.wake(other)
                    break
        self.after(task.script.duration_s / 2, lambda: self._middle(process, task, task.attempt))
        return True

    def _is_running(self, process: FakeProcess, task: FakeTask, attempt: int) -> bool:
        is_alive = self.processes.get(process.index) is process
        return is_alive and task.runner == process.index and task.attempt == attempt

    def _middle(self, process: FakeProcess, task: FakeTask, attempt: int) -> None:
        if not self._is_running(process, task, attempt):
            return
        script = task.script
        if attempt <= script.crashes:
            self.die(process, signal=11)
            return
        if script.child is not None and script.child_amounts is not None:
            body = m.OpenQueue(script.child_amounts)
            child = script.child

            def opened(answer: m.Message) -> None:
                if isinstance(answer, m.QueueOpened) and self._is_running(process, task, attempt):
                    self.queues[answer.queue].amounts = resources.parse(body.resources)
                    made = self.submit(answer.queue, task.job, child, max_retries=0)
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

        self.after(0.001, late)

        def go_on() -> None:
            if self._is_running(process, task, attempt):
                self._resume(process, task, attempt)

        if child.is_over:
            go_on()
        else:
            child.waiters.append(go_on)

    def _resume(self, process: FakeProcess, task: FakeTask, attempt: int) -> None:
        process.has_resumed = process.has_resumed or process.is_blocked
        process.is_blocked = False
        self._second_half(process, task, attempt)

    def _second_half(self, process: FakeProcess, task: FakeTask, attempt: int) -> None:
        def over() -> None:
            if not self._is_running(process, task, attempt):
                return
            if attempt <= task.script.raises:
                body = m.RetryTask(task.key, attempt)
                self.request(process, body, lambda answer: self._retried(process, task, answer))
                return
            self._finish(process, task, "DONE")

        self.after(task.script.duration_s / 2, over)

    def _retried(self, process: FakeProcess, task: FakeTask, answer: m.Message) -> None:
        assert isinstance(answer, m.RetryDecision)
        if answer.granted:
            self.wake(process)
        else:
            self._finish(process, task, "FAILED")

    def _finish(self, process: FakeProcess, task: FakeTask, state: str) -> None:
        process.running.remove(task)
        self.seal(task, state, b"user" if state == "FAILED" else b"")
        if process.assignment is not None and process.assignment.gpu_ids and not process.actor:
            self.die(process, code=0)  # RULES S-9: one task, then the process ends
            return
        self.wake(process)

    def seal(self, task: FakeTask, state: str, record: bytes) -> None:
        """The task has ended."""
        assert not task.is_over
        task.state = state
        task.record = record
        task.runner = -1
        for go_on in task.waiters:
            self.after(self.delay(30e-6), go_on)

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
        self.after(script.duration_s, lambda: self._constructed(process, script))

    def constructor_of(self, actor: m.ActorInfo) -> Script:
        """How the constructor goes; the class name says it."""
        crashes = 10**6 if actor.spec.class_name == "Dying" else 0
        raises = 1 if actor.spec.class_name == "Raising" else 0
        return Script(self.delay(0.002), crashes=crashes, raises=raises)

    def _constructed(self, process: FakeProcess, script: Script) -> None:
        if self.processes.get(process.index) is not process:
            return
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
                seen.RunningTask(t.key, t.attempt, t.max_retries, t.charged, 0, t.queue)
                for t in reversed(process.running)
                if t.state == "RUNNING"
            )
            self.feed(seen.ProcessDied(process.index, code, signal, ("last words",), rows))

        self.after(self.delay(0.0003), heard)

    # ---- drivers
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
