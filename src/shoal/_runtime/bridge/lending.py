"""Tasks of this node that others run: taken out of their queues, sent, and their results put in.

A lent task is RUNNING by the daemon (native/bridge.cpp), so its ``Task`` is here until it ends:
results are written through it, and committed, as a worker does it.

Invariants:

1. ``_tasks`` are the tasks whose claim says that the daemon has them: those that ``Bridge`` has as
   lendings, those on their way between two of its steps, and calls that wait for their actor's
   next place (actors.py).
2. Each ends in exactly one of four ways: committed, put back into its queue, failed, or lent again.
3. What was cancelled meanwhile ends with its record, whatever came back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shoal import _native
from shoal._base import records
from shoal._core import bridge, causes
from shoal._native import Memory, ObjectRef, Task
from shoal._proto import bridge as rows
from shoal._proto.holds import Name
from shoal._runtime.bridge.around import Surroundings, lost_worker, until_room
from shoal._runtime.bridge.proxies import Proxies
from shoal._runtime.bridge.pulling import Pulling, Stays
from shoal._runtime.bridge.streaming import StreamsHome

TRAVELLING = (
    _native.FLAG_HELP
    | _native.FLAG_ACTOR
    | _native.FLAG_UNORDERED
    | _native.FLAG_NO_RETURN
    | _native.FLAG_RETRY_EXCEPTIONS
    | _native.FLAG_DYNAMIC
    | _native.FLAG_STREAM
    | _native.FLAG_ITEMS
)
"""Flags that mean the same on the other node; it sets the rest by itself."""

STAGES = ("held", "queued", "running")
"""Of ``Memory.task_state``."""


def stays_here(flags: int) -> bool:
    """Whether only this node can run a task with these flags. What is made again may be made on
    another node as well as the first time, unless it is a list of what a generator has yielded."""
    return bool(flags & _native.FLAG_REBUILD and flags & _native.FLAG_DYNAMIC)


PAYLOAD_BYTES_MOST = 8 << 20
"""Tasks with more than this beside their arguments are for this node: one row carries it whole."""


class Lending:
    """What of ours is elsewhere."""

    def __init__(
        self,
        memory: Memory,
        proxies: Proxies,
        pulling: Pulling,
        around: Surroundings,
        post: Callable[[bridge.Event], None],
    ) -> None:
        self._memory = memory
        self._proxies = proxies
        self._pulling = pulling
        self._around = around
        self._post = post
        self.streams = StreamsHome(memory, proxies, pulling, around)
        self._tasks: dict[int, Task] = {}
        self._charged: dict[int, int] = {}
        """Attempts of calls that were lent again without having been in their queue."""
        self._final: set[int] = set()
        """Tasks that nobody sends back because he is busy."""
        self._late: dict[int, bytes] = {}
        """What those end with whose time is over: how long they took until then."""
        self.is_needy: Callable[[int], bool] = lambda queue: False
        """Whether this node can never run what waits in that queue."""

    # ---- taking
    def claim(self, key: int) -> bool:
        """Take a task out of its queue; False: it is not queued any more, or stays here."""
        task = self._memory.claim(key)
        if task is None:
            return False
        self._tasks[key] = task
        payload = task.payload()
        is_small = payload is None or len(payload) <= PAYLOAD_BYTES_MOST
        if not is_small or stays_here(task.flags):
            self.put_back(key)
            return False
        return True

    def take(self, queue: int, most: int) -> list[int]:
        """The next calls of a queue, in its order; they are the daemon's now."""
        seen = (self._memory.door + 1) & 0xFFFFFFFF  # not its door: nothing is waited for
        taken = self._memory.take_many([(queue, most)], seen, 0.0)
        assert not isinstance(taken, int), "the daemon is assigned to no queue"
        for task in taken:
            self._tasks[task.key] = task
        return [task.key for task in taken]

    def send_off(self, key: int, node: str, *, is_final: bool = False) -> None:
        """Lend what is the daemon's already."""
        task = self._tasks[key]
        (self._final.add if is_final else self._final.discard)(key)
        charged = task.charged + self._charged.get(key, 0)
        left = -1 if task.max_retries < 0 else max(0, task.max_retries - charged)
        is_call = bool(task.flags & _native.FLAG_ACTOR)
        self._post(bridge.TaskLent(key, node, left, is_call))

    # ---- what the machine wants
    def perform_send_task(self, order: bridge.SendTask) -> None:
        """Tell the other node all that it needs."""
        task = self._tasks[order.key]
        payload = task.payload()
        keys = self._memory.contained(order.key)
        if task.flags & _native.FLAG_REBUILD:
            keys.pop()  # its recipe
        if task.flags & _native.FLAG_ITEMS:
            keys.pop()  # their numbers
        given = 0
        if task.flags & _native.FLAG_STREAM:
            given = self.streams.begin(task, order.node, order.number)
            keys = self._memory.contained(order.key)[:-2]  # where its chain stands
        arguments = [self._proxies.name_of(key) for key in keys]
        n = task.n_dependencies
        is_call = bool(task.flags & _native.FLAG_ACTOR)
        body = rows.ForwardTask(
            number=order.number,
            attempt=task.attempt,
            key=order.key,
            job=task.job,
            place=self._around.describe_queue(task.queue),
            function=None if is_call else self._name(task.function),
            actor=self._proxies.home_name(task.actor) if is_call and task.actor else None,
            method=task.method,
            n_returns=max(1, task.n_returns),
            flags=task.flags & TRAVELLING,
            limit=task.limit,
            left_s=task.left_s,
            payload=b"" if payload is None else bytes(payload),
            dependencies=tuple(arguments[:n]),
            contained=tuple(arguments[n:]),
            is_final=order.key in self._final,
            is_needy=not is_call and self.is_needy(task.queue),
            given=given,
            items=tuple(task.items()),
        )
        self._proxies.send(order.node, body, rows.names_in(body))

    def _name(self, key: int) -> Name | None:
        return self._proxies.name_of(key) if key else None

    def perform_take_results(self, order: bridge.TakeResults, refs: list[ObjectRef[Any]]) -> None:
        """Write and commit; ``refs``: to all that stands in the results, in their order."""
        self.streams.then(order.key, lambda: self._take_results(order, refs))

    def _take_results(self, order: bridge.TakeResults, refs: list[ObjectRef[Any]]) -> None:
        task = self._tasks[order.key]
        keys = task.returns
        if (record := self.ending(order.key)) is not None or len(keys) != len(order.results):
            self._forget_results(order)
            problem = f"node {order.node} sent {len(order.results)} results instead of {len(keys)}"
            self.fail(order.key, record or records.pack("InternalError", message=problem))
            return
        inside = iter(refs)
        steps: list[Callable[[], bool]] = []
        for index, result in enumerate(order.results):
            its = [next(inside) for _ in result.contained]
            if result.data is None:
                self._pulling.stay(Stays(keys[index], order.node, order.number, index))
            steps.append(self._writer(task, index, result, its))
        self._write_all(order.key, steps, sum(len(r.data or b"") for r in order.results))

    @staticmethod
    def _writer(
        task: Task, index: int, result: rows.Result, refs: list[ObjectRef[Any]]
    ) -> Callable[[], bool]:
        format, data = result.format, result.data
        if data is None:
            return lambda: task.write_elsewhere(index, format, result.size, refs)
        return lambda: task.write_image(index, format, result.in_block, data, refs)

    def _write_all(self, key: int, steps: list[Callable[[], bool]], size: int) -> None:
        def step() -> bool:
            try:
                while steps:
                    if not steps[0]():
                        return False
                    steps.pop(0)
            except ValueError as error:  # it has sent what is no value
                problem = f"a result of a task that another node ran is none: {error}"
                self.fail(key, records.pack("InternalError", message=problem))
                return True
            self._forget(key).commit()
            return True

        until_room(self._around, size, step)

    def _forget_results(self, order: bridge.TakeResults) -> None:
        kept = tuple(i for i, result in enumerate(order.results) if result.data is None)
        if kept:
            body = rows.FreeResults(order.number, kept)
            self._around.links.send(order.node, body)

    def run_again(self, key: int) -> None:
        """Back into its queue, as one attempt more and one retry less."""
        self._requeue(key, is_charged=True)

    def put_back(self, key: int) -> None:
        """Back into its queue; it was not begun."""
        self._requeue(key, is_charged=False)

    def _requeue(self, key: int, *, is_charged: bool) -> None:
        task = self._tasks[key]
        if (record := self.ending(key)) is not None:
            self.fail(key, record)
            return
        self._forget(key)
        self._memory.requeue(key, is_charged, False)
        task.forget()

    def fail(self, key: int, record: bytes) -> None:
        """It ends with this error."""
        task = self._forget(key)
        self._memory.fail(key, record)
        task.forget()

    def perform_fail(self, order: bridge.Fail) -> None:
        """Its node is lost, and with it all that could be known."""
        task = self._tasks[order.key]
        if order.is_call:
            lost = self._around.watch.lost_call(task.queue, order.node)
        else:
            lost = lost_worker(order.key, order.node, is_drained=order.is_drained)
        self.fail(order.key, self.ending(order.key) or lost)

    def charge(self, key: int) -> None:
        """A call that will be lent again has used up a retry."""
        self._charged[key] = self._charged.get(key, 0) + 1

    def ending(self, key: int) -> bytes | None:
        """With what somebody wants it to end, instead of a value."""
        record = self._tasks[key].ending
        return record and self._late.get(key, record)

    def note_late(self, key: int) -> None:
        """Its time is over: how long it took is to be said of this moment, not of its end."""
        if key in self._tasks and (state := self._memory.task_state(key)) is not None:
            seconds = dict(zip(STAGES, state[4:]))
            self._late[key] = causes.deadline_exceeded("running", seconds)

    def _forget(self, key: int) -> Task:
        self._charged.pop(key, None)
        self._final.discard(key)
        self._late.pop(key, None)
        self.streams.over(key)
        return self._tasks.pop(key)

    def has(self, key: int) -> bool:
        """Whether it is the daemon's."""
        return key in self._tasks

    def job_of(self, key: int) -> int:
        """Whose it is."""
        return self._tasks[key].job

    def queue_of(self, key: int) -> int:
        """Where a task stood that is the daemon's now."""
        return self._tasks[key].queue

    def __len__(self) -> int:
        return len(self._tasks)
