"""Calls of one actor that run side by side: concurrency groups, the feeder, and threads.

::

    queue of each group --take_many--> feeder --+--> threads of the group   (threaded actors)
                                                +--> event loop             (``asyncio_actor``)

One thread, the feeder, takes for the whole process (RULES A-7). It takes out of a group's queue
only while fewer of its calls run than it may have, so a call that waits stays in its queue: there
it survives the death of this process and is not one that "may have run" (A-6). In a threaded actor
the feeder is the main thread: it is never in the middle of a call.

Invariants:

1. ``taken`` is changed by the feeder alone; a call that has ended is counted once.
2. The feeder reads its doorbell before it counts what runs; who ends a call in a full group rings
   it. So room is never overlooked.
3. When the feeder has returned, every call that it took has ended.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

from shoal import _native
from shoal._proto import messages
from shoal._runtime import context
from shoal._runtime.execute import Executor

MOST_CALLS = 16_000
"""What one process may run at once; limits above it (all groups together) count as this."""


class Group:
    """The calls of one concurrency group: their queue, and how many of them may run."""

    def __init__(self, queue: int, limit: int, wake: Callable[[], None]) -> None:
        self.queue = queue
        self.limit = limit
        self.taken = 0
        self.is_full = False
        """The feeder has seen no room, and hears of it."""
        self.ended_on_loop = 0
        """Changed by the event loop alone, which wakes the feeder once for many."""
        self._ended = 0
        self._lock = threading.Lock()
        self._wake = wake

    def room(self) -> int:
        """How many more calls may be taken; asked by the feeder."""
        self.is_full = True
        room = self.limit - self.running
        if room:
            self.is_full = False
        return room

    @property
    def running(self) -> int:
        """Calls that were taken and have not ended."""
        return self.taken - self._ended - self.ended_on_loop

    def end(self) -> None:
        """A call has ended; from any thread."""
        with self._lock:
            self._ended += 1
        if self.is_full:
            self._wake()


class Feeder:
    """Takes calls for the groups of one actor."""

    def __init__(self, executor: Executor, info: messages.ActorInfo) -> None:
        self._executor = executor
        self._memory = executor.memory
        queues = [info.queue, *(queue for queue, _ in info.group_queues)]
        limits = [info.spec.max_concurrency, *info.spec.groups.values()]
        most = MOST_CALLS // len(queues)
        self.groups = [
            Group(queue, min(limit, most), self.wake) for queue, limit in zip(queues, limits)
        ]
        self.by_queue = {group.queue: group for group in self.groups}

    def wake(self) -> None:
        """Have the feeder count again."""
        self._memory.ring(self._memory.index)

    def run(
        self,
        dispatch: Callable[[list[_native.Task]], None],
        patience: Callable[[], float | None] = lambda: None,
        late: Callable[[], None] = lambda: None,
    ) -> None:
        """Take and dispatch until this process may leave.

        ``patience`` says how long to sleep at most, ``late`` is called after each such sleep.
        """
        memory = self._memory
        take = memory.take_many
        groups = self.groups
        executor = self._executor
        while not executor.is_leaving:
            seen = memory.door
            timeout_s = patience()
            tasks = take([(group.queue, group.room()) for group in groups], seen, timeout_s)
            if isinstance(tasks, int):
                if tasks == _native.WORKER_EXIT:
                    return
            elif tasks:
                for task in tasks:
                    self.by_queue[task.queue].taken += 1
                dispatch(tasks)
            elif timeout_s is not None:
                late()


class Threads:
    """The threads of one group, each begun when it is needed."""

    def __init__(self, group: Group, run: Callable[[_native.Task], None], limit: int) -> None:
        self._group = group
        self._run = run
        self._limit = limit
        self._todo: SimpleQueue[_native.Task | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._given = 0
        self._done = 0
        self._lock = threading.Lock()

    def put(self, task: _native.Task) -> None:
        """Run ``task`` as soon as a thread is free; called by the feeder."""
        self._given += 1
        if self._given - self._done > len(self._threads) < self._limit:
            thread = threading.Thread(target=self._serve, name="shoal-calls", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._todo.put(task)

    def _serve(self) -> None:
        while (task := self._todo.get()) is not None:
            self._run(task)
            del task
            with self._lock:
                self._done += 1
            self._group.end()

    def join(self) -> None:
        """Let what was given end."""
        for _ in self._threads:
            self._todo.put(None)
        for thread in self._threads:
            thread.join()


def serve_threaded(executor: Executor, info: messages.ActorInfo) -> None:
    """Be a threaded actor: the constructor and the feeder run here, calls in threads."""
    executor.memory.run_side_by_side(context.running)
    if not executor.become_actor(info):
        return
    feeder = Feeder(executor, info)
    executor.wake = feeder.wake
    threads = {group.queue: Threads(group, executor.run, group.limit) for group in feeder.groups}

    def dispatch(tasks: list[_native.Task]) -> None:
        for task in tasks:
            threads[task.queue].put(task)

    feeder.run(dispatch)
    for pool in threads.values():
        pool.join()


def is_side_by_side(spec: messages.ActorSpec) -> bool:
    """Whether calls of such an actor may overlap; all others are run by ``Executor.serve``."""
    return spec.is_asyncio or spec.max_concurrency > 1 or bool(spec.groups)
