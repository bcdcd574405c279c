"""The groups of this process, and those that a driver has declared for its actors."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from typing import Any

import msgspec

from shoal import errors, lowlevel
from shoal._runtime import context
from shoal._runtime import session as sessions
from shoal.util.collective import joining
from shoal.util.collective.group import Group

DECLARED = "collective-declared"
_SHARED = ("shm", "gloo", "torch", "torch_gloo")


class _Declared(msgspec.Struct, array_like=True):
    world_size: int
    timeout_s: float
    ranks: dict[str, int]
    """By the id of the actor."""


class _Groups:
    """By name; they end with the session."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.by_name: dict[str, Group] = {}

    def reset(self) -> None:
        """The session has ended."""
        with self.lock:
            former, self.by_name = self.by_name, {}
        for group in former.values():
            group.leave()


_groups = _Groups()


def checked_name(name: Any) -> str:
    """The name of a group."""
    if not isinstance(name, str) or not name or "\0" in name:
        raise errors.OptionError(
            f"group_name must be a text that is not empty, not {name!r}", option="group_name"
        )
    return name


def check_backend(backend: Any) -> None:
    """Say what a name of a backend means here.

    Raises:
        NotSupportedError: it is one of GPUs.
        OptionError: it is none.
    """
    word = str(backend).lower()
    if word == "nccl":
        raise errors.NotSupportedError(
            "backend='nccl' works on arrays of GPUs; groups here are of CPU arrays: leave it out"
        )
    if word not in _SHARED:
        raise errors.OptionError(
            f"backend must be one of {', '.join(_SHARED)}, not {backend!r}",
            option="backend",
            valid=list(_SHARED),
        )
    if word != "shm":
        warnings.warn(
            f"backend={backend!r}: groups go through shared memory here; for torch.distributed"
            " itself use init_torch_group",
            UserWarning,
            stacklevel=3,
        )


def check_ranks(world_size: Any, rank: Any) -> None:
    """Both are integers that fit."""
    for option, value in (("world_size", world_size), ("rank", rank)):
        if not isinstance(value, int) or isinstance(value, bool):
            raise errors.OptionError(f"{option} must be an integer, not {value!r}", option=option)
    if not 1 <= world_size <= 1024:
        raise errors.OptionError(
            f"world_size must be 1 to 1024, not {world_size}", option="world_size"
        )
    if not 0 <= rank < world_size:
        raise errors.OptionError(
            f"rank must be 0 to {world_size - 1} (world_size - 1), not {rank}", option="rank"
        )


def join(name: str, world_size: int, rank: int, timeout_s: float) -> Group:
    """Join a group; this process is in none of that name yet."""
    session = sessions.current()
    if name in _groups.by_name:
        raise joining.failed(
            "twice", name, rank, f"this process is in group {name!r} already: destroy it first"
        )
    group = Group(name, world_size, rank, timeout_s)
    with _groups.lock:
        _groups.by_name[name] = group
    session.on_end(_groups)
    return group


def leave(name: str) -> None:
    """Leave the group, and take a declaration of it away."""
    with _groups.lock:
        group = _groups.by_name.pop(name, None)
    if group is not None:
        group.leave()
    is_declared = lowlevel.kv_delete(_declaration(name), namespace=DECLARED)
    if group is None and not is_declared:
        raise joining.failed("none", name, -1, f"there is no group {name!r} in this process")


def known(name: str) -> Group | None:
    """The group of this process, joining it now if the driver has declared it for this actor."""
    group = _groups.by_name.get(name)
    actor_id = context.process.actor_id
    if group is not None or actor_id is None:
        return group
    value = lowlevel.kv_get(_declaration(name), namespace=DECLARED)
    if value is None:
        return None
    declared = msgspec.msgpack.decode(value, type=_Declared)
    rank = declared.ranks.get(actor_id)
    if rank is None:
        return None
    with _groups.lock:
        found = _groups.by_name.get(name)
        return found or join(name, declared.world_size, rank, declared.timeout_s)


def found(name: str) -> Group:
    """The group of this process.

    Raises:
        CollectiveError: it is in no such group.
    """
    group = _groups.by_name.get(name) or known(checked_name(name))
    if group is None:
        text = f"this process is in no group {name!r}: call init_collective_group in it, or"
        text += " create_collective_group in the driver"
        raise joining.failed("none", name, -1, text)
    return group


def declare(
    name: str, actors: Sequence[Any], world_size: int, ranks: Sequence[int], timeout_s: float
) -> None:
    """Say which actors have which ranks."""
    ids = [actor._actor_id.hex() for actor in actors]
    if len(ids) != len(ranks):
        raise errors.OptionError(f"there are {len(ids)} actors and {len(ranks)} ranks")
    if not ids:
        raise errors.OptionError("a group needs actors", option="actors")
    for rank in ranks:
        check_ranks(world_size, rank)
    if len(set(ranks)) < len(ranks) or len(set(ids)) < len(ids):
        raise errors.OptionError(f"an actor or a rank stands twice: ranks {list(ranks)}")
    row = msgspec.msgpack.encode(_Declared(world_size, timeout_s, dict(zip(ids, ranks))))
    if not lowlevel.kv_put(_declaration(name), row, namespace=DECLARED, overwrite=False):
        raise joining.failed(
            "twice", name, -1, f"a group {name!r} is declared already: destroy it first"
        )


def _declaration(name: str) -> bytes:
    return f"{sessions.current().namespace}\0{name}".encode()
