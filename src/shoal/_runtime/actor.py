"""Actors as their users see them: classes, handles, methods.

A handle is three things: facts of the actor (queue, methods, ids), the *lifetime ref* (a ref to the
object that holds the constructor's arguments: the actor ends when the last one is gone, RULES A-4),
and its methods. Handles from ``get_actor``, and the one that an actor has of itself, have no
lifetime ref (A-5).

Invariants:

1. A method holds the lifetime ref but never the handle: no cycle keeps an actor alive until the
   garbage collector runs.
2. Handles are counted through their lifetime ref only, which travels in the table of contained refs
   of whatever they are pickled into.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Mapping
from types import SimpleNamespace
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    ParamSpec,
    TypeVar,
    Unpack,
    overload,
)

import msgspec

from shoal import _native, errors
from shoal._base import typed_ids
from shoal._proto import messages
from shoal._runtime import (
    concurrency,
    options,
    serialize,
    strategies,
    streams,
    unpicklable,
)
from shoal._runtime import session as sessions
from shoal._runtime.actor_method import (
    BUILTIN_METHODS,
    ActorFacts,
    ActorMethod,
    MethodRow,
)
from shoal._runtime.environments import inheriting
from shoal._runtime.functions import Definition, captured
from shoal._runtime.limited import LimitedMethod, Waiting
from shoal._runtime.submitting import Bindable

if TYPE_CHECKING:
    from shoal._runtime import typed
    from shoal._runtime.actor_base import Actor

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")
C = TypeVar("C")


class ActorHandle(Generic[C]):
    """A reference to an actor; passes through calls and objects like any value."""

    _facts: ActorFacts
    _lifetime: _native.ObjectRef | None

    def __init__(self, facts: ActorFacts, lifetime: _native.ObjectRef | None) -> None:
        self.__dict__["_facts"] = facts
        self.__dict__["_lifetime"] = lifetime

    def __getattr__(self, name: str) -> Any:
        facts = self.__dict__.get("_facts")
        if facts is not None:
            for index, row in enumerate(facts.methods):
                if row.name == name:
                    if facts.max_pending_calls < 0:
                        method = ActorMethod(facts, index, self._lifetime)
                    else:
                        waiting = self.__dict__.setdefault("_waiting", Waiting())
                        method = LimitedMethod(facts, index, self._lifetime, None, waiting)
                    self.__dict__[name] = method
                    return method
            names = [row.name for row in facts.methods if not row.name.startswith("_")]
            reason = "is private" if name.startswith("__") else "does not exist"
            raise AttributeError(
                f"method {name!r} of actor {facts.class_name} {reason};"
                f" its methods: {', '.join(names)}"
            )
        raise AttributeError(name)

    @property
    def _actor_id(self) -> typed_ids.ActorID:
        return typed_ids.ActorID.from_hex(self._facts.actor_id)

    _ray_actor_id = _actor_id

    def __dir__(self) -> list[str]:
        return [row.name for row in self._facts.methods]

    def __hash__(self) -> int:
        return hash(self._facts.actor_id)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ActorHandle):
            return NotImplemented
        return self._facts.actor_id == other._facts.actor_id

    def __reduce__(self) -> Any:
        facts = self._facts
        beside = self._lifetime or captured(sessions.current(), facts.key)
        return _restore_handle, (msgspec.msgpack.encode(facts), self._lifetime, beside)

    def __repr__(self) -> str:
        return f"<actor {self._facts.class_name} {self._facts.actor_id}>"


_ANY_ARGUMENTS = inspect.signature(lambda *args, **kwargs: None)
_facts_decoder = msgspec.msgpack.Decoder(ActorFacts)
_rows_decoder = msgspec.msgpack.Decoder(tuple[MethodRow, ...])


def _restore_handle(
    packed: bytes, lifetime: _native.ObjectRef | None, beside: _native.ObjectRef | None = None
) -> ActorHandle[Any]:
    """``beside``: to the lifetime object, also of a handle that keeps nothing alive."""
    facts = _facts_decoder.decode(packed)
    session = sessions.current_or_none()
    if beside is None or session is None or facts.session == session.id:
        return ActorHandle(facts, lifetime)
    return ActorHandle(_as_here(session, facts, beside.key), lifetime or beside)


def _as_here(session: sessions.Session, facts: ActorFacts, key: int) -> ActorFacts:
    """Of an actor of another node: where its calls wait on this one."""
    body = messages.OpenActor(facts.actor_id, key, len(facts.groups))
    queues = session.request(body, messages.ActorOpened).queues
    groups = zip(facts.groups, queues[1:])
    return msgspec.structs.replace(
        facts,
        session=session.id,
        queue=queues[0][0],
        generation=queues[0][1],
        key=key,
        groups=tuple((name, *at) for (name, _, _), at in groups),
    )


class ActorClass(Generic[C], Bindable):
    """A class whose instances may live in processes of their own."""

    _signature: inspect.Signature | None = None
    """Of the constructor, once it has been asked for."""

    def __init__(
        self, cls: Any, given: Mapping[str, Any], definition: Definition | None = None
    ) -> None:
        self._cls = cls
        self._given = dict(given)
        self._definition = definition or Definition(cls, cls.__qualname__)
        self._rows = method_rows(cls)
        self.__name__ = cls.__name__
        self.__qualname__ = cls.__qualname__
        self.__doc__ = cls.__doc__
        self.__module__ = cls.__module__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Make a plain instance here."""
        return self._cls(*args, **kwargs)

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        return (self._cls,)

    @property
    def __ray_metadata__(self) -> SimpleNamespace:
        """The plain class, where programs written for Ray look for it (RULES T5)."""
        return SimpleNamespace(modified_class=self._cls, class_name=self.__name__)

    @property
    def __ray_actor_class__(self) -> Any:
        """The same by its older name."""
        return self._cls

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_cls" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self._cls, name)

    def options(self, **given: Any) -> ActorClass[C]:
        """Return the same class with other options; those not named stay as they are."""
        checked = options.check("a", given, in_options=True)
        return ActorClass(self._cls, self._given | checked, self._definition)

    def remote(self, *args: Any, **kwargs: Any) -> ActorHandle[Any]:
        """Start an actor and return a handle at once; its constructor runs there.

        Raises:
            ActorAlreadyExistsError: its name is taken.
            TypeError: the arguments do not fit the constructor, or the class is abstract.
        """
        self._check_constructor(args, kwargs)
        try:
            return self._create(args, kwargs)
        except sessions.NATIVE_ERRORS as error:
            raise sessions.translate(error) from None

    def _remote(
        self,
        args: tuple[Any, ...] | list[Any] | None = None,
        kwargs: dict[str, Any] | None = None,
        **given: Any,
    ) -> ActorHandle[Any]:
        chosen = self.options(**given) if given else self
        return chosen.remote(*(args or ()), **(kwargs or {}))

    def _check_constructor(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Say here what would else be said by a process that died of it."""
        if inspect.isabstract(self._cls):
            missing = ", ".join(sorted(self._cls.__abstractmethods__))
            raise TypeError(f"{self.__qualname__} is abstract: it has no {missing}")
        if self._signature is None:
            try:
                self._signature = inspect.signature(self._cls)
            except (TypeError, ValueError):  # made in C, and does not say what it takes
                self._signature = _ANY_ARGUMENTS
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(
                f"{self.__qualname__}.remote(): {error}. It takes {self._signature}"
            ) from None

    def _create(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ActorHandle[Any]:
        given = self._given
        session = sessions.current()
        memory = session.memory
        if options.get(given, "get_if_exists") and not given.get("name"):
            raise errors.OptionError("get_if_exists needs a name", option="get_if_exists")
        key = self._definition.key(session)
        value = [args, kwargs]
        pickled = serialize.dumps(memory, value, unpicklable.ARGUMENTS)
        lifetime = serialize.put_pickled(memory, pickled)
        place, hold = options.actor_amounts(given)
        strategy = strategies.resolve(given, place, f"actor {self._cls.__qualname__}")
        calls = concurrency.decide(self._cls.__qualname__, self._is_asyncio(), self._rows, given)
        spec = messages.ActorSpec(
            function=key,
            arguments=lifetime.key,
            class_name=self._cls.__qualname__,
            methods=msgspec.msgpack.encode(self._rows),
            name=given.get("name"),
            namespace=given.get("namespace") or session.namespace,
            detached=given.get("lifetime") == "detached",
            get_if_exists=bool(options.get(given, "get_if_exists")),
            place=place,
            hold=hold,
            max_restarts=int(options.get(given, "max_restarts")),
            max_task_retries=int(options.get(given, "max_task_retries")),
            strategy=strategy,
            max_concurrency=calls.max_concurrency,
            groups=calls.groups,
            is_asyncio=calls.is_asyncio,
            is_unordered=calls.is_unordered,
            runs_in_threads=calls.is_asyncio and bool(options.get(given, "thread")),
            max_pending_calls=_limit(options.get(given, "max_pending_calls")),
            checkpoint_every=int(options.get(given, "checkpoint_every")),
            holds_refs=bool(pickled.contained),
        )
        environment = inheriting.asked(session, given.get("runtime_env"))
        body = messages.CreateActor(spec, environment)
        info = session.request(body, messages.ActorInfo)
        return handle_of(info, session.id, lifetime) if info.created else _found(session, info)

    def _is_asyncio(self) -> bool:
        known = self.__dict__.get("_has_async")
        if known is None:
            known = self._has_async = concurrency.has_async_methods(self._cls)
        return known

    def __reduce__(self) -> Any:
        return _restore_class, (self._definition, self._given)

    def __copy__(self) -> ActorClass[C]:
        return self

    def __deepcopy__(self, memo: Any) -> ActorClass[C]:
        return self

    def __repr__(self) -> str:
        return f"<actor class {self._cls.__qualname__}>"


def _limit(max_pending_calls: int) -> int:
    return max_pending_calls if max_pending_calls > 0 else -1


def _restore_class(definition: Definition, given: dict[str, Any]) -> ActorClass[Any]:
    return _LazyActorClass(definition, given)


class _LazyActorClass(ActorClass[Any]):
    """An actor class that came here by key: the class itself is loaded when it is looked at.

    Loading at once would not end for a class that names itself.
    """

    def __init__(self, definition: Definition, given: Mapping[str, Any]) -> None:
        self._definition = definition
        self._given = dict(given)
        self.__name__ = self.__qualname__ = definition.name

    def __getattr__(self, name: str) -> Any:
        if name == "_cls":
            self._cls = self._definition.value
            return self._cls
        if name == "_rows":
            self._rows = method_rows(self._cls)
            return self._rows
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._cls, name)


def handle_of(
    info: messages.ActorInfo, session: str, lifetime: _native.ObjectRef | None
) -> ActorHandle[Any]:
    """A handle of the actor that ``info`` describes."""
    spec = info.spec
    facts = ActorFacts(
        actor_id=info.actor_id,
        session=session,
        queue=info.queue,
        generation=info.queue_generation,
        key=spec.arguments,
        class_name=spec.class_name,
        methods=_rows_decoder.decode(spec.methods),
        max_task_retries=spec.max_task_retries,
        name=spec.name,
        groups=tuple((name, *at) for name, at in zip(spec.groups, info.group_queues)),
        is_unordered=spec.is_unordered,
        max_pending_calls=spec.max_pending_calls,
    )
    return ActorHandle(facts, lifetime)


_NO_METHODS = frozenset(
    {*vars(object), "__copy__", "__deepcopy__", "__del__", "__getattr__", "__setstate__"}
)
"""What Python asks a handle for, or calls at the beginning and the end of an instance."""


def _is_called_by_name(cls: type, name: str) -> bool:
    """Whether ``name``, with two underscores, is a method that the class itself has written."""
    if name in _NO_METHODS or name.startswith("__shoal_"):
        return False
    written = (vars(base)[name] for base in cls.__mro__ if name in vars(base))
    return inspect.isfunction(next(written, None))


def method_rows(cls: type) -> tuple[MethodRow, ...]:
    """The table of methods of ``cls`` by name, then those that every actor has."""
    rows = []
    for name in dir(cls):  # sorted
        if name.startswith("__") and not _is_called_by_name(cls, name):
            continue
        member = getattr(cls, name, None)
        if not callable(member) or isinstance(member, type):
            continue
        if getattr(member, "__shoal_local__", False):  # of shoal.Actor
            continue
        given = getattr(member, "__shoal_method__", {})
        is_generator = inspect.isgeneratorfunction(member) or inspect.isasyncgenfunction(member)
        usual = "streaming" if is_generator else 1
        rows.append(
            MethodRow(
                name,
                streams.returns_number(given.get("num_returns", usual)),
                bool(given.get("retry_exceptions", False)),
                given.get("max_task_retries"),
                streams.limit_of(given),
                given.get("concurrency_group"),
                given.get("thread"),
                given.get("timeout_s") or 0.0,
            )
        )
    rows += [MethodRow(name) for name in BUILTIN_METHODS]
    return tuple(rows)


@overload
def method(
    function: Callable[Concatenate[S, P], Coroutine[Any, Any, R]], /
) -> typed.TypedMethod[S, P, R]: ...
@overload
def method(  # type: ignore[overload-overlap]
    function: Callable[Concatenate[S, P], typed.Yielded[R]], /
) -> typed.TypedStream[S, P, R]: ...
@overload
def method(function: Callable[Concatenate[S, P], R], /) -> typed.TypedMethod[S, P, R]: ...
@overload
def method(**given: Unpack[typed.MethodOptions]) -> typed.MethodDecorator: ...
@overload
def method(*, num_returns: int, **given: Unpack[typed.MethodOptions]) -> Callable[[Any], Any]: ...
def method(*args: Any, **given: Any) -> Any:
    """Give a method of an actor class options: ``@method(num_returns=2)``.

    ``@method`` alone changes nothing; type checkers then know ``handle.method.remote`` of classes
    that derive from ``shoal.Actor``.

    Raises:
        OptionError: an option is unknown or wrong.

    Example:
        >>> class Pair(shoal.Actor):
        ...     @shoal.method(num_returns=2)
        ...     def both(self):
        ...         return 1, 2
        >>> shoal.get(Pair.remote().both.remote())
        [1, 2]
    """
    if len(args) == 1 and not given and callable(args[0]):
        return args[0]
    if args or not given:
        raise errors.OptionError(
            "method takes options by name: @method(num_returns=2)."
            f" Valid: {', '.join(options.valid_names('m'))}"
        )
    checked = options.check("m", given)

    def mark(function: Any) -> Any:
        function.__shoal_method__ = checked
        return function

    return mark


def get_actor(name: str, namespace: str | None = None) -> ActorHandle[Any]:
    """Return a handle of the living actor called ``name``; it does not keep the actor alive.

    Raises:
        ActorNotFoundError: there is none (a ``ValueError``).

    Example:
        >>> kept = shoal.remote(dict).options(name="table").remote()
        >>> shoal.get_actor("table") == kept
        True
    """
    if not isinstance(name, str) or not name:
        raise errors.OptionError(f"get_actor needs a name, not {name!r}")
    session = sessions.current()
    body = messages.GetActor(name, session.namespace if namespace is None else namespace)
    return _found(session, session.request(body, messages.ActorInfo))


def _found(session: sessions.Session, info: messages.ActorInfo) -> ActorHandle[Any]:
    """A handle of an actor that was there already, perhaps on another node."""
    handle = handle_of(info, session.id, None)
    if not info.is_elsewhere:
        return handle
    key = info.spec.arguments
    return ActorHandle(_as_here(session, handle._facts, key), session.memory.ref(key))


def kill(actor: ActorHandle[Any] | Actor, *, no_restart: bool = True) -> None:
    """End an actor at once, without running any of its code.

    Args:
        actor: Its handle.
        no_restart: False lets it come back if it has restarts left.

    Example:
        >>> actor = shoal.remote(dict).remote()
        >>> shoal.kill(actor)
    """
    if not isinstance(actor, ActorHandle):
        text = f"kill needs an actor's handle, not a {type(actor).__name__}"
        raise errors.NotARefError(text)
    session = sessions.owner(actor._facts.session)
    session.request(messages.KillActor(actor._facts.actor_id, no_restart), messages.Done)
