"""``debug``: run a failed task again, here, with what it was called with.

The inputs come with the error (``recorded``): the function as it was exported, and the arguments
as they were submitted. Each attempt unpickles them for itself, so what the failed one changed in
its own copy is not seen here, and what this one changes harms nobody. Where an error was only
passed on (an argument that had failed, a ``get`` inside a task), the task that failed first is run.

What killed its process would kill this one: such a task is stepped into from its first line.

Of a method only the call is recorded, not the state that its actor had: it runs on an instance
that the caller gives.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import pdb
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from typing import Any, cast

import msgspec

from shoal import _native, errors
from shoal._base import typed_ids
from shoal._native import ObjectRef
from shoal._proto import messages
from shoal._runtime import arguments, execute, functions, objects, recorded, streams
from shoal._runtime import session as sessions
from shoal._runtime.environments import SetupFailure, replaying
from shoal._runtime.recorded import Inputs
from shoal._runtime.session import Session

_FAILED = (_native.FORMAT_ERROR_PICKLE, _native.FORMAT_ERROR_RECORD)
_KEY_HEX = 16
_INDEX_BITS = 0x3FF << 22
"""Of the last eight bytes of an object's id: the number of the return, which no key has."""


class Recording:
    """The recorded call of a task: what ``arguments.unpack`` reads of a running one."""

    def __init__(self, ref: ObjectRef) -> None:
        self._ref = ref
        self._memory = ref.memory
        self.inputs = msgspec.msgpack.decode(objects.get(ref), type=Inputs)
        held = [self._memory.ref(key) for key in self._memory.contained(ref.key)]
        refs = [each for each in held if each is not None]
        self._dependencies = refs[: self.inputs.n_dependencies]
        self._contained = refs[self.inputs.n_dependencies :]

    def dependencies(self, first: int, n: int) -> list[Any]:
        """The values of top-level arguments; ``get`` takes its turn by itself."""
        return objects.get(self._dependencies[first : first + n])

    def loading(self) -> None:
        """Refs inside structures are read from now on."""
        self._table = _holding(self._contained)
        self._memory.loading(self._table)

    def loaded(self) -> None:
        """They are not any more."""
        self._memory.loaded()

    def arguments(self) -> tuple[Any, dict[str, Any]]:
        """(args, kwargs), made anew."""
        payload = memoryview(self.inputs.payload)
        if not payload:
            return (), {}
        if payload[0] == 0x80:
            payload = memoryview(arguments.named(bytes(payload), ""))
        return arguments.unpack(cast(_native.Task, self), payload)


def _holding(refs: list[ObjectRef]) -> ObjectRef:
    """A value that holds ``refs`` in this order, and nothing else."""
    memory = sessions.current().memory
    return memory.put(_native.FORMAT_BYTES, b"", (), refs)


def debug(
    ref: ObjectRef[Any] | streams.ObjectRefGenerator | str,
    *,
    post_mortem: bool = True,
    runcall: Callable[..., Any] | None = None,
    instance: Any = None,
) -> BaseException | None:
    """Run the failed task behind ``ref`` again, in this process, and look at where it fails.

    It gets the recorded arguments, as they were when it was submitted. If it raises, ``pdb`` opens
    at the failing line. A task that had killed its process is stepped into from its first line.
    If the error came from another task, through an argument or a ``get``, that one is run. Of its
    runtime environment it gets variables, working directory and modules for as long as it runs
    here; packages of pip, uv or conda are those of this process, and a line says so.

    Args:
        ref: What the call returned, or its id; waits until the task has ended.
        post_mortem: False opens no debugger: only the exception is returned.
        runcall: Runs the function instead, as ``runcall(function, *args, **kwargs)``: such as the
            method of that name of a debugger of your own.
        instance: What a recorded method is called on: its actor's state is not recorded.

    Returns:
        What the task has raised here; None if it has not failed this time, or the debugger was
        left before its end.

    Raises:
        NotReplayableError: nothing was recorded, or it can not be run here; says why.
        UsageError: the task has not failed.

    Example:
        >>> @shoal.remote
        ... def divide(a, b):
        ...     return a / b
        >>> error = shoal.debug(divide.remote(1, 0), post_mortem=False)
        >>> type(error).__name__
        'ZeroDivisionError'
    """
    session = sessions.current()
    ref = _ref_of(session, ref)
    error = _error_of(ref)
    recording = _recording_of(ref, error)
    with _environment_of(session, recording):
        return _replay(session, recording, error, instance, runcall, post_mortem)


def _recording_of(ref: ObjectRef, error: BaseException) -> Recording | None:
    """What was recorded of the task that failed first; None: a constructor needs no record."""
    if isinstance(error, errors.ActorDiedError) and error.reason == "constructor":
        return None
    records = recorded.of_error(ref.memory, ref.key)
    if not records:
        raise errors.NotReplayableError(
            f"nothing was recorded for {_word(error)}: only a task that was running when it failed"
            " has inputs, and only if the object store had room for them"
        )
    recording = Recording(records[0])
    if recording.inputs.too_large:
        raise errors.NotReplayableError(
            f"its inputs have {recording.inputs.too_large:,} bytes, more than SHOAL_DEBUG_BYTES"
            " lets be kept"
        )
    return recording


@contextlib.contextmanager
def _environment_of(session: Session, recording: Recording | None) -> Iterator[None]:
    found = None if recording is None else recording.inputs.environment
    if missing := replaying.left_out(found):
        print(
            f"shoal: not set up here: {missing}. The task sees the packages of this process",
            file=sys.stderr,
        )
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(replaying.around(found, session.directory))
        except SetupFailure as failure:
            raise errors.NotReplayableError(
                f"its runtime environment can not be set up: {failure.text}"
            ) from None
        yield


def _replay(
    session: Session,
    recording: Recording | None,
    error: BaseException,
    instance: Any,
    runcall: Callable[..., Any] | None,
    post_mortem: bool,
) -> BaseException | None:
    call, args, kwargs, name = _call_of(session, recording, error, instance)
    print(f"shoal: {name} runs again here; it had failed with {_word(error)}", file=sys.stderr)
    debugger = None
    if runcall is None and post_mortem and isinstance(error, errors.WorkerCrashedError):
        print("shoal: it ended its process, so it is stepped into: use n, s, c", file=sys.stderr)
        debugger = _Debugger()
        runcall = debugger.runcall
        post_mortem = False
    try:
        _to_end(runcall(call, *args, **kwargs) if runcall else call(*args, **kwargs))
    except KeyboardInterrupt:
        raise
    except BaseException as raised:  # whatever the task raises is what is looked for
        _show(raised, post_mortem)
        return raised
    was_left = debugger is not None and debugger.quitting
    text = "was left before its end" if was_left else "has not failed this time"
    print(f"shoal: {name} {text}", file=sys.stderr)
    return None


def _ref_of(session: Session, ref: Any) -> ObjectRef:
    if isinstance(ref, streams.ObjectRefGenerator):
        ref = ref.completed()
    if isinstance(ref, str):
        try:
            key = int(ref[-_KEY_HEX:] if len(ref) > 2 * _KEY_HEX else "", 16)
        except ValueError:
            raise errors.UsageError(f"{ref!r} is no id of an object") from None
        found = session.memory.ref(key & ~_INDEX_BITS)
        if found is None:
            raise errors.NotReplayableError(f"{ref}: nobody has a ref to it any more")
        return found
    if type(ref) is not ObjectRef:
        raise objects.not_a_ref("debug", ref)
    return ref


def _error_of(ref: ObjectRef) -> BaseException:
    objects.wait([ref])
    sight = ref.memory.sight(ref.key)
    if sight is not None and sight[1] not in _FAILED:
        raise errors.UsageError(f"{ref.hex()} has a value: its task has not failed")
    try:
        objects.get(ref)
    except BaseException as error:  # whatever the task raised
        return error
    raise errors.InternalError(f"{ref.hex()} says that it is an error, and has a value")


Call = tuple[Callable[..., Any], Any, dict[str, Any], str]


def _call_of(
    session: Session, recording: Recording | None, error: BaseException, instance: Any
) -> Call:
    """What is to be run: (function, args, kwargs, name)."""
    if recording is None:
        assert isinstance(error, errors.ActorDiedError)
        return _constructor(session, error)
    inputs = recording.inputs
    if inputs.actor:
        call, name = _method(session, inputs, instance)
    else:
        call = _loaded(session, inputs.function)
        name = getattr(call, "__qualname__", "the task")
    args, kwargs = recording.arguments()
    return call, args, kwargs, name


def _loaded(session: Session, function: int) -> Any:
    try:
        return functions.load(session, function)
    except (KeyError, *sessions.NATIVE_ERRORS):
        raise errors.NotReplayableError(
            "its function is gone with the program that had defined it"
        ) from None


def _describe(session: Session, actor_id: str) -> messages.ActorInfo:
    return session.request(messages.DescribeActor(actor_id), messages.ActorInfo)


def _method(session: Session, inputs: Inputs, instance: Any) -> tuple[Callable[..., Any], str]:
    actor_id = typed_ids.actor_id(session.node_id, inputs.actor, inputs.job)
    spec = _describe(session, actor_id).spec
    rows = msgspec.msgpack.decode(spec.methods) if spec.methods else []
    method = rows[inputs.method][0] if inputs.method < len(rows) else f"method {inputs.method}"
    name = f"{spec.class_name}.{method}"
    if instance is None:
        raise errors.NotReplayableError(
            f"{name} is a method, and the state that its actor had is not recorded."
            f" What to do: debug(ref, instance={spec.class_name}(...)) runs the recorded call on an"
            " instance that you have made like it; breakpoint() stops in the living one"
        )
    return getattr(instance, method), name


def _constructor(session: Session, error: errors.ActorDiedError) -> Call:
    try:
        spec = _describe(session, error.actor_id).spec
        args, kwargs = session.memory.load_key(spec.arguments)
    except (KeyError, errors.UsageError, *sessions.NATIVE_ERRORS):
        raise errors.NotReplayableError(
            "the arguments of its constructor go with the last handle of an actor"
        ) from None
    places, refs, args, kwargs = arguments.split_refs(args, kwargs)
    args, kwargs = arguments.fill(args, kwargs, places, [objects.get(each) for each in refs])
    return _loaded(session, spec.function), args, kwargs, f"{spec.class_name}.__init__"


def _to_end(value: Any) -> None:
    """Run what a function only begins by being called."""
    if inspect.iscoroutine(value):
        asyncio.run(value)
    elif inspect.isgenerator(value):
        for _ in value:
            pass
    elif inspect.isasyncgen(value):
        asyncio.run(_drain(value))


async def _drain(items: Any) -> None:
    async for _ in items:
        pass


class _Debugger(pdb.Pdb):
    """pdb that ends where nobody can type: stdin may be closed, or be a test runner's."""

    def _cmdloop(self) -> None:
        try:
            super()._cmdloop()  # type: ignore[misc]
        except (OSError, RuntimeError, ValueError) as problem:
            print(f"\nshoal: no debugger here, nobody can type: {problem}", file=sys.stderr)
            self.set_quit()


def _show(error: BaseException, post_mortem: bool) -> None:
    """Print where it failed, without our own frames, and open the debugger there."""
    where: types.TracebackType | None = error.__traceback__
    while where is not None and execute.is_ours(where.tb_frame.f_code.co_filename):
        where = where.tb_next
    if not post_mortem:
        return
    traceback.print_exception(type(error), error, where)
    if where is not None:
        debugger = _Debugger()
        debugger.reset()
        debugger.interaction(None, where)


def _word(error: BaseException) -> str:
    cause = getattr(error, "cause", None)
    return type(cause if isinstance(cause, BaseException) else error).__name__
