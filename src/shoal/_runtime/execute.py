"""Run one attempt: load the arguments, call, write the results, or write what went wrong.

``Executor.run`` is the hot path of a worker: one frame per task besides the user's, nothing
allocated but the arguments and the value. It never raises. All locals go with its frame, so that a
worker which waits for the next task holds nothing of the last one.

What an attempt may end in::

    value            seal at once (None, numbers, short text and bytes), else pickled and written
    coroutine        run to its end on this process's event loop, then as above
    generator        each item is a ref of its own (``streams``); with a number of returns, one each
    exception        tried again if the task asks for it and the daemon grants it, else a TaskError
    sys.exit         of a task: a TaskError with cause SystemExit; the worker lives on
                     of an actor: 0 is exit_actor, everything else a crash with that code
    exit_actor       ActorDiedError for this call; the actor ends
    cancelled        the record that the daemon gave, however the code has ended
    no room          ObjectStoreFullError, as a typed record (which always fits)
"""

from __future__ import annotations

import inspect
import os
import pickle
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from shoal import _native, errors
from shoal._base import records
from shoal._proto import messages
from shoal._runtime import (
    arguments,
    checkpoints,
    context,
    functions,
    recorded,
    returns,
    serialize,
    streams,
    turns,
)
from shoal._runtime import session as sessions
from shoal._runtime.actor_method import BUILTIN_METHODS, CALL, READY, TERMINATE
from shoal._runtime.background import Background
from shoal._runtime.cancelling import Interrupted, cancelling
from shoal._runtime.session import Session, say_full

_loads = pickle.loads
_set_running = context.running.set
_get_running = context.running.get

MOST_FRAMES = 16
MOST_CAUSES = 4
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_ASYNCIO = os.path.join(os.path.dirname(os.__file__), "asyncio") + os.sep


class ActorExit(BaseException):
    """``exit_actor``: unwinds the call, and is no exception that user code should catch."""


class Executor:
    """Runs the tasks of one worker, or the calls of one actor."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._memory = self.memory = session.memory
        self._functions = session.functions
        self.methods: list[Callable[..., Any]] = []
        """Bound methods of the actor by number; empty in a worker of plain tasks."""
        self.is_leaving = False
        self.is_guest = False
        """Whether tasks of its job come from another node, which decides what runs again."""
        self.wake: Callable[[], None] = lambda: None
        """Has the feeder look whether this process may leave."""
        self._loops = threading.local()
        self.is_serial = True
        """Calls run one at a time, on the main thread."""
        self.turns: Any = None
        """The lock of a serial actor that has something in the background."""
        self.from_outside: Callable[[int], Callable[..., Any]] = self.methods.__getitem__
        """A method by number, for a thread that no call of it runs in."""

    def serve(self) -> None:
        """Take and run tasks until the daemon says that this worker may leave."""
        take = self._memory.take
        run = self.run
        task_type = _native.Task
        leave = _native.WORKER_EXIT
        while not self.is_leaving:
            task = take()
            if type(task) is task_type:
                run(task)
            elif task == leave and task is not None:
                return

    def run(self, task: _native.Task) -> None:
        """Run one attempt and finish it."""
        _set_running(task)
        try:
            payload = task.payload()
            if task.actor:
                call = self.methods[task.method]
            else:
                call = self._functions.get(task.function) or self._load(task)
            if payload is None:
                value = call()
            elif payload[0] == 0x80:
                args = _loads(payload)
                value = call(*args) if type(args) is tuple else call(*args[0], **args[1])
            else:
                args, kwargs = arguments.unpack(task, payload)
                value = call(*args, **kwargs)
            if not task.seal(value):
                args = payload = None  # what it looked at may leave: the result needs room
                kwargs = {}
                self._finish(task, value)
        except BaseException as error:  # whatever user code raises belongs into the result
            args = value = payload = None
            kwargs = {}
            self.fail(task, error)

    def arguments_of(self, task: _native.Task) -> tuple[Any, dict[str, Any]]:
        """The arguments of a call that is run elsewhere than in ``run``."""
        payload = task.payload()
        if payload is None:
            return (), {}
        if payload[0] == 0x80:
            args = _loads(payload)
            return (args, {}) if type(args) is tuple else (args[0], args[1])
        return arguments.unpack(task, payload)

    def help(self, task: _native.Task) -> None:
        """Run a task that this worker waits for, on top of the one that waits."""
        below = _get_running()
        try:
            self.run(task)
        finally:
            _set_running(below)

    def leave(self) -> None:
        """End this worker after its present task; the daemon is told, so it is no crash."""
        self.is_leaving = True
        self._session.request(messages.WorkerLeaves(), messages.Done)

    def _load(self, task: _native.Task) -> Callable[..., Any]:
        function: Callable[..., Any] = functions.load(self._session, task.function)
        return function

    # ---- values

    def finish(self, task: _native.Task, value: Any) -> None:
        """End an attempt that was run elsewhere than in ``run``."""
        if not task.seal(value):
            self._finish(task, value)

    def _finish(self, task: _native.Task, value: Any) -> None:
        """Write what ``seal`` did not take."""
        if type(value) is Background:
            value.begin(self, task)
            return
        if task.ending is not None:
            raise Interrupted
        if inspect.iscoroutine(value):
            value = self._run_coroutine(task, value)
        n = task.n_returns
        if task.flags & streams.ANY:
            if task.flags & _native.FLAG_ITEMS:
                self._refill(task, value)
            else:
                self._write(task, 0, self._drain(task, value))
        elif n > 1 and inspect.isgenerator(value):
            self._write_yielded(task, value)
        elif n > 1:
            returns.write_all(self._memory, task, returns.items_of(value, n), self._write)
        elif inspect.isgenerator(value) or inspect.isasyncgen(value):
            raise TypeError(
                f"{context.task_name(task)} returned a generator, and it has one return."
                ' What to do: num_returns="streaming", or return a list'
            )
        elif n == 1:
            self._write(task, 0, value)
        if task.ending is not None:
            raise Interrupted  # a generator that caught the first one and came to its end
        task.commit()

    def _drain(self, task: _native.Task, value: Any) -> Any:
        """Run a generator; what its task's own return becomes."""
        if inspect.isasyncgen(value):
            if task.flags & _native.FLAG_STREAM:
                return self._run_coroutine(task, streams.produce_async(self._memory, task, value))
            value = self._run_coroutine(task, _list_of(value))
        elif not inspect.isgenerator(value):
            raise ValueError(
                f"{context.task_name(task)} was called with num_returns as for a generator, and"
                f" returned a {type(value).__name__}. What to do: yield in it, or leave the option"
                " out"
            )
        if task.flags & _native.FLAG_STREAM:
            return self._produce(task, value)

        def fail(error: Exception) -> _native.ObjectRef:
            if self._may_retry(task, error):
                raise error
            pickled = self._packed(task, describe(task, error, self._session), error)
            return self._memory.put(_native.FORMAT_ERROR_PICKLE, *pickled)

        return streams.collect(self._memory, task, iter(value), fail)

    def _refill(self, task: _native.Task, value: Any) -> None:
        """Run a generator again for items that were lost; an error takes the place of those that
        are still to come."""
        refill = streams.Refill(task, self._write)
        try:
            if inspect.isasyncgen(value):
                self._run_coroutine(task, refill.run_async(value))
            else:
                refill.run(value)
        except Exception as error:  # whatever user code raises belongs into the result
            _fail_items(self, task, refill.left, error)

    def _produce(self, task: _native.Task, items: Any) -> int:
        memory = self._memory
        if cancelling.interrupts:
            return streams.produce(memory, task, items, self.help)
        stop = memory.new_pending()
        with cancelling.while_running(task, lambda: memory.seal_pending(stop)):
            return streams.produce(memory, task, items, self.help, stop)

    def _write_yielded(self, task: _native.Task, items: Iterator[Any]) -> None:
        """One return for each item; an error takes the place of those that are still to come."""
        yielded = returns.Yielded(self._memory, task, self._write)
        try:
            if yielded.write(items):
                return
        except Exception as error:  # whatever user code raises belongs into the result
            if isinstance(error, _native.FullError) or self._may_retry(task, error):
                raise
            failure = describe(task, error, self._session)
            pickled = self._packed(task, failure, error)
            for left in range(yielded.written, task.n_returns):
                task.write(left, _native.FORMAT_ERROR_PICKLE, *pickled)
            return
        raise ValueError(f"num_returns={task.n_returns}, but the task yielded more values")

    async def finish_async(self, task: _native.Task, value: Any) -> None:
        """Write what ``seal`` did not take, on the loop of an asyncio actor."""
        if inspect.isasyncgen(value):
            if task.flags & _native.FLAG_STREAM:
                self._write(task, 0, await streams.produce_async(self._memory, task, value))
                task.commit()
                return
            if task.flags & _native.FLAG_ITEMS:
                refill = streams.Refill(task, self._write)
                try:
                    await refill.run_async(value)
                except Exception as error:  # as in ``_refill``
                    _fail_items(self, task, refill.left, error)
                task.commit()
                return
            value = await _list_of(value)
        self._finish(task, value)

    def _write(
        self,
        task: _native.Task,
        index: int,
        value: Any,
        patience_s: float = turns.PATIENCE_S,
    ) -> None:
        if task.write_simple(index, value):
            return
        if type(value) is bytes:
            task.write(index, _native.FORMAT_BYTES, value, (), (), patience_s)
            return
        what = "the returned value" if task.n_returns == 1 else f"returned value {index}"
        pickled = serialize.dumps(self._memory, value, what)
        task.write(index, _native.FORMAT_PICKLE, *pickled, patience_s)

    def _run_coroutine(self, task: _native.Task, coroutine: Any) -> Any:
        import asyncio

        loop = getattr(self._loops, "loop", None)
        if loop is None:
            loop = self._loops.loop = asyncio.new_event_loop()
        running = loop.create_task(coroutine)

        def end() -> None:
            loop.call_soon_threadsafe(running.cancel)

        with cancelling.while_running(task, end):
            return loop.run_until_complete(running)

    # ---- what went wrong

    def fail(self, task: _native.Task, error: BaseException) -> None:
        """End an attempt by what was raised in it."""
        if isinstance(error, _native.SessionLostError):
            os._exit(1)
        if isinstance(error, ActorExit):
            self._exit_actor(task)
            return
        if isinstance(error, SystemExit) and context.process.actor_id is not None:
            if error.code == 0:
                self._exit_actor(task)
                return
            _crash(describe(task, error, self._session), error.code)
        record = cancelling.last_record(task)
        if record is not None:
            cancelling.forget(task)
            self._write_packed(task, record)
            traceback.clear_frames(error.__traceback__)
            return
        if isinstance(error, _native.FullError):
            task.discard(task.n_returns)  # what is written of them: the record comes first
            say_full(self._write_record, task, error, self._memory)
            return
        if self._may_retry(task, error):
            is_last = 0 <= task.max_retries < task.attempt
            body = messages.RetryTask(task.key, task.attempt, is_last)
            if self._session.request(body, messages.RetryDecision).granted:
                task.forget()
                return
        failure = describe(task, error, self._session)
        self._memory.note(task.key, _native.EVENT_ERROR, type(failure.cause or error).__name__)
        if task.n_returns == 0:
            print(f"{failure}\n{failure.remote_traceback}", file=sys.stderr, flush=True)
        pickled = self._packed(task, failure, error)
        try:
            for index in range(task.n_returns):
                task.write(index, _native.FORMAT_ERROR_PICKLE, *pickled)
        except _native.FullError as full:
            say_full(self._write_record, task, full, self._memory)
        else:
            task.commit()
        traceback.clear_frames(error.__traceback__)

    def _packed(
        self, task: _native.Task, failure: errors.TaskError, error: BaseException
    ) -> serialize.Pickled:
        """What ``failure`` is written as: it holds what ``task`` was called with, and what the task
        that failed first was called with if this one only passes its ``error`` on."""
        pickled = serialize.pack_error(self._memory, failure)
        if not task.n_returns:
            return pickled
        own = recorded.keep(self._memory, task.key, self._session.environment)
        records = [*serialize.records_of(error), *([] if own is None else [own])]
        return pickled._replace(contained=records)

    def _may_retry(self, task: _native.Task, error: BaseException) -> bool:
        if not task.flags & _native.FLAG_RETRY_EXCEPTIONS or not isinstance(error, Exception):
            return False
        if 0 <= task.max_retries < task.attempt and not self.is_guest:
            return False
        if task.actor:
            return True
        kinds = getattr(self._functions.get(task.function), "retry_exceptions", None)
        return kinds is None or isinstance(error, kinds)

    def _write_record(self, task: _native.Task, error: errors.ShoalError) -> None:
        self._write_packed(task, errors.to_record(error))

    def _write_packed(self, task: _native.Task, record: bytes) -> None:
        self._memory.note(task.key, _native.EVENT_ERROR, records.unpack(record)[0])
        for index in range(task.n_returns):
            task.write(index, _native.FORMAT_ERROR_RECORD, record, (), ())
        task.commit()

    # ---- actors

    def become_actor(self, info: messages.ActorInfo) -> bool:
        """Make the instance and its table of methods; False if its constructor raised."""
        session = self._session
        try:
            instance = self._construct(info)
            label = _label(instance)
        except BaseException as error:  # whatever the constructor raises: calls will tell
            facts = {
                "task": f"{info.spec.class_name}.__init__",
                "attempt": info.incarnation,
                "pid": os.getpid(),
                "node": session.node_id.hex()[:8],
            }
            failure = _task_error(error, facts)
            packed = serialize.pack_error(self._memory, failure).data
            text = f"{type(error).__name__}: {error}\n{failure.remote_traceback}"
            session.request(messages.ActorFailed(info.actor_id, packed, text), messages.Done)
            return False
        session.tell(messages.ActorStarted(info.actor_id, label))
        return True

    def _construct(self, info: messages.ActorInfo) -> Any:
        spec = info.spec
        cls = functions.load(self._session, spec.function)
        args, kwargs = self._memory.load_key(spec.arguments)
        _, refs, _, _ = arguments.split_refs(args, kwargs)
        values = dict(zip(map(id, refs), self._memory.get_many(refs))) if refs else {}
        args = [values.get(id(a), a) for a in args]
        kwargs = {name: values.get(id(a), a) for name, a in kwargs.items()}
        instance = cls(*args, **kwargs)
        keeping = checkpoints.begin(self._session, info, instance)
        handle = context.process.actor
        assert handle is not None
        for row in handle._facts.methods:
            if row.name in BUILTIN_METHODS:
                self.methods.append(_builtin(row.name, instance))
            else:
                self.methods.append(keeping(getattr(instance, row.name)))
        return instance

    def _exit_actor(self, task: _native.Task) -> None:
        actor_id = context.process.actor_id or ""
        self.is_leaving = True
        self._session.request(messages.ActorExits(actor_id), messages.Done)
        self.wake()
        error = errors.ActorDiedError(
            actor_id=actor_id,
            class_name=context.process.class_name,
            name=context.process.actor_name,
            reason="exit_actor",
            pid=os.getpid(),
        )
        self._write_record(task, error)


def _fail_items(executor: Executor, task: _native.Task, left: list[int], error: Exception) -> None:
    """``error`` takes the place of the items that are still to come, or the task is tried again."""
    if isinstance(error, _native.FullError) or (left and executor._may_retry(task, error)):
        raise error
    pickled = executor._packed(task, describe(task, error, executor._session), error)
    for index in left:
        task.write(index, _native.FORMAT_ERROR_PICKLE, *pickled)


def exit_actor() -> None:
    """End the actor that runs this, after this call; it is not restarted.

    Raises:
        UsageError: this is no actor.

    Example:
        >>> @shoal.remote
        ... class Clerk:
        ...     def leave(self):
        ...         shoal.exit_actor()
        >>> clerk = Clerk.remote()
        >>> try:
        ...     shoal.get(clerk.leave.remote())
        ... except shoal.errors.ActorDiedError as error:
        ...     print(error.reason)
        exit_actor
    """
    if context.process.actor_id is None:
        raise errors.NotInActorError("exit_actor works only inside an actor's method")
    raise ActorExit


def _crash(failure: errors.TaskError, code: Any) -> NoReturn:
    """End this process as ``sys.exit(code)`` would; its last lines say where."""
    print(f"{failure}\n{failure.remote_traceback}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code & 0xFF if isinstance(code, int) else 1)


def _builtin(name: str, instance: Any) -> Callable[..., Any]:
    def terminate() -> None:
        raise ActorExit

    def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return function(instance, *args, **kwargs)

    functions: dict[str, Callable[..., Any]] = {
        READY: lambda: True,
        TERMINATE: terminate,
        CALL: call,
    }
    return functions[name]


def _label(instance: Any) -> str:
    """The actor's own name for its log lines, if its class defines one."""
    if "__repr__" not in {name for base in type(instance).__mro__[:-1] for name in vars(base)}:
        return ""
    return repr(instance)[:80]


async def _list_of(items: Any) -> Any:
    made = []
    failure = None
    try:
        async for item in items:
            made.append(item)
    except Exception as error:  # whatever user code raises comes behind what it has yielded
        failure = error
    return _again(made, failure)


def _again(made: list[Any], failure: Exception | None) -> Iterator[Any]:
    yield from made
    if failure is not None:
        raise failure


def describe(task: _native.Task, error: BaseException, session: Session) -> errors.TaskError:
    """The public error for what user code raised in ``task``."""
    facts = {
        "task": context.task_name(task),
        "task_id": context.id_of(task),
        "attempt": task.attempt,
        "pid": os.getpid(),
        "node": session.node_id.hex()[:8],
    }
    return _task_error(error, facts)


def error_of_call(error: BaseException, name: str) -> errors.TaskError:
    """The public error for what was raised in a call that is no task of its own."""
    node = sessions.current().node_id.hex()[:8]
    return _task_error(error, {"task": name, "attempt": 1, "pid": os.getpid(), "node": node})


def _task_error(error: BaseException, facts: dict[str, Any]) -> errors.TaskError:
    where = f"pid {facts['pid']}, node {facts['node']}"
    lines = [f"in {facts['task']} (attempt {facts['attempt']}, {where}):\n"]
    lines += [*_frames(error), *_notes(error), *_chain(error)]
    text = "".join(lines).rstrip("\n")
    cause: BaseException | None = error
    message = serialize.text_of(error)
    if isinstance(error, errors.TaskError):
        # A task that waited for another one: say both, once, and keep the first exception.
        text = f"{text}\n{error.remote_traceback}"
        cause = error.cause
        message = error._message
    elif isinstance(error, SystemExit):
        message = f"the task called sys.exit({error.code!r})"
    return errors.TaskError(message, cause, remote_traceback=text, **facts)


def _notes(error: BaseException) -> Iterator[str]:
    """What user code has added to the exception."""
    known = error.remote_traceback if isinstance(error, errors.TaskError) else None
    for note in getattr(error, "__notes__", ()):
        if note != known:
            yield "".join(f"  {line}\n" for line in str(note).splitlines())


def _chain(error: BaseException) -> Iterator[str]:
    """The exceptions behind this one (``raise ... from``), which do not travel by themselves."""
    for _ in range(MOST_CAUSES):
        behind, how = error.__cause__, "caused by"
        if behind is None and not error.__suppress_context__:
            behind, how = error.__context__, "while handling"
        if behind is None:
            return
        named = behind
        if isinstance(behind, errors.TaskError) and behind.cause is not None:
            named = behind.cause
        yield f"{how} {type(named).__name__}: {serialize.text_of(behind)}\n"
        yield from _frames(behind)
        yield from _notes(behind)
        if isinstance(behind, errors.TaskError):
            yield f"{behind.remote_traceback}\n"
        error = behind


def is_ours(filename: str) -> bool:
    """Whether code stands in this package, or in asyncio below it: no frame of the user's."""
    return filename.startswith((_PACKAGE, _ASYNCIO)) or filename.startswith("<frozen")


def _frames(error: BaseException) -> Iterator[str]:
    """The frames of user code, formatted."""
    frames = traceback.extract_tb(error.__traceback__)
    frames = traceback.StackSummary.from_list(
        [frame for frame in frames if not is_ours(frame.filename)]
    )
    left_out = len(frames) - MOST_FRAMES
    if left_out > 0:
        yield f"  ... {left_out} frames left out\n"
        frames = traceback.StackSummary.from_list(frames[-MOST_FRAMES:])
    for line in frames.format():
        yield "\n".join(part for part in line.split("\n") if part.strip(" ^~")) + "\n"
