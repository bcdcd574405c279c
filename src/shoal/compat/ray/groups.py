"""``ray.experimental.collective``: groups of actors that the driver makes and ends.

Ours join by themselves (``shoal.util.collective``); these functions have the actors do it, and
remember the groups in the process that made them, as Ray's do.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any, NamedTuple

from shoal import errors
from shoal._runtime import objects
from shoal._runtime import session as sessions
from shoal.util import collective
from shoal.util.collective import Backend


class CommunicatorHandle(NamedTuple):
    """A group that was made here."""

    actors: list[Any]
    """In the order of their ranks."""
    name: str
    backend: str

    def get_rank(self, actor: Any) -> int:
        """The rank of an actor, -1 if it is none of them."""
        ids = [each._actor_id for each in self.actors]
        return ids.index(actor._actor_id) if actor._actor_id in ids else -1


class _Made:
    """The groups of this process; they end with the session."""

    def __init__(self) -> None:
        self.by_name: dict[str, CommunicatorHandle] = {}

    def reset(self) -> None:
        """The session has ended."""
        self.by_name.clear()


_made = _Made()


def create_collective_group(
    actors: Sequence[Any], backend: str, name: str | None = None
) -> CommunicatorHandle:
    """Have the actors join a group, with ranks in their order, and wait until all have joined."""
    handles = list(actors)
    if len({handle._actor_id for handle in handles}) < len(handles):
        raise ValueError(f"an actor stands twice in the group: {handles}")
    made = CommunicatorHandle(handles, name or str(uuid.uuid4()), Backend(backend))
    objects.get(
        [
            handle.__ray_call__.remote(_join, len(handles), rank, backend, made.name)
            for rank, handle in enumerate(handles)
        ]
    )
    _made.by_name[made.name] = made
    sessions.current().on_end(_made)
    return made


def get_collective_groups(
    actors: Sequence[Any] | None = None, backend: str | None = None
) -> list[CommunicatorHandle]:
    """The groups made here that have all these actors."""
    word = None if backend is None else Backend(backend)
    return [
        made
        for made in _made.by_name.values()
        if word in (None, made.backend) and all(made.get_rank(a) >= 0 for a in actors or ())
    ]


def destroy_collective_group(group_or_name: CommunicatorHandle | str) -> None:
    """Have the actors leave a group that was made here."""
    given: Any = group_or_name
    name: str = given.name if isinstance(given, CommunicatorHandle) else given
    made = _made.by_name.pop(name, None)
    if made is None:
        raise ValueError(f"no group {name!r} was made by this process")
    for ref in [handle.__ray_call__.remote(_leave, made.name) for handle in made.actors]:
        try:
            objects.get(ref)
        except (errors.ActorError, errors.CollectiveError):
            pass  # it is in no group any more


def destroy_all_collective_groups() -> None:
    """Have the actors leave all groups that were made here."""
    for name in list(_made.by_name):
        destroy_collective_group(name)


def _join(instance: Any, world_size: int, rank: int, backend: str, name: str) -> None:
    collective.init_collective_group(world_size, rank, backend, name)


def _leave(instance: Any, name: str) -> None:
    collective.destroy_collective_group(name)
