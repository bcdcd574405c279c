"""``cancel``, and its other end: how a process ends an attempt that it runs.

The daemon names an attempt and what it is to fail with (``CancelAttempt``, in the session thread).
Who runs it depends on how it runs::

    on the main thread   a signal, again and again until the attempt is over: its handler raises
                         ``Interrupted`` in user code, also out of ``time.sleep``; code that never
                         comes back to Python is ended with its process, by the daemon
    as a coroutine       whoever runs it has left word how to cancel it (``while_running``)
    any other call       ``get_runtime_context().is_canceled()`` says so, and that is all

1. The handler raises only if that very attempt is the innermost one, and only inside user code or
   where a stream waits or is resumed: never while a result is written (RULES Q-2).
2. However the code ends after that, the attempt fails with the record of the daemon; also if it
   ends between the daemon's mark and the message, with what a cancelled child gave it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any

from shoal import _native, errors
from shoal._native import ObjectRef
from shoal._proto import messages
from shoal._runtime import context, heavy_functions, standing, streams
from shoal._runtime import session as sessions
from shoal._runtime.client import Connection

SIGNAL = signal.SIGRTMIN + 5
"""Real-time signals have no other meaning, and nobody else uses this one."""
INSIST_S = 0.02
INSIST_MOST_S = 2.0
NEWS_WAIT_S = 1.0
"""How long the news of a mark is waited for: a daemon that is slower has said why it ends."""
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


class Interrupted(KeyboardInterrupt):
    """Raised in a task that was cancelled. ``except KeyboardInterrupt`` sees it, as in Ray."""


class Cancelling:
    """The attempts of this process that are to end."""

    def __init__(self) -> None:
        self._records = context.process.cancelled
        self._ways: dict[int, Callable[[], object]] = {}
        self._others: Callable[[int], None] | None = None
        self._run: CodeType | None = None
        self._main = 0
        self._told = threading.Condition()

    def serve(self, run: CodeType) -> None:
        """Interrupt tasks on this, the main, thread; ``run`` is what calls user code there."""
        self._run = run
        self._main = threading.get_ident()
        signal.signal(SIGNAL, self._signalled)

    def end_calls_by(self, way: Callable[[int], None]) -> None:
        """Have ``way(key)`` called, in another thread, for calls that left no word themselves."""
        self._others = way

    # ---- what an executor asks
    def record(self, task: _native.Task) -> bytes | None:
        """What ``task`` is to fail with; None if nobody wants it to end."""
        found = self._records.get(task.key)
        return found[1] if found is not None and found[0] == task.attempt else None

    def last_record(self, task: _native.Task) -> bytes | None:
        """As ``record``, for who is about to write the result.

        The daemon marks a task first, ends its children that wait, and tells its process last: a
        task that came out of waiting for a child is asked here before it was told.
        """
        ending = task.ending
        if ending is None:
            return None
        with self._told:
            if self._main:  # the news is under way, with more in it; nobody waits behind this
                self._told.wait_for(lambda: self.record(task) is not None, NEWS_WAIT_S)
            return self.record(task) or ending

    def forget(self, task: _native.Task) -> None:
        """The attempt is over."""
        self._records.pop(task.key, None)

    @property
    def interrupts(self) -> bool:
        """Whether tasks are interrupted on the main thread."""
        return self._main != 0

    @contextlib.contextmanager
    def while_running(self, task: _native.Task, way: Callable[[], object]) -> Iterator[None]:
        """Have ``way()`` called, in another thread, if ``task`` is cancelled meanwhile."""
        self._ways[task.key] = way
        try:
            if self.record(task) is not None:
                way()
            yield
        finally:
            self._ways.pop(task.key, None)

    # ---- what the session thread brings
    def receive(self, news: messages.Message) -> None:
        """Take news of the daemon."""
        if isinstance(news, messages.HeavyFunctions):
            heavy_functions.take_news(sessions.current(), news.functions)
        if isinstance(news, messages.RunWhereYouStand):
            standing.tell(news.keys)
        if not isinstance(news, messages.CancelAttempt):
            return
        memory = sessions.current().memory
        if not memory.is_running(news.key, news.attempt):
            return
        with self._told:
            self._records[news.key] = (news.attempt, news.record)
            self._told.notify_all()
        way = self._ways.get(news.key)
        if way is not None:
            way()
        elif self._others is not None:
            self._others(news.key)
        elif self._main:
            threading.Thread(target=self._insist, args=(memory, news), daemon=True).start()
        if not memory.is_running(news.key, news.attempt):
            self._records.pop(news.key, None)

    def _insist(self, memory: _native.Memory, news: messages.CancelAttempt) -> None:
        pause = threading.Event()
        for _ in range(int(INSIST_MOST_S / INSIST_S)):
            if not memory.is_running(news.key, news.attempt):
                break
            if memory.running == news.key:
                signal.pthread_kill(self._main, SIGNAL)
            pause.wait(INSIST_S)
        if not memory.is_running(news.key, news.attempt):
            self._records.pop(news.key, None)  # else whoever ends it reads it, however late

    # ---- in the main thread
    def _signalled(self, number: int, frame: FrameType | None) -> None:
        task = context.running.get()
        if task is None or self.record(task) is None or not self._is_user_code(frame):
            return
        memory = sessions.current().memory
        if memory.running == task.key and memory.is_running(task.key, task.attempt):
            raise Interrupted

    def _is_user_code(self, frame: FrameType | None) -> bool:
        """Whether an exception may come out of ``frame``: nothing of ours is half done there."""
        if frame is None or frame.f_code is Connection._send.__code__:
            return False
        chain = []
        while frame is not None and frame.f_code is not self._run:
            chain.append(frame.f_code)
            frame = frame.f_back
        if chain and chain[-1].co_filename == heavy_functions.__file__:
            chain.pop()  # it stands around the user's function, or waits for admission
        if frame is None or not chain:
            return False
        if not _is_ours(chain[-1]):
            return True
        produce = streams.produce.__code__
        if produce not in chain:
            return False
        below = chain.index(produce)
        return below == 0 or not _is_ours(chain[below - 1])


def _is_ours(code: CodeType) -> bool:
    return code.co_filename.startswith(_PACKAGE)


cancelling = Cancelling()


def cancel(
    ref: ObjectRef[Any] | streams.ObjectRefGenerator,
    *,
    force: bool = False,
    recursive: bool = True,
) -> None:
    """End the task that makes ``ref``, if it has not ended yet; ``get`` then raises.

    A task that waits never runs. One that runs is interrupted (a ``KeyboardInterrupt`` in its code,
    also in ``time.sleep``); if it runs on after 0.6 s its process is ended. A running call of an
    asyncio actor is cancelled; of another actor it only learns of it
    (``get_runtime_context().is_canceled()``): an actor is never ended for a call.

    Args:
        ref: What a call returned: a ref, or a generator of refs.
        force: End the process at once.
        recursive: Cancel the tasks that it has submitted, too.

    Raises:
        TypeError: ``ref`` is something else.
        OptionError: ``force`` for a call of an actor (a ``ValueError``): use ``kill``.

    Example:
        >>> @shoal.remote
        ... def slow():
        ...     import time
        ...     time.sleep(60)
        >>> ref = slow.remote()
        >>> shoal.cancel(ref)
        >>> try:
        ...     shoal.get(ref)
        ... except shoal.errors.TaskCancelledError:
        ...     print("cancelled")
        cancelled
    """
    if isinstance(ref, streams.ObjectRefGenerator):
        ref = ref.completed()
    if type(ref) is not ObjectRef:
        raise TypeError(f"cancel needs what a call returned, not a {type(ref).__name__}")
    try:
        state = ref.memory.task_state(ref.key)
    except sessions.NATIVE_ERRORS as error:
        raise sessions.translate(error, ref.memory) from None
    if state is None:
        return
    if force and state[3] & _native.FLAG_ACTOR:
        raise errors.OptionError(
            "cancel(force=True) is for tasks: it would end the actor with all its calls."
            " What to do: leave force out, or kill the actor"
        )
    body = messages.CancelTask(ref.key, bool(force), bool(recursive))
    sessions.current().request(body, messages.Done)
