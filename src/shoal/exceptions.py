"""Errors under the names of Ray, which programs written for it catch.

Nearly all of them are names for classes of ``shoal.errors`` (each class lists its own in ``ray``),
so ``except ray.exceptions.X`` catches what Shoal raises. The classes below mean what cannot happen
here. They exist because ``except`` clauses name them, and are never raised.
"""

from __future__ import annotations

from typing import Any

from shoal import errors


class NeverRaisedError(errors.ShoalError):
    """Base of the classes that only stand in ``except`` clauses."""


class ActorClassInheritanceException(NeverRaisedError):
    """A class may come from a remote one: it comes from the plain class behind it."""


class AsyncioActorExit(NeverRaisedError):
    """``exit_actor`` in a coroutine ends it without an exception that users see."""


class AuthenticationError(NeverRaisedError):
    """A session of one machine is reached through a socket of its user, without a token."""


class CrossLanguageError(NeverRaisedError):
    """There is no other language."""


class ObjectRefStreamEndOfStreamError(NeverRaisedError):
    """Generators of refs end as Python's do."""


class PlasmaObjectNotAvailable(NeverRaisedError):
    """A value is there or lost; ``get`` waits for it or says which."""


class RayDirectTransportError(NeverRaisedError):
    """Tensors travel through node memory."""


_names = errors.of_ray()


def __getattr__(name: str) -> Any:
    found = _names.get(name)
    if found is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return found
