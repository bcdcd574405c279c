"""A crew: processes that share a line of jobs. What pools, executors and joblib are made of.

::

    submit(job) --> waiting --> a member's flights --> its process
                       ^                |                  |
       deals the next, |  taken back    |                  | the outcome's ref is ready
       and looks       '----------------'-- the thread <---'

Who submits deals at once if somebody may have more; else the thread of the crew does, as outcomes
come. It hands them to their jobs too, so callbacks run in it. It lives while there is something to
do, and a little longer. A synchronous call whose member is idle needs no thread at all (``run``).

Dealing is dynamic: a job waits here until somebody is free for it. Somebody who does short jobs has
many at a time, so that no process waits for the way from here; how many is learned. Of those the
thread is told of one in the middle only, and then takes all that are ready. What stands behind a
job that turns out to be long (nothing came for ``STUCK_S``) is taken back and goes to others.

Invariants:

1. A job ends once: with outcomes, or with an error. It is run by at most one process: dealt again
   is only what its dead member had not begun, and what was taken back before it had begun (the swap
   in its place decides, see ``crew_member``).
2. A member that dies is replaced. Members that die again and again before they have done anything,
   and an initializer that raises, break the crew: every job, waiting and later, fails with it.
3. The crew ends when it is closed, nothing is left to do and nobody feeds it any more; its members
   have left when ``join`` returns.
4. Jobs are told their end (``ended``, ``failed``) without the lock: they run code of the user's.
5. If a member has flights, the thread is told of one of them. If it has several, the thread looks
   at it every ``STUCK_S``, unless it is known to be stuck; then it is told of the first.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import shoal
from shoal import errors, lowlevel
from shoal._base import clock
from shoal.util.crew_flight import (
    Flight,
    Member,
    end,
    is_outcome,
    kill,
    outcome,
    tell_failures,
)
from shoal.util.crew_job import (
    BrokenCrewError,
    Failure,
    Functions,
    Job,
    WorkerLostError,
    broken,
    worker_lost,
)
from shoal.util.crew_member import (
    GOES_ON,
    LISTED,
    PLACE_BYTES,
    ROUND,
    CrewMember,
    Cut,
    NotBegun,
    Raised,
    Shipped,
)
from shoal.util.crew_pace import Pace
from shoal.util.crew_thread import CrewThread

STUCK_S = 0.002
"""What stands behind a job is taken back if nothing has come of its member for so long."""

MOST_FLAT = 100
"""So many items travel one by one; more are one list."""

DEATHS = 3
"""So many members per place, in a row, that died before they had done anything break the crew."""

_FINAL = ("constructor", "unschedulable", "arguments_lost", "group_removed", "job_ended")
"""Why an actor can not live that would end the next one too."""


_crew_member: Any = shoal.remote(CrewMember)

Told = deque[tuple[Callable[[Any], None], Any]]
"""Ends of jobs, to be told without the lock."""


class Crew:
    """Processes that share a line of jobs.

    Args:
        size: How many.
        initializer: Called once in each, with ``initargs``.
        initargs: Its arguments.
        jobs_each: After so many jobs a process is replaced; None: never.
        options: Options of the actors (``num_cpus``, ``runtime_env``, ...).
        is_lasting: Whether the interpreter waits at its end until all jobs are done.
    """

    def __init__(
        self,
        size: int,
        initializer: Callable[..., Any] | None = None,
        initargs: tuple[Any, ...] = (),
        jobs_each: int | None = None,
        options: Mapping[str, Any] | None = None,
        is_lasting: bool = False,
    ) -> None:
        self.size = size
        self.broken: BaseException | None = None
        self.is_closed = False
        self._class = _crew_member.options(**options) if options else _crew_member
        self._initializer = (initializer, tuple(initargs))
        self._jobs_each = jobs_each
        self._lock = threading.RLock()
        self._waiting: deque[Job] = deque()
        self._members: list[Member] = []
        self._flying = 0
        """Flights of all members, and of those that were told to leave."""
        self._leaving: set[Any] = set()
        """Refs of the ends of members that were told to leave."""
        self._failures: deque[tuple[Job, BaseException]] = deque()
        """Jobs that could not be dealt: told so by whoever lets go of the lock."""
        self._retiring: set[Member] = set()
        """Members that have flights and get no more: they have done enough, or have died."""
        self._crowded: set[Member] = set()
        """Members that have several flights and are not stuck."""
        self._feeds = 0
        """Who may still submit although the crew is closed."""
        self._deaths = 0
        self._pace = Pace(jobs_each is None)
        self._is_landing = False
        """The thread deals, and chooses afterwards what it wants to be told of."""
        self._functions = Functions()
        self.ship = self._functions.ship
        self._over = threading.Event()
        self._thread = CrewThread(self._land, is_lasting)

    # ---- from any thread
    def submit(self, job: Job) -> None:
        """Have a job done.

        Raises:
            ForkedProcessError: this process was forked from the one that made the crew.
        """
        self._thread.check_process()
        with self._lock:
            self._waiting.append(job)
            # If others wait already, nobody may have more.
            if len(self._waiting) == 1 or not self._flying:
                self._deal()
        if self._failures:
            tell_failures(self._failures)

    def run(self, job: Job) -> None:
        """Do a job now, and return when it has ended; without a thread, if a member is idle.

        Where none is, the job is submitted, and this returns at once.
        """
        self._thread.check_process()
        member = flight = None
        with self._lock:
            if not self._waiting and self.broken is None:
                member = self._who_is_free(1)
            if member is not None:
                flight = self._send(member, job, is_apart=True)
        if member is None:
            self.submit(job)
        elif flight is not None:
            self._land_apart(flight)
        if self._failures:
            tell_failures(self._failures)

    def _land_apart(self, flight: Flight) -> None:
        answer = error = None
        try:
            answer = shoal.get(flight.ref)
        except BaseException as problem:  # its outcome, or an interrupt: then the thread goes on
            if not is_outcome(problem, flight.ref):
                with self._lock:
                    flight.is_apart = False
                    flight.member.watch(flight, self._thread)
                raise
            error = problem.with_traceback(None)
        tell: Told = deque()
        with self._lock:
            if not flight.is_over:  # else: terminated meanwhile
                self._landed(flight, answer, error, tell)
                if error is None:
                    self._pace.learn(flight.member.busy_s(), 1)
                if self._waiting:
                    self._deal()
                if self.is_closed:
                    self._end_if_done()
        while tell:
            end(*tell.popleft())

    def start(self) -> None:
        """Make all processes now, not one by one as they are needed."""
        with self._lock:
            while len(self._members) < self.size and self.broken is None:
                self._hire()

    def feed(self, by: int) -> None:
        """One more (1) or one less (-1) who submits, also after ``close``."""
        with self._lock:
            self._feeds += by
            self._end_if_done()

    def close(self) -> None:
        """No more jobs: the processes leave when all are done."""
        with self._lock:
            self.is_closed = True
            self._end_if_done()

    def cancel_waiting(self) -> None:
        """Tell all jobs that wait that nobody wants them."""
        with self._lock:
            jobs = list(self._waiting)
            self._waiting.clear()
        for job in jobs:
            job.cancel()

    def terminate(self) -> None:
        """End all processes at once; what is not done fails."""
        error = errors.TaskCancelledError("the pool was terminated before this was done")
        with self._lock:
            self.is_closed = True
            self.broken = self.broken or error
            for member in [*self._members, *self._retiring]:
                kill(member.handle)
                for flight in member.flights:
                    flight.is_over = True
                    self._failures.append((flight.job, error))
                member.flights.clear()
                member.release()
            self._flying = 0
            self._members.clear()
            self._retiring.clear()
            self._crowded.clear()
            self._fail_waiting(error)
            self._end_if_done()
        tell_failures(self._failures)

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the crew has ended; whether it has."""
        if self._thread.is_this():  # a callback: it would wait for itself
            return self._over.is_set()
        with lowlevel.waiting():
            return self._over.wait(timeout)

    def window(self) -> int:
        """How many jobs somebody who reads a long input should have given and not got back."""
        return self.size * max(4, 2 * self._pace.ahead)

    # ---- with the lock: dealing
    def _deal(self) -> None:
        if self.broken is not None:
            self._fail_waiting(self.broken)
        waiting = self._waiting
        while waiting:
            member = self._who_is_free(self._pace.ahead)
            if member is None:
                return
            job = waiting.popleft()
            if job.begins():
                flight = self._send(member, job)
                if flight is not None and not member.is_watched() and not self._is_landing:
                    member.watch(flight, self._thread)

    def _who_is_free(self, ahead: int) -> Member | None:
        """The member with the least to do, if it may have more; a new one before two for one."""
        best = None
        least = ahead
        for member in self._members:
            has = len(member.flights)
            if has < least and (has == 0 or member.may_have_more()):
                best, least = member, has
                if has == 0:
                    return best
        if len(self._members) < self.size:
            return self._hire()
        return best

    def _send(self, member: Member, job: Job, is_apart: bool = False) -> Flight | None:
        """Call the member; None if that failed, and the job with it."""
        function = job.function
        items = job.items
        number = member.round << ROUND | member.dealt + 1
        how = job.how | GOES_ON if job.goes_on else job.how
        began = clock.now()
        try:
            what: Any = function
            if type(function) is Shipped:
                if function.number in member.known:
                    what = function.number
            elif isinstance(function, BaseException):
                raise function
            if job.named or len(items) > MOST_FLAT or shoal.ObjectRef in map(type, items):
                ref = member.run(number, how | LISTED, what, [items, job.named])
            else:
                ref = member.run(number, how, what, *items)
        except Exception as error:  # an item that can not travel, no room, no session
            self._fail(job, error.with_traceback(None))
            return None
        now = clock.now()
        self._pace.sent(now - began)
        if what is function and type(function) is Shipped:
            member.known.add(function.number)
        flight = Flight(job, member, number, ref, is_apart)
        flights = member.flights
        flights.append(flight)
        self._flying += 1
        member.dealt += 1
        if len(flights) == 1:
            member.since = now
        elif len(flights) == 2:
            self._crowded.add(member)
            self._thread.hurry()
        if member.dealt == self._jobs_each:
            self._members.remove(member)
            self._retiring.add(member)
        return flight

    def _hire(self) -> Member | None:
        try:
            place = lowlevel.shared_block(PLACE_BYTES)
            member = Member(self._class.remote(place, *self._initializer), place)
        except errors.ShoalError as error:
            self._break(error)
            self._fail_waiting(self.broken or error)
            return None
        self._members.append(member)
        return member

    # ---- outcomes
    def _land(self, words: list[Any]) -> None:
        """Outcomes are there, or it is time to look: deal what comes next, then tell the jobs."""
        with self._lock:
            self._leaving.difference_update(words)
            ready = self._ready({word.member for word in words if type(word) is Flight})
        tell: Told = deque()
        self._settle([(flight, *outcome(flight.ref)) for flight in ready], tell)
        ready.clear()  # who is told may look whether what it gave has gone
        while tell:
            end(*tell.popleft())
        if self._failures:
            tell_failures(self._failures)

    def _settle(self, landed: list[tuple[Flight, Any, BaseException | None]], tell: Told) -> None:
        counts: dict[Member, int] = {}
        with self._lock:
            for flight, answer, error in landed:
                if not flight.is_over:  # else: terminated meanwhile
                    self._landed(flight, answer, error, tell)
                    if error is None:
                        counts[flight.member] = counts.get(flight.member, 0) + 1
            for member, count in counts.items():
                self._pace.learn(member.busy_s(), count)
            self._is_landing = True
            try:
                self._deal()
            finally:
                self._is_landing = False
            for member in [*self._members, *self._retiring]:
                if (middle := member.middle()) is not None:
                    member.watch(middle, self._thread)
            self._thread.is_hasty = bool(self._crowded)
            self._end_if_done()

    def _ready(self, members: set[Member]) -> list[Flight]:
        """What has landed of ``members``, and of those that it is time to look at."""
        now = clock.now()
        overdue = [m for m in self._crowded if m not in members and now - m.since >= STUCK_S]
        ready: list[Flight] = []
        for member in (*members, *overdue):
            before = len(ready)
            for flight in member.flights:
                if not flight.is_apart:
                    if not flight.is_there():
                        break
                    ready.append(flight)
            if len(ready) > before:
                member.since = now
            elif member in overdue:
                back = member.take_back(now)
                if member.is_stuck:
                    self._crowded.discard(member)
                    self._flying -= len(back)
                    self._waiting.extendleft(flight.job for flight in reversed(back))
                    first = member.flights[0]
                    if not first.is_apart and member.watched is not first:
                        member.watch(first, self._thread)
        return ready

    def _landed(self, flight: Flight, answer: Any, error: BaseException | None, tell: Told) -> None:
        member, job = flight.member, flight.job
        flight.is_over = True
        flights = member.flights
        if flights[0] is flight:
            flights.popleft()
        else:
            flights.remove(flight)
        self._flying -= 1
        member.is_stuck = False
        if member.watched is flight:
            member.watched = None
        if len(flights) < 2:
            self._crowded.discard(member)
        if error is None:
            member.has_answered = True
            self._deaths = 0
            kind = type(answer)
            if kind is NotBegun:  # it does not know the function
                member.known.clear()
                self._waiting.appendleft(job)
            else:
                if kind is Cut:
                    answer = answer.outcomes
                tell.append((job.ended, answer if type(answer) is list else [answer]))
                job.items = ()
        elif isinstance(error, errors.ActorError):
            self._lost(flight, error)
        else:
            self._fail(job, error)
        if not flights and member in self._retiring:
            self._retiring.remove(member)
            if not member.is_lost:
                self._dismiss(member)
                if not self.is_closed:
                    self.start()

    def _lost(self, flight: Flight, error: errors.ActorError) -> None:
        """The process of a member has died: this call was running, or waited for it."""
        member, job = flight.member, flight.job
        if not member.is_lost:
            member.is_lost = True
            if member in self._members:
                self._deaths += 1
                self._members.remove(member)
                if member.flights:
                    self._retiring.add(member)
        if error.may_have_run:
            self._deaths = 0
        if error.reason in _FINAL or self._deaths >= DEATHS * self.size:
            self._failures.append((job, self._break(error)))
        elif self.broken is not None:  # it was ended with the others
            self._failures.append((job, self.broken))
        elif error.reason == "crashed" and not error.may_have_run:
            self._waiting.appendleft(job)
        else:
            self._failures.append((job, worker_lost(error)))

    def _break(self, error: BaseException) -> BaseException:
        if self.broken is None:
            self.broken = broken(error)
        for member in self._members:
            kill(member.handle)
        self._retiring.update(member for member in self._members if member.flights)
        self._members.clear()
        return self.broken

    # ---- ends
    def _fail(self, job: Job, error: BaseException) -> None:
        if isinstance(error, errors.SessionEndedError | errors.SessionLostError):
            self.broken = self.broken or error
        self._failures.append((job, error))

    def _fail_waiting(self, error: BaseException) -> None:
        self._failures += [(job, error) for job in self._waiting if job.begins()]
        self._waiting.clear()

    def _dismiss(self, member: Member) -> None:
        """Have a member leave by itself, with its ``atexit``; ``join`` waits for it."""
        try:
            ref = member.handle.__ray_terminate__.remote()
        except errors.ShoalError:  # the session has ended: so has the member
            return
        finally:
            member.release()
        self._leaving.add(ref)
        self._thread.watch(ref, ref)

    def _end_if_done(self) -> None:
        if not self.is_closed or self._waiting or self._flying:
            return
        if self._feeds and self.broken is None:
            return
        members, self._members = self._members, []
        for member in members:
            self._dismiss(member)
        if not self._leaving:
            self._functions.clear()
            self._over.set()


__all__ = ["BrokenCrewError", "Crew", "Failure", "Job", "Raised", "WorkerLostError"]
