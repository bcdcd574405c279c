"""A crew: processes that share a line of jobs. What pools, executors and joblib are made of.

::

    submit(job) --> waiting --> a member's queue --> its process
                       ^                                |
       deals the next  |                                | the outcome's ref is ready
                       '----- thread of the crew <------'

Who submits deals at once if somebody is free; else the thread does, as outcomes come. It hands
them to their jobs too, so callbacks run in it. It lives while there is something to do, and a
little longer. A synchronous call whose member is idle needs no thread at all (``run``).

Dealing is dynamic: a job waits here until somebody is free for it. Somebody who does short jobs has
more than one at a time, so that no process waits for the way from here; how many is learned, and
the last jobs of a line are dealt one by one, so that all finish together.

Invariants:

1. A job ends once: with outcomes, or with an error. It is run by at most one process: only a job
   that its dead member had not begun is dealt again.
2. A member that dies is replaced. Members that die again and again before they have done anything,
   and an initializer that raises, break the crew: every job, waiting and later, fails with it.
3. The crew ends when it is closed, nothing is left to do and nobody feeds it any more; its members
   have left when ``join`` returns.
4. Jobs are told their end (``ended``, ``failed``) without the lock: they run code of the user's.
"""

from __future__ import annotations

import contextlib
import threading
import types
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import shoal
from shoal import errors, lowlevel
from shoal.util.crew_member import CALL, CrewMember, Raised, Shipped
from shoal.util.crew_thread import CrewThread

AHEAD_S = 0.001
"""Short jobs are dealt so far ahead."""

MOST_AHEAD = 64
LONG_JOB_S = 0.005
"""Jobs as long as this are dealt one at a time: the way from here is a hundredth of it, and nothing
must wait behind a job that turns out to be longer."""

DEATHS = 3
"""So many members per place, in a row, that died before they had done anything break the crew."""

_FINAL = ("constructor", "unschedulable", "arguments_lost", "group_removed", "job_ended")
"""Why an actor can not live that would end the next one too."""

MOST_SHIPPED = 64
"""Functions that a crew remembers to have put into the store."""


class WorkerLostError(errors.WorkerCrashedError, BrokenProcessPool):
    """The process died that did this item; the pool has another one by now.

    It is a ``BrokenProcessPool`` for programs that catch one. Nothing else is broken.
    """

    advice = (
        "read its last lines above; the item may have taken effect in part. Submit it again if it"
        " may run twice."
    )


class BrokenCrewError(errors.LostError, BrokenProcessPool):
    """No process of the pool can start; what waits and what comes fails with this."""

    advice = "repair the initializer (or what it needs), and make a new pool."


class Job:
    """One piece of work: a function and the items that it is called with, one after the other."""

    how = CALL
    goes_on = False
    """Whether items after one that raised are done too."""

    def __init__(self, function: Shipped | BaseException, items: list[Any]) -> None:
        self.function = function
        self.items = items

    def begins(self) -> bool:
        """It is dealt now; False if nobody wants it any more."""
        return True

    def ended(self, outcomes: list[Any]) -> None:
        """Its outcomes are there: a value or a ``Raised`` each, up to the one that stopped it."""

    def failed(self, error: BaseException) -> None:
        """None of its outcomes will come."""

    def cancel(self) -> None:
        """Nobody wants it; it has not begun, and will not."""
        self.failed(errors.TaskCancelledError("it was cancelled before it had begun"))


class Failure:
    """An item whose outcome will not come, where outcomes stand in a list."""

    __slots__ = ("_error",)

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def error(self) -> BaseException:
        """Why."""
        return self._error


class Member:
    """What the crew knows of one process."""

    __slots__ = ("dealt", "flights", "handle", "run")

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.run: Callable[..., Any] = handle.run.remote
        self.flights = 0
        self.dealt = 0


class Flight:
    """A job on its way through a member."""

    __slots__ = ("job", "member", "ref")

    def __init__(self, job: Job, member: Member, ref: Any) -> None:
        self.job = job
        self.member = member
        self.ref = ref


_crew_member: Any = shoal.remote(CrewMember)


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
        self._flights: set[Flight] = set()
        self._leaving: set[Any] = set()
        """Refs of the ends of members that were told to leave."""
        self._failures: list[tuple[Job, BaseException]] = []
        """Jobs that could not be dealt: told so by whoever lets go of the lock."""
        self._feeds = 0
        """Who may still submit although the crew is closed."""
        self._deaths = 0
        self._job_s: float | None = None
        """What a job takes, lately."""
        self._shipped: dict[Callable[..., Any], Shipped] = {}
        self._over = threading.Event()
        self._thread = CrewThread(self._land, is_lasting)

    # ---- from any thread
    def ship(self, function: Callable[..., Any]) -> Shipped | BaseException:
        """Put a function into the store, once; the error if it can not travel."""
        is_constant = _is_constant(function)
        found = self._shipped.get(function) if is_constant else None
        if found is not None:
            return found
        try:
            shipped = Shipped(shoal.put(function))
        except errors.SerializationError as error:
            return error
        if is_constant:
            if len(self._shipped) >= MOST_SHIPPED:
                self._shipped.clear()
            self._shipped[function] = shipped
        return shipped

    def submit(self, job: Job) -> None:
        """Have a job done.

        Raises:
            ForkedProcessError: this process was forked from the one that made the crew.
        """
        self._thread.check_process()
        with self._lock:
            self._waiting.append(job)
            if len(self._waiting) == 1 or not self._flights:
                self._deal()
        self._tell_failures()

    def run(self, job: Job) -> None:
        """Do a job now, and return when it has ended: without a thread, if a member is idle."""
        self._thread.check_process()
        flight = None
        with self._lock:
            if not self._waiting and self.broken is None:
                member = self._who_is_free(1)
                if member is not None:
                    flight = self._send(member, job)
        self._tell_failures()
        if flight is None:
            if not isinstance(job.function, BaseException):
                self.submit(job)
            return
        try:
            shoal.wait([flight.ref])
        except BaseException:  # an interrupt: the thread goes on with it
            self._thread.watch(flight.ref, flight)
            raise
        self._land([flight])

    def start(self) -> None:
        """Make all processes now, not one by one as they are needed."""
        with self._lock:
            while len(self._members) < self.size and self.broken is None:
                self._hire()

    @contextlib.contextmanager
    def fed(self) -> Iterator[None]:
        """Somebody will submit meanwhile, also after ``close``."""
        with self._lock:
            self._feeds += 1
        try:
            yield
        finally:
            with self._lock:
                self._feeds -= 1
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
            flights, self._flights = self._flights, set()
            for handle in {m.handle for m in self._members} | {f.member.handle for f in flights}:
                _kill(handle)
            self._members.clear()
            self._failures += [(flight.job, error) for flight in flights]
            self._fail_waiting(error)
            self._end_if_done()
        self._tell_failures()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the crew has ended; whether it has."""
        if self._thread.is_this():  # a callback: it would wait for itself
            return self._over.is_set()
        with lowlevel.waiting():
            return self._over.wait(timeout)

    def window(self) -> int:
        """How many jobs somebody who reads a long input should have given and not got back."""
        return self.size * max(4, 2 * self._ahead())

    # ---- with the lock: dealing
    def _deal(self) -> None:
        if self.broken is not None:
            self._fail_waiting(self.broken)
        waiting = self._waiting
        ahead = self._ahead()
        while waiting:
            member = self._who_is_free(min(ahead, 1 + len(waiting) // self.size))
            if member is None:
                return
            job = waiting.popleft()
            if job.begins():
                flight = self._send(member, job)
                if flight is not None:
                    self._thread.watch(flight.ref, flight)

    def _who_is_free(self, ahead: int) -> Member | None:
        """The member with the least to do, if it may have more; a new one before two for one."""
        best = None
        least = ahead
        for member in self._members:
            if member.flights < least:
                best, least = member, member.flights
                if least == 0:
                    return best
        if len(self._members) < self.size:
            return self._hire()
        return best

    def _ahead(self) -> int:
        job_s = self._job_s
        if job_s is None or job_s >= LONG_JOB_S:
            return 1
        return max(2, min(MOST_AHEAD, int(AHEAD_S / (job_s + 1e-9))))

    def _send(self, member: Member, job: Job) -> Flight | None:
        """Call the member; None if that failed, and the job with it."""
        function = job.function
        try:
            if isinstance(function, BaseException):
                raise function
            flight = Flight(job, member, member.run(job.how, job.goes_on, function, job.items))
        except Exception as error:  # an item that can not travel, no room, no session
            self._fail(job, error.with_traceback(None))
            return None
        self._flights.add(flight)
        member.flights += 1
        member.dealt += 1
        if member.dealt == self._jobs_each:
            self._members.remove(member)
        return flight

    def _hire(self) -> Member | None:
        try:
            member = Member(self._class.remote(*self._initializer))
        except errors.ShoalError as error:
            self._break(error)
            self._fail_waiting(self.broken or error)
            return None
        self._members.append(member)
        return member

    # ---- outcomes
    def _land(self, words: list[Any]) -> None:
        """Outcomes are there: deal what comes next, then tell the jobs."""
        landed: list[tuple[Flight, Any, BaseException | None]] = []
        for word in words:
            if type(word) is Flight:
                try:
                    landed.append((word, shoal.get(word.ref, timeout=0), None))
                except Exception as problem:  # what can not travel or be loaded; a dead process
                    landed.append(
                        (word, None, problem.with_traceback(None))
                    )  # no cycle with this frame
        tell: list[tuple[Callable[[Any], None], Any]] = []
        with self._lock:
            self._leaving.difference_update(words)
            for flight, answer, error in landed:
                if flight in self._flights:  # else: terminated meanwhile
                    self._flights.remove(flight)
                    self._landed(flight, answer, error, tell)
            self._deal()
            self._end_if_done()
        for callback, what in tell:
            _end(callback, what)
        self._tell_failures()

    def _landed(
        self, flight: Flight, answer: Any, error: BaseException | None, tell: list[Any]
    ) -> None:
        member, job = flight.member, flight.job
        member.flights -= 1
        if error is None:
            seconds, outcomes = answer
            self._deaths = 0
            known = self._job_s
            self._job_s = seconds if known is None else known + (seconds - known) / 8
            tell.append((job.ended, outcomes))
        elif isinstance(error, errors.ActorError):
            self._lost(flight, error)
            return
        else:
            self._fail(job, error)
        if member.flights == 0 and member.dealt == self._jobs_each:
            self._dismiss(member)
            if not self.is_closed:
                self.start()

    def _lost(self, flight: Flight, error: errors.ActorError) -> None:
        """The process of a member has died: this call was running, or waited for it."""
        member, job = flight.member, flight.job
        if member in self._members:
            self._members.remove(member)
            self._deaths += 1
        if error.may_have_run:
            self._deaths = 0
        if error.reason in _FINAL or self._deaths >= DEATHS * self.size:
            self._failures.append((job, self._break(error)))
        elif error.reason == "crashed" and not error.may_have_run:
            self._waiting.appendleft(job)
        else:
            self._failures.append((job, _worker_lost(error)))

    def _break(self, error: BaseException) -> BaseException:
        if self.broken is None:
            why = getattr(error, "cause", None)
            text = f"no process of the pool can start: {error.__class__.__name__}: {error}"
            if why is not None:
                text = f"the initializer of the pool raised {type(why).__name__}: {why}"
            self.broken = BrokenCrewError(text)
            self.broken.__cause__ = why or error
        for member in self._members:
            _kill(member.handle)
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

    def _tell_failures(self) -> None:
        """Without the lock: tell jobs that they failed."""
        while self._failures:
            try:
                job, error = self._failures.pop(0)
            except IndexError:  # another thread was quicker
                return
            _end(job.failed, error)

    def _dismiss(self, member: Member) -> None:
        """Have a member leave by itself, with its ``atexit``; ``join`` waits for it."""
        try:
            ref = member.handle.__ray_terminate__.remote()
        except errors.ShoalError:  # the session has ended: so has the member
            return
        self._leaving.add(ref)
        self._thread.watch(ref, ref)

    def _end_if_done(self) -> None:
        if not self.is_closed or self._waiting or self._flights:
            return
        if self._feeds and self.broken is None:
            return
        members, self._members = self._members, []
        for member in members:
            self._dismiss(member)
        if not self._leaving:
            self._shipped.clear()
            self._over.set()


def _kill(handle: Any) -> None:
    try:
        shoal.kill(handle)
    except errors.ShoalError:  # the session has ended: so has the member
        pass


def _end(tell: Callable[[Any], None], what: Any) -> None:
    """Tell a job its end; what a callback of the user's raises must not end the crew."""
    try:
        tell(what)
    except Exception as error:  # a callback of the user's
        threading.excepthook(
            threading.ExceptHookArgs(
                (type(error), error, error.__traceback__, threading.current_thread())
            )
        )


def _worker_lost(error: errors.ActorError) -> WorkerLostError:
    facts = {name: getattr(error, name) for name in ("pid", "node", "exit_code", "signal")}
    lost = WorkerLostError(task="an item of a pool", stderr=error.stderr, **facts)
    lost.__cause__ = error
    return lost


def _is_constant(function: Any) -> bool:
    """Whether what ``function`` means can not change between two calls of the pool."""
    if isinstance(function, types.FunctionType):
        return function.__closure__ is None
    if isinstance(function, types.BuiltinFunctionType):
        return isinstance(function.__self__, types.ModuleType | None)
    return isinstance(function, type)


__all__ = ["BrokenCrewError", "Crew", "Failure", "Job", "Raised", "WorkerLostError"]
