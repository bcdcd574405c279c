"""Queues of actors that live on another node: their callers here notice nothing.

Calls wait in a queue of this node, as those of a local actor do; the daemon takes them out in their
order and lends each to the actor's node, one behind the other on one link. There they enter the
actor's own queue in that order, so calls of one caller stay in theirs (RULES A-1).

::

    placed      what waits goes, oldest first; then whatever is pushed
    moving      the node is lost, or the actor is not there: nothing goes. What had been sent and
                may run again waits here, in the order in which it was sent, before all that is
                behind it in the queue (RULES A-2)
    ended       what waits here fails; the queue is dead, and the daemon drains it

A queue is looked at when its bell was rung: it is hungry, as one without a worker is.

Invariants: a call is in the queue, in ``waiting``, or lent; what is in ``waiting`` was taken out
before anything that is in the queue now.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from shoal._native import Memory
from shoal._runtime.bridge.lending import Lending

BATCH = 256
"""Calls that are taken out of a queue at once."""


@dataclass(slots=True)
class _Line:
    queue: int
    node: str = ""
    """Where its actor lives; empty: nobody knows."""
    waiting: deque[int] = field(default_factory=deque)


class RemoteActors:
    """The queues of this node whose actors are elsewhere, by the key of the actor's lifetime
    object (here)."""

    def __init__(self, memory: Memory, lending: Lending) -> None:
        self._memory = memory
        self._lending = lending
        self._lines: dict[int, _Line] = {}
        self._line_of: dict[int, int] = {}
        """Of a call that is lent or waits: its actor."""

    def add(self, actor: int, queue: int) -> None:
        """This queue is for an actor that lives elsewhere."""
        self._lines[actor] = _Line(queue)

    def remove(self, actor: int, record: bytes) -> None:
        """It has ended: what waits here fails. (What is lent is told by its node, or lost.)"""
        line = self._lines.pop(actor)
        while line.waiting:
            key = line.waiting.popleft()
            self._line_of.pop(key, None)
            self._lending.fail(key, record)

    def place(self, actor: int, node: str) -> None:
        """It lives there now; empty: nowhere for the moment."""
        line = self._lines[actor]
        line.node = node
        self._send(actor, line)

    def look(self) -> None:
        """Somebody may have pushed something."""
        for actor, line in self._lines.items():
            self._send(actor, line)

    def _send(self, actor: int, line: _Line) -> None:
        while line.node and line.waiting:
            self._lending.send_off(line.waiting.popleft(), line.node)
        while line.node:
            for key in self._lending.take(line.queue, BATCH):
                self._line_of[key] = actor
                self._lending.send_off(key, line.node)
            if not self._memory.set_hungry(line.queue, True):
                break

    # ---- what becomes of a call that was lent
    def ended(self, key: int) -> None:
        """It has its results."""
        self._line_of.pop(key, None)

    def again(self, key: int, *, is_charged: bool) -> None:
        """It goes to its actor once more, when that has a place; it was sent before all that
        waits in the queue."""
        if (record := self._lending.ending(key)) is not None:
            self.ended(key)
            self._lending.fail(key, record)
            return
        if is_charged:
            self._lending.charge(key)
        line = self._lines.get(self._line_of.get(key, 0))
        if line is None:  # its actor lives here now, or has ended: its queue knows
            self.ended(key)
            self._lending.put_back(key)
            return
        line.waiting.append(key)
        if not is_charged:  # it is not there: the control store will say where it is
            line.node = ""
        elif line.node:
            self._lending.send_off(line.waiting.popleft(), line.node)

    def lost(self, node: str) -> None:
        """What lived there has no place until the control store gives it one."""
        for line in self._lines.values():
            if line.node == node:
                line.node = ""
