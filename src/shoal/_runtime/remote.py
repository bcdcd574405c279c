"""``@remote``: functions that run elsewhere.

A ``RemoteFunction`` is the function (``f(1)`` runs here and now) plus ``.remote``, ``.options`` and
``._remote``. Variants made by ``.options()`` share one ``Definition``, so a function is exported
once.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Generic, Literal, ParamSpec, TypeVar, Unpack, overload

from shoal import _native, errors
from shoal._proto import messages
from shoal._runtime import context, options, strategies, streams
from shoal._runtime import session as sessions
from shoal._runtime.actor import ActorClass
from shoal._runtime.environments import inheriting
from shoal._runtime.functions import Definition
from shoal._runtime.submitting import Submitting

if TYPE_CHECKING:
    from shoal._runtime import typed
    from shoal._runtime.typed import Calls
else:
    Calls = Generic

P = ParamSpec("P")
R = TypeVar("R")
K = TypeVar("K", bound=type)


class Retryable:
    """A function and the exceptions after which it may be tried again."""

    def __init__(self, function: Callable[..., Any], exceptions: tuple[type, ...]) -> None:
        self.function = function
        self.retry_exceptions = exceptions
        functools.update_wrapper(self, function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


class Limited:
    """A function after so many calls of which its worker ends, between two tasks (RULES T11)."""

    def __init__(self, function: Callable[..., Any], most: int) -> None:
        self.function = function
        self.most = most
        self.calls = 0
        self.retry_exceptions = getattr(function, "retry_exceptions", None)
        functools.update_wrapper(self, function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        if self.calls == self.most:
            context.process.leave()
        return self.function(*args, **kwargs)


class RemoteFunction(Calls[P, R], Submitting):
    """A function whose calls may run in other processes."""

    def __init__(
        self,
        function: Callable[P, R] | None,
        given: Mapping[str, Any],
        definition: Definition | None = None,
    ) -> None:
        if definition is None:
            name = getattr(function, "__qualname__", type(function).__name__)
            definition = Definition(function, name)
        self._definition = definition
        self._given = dict(given)
        self._wrapped: Definition | None = None
        self._queue: messages.QueueOpened | None = None
        if function is not None:
            functools.update_wrapper(self, function)
        else:
            self.__name__ = self.__qualname__ = definition.name

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function here and now."""
        result: R = self._definition.value(*args, **kwargs)
        return result

    @property
    def _function(self) -> Callable[P, R]:
        """The plain function, where programs written for Ray look for it (RULES T5)."""
        function: Callable[P, R] = self._definition.value
        return function

    @overload
    def options(  # type: ignore[overload-overlap]
        self, *, num_returns: Literal[1] = 1, **given: Unpack[typed.TaskOptions]
    ) -> RemoteFunction[P, R]: ...
    @overload
    def options(
        self, *, num_returns: int, **given: Unpack[typed.TaskOptions]
    ) -> typed.SeveralFunction[P]: ...
    def options(self, **given: Any) -> Any:
        """Return the same function with other options; those not named stay as they are."""
        checked = options.check("t", given, in_options=True)
        variant: RemoteFunction[P, R] = RemoteFunction(
            None, self._given | checked, self._definition
        )
        return variant._like(self)

    def _remote(
        self,
        args: tuple[Any, ...] | list[Any] | None = None,
        kwargs: dict[str, Any] | None = None,
        **given: Any,
    ) -> Any:
        """Submit a call with options: ``f._remote((1,), {}, num_cpus=2)``."""
        chosen = self.options(**given) if given else self
        return chosen.remote(*(args or ()), **(kwargs or {}))

    def _like(self, other: RemoteFunction[P, R]) -> RemoteFunction[P, R]:
        for name in functools.WRAPPER_ASSIGNMENTS:
            if name in other.__dict__:
                setattr(self, name, getattr(other, name))
        return self

    def _prepare(self) -> _native.Template:
        session = sessions.current()
        given = self._given
        definition = self._definition
        retry = options.get(given, "retry_exceptions")
        most_calls = options.get(given, "max_calls")
        if isinstance(retry, list | tuple) or most_calls:
            if self._wrapped is None:
                value: Any = definition.value
                if isinstance(retry, list | tuple):
                    value = Retryable(value, tuple(retry))
                if most_calls:
                    value = Limited(value, most_calls)
                self._wrapped = Definition(value, definition.name)
            definition = self._wrapped
        amounts = options.amounts(given, 1.0)
        strategy = strategies.resolve(given, amounts, f"task {definition.name}")
        environment = inheriting.asked(session, given.get("runtime_env"))
        queue = session.queue(amounts, strategy, environment)
        self._queue = queue
        n_returns = self._n_returns()
        flags = streams.flags_of(n_returns)
        if retry:
            flags |= _native.FLAG_RETRY_EXCEPTIONS
        if options.get(given, "help") and set(amounts) <= {"CPU"}:
            flags |= _native.FLAG_HELP
        template = _native.Template(
            function=definition.key(session),
            queue=queue.queue,
            queue_generation=queue.generation,
            job=session.job,
            n_returns=max(n_returns, 1) if flags & streams.ANY else n_returns,
            max_retries=int(options.get(given, "max_retries")),
            flags=flags,
            limit=streams.limit_of(given),
            timeout_s=given.get("timeout_s") or 0.0,
        )
        return self._ready(session, template, given.get("name"))

    def _n_returns(self) -> int:
        return streams.returns_number(options.get(self._given, "num_returns"))

    def _is_queue_gone(self) -> bool:
        assert self._memory is not None and self._queue is not None
        return self._memory.is_queue_dead(self._queue.queue, self._queue.generation)

    def __reduce__(self) -> Any:
        return _restore, (self._definition, self._given)

    def __copy__(self) -> RemoteFunction[P, R]:
        return self

    def __deepcopy__(self, memo: Any) -> RemoteFunction[P, R]:
        return self

    def __repr__(self) -> str:
        return f"<remote function {self._definition.name}>"


def _restore(definition: Definition, given: dict[str, Any]) -> RemoteFunction[..., Any]:
    return RemoteFunction(None, given, definition)


@overload
def remote(target: K, /) -> typed.ActorClass[K]: ...  # type: ignore[overload-overlap]
@overload
def remote(  # type: ignore[overload-overlap]
    target: Callable[P, Coroutine[Any, Any, R]], /
) -> RemoteFunction[P, R]: ...
@overload
def remote(  # type: ignore[overload-overlap]
    target: Callable[P, typed.Yielded[R]], /
) -> typed.GeneratorFunction[P, R]: ...
@overload
def remote(target: Callable[P, R], /) -> RemoteFunction[P, R]: ...
@overload
def remote(  # type: ignore[overload-overlap]
    *, num_returns: Literal[1] = 1, **given: Unpack[typed.AnyOptions]
) -> typed.Decorator: ...
@overload
def remote(
    *, num_returns: Literal["streaming"], **given: Unpack[typed.AnyOptions]
) -> typed.StreamingDecorator: ...
@overload
def remote(*, num_returns: int, **given: Unpack[typed.AnyOptions]) -> typed.SeveralDecorator: ...
def remote(target: Any = None, /, *rest: Any, **given: Any) -> Any:
    """Make a function or a class remote.

    Args:
        num_cpus: CPUs that a task needs (default 1), in steps of 0.0001.
        num_gpus: GPUs that it needs; above 1 only whole numbers.
        memory: Bytes that it needs.
        resources: Other resources by name.
        accelerator_type: Only nodes that declare the resource ``accelerator_type:<this>``.
        enable_task_events: Taken for programs that give it; events cost too little to turn off.
        num_returns: How many values it returns (default 1). ``"streaming"``, the default of
            generator functions: each yielded value is a ref, as soon as it is there.
            ``"dynamic"``: one ref to the list of those refs, at the end.
        _generator_backpressure_num_objects: How many yielded values may wait to be taken; the
            generator pauses meanwhile (default: any number).
        timeout_s: Seconds from the call to its end, in the queue too; then it is ended with
            ``DeadlineExceededError``. What it calls has no more time than it has left.
        max_calls: After so many calls of it a worker process ends, between two tasks; 0: never.
        max_retries: How often a task is run again if its process dies (default 3).
        retry_exceptions: Whether, or after which exceptions, it is run again too.
        help: Whether a worker that waits for this task may run it meanwhile (default True).
        name: Name shown in tables; of an actor: how ``get_actor`` finds it.
        max_restarts: How often an actor is started again after its process died (default 0).
        max_task_retries: How often a call that was running then is run again (default 0).
        max_concurrency: How many calls of an actor run at once (default 1; 1000 if it has
            ``async def`` methods, which then run on one event loop; above 1 else: in threads).
        concurrency_groups: Named groups of methods with limits of their own, ``{"io": 2}``; a
            method joins one by ``@method(concurrency_group="io")``.
        allow_out_of_order_execution: Whether a call whose arguments are there may overtake one of
            the same caller that waits (default: whether calls run at once).
        max_pending_calls: How many calls of one handle may wait (default -1: any number); one
            more raises ``PendingCallsLimitError``.
        thread: Run the plain methods of an asyncio actor in threads, not on its loop.
        checkpoint_every: After how many calls the state of an actor with the hooks
            ``__shoal_checkpoint__`` and ``__shoal_restore__`` is kept (default 1).
        namespace: Where the actor's name is known.
        lifetime: ``"detached"`` for an actor that outlives this program.
        get_if_exists: Give the living actor of that name instead of an error.
        runtime_env: What stands around its code (see ``shoal.runtime_env``), on top of what the
            caller has.
        scheduling_strategy: ``"DEFAULT"``, ``"SPREAD"``, or one of the classes of
            ``shoal.util.scheduling_strategies``: a placement group, a node, labels.
        label_selector: Labels of the node: ``{"zone": "a"}``, or ``"!a"``, ``"in(a, b)"``.
        fallback_strategy: Other selectors, if no node agrees with that one.
        placement_group: A group, as ``scheduling_strategy`` says it too; with
            ``placement_group_bundle_index`` and ``placement_group_capture_child_tasks``.

    Returns:
        A ``RemoteFunction`` or an ``ActorClass``; both can still be called as before.

    Raises:
        OptionError: an option is unknown or wrong.
        TypeError: it is remote already, or neither function nor class.

    Example:
        >>> @shoal.remote
        ... def square(x):
        ...     return x * x
        >>> shoal.get(square.remote(4))
        16
    """
    if rest or (target is not None and given):
        raise errors.OptionError(
            "remote takes options by name only: @remote(num_cpus=2), or @remote without brackets"
        )
    if target is None:
        if not given:
            raise errors.OptionError("@remote() without options: leave out the brackets")
        for name in given:
            if name not in options.TABLE:
                options.check("t", {name: None})
        return functools.partial(_decorate, given=given)
    return _decorate(target, {})


def _decorate(target: Any, given: Mapping[str, Any]) -> Any:
    if isinstance(target, Submitting | ActorClass):
        raise TypeError(f"{target!r} is remote already")
    if isinstance(target, type):
        return ActorClass(target, options.check("a", given))
    if callable(target) and not isinstance(target, staticmethod | classmethod):
        checked = options.check("t", given)
        if inspect.isgeneratorfunction(target) or inspect.isasyncgenfunction(target):
            checked.setdefault("num_returns", "streaming")
        return RemoteFunction(target, checked)
    raise TypeError(f"remote needs a function or a class, not a {type(target).__name__}")
