"""What type checkers see of ``.remote``, ``.options`` and handles; nothing of it is there at run
time.

The signatures stand beside the code, not in it: ``.remote`` is one Python frame for every function
(``submitting.py``), whatever its parameters. Three ideas carry all of it, and hold for mypy and
pyright alike, without a plugin:

* ``Calls[P, R]`` has the parameters of the function as they are, and again with refs allowed in
  place of values, for calls of up to five arguments by position. A ref by name is too much for the
  type language: pass it by position.
* ``ActorClass[K]`` is generic in the *class object* (``type[Counter]``), so that its constructor's
  parameters are found by treating it as a callable.
* A class that derives from ``shoal.Actor`` has handles of its own type, whose methods marked with
  ``@shoal.method`` have ``.remote``. Handles of other classes are dynamic: every method is Any.
"""
# Overloads that overlap are meant: the first that fits is taken, as people read them.
# mypy: disable-error-code="overload-overlap"

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from os import PathLike
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    Literal,
    ParamSpec,
    Protocol,
    TypedDict,
    TypeVar,
    Unpack,
    overload,
)

from shoal._native import ObjectRef

if TYPE_CHECKING:
    from shoal._runtime.actor import ActorHandle
    from shoal._runtime.remote import RemoteFunction
    from shoal._runtime.streams import ObjectRefGenerator

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C")
S = TypeVar("S")
K = TypeVar("K", bound=type)
K_co = TypeVar("K_co", bound=Callable[..., Any], covariant=True)
A1 = TypeVar("A1")
A2 = TypeVar("A2")
A3 = TypeVar("A3")
A4 = TypeVar("A4")
A5 = TypeVar("A5")

Yielded = Iterator[R] | AsyncIterator[R]
"""What generator functions return."""


class TypedHandle:
    """Base of ``shoal.Actor`` for type checkers: the mark by which handles get their own type."""


T = TypeVar("T", bound=TypedHandle)


# ---- options ------------------------------------------------------------------------------------


class Shared(TypedDict, total=False):
    """Options of tasks and actors."""

    num_cpus: float | None
    num_gpus: float | None
    memory: float | None
    resources: Mapping[str, float] | None
    name: str | None
    runtime_env: Mapping[str, Any] | None
    scheduling_strategy: Any
    label_selector: Mapping[str, str] | None
    fallback_strategy: list[dict[str, Any]] | None
    placement_group: Any
    placement_group_bundle_index: int
    placement_group_capture_child_tasks: bool | None
    accelerator_type: str | None
    enable_task_events: bool


class TaskOptions(Shared, total=False):
    """Options of tasks besides ``num_returns``."""

    max_retries: int
    retry_exceptions: bool | list[type[BaseException]] | tuple[type[BaseException], ...]
    help: bool
    max_calls: int
    _generator_backpressure_num_objects: int | None
    timeout_s: float | None


class ActorOptions(Shared, total=False):
    """Options of actors."""

    max_restarts: int
    max_task_retries: int
    max_concurrency: int | None
    max_pending_calls: int
    allow_out_of_order_execution: bool | None
    checkpoint_every: int
    thread: bool
    lifetime: Literal["detached", "non_detached"] | None
    namespace: str | None
    get_if_exists: bool
    concurrency_groups: Mapping[str, int] | None


class InitOptions(TypedDict, total=False):
    """What ``init`` takes besides the address."""

    num_cpus: float | None
    num_gpus: float | None
    resources: Mapping[str, float] | None
    object_store_memory: int | None
    object_spilling_directory: str | Sequence[str] | Literal[False] | None
    lineage_bytes: int | None
    log_bytes: int | None
    log_age_s: float | None
    namespace: str | None
    ignore_reinit_error: bool
    log_to_driver: bool
    priority: int
    weight: float
    labels: Mapping[str, str] | None
    runtime_env: Mapping[str, Any] | None
    token_file: str | PathLike[str] | None
    logging_level: int | str | None
    include_dashboard: bool | None


class MethodOptions(TypedDict, total=False):
    """Options of methods besides ``num_returns``."""

    name: str | None
    retry_exceptions: bool | list[type[BaseException]] | tuple[type[BaseException], ...]
    max_task_retries: int
    concurrency_group: str
    thread: bool
    _generator_backpressure_num_objects: int | None
    timeout_s: float | None


class AnyOptions(TaskOptions, ActorOptions, total=False):
    """What ``@remote(...)`` takes, before it knows what it decorates."""


# ---- functions and methods ----------------------------------------------------------------------


class Calls(Generic[P, R]):
    """``.remote`` of something whose calls return one ref."""

    @overload
    def remote(self, *args: P.args, **kwargs: P.kwargs) -> ObjectRef[R]: ...
    @overload
    def remote(self: Callable[[A1], R], a1: A1 | ObjectRef[A1], /) -> ObjectRef[R]: ...
    @overload
    def remote(
        self: Callable[[A1, A2], R], a1: A1 | ObjectRef[A1], a2: A2 | ObjectRef[A2], /
    ) -> ObjectRef[R]: ...
    @overload
    def remote(
        self: Callable[[A1, A2, A3], R],
        a1: A1 | ObjectRef[A1],
        a2: A2 | ObjectRef[A2],
        a3: A3 | ObjectRef[A3],
        /,
    ) -> ObjectRef[R]: ...
    @overload
    def remote(
        self: Callable[[A1, A2, A3, A4], R],
        a1: A1 | ObjectRef[A1],
        a2: A2 | ObjectRef[A2],
        a3: A3 | ObjectRef[A3],
        a4: A4 | ObjectRef[A4],
        /,
    ) -> ObjectRef[R]: ...
    @overload
    def remote(
        self: Callable[[A1, A2, A3, A4, A5], R],
        a1: A1 | ObjectRef[A1],
        a2: A2 | ObjectRef[A2],
        a3: A3 | ObjectRef[A3],
        a4: A4 | ObjectRef[A4],
        a5: A5 | ObjectRef[A5],
        /,
    ) -> ObjectRef[R]: ...
    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Submit a call; see ``Submitting.remote``."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it here."""
        raise NotImplementedError


class Streams(Generic[P, R]):
    """``.remote`` of a generator: one ref after the other."""

    @overload
    def remote(self, *args: P.args, **kwargs: P.kwargs) -> ObjectRefGenerator[R]: ...
    @overload
    def remote(
        self: Callable[[A1], Yielded[R]], a1: A1 | ObjectRef[A1], /
    ) -> ObjectRefGenerator[R]: ...
    @overload
    def remote(
        self: Callable[[A1, A2], Yielded[R]], a1: A1 | ObjectRef[A1], a2: A2 | ObjectRef[A2], /
    ) -> ObjectRefGenerator[R]: ...
    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Submit a call; see ``Submitting.remote``."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Iterator[R]:
        """Run it here."""
        raise NotImplementedError


class Several(Generic[P]):
    """``.remote`` of something with ``num_returns`` other than 1."""

    def remote(self, *args: Any, **kwargs: Any) -> list[ObjectRef[Any]]:
        """Submit a call; one ref per value."""
        raise NotImplementedError


class BoundMethod(Calls[P, R]):
    """``handle.method`` of a typed handle, or the plain method of a plain instance."""

    @overload
    def options(self, **given: Unpack[MethodOptions]) -> BoundMethod[P, R]: ...
    @overload
    def options(self, *, num_returns: int, **given: Unpack[MethodOptions]) -> Several[P]: ...
    def options(self, **given: Any) -> Any:
        """Return the same method with other options."""


class BoundStream(Streams[P, R]):
    """``handle.method`` of a typed handle, for a generator."""

    def options(self, **given: Any) -> BoundStream[P, R]:
        """Return the same method with other options."""
        raise NotImplementedError


class TypedStream(Generic[S, P, R]):
    """A generator method marked with ``@shoal.method``."""

    def __get__(self, instance: object, owner: type) -> BoundStream[P, R]:
        raise NotImplementedError


class TypedMethod(Generic[S, P, R]):
    """A method marked with ``@shoal.method``."""

    def __get__(self, instance: object, owner: type) -> BoundMethod[P, R]:
        raise NotImplementedError


class MethodDecorator(Protocol):
    """What ``@method(...)`` returns."""

    @overload
    def __call__(
        self, function: Callable[Concatenate[S, P], Coroutine[Any, Any, R]], /
    ) -> TypedMethod[S, P, R]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[S, P], Yielded[R]], /
    ) -> TypedStream[S, P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[S, P], R], /) -> TypedMethod[S, P, R]: ...


# ---- classes ------------------------------------------------------------------------------------


class ActorClass(Generic[K_co]):
    """``shoal.ActorClass``: its constructor's parameters, and a handle.

    The whole class stands here: mypy looks at bounds of ``self`` only in the class itself.
    """

    @overload
    def remote(self: ActorClass[Callable[P, T]], *args: P.args, **kwargs: P.kwargs) -> T: ...
    @overload
    def remote(
        self: ActorClass[Callable[P, C]], *args: P.args, **kwargs: P.kwargs
    ) -> ActorHandle[C]: ...
    @overload
    def remote(self: ActorClass[Callable[[A1], T]], a1: A1 | ObjectRef[A1], /) -> T: ...
    @overload
    def remote(
        self: ActorClass[Callable[[A1], C]], a1: A1 | ObjectRef[A1], /
    ) -> ActorHandle[C]: ...
    @overload
    def remote(
        self: ActorClass[Callable[[A1, A2], T]],
        a1: A1 | ObjectRef[A1],
        a2: A2 | ObjectRef[A2],
        /,
    ) -> T: ...
    @overload
    def remote(
        self: ActorClass[Callable[[A1, A2], C]],
        a1: A1 | ObjectRef[A1],
        a2: A2 | ObjectRef[A2],
        /,
    ) -> ActorHandle[C]: ...
    @overload
    def remote(
        self: ActorClass[Callable[[A1, A2, A3], T]],
        a1: A1 | ObjectRef[A1],
        a2: A2 | ObjectRef[A2],
        a3: A3 | ObjectRef[A3],
        /,
    ) -> T: ...
    @overload
    def remote(
        self: ActorClass[Callable[[A1, A2, A3], C]],
        a1: A1 | ObjectRef[A1],
        a2: A2 | ObjectRef[A2],
        a3: A3 | ObjectRef[A3],
        /,
    ) -> ActorHandle[C]: ...
    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Start an actor."""

    def __call__(self: ActorClass[Callable[P, C]], *args: P.args, **kwargs: P.kwargs) -> C:
        """Make a plain instance here."""
        raise NotImplementedError

    def options(self, **given: Unpack[ActorOptions]) -> ActorClass[K_co]:
        """Return the same class with other options; those not named stay as they are."""
        raise NotImplementedError

    def _remote(
        self,
        args: tuple[Any, ...] | list[Any] | None = None,
        kwargs: dict[str, Any] | None = None,
        **given: Any,
    ) -> Any:
        """Start an actor with options: ``C._remote((1,), {}, num_cpus=2)``."""


class Decorator(Protocol):
    """What ``@remote(...)`` returns."""

    @overload
    def __call__(self, target: K, /) -> ActorClass[K]: ...
    @overload
    def __call__(self, target: Callable[P, Coroutine[Any, Any, R]], /) -> RemoteFunction[P, R]: ...
    @overload
    def __call__(self, target: Callable[P, Yielded[R]], /) -> GeneratorFunction[P, R]: ...
    @overload
    def __call__(self, target: Callable[P, R], /) -> RemoteFunction[P, R]: ...


class SeveralDecorator(Protocol):
    """What ``@remote(num_returns=...)`` returns."""

    def __call__(self, target: Callable[P, Any], /) -> SeveralFunction[P]: ...


class SeveralFunction(Several[P]):
    """A remote function with ``num_returns`` other than 1."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it here."""

    def options(self, **given: Any) -> Any:
        """Return the same function with other options."""


class StreamingDecorator(Protocol):
    """What ``@remote(num_returns="streaming")`` returns."""

    def __call__(self, target: Callable[P, Yielded[R]], /) -> GeneratorFunction[P, R]: ...


class GeneratorFunction(Streams[P, R]):
    """A remote generator function: its results stream."""

    def options(self, **given: Any) -> GeneratorFunction[P, R]:
        """Return the same function with other options."""
        raise NotImplementedError
