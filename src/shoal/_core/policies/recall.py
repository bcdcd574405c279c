"""Policy: recall. What is taken back from a node that does not get on.

Tasks were sent because they were to start soon. If nothing has come back for much longer than that
should take, or if this node has become idle meanwhile, those that were sent last are asked back:
they are at the end of the queue there. The answer is *returned* or *running* (RULES S-11), so
asking costs a message and can do no harm; but a task that has been back once stays where it goes
next.

Nothing is recalled that nobody else could start: to wait elsewhere instead is not worth a message.
"""

from __future__ import annotations

from typing import NamedTuple

from shoal._base.config import ForwardingLimits


class Outstanding(NamedTuple):
    """What one node has of one queue."""

    tasks: int
    """Sent there, not done, and not asked back."""
    slots: int
    """How many of them can run there at once."""
    silent_s: float
    """Since when nothing has come back from it, nor been sent to it."""
    task_s: float | None


def is_stalled(there: Outstanding, limits: ForwardingLimits) -> bool:
    """Whether it is overdue."""
    if not there.tasks:
        return False
    expected = 0.0 if there.task_s is None else there.task_s * (1 + there.tasks / there.slots)
    return there.silent_s > max(limits.stall_s, limits.stall_times * expected)


def how_many(there: Outstanding, startable: int, limits: ForwardingLimits) -> int:
    """How many to ask back, when ``startable`` could start here or on somebody else at once."""
    if startable <= 0 or not there.tasks:
        return 0
    if is_stalled(there, limits):
        # It may have started none of them, whatever it was believed to have free.
        return min(startable, there.tasks)
    if there.task_s is None:
        return 0
    behind = there.tasks - there.slots
    wait = behind * there.task_s / there.slots
    if behind <= 0 or wait < limits.gain_s:
        return 0
    return min(startable, behind)
