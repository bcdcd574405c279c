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
from shoal._proto import messages
from shoal._runtime import options, serialize, strategies, streams, unpicklable
from shoal._runtime import session as sessions
from shoal._runtime.environments import inheriting
from shoal._runtime.functions import Definition
from shoal._runtime.submitting import Submitting

if TYPE_CHECKING:
    from shoal._runtime import typed
    from shoal._runtime.actor_base import Actor

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")
C = TypeVar("C")

READY = "__ray_ready__"
TERMINATE = "__ray_terminate__"
CALL = "__ray_call__"
BUILTIN_METHODS = (READY, TERMINATE, CALL)


class MethodRow(msgspec.Struct, frozen=True, array_like=True):
    """What a caller must know of one method."""

    name: str
    n_returns: int = 1
    retry_exceptions: bool = False
    max_task_retries: int | None = None
    limit: int = 0
    """Items of its stream that may be unseen; 0: any number."""


class ActorFacts(msgspec.Struct, frozen=True, array_like=True):
    """What every handle of one actor knows."""

    actor_id: str
    session: str
    queue: int
    generation: int
    key: int
    """Of the lifetime object."""
    class_name: str
    methods: tuple[MethodRow, ...]
    max_task_retries: int = 0
    name: str | None = None

    def method_name(self, index: int) -> str:
        """Name of the method with number ``index``."""
        return self.methods[index].name


class ActorMethod(Submitting):
    """One method of one actor: ``handle.method.remote(...)``."""

    def __init__(
        self, facts: ActorFacts, index: int, lifetime: Any, given: Mapping[str, Any] | None = None
    ) -> None:
        self._facts = facts
        self._index = index
        self._lifetime = lifetime
        self._given = given or {}

    def options(self, **given: Any) -> ActorMethod:
        """Return the same method with other options (``num_returns``, ``max_task_retries``)."""
        checked = options.check("m", given, in_options=True)
        return ActorMethod(self._facts, self._index, self._lifetime, {**self._given, **checked})

    def _remote(
        self,
        args: tuple[Any, ...] | list[Any] | None = None,
        kwargs: dict[str, Any] | None = None,
        **given: Any,
    ) -> Any:
        chosen = self.options(**given) if given else self
        return chosen.remote(*(args or ()), **(kwargs or {}))

    def _prepare(self) -> _native.Template:
        facts = self._facts
        session = sessions.owner(facts.session)
        row = facts.methods[self._index]
        given = self._given
        retries = facts.max_task_retries
        if row.max_task_retries is not None:
            retries = row.max_task_retries
        n_returns = self._n_returns()
        flags = _native.FLAG_ACTOR | streams.flags_of(n_returns)
        if given.get("retry_exceptions", row.retry_exceptions):
            flags |= _native.FLAG_RETRY_EXCEPTIONS
        template = _native.Template(
            function=0,
            queue=facts.queue,
            queue_generation=facts.generation,
            job=session.job,
            method=self._index,
            n_returns=max(n_returns, 1) if flags & streams.ANY else n_returns,
            max_retries=int(given.get("max_task_retries", retries)),
            flags=flags,
            actor=facts.key,
            limit=streams.limit_of(given) or row.limit,
        )
        return self._ready(session, template)

    def _is_queue_gone(self) -> bool:
        facts = self._facts
        assert self._memory is not None
        return self._memory.is_queue_dead(facts.queue, facts.generation)

    def _submit_again(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The actor is dead and its queue is gone."""
        return self._failed(_cause_of(self._facts))

    def _n_returns(self) -> int:
        row = self._facts.methods[self._index]
        return streams.returns_number(self._given.get("num_returns", row.n_returns))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        name = self._facts.method_name(self._index)
        raise TypeError(f"methods of an actor run there: call handle.{name}.remote(...)")

    def __repr__(self) -> str:
        return f"<method {self._facts.class_name}.{self._facts.method_name(self._index)}>"


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
                    method = ActorMethod(facts, index, self._lifetime)
                    self.__dict__[name] = method
                    return method
            names = [row.name for row in facts.methods if row.name not in BUILTIN_METHODS]
            reason = "is private" if name.startswith("_") else "does not exist"
            raise AttributeError(
                f"method {name!r} of actor {facts.class_name} {reason};"
                f" its methods: {', '.join(names)}"
            )
        raise AttributeError(name)

    @property
    def _actor_id(self) -> str:
        return self._facts.actor_id

    @property
    def _ray_actor_id(self) -> str:
        return self._facts.actor_id

    def __dir__(self) -> list[str]:
        return [row.name for row in self._facts.methods]

    def __hash__(self) -> int:
        return hash(self._facts.actor_id)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ActorHandle):
            return NotImplemented
        return self._facts.actor_id == other._facts.actor_id

    def __reduce__(self) -> Any:
        return _restore_handle, (msgspec.msgpack.encode(self._facts), self._lifetime)

    def __repr__(self) -> str:
        return f"<actor {self._facts.class_name} {self._facts.actor_id}>"


def _cause_of(facts: ActorFacts) -> bytes:
    """Record of why the actor is dead."""
    try:
        body = messages.DescribeActor(facts.actor_id)
        info = sessions.current().request(body, messages.ActorInfo)
        if info.cause:
            return info.cause
    except errors.ActorNotFoundError:  # dead for so long that even its tombstone is gone
        pass
    error = errors.ActorDiedError(
        actor_id=facts.actor_id, class_name=facts.class_name, name=facts.name
    )
    return errors.to_record(error)


_facts_decoder = msgspec.msgpack.Decoder(ActorFacts)
_rows_decoder = msgspec.msgpack.Decoder(tuple[MethodRow, ...])


def _restore_handle(facts: bytes, lifetime: _native.ObjectRef | None) -> ActorHandle[Any]:
    return ActorHandle(_facts_decoder.decode(facts), lifetime)


class ActorClass(Generic[C]):
    """A class whose instances may live in processes of their own."""

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
        """
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

    def _create(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ActorHandle[Any]:
        given = self._given
        session = sessions.current()
        memory = session.memory
        if options.get(given, "get_if_exists") and not given.get("name"):
            raise errors.OptionError("get_if_exists needs a name", option="get_if_exists")
        key = self._definition.key(session)
        value = [args, kwargs]
        lifetime = serialize.put_pickled(
            memory, serialize.dumps(memory, value, unpicklable.ARGUMENTS)
        )
        place, hold = options.actor_amounts(given)
        strategy = strategies.resolve(given, place, f"actor {self._cls.__qualname__}")
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
        )
        environment = inheriting.asked(session, given.get("runtime_env"))
        body = messages.CreateActor(spec, environment)
        info = session.request(body, messages.ActorInfo)
        return handle_of(info, session.id, lifetime if info.created else None)

    def __reduce__(self) -> Any:
        return _restore_class, (self._definition, self._given)

    def __copy__(self) -> ActorClass[C]:
        return self

    def __deepcopy__(self, memo: Any) -> ActorClass[C]:
        return self

    def __repr__(self) -> str:
        return f"<actor class {self._cls.__qualname__}>"


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
    )
    return ActorHandle(facts, lifetime)


def method_rows(cls: type) -> tuple[MethodRow, ...]:
    """The table of methods of ``cls``: public ones by name, then those that every actor has."""
    rows = []
    for name in dir(cls):  # sorted
        if name.startswith("_") and name != "__call__":
            continue
        member = getattr(cls, name, None)
        if not callable(member) or isinstance(member, type):
            continue
        if getattr(member, "__shoal_local__", False):  # of shoal.Actor
            continue
        if name == "__call__" and not any("__call__" in vars(base) for base in cls.__mro__):
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
            )
        )
    rows += [MethodRow(name) for name in BUILTIN_METHODS]
    return tuple(rows)


@overload
def method(
    function: Callable[Concatenate[S, P], Coroutine[Any, Any, R]], /
) -> typed.TypedMethod[S, P, R]: ...
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
    """
    if not isinstance(name, str) or not name:
        raise errors.OptionError(f"get_actor needs a name, not {name!r}")
    session = sessions.current()
    body = messages.GetActor(name, session.namespace if namespace is None else namespace)
    return handle_of(session.request(body, messages.ActorInfo), session.id, None)


def kill(actor: ActorHandle[Any] | Actor, *, no_restart: bool = True) -> None:
    """End an actor at once, without running any of its code.

    Args:
        actor: Its handle.
        no_restart: False lets it come back if it has restarts left.
    """
    if not isinstance(actor, ActorHandle):
        text = f"kill needs an actor's handle, not a {type(actor).__name__}"
        raise errors.NotARefError(text)
    session = sessions.owner(actor._facts.session)
    session.request(messages.KillActor(actor._facts.actor_id, no_restart), messages.Done)
