"""Workers that die before they have done anything, again and again.

Something outside of any task kills them: a broken installation, a hook, a limit. Nobody is charged
for such a death, no task can be blamed, and without a brake one would be replaced at once, for
ever, while a ``get`` waits in silence. So they are counted, in a row, for what they have in common:

* the *interpreter* (a string), if they died before they had an assignment;
* the *scheduling class* (its queue), if they served one and had not taken a task.

Each such death doubles a pause (``FIRST_PAUSE_S`` to ``MOST_PAUSE_S``) in which no fresh worker is
given to the class or started for the interpreter. After ``HOPELESS`` of them in a row, what waits
for such a worker is to be failed (``reactions_starts``); what is submitted later is tried again,
with the longest pause and one death. Any task taken, or for an interpreter any assignment given,
ends the row.

1. A row exists only after a death; classes that go on well cost nothing.
2. Only what begins is paused: workers that are at work go on, and so do other classes and actors.
"""

from __future__ import annotations

FIRST_PAUSE_S = 0.05
MOST_PAUSE_S = 5.0
HOPELESS = 5

Cause = int | str
"""A queue's number, or an interpreter."""


class Row:
    """Deaths one after the other."""

    __slots__ = ("count", "until")

    def __init__(self) -> None:
        self.count = 0
        self.until = 0.0


class CrashLoops:
    """Counts fruitless deaths and says who must wait."""

    def __init__(self) -> None:
        self._rows: dict[Cause, Row] = {}

    def died(self, now: float, cause: Cause) -> int:
        """One more died without having done anything; how many in a row."""
        row = self._rows.setdefault(cause, Row())
        row.count += 1
        pause = FIRST_PAUSE_S * 2.0 ** min(row.count - 1, 16)
        row.until = now + min(pause, MOST_PAUSE_S)
        return row.count

    def ended_well(self, cause: Cause) -> None:
        """There is life, or nobody cares any more."""
        self._rows.pop(cause, None)

    def is_paused(self, now: float, cause: Cause) -> bool:
        """Whether nothing may begin for ``cause`` now."""
        row = self._rows.get(cause)
        return row is not None and now < row.until

    def row(self, cause: Cause) -> Row | None:
        """What is counted for ``cause``, if anything is."""
        return self._rows.get(cause)

    def any(self) -> bool:
        """Whether any row is open."""
        return bool(self._rows)

    def next_deadline(self, now: float) -> float | None:
        """When the next pause is over."""
        times = [row.until for row in self._rows.values() if row.until > now]
        return min(times, default=None)

    def validate(self) -> None:
        """Assert the invariants."""
        assert all(row.count > 0 for row in self._rows.values())
