"""Queues of actors that live on another node: their callers here notice nothing.

Calls wait in a queue of this node, as those of a local actor do; the daemon takes them out in their
order and lends each to the actor's node, one behind the other on one link. There they enter the
actor's own queue in that order, so calls of one caller stay in theirs (RULES A-1).

::

    placed      what waits goes, oldest first; then whatever is pushed
    moving      the node is lost, or the actor is not there: nothing goes. What had been sent and
                may run again waits here, in the order in which it was sent, before all that is
                behind it in the queue (RULES A-2)
    changing    its home moves: as moving; and then nothing goes to the next one before all that
                was lent to the former one has ended or come back
    home        it lives here now: what waits goes back into the queue, before what is in it
    ended       what waits here fails; the queue is dead, and the daemon drains it

An actor has a queue for each of its concurrency groups; each is a line of its own.

A queue is looked at when its bell was rung: it is hungry, as one without a worker is.

Invariants: a call is in the queue, in ``waiting``, or lent; what is in ``waiting`` was taken out
before anything that is in the queue now.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from shoal._native import Memory
from shoal._runtime.bridge.lending import Lending

BATCH = 256
"""Calls that are taken out of a queue at once."""


@dataclass(slots=True)
class _Line:
    node: str = ""
    """Where its actor lives, or by way of whom it is called; empty: nobody knows."""
    next: str = ""
    """Where calls are to go when none is lent."""
    waiting: deque[int] = field(default_factory=deque)
    out: int = 0
    """Calls that are lent."""


class RemoteActors:
    """The queues of this node whose actors are elsewhere.

    ``record_of`` says of a queue that is no line (any more) with what a call for it fails; None:
    its actor lives here.
    """

    def __init__(self, memory: Memory, lending: Lending) -> None:
        self._memory = memory
        self._lending = lending
        self._lines: dict[int, _Line] = {}
        self._queue_of: dict[int, int] = {}
        """Of a call that is lent or waits."""
        self.record_of: Callable[[int], bytes | None] = lambda queue: None
        self.refused: Callable[[int, str], None] = lambda queue, node: None
        """Told of a queue whose actor is not where it was thought to be."""

    def place(self, queue: int, node: str) -> None:
        """Calls in this queue go there from now on; empty: nowhere for the moment."""
        line = self._lines.setdefault(queue, _Line())
        line.node = node
        self._send(queue, line)

    def move(self, queue: int, node: str) -> None:
        """Calls go there as soon as none is elsewhere; until then, and if it is empty, they wait
        here."""
        line = self._lines.setdefault(queue, _Line())
        line.node, line.next = "", node
        self._go_on(queue, line)

    def _go_on(self, queue: int, line: _Line) -> None:
        if line.next and not line.out:
            line.node, line.next = line.next, ""
            self._send(queue, line)

    def bring_home(self, queue: int) -> None:
        """Its actor lives here now."""
        line = self._lines.pop(queue, None)
        if line is None:
            return
        self._memory.set_hungry(queue, False)
        keys = [*line.waiting]
        if keys:
            while taken := self._lending.take(queue, BATCH):
                keys += taken
        for key in keys:
            self._queue_of.pop(key, None)
            self._lending.put_back(key)

    def remove(self, queue: int, record: bytes) -> None:
        """It has ended: what waits here fails. (What is lent is told by its node, or lost.)"""
        line = self._lines.pop(queue, None)
        while line is not None and line.waiting:
            key = line.waiting.popleft()
            self._queue_of.pop(key, None)
            self._lending.fail(key, record)

    def is_quiet(self, queue: int) -> bool:
        """Whether no call of it waits here or is lent."""
        line = self._lines.get(queue)
        return line is None or not (line.waiting or line.out)

    def is_unlent(self, queue: int) -> bool:
        """Whether no call of it is on another node."""
        line = self._lines.get(queue)
        return line is None or not line.out

    def look(self) -> None:
        """Somebody may have pushed something."""
        for queue, line in list(self._lines.items()):
            self._send(queue, line)

    def _send(self, queue: int, line: _Line) -> None:
        while line.node and line.waiting:
            line.out += 1
            self._lending.send_off(line.waiting.popleft(), line.node)
        while line.node:
            for key in self._lending.take(queue, BATCH):
                self._queue_of[key] = queue
                line.out += 1
                self._lending.send_off(key, line.node)
            if not self._memory.set_hungry(queue, True):
                break

    # ---- what becomes of a call that was lent
    def ended(self, key: int) -> None:
        """It has its results."""
        queue = self._queue_of.pop(key, 0)
        line = self._lines.get(queue)
        if line is not None:
            line.out -= 1
            self._go_on(queue, line)

    def again(self, key: int, *, is_charged: bool) -> None:
        """It goes to its actor once more, when that has a place; it was sent before all that
        waits in the queue."""
        queue = self._queue_of.get(key, 0)
        if (record := self._lending.ending(key)) is not None:
            self.ended(key)
            self._lending.fail(key, record)
            return
        line = self._lines.get(queue)
        if line is None:
            self.ended(key)
            if (record := self.record_of(queue)) is not None:
                self._lending.fail(key, record)
            else:
                self._lending.put_back(key)
            return
        if is_charged:
            self._lending.charge(key)
        line.out -= 1
        line.waiting.append(key)
        if line.next:
            self._go_on(queue, line)
        elif not is_charged:  # it is not there: whoever knows will say where it is
            node, line.node = line.node, ""
            self.refused(queue, node)
        elif line.node:
            line.out += 1
            self._lending.send_off(line.waiting.popleft(), line.node)

    def lost(self, node: str) -> None:
        """What lived there has no place until it is given one."""
        for line in self._lines.values():
            if line.node == node:
                line.node = ""
            if line.next == node:
                line.next = ""
