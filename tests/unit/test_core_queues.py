"""How many workers a queue wants, from what is seen of it (PROTOCOL W3)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal._base.config import Limits
from shoal._core.events import QueueCreated, QueueState
from shoal._core.queues import Attachment, ClassQueue
from shoal._core.resources import Account, Room, Target, parse

LIMITS = Limits()


def make() -> tuple[ClassQueue, Account]:
    account = Account({"CPU": 64})
    target = Target(Room.of_node(account))
    return ClassQueue(QueueCreated(0, 5, 1), 1, parse({"CPU": 1}), target, 0.0, LIMITS), account


def attach(queue: ClassQueue, account: Account, worker: int, now: float) -> Attachment:
    grant = account.take(queue.amounts)
    assert grant is not None
    attachment = Attachment(worker, grant, now)
    queue.attach(attachment, now)
    return attachment


def test_empty_queue_arms_once() -> None:
    queue, _ = make()
    assert queue.look(0.0, QueueState(5, 0, 0))
    assert not queue.look(1.0, QueueState(5, 0, 0)), "still armed: nothing was taken"
    assert queue.look(2.0, QueueState(5, 0, 3)), "takes moved: a push may have used it up"


def test_first_entry_wants_one_worker() -> None:
    queue, _ = make()
    queue.look(0.0, QueueState(5, 1000, 0))
    assert queue.wants == 1 and not queue.is_armed


def test_stuck_queue_wants_the_rest_after_a_millisecond() -> None:
    queue, account = make()
    queue.look(0.0, QueueState(5, 8, 0))
    attach(queue, account, 1, 0.0).acked_at = 0.0001
    assert queue.wants == 0 and queue.recheck_at == 0.001
    queue.look(0.0005, QueueState(5, 7, 1))
    assert queue.wants == 0, "too early"
    queue.look(0.001, QueueState(5, 7, 1))
    assert queue.wants == 7, "one take in a millisecond is slow"


def test_quick_tasks_want_no_more() -> None:
    queue, account = make()
    queue.look(0.0, QueueState(5, 10_000, 0))
    attach(queue, account, 1, 0.0).acked_at = 0.0
    now, takes, times = 0.0, 0, []
    for _ in range(8):
        assert queue.recheck_at is not None
        takes += 1000
        now = queue.recheck_at
        queue.look(now, QueueState(5, 10_000, takes))
        assert queue.wants == 0
        times.append(queue.recheck_at - now)
    assert times[-1] == pytest.approx(LIMITS.recheck_most_s), "the pause grows, but not without end"


def test_one_call_after_the_other_wants_no_second_worker() -> None:
    """A caller that waits for each result: few takes, but never a backlog."""
    queue, account = make()
    queue.look(0.0, QueueState(5, 1, 0))
    attach(queue, account, 1, 0.0).acked_at = 0.0
    for number in range(1, 100):
        queue.look(queue.recheck_at or 0.0, QueueState(5, 1, 5 * number))
        assert queue.wants == 0


def test_worker_that_is_still_binding_is_waited_for() -> None:
    queue, account = make()
    queue.look(0.0, QueueState(5, 100, 0))
    attach(queue, account, 1, 0.0)
    queue.look(0.001, QueueState(5, 100, 0))
    assert queue.wants == 0, "it had no time to take anything"
    queue.look(0.030, QueueState(5, 100, 0))
    assert queue.wants == 99, "20 ms are enough: do not wait for it any more"


def test_everybody_leaving_is_nobody() -> None:
    queue, account = make()
    queue.look(0.0, QueueState(5, 3, 0))
    attachment = attach(queue, account, 1, 0.0)
    attachment.is_leaving = True
    queue.look(0.1, QueueState(5, 3, 0))
    assert queue.wants == 1


def test_dead_queue_wants_nothing() -> None:
    queue, _ = make()
    queue.look(0.0, QueueState(5, 3, 0))
    queue.kill(b"record")
    assert not queue.look(0.1, QueueState(5, 3, 0))
    assert queue.wants == 0
    queue.validate()


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.floats(0, 0.05),
            st.integers(0, 20),
            st.integers(0, 200),
            st.sampled_from(["look", "attach", "ack", "leave", "lose"]),
        ),
        max_size=40,
    )
)
def test_invariants_hold_whatever_is_seen(
    steps: list[tuple[float, int, int, str]],
) -> None:
    queue, account = make()
    now, takes, worker = 0.0, 0, 0
    for pause, entries, taken, what in steps:
        now += pause
        takes += taken
        if what == "look":
            queue.look(now, QueueState(5, entries, takes))
            if entries == 0:
                assert queue.is_armed and queue.wants == 0
            else:
                waits = queue.wants > 0 or queue.recheck_at is not None
                assert waits, "entries, and nothing will ever look again"
                assert queue.wants <= entries
        elif what == "attach" and queue.wants:
            worker += 1
            attach(queue, account, worker, now)
        elif queue.attachments:
            attachment = next(iter(queue.attachments.values()))
            if what == "ack":
                attachment.acked_at = now
            elif what == "leave":
                attachment.is_leaving = True
            else:
                account.give(attachment.grant)
                del queue.attachments[attachment.worker]
        queue.validate()
