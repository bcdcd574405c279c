"""What a crew knows of one process and of one call, and how such a call ends.

Nothing here decides; ``crew`` does, and holds its lock whenever it changes these.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import shoal
from shoal import errors
from shoal._runtime.session import NATIVE_ERRORS
from shoal.util.crew_job import Job
from shoal.util.crew_member import BEGUN, BUSY, ROUND
from shoal.util.crew_thread import CrewThread


class Member:
    """What the crew knows of one process."""

    __slots__ = (
        "busy_ns",
        "dealt",
        "flights",
        "handle",
        "has_answered",
        "is_lost",
        "is_stuck",
        "known",
        "place",
        "round",
        "run",
        "since",
        "watched",
    )

    def __init__(self, handle: Any, place: Any) -> None:
        self.handle = handle
        self.run: Any = handle.run.remote
        self.place = place
        self.flights: deque[Flight] = deque()
        """In the order in which the process takes them."""
        self.dealt = 0
        self.round = 0
        self.known: set[int] = set()
        """Numbers of functions that it has, most likely."""
        self.busy_ns = 0
        """Of its word BUSY, when it was last read."""
        self.watched: Flight | None = None
        """The one whose end the thread is told."""
        self.since = 0.0
        """When something came of it, or it had nothing to do."""
        self.is_stuck = False
        """Its first flight takes long: it gets no others."""
        self.has_answered = False
        """It has started; until then one job is enough."""
        self.is_lost = False

    def may_have_more(self) -> bool:
        """Whether jobs may stand behind the one that it has."""
        return self.has_answered and not self.is_stuck

    def word(self, index: int) -> int:
        """A word of its place; 0 if it was told to leave, or its session has ended."""
        if self.place is None:
            return 0
        try:
            return int(self.place.load(index))
        except NATIVE_ERRORS:
            return 0

    def take_back(self, now: float) -> list[Flight]:
        """Nothing comes of it: what stands behind its present job is no longer its own."""
        self.since = now
        word = self.word(BEGUN)
        if word < self.flights[0].number:  # it has not even begun
            return []
        begun = word & (1 << ROUND) - 1
        if not self.place.compare_swap(BEGUN, word, self.round + 1 << ROUND | begun):
            return []  # it has begun the next one just now
        self.round += 1
        self.is_stuck = True
        back = [flight for flight in self.flights if flight.number > word]
        for flight in back:
            flight.is_over = True
            self.flights.pop()
        return back

    def busy_s(self) -> float:
        """Seconds that it has spent in jobs since this was asked."""
        before, self.busy_ns = self.busy_ns, self.word(BUSY)
        return max(0.0, (self.busy_ns - before) * 1e-9)

    def watch(self, flight: Flight, thread: CrewThread) -> None:
        """Have the thread told when ``flight`` has landed."""
        self.watched = flight
        thread.watch(flight.ref, flight)

    def middle(self) -> Flight | None:
        """About half of what it has is done when this is; None if the thread is told of one."""
        if self.is_watched():
            return None
        flights = [flight for flight in self.flights if not flight.is_apart]
        return flights[(len(flights) - 1) // 2] if flights else None

    def is_watched(self) -> bool:
        """Whether the thread will be told of one of its flights."""
        return self.watched is not None and not self.watched.is_over

    def release(self) -> None:
        """It is told to leave: what it has in the store goes, whoever still knows it."""
        self.handle = self.run = self.place = self.watched = None


class Flight:
    """A job on its way through a member."""

    __slots__ = ("is_apart", "is_over", "job", "member", "number", "ref")

    def __init__(self, job: Job, member: Member, number: int, ref: Any, is_apart: bool) -> None:
        self.job = job
        self.member = member
        self.number = number
        self.ref = ref
        self.is_apart = is_apart
        """Who made it waits for it; it is not the thread's."""
        self.is_over = False
        """It has landed, or was taken back, or is not wanted any more."""

    def is_there(self) -> bool:
        """Whether its outcome is there, or its session has ended."""
        try:
            return bool(self.ref.is_sealed() or self.ref.memory.is_closed)
        except NATIVE_ERRORS:
            return True


def kill(handle: Any) -> None:
    """End a process at once."""
    try:
        shoal.kill(handle)
    except errors.ShoalError:  # the session has ended: so has the member
        pass


def end(tell: Callable[[Any], None], what: Any) -> None:
    """Tell a job its end; what a callback of the user's raises must not end the crew."""
    try:
        tell(what)
    except Exception as error:  # a callback of the user's
        threading.excepthook(
            threading.ExceptHookArgs(
                (type(error), error, error.__traceback__, threading.current_thread())
            )
        )


def tell_failures(failures: deque[tuple[Job, BaseException]]) -> None:
    """Tell jobs that they failed; several threads may."""
    while failures:
        try:
            job, error = failures.popleft()
        except IndexError:  # another thread was quicker
            return
        end(job.failed, error)


def outcome(ref: Any) -> tuple[Any, BaseException | None]:
    """The answer of a call that has one, or why it has none."""
    try:
        return shoal.get(ref, timeout=0), None
    except Exception as problem:  # what can not travel or be loaded; a dead process
        return None, problem.with_traceback(None)  # no cycle with this frame


def is_outcome(problem: BaseException, ref: Any) -> bool:
    """Whether ``get`` of ``ref`` has raised what happened to it; else the wait was interrupted."""
    if isinstance(problem, errors.ShoalError):
        return True
    return isinstance(problem, Exception) and bool(ref.is_sealed())
