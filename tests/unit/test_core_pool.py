"""Worker processes: starting, binding, leaving, in any order, against what must never happen."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from shoal._base.config import Limits
from shoal._core import commands as do
from shoal._core.pool import Phase, Pool
from shoal._core.scheduler import Binding

LIMITS = Limits(workers_most=12, starting_most=3)
PLAIN = Binding(1, 1, (), False)


def ready(pool: Pool, index: int, now: float = 0.0, start: int = 1) -> None:
    pool.forked(now, start, index, 1000 + index)
    pool.joined(now, index, 1000 + index)
    assert pool.asks_assignment(now, index, 2) is not None


def test_one_start_serves_one_wish() -> None:
    pool = Pool(LIMITS, 2)
    assert pool.want(0.0, ["", ""]) == [do.StartWorker(1), do.StartWorker(2)]
    assert pool.want(0.1, ["", ""]) == []
    assert pool.want(0.1, ["", "", "", ""]) == [do.StartWorker(3)], "three at once are allowed"


def test_binding_is_for_life() -> None:
    pool = Pool(LIMITS, 1)
    pool.want(0.0, [""])
    ready(pool, 7)
    assert pool.find(PLAIN, "") == 7
    assert pool.use(0.0, 7, PLAIN) == 2, "the request that waits for the assignment"
    pool.rest(1.0, 7)
    assert pool.find(PLAIN, "") == 7
    assert pool.use(1.0, 7, PLAIN) == 0
    pool.rest(2.0, 7)
    assert pool.find(Binding(2, 1, (), False), "") is None
    assert pool.find(Binding(1, 2, (), False), "") is None
    assert pool.find(Binding(1, 1, ("0",), False), "") is None
    assert pool.find(Binding(1, 1, (), True), "") is None


def test_other_interpreter_is_another_start() -> None:
    pool = Pool(LIMITS, 1)
    pool.want(0.0, [""])
    ready(pool, 7)
    assert pool.find(PLAIN, "/usr/bin/python3.13") is None
    assert pool.want(0.0, ["/usr/bin/python3.13"]) == [do.StartWorker(2, "/usr/bin/python3.13")]


def test_failures_back_off() -> None:
    pool = Pool(LIMITS, 1)
    pool.want(0.0, [""])
    pauses = []
    now = 0.0
    for number in range(1, 9):
        pool.start_failed(now, number)
        assert pool.want(now, [""]) == []
        assert pool.retry_at is not None
        pauses.append(pool.retry_at - now)
        now = pool.retry_at
        pool.expire(now)
        assert pool.want(now, ["", ""]) == [do.StartWorker(number + 1)], "one at a time"
    assert abs(pauses[0] - LIMITS.start_backoff_s) < 1e-9
    assert abs(pauses[-1] - LIMITS.start_backoff_most_s) < 1e-9


def test_hanging_start_is_abandoned() -> None:
    pool = Pool(LIMITS, 1)
    pool.want(0.0, ["", ""])
    pool.forked(1.0, 1, 7, 1007)
    assert pool.expire(LIMITS.fork_timeout_s) == [do.AbandonStart(2)]
    assert pool.expire(1.0 + LIMITS.join_timeout_s) == [do.AbandonStart(1)]
    assert not pool.forked(50.0, 2, 8, 1008), "too late: nobody waits for it"


def test_late_leaver_is_killed_a_patient_one_is_not() -> None:
    pool = Pool(LIMITS, 0)
    pool.want(0.0, ["", ""])
    ready(pool, 7, start=1)
    ready(pool, 8, start=2)
    pool.use(0.0, 7, PLAIN)
    pool.use(0.0, 8, Binding(1, 1, ("0",), False))
    assert pool.leave(1.0, 7) == [do.Leave(7)]
    assert pool.leave(1.0, 8, is_patient=True) == [do.Leave(8)]
    assert pool.expire(1.0 + LIMITS.leave_s) == [do.Kill(7)]
    assert pool.next_deadline() is None


def test_trimming_ends_the_highest_idle_ones() -> None:
    pool = Pool(LIMITS, 1)
    pool.want(0.0, ["", "", ""])
    for index in (7, 8, 9):
        ready(pool, index, start=index - 6)
        pool.use(0.0, index, PLAIN)
        pool.rest(0.0, index)
    assert pool.trim(LIMITS.idle_worker_s - 1) == []
    assert pool.trim(LIMITS.idle_worker_s) == [do.Leave(9), do.Leave(8)]


def test_full_table_evicts_who_is_idle_longest() -> None:
    pool = Pool(Limits(workers_most=2, starting_most=2), 2)
    pool.want(0.0, ["", ""])
    for index in (7, 8):
        ready(pool, index, start=index - 6)
        pool.use(0.0, index, PLAIN)
        pool.rest(float(index), index)
    assert pool.is_full() and pool.want(9.0, [""]) == []
    assert pool.evict(9.0) == [do.Leave(7)]


class PoolMachine(RuleBasedStateMachine):
    """Wishes, starts, bindings and deaths in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = Pool(LIMITS, 2)
        self.now = 0.0
        self.index = 0
        self.bound: dict[int, Binding] = {}

    @rule(count=st.integers(0, 5), seconds=st.floats(0, 5))
    def want(self, count: int, seconds: float) -> None:
        self.now += seconds
        self.pool.want(self.now, [""] * count)

    @rule(fails=st.booleans())
    def go_on_starting(self, fails: bool) -> None:
        for number, start in list(self.pool.starts.items()):
            if fails:
                self.pool.start_failed(self.now, number)
            elif start.index < 0:
                self.index += 1
                assert self.pool.forked(self.now, number, self.index, 100 + self.index)
            else:
                assert self.pool.joined(self.now, start.index, 0) is not None

    @rule()
    def ask(self) -> None:
        for index in list(self.pool.workers):
            self.pool.asks_assignment(self.now, index, 9)

    @rule(job=st.integers(1, 2), threads=st.integers(1, 2), gpu=st.booleans(), actor=st.booleans())
    def use(self, job: int, threads: int, gpu: bool, actor: bool) -> None:
        binding = Binding(job, threads, ("0",) if gpu else (), actor)
        index = self.pool.find(binding, "")
        if index is None:
            return
        request = self.pool.use(self.now, index, binding)
        assert (request != 0) == (index not in self.bound)
        assert self.bound.setdefault(index, binding) == binding
        assert not (gpu or actor) or request, "fresh processes only"

    @rule(data=st.data(), what=st.sampled_from(["rest", "leave", "kill", "die"]))
    def change(self, data: st.DataObject, what: str) -> None:
        if not self.pool.workers:
            return
        index = data.draw(st.sampled_from(sorted(self.pool.workers)))
        if what == "rest":
            self.pool.rest(self.now, index)
        elif what == "leave":
            self.pool.leave(self.now, index)
        elif what == "kill":
            self.pool.kill(self.now, index)
        else:
            assert self.pool.died(index) is not None
            self.bound.pop(index, None)

    @rule(seconds=st.floats(0, 40))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.pool.expire(self.now)
        self.pool.trim(self.now)
        deadline = self.pool.next_deadline()
        assert deadline is None or deadline > self.now

    @invariant()
    def valid(self) -> None:
        self.pool.validate()
        for index, worker in self.pool.workers.items():
            if worker.phase in (Phase.IDLE, Phase.ATTACHED, Phase.ACTOR):
                assert worker.binding == self.bound[index]


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
