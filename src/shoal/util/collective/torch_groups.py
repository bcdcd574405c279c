"""Process groups of ``torch.distributed`` between actors and tasks, by Gloo over the loopback.

The ranks meet in a group of our own, which checks sizes and ranks and says who is missing; rank 0
names a file in the session's directory, and ``torch.distributed`` does the rest through it. Nothing
listens but Gloo's own sockets, at the loopback interface.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import numpy as np

from shoal import errors
from shoal._base import environment
from shoal._runtime import session as sessions
from shoal.util.collective import calls, table

_MEETING = "torch.distributed"
_PATH_BYTES = 4096


def init_torch_group(world_size: int, rank: int, *, timeout_s: float = 30.0) -> Any:
    """Make this process a rank of ``torch.distributed``, with Gloo; then call that as it is.

    Args:
        world_size: How many ranks there are.
        rank: Which of them this process is.
        timeout_s: Seconds that ranks wait for each other, here and in operations of Torch.

    Returns:
        The module ``torch.distributed``.

    Raises:
        CollectiveError: as for ``init_collective_group``.
        NotSupportedError: Torch is not installed, or has no Gloo.

    Example:
        >>> import torch
        >>> from shoal.util import collective
        >>> dist = collective.init_torch_group(world_size=1, rank=0)
        >>> tensor = torch.ones(2)
        >>> dist.all_reduce(tensor)
        >>> tensor
        tensor([1., 1.])
        >>> collective.destroy_torch_group()
    """
    table.check_ranks(world_size, rank)
    dist = _torch_distributed()
    if dist.is_initialized():
        raise errors.CollectiveError(
            "this process is in a group of torch.distributed already: destroy it first",
            group=_MEETING,
            rank=rank,
        )
    group = table.join(_MEETING, world_size, rank, timeout_s)
    try:
        path = np.zeros(_PATH_BYTES, np.uint8)
        if rank == 0:
            name = os.path.join(sessions.current().directory, f"torch-{os.urandom(8).hex()}")
            path[: len(name.encode())] = np.frombuffer(name.encode(), np.uint8)
        calls.broadcast(group, path, 0)
        environment.set_loopback_of_gloo()
        store = dist.FileStore(bytes(path).rstrip(b"\0").decode(), world_size)
        dist.init_process_group(
            "gloo",
            store=store,
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=timeout_s),
        )
        calls.barrier(group)
    finally:
        table.leave(_MEETING)
    return dist


def destroy_torch_group() -> None:
    """Leave the group of ``torch.distributed``.

    Example:
        >>> from shoal.util import collective
        >>> dist = collective.init_torch_group(world_size=1, rank=0)
        >>> collective.destroy_torch_group()
        >>> dist.is_initialized()
        False
    """
    dist = _torch_distributed()
    if dist.is_initialized():
        dist.destroy_process_group()


def _torch_distributed() -> Any:
    try:
        import torch.distributed as dist
    except ImportError:
        raise errors.NotSupportedError(
            "torch is not installed: pip install torch, or use init_collective_group"
        ) from None
    if not dist.is_available() or not dist.is_gloo_available():
        raise errors.NotSupportedError("this torch has no Gloo: use init_collective_group")
    return dist
