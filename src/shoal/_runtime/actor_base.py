"""``shoal.Actor``: a base class for actors whose handles have types.

A class decorator can not change what mypy believes of a class, and none can give ``.remote`` to its
methods. A base class can::

    class Counter(shoal.Actor, num_cpus=1):
        def __init__(self, start: int = 0) -> None: ...

        @shoal.method
        def add(self, n: int) -> int: ...

    counter = Counter.remote(5)       # for type checkers a Counter whose methods have .remote
    ref = counter.add.remote(1)       # ObjectRef[int]

The class stays a class: it can be instantiated here, inherited from, and used as annotation. At run
time it is an ordinary actor class; handles are the same ``ActorHandle``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, Unpack
from weakref import WeakKeyDictionary

from shoal._runtime import options
from shoal._runtime.actor import ActorClass

if TYPE_CHECKING:
    from shoal._runtime import typed
    from shoal._runtime.typed import TypedHandle
else:
    TypedHandle = object

P = ParamSpec("P")
T = TypeVar("T")

_actor_classes: WeakKeyDictionary[type, ActorClass[Any]] = WeakKeyDictionary()


class Actor(TypedHandle):
    """A base class for actors: ``Counter.remote(...)`` without a decorator, and typed handles.

    Options stand behind the bases, ``class Counter(shoal.Actor, num_cpus=1)``, and are inherited.

    Example:
        >>> class Counter(shoal.Actor):
        ...     def __init__(self, start: int = 0) -> None:
        ...         self.n = start
        ...
        ...     @shoal.method
        ...     def add(self, n: int) -> int:
        ...         self.n += n
        ...         return self.n
        >>> shoal.get(Counter.remote(5).add.remote(1))
        6
    """

    __shoal_options__: dict[str, Any] = {}

    def __init_subclass__(cls, **given: Any) -> None:
        super().__init_subclass__()
        if given:
            cls.__shoal_options__ = cls.__shoal_options__ | options.check("a", given)

    @classmethod
    def remote(cls: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Start an actor of this class; see ``ActorClass.remote``."""
        handle: Any = _actor_class(cls).remote(*args, **kwargs)
        made: T = handle
        return made

    @classmethod
    def options(
        cls: Callable[P, T], **given: Unpack[typed.ActorOptions]
    ) -> typed.ActorClass[Callable[P, T]]:
        """Return the actor class with other options."""
        chosen: Any = _actor_class(cls).options(**given)
        made: typed.ActorClass[Callable[P, T]] = chosen
        return made

    # These two are called here, and are no methods of the actor (``method_rows``).
    remote.__func__.__shoal_local__ = True  # type: ignore[attr-defined]
    options.__func__.__shoal_local__ = True  # type: ignore[attr-defined]


def _actor_class(cls: Any) -> ActorClass[Any]:
    found = _actor_classes.get(cls)
    if found is None:
        found = _actor_classes[cls] = ActorClass(cls, cls.__shoal_options__)
    return found
