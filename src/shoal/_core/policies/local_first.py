"""Policy: local first (RULES S-11). How much of a queue stays here, and how much is for others.

A task starts where it was submitted if that can be now. What can not start here now, and could
elsewhere, is forwarded at once; how long one would have to wait decides only if nobody can start
it. Three things keep this from doing harm:

* What the workers that serve the queue take within ``worth_s`` anyhow stays: a task on its way is
  later than one that is next.
* A class whose tasks are shorter than ``tiny_s`` stays whole: to forward one costs both daemons
  more than to run it. (Unless it can never run here: then that is its price.)
* By waiting time a task moves only if it gains much: its wait there must be less than half of its
  wait here, and shorter by ``gain_s``. Where all nodes are equally full nothing moves at all, and
  what has moved has no reason to move back.

How long a task takes nobody says beforehand. It is seen: from what was taken between two looks at
the queue, and from the times that other nodes report. Until something is known, only what can start
at once moves; a queue of which nothing was taken for a while is known to have tasks at least as
long as that.
"""

from __future__ import annotations

from typing import NamedTuple

from shoal._base.config import ForwardingLimits

FOREVER_S = 1e9


class Here(NamedTuple):
    """One queue as it is on this node."""

    entries: int
    """Tasks that wait in it."""
    startable: int
    """Tasks of it that could start here at this moment, beside those that run."""
    attached: int
    """Workers that serve it now."""
    task_s: float | None
    """How long one of its tasks takes, as far as is known."""
    is_feasible: bool
    """Whether this node could ever run them."""
    movable: int = 0
    """Of the entries those that may leave: the others are of other nodes, or have been out."""


def surplus(here: Here, limits: ForwardingLimits) -> int:
    """How many of the waiting tasks are for others, if they have room."""
    if not here.is_feasible:
        return here.movable
    if here.task_s is None:
        return max(0, min(here.movable, here.entries - here.startable))
    if here.task_s < limits.tiny_s:
        return 0
    workers = here.attached + here.startable
    soon = here.startable + int(workers * limits.worth_s / here.task_s)
    return max(0, min(here.movable, here.entries - soon))


def has_place(here: Here, limits: ForwardingLimits) -> bool:
    """Whether one more would start here about as soon as anywhere."""
    if not here.is_feasible:
        return False
    more = here._replace(entries=here.entries + 1, movable=here.entries + 1)
    return surplus(more, limits) == 0


def wait_s(here: Here) -> float | None:
    """How long the last task of the queue will wait here; None if nobody can tell."""
    if not here.is_feasible:
        return FOREVER_S
    if here.startable >= here.entries:
        return 0.0
    workers = here.attached + here.startable
    if here.task_s is None or not workers:
        return None
    return here.entries * here.task_s / workers


def is_worth(wait_here_s: float, wait_there_s: float, limits: ForwardingLimits) -> bool:
    """Whether a task gains enough by waiting there instead of here."""
    return wait_there_s + limits.gain_s < wait_here_s / 2


def share_by_wait(wait_here_s: float, wait_there_s: float, slots_there: int, task_s: float) -> int:
    """How many tasks go there until both waits are about the same, at least one."""
    return max(1, int((wait_here_s - wait_there_s) / 2 * slots_there / task_s))
