"""Operations of several processes on arrays of the CPU, through shared memory.

Actors, tasks or the driver join a *group*, each with a rank, and then call the same operations in
the same order: ``allreduce``, ``reduce``, ``broadcast``, ``allgather``, ``reducescatter``,
``barrier``, or ``send`` and ``recv`` in pairs. Arrays are NumPy arrays or Torch tensors of the CPU,
and are changed in place. The names are those of ``ray.util.collective``::

    @shoal.remote
    class Worker:
        def __init__(self, rank):
            collective.init_collective_group(world_size=2, rank=rank)

        def total(self, array):
            array = array.copy()            # what arrives is read-only
            collective.allreduce(array)
            return array

What goes wrong on one rank (it dies, calls something else, does not come) is an error on all; a
group that has failed is destroyed and joined again. How it works: ``group``, ``passes``,
``control``, ``joining``; what the ranks need of each other in pictures: ``docs/collective.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shoal import errors
from shoal.util.collective import calls, table
from shoal.util.collective.group import Group
from shoal.util.collective.torch_groups import destroy_torch_group, init_torch_group
from shoal.util.collective.types import Backend, ReduceOp

TIMEOUT_S = 30.0


def init_collective_group(
    world_size: int,
    rank: int,
    backend: str = "shm",
    group_name: str = "default",
    gloo_timeout: int | None = None,
    *,
    timeout_s: float = TIMEOUT_S,
) -> None:
    """Join a group, and wait until all its ranks have joined.

    Args:
        world_size: How many ranks it has.
        rank: Which of them this process is, 0 to ``world_size - 1``.
        backend: ``"shm"``. Names of Gloo are taken, with a warning, and mean shared memory.
        group_name: Its name, in this program's namespace. A group that is whole does not keep
            others from forming one of the same name.
        gloo_timeout: As ``timeout_s``, in milliseconds.
        timeout_s: Seconds that a rank waits for others, here and in each operation.

    Raises:
        CollectiveError: this process is in the group already, the rank is taken, the ranks do not
            agree about ``world_size``, or one has died.
        CollectiveTimeoutError: some did not come; it says which.
        OptionError: an argument does not fit.
        NotSupportedError: the backend is one of GPUs.

    Example:
        >>> from shoal.util import collective
        >>> collective.init_collective_group(world_size=1, rank=0)
        >>> collective.get_collective_group_size()
        1
    """
    table.check_backend(backend)
    table.check_ranks(world_size, rank)
    table.join(table.checked_name(group_name), world_size, rank, _timeout(gloo_timeout, timeout_s))


def create_collective_group(
    actors: Sequence[Any],
    world_size: int,
    ranks: Sequence[int],
    backend: str = "shm",
    group_name: str = "default",
    gloo_timeout: int | None = None,
    *,
    timeout_s: float = TIMEOUT_S,
) -> None:
    """Declare actors as a group; each joins it at its first operation.

    Args:
        actors: Their handles.
        world_size: How many ranks the group has.
        ranks: The rank of each of the actors.
        backend: As for ``init_collective_group``.
        group_name: Its name, in this program's namespace.
        gloo_timeout: As ``timeout_s``, in milliseconds.
        timeout_s: Seconds that a rank waits for others, at each operation.

    Raises:
        CollectiveError: a group of that name is declared already.
        OptionError: the ranks do not fit the actors.

    Example:
        >>> import numpy
        >>> from shoal.util import collective
        >>> @shoal.remote
        ... class Worker:
        ...     def total(self, value):
        ...         array = numpy.array([value])
        ...         collective.allreduce(array)
        ...         return int(array[0])
        >>> workers = [Worker.remote(), Worker.remote()]
        >>> collective.create_collective_group(workers, 2, [0, 1])
        >>> shoal.get([worker.total.remote(n) for n, worker in enumerate(workers, 1)])
        [3, 3]
    """
    table.check_backend(backend)
    name = table.checked_name(group_name)
    table.declare(name, actors, world_size, ranks, _timeout(gloo_timeout, timeout_s))


def destroy_collective_group(group_name: str = "default") -> None:
    """Leave a group (in a rank), or take its declaration away (in the driver).

    The others can end the call that they are in, and make no further one. When all have left, the
    name is free; a rank may join the next group of that name at once.

    Raises:
        CollectiveError: there is no such group.

    Example:
        >>> from shoal.util import collective
        >>> collective.init_collective_group(1, 0)
        >>> collective.destroy_collective_group()
        >>> collective.is_group_initialized()
        False
    """
    table.leave(table.checked_name(group_name))


def is_group_initialized(group_name: str = "default") -> bool:
    """Whether this process has joined the group.

    Example:
        >>> from shoal.util import collective
        >>> collective.is_group_initialized("none")
        False
    """
    return table.checked_name(group_name) in table._groups.by_name


def get_rank(group_name: str = "default") -> int:
    """Return the rank of this process, -1 if it is not in the group.

    Example:
        >>> from shoal.util import collective
        >>> collective.get_rank("none")
        -1
    """
    group = table.known(table.checked_name(group_name))
    return -1 if group is None else group.rank


def get_collective_group_size(group_name: str = "default") -> int:
    """Return how many ranks the group has, -1 if this process is not in it.

    Example:
        >>> from shoal.util import collective
        >>> collective.get_collective_group_size("none")
        -1
    """
    group = table.known(table.checked_name(group_name))
    return -1 if group is None else group.ranks


def get_group_handle(group_name: str = "default") -> Group:
    """Return this process's side of the group: ``name``, ``rank``, ``ranks``, ``timeout_s``.

    Raises:
        CollectiveError: this process is not in it.

    Example:
        >>> from shoal.util import collective
        >>> collective.init_collective_group(1, 0)
        >>> collective.get_group_handle().rank
        0
    """
    return table.found(group_name)


def is_backend_available(backend: str) -> bool:
    """Whether a backend of that name is taken.

    Example:
        >>> from shoal.util import collective
        >>> collective.is_backend_available("gloo"), collective.is_backend_available("nccl")
        (True, False)
    """
    return str(backend).lower() in table._SHARED


def gloo_available() -> bool:
    """True: what is written for Gloo runs, through shared memory.

    Example:
        >>> from shoal.util import collective
        >>> collective.gloo_available()
        True
    """
    return True


def nccl_available() -> bool:
    """False: groups are of CPU arrays.

    Example:
        >>> from shoal.util import collective
        >>> collective.nccl_available()
        False
    """
    return False


def barrier(group_name: str = "default") -> None:
    """Wait until every rank is here.

    Raises:
        CollectiveError: as for ``allreduce``.

    Example:
        >>> from shoal.util import collective
        >>> collective.init_collective_group(1, 0)
        >>> collective.barrier()
    """
    calls.barrier(table.found(group_name))


def allreduce(tensor: Any, group_name: str = "default", op: ReduceOp = ReduceOp.SUM) -> None:
    """Combine the arrays of all ranks, element by element; each rank gets the result, in place.

    The values are combined in the order of the ranks: the result is the same on all of them and
    every time, to the last bit.

    Args:
        tensor: An array of numbers, of one dtype and shape on all ranks.
        group_name: Name of the group.
        op: How they are combined.

    Raises:
        CollectiveError: a rank has died or left, or calls something else (another operation,
            dtype, shape or ``op``). The group is broken then, on all ranks.
        CollectiveTimeoutError: a rank did not come in time; it says which.
        TypeError: it is no array of the CPU, or not of numbers.
        ValueError: the array is read-only.

    Example:
        >>> import numpy
        >>> from shoal.util import collective
        >>> collective.init_collective_group(1, 0)
        >>> array = numpy.arange(3)
        >>> collective.allreduce(array)
        >>> array
        array([0, 1, 2])
    """
    calls.reduce(table.found(group_name), tensor, op, -1)


def reduce(
    tensor: Any, dst_rank: int = 0, group_name: str = "default", op: ReduceOp = ReduceOp.SUM
) -> None:
    """Combine the arrays of all ranks; ``dst_rank`` gets the result, in place.

    Raises:
        As ``allreduce``, and OptionError: there is no such rank.

    Example:
        >>> import numpy
        >>> from shoal.util import collective
        >>> collective.init_collective_group(1, 0)
        >>> collective.reduce(numpy.ones(3), dst_rank=0)
    """
    group = table.found(group_name)
    table.check_ranks(group.ranks, dst_rank)
    calls.reduce(group, tensor, op, dst_rank)


def broadcast(tensor: Any, src_rank: int = 0, group_name: str = "default") -> None:
    """Give all ranks the array of ``src_rank``, in place.

    Raises:
        As ``allreduce``, and OptionError: there is no such rank.

    Example:
        >>> import numpy
        >>> from shoal.util import collective
        >>> collective.init_collective_group(1, 0)
        >>> collective.broadcast(numpy.ones(3), src_rank=0)
    """
    group = table.found(group_name)
    table.check_ranks(group.ranks, src_rank)
    calls.broadcast(group, tensor, src_rank)


def allgather(tensor_list: list[Any], tensor: Any, group_name: str = "default") -> None:
    """Put the array of each rank into ``tensor_list``, on all ranks.

    Args:
        tensor_list: One array per rank, like ``tensor``; they are overwritten.
        tensor: This rank's array.
        group_name: Name of the group.

    Raises:
        As ``allreduce``, and OptionError: the list does not fit.

    Example:
        >>> import numpy
        >>> from shoal.util import collective
        >>> collective.init_collective_group(1, 0)
        >>> results = [numpy.zeros(2)]
        >>> collective.allgather(results, numpy.ones(2))
        >>> results
        [array([1., 1.])]
    """
    calls.allgather(table.found(group_name), tensor_list, tensor)


def reducescatter(
    tensor: Any,
    tensor_list: list[Any],
    group_name: str = "default",
    op: ReduceOp = ReduceOp.SUM,
) -> None:
    """Combine ``tensor_list[r]`` of all ranks into ``tensor`` of rank r.

    Args:
        tensor: Where this rank's result goes.
        tensor_list: One array per rank, like ``tensor``.
        group_name: Name of the group.
        op: How they are combined.

    Raises:
        As ``allreduce``, and OptionError: the list does not fit.

    Example:
        >>> import numpy
        >>> from shoal.util import collective
        >>> collective.init_collective_group(1, 0)
        >>> result = numpy.zeros(2)
        >>> collective.reducescatter(result, [numpy.ones(2)])
        >>> result
        array([1., 1.])
    """
    calls.reducescatter(table.found(group_name), tensor, tensor_list, op)


def send(tensor: Any, dst_rank: int, group_name: str = "default") -> None:
    """Send an array to one rank, which calls ``recv``.

    Returns when the array may be changed again: up to 1 MiB goes ahead of a receiver that has not
    come yet.

    Raises:
        As ``allreduce``, and OptionError: there is no such rank, or it is this one.

    Example:
        >>> import numpy
        >>> from shoal.util import collective
        >>> @shoal.remote
        ... def sender():
        ...     collective.init_collective_group(2, 1)
        ...     collective.send(numpy.ones(2), dst_rank=0)
        >>> sent = sender.remote()
        >>> collective.init_collective_group(2, 0)
        >>> array = numpy.zeros(2)
        >>> collective.recv(array, src_rank=1)
        >>> array
        array([1., 1.])
    """
    group = table.found(group_name)
    _check_peer(group, "dst_rank", dst_rank)
    calls.send(group, tensor, dst_rank)


def recv(tensor: Any, src_rank: int, group_name: str = "default") -> None:
    """Receive an array of one rank, which calls ``send``, into ``tensor``.

    Raises:
        As ``send``.

    Example:
        >>> import numpy
        >>> from shoal.util import collective
        >>> @shoal.remote
        ... def receiver():
        ...     collective.init_collective_group(2, 1)
        ...     array = numpy.zeros(2)
        ...     collective.recv(array, src_rank=0)
        ...     return array
        >>> received = receiver.remote()
        >>> collective.init_collective_group(2, 0)
        >>> collective.send(numpy.ones(2), dst_rank=1)
        >>> shoal.get(received)
        array([1., 1.])
    """
    group = table.found(group_name)
    _check_peer(group, "src_rank", src_rank)
    calls.receive(group, tensor, src_rank)


def _check_peer(group: Group, option: str, rank: int) -> None:
    table.check_ranks(group.ranks, rank)
    if rank == group.rank:
        raise errors.OptionError(f"{option} {rank} is this rank itself", option=option)


def _timeout(gloo_timeout: int | None, timeout_s: float) -> float:
    seconds = timeout_s if gloo_timeout is None else gloo_timeout / 1000
    if not isinstance(seconds, int | float) or not seconds > 0:
        raise errors.OptionError(
            f"a group needs a timeout above 0, not {seconds!r}", option="timeout_s"
        )
    return float(seconds)


def _of_gpus(name: str) -> Any:
    def refused(*arguments: Any, **options: Any) -> None:
        raise errors.NotSupportedError(
            f"{name} works on arrays of GPUs, and groups here are of CPU arrays:"
            f" use {name.removesuffix('_multigpu')}"
        )

    refused.__name__ = refused.__qualname__ = name
    refused.__doc__ = f"""Refused: groups are of CPU arrays.

    Raises:
        NotSupportedError: always.

    Example:
        >>> from shoal.util import collective
        >>> collective.{name}([])
        Traceback (most recent call last):
        ...
        shoal.errors.NotSupportedError: {name} works on arrays of GPUs, ...
    """
    return refused


allreduce_multigpu = _of_gpus("allreduce_multigpu")
reduce_multigpu = _of_gpus("reduce_multigpu")
broadcast_multigpu = _of_gpus("broadcast_multigpu")
allgather_multigpu = _of_gpus("allgather_multigpu")
reducescatter_multigpu = _of_gpus("reducescatter_multigpu")
send_multigpu = _of_gpus("send_multigpu")
recv_multigpu = _of_gpus("recv_multigpu")

__all__ = [
    "Backend",
    "Group",
    "ReduceOp",
    "allgather",
    "allgather_multigpu",
    "allreduce",
    "allreduce_multigpu",
    "barrier",
    "broadcast",
    "broadcast_multigpu",
    "create_collective_group",
    "destroy_collective_group",
    "destroy_torch_group",
    "get_collective_group_size",
    "get_group_handle",
    "get_rank",
    "gloo_available",
    "init_collective_group",
    "init_torch_group",
    "is_backend_available",
    "is_group_initialized",
    "nccl_available",
    "recv",
    "recv_multigpu",
    "reduce",
    "reduce_multigpu",
    "reducescatter",
    "reducescatter_multigpu",
    "send",
    "send_multigpu",
]
