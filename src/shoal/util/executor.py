"""``PoolExecutor``: a ``concurrent.futures.Executor`` on the processes of a session.

Its futures are those of the standard library, so ``concurrent.futures.wait``, ``as_completed``,
``asyncio.wrap_future`` and ``loop.run_in_executor`` take them. There is no thread per future:
the one thread of the crew (``shoal.util.crew``) sets them as outcomes come, and runs their
callbacks.

As with the standard library's executor of processes: a future is running, and can not be cancelled
any more, from the moment when its call was dealt to a process; an initializer that raises breaks
the executor. Unlike it: a process that dies fails what it had begun and is replaced, and ``map``
of an iterator without a length reads only a little ahead.
"""

from __future__ import annotations

import concurrent.futures
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any, ParamSpec, TypeVar

import shoal
from shoal import errors, lowlevel
from shoal._base import clock
from shoal.util.crew import BrokenCrewError, Crew, Job, WorkerLostError
from shoal.util.crew_member import STARMAP, Raised, Shipped
from shoal.util.crew_stream import NotThereError, Results, Stream

P = ParamSpec("P")
R = TypeVar("R")


class _Call(Job):
    """One submitted call."""

    def __init__(
        self, function: Shipped | BaseException, args: tuple[Any, ...], named: dict[str, Any]
    ) -> None:
        self.function = function
        self.items = args
        self.named = named
        self.future: Future[Any] = Future()

    def begins(self) -> bool:
        """Whether it was not cancelled; from here on it can not be."""
        # It may be dealt a second time, after a member that died before it had begun.
        return self.future.running() or self.future.set_running_or_notify_cancel()

    def ended(self, outcomes: list[Any]) -> None:
        """Set the future."""
        outcome = outcomes[0]
        if type(outcome) is Raised:
            self.future.set_exception(outcome.error())
        else:
            self.future.set_result(outcome)

    def failed(self, error: BaseException) -> None:
        """Set the future to ``error``."""
        self.future.set_exception(error)

    def cancel(self) -> None:
        """Nobody wants it."""
        self.future.cancel()


class PoolExecutor(concurrent.futures.Executor):
    """Processes that run submitted calls.

    Functions and arguments may be anything that travels: lambdas and functions of ``__main__``
    too. Processes are started as they are needed.

    Args:
        max_workers: How many processes; None: the CPUs of the session.
        initializer: Called once in each process, with ``initargs``.
        initargs: Its arguments.
        max_tasks_per_child: After so many calls a process is replaced; None: never.
        mp_context: Taken for programs that give it; there is one way to start processes.
        remote_args: Options of the processes: ``{"num_cpus": 1}`` has each hold a CPU.

    Raises:
        ValueError: ``max_workers`` or ``max_tasks_per_child`` is less than 1.
        OptionError: ``remote_args`` has an unknown or wrong option.

    Example:
        >>> from shoal.util.executor import PoolExecutor
        >>> with PoolExecutor() as executor:
        ...     future = executor.submit(pow, 2, 10)
        ...     future.result()
        1024
    """

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: Any = None,
        initializer: Callable[..., Any] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
        remote_args: Mapping[str, Any] | None = None,
    ) -> None:
        if max_workers is not None and max_workers <= 0:
            raise ValueError(f"max_workers must be greater than 0, not {max_workers}")
        if initializer is not None and not callable(initializer):
            raise TypeError(f"initializer must be callable, not {initializer!r}")
        if max_tasks_per_child is not None and not isinstance(max_tasks_per_child, int):
            raise TypeError(f"max_tasks_per_child must be an integer: {max_tasks_per_child!r}")
        if max_tasks_per_child is not None and max_tasks_per_child <= 0:
            raise ValueError(f"max_tasks_per_child must be at least 1, not {max_tasks_per_child}")
        size = max_workers or max(1, int(shoal.cluster_resources().get("CPU", 1)))
        self._crew = Crew(
            size, initializer, initargs, max_tasks_per_child, remote_args, is_lasting=True
        )
        self._streams: weakref.WeakSet[Stream] = weakref.WeakSet()

    def submit(  # type: ignore[override]
        self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[R]:
        """Have ``fn(*args, **kwargs)`` called in one of the processes.

        Raises:
            RuntimeError: after ``shutdown``.
            BrokenCrewError: no process can start (a ``BrokenProcessPool``).
        """
        crew = self._usable()
        call = _Call(crew.ship(fn), args, kwargs)
        crew.submit(call)
        return call.future

    def map(
        self,
        fn: Callable[..., R],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
    ) -> Iterator[R]:
        """Return an iterator of ``fn(*items)``, in order; its calls begin at once.

        Args:
            fn: What is called.
            iterables: As many as it has arguments; the shortest says when to end. If one has no
                length (a generator, ``itertools.count()``), they are read only a little ahead of
                who takes the results.
            timeout: Seconds from now within which all results must be there.
            chunksize: Items per job.

        Raises:
            ValueError: ``chunksize`` is less than 1.
            TimeoutError: raised by the iterator, which ends with it.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        crew = self._usable()
        deadline = None if timeout is None else clock.now() + timeout
        stream = Stream(crew, crew.ship(fn), STARMAP, True)
        self._streams.add(stream)
        if all(hasattr(items, "__len__") for items in iterables):
            stream.unlimit()
            stream.read(zip(*iterables), chunksize)
        else:
            stream.read_aside(zip(*iterables), chunksize)
        return _results(Results(stream), deadline)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; the processes leave when all are done.

        Args:
            wait: Return when they have left; else at once.
            cancel_futures: Cancel the calls that were not dealt to a process.
        """
        if cancel_futures:
            self._crew.cancel_waiting()
        self._crew.close()
        for stream in list(self._streams):
            stream.unlimit()
        if wait:
            self._crew.join()

    def kill_workers(self) -> None:
        """End the processes at once; calls that are not done raise ``TaskCancelledError``.

        The executor takes no more calls.
        """
        self._crew.cancel_waiting()
        self._crew.terminate()

    terminate_workers = kill_workers

    @property
    def is_broken(self) -> bool:
        """Whether no process can start."""
        return self._crew.broken is not None

    def _usable(self) -> Crew:
        broken = self._crew.broken
        if self._crew.is_closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if isinstance(broken, BrokenCrewError):
            raise BrokenCrewError(str(broken).partition("\n")[0]) from broken
        if broken is not None:
            raise broken
        return self._crew

    def __reduce__(self) -> Any:
        raise errors.NotSupportedError(
            "an executor belongs to the process that made it: make one inside the task instead"
        )


class ExecutorTimeoutError(lowlevel.Explained, TimeoutError):
    """The results of ``map`` were not there in time; ``why`` says what they waited for."""


def _results(results: Results, deadline: float | None) -> Iterator[Any]:
    """As the standard library's: the first exception ends it, and takes back what waits."""
    while True:
        try:
            left = None if deadline is None else max(0.0, deadline - clock.now())
            value = results.next(left)
        except NotThereError:
            late = ExecutorTimeoutError("map was not done in time")
            raise lowlevel.explained(late, is_patient=bool(left)) from None
        except StopIteration:
            return
        yield value


__all__ = ["BrokenCrewError", "PoolExecutor", "WorkerLostError"]
