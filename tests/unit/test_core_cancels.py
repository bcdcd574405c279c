"""Transcripts of cancels and deadlines: who is asked, who is killed, and when."""

from __future__ import annotations

from typing import Any

from shoal._base import records
from shoal._core import commands as do
from shoal._core import events as seen
from shoal._core.cancels import TIMED_MOST
from shoal._proto import messages as m
from tests.unit.test_core_node import DRIVER, WORKER, Node, busy_node, kinds

KEY, CHILD = 9, 10


def cancel(node: Node, **options: Any) -> do.CancelTasks:
    """Ask for it; the command that goes to node memory, before the answer."""
    given = {"force": False, "recursive": False, **options}
    command, answer = node.ask(DRIVER, m.CancelTask(KEY, **given))
    assert isinstance(command, do.CancelTasks) and isinstance(answer, do.Reply)
    assert command.key == KEY and command.is_recursive == given["recursive"]
    assert records.unpack(command.held)[1]["stage"] == "held"
    assert records.unpack(command.queued)[1]["stage"] == "queued"
    return command


def found(node: Node, command: do.CancelTasks, *rows: tuple[int, bool]) -> list[do.Command]:
    """Node memory's answer: (key, is_call) of what runs in the worker."""
    tasks = tuple(seen.RunningAttempt(key, 1, WORKER, is_call) for key, is_call in rows)
    return node.tell(seen.FoundRunning(command.ticket, tasks, command.is_second_look))


def alarm(node: Node, after: float = 0.0) -> list[do.Command]:
    """What an alarm leads to, besides looks at queues."""
    out = node.tell(seen.AlarmRang(), after)
    return [c for c in out if not isinstance(c, do.Look)]


def again(node: Node) -> do.CancelTasks:
    """Patience is over: one more look."""
    (command,) = alarm(node, after=0.61)
    assert isinstance(command, do.CancelTasks) and command.is_second_look
    assert command.key == KEY and not command.is_recursive
    return command


def dies(node: Node, *keys: int) -> list[do.Command]:
    running = tuple(seen.RunningTask(key, 1, 3, 0, 0, 5) for key in keys)
    return node.tell(seen.ProcessDied(WORKER, None, 9, (), running))


def fails(commands: list[do.Command]) -> dict[int, str]:
    """Names of the errors of what has failed."""
    return {c.key: records.unpack(c.record)[0] for c in commands if isinstance(c, do.Fail)}


def test_what_has_not_started_needs_no_second_look() -> None:
    node = busy_node()
    assert found(node, cancel(node)) == []
    assert node.machine.tables.cancels.next_deadline() is None


def test_what_runs_is_asked_and_then_killed() -> None:
    node = busy_node()
    (told,) = found(node, cancel(node), (KEY, False))
    assert isinstance(told, do.Notify) and isinstance(told.body, m.CancelAttempt)
    assert (told.index, told.body.key, told.body.attempt) == (WORKER, KEY, 1)
    assert records.unpack(told.body.record)[0] == "TaskCancelledError"
    assert found(node, again(node), (KEY, False)) == [do.Kill(WORKER)]
    out = dies(node, CHILD, KEY)
    assert fails(out) == {KEY: "TaskCancelledError"}
    (requeue,) = [c for c in out if isinstance(c, do.Requeue)]
    assert requeue.key == CHILD and not requeue.charged, "it is not to blame"
    assert not node.machine.tables.cancels.running


def test_what_has_ended_meanwhile_is_forgotten() -> None:
    node = busy_node()
    found(node, cancel(node), (KEY, False))
    assert found(node, again(node)) == []
    assert not node.machine.tables.cancels.running
    assert fails(dies(node)) == {}


def test_force_kills_at_once() -> None:
    node = busy_node()
    assert found(node, cancel(node, force=True), (KEY, False)) == [do.Kill(WORKER)]
    assert fails(dies(node, KEY)) == {KEY: "TaskCancelledError"}


def test_children_are_asked_too() -> None:
    node = busy_node()
    out = found(node, cancel(node, recursive=True), (KEY, False), (CHILD, False))
    assert kinds(out) == ["Notify", "Notify"]
    assert set(node.machine.tables.cancels.running) == {KEY, CHILD}


def test_a_call_is_only_asked() -> None:
    node = busy_node()
    assert kinds(found(node, cancel(node), (KEY, True))) == ["Notify"]
    assert node.machine.tables.cancels.next_deadline() is None


def test_a_cancelled_attempt_gets_no_retry() -> None:
    node = busy_node()
    found(node, cancel(node), (KEY, False))
    (answer,) = node.ask(WORKER, m.RetryTask(KEY, 1))
    assert isinstance(answer, do.Reply) and answer.body == m.RetryDecision(granted=False)


def test_a_dropped_stream_is_cancelled() -> None:
    node = busy_node()
    (command,) = [c for c in node.tell(seen.BellRang(gone=(KEY,))) if type(c) is do.CancelTasks]
    assert command.key == KEY and not command.is_recursive
    assert found(node, command) == []


def test_a_deadline_that_nobody_needs_any_more() -> None:
    node = busy_node()
    assert node.ask(WORKER, m.WatchDeadline(KEY, 5.0)) == []
    assert alarm(node, after=5.01) == [do.LookAtTask(KEY)]
    assert node.machine.tables.cancels.next_deadline() is None


def test_deadlines_of_tasks_that_ended_in_time_are_forgotten() -> None:
    """Hours away, and nobody tells that they do not count any more."""
    node, living = busy_node(), {7, 70, 700}
    for key in range(3000):
        out = node.ask(DRIVER, m.WatchDeadline(key, left_s=3600.0))
        for command in out:
            assert isinstance(command, do.SiftTasks)
            ended = tuple(key for key in command.keys if key not in living)
            assert node.tell(seen.TasksSifted(ended)) == []
    node.machine.validate()
    timed = node.machine.tables.cancels.timed
    assert len(timed) < 2 * TIMED_MOST
    assert all(key in timed for key in living), "those that live are still watched"


def test_what_waits_for_a_call_that_was_given_up_is_cancelled() -> None:
    node = busy_node()
    (command,) = node.ask(WORKER, m.ArgumentGivenUp(KEY))
    assert isinstance(command, do.CancelTasks) and not command.is_recursive
    assert records.unpack(command.held)[0] == "TaskCancelledError"
    assert found(node, command) == []


def test_a_deadline_says_where_the_time_went() -> None:
    node = busy_node()
    node.ask(DRIVER, m.WatchDeadline(KEY, 2.0))
    alarm(node, after=2.01)
    stages = {"held": 0.5, "queued": 1.5}
    (command,) = node.tell(seen.TaskLooked(KEY, "queued", stages))
    assert isinstance(command, do.CancelTasks) and command.is_late
    name, fields = records.unpack(command.queued)
    assert name == "DeadlineExceededError"
    assert fields == {"stage": "queued", "timeout_s": 2.0, "stages_s": stages}
    assert found(node, command) == []


def test_one_that_runs_past_its_deadline_is_killed_in_the_end() -> None:
    node = busy_node()
    node.ask(DRIVER, m.WatchDeadline(KEY, 0.0))
    assert alarm(node) == [do.LookAtTask(KEY)]
    (command,) = node.tell(seen.TaskLooked(KEY, "running", {"running": 1.0}))
    assert isinstance(command, do.CancelTasks)
    assert kinds(found(node, command, (KEY, False))) == ["Notify"]
    assert node.tell(seen.TaskLooked(KEY, "running", {"running": 1.0})) == [], "asked already"
    assert found(node, again(node), (KEY, False)) == [do.Kill(WORKER)]
    assert fails(dies(node, KEY)) == {KEY: "DeadlineExceededError"}


def test_a_worker_that_has_had_enough_leaves_without_blame() -> None:
    node = busy_node()
    leave, answer = node.ask(WORKER, m.WorkerLeaves())
    assert leave == do.Leave(WORKER) and isinstance(answer, do.Reply)
    assert fails(node.tell(seen.ProcessDied(WORKER, 0, None, (), ()))) == {}
