"""Naive node memory: what the native module promises, in dictionaries.

It performs the commands about queues, tasks and objects. Who wakes up because of it is a matter of
the layer above (``workers``).
"""

from __future__ import annotations

from collections import deque

from shoal._core import commands as do
from shoal._core import events as seen
from shoal.testing.sim.cancels import FakeCancels
from shoal.testing.sim.fakes import FakeProcess, FakeQueue, FakeTask, Script

LEAVE = -1


class FakeMemory(FakeCancels):
    """Queues, tasks and adopted objects of one node."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.queues: dict[int, FakeQueue] = {}
        self.tasks: dict[int, FakeTask] = {}
        self.processes: dict[int, FakeProcess] = {}
        self.adopted: set[int] = set()
        self.put: set[int] = set()
        """Made by ``PutValues``: the daemon lets go of them when its machine holds them."""
        self.streams: set[int] = set()
        """Completions of streams: their last ref, too, is told of."""
        self.is_starving = False
        self._pending: deque[seen.Event] = deque()
        """Events that answer commands: fed before anything else happens."""
        self._bell_pending = False
        self._gone: list[int] = []
        self._keys = 100
        self._next_queue = 1

    def forget(self) -> None:
        """Node memory ends with its daemon."""
        self.is_starving = self._bell_pending = False
        self._gone.clear()
        self.put.clear()

    def feed(self, event: seen.Event) -> None:
        """Give the machine an event (the layer above)."""
        raise NotImplementedError

    def wake(self, process: FakeProcess) -> None:
        """Ring a worker's doorbell (the layer above)."""
        raise NotImplementedError

    # ---- commands
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
            task.state, task.moved_at = "QUEUED", self.now
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

    def do_adopt(self, command: do.Adopt) -> None:
        assert command.key not in self.adopted
        self.adopted.add(command.key)
        if command.key in self.put:
            self.put.discard(command.key)
            self.drop_last_handle(command.key)

    def do_release(self, command: do.Release) -> None:
        self.adopted.remove(command.key)

    # ---- what processes do to it
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
        known = tuple(k for k in gone if k in self.adopted or k in self.streams)
        self.streams.difference_update(known)
        self.feed(seen.BellRang(known, tuple(dead)))

    def drop_last_handle(self, key: int) -> None:
        """Nobody but the daemon holds ``key`` any more."""
        self._gone.append(key)
        self.bell()

    def new_key(self) -> int:
        """A fresh object."""
        self._keys += 1
        return self._keys

    def submit(
        self,
        queue_number: int,
        job: int,
        script: Script,
        max_retries: int,
        *,
        attempt: int = 1,
        charged: int = 0,
    ) -> FakeTask:
        """Make a task and push it."""
        task = FakeTask(self.new_key(), job, queue_number, script, max_retries)
        task.attempt, task.charged = attempt, charged
        task.submitted_at = task.moved_at = self.now
        if script.timeout_s is not None:
            task.deadline = self.now + script.timeout_s
        if script.is_stream:
            self.streams.add(task.key)
        self.tasks[task.key] = task
        if queue_number in self.queues:
            self._push(task, front=False)
        else:
            self.seal(task, "FAILED", b"gone")
        return task

    def submit_again(self, first: FakeTask, script: Script, attempt: int, charged: int) -> FakeTask:
        """The daemon submits a task once more."""
        return self.submit(
            first.queue, first.job, script, first.max_retries, attempt=attempt, charged=charged
        )

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
            if process.has_room(queue.queue):
                self.wake(process)
                return
        if queue.is_hungry:
            queue.is_hungry = False
            self.bell()

    def seal(self, task: FakeTask, state: str, record: bytes) -> None:
        """The task has ended."""
        assert not task.is_over
        task.state = state
        task.record = record
        task.ended_at = task.moved_at = self.now
        task.runner = -1
        for go_on in task.waiters:
            self.after(self.delay(30e-6), go_on)
