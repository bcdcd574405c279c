"""What one node runs for others: whom it takes in, and how much each may send.

The other half of ``forwarding``. A *home* has submitted tasks and sent them here; they are
*visitors* of one queue of this node. This node has the last word (RULES S-12)::

    VisitorsCame(home, keys) --> Accept, or SendBack what is too much
    VisitorsEnded(home, keys)  with what goes back to the home: window(queue, home)

**The window** is how many tasks of the class one home may have here at once::

    limit  = slots * (1 + ahead_s / task_s)    what runs, and what keeps it running for a round trip
    window = limit / homes that use the queue, or what the others leave of the limit, if that is
             more

What is ahead of the slots grows with what has ended here, so that one short task at the beginning
does not fill a queue with long ones.

It is 0 while tasks of this node itself wait for the same slots, as who has room is asked first by
itself, and where no more would be taken in. But a home that could never run its tasks itself
(``is_needy``) gets its share then too: this node counts as one more home. A home that comes when
others have all of it gets its share as something ends: theirs shrink with the next answer, and
nothing has to be told.

**What is sent back**: what is more than twice the window of all, from homes that had not heard of
each other; everything while the node is draining. What is *final* stays whatever is full, or it
could be sent to and fro for ever (S-11: on or back at most once); only what this node can never run
goes back then.

Invariants, asserted by ``validate``:

1. A visitor is here once.
2. No window is larger than the limit of its queue.
3. What is not final and was accepted was within twice the limit when it came.
"""

from __future__ import annotations

from typing import NamedTuple, Union

from shoal._base.config import ForwardingLimits

HOME_KEPT_S = 1.0
"""So long a home counts that has nothing here."""
OVERFLOW = 2
"""So many times the limit is taken in: views are old, and a second message costs more."""


# ---- events
class QueueLookedAt(NamedTuple):
    """What a look at a queue with visitors shows."""

    queue: int
    slots: int
    """How many of its tasks this node could run at once, if it were empty."""
    own: int
    """Tasks of this node itself that wait for the same resources, and could have them: what it
    can never run is not counted."""
    task_s: float | None
    is_feasible: bool = True


class VisitorsCame(NamedTuple):
    """``home`` has sent tasks."""

    queue: int
    home: str
    keys: tuple[int, ...]
    is_final: bool = False
    is_needy: bool = False
    """``home`` can never run such tasks itself."""


class VisitorsEnded(NamedTuple):
    """They have run, were cancelled, or went back on a recall."""

    queue: int
    home: str
    keys: tuple[int, ...]


class QueueRemoved(NamedTuple):
    queue: int


class HomeLost(NamedTuple):
    home: str


class DrainBegun(NamedTuple):
    pass


Event = Union[QueueLookedAt, VisitorsCame, VisitorsEnded, QueueRemoved, HomeLost, DrainBegun]


# ---- commands
class Accept(NamedTuple):
    """Push them into the queue."""

    queue: int
    home: str
    keys: tuple[int, ...]


class SendBack(NamedTuple):
    """They have not run and will not."""

    queue: int
    home: str
    keys: tuple[int, ...]


Command = Union[Accept, SendBack]


class _Hosted:
    """One queue that others use."""

    __slots__ = (
        "ended",
        "homes",
        "is_feasible",
        "left_at",
        "needy",
        "own",
        "slots",
        "task_s",
        "visitors",
    )

    def __init__(self) -> None:
        self.slots = 1
        self.own = 0
        self.task_s: float | None = None
        self.is_feasible = True
        self.homes: dict[str, set[int]] = {}
        self.left_at: dict[str, float] = {}
        """Of homes that have nothing here: since when."""
        self.needy: set[str] = set()
        self.visitors = 0
        self.ended = 0

    def limit(self, limits: ForwardingLimits) -> int:
        """How many visitors are of use at once."""
        if self.task_s is None:
            return self.slots
        ahead = int(self.slots * limits.ahead_s / max(self.task_s, 1e-9) + 0.5)
        return self.slots + min(ahead, self.ended, limits.ahead_most)


class Hosting:
    """The visitors of one node."""

    def __init__(self, limits: ForwardingLimits) -> None:
        self._limits = limits
        self._queues: dict[int, _Hosted] = {}
        self._is_draining = False

    def step(self, now: float, event: Event) -> list[Command]:
        """Take in what happened; what to do now."""
        match event:
            case QueueLookedAt(queue, slots, own, task_s, is_feasible):
                hosted = self._queues.setdefault(queue, _Hosted())
                hosted.slots, hosted.own, hosted.task_s = max(1, slots), own, task_s
                hosted.is_feasible = is_feasible
                self._forget_homes(now, hosted)
            case VisitorsCame():
                return self._visitors_came(event)
            case VisitorsEnded(queue, home, keys):
                found = self._queues.get(queue)
                if found is not None:
                    self._ended(now, found, home, keys)
            case QueueRemoved(queue):
                self._queues.pop(queue, None)
            case HomeLost(home):
                for hosted in self._queues.values():
                    hosted.visitors -= len(hosted.homes.pop(home, ()))
                    hosted.left_at.pop(home, None)
            case DrainBegun():
                self._is_draining = True
        return []

    def window(self, queue: int, home: str) -> int:
        """How many tasks of the queue ``home`` may have here at once."""
        hosted = self._queues.get(queue)
        if hosted is None or self._is_draining or not hosted.is_feasible:
            return 0
        homes = len(hosted.homes) + (home not in hosted.homes)
        limit = hosted.limit(self._limits)
        if hosted.own:
            return max(1, limit // (homes + 1)) if home in hosted.needy else 0
        others = hosted.visitors - len(hosted.homes.get(home, ()))
        if others >= OVERFLOW * limit:
            return 0
        return max(1, limit // homes, limit - others)

    def visitors(self, queue: int) -> int:
        """How many are here."""
        hosted = self._queues.get(queue)
        return 0 if hosted is None else hosted.visitors

    def _visitors_came(self, event: VisitorsCame) -> list[Command]:
        queue, home, keys, is_final, is_needy = event
        hosted = self._queues.setdefault(queue, _Hosted())
        (hosted.needy.add if is_needy else hosted.needy.discard)(home)
        if is_final:
            room = len(keys) if hosted.is_feasible else 0
        elif self._is_draining or not hosted.is_feasible:
            room = 0
        else:
            room = max(0, OVERFLOW * hosted.limit(self._limits) - hosted.visitors)
        accepted, back = keys[:room], keys[room:]
        if accepted:
            there = hosted.homes.setdefault(home, set())
            assert not there.intersection(accepted)
            there.update(accepted)
            hosted.left_at.pop(home, None)
            hosted.visitors += len(accepted)
        commands: list[Command] = []
        if accepted:
            commands.append(Accept(queue, home, accepted))
        if back:
            commands.append(SendBack(queue, home, back))
        return commands

    def _ended(self, now: float, hosted: _Hosted, home: str, keys: tuple[int, ...]) -> None:
        there = hosted.homes.get(home)
        if there is None:
            return
        before = len(there)
        there.difference_update(keys)
        hosted.visitors -= before - len(there)
        hosted.ended += before - len(there)
        if not there:
            hosted.left_at.setdefault(home, now)

    def _forget_homes(self, now: float, hosted: _Hosted) -> None:
        for home, since in list(hosted.left_at.items()):
            if now - since > HOME_KEPT_S:
                del hosted.left_at[home], hosted.homes[home]
                hosted.needy.discard(home)

    def validate(self) -> None:
        """Assert the invariants at the top of this module."""
        for queue, hosted in self._queues.items():
            assert hosted.visitors == sum(map(len, hosted.homes.values()))
            assert set(hosted.left_at) == {h for h, keys in hosted.homes.items() if not keys}
            for home in hosted.homes:
                assert self.window(queue, home) <= hosted.limit(self._limits)
