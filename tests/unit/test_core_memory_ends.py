"""What becomes of tasks and actors whose process was ended for its memory: the node's machine."""

from __future__ import annotations

from typing import Any

import pytest

from shoal import errors
from shoal._base.config import Limits, NodeConfig
from shoal._core import commands as do
from shoal._core import events as seen
from shoal._core import memory_news
from shoal._core.node import NodeMachine
from shoal._core.pool import Phase
from shoal._proto import messages as m

MB = 1 << 20
DRIVER = 1
TASK, OTHER = 1 << 32 | 5, 1 << 32 | 6
FUNCTION = 77


class Node:
    """A machine that watches 1,000 MB, a driver and a clock."""

    def __init__(self) -> None:
        config = NodeConfig(
            session="s",
            directory="/d",
            node_id=b"0123456789abcdef",
            total={"CPU": 4.0, "memory": 1000.0 * MB},
            cores=4,
            memory_bytes=1000 * MB,
            limits=Limits(prestart_most=0),
        )
        self.machine = NodeMachine(config)
        self.now = 0.0
        self.number = 10
        self.starts: list[int] = []
        self.deaf: set[int] = set()
        """Workers that do not answer what they are told."""
        self.tell(seen.Began())
        self.tell(seen.DriverJoined(DRIVER, 1, 101, m.JobConfig()))
        export = m.ExportFunction(b"digest", "hog", FUNCTION, 10)
        self.ask(DRIVER, export)

    def tell(self, event: seen.Event, after: float = 0.0) -> list[do.Command]:
        self.now += after
        commands = self.machine.step(self.now, event)
        self.machine.validate()
        self.starts += [c.start for c in commands if isinstance(c, do.StartWorker)]
        for told in [c for c in commands if isinstance(c, do.Notify)]:
            if isinstance(told.body, m.HeavyFunctions) and told.index not in self.deaf:
                self.machine.step(self.now, seen.Requested(told.index, 0, m.HeavyHeard()))
        return [c for c in commands if not isinstance(c, do.SetAlarm)]

    def ask(self, index: int, body: m.Message) -> list[do.Command]:
        self.number += 1
        return self.tell(seen.Requested(index, self.number, body))

    def queue(self, entries: int = 1, **amounts: float) -> int:
        out = self.ask(DRIVER, m.OpenQueue({"CPU": 1.0, **amounts}))
        (ticket,) = [c.ticket for c in out if isinstance(c, do.NewQueue)]
        self.tell(seen.QueueCreated(ticket, 20 + ticket, 1))
        self.tell(seen.Looked((seen.QueueState(20 + ticket, entries, 0),)))
        return 20 + ticket

    def worker(self, index: int) -> list[do.Command]:
        self.tell(seen.WorkerForked(self.starts.pop(0), index, 1000 + index))
        self.tell(seen.WorkerJoined(index, 0, 1000 + index))
        return self.ask(index, m.GetAssignment())

    def actor(self, **spec: Any) -> m.ActorInfo:
        given = {"function": 50, "arguments": 60, "class_name": "Hoarder", "methods": b""}
        out = self.ask(DRIVER, m.CreateActor(m.ActorSpec(**{**given, **spec})))
        (ticket,) = [c.ticket for c in out if isinstance(c, do.NewQueue)]
        out = self.tell(seen.QueueCreated(ticket, 20 + ticket, 1))
        (info,) = [c.body for c in out if isinstance(c, do.Reply)]
        assert isinstance(info, m.ActorInfo)
        return info

    def read(self, *processes: seen.ProcessMemory, used: int) -> list[do.Command]:
        self.now += 1.0
        return self.tell(seen.MemoryRead(used * MB, 1000 * MB, processes))

    def ended(self, index: int, *running: seen.RunningTask) -> list[do.Command]:
        return self.tell(seen.ProcessDied(index, None, 9, ("last words",), running))


def running(key: int = TASK, attempt: int = 1, max_retries: int = 3, charged: int = 0) -> Any:
    return seen.RunningTask(key, attempt, max_retries, charged, 0, 21)


def error_of(commands: list[do.Command], key: int = TASK) -> errors.ShoalError:
    (record,) = [c.record for c in commands if isinstance(c, do.Fail) and c.key == key]
    return errors.from_record(record)


def hog(index: int, task: int = TASK) -> seen.ProcessMemory:
    return seen.ProcessMemory(index, 900 * MB, task, FUNCTION)


def test_a_worker_is_read_only_while_somebody_could_run_there() -> None:
    node = Node()
    assert node.machine.tables.memory.next_at is None
    node.queue()
    node.worker(2)
    out = node.tell(seen.AlarmRang(), after=1.0)
    (look,) = [c for c in out if isinstance(c, do.ReadMemory)]
    assert [row.index for row in look.workers] == [2]
    node.read(seen.ProcessMemory(2, 0), used=10)
    assert node.machine.tables.memory.next_at is not None
    node.ended(2)
    node.read(used=10)
    assert node.machine.tables.memory.next_at is None


def test_where_nothing_runs_it_is_looked_once_a_second() -> None:
    node = Node()
    info = node.actor()
    node.worker(2)
    node.ask(2, m.ActorStarted(info.actor_id))
    looks = rings = 0
    while node.now < 60.0:
        at = node.machine.tables.alarm_at
        assert at is not None
        out = node.tell(seen.AlarmRang(), after=max(0.0, at - node.now))
        rings += 1
        for _ in [c for c in out if isinstance(c, do.ReadMemory)]:
            looks += 1
            row = seen.ProcessMemory(2, 5 * MB, is_actor=True)
            node.tell(seen.MemoryRead(20 * MB, 1000 * MB, (row,)))
    assert 50 < looks < 90 and rings < 2 * looks


def test_who_keeps_much_and_has_nothing_to_do_gives_its_queue_back_and_ends() -> None:
    node = Node()
    queue = node.queue()
    node.worker(2)
    node.tell(seen.Looked((seen.QueueState(queue, 0, 0),)))
    kept = seen.ProcessMemory(2, 600 * MB)
    node.read(kept, used=650)
    node.now += node.machine.tables.limits.idle_worker_s
    assert do.Look(workers=(2,)) in node.read(kept, used=650), "whether it has its queue by now"
    node.tell(seen.Looked((), (seen.WorkerState(2, queue, queue, 0, False),)))
    assert do.Assign(2, 0) in node.read(kept, used=650)
    assert do.Assign(2, 0) not in node.read(kept, used=650), "once"
    node.tell(seen.Looked((), (seen.WorkerState(2, 0, 0, 0, False),)))
    assert node.machine.tables.pool.workers[2].phase is Phase.IDLE
    free = seen.ProcessMemory(2, 600 * MB, is_free=True)
    assert do.Leave(2) in node.read(free, used=650)


def test_who_has_asked_for_memory_is_looked_at_before_it_begins() -> None:
    node = Node()
    node.queue(memory=200.0 * MB)
    out = node.worker(2)
    kinds = [type(c) for c in out]
    assert kinds.index(do.ReadMemory) < kinds.index(do.Assign)
    node.tell(seen.MemoryRead(0, 1, (seen.ProcessMemory(2, 300 * MB),), is_first_look=True))
    (look,) = [c for c in node.tell(seen.AlarmRang(), 1.0) if isinstance(c, do.ReadMemory)]
    assert look.workers[0].declared_bytes == 200 * MB
    row = seen.ProcessMemory(2, 490 * MB, TASK, FUNCTION, declared_bytes=200 * MB)
    assert do.Kill(2, is_whole=True) not in node.read(row, used=500)
    row = seen.ProcessMemory(2, 510 * MB, TASK, FUNCTION, declared_bytes=200 * MB)
    assert do.Kill(2, is_whole=True) in node.read(row, used=520)
    found = error_of(node.ended(2, running(max_retries=0)))
    assert isinstance(found, errors.OutOfMemoryError)
    assert (found.kind, found.limit_bytes, found.peak_bytes) == ("limit", 200 * MB, 210 * MB)


def test_the_error_says_who_what_and_who_else() -> None:
    node = Node()
    node.queue()
    node.worker(2)
    node.queue(CPU=0.5)
    node.worker(3)
    node.read(seen.ProcessMemory(3, 40 * MB, OTHER, FUNCTION), seen.ProcessMemory(2, 0), used=50)
    rows = hog(2), seen.ProcessMemory(3, 40 * MB, OTHER, FUNCTION)
    event = seen.MemoryRead(960 * MB, 1000 * MB, rows, drivers=((101, 20 * MB),))
    node.now += 1
    out = node.tell(event)
    assert [c for c in out if isinstance(c, do.Kill)] == [do.Kill(2, is_whole=True)]
    found = error_of(node.ended(2, running(max_retries=0)))
    assert isinstance(found, errors.OutOfMemoryError)
    assert (found.task, found.pid, found.kind, found.node_bytes) == ("hog", 1002, "node", 1000 * MB)
    assert found.others == [
        {"name": "hog", "pid": 1003, "bytes": 40 * MB},
        {"name": "program", "pid": 101, "bytes": 20 * MB},
    ]
    text = str(found)
    assert "hog took 943,718,400 bytes" in text and "hog (pid 1003): 41,943,040" in text
    assert "last words" in text and "memory=" in text


def test_it_is_tried_again_within_max_retries_and_is_never_poison() -> None:
    node = Node()
    for attempt in range(1, 6):
        if attempt == 1:
            node.queue()
        index = 2 * attempt
        node.worker(index)
        assert do.Kill(index, is_whole=True) in node.read(hog(index), used=960)
        out = node.ended(index, running(attempt=attempt, max_retries=4, charged=attempt - 1))
        if attempt < 5:
            assert do.Requeue(0, TASK, charged=True, front=False) in out
            assert node.machine.tables.memory.next_at == node.now, "looked at again at once"
            node.read(used=20)
            node.tell(seen.Looked((seen.QueueState(21, 1, attempt),)))
    assert isinstance(error_of(out), errors.OutOfMemoryError)


def test_the_next_attempt_waits_and_every_worker_knows() -> None:
    node = Node()
    node.queue()
    node.worker(2)
    node.queue(CPU=0.5)
    node.worker(3)
    out = node.read(hog(2), seen.ProcessMemory(3, 0), used=960)
    news = m.HeavyFunctions([FUNCTION])
    assert out.index(do.Notify(3, news)) < out.index(do.Kill(2, is_whole=True))
    node.ended(2, running())
    node.read(seen.ProcessMemory(3, 0), used=20)
    node.machine.tables.memory.peaks.rows[FUNCTION].ended_at = node.now + 1.3
    assert not [c for c in node.ask(3, m.AdmitMemory(FUNCTION, 2)) if isinstance(c, do.Reply)]
    assert node.read(seen.ProcessMemory(3, 0, TASK), used=20) == []
    (admitted,) = node.read(seen.ProcessMemory(3, 0, TASK), used=20)
    assert isinstance(admitted, do.Reply) and admitted.index == 3


@pytest.mark.parametrize("how", ["it answers", "it dies", "it is stopped"])
def test_a_next_attempt_begins_only_when_every_worker_knows(how: str) -> None:
    node = Node()
    node.queue()
    node.worker(2)
    node.queue(CPU=0.5)
    node.worker(3)
    node.deaf = {3}
    assert do.Kill(2, is_whole=True) in node.read(hog(2), seen.ProcessMemory(3, 0), used=960)
    assert node.ended(2, running()) == [], "3 could begin with it before it has heard"
    if how == "it answers":
        out = node.tell(seen.Requested(3, 0, m.HeavyHeard()))
    elif how == "it dies":
        out = node.ended(3)
    else:
        out = node.tell(seen.AlarmRang(), after=memory_news.WAIT_MOST_S - 0.1)
        assert not [c for c in out if isinstance(c, do.Requeue)]
        out = node.tell(seen.AlarmRang(), after=0.2)
    assert do.Requeue(0, TASK, charged=True, front=False) in out and do.CloseProcess(2) in out


def test_whom_the_kernel_has_ended_need_not_hear_of_it() -> None:
    node = Node()
    node.queue()
    node.worker(2)
    node.read(hog(2), used=500)
    node.deaf = {2}
    row = seen.RunningTask(TASK, 1, 3, 0, 0, 21, about=FUNCTION + 1)
    out = node.tell(seen.ProcessDied(2, None, 9, (), (row,), kernel_oom="simulated"))
    assert do.Requeue(0, TASK, charged=True, front=False) in out and do.CloseProcess(2) in out


def test_nobody_waits_for_a_worker_to_hear_whose_own_end_waits() -> None:
    node = Node()
    node.queue()
    node.worker(2)
    node.queue(CPU=0.5)
    node.worker(3)
    node.deaf = {2, 3}
    other = seen.ProcessMemory(3, 400 * MB, OTHER, FUNCTION + 1)
    assert do.Kill(2, is_whole=True) in node.read(hog(2), seen.ProcessMemory(3, 0), used=960)
    assert node.ended(2, running()) == []
    news = node.read(seen.ProcessMemory(2, 0), other, used=420)
    assert [c.index for c in news if isinstance(c, do.Notify)] == [2, 3]
    node.tell(seen.Requested(3, 0, m.HeavyHeard()))
    out = node.tell(seen.Requested(3, 0, m.HeavyHeard()))
    assert do.CloseProcess(2) in out, "it is dead, and will never hear of it"


def test_an_end_that_has_waited_and_a_reading_in_one_step() -> None:
    """The reading that the alarm asks for is of a worker whose end the same alarm takes in."""
    node = Node()
    node.queue()
    node.worker(2)
    node.queue(CPU=0.5)
    node.worker(3)
    node.deaf = {3}
    node.read(hog(2), seen.ProcessMemory(3, 0), used=960)
    node.ended(2, running())
    out = node.tell(seen.AlarmRang(), after=memory_news.WAIT_MOST_S)
    (look,) = [c for c in out if isinstance(c, do.ReadMemory)]
    assert [row.index for row in look.workers] == [2, 3] and do.CloseProcess(2) in out
    node.tell(seen.MemoryRead(20 * MB, 1000 * MB, tuple(map(row_of, look.workers))))
    assert set(node.machine.tables.memory.watched) == {3}


def row_of(wanted: do.MemoryOf) -> seen.ProcessMemory:
    return seen.ProcessMemory(wanted.index, 0)


def test_what_had_just_ended_is_not_blamed_on_what_began() -> None:
    """The hog was done before its process was ended: what runs there now is tried again, and not
    charged."""
    node = Node()
    node.queue(entries=2)
    node.worker(2)
    assert do.Kill(2, is_whole=True) in node.read(hog(2), used=960)
    out = node.ended(2, running(OTHER, max_retries=1, charged=1))
    assert do.Requeue(0, OTHER, charged=False, front=False) in out


def test_a_pause_calls_workers_back_and_starts_nobody() -> None:
    node = Node()
    queue = node.queue(entries=3)
    node.worker(2)
    row = seen.WorkerState(2, queue, queue, 1, False, TASK)
    node.tell(seen.Looked((seen.QueueState(queue, 3, 1),), (row,)))
    out = node.read(seen.ProcessMemory(2, 900 * MB, TASK, FUNCTION), used=940)
    assert do.Assign(2, 0) in out and node.machine.tables.memory.is_paused
    node.starts.clear()
    state = seen.WorkerState(2, 0, 0, 0, False, 0)
    out = node.tell(seen.Looked((seen.QueueState(queue, 2, 1),), (state,)))
    assert not [c for c in out if isinstance(c, do.Assign | do.StartWorker)]
    out = node.read(seen.ProcessMemory(2, 100 * MB, is_free=True), used=140)
    assert do.Assign(2, queue) in out, "it goes on"


def test_an_actor_is_ended_for_good_with_what_it_took() -> None:
    node = Node()
    info = node.actor(hold={"CPU": 1.0, "memory": 100.0 * MB})
    node.worker(2)
    node.ask(2, m.ActorStarted(info.actor_id))
    row = seen.ProcessMemory(2, 120 * MB, TASK, 0, declared_bytes=100 * MB, is_actor=True)
    node.tell(seen.MemoryRead(0, 1, (seen.ProcessMemory(2, 5 * MB),), is_first_look=True))
    assert do.Kill(2, is_whole=True) in node.read(row, used=200)
    out = node.ended(2, running())
    found = error_of(out)
    assert isinstance(found, errors.ActorOutOfMemoryError) and found.may_have_run
    assert isinstance(found.__cause__, errors.OutOfMemoryError)
    assert (found.peak_bytes, found.limit_bytes, found.kind) == (115 * MB, 100 * MB, "limit")
    assert "Hoarder took 120,586,240 bytes" in str(found)
    (later,) = [errors.from_record(c.record) for c in out if isinstance(c, do.KillQueue)]
    assert isinstance(later, errors.ActorDiedError) and not later.may_have_run


def test_an_actor_with_restarts_left_comes_back() -> None:
    node = Node()
    info = node.actor(max_restarts=1)
    node.worker(2)
    node.ask(2, m.ActorStarted(info.actor_id))
    row = seen.ProcessMemory(2, 900 * MB, TASK, 0, is_actor=True)
    assert do.Kill(2, is_whole=True) in node.read(row, used=960)
    found = error_of(node.ended(2, running(max_retries=0)))
    assert isinstance(found, errors.ActorUnavailableError)
    assert isinstance(found.__cause__, errors.OutOfMemoryError)
    assert node.machine.tables.actors.living[info.actor_id].restarts == 1


def test_whom_the_kernel_ended_has_run_out_of_memory_and_says_what_shows_it() -> None:
    node = Node()
    node.queue()
    node.worker(2)
    node.read(seen.ProcessMemory(2, 300 * MB, TASK, FUNCTION), used=320)
    task = seen.RunningTask(TASK, 1, 0, 0, 0, 21, about=FUNCTION)
    death = seen.ProcessDied(2, None, 9, (), (task,), kernel_oom="oom_kill has risen to 7")
    error = error_of(node.tell(death))
    assert isinstance(error, errors.OutOfMemoryError)
    assert (error.kind, error.task, error.peak_bytes) == ("kernel", "hog", 300 * MB)
    assert "the kernel ended" in str(error) and "risen to 7" in str(error)
    assert node.machine.tables.memory.peaks.is_heavy(FUNCTION), "its next attempts wait"


def test_whom_the_kernel_ended_at_his_own_limit_has_taken_more_than_he_asked_for() -> None:
    node = Node()
    node.queue(memory=200.0 * MB)
    node.worker(2)
    node.read(seen.ProcessMemory(2, 150 * MB, TASK, FUNCTION, False, 200 * MB), used=320)
    task = seen.RunningTask(TASK, 1, 0, 0, 0, 21, about=FUNCTION)
    shown = "oom_kill in memory.events is 1"
    death = seen.ProcessDied(2, None, 9, (), (task,), shown, limit_peak_bytes=212 * MB)
    error = error_of(node.tell(death))
    assert isinstance(error, errors.OutOfMemoryError)
    assert (error.kind, error.limit_bytes, error.peak_bytes) == ("limit", 200 * MB, 212 * MB)
    assert "has asked for 209,715,200" in str(error)
    assert node.machine.tables.memory.peaks.is_heavy(FUNCTION), "its next attempts wait"


def test_a_limit_goes_when_its_worker_is_used_for_something_else() -> None:
    node = Node()
    limited = node.queue(CPU=4.0, memory=200.0 * MB)
    out = node.worker(2)
    (look,) = [c for c in out if isinstance(c, do.ReadMemory)]
    assert look.is_first_look and look.workers[0].declared_bytes == 200 * MB
    assert out.index(look) < out.index(do.Assign(2, limited)), "before it begins"
    busy = seen.WorkerState(2, limited, limited, 1, False, TASK)
    node.tell(seen.Looked((seen.QueueState(limited, 0, 1),), (busy,)))
    plain = node.queue(CPU=4.0)
    free = seen.WorkerState(2, 0, 0, 0, False, 0)
    idle = seen.WorkerState(2, limited, limited, 0, False, 0)
    asked = node.tell(seen.Looked((seen.QueueState(limited, 0, 0),), (idle,)))
    assert do.Assign(2, 0) in asked
    out = node.tell(seen.Looked((), (free,)))
    (look,) = [c for c in out if isinstance(c, do.ReadMemory)]
    assert look.is_first_look and look.workers[0].declared_bytes == 0
    assert out.index(look) < out.index(do.Assign(2, plain))
    assert not node.machine.tables.memory.limited


def test_an_idle_worker_that_keeps_much_is_told_to_leave() -> None:
    node = Node()
    queue = node.queue()
    node.worker(2)
    busy = seen.WorkerState(2, queue, queue, 1, False, TASK)
    node.tell(seen.Looked((seen.QueueState(queue, 0, 1),), (busy,)))
    node.read(seen.ProcessMemory(2, 900 * MB, TASK, FUNCTION), used=940)
    free = seen.WorkerState(2, 0, 0, 0, False, 0)
    node.tell(seen.Looked((seen.QueueState(queue, 0, 0),), (free,)))
    assert do.Leave(2) not in node.read(seen.ProcessMemory(2, 200 * MB, is_free=True), used=300)
    assert do.Leave(2) in node.read(seen.ProcessMemory(2, 400 * MB, is_free=True), used=500)


def test_who_was_to_leave_was_not_ended_by_the_kernel() -> None:
    node = Node()
    node.queue()
    node.worker(2)
    node.tell(seen.Looked((seen.QueueState(21, 0, 0),)))
    death = seen.ProcessDied(2, None, 9, (), (), kernel_oom="oom_kill has risen to 7")
    assert not [c for c in node.tell(death) if isinstance(c, do.Fail)], "it ran nothing"


def test_a_plain_crash_is_one_still() -> None:
    node = Node()
    node.queue()
    node.worker(2)
    node.read(seen.ProcessMemory(2, 100 * MB, TASK, FUNCTION), used=200)
    found = error_of(node.ended(2, running(max_retries=0)))
    assert type(found) is errors.WorkerCrashedError


def test_views_show_what_workers_have_and_functions_need() -> None:
    node = Node()
    node.queue()
    node.worker(2)
    node.read(seen.ProcessMemory(2, 400 * MB, TASK, FUNCTION), used=500)

    def rows(table: str) -> list[dict[str, object]]:
        out = node.ask(DRIVER, m.GetTable(table))
        out += node.tell(seen.Looked((), (seen.WorkerState(2, 21, 21, 1, False, TASK),)))
        (answer,) = [c.body for c in out if isinstance(c, do.Reply)]
        assert isinstance(answer, m.Table)
        return answer.rows

    assert [row["memory_bytes"] for row in rows("workers")] == [400 * MB]
    (peak,) = rows("memory_peaks")
    assert (peak["function"], peak["peak_bytes"]) == ("hog", 400 * MB) and peak["is_admitted"]
