"""Who uses how much memory, who waits for it and who has to go: decisions, without a process."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from shoal._core import memory_admission
from shoal._core import memory_watch as watch_module
from shoal._core.events import MemoryRead, ProcessMemory
from shoal._core.memory_admission import Admit, Heavy, Rules, Waiter
from shoal._core.memory_watch import Decision, End, MemoryWatch, Pause, Trim

MB = 1 << 20
LIMIT = 1000 * MB
FRESH = 10 * MB


def process(index: int, own: int, task: int = 0, **more: Any) -> ProcessMemory:
    """``own`` in MB beyond what a fresh one has; with a task, function 100 + index."""
    more.setdefault("function", 100 + index if task and own >= 16 else 0)
    return ProcessMemory(index, FRESH + own * MB, task, **more)


class Watching:
    """A watch and a clock."""

    def __init__(self, **rules: Any) -> None:
        self.watch = MemoryWatch(Rules(**{"limit_bytes": LIMIT, "cpus": 4, **rules}))
        self.now = 10.0

    def read(
        self, *processes: ProcessMemory, used: int | None = None, after: float = 0.25
    ) -> list[Decision]:
        """What a reading leads to; ``used`` (MB): what the node has in use, else their sum."""
        self.now += after
        total = sum(row.own_bytes for row in processes) if used is None else used * MB
        out = self.watch.step(self.now, MemoryRead(total, LIMIT, processes, FRESH))
        workers = {*self.watch.watched, *self.watch.admissions.holding, *self.watch.ended}
        self.watch.validate(workers | {waiter.index for waiter in self.watch.admissions.waiting})
        return out

    def first(self, *processes: ProcessMemory) -> None:
        self.watch.look_first(self.now, MemoryRead(0, 1, processes, is_first_look=True))

    def ask(
        self, index: int, function: int, declared: bool = False, attempt: int = 1
    ) -> list[Decision]:
        waiter = Waiter(index, index, function, self.now, declared, attempt)
        return self.watch.ask(self.now, waiter)


def ends(out: list[Decision]) -> list[int]:
    return [each.index for each in out if isinstance(each, End)]


# ---- what was asked for
def test_who_takes_more_than_it_asked_for_is_ended_whatever_the_node_has() -> None:
    w = Watching()
    w.first(process(1, 0))
    assert not ends(w.read(process(1, 190, 5, declared_bytes=200 * MB)))
    (end,) = [x for x in w.read(process(1, 210, 5, declared_bytes=200 * MB)) if isinstance(x, End)]
    assert (end.kind, end.limit_bytes, end.peak_bytes) == ("limit", 200 * MB, 210 * MB)
    assert (end.task, end.function) == (5, 101)
    assert not ends(w.read(process(1, 300, 5, declared_bytes=200 * MB))), "once is enough"


def test_a_little_growth_is_no_broken_promise() -> None:
    w = Watching()
    w.first(process(1, 0))
    assert not ends(w.read(process(1, 15, 5, declared_bytes=MB)))
    assert ends(w.read(process(1, 17, 5, declared_bytes=MB))) == [1]


def test_what_a_process_had_before_is_not_its_next_tasks() -> None:
    w = Watching()
    w.first(process(1, 300))
    assert not ends(w.read(process(1, 450, 5, declared_bytes=200 * MB)))
    assert ends(w.read(process(1, 510, 5, declared_bytes=200 * MB))) == [1]


def test_what_earlier_tasks_left_behind_is_not_the_next_ones() -> None:
    w = Watching()
    w.first(process(1, 0))
    for task in range(1, 12):
        w.read(process(1, 150, task, declared_bytes=200 * MB))
    assert not ends(w.read(process(1, 250, 20, declared_bytes=200 * MB)))


def test_what_an_earlier_task_gave_back_unseen_is_the_next_ones() -> None:
    w = Watching()
    for _ in range(9):
        w.read(process(1, 700, 5), used=720)
    w.read(process(1, 650, 6), used=670)
    w.read(process(1, 100, 6), used=120)
    assert ends(w.read(process(1, 900, 6), used=960)) == [1]
    (end,) = w.watch.ended.values()
    assert end.peak_bytes == 800 * MB


def test_an_actors_memory_counts_from_its_beginning_over_all_calls() -> None:
    w = Watching()
    w.first(process(1, 0))
    more = {"is_actor": True, "declared_bytes": 100 * MB, "function": 0}
    for call in range(1, 10):
        assert not ends(w.read(process(1, 10 * call, call, **more)))
    assert ends(w.read(process(1, 110, 0, **more))) == [1], "also between calls"


# ---- the node
def test_nobody_is_ended_while_there_is_enough() -> None:
    w = Watching()
    assert not ends(w.read(process(1, 800, 5), used=940))


def test_the_one_that_has_grown_most_has_to_go() -> None:
    w = Watching()
    others = [process(index, 90, 50 + index) for index in (2, 3)]
    w.read(process(1, 100, 5), *others)
    out = w.read(process(1, 700, 5), *others, used=960)
    assert ends(out) == [1]
    (end,) = [x for x in out if isinstance(x, End)]
    assert end.kind == "node" and dict(end.others) == {2: 100 * MB, 3: 100 * MB}
    assert ends(w.read(process(1, 700, 5), *others, used=960)) == [], "its memory is on its way"
    w.watch.died(w.now, 1)
    assert ends(w.read(*others, used=200)) == []


def test_if_several_are_to_blame_who_began_last_and_can_be_tried_again_goes() -> None:
    w = Watching()
    w.read(process(1, 100, 5))
    w.read(process(1, 100, 5), process(2, 100, 6))
    assert ends(w.read(process(1, 490, 5), process(2, 460, 6))) == [2]
    w = Watching()
    w.read(process(1, 100, 5))
    w.read(process(1, 100, 5), process(2, 100, 6, is_actor=True, can_return=False))
    row = process(2, 460, 6, is_actor=True, can_return=False)
    assert ends(w.read(process(1, 490, 5), row)) == [1]


def test_nobody_is_ended_for_what_somebody_else_took() -> None:
    w = Watching()
    assert not ends(w.read(process(1, 60, 5), process(2, 20, 6), used=999))


def test_who_was_admitted_with_what_it_needs_is_no_offender_beside_one_that_was_not() -> None:
    w = Watching()
    w.read(process(1, 500, 5), used=510)
    w.read(process(1, 0), used=20)
    assert [type(x) for x in w.ask(1, 101)] == [Admit]
    out = w.read(process(1, 500, 6), process(2, 420, 7), used=960)
    assert ends(out) == [2]


@pytest.mark.parametrize("seed", range(200))
def test_a_bystander_is_never_the_victim(seed: int) -> None:
    """Whoever stays within what it has asked for, or has grown by less than half of the worst, is
    never ended while somebody is worse."""
    chance = random.Random(seed)
    w = Watching()
    count = chance.randint(2, 8)
    hog = chance.randint(1, count)
    sizes = {index: chance.randint(1, 250 // count) for index in range(1, count + 1)}
    declared = {i: chance.choice((0, sizes[i] + 1)) * MB for i in sizes if i != hog}
    tasks = {index: chance.randint(1, 1 << 40) for index in sizes}
    for _ in range(100):
        if chance.random() < 0.3:
            other = chance.randint(1, count)
            if other != hog:
                tasks[other] += 1
        sizes[hog] += chance.randint(5, 60)
        rows = [process(i, sizes[i], tasks[i], declared_bytes=declared.get(i, 0)) for i in sizes]
        chance.shuffle(rows)
        out = w.read(*rows)
        if ends(out):
            assert ends(out) == [hog]
            return
    raise AssertionError("the hog took all there is")


# ---- pausing and trimming
def test_admission_pauses_before_anybody_is_ended_and_goes_on_later() -> None:
    w = Watching()
    out = w.read(process(1, 900, 5), used=940)
    assert out[0] == Heavy(101) and out[1] == Pause(True) and not ends(out)
    assert not w.watch.begins()
    assert w.read(process(1, 880, 5), used=920) == [], "not at once: that would swing"
    assert w.read(process(1, 400, 5), used=440) == [Pause(False)]
    assert w.watch.begins()


def test_a_pause_never_stops_the_last_one() -> None:
    w = Watching()
    w.read(process(1, 900, 5), used=940)
    assert not w.watch.begins()
    w.read(process(1, 900, 0), used=940)
    assert w.watch.begins() and not w.watch.begins(), "nothing runs: one may begin"
    w.read(process(1, 900, 5), used=940)
    assert not w.watch.begins()
    w.read(process(1, 900, 5), used=940, after=watch_module.BEGIN_S)
    assert w.watch.begins(), "and one now and then"
    blocked = process(1, 900, 5, is_blocked=True)
    w.read(blocked, used=940)
    assert w.watch.begins(), "who waits may wait for what would begin"


def test_there_is_no_pause_for_what_workers_do_not_have() -> None:
    w = Watching()
    assert w.read(process(1, 100, 5), used=945) == []


def test_idle_workers_go_largest_first_under_pressure() -> None:
    w = Watching()
    idle = [process(index, 10 * index, is_free=True) for index in (2, 3, 8)]
    out = w.read(process(1, 800, 5), *idle, used=940)
    assert [x.index for x in out if isinstance(x, Trim)] == [8, 3, 2]


def test_workers_that_keep_a_queue_without_a_task_are_idle_after_a_while() -> None:
    w = Watching(idle_s=10.0)
    kept = [process(index, 100, task=5) for index in (1, 2, 3)]
    assert w.read(*kept) == []
    idle = [process(index, 100) for index in (1, 2, 3)]
    assert w.read(*idle) == [] == w.read(*idle, after=9.0)
    assert [x.index for x in w.read(*idle, after=1.0) if isinstance(x, Trim)] == [1]
    for row in (
        [process(index, 100, task=5, is_blocked=True) for index in (1, 2, 3)],
        [process(index, 100, is_actor=True) for index in (1, 2, 3)],
    ):
        w = Watching()
        w.read(*row)
        assert not [x for x in w.read(*row, after=100.0) if isinstance(x, Trim)], row


def test_idle_workers_may_keep_a_quarter_without_pressure() -> None:
    w = Watching()
    idle = [process(index, 100, is_free=True) for index in (1, 2, 3)]
    assert [x.index for x in w.read(*idle) if isinstance(x, Trim)] == [1]
    small = [process(index, 15, is_free=True) for index in range(1, 20)]
    assert not Watching().read(*small), "a worker is worth more than a few MB"


# ---- learning and admission
def heavy(w: Watching, index: int = 1, size: int = 550) -> int:
    """A function that has needed so much, and has ended."""
    w.read(process(index, size, 5), used=size)
    w.read(process(index, 0), used=10)
    return 100 + index


def test_a_functions_peak_is_learned_and_falls_slowly() -> None:
    w = Watching()
    w.read(process(1, 40, 5))
    w.read(process(1, 300, 5))
    assert w.watch.peaks.rows[101].bytes == 300 * MB and w.watch.peaks.is_heavy(101)
    for task in range(6, 46):
        w.read(process(1, 0), used=10)
        w.ask(1, 101)
        w.read(process(1, 100, task, function=101))
        w.now += 1
        w.watch.release(w.now, 1, 101, True)
    assert 100 * MB <= w.watch.peaks.rows[101].bytes < 120 * MB


def test_two_that_do_not_fit_together_never_run_at_once() -> None:
    w = Watching()
    function = heavy(w)
    assert w.ask(1, function) == [Admit(1, 1)]
    assert w.ask(2, function) == []
    for _ in range(20):
        rows = process(1, 500, 6, function=function), process(2, 0, 7, is_blocked=True)
        assert not [x for x in w.read(*rows, used=520) if isinstance(x, Admit)]
    assert w.watch.release(w.now, 1, function, True) == [Admit(2, 2)]


def test_two_that_fit_together_do_run_at_once() -> None:
    w = Watching()
    function = heavy(w, size=300)
    assert w.ask(1, function) == [Admit(1, 1)] and w.ask(2, function) == [Admit(2, 2)]
    assert w.ask(3, function) == [Admit(3, 3)]
    assert w.ask(4, function) == []


def test_what_is_promised_to_those_who_declared_it_counts() -> None:
    w = Watching()
    function = heavy(w)
    w.ask(1, function)
    w.watch.release(w.now, 1, function, True)
    w.first(process(3, 0))
    w.read(process(3, 100, 8, declared_bytes=600 * MB), process(1, 0), used=120)
    assert w.ask(1, function) == [Admit(1, 1)], "alone of its kind: what fits completes"
    assert w.ask(2, 101) == []


def test_who_waits_for_something_keeps_nobody_out() -> None:
    """A heavy task that waits for a heavy child: else both would wait for ever."""
    w = Watching()
    function = heavy(w)
    assert w.ask(1, function) and not w.ask(2, function)
    w.read(process(1, 100, 6, function=function), process(2, 0, 7, is_blocked=True), used=120)
    rows = process(1, 500, 6, function=function, is_blocked=True), process(2, 0, 7)
    assert Admit(2, 2) in w.read(*rows, used=520)


def test_who_began_before_it_was_known_is_promised_the_same() -> None:
    w = Watching()
    w.read(process(1, 600, 6, function=70))
    assert not w.ask(2, 70)
    rows = process(1, 100, 6, function=70), process(2, 0, 7, is_blocked=True)
    assert Admit(2, 2) not in w.read(*rows, used=120), "it may take as much again"


def test_that_it_waited_for_admission_lets_nobody_else_in() -> None:
    """What was seen of it, and may still be seen for a moment, is from before it was let in."""
    w = Watching()
    function = heavy(w)
    assert w.ask(1, function) and not w.ask(2, function) and not w.ask(3, function)
    waiting = [process(index, 0, 5 + index, is_blocked=True) for index in (2, 3)]
    w.read(process(1, 500, 6, function=function), *waiting, used=520)
    assert w.watch.release(w.now, 1, function, True) == [Admit(2, 2)], "and not 3 at once"
    assert Admit(3, 3) not in w.read(*waiting, used=20), "2 has not been told yet"
    w.now += memory_admission.SETTLE_S
    assert Admit(3, 3) in w.read(*waiting, used=20), "it waits for something, and has not begun"


def test_a_child_that_its_waiting_parent_runs_is_admitted_with_it() -> None:
    w = Watching()
    function = heavy(w)
    assert w.ask(1, function) == [Admit(1, 1)] and w.ask(1, function) == [Admit(1, 1)]
    w.watch.release(w.now, 1, function, True)
    assert not w.ask(2, function), "the parent still runs"
    assert w.watch.release(w.now, 1, function, True) == [Admit(2, 2)]


def test_the_death_of_who_was_admitted_or_waits_leaves_nothing() -> None:
    w = Watching()
    function = heavy(w)
    w.ask(1, function), w.ask(2, function), w.ask(3, function)
    assert w.watch.died(w.now, 2) is None
    assert w.watch.died(w.now, 1) is None
    assert Admit(3, 3) in w.read(process(3, 0, 9, is_blocked=True))
    w.watch.died(w.now, 3)
    assert not w.watch.admissions.holding and not w.watch.admissions.waiting


def test_who_was_ended_waits_longer_each_time_until_it_goes_well() -> None:
    w = Watching()
    pauses = []
    for task in range(1, 5):
        w.read(process(1, 0))
        w.read(process(1, 900, task), used=960)
        w.watch.died(w.now, 1)
        assert not w.ask(2, 101, attempt=task + 1)
        began = w.now
        while not any(isinstance(x, Admit) for x in w.read(process(2, 0), after=0.05)):
            assert w.now - began < 20
        pauses.append(w.now - began)
        w.watch.died(w.now, 2)
        w.now += 1
    assert all(2 * a * 0.8 < b for a, b in itertools.pairwise(pauses)), pauses
    assert w.ask(2, 101) == [Admit(2, 2)], "another task of the function is not to blame"
    w.watch.release(w.now, 2, 101, True)
    assert w.watch.peaks.rows[101].ends == 0


def test_who_declared_its_memory_waits_only_for_its_pause() -> None:
    w = Watching()
    function = heavy(w)
    assert w.ask(1, function) and w.ask(2, function, declared=True) == [Admit(2, 2)]


def test_in_the_end_what_is_free_now_is_enough() -> None:
    w = Watching()
    function = heavy(w, size=550)
    w.ask(1, function), w.ask(2, function)
    rows = process(1, 20, 6, function=function), process(2, 0, 7, is_blocked=True)
    assert not any(isinstance(x, Admit) for x in w.read(*rows, used=60))
    w.now += memory_admission.PATIENCE_S
    assert Admit(2, 2) in w.read(*rows, used=60)


def test_two_that_may_wait_for_each_other_unseen_do_not_do_so_for_ever() -> None:
    w = Watching()
    function = heavy(w)
    w.ask(1, function), w.ask(2, function), w.ask(3, function)
    waiting = [process(index, 0, 5 + index, is_blocked=True) for index in (2, 3)]
    rows = process(1, 500, 6, function=function), *waiting
    w.now += memory_admission.STUCK_S - 1
    assert not [x for x in w.read(*rows, used=520) if isinstance(x, Admit)]
    w.now += 1
    assert [x for x in w.read(*rows, used=520) if isinstance(x, Admit)] == [Admit(2, 2)], "one"
    both = process(1, 500, 6, function=function), process(2, 460, 7, function=function)
    assert ends(w.read(*both, waiting[1], used=980)) == [2], "who began last"


def test_the_table_of_peaks_is_bounded() -> None:
    w = Watching()
    for function in range(1, memory_admission.PEAKS_MOST + 100):
        w.read(process(1, 0))
        w.read(process(1, 40, function, function=function))
    assert len(w.watch.peaks.rows) == memory_admission.PEAKS_MOST
    assert 1 not in w.watch.peaks.rows


# ---- when to look
def test_nobody_looks_while_there_is_nobody() -> None:
    w = Watching()
    w.watch.begin(w.now)
    assert w.watch.next_at is not None
    w.read()
    assert w.watch.next_at is None
    off = MemoryWatch(Rules())
    off.begin(1.0)
    assert not off.is_on and off.next_at is None


def test_the_less_is_left_the_sooner_the_next_look_comes() -> None:
    w = Watching()

    def pause(*rows: ProcessMemory, used: int) -> float:
        w.read(*rows, used=used)
        assert w.watch.next_at is not None
        return w.watch.next_at - w.now

    far, near = pause(process(1, 10, 5), used=20), pause(process(1, 800, 5), used=810)
    assert near < far <= 0.25
    assert pause(process(1, 10, 5, declared_bytes=20 * MB), used=20) < 0.05
    many = [process(index, 1, index) for index in range(1, 401)]
    assert pause(*many, used=900) > 0.5, "looking costs no more than a little of a core"
    for _ in range(100):
        idle = pause(process(1, -10), used=20)
    assert idle == watch_module.IDLE_LOOK_MOST_S
