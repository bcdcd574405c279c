"""Node memory against a naive model: several attached processes, any order of operations, deaths.

The model keeps a plain set of who holds what. After every step the audit (which recounts from
ledgers, specs and tables) must agree with the counters, and the number of live slots must be the
number of objects that the model can reach. A death is: the process's view becomes inert, and the
daemon repairs its index, exactly as after ``kill -9`` between two operations.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import threading
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shoal import _native

PROCESSES = 3
SIDE_BY_SIDE = {1}
"""Processes whose tasks end in any order."""
RUNNING: ContextVar[Any] = ContextVar("running", default=None)
ERROR = b"\x92\xa5Error\x80"


class Failed(Exception):
    """What ``get`` raises for an error value."""


def _hooks(memory: Any) -> None:
    memory.set_hooks(
        loads=pickle.loads,
        error=lambda _format, data, _ref: Failed(bytes(data)),
        help=None,
        future=lambda ref: ref,
        wait=lambda ref: ref,
        escaped=lambda ref: ref,
    )


@dataclass
class Thing:
    """One object of the model: a value, or the return of a task."""

    key: int
    value: object = None
    sealed: bool = False
    error: bool = False
    contained: list[int] = field(default_factory=list)


@dataclass
class Job:
    """One task of the model."""

    key: int
    returns: list[int]
    dependencies: list[int]
    ordered: bool
    runner: int = -1
    attempts: set[int] = field(default_factory=set)


class NodeMemory(RuleBasedStateMachine):
    """Three processes, one class queue, one actor queue."""

    def __init__(self) -> None:
        super().__init__()
        self.daemon = _native.Memory.create(32 << 20, 2, b"property", 64)
        _hooks(self.daemon)
        self.is_over = False
        self.populator = threading.Thread(target=self._populate, daemon=True)
        self.populator.start()
        self.queue = self.daemon.new_queue(_native.QUEUE_CLASS, 1)
        self.actor = self.daemon.new_queue(_native.QUEUE_ACTOR, 1)
        self.memories: list[Any] = [self._attach(i) for i in range(PROCESSES)]
        self.refs: list[dict[int, Any]] = [{} for _ in range(PROCESSES)]
        self.things: dict[int, Thing] = {}
        self.jobs: dict[int, Job] = {}
        self.order: dict[int, list[int]] = {i: [] for i in range(PROCESSES)}
        self.running: list[list[Any]] = [[] for _ in range(PROCESSES)]
        self.serial = 0

    def _populate(self) -> None:
        """The daemon's part of an allocation: give memory whenever the bell rings."""
        bell = select.poll()  # select takes no descriptor above 1,023
        bell.register(self.daemon.eventfd, select.POLLIN)
        while not self.is_over:
            self.daemon.populate(64 << 20, 1 << 40)
            bell.poll(1000)
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self.daemon.eventfd)

    def _attach(self, number: int) -> Any:
        index = self.daemon.open_process(2)
        memory = _native.Memory.attach(os.dup(self.daemon.fd), os.dup(self.daemon.eventfd), index)
        _hooks(memory)
        if number in SIDE_BY_SIDE:
            memory.run_side_by_side(RUNNING)
        return memory

    def teardown(self) -> None:
        for process in range(PROCESSES):
            self.kill(process)
        self.drain()
        assert self.daemon.audit() == {
            "bytes": 0,
            "slots": 0,
            "specs": 0,
            "leaked_blocks": 0,
            "wrong_counts": 0,
        }
        self.is_over = True
        os.eventfd_write(self.daemon.eventfd, 1)
        self.populator.join()
        for memory in self.memories:
            memory.close()
        self.daemon.close()
        # Others close theirs as they leave; a daemon's stay open, and hundreds are made here.
        os.close(self.daemon.fd)
        os.close(self.daemon.eventfd)

    def drain(self) -> None:
        """Run everything that is left, in a process that holds nothing."""
        for _ in range(1000):
            busy = False
            for queue, ordered in ((self.queue[0], False), (self.actor[0], True)):
                task = self._take(0, queue)
                if task is not None:
                    busy = True
                    self._check_taken(task, 0, ordered)
                    assert task.seal(None) or task.n_returns > 1
                    if task.n_returns > 1:
                        for i in range(task.n_returns):
                            task.write_simple(i, None)
                        task.commit()
                    self._finished(self.jobs[task.key], error=False, value=None)
            if not busy:
                return
        pytest.fail("the work never ends")

    # ---- objects
    @rule(process=st.integers(0, PROCESSES - 1), size=st.sampled_from([0, 40, 200, 5000, 300_000]))
    def put(self, process: int, size: int) -> None:
        memory = self.memories[process]
        inside = list(self.refs[process].values())[:3]
        captured: list[Any] = []
        memory.capture(captured)
        self.serial += 1
        try:
            data = pickle.dumps((self.serial, b"x" * size, inside), 5)
        finally:
            memory.capture(None)
        ref = memory.put(_native.FORMAT_PICKLE, data, [], captured)
        thing = Thing(ref.key, self.serial, sealed=True, contained=[r.key for r in captured])
        self.things[ref.key] = thing
        self.refs[process][ref.key] = ref

    @rule(process=st.integers(0, PROCESSES - 1), pick=st.integers(0, 100))
    def drop(self, process: int, pick: int) -> None:
        refs = self.refs[process]
        if refs:
            del refs[sorted(refs)[pick % len(refs)]]

    @rule(
        giver=st.integers(0, PROCESSES - 1),
        taker=st.integers(0, PROCESSES - 1),
        pick=st.integers(0, 100),
    )
    def hand_over(self, giver: int, taker: int, pick: int) -> None:
        refs = self.refs[giver]
        if refs:
            key = sorted(refs)[pick % len(refs)]
            ref = self.memories[taker].ref(key)
            assert ref is not None and ref.key == key
            self.refs[taker][key] = ref

    @rule(process=st.integers(0, PROCESSES - 1), pick=st.integers(0, 100))
    def get(self, process: int, pick: int) -> None:
        refs = self.refs[process]
        if not refs:
            return
        key = sorted(refs)[pick % len(refs)]
        thing = self.things[key]
        memory = self.memories[process]
        if not thing.sealed:
            with pytest.raises(TimeoutError):
                memory.get(refs[key], 0)
        elif thing.error:
            with pytest.raises(Failed):
                memory.get(refs[key], 0)
        elif thing.contained or isinstance(thing.value, int):
            number, _, inside = memory.get(refs[key], 0)
            assert number == thing.value
            assert [r.key for r in inside] == thing.contained
        else:
            assert memory.get(refs[key], 0) is None

    # ---- tasks
    @rule(
        process=st.integers(0, PROCESSES - 1),
        picks=st.lists(st.integers(0, 100), max_size=3),
        returns=st.integers(1, 3),
        ordered=st.booleans(),
    )
    def submit(self, process: int, picks: list[int], returns: int, ordered: bool) -> None:
        memory, refs = self.memories[process], self.refs[process]
        keys = [sorted(refs)[p % len(refs)] for p in picks] if refs else []
        queue, generation = self.actor if ordered else self.queue
        template = _native.Template(
            function=0,
            queue=queue,
            queue_generation=generation,
            job=1,
            n_returns=returns,
            flags=_native.FLAG_ACTOR if ordered else _native.FLAG_HELP,
        )
        made = memory.submit(template, b"payload", [refs[k] for k in keys])
        made = [made] if returns == 1 else made
        job = Job(made[0].key, [r.key for r in made], keys, ordered)
        self.jobs[job.key] = job
        for ref in made:
            self.things[ref.key] = Thing(ref.key)
            refs[ref.key] = ref
        if ordered:
            self.order[process].append(job.key)
        self._cascade()

    @rule(process=st.integers(0, PROCESSES - 1), ordered=st.booleans())
    def take(self, process: int, ordered: bool) -> None:
        queue = self.actor[0] if ordered else self.queue[0]
        if len(self.running[process]) >= 3:
            return
        task = self._take(process, queue)
        if task is None:
            ready = [j for j in self.jobs.values() if self._is_ready(j) and j.ordered == ordered]
            assert not ready, "a ready task was not found"
            return
        self._check_taken(task, process, ordered)
        self.running[process].append(task)

    @precondition(lambda self: any(self.running))
    @rule(
        pick=st.integers(0, PROCESSES - 1),
        which=st.integers(0, 3),
        error=st.booleans(),
        retry=st.booleans(),
    )
    def finish(self, pick: int, which: int, error: bool, retry: bool) -> None:
        process = next(
            (pick + i) % PROCESSES for i in range(PROCESSES) if self.running[(pick + i) % PROCESSES]
        )
        running = self.running[process]
        task = running.pop(which % len(running) if process in SIDE_BY_SIDE else -1)
        job = self.jobs[task.key]
        if retry and not job.ordered:
            assert self.daemon.requeue(task.key, True, False)
            task.forget()
            job.runner = -1
            return
        for i in range(len(job.returns)):
            if error:
                task.write(i, _native.FORMAT_ERROR_RECORD, ERROR, [], [])
            else:
                assert task.write_simple(i, None)
        task.commit()
        self._finished(job, error=error, value=None)

    # ---- deaths
    @rule(process=st.integers(0, PROCESSES - 1))
    def kill(self, process: int) -> None:
        memory = self.memories[process]
        memory.close()
        self.refs[process] = {}
        expected = {task.key for task in self.running[process]}
        self.running[process] = []
        found = self.daemon.repair(memory.index)
        assert {row[0] for row in found} == expected
        for key, attempt, *_ in found:
            job = self.jobs[key]
            assert attempt in job.attempts
            job.runner = -1
            assert self.daemon.requeue(key, True, job.ordered)
        self.daemon.close_process(memory.index)
        self.memories[process] = self._attach(process)
        # Its calls keep their order among themselves, but a new process begins a new lane.
        self.order[process] = []

    # ---- the model
    def _take(self, process: int, queue: int) -> Any:
        memory = self.memories[process]
        self.daemon.assign(memory.index, queue)
        for _ in range(3):
            task = memory.take(0)
            if not isinstance(task, int):
                return task
        return None

    def _check_taken(self, task: Any, process: int, ordered: bool) -> None:
        job = self.jobs[task.key]
        assert job.ordered == ordered
        assert job.runner == -1, "it is running already"
        assert task.attempt not in job.attempts, "an attempt ran twice"
        assert all(self.things[k].sealed for k in job.dependencies)
        assert task.n_returns == len(job.returns)
        for lane in self.order.values():
            if job.key in lane:
                assert not [
                    k
                    for k in lane[: lane.index(job.key)]
                    if k in self.jobs and self.jobs[k].runner == -1 and not self.jobs[k].attempts
                ], "a later call of the same caller overtook an earlier one"
        job.runner = process
        job.attempts.add(task.attempt)

    def _is_ready(self, job: Job) -> bool:
        return (
            job.runner == -1
            and all(self.things[k].sealed for k in job.dependencies)
            and not job.ordered
        )

    def _finished(self, job: Job, *, error: bool, value: object) -> None:
        for key in job.returns:
            thing = self.things[key]
            thing.sealed, thing.error, thing.value = True, error, value
        del self.jobs[job.key]
        self._cascade()

    def _cascade(self) -> None:
        """A plain task with a failed dependency fails with it, without running."""
        again = True
        while again:
            again = False
            for job in list(self.jobs.values()):
                known = [self.things[k] for k in job.dependencies]
                first_error = next((i for i, t in enumerate(known) if t.error), None)
                if job.ordered or first_error is None or job.runner != -1 or job.attempts:
                    continue
                if all(t.sealed for t in known[:first_error]):
                    for key in job.returns:
                        self.things[key].sealed = self.things[key].error = True
                    del self.jobs[job.key]
                    again = True

    def _reachable(self) -> set[int]:
        todo = [key for refs in self.refs for key in refs]
        for job in self.jobs.values():
            todo += job.returns + job.dependencies
        seen: set[int] = set()
        while todo:
            key = todo.pop()
            if key not in seen:
                seen.add(key)
                todo += self.things[key].contained
        return seen

    @invariant()
    def counts_are_exact(self) -> None:
        audit = self.daemon.audit()
        assert audit["wrong_counts"] == 0
        assert audit["leaked_blocks"] == 0
        assert audit["specs"] == len(self.jobs)
        extra = audit["slots"] - len(self._reachable())
        # A lane keeps its caller's last unpushed call, also when nobody holds its result any more.
        assert 0 <= extra <= PROCESSES * 3, (audit, len(self._reachable()))


NodeMemory.TestCase.settings = settings(
    max_examples=120,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestNodeMemory = NodeMemory.TestCase
