"""Transcripts: what the node's machine is told, and every command that it answers with, none
more."""

from __future__ import annotations

from typing import Any

import pytest

from shoal._base import records
from shoal._base.config import Limits, NodeConfig
from shoal._core import commands as do
from shoal._core import events as seen
from shoal._core.node import NodeMachine
from shoal._core.store import StoreAsked, StoreMachine, StoreReply
from shoal._proto import messages as m

DRIVER, WORKER = 1, 2


class Node:
    """A machine, a clock that is set by hand, and what came out last."""

    def __init__(
        self, started: bool = False, store: StoreMachine | None = None, **total: float
    ) -> None:
        config = NodeConfig(
            session="s",
            directory="/d",
            node_id=b"0123456789abcdef",
            total={"CPU": 2.0, **total},
            cores=2,
            started=started,
            limits=Limits(),
        )
        self.machine = NodeMachine(config)
        self.now = 0.0
        self.number = 10
        self.starts: list[int] = []
        self.store: StoreMachine | None = (store or StoreMachine()) if started else None
        """What answers writes at once; None: away."""
        self.first = self.tell(seen.StoreConnected()) if started else []

    def tell(self, event: seen.Event, after: float = 0.0) -> list[do.Command]:
        """One step and what the store answers; alarms and tables' rows are left out of what is
        returned."""
        self.now += after
        commands = self.machine.step(self.now, event)
        for command in commands:
            if isinstance(command, do.WriteStore) and self.store is not None:
                asked = StoreAsked(1, command.ticket, command.write)
                for reply in self.store.step(self.now, asked):
                    if isinstance(reply, StoreReply):
                        written = seen.StoreWritten(reply.ticket, reply.body)
                        commands += self.machine.step(self.now, written)
        if self.store is not None:
            commands = [c for c in commands if not isinstance(c, do.WriteStore)]
        self.machine.validate()
        self.starts += [c.start for c in commands if isinstance(c, do.StartWorker)]
        quiet = (do.SetAlarm, do.StartWorker, do.LabelWorker)
        return [c for c in commands if not isinstance(c, quiet)]

    def ask(self, index: int, body: m.Message, after: float = 0.0) -> list[do.Command]:
        self.number += 1
        return self.tell(seen.Requested(index, self.number, body), after)

    def driver(self, index: int = DRIVER, **config: Any) -> list[do.Command]:
        return self.tell(seen.DriverJoined(index, 1, 100 + index, m.JobConfig(**config)))

    def worker(self, index: int) -> list[do.Command]:
        """A started worker joins and asks what it is for."""
        self.tell(seen.WorkerForked(self.starts.pop(0), index, 1000 + index))
        self.tell(seen.WorkerJoined(index, 1, 1000 + index))
        return self.ask(index, m.GetAssignment())

    def actor(self, queue: int = 6, index: int = DRIVER, **spec: Any) -> list[do.Command]:
        """Ask for an actor; its queue is made at once."""
        given = {"function": 50, "arguments": 60 + queue, "class_name": "C", "methods": b""}
        out = self.ask(index, m.CreateActor(m.ActorSpec(**{**given, **spec})))
        tickets = [c.ticket for c in out if isinstance(c, do.NewQueue)]
        return out + (self.tell(seen.QueueCreated(tickets[0], queue, 1)) if tickets else [])

    def living_actor(self, worker: int = WORKER, queue: int = 6, **spec: Any) -> str:
        """An actor whose constructor has returned; its id."""
        info = reply(self.actor(queue, **spec), m.ActorInfo)
        self.worker(worker)
        self.ask(worker, m.ActorStarted(info.actor_id))
        return info.actor_id

    def state(self, actor_id: str) -> m.ActorInfo:
        return reply(self.ask(DRIVER, m.DescribeActor(actor_id)), m.ActorInfo)


def reply(commands: list[do.Command], kind: type) -> Any:
    """The body of the one reply of that kind."""
    (body,) = [c.body for c in commands if isinstance(c, do.Reply) and isinstance(c.body, kind)]
    return body


def refusal(commands: list[do.Command]) -> str:
    """Name of the error that a request was refused with."""
    return records.unpack(reply(commands, m.Failure).record)[0]


def kinds(commands: list[do.Command]) -> list[str]:
    return [type(command).__name__ for command in commands]


def without_children(commands: list[do.Command], *parents: int) -> list[do.Command]:
    """The commands besides those that end the children of ``parents``, in this order."""
    ends = [c for c in commands if isinstance(c, do.EndChildren)]
    assert [parent for c in ends for parent in c.parents] == list(parents)
    return [c for c in commands if not isinstance(c, do.EndChildren)]


def cause(info: m.ActorInfo) -> tuple[str, Any]:
    name, fields = records.unpack(info.cause)
    return name, fields.get("reason")


# ---- tasks
def test_one_task_from_start_to_end() -> None:
    node = Node()
    assert kinds(node.tell(seen.Began())) == []
    assert node.starts == [1, 2]
    welcome = reply(node.driver(), m.Welcome)
    assert welcome.job == 1 and welcome.owner and welcome.total == {"CPU": 2.0}
    assert node.worker(WORKER) == [], "the answer waits until somebody needs the worker"
    out = node.ask(DRIVER, m.OpenQueue({"CPU": 1.0}))
    assert out == [do.NewQueue(1, do.QUEUE_CLASS, 1)]
    out = node.tell(seen.QueueCreated(1, 5, 1))
    assert kinds(out) == ["SetHungry", "Reply"]
    assert reply(out, m.QueueOpened) == m.QueueOpened(5, 1)
    assert node.tell(seen.BellRang()) == [do.Look((5,), ())]
    out = node.tell(seen.Looked((seen.QueueState(5, 1, 0),)))
    assert kinds(out) == ["Reply", "Assign"]
    assignment = reply(out, m.Assignment)
    assert assignment.job == 1 and assignment.threads == 1 and assignment.gpu_ids == []
    assert out[-1] == do.Assign(WORKER, 5)
    out = node.tell(seen.AlarmRang(), after=0.001)
    assert out == [do.Look((5,), (WORKER,))]
    attached = seen.WorkerState(WORKER, 5, 5, 0, False)
    out = node.tell(seen.Looked((seen.QueueState(5, 0, 1),), (attached,)))
    assert out == [do.SetHungry(5, True)], "nothing more to do: the next push rings"


def test_same_class_same_queue() -> None:
    node = Node()
    node.driver()
    node.ask(DRIVER, m.OpenQueue({"CPU": 1.0}))
    node.tell(seen.QueueCreated(1, 5, 1))
    out = node.ask(DRIVER, m.OpenQueue({"CPU": 1.0, "GPU": 0.0}))
    assert kinds(out) == ["Reply"] and reply(out, m.QueueOpened).queue == 5
    assert kinds(node.ask(DRIVER, m.OpenQueue({"CPU": 2.0}, m.Spread()))) == ["NewQueue"]
    assert refusal(node.ask(DRIVER, m.OpenQueue({"CPU": -1.0}))) == "UsageError"


def test_crash_of_a_worker() -> None:
    node = busy_node()
    running = (seen.RunningTask(9, 1, 3, 0, 0, 5),)
    out = node.tell(seen.ProcessDied(WORKER, None, 11, ("boo",), running))
    assert without_children(out, 9) == [
        do.Requeue(0, 9, True, False),
        do.CloseProcess(WORKER),
        do.Look((5,)),
    ]


def test_children_of_a_dead_attempt_end_before_it_may_run_again() -> None:
    node = busy_node()
    inner, outer = (seen.RunningTask(key, 1, 3, 0, 0, 5) for key in (9, 8))
    out = node.tell(seen.ProcessDied(WORKER, None, 11, (), (inner, outer)))
    assert kinds(out[:5]) == ["EndChildren", "Requeue", "EndChildren", "Requeue", "CloseProcess"]
    assert [c.key for c in out if isinstance(c, do.Requeue)] == [9, 8]
    without_children(out, 9, 8)


def dies_at_once(node: Node, index: int) -> list[do.Command]:
    """A worker gets its assignment and dies before it has taken a task; nothing was taken."""
    out = node.worker(index)
    if do.Assign(index, 5) not in out:
        out = node.tell(seen.AlarmRang(), after=5.0)
    assert do.Assign(index, 5) in out
    out = node.tell(seen.ProcessDied(index, 3, None, ("no module",)))
    node.tell(seen.Looked((seen.QueueState(5, 1, 0),)))
    return out


def test_workers_that_die_at_once_back_off_and_fail_what_waits() -> None:
    node = Node()
    node.tell(seen.Began())
    node.driver()
    node.ask(DRIVER, m.OpenQueue({"CPU": 1.0}))
    node.tell(seen.QueueCreated(1, 5, 1))
    node.tell(seen.Looked((seen.QueueState(5, 1, 0),)))
    for index in range(2, 6):
        assert not [c for c in dies_at_once(node, index) if isinstance(c, do.FailQueued)]
        if not node.starts:
            assert node.tell(seen.AlarmRang(), after=0.04) is not None and not node.starts
            node.tell(seen.AlarmRang(), after=5.0)
    out = dies_at_once(node, 6)
    (end,) = [c for c in out if isinstance(c, do.FailQueued)]
    assert end.queue == 5
    name, fields = records.unpack(end.record)
    assert name == "WorkerCrashedError" and fields["stderr"] == ["no module"]
    assert "cannot start" in fields["reason"]
    assert {"Warn", "Notify"} <= set(kinds(out))


def test_a_task_taken_ends_the_row() -> None:
    node = Node()
    node.tell(seen.Began())
    node.driver()
    node.ask(DRIVER, m.OpenQueue({"CPU": 1.0}))
    node.tell(seen.QueueCreated(1, 5, 1))
    node.tell(seen.Looked((seen.QueueState(5, 1, 0),)))
    for index in range(2, 12):
        out = dies_at_once(node, index)
        assert not [c for c in out if isinstance(c, do.FailQueued)]
        node.tell(seen.Looked((seen.QueueState(5, 0, index),)))
        node.tell(seen.Looked((seen.QueueState(5, 1, index),)))
        if not node.starts:
            node.tell(seen.AlarmRang(), after=5.0)


def busy_node(**more: Any) -> Node:
    """A driver, and a worker that serves queue 5."""
    node = Node(**more)
    node.tell(seen.Began())
    node.driver()
    node.worker(WORKER)
    (new_queue,) = node.ask(DRIVER, m.OpenQueue({"CPU": 1.0}))
    assert isinstance(new_queue, do.NewQueue)
    node.tell(seen.QueueCreated(new_queue.ticket, 5, 1))
    node.tell(seen.BellRang())
    node.tell(seen.Looked((seen.QueueState(5, 1, 0),)))
    return node


def test_nothing_is_kept_for_what_a_task_that_waits_has() -> None:
    node = Node(disk=1.0)
    node.tell(seen.Began())
    node.driver()
    queues = ({"CPU": 1.0, "disk": 1.0}, {"CPU": 2.0, "disk": 1.0}, {"CPU": 1.0})
    for queue, amounts in enumerate(queues, 5):
        (new_queue,) = node.ask(DRIVER, m.OpenQueue(amounts))
        assert isinstance(new_queue, do.NewQueue)
        node.tell(seen.QueueCreated(new_queue.ticket, queue, 1))
    node.worker(WORKER)
    assert do.Assign(WORKER, 5) in node.tell(seen.Looked((seen.QueueState(5, 1, 0),)))
    parent = seen.WorkerState(WORKER, 5, 5, 1, True)  # it waits for its child
    node.tell(seen.Looked((seen.QueueState(5, 0, 1), seen.QueueState(6, 1, 0)), (parent,)))
    for _ in range(60):
        node.tell(seen.AlarmRang(), after=0.05)
        node.tell(seen.Looked((seen.QueueState(6, 1, 0),), (parent,)))
    node.worker(WORKER + 1)
    out = node.tell(seen.Looked((seen.QueueState(7, 1, 0),), (parent,)))
    assert do.Assign(WORKER + 1, 7) in out, "the child that it may wait for begins"


def test_retry_that_a_worker_asks_for() -> None:
    node = busy_node()
    out = node.ask(WORKER, m.RetryTask(9, 1))
    (requeue,) = out
    assert isinstance(requeue, do.Requeue) and requeue.ticket and requeue.charged
    out = node.tell(seen.Requeued(requeue.ticket, True))
    assert reply(out, m.RetryDecision).granted
    assert not reply(node.ask(DRIVER, m.RetryTask(9, 1)), m.RetryDecision).granted


def test_infeasible_class_fails_or_warns() -> None:
    for started in (False, True):
        node = Node(started=started)
        node.driver()
        (new_queue, *_) = [
            c for c in node.ask(DRIVER, m.OpenQueue({"CPU": 3.0})) if isinstance(c, do.NewQueue)
        ]
        node.tell(seen.QueueCreated(new_queue.ticket, 5, 1))
        node.tell(seen.Looked((seen.QueueState(5, 1, 0),)))
        assert node.tell(seen.AlarmRang(), after=0.9) == []
        out = node.tell(seen.AlarmRang(), after=0.2)
        if started:
            assert kinds(out) == ["Notify"]
            assert node.tell(seen.AlarmRang(), after=5.0) == [], "once"
        else:
            assert kinds(out) == ["KillQueue"]
            late = node.tell(seen.BellRang(dead=(5,)))
            assert kinds(late) == ["KillQueue"], "late pushes fail the same way"


def test_gpu_worker_leaves_when_its_queue_is_done() -> None:
    node = Node(GPU=1.0)
    node.tell(seen.Began())
    node.driver()
    node.worker(WORKER)
    for ticket, queue, asked in ((1, 5, {"GPU": 1.0}), (2, 7, {"GPU": 0.5})):
        node.ask(DRIVER, m.OpenQueue(asked))
        node.tell(seen.QueueCreated(ticket, queue, 1))
    out = node.tell(seen.Looked((seen.QueueState(5, 1, 0),)))
    assert reply(out, m.Assignment).gpu_ids == ["0"]
    idle = seen.WorkerState(WORKER, 5, 5, 0, False)
    node.tell(seen.Looked((seen.QueueState(5, 0, 1),), (idle,)))
    out = node.tell(seen.Looked((seen.QueueState(7, 1, 0),)))
    assert do.Leave(WORKER) in out, "idle, but the id is its own until the process has gone"
    node.worker(3)
    out = node.tell(seen.Looked((), (seen.WorkerState(WORKER, -1, 0, 0, False),)))
    assert kinds(out) == [], "it has let go of the queue, not of the id"
    out = node.tell(seen.ProcessDied(WORKER, 0))
    assert reply(out, m.Assignment).gpu_ids == ["0"]


def test_views_take_a_look_first() -> None:
    node = busy_node()
    assert node.ask(DRIVER, m.GetResources()) == [do.Look((), (WORKER,))]
    idle = seen.WorkerState(WORKER, 5, 5, 0, False)
    out = node.tell(seen.Looked((), (idle,)))
    assert reply(out, m.Resources).available == {"CPU": 2.0}, "idle attachments are free"
    for table in ("nodes", "jobs", "actors", "functions", "workers", "queues", "session"):
        node.ask(DRIVER, m.GetTable(table))
        assert isinstance(reply(node.tell(seen.Looked((), (idle,))), m.Table).rows, list)
    node.ask(DRIVER, m.GetTable("nonsense"))
    assert refusal(node.tell(seen.Looked((), (idle,)))) == "UsageError"


# ---- jobs
def test_functions_are_held_until_the_job_ends() -> None:
    node = Node(started=True)
    node.driver()
    out = node.ask(DRIVER, m.ExportFunction(b"digest", "f", 77, 100))
    assert do.Adopt(77) in out
    out = node.ask(DRIVER, m.ExportFunction(b"digest", "f", 78, 100))
    assert out[0] == do.Reply(DRIVER, node.number, m.FunctionExported(77)), "the first one wins"
    out = node.ask(DRIVER, m.LeaveJob())
    assert do.Release(77) in out and do.EndJobTasks in [type(c) for c in out]


def test_owner_ends_the_session() -> None:
    node = busy_node()
    out = node.tell(seen.ProcessDied(DRIVER, None, 9))
    assert kinds(out) == ["EndSession"]
    assert node.tell(seen.BellRang()) == []


def test_other_driver_ends_its_job_only() -> None:
    node = busy_node(started=True)
    node.driver(7)
    out = node.tell(seen.ProcessDied(DRIVER, 0))
    assert "KillQueue" in kinds(out) and do.Kill(WORKER) in out
    assert "EndSession" not in kinds(out)
    out = node.tell(seen.ProcessDied(WORKER, None, 9, (), (seen.RunningTask(9, 1, 3, 0, 0, 5),)))
    assert kinds(out) == ["Fail", "CloseProcess", "FreeQueue"]
    assert isinstance(out[0], do.Fail) and records.unpack(out[0].record)[0] == "JobEndedError"


# ---- actors
def test_one_actor_from_start_to_end() -> None:
    node = Node()
    node.tell(seen.Began())
    node.driver()
    out = node.actor()
    assert kinds(out) == ["Adopt", "NewQueue", "Reply"]
    info = reply(out, m.ActorInfo)
    assert info.state == "PENDING" and info.queue == 6
    out = node.worker(WORKER)
    assert kinds(out) == ["Reply", "Assign"]
    assert reply(out, m.Assignment).actor.incarnation == 1
    assert kinds(node.ask(WORKER, m.ActorStarted(info.actor_id))) == ["Reply"]
    assert node.state(info.actor_id).state == "ALIVE"
    out = node.tell(seen.BellRang(gone=(66,)))
    assert do.Look((6,), (WORKER,)) in out
    busy = seen.WorkerState(WORKER, 6, 6, 1, False)
    node.tell(seen.Looked((seen.QueueState(6, 1, 0),), (busy,)))
    assert node.state(info.actor_id).state == "ALIVE", "calls already submitted are done first"
    node.tell(seen.AlarmRang(), after=0.01)
    idle = seen.WorkerState(WORKER, 6, 6, 0, False)
    looked = seen.Looked((seen.QueueState(6, 0, 2),), (idle,))
    assert node.tell(looked) == [], "a call may be on its way to the worker: look again"
    assert node.tell(seen.AlarmRang(), after=0.02) == [do.Look((6,), (WORKER,))]
    out = node.tell(looked)
    assert kinds(out) == ["KillQueue", "Leave"]
    assert cause(node.state(info.actor_id)) == ("ActorDiedError", "no_handle")
    out = node.tell(seen.ProcessDied(WORKER, 0))
    assert kinds(out) == ["Release", "FreeQueue", "CloseProcess"]


def test_restarts_back_off_and_end() -> None:
    node = Node()
    node.tell(seen.Began())
    node.driver()
    actor_id = node.living_actor(max_restarts=2, max_task_retries=1)
    retried, over = seen.RunningTask(8, 1, 1, 0, 0, 6), seen.RunningTask(9, 2, 1, 1, 0, 6)
    out = node.tell(seen.ProcessDied(WORKER, None, 9, (), (retried, over)))
    out = without_children(out, 8, 9)
    assert kinds(out) == ["Requeue", "Fail", "CloseProcess"]
    assert out[0] == do.Requeue(0, 8, charged=True, front=True)
    assert isinstance(out[1], do.Fail)
    assert records.unpack(out[1].record)[1]["may_have_run"] is True
    assert node.state(actor_id).state == "RESTARTING"
    node.worker(3)
    out = node.tell(seen.AlarmRang())
    assert do.Assign(3, 6) in out, "there is no pause before the first"
    assert node.state(actor_id).incarnation == 2
    node.tell(seen.ProcessDied(3, 1))
    node.tell(seen.AlarmRang(), after=0.04)
    assert not node.starts, "the back-off is not over"
    node.tell(seen.AlarmRang(), after=0.02)
    assert do.Assign(4, 6) in node.worker(4)
    out = node.tell(seen.ProcessDied(4, 1))
    assert "KillQueue" in kinds(out)
    info = node.state(actor_id)
    assert info.state == "DEAD" and info.incarnation == 3
    assert cause(info) == ("ActorDiedError", "crashed")
    assert records.unpack(info.cause)[1]["exit_code"] == 1


def test_only_short_lives_make_the_pause_longer() -> None:
    node = Node()
    node.tell(seen.Began())
    node.driver()
    actor_id = node.living_actor(max_restarts=-1)
    worker, pauses = WORKER, []
    for lived_s in (2.0,) * 6 + (0.1,) * 4 + (70.0, 2.0):
        out = node.tell(seen.ProcessDied(worker, None, 9), after=lived_s)
        worker, pause = worker + 1, 0.0
        while do.Assign(worker, 6) not in out:
            out = node.tell(seen.AlarmRang(), after=0.01)
            if node.starts:
                out += node.worker(worker)
            pause += 0.01
        node.ask(worker, m.ActorStarted(actor_id))
        pauses.append(pause)
    expected = [0.0] * 6 + [0.05, 0.1, 0.2, 0.4, 0.0, 0.0]
    assert pauses == pytest.approx(expected, abs=0.03)


def test_constructor_that_raises_is_final() -> None:
    node = Node()
    node.tell(seen.Began())
    node.driver()
    actor_id = reply(node.actor(max_restarts=-1), m.ActorInfo).actor_id
    node.worker(WORKER)
    out = node.ask(WORKER, m.ActorFailed(actor_id, b"pickle", "ValueError: x"))
    assert kinds(out) == ["Reply", "KillQueue", "Leave"]
    assert cause(node.state(actor_id)) == ("ActorDiedError", "constructor")
    assert kinds(node.tell(seen.ProcessDied(WORKER, 0))) == ["CloseProcess"]
    assert node.state(actor_id).state == "DEAD"


@pytest.mark.parametrize("no_restart", [True, False])
def test_kill(no_restart: bool) -> None:
    node = Node()
    node.tell(seen.Began())
    node.driver()
    actor_id = node.living_actor(max_restarts=1)
    out = node.ask(DRIVER, m.KillActor(actor_id, no_restart))
    assert do.Kill(WORKER) in out and isinstance(reply(out, m.Done), m.Done)
    assert ("KillQueue" in kinds(out)) == no_restart
    node.tell(seen.ProcessDied(WORKER, None, 9))
    assert node.state(actor_id).state == ("DEAD" if no_restart else "RESTARTING")


def test_kill_before_there_is_a_process() -> None:
    node = Node()
    node.driver()
    actor_id = reply(node.actor(), m.ActorInfo).actor_id
    out = node.ask(DRIVER, m.KillActor(actor_id, True))
    assert kinds(out) == ["KillQueue", "Reply"]
    assert cause(node.state(actor_id))[1] == "killed"
    assert kinds(node.tell(seen.BellRang(gone=(66,)))) == ["Release", "FreeQueue"]


def test_exit_actor_lets_its_call_end() -> None:
    node = Node()
    node.tell(seen.Began())
    node.driver()
    actor_id = node.living_actor(max_restarts=5)
    assert kinds(node.ask(WORKER, m.ActorExits(actor_id))) == ["Reply", "KillQueue", "Leave"]
    assert do.Kill(WORKER) in node.tell(seen.AlarmRang(), after=31.0)
    node.tell(seen.ProcessDied(WORKER, None, 9))
    assert cause(node.state(actor_id))[1] == "exit_actor"


def test_names() -> None:
    node = Node(started=False)
    node.tell(seen.Began())
    node.driver(namespace="n")
    actor_id = node.living_actor(name="a")
    assert refusal(node.actor(7, name="a")) == "ActorAlreadyExistsError"
    found = reply(node.actor(7, name="a", get_if_exists=True), m.ActorInfo)
    assert found.actor_id == actor_id and not found.created
    assert reply(node.ask(DRIVER, m.GetActor("a", "n")), m.ActorInfo).actor_id == actor_id
    assert refusal(node.ask(DRIVER, m.GetActor("a", "other"))) == "ActorNotFoundError"


def test_name_is_free_when_the_process_has_gone() -> None:
    node = Node()
    node.tell(seen.Began())
    node.driver()
    old = node.living_actor(name="a")
    node.ask(DRIVER, m.KillActor(old, True))
    assert refusal(node.ask(DRIVER, m.GetActor("a", ""))) == "ActorNotFoundError"
    assert node.actor(7, name="a") == [], "waits until the old one is proved dead"
    out = node.tell(seen.ProcessDied(WORKER, None, 9))
    (new_queue,) = [c for c in out if isinstance(c, do.NewQueue)]
    out = node.tell(seen.QueueCreated(new_queue.ticket, 7, 1))
    assert reply(out, m.ActorInfo).actor_id != old


def test_detached_actor_is_a_root() -> None:
    node = Node(started=True)
    node.tell(seen.Began())
    node.driver(1)
    node.driver(9, namespace="n")
    out = node.actor(name="d", namespace="n", detached=True)
    assert {do.Adopt(66), do.Adopt(50)} <= {c for c in out if isinstance(c, do.Adopt)}
    node.worker(WORKER)
    actor = next(iter(node.machine.tables.actors.living.values()))
    node.ask(WORKER, m.ActorStarted(actor.actor_id))
    node.tell(seen.ProcessDied(1, 0))
    node.tell(seen.BellRang(gone=(66,)))
    assert actor.state == "ALIVE"
    found = reply(node.ask(9, m.GetActor("d", "n")), m.ActorInfo)
    assert found.state == "ALIVE"
    node.ask(9, m.KillActor(actor.actor_id, True))
    out = node.tell(seen.ProcessDied(WORKER, None, 9))
    assert {do.Release(66), do.Release(50), do.FreeQueue(6)} <= set(
        c for c in out if isinstance(c, do.Release | do.FreeQueue)
    )
    assert set(node.machine.tables.jobs.running) == {2}, "its job has ended with it"


def test_actor_that_nobody_can_have() -> None:
    node = Node()
    node.driver()
    actor_id = reply(node.actor(place={"CPU": 5.0}), m.ActorInfo).actor_id
    out = node.tell(seen.AlarmRang(), after=1.01)
    assert kinds(out) == ["KillQueue"]
    assert cause(node.state(actor_id))[0] == "UnschedulableError"


def test_arguments_that_went_away() -> None:
    node = Node()
    node.driver()
    actor_id = reply(node.actor(), m.ActorInfo).actor_id
    out = node.tell(seen.AdoptFailed(66))
    assert kinds(out) == ["KillQueue", "FreeQueue"]
    assert cause(node.state(actor_id))[1] == "arguments_lost"


# ---- locks, store
def test_lock_of_a_dead_process_goes_on() -> None:
    node = busy_node()
    assert reply(node.ask(WORKER, m.AcquireLock("l", "t", None)), m.LockAnswer).held
    assert node.ask(DRIVER, m.AcquireLock("l", "t", None)) == []
    waiting = node.number
    out = node.tell(seen.ProcessDied(WORKER, 0))
    assert do.Reply(DRIVER, waiting, m.LockAnswer(True)) in out
    assert not reply(node.ask(DRIVER, m.AcquireLock("l", "u", 0.0)), m.LockAnswer).held
    assert refusal(node.ask(DRIVER, m.AcquireLock("l", "t", 1.0))) == "UsageError"
    assert reply(node.ask(DRIVER, m.IsLocked("l")), m.LockAnswer).held
    node.ask(DRIVER, m.ReleaseLock("l", "t"))
    assert refusal(node.ask(DRIVER, m.ReleaseLock("l", "t"))) == "UsageError"


def test_lock_wait_ends() -> None:
    node = busy_node()
    node.ask(WORKER, m.AcquireLock("l", "t", None))
    node.ask(DRIVER, m.AcquireLock("l", "t", 0.5))
    waiting = node.number
    out = node.tell(seen.AlarmRang(), after=0.6)
    assert do.Reply(DRIVER, waiting, m.LockAnswer(False)) in out


def test_stop() -> None:
    node = Node(started=True)
    node.driver()
    assert kinds(node.ask(DRIVER, m.StopSession())) == ["Reply", "EndSession"]
    assert node.tell(seen.StopAsked("again")) == []


def test_story() -> None:
    node = busy_node()
    assert any("bound to job 1" in line for line in node.machine.story("worker 2"))
    assert node.machine.story("worker 99") == []
