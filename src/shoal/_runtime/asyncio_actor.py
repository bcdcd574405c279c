"""Asyncio actors: calls are coroutines on one event loop, thousands at once (RULES A-7 to A-9).

::

    queues --feeder thread--> arguments loaded --inbox--> loop: one asyncio task per call

The loop runs on the main thread (signal handlers and ``asyncio.create_subprocess_exec`` work as in
a program of its own), and so does the constructor, on the running loop. The feeder loads arguments
and hands over what it has in batches: it calls ``call_soon_threadsafe`` only when the loop is not
about to look at the inbox anyway. Plain methods run on the loop, as people know it; with
``@method(thread=True)``, or the class option, in threads.

Each call runs in a copy of the context whose ``context.running`` is that call, so that what it
submits, awaits or logs is known to be its own.

Invariants:

1. ``_is_told`` is True from a hand-over until the loop has found the inbox empty, after the first
   steps of the calls that were in it: a feeder that sees it for long knows that the loop is
   blocked.
2. ``calls`` has exactly the calls whose asyncio tasks have not ended; only the loop changes it.
3. A call ends by sealing, whatever ended it; the loop itself ends when the feeder has returned and
   no call is left.
"""

from __future__ import annotations

import asyncio
import inspect
import linecache
import selectors
import sys
import threading
from collections import deque
from collections.abc import Callable
from types import CoroutineType, FrameType
from typing import Any

from shoal import _native
from shoal._proto import messages
from shoal._runtime import context
from shoal._runtime.cancelling import cancelling
from shoal._runtime.execute import Executor, is_ours
from shoal._runtime.side_by_side import Feeder, Group, Threads

BLOCKED_S = 0.1
"""A loop that is stopped for so long is named."""

FAREWELL_S = 5.0
"""How long tasks that the actor has begun itself may take to end after their cancellation."""

_set_running = context.running.set

Call = tuple[_native.Task, Any, Any, Group]
"""Attempt, positional arguments, named ones, group."""


class LoopRunner:
    """Runs the calls of one asyncio actor."""

    def __init__(self, executor: Executor, info: messages.ActorInfo) -> None:
        self._executor = executor
        self._feeder = Feeder(executor, info)
        executor.wake = self._feeder.wake
        self._groups = self._feeder.by_queue
        self._inbox: deque[Call] = deque()
        self._is_told = False
        self._beats = 0
        """How often the loop has looked into the inbox."""
        self._seen = (-1, 0)
        """Beats and frame at the last look at a loop that had been told and did not come."""
        self._has_warned = False
        self._is_leaving = False
        self._is_waking = False
        self.calls: dict[int, asyncio.Task[None]] = {}
        """What runs on the loop, by key."""
        self._threads: dict[int, Threads] = {}
        self._in_thread: list[bool] = []

    # ---- the loop's thread
    def serve(self, info: messages.ActorInfo) -> None:
        """Construct the actor and run its calls until this process may leave."""
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        self._loop = loop
        if loop.run_until_complete(self._begin(info)):
            feeder = threading.Thread(target=self._feed, name="shoal-feeder", daemon=True)
            feeder.start()
            loop.run_forever()
            feeder.join()
        self._say_farewell()

    async def _begin(self, info: messages.ActorInfo) -> bool:
        if not self._executor.become_actor(info):
            return False
        handle = context.process.actor
        assert handle is not None
        rows = handle._facts.methods
        everywhere = info.spec.runs_in_threads
        for row, call in zip(rows, self._executor.methods):
            is_plain = not (inspect.iscoroutinefunction(call) or inspect.isasyncgenfunction(call))
            wants = row.thread if row.thread is not None else everywhere
            # A plain generator would block the loop while its consumer is slow.
            self._in_thread.append(is_plain and (wants or inspect.isgeneratorfunction(call)))
        self._executor.from_outside = self._from_outside
        return True

    def _from_outside(self, method: int) -> Callable[..., Any]:
        """A method for threads of others: on the loop, unless calls of it run in threads."""
        call = self._executor.methods[method]
        if self._in_thread[method]:
            return call

        async def run(args: Any, kwargs: Any, task: Any) -> Any:
            _set_running(task)
            value = call(*args, **kwargs)
            return await value if type(value) is CoroutineType else value

        def on_loop(*args: Any, **kwargs: Any) -> Any:
            coroutine = run(args, kwargs, context.running.get())
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

        return on_loop

    def _say_farewell(self) -> None:
        """End what the actor has begun itself, as ``asyncio.run`` does."""
        loop = self._loop
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left, timeout=FAREWELL_S))
        loop.run_until_complete(loop.shutdown_asyncgens())

    def _drain(self) -> None:
        """Begin what is in the inbox; look again after its first steps."""
        self._beats += 1
        inbox = self._inbox
        if not inbox:
            self._is_told = False
            # The feeder may have put something there and seen that we were told.
            if not inbox:
                self._end_if_done()
                return
            self._is_told = True
        create = self._loop.create_task
        calls = self.calls
        while inbox:
            call = inbox.popleft()
            calls[call[0].key] = create(self._run(*call))
        self._loop.call_soon(self._drain)

    async def _run(self, task: _native.Task, args: Any, kwargs: Any, group: Group) -> None:
        _set_running(task)
        executor = self._executor
        try:
            value = executor.methods[task.method](*args, **kwargs)
            if type(value) is CoroutineType:
                value = await value
            if not task.seal(value):
                args = None  # what it looked at may leave: the result needs room
                kwargs = {}
                await executor.finish_async(task, value)
        except BaseException as error:  # whatever user code raises belongs into the result
            args = value = None
            kwargs = {}
            executor.fail(task, error)
        self.calls.pop(task.key, None)
        group.ended_on_loop += 1
        if group.is_full and not self._is_waking:
            self._is_waking = True
            self._loop.call_soon(self._wake_feeder)
        if self._is_leaving:
            self._end_if_done()

    def cancel(self, key: int) -> None:
        """Cancel the call ``key`` if it runs on the loop; from any thread (RULES Q-3)."""

        def end() -> None:
            call = self.calls.get(key)
            if call is not None:
                call.cancel()

        self._loop.call_soon_threadsafe(end)

    def _wake_feeder(self) -> None:
        """There is room in a full group, after all calls that ended in one turn of the loop."""
        self._is_waking = False
        self._feeder.wake()

    def _leave(self) -> None:
        self._is_leaving = True
        self._end_if_done()

    def _end_if_done(self) -> None:
        if self._is_leaving and not self.calls and not self._inbox:
            self._loop.stop()

    # ---- the feeder's thread
    def _feed(self) -> None:
        self._feeder.run(self._dispatch, self._patience, self._look_at_loop)
        for pool in self._threads.values():
            pool.join()
        self._loop.call_soon_threadsafe(self._leave)

    def _dispatch(self, tasks: list[_native.Task]) -> None:
        executor = self._executor
        inbox = self._inbox
        for task in tasks:
            group = self._groups[task.queue]
            if self._in_thread[task.method]:
                self._threads_of(group).put(task)
                continue
            try:
                args, kwargs = executor.arguments_of(task)
            except BaseException as error:  # unpickling runs user code, and arguments may be errors
                executor.fail(task, error)
                group.end()
                continue
            inbox.append((task, args, kwargs, group))
        if inbox and not self._is_told:
            self._is_told = True
            self._loop.call_soon_threadsafe(self._drain)

    def _threads_of(self, group: Group) -> Threads:
        found = self._threads.get(group.queue)
        if found is None:
            found = Threads(group, self._executor.run, group.limit)
            self._threads[group.queue] = found
        return found

    def _patience(self) -> float | None:
        return BLOCKED_S if self._is_told and not self._has_warned else None

    def _look_at_loop(self) -> None:
        """The loop was told of calls a while ago: has it looked since?"""
        if self._has_warned or not self._is_told:
            return
        frame = _user_frame(sys._current_frames().get(threading.main_thread().ident or 0))
        seen = (self._beats, id(frame))
        # Once is not enough: on a busy machine the loop itself may not have been run for a while.
        if frame is None or seen != self._seen:
            self._seen = seen
            return
        self._has_warned = True
        code = frame.f_code
        line = linecache.getline(code.co_filename, frame.f_lineno).strip()
        print(
            f"shoal: {code.co_name} ({code.co_filename}:{frame.f_lineno}: {line}) has stopped the"
            f" event loop of actor {context.process.class_name} for more than"
            f" {BLOCKED_S * 1000:.0f} ms, and its other calls wait. What to do: await instead of"
            " blocking, or move the method into a thread with @shoal.method(thread=True)",
            file=sys.stderr,
            flush=True,
        )


def _user_frame(frame: FrameType | None) -> FrameType | None:
    """Of what runs on the loop, the user's outermost; None if the loop sleeps or serves itself."""
    found = None
    while frame is not None:
        name = frame.f_code.co_filename
        if name == selectors.__file__:
            return None
        if name == asyncio.base_events.__file__:
            break
        if not is_ours(name):
            found = frame
        frame = frame.f_back
    return found


def serve(executor: Executor, info: messages.ActorInfo) -> None:
    """Be an asyncio actor until this process may leave."""
    executor.memory.run_side_by_side(context.running)
    runner = LoopRunner(executor, info)
    cancelling.end_calls_by(runner.cancel)
    runner.serve(info)
