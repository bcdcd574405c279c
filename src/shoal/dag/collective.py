"""Operations of several actors in a graph: ``allreduce``, ``allgather``, ``reducescatter``.

::

    with InputNode() as inp:
        gradients = [worker.gradient.bind(inp) for worker in workers]
        sums = allreduce.bind(gradients)             # one node per actor, in this order
        graph = MultiOutputNode([w.step.bind(s) for w, s in zip(workers, sums)])

The arrays (NumPy's, or Torch tensors of the CPU) go through the regions of ``util.collective`` and
not through channels; each actor gets a new array, and what it gave stays as it is.

The driver makes one *room* per operation, the memory of a group, and hands it to the actors: nobody
looks for anybody by name, and whoever ends the graph breaks the room with it. A compiled graph has
its rooms for life; ``execute`` of one that is not compiled makes a room per call.

Invariants:

1. Each rank comes to every execution of an operation. One that has no array (what it needed has
   failed, or is no array) comes with its error, which all ranks then raise: nobody waits in vain,
   and the graph stays usable. So it does when the arrays do not fit each other.
2. Nobody waits for a rank with a deadline: that is for who waits for the graph. A rank that dies,
   and the end of the process that executes the graph, break the room.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from shoal import errors, lowlevel
from shoal._runtime import objects, serialize
from shoal._runtime.actor_method import ActorMethod
from shoal._runtime.execute import error_of_call
from shoal.dag.nodes import ClassMethodNode, CollectiveNode, parts_of
from shoal.util import collective
from shoal.util.collective import calls, control, joining
from shoal.util.collective.arrays import combiner, flat
from shoal.util.collective.group import Apart, Group
from shoal.util.collective.types import ReduceOp

NO_DEADLINE_S = float("inf")
_FAILED = "an error"
_SIZE_BYTES = 4


class Operation:
    """What the ranks do together; travels to them."""

    def __init__(self, name: str, op: ReduceOp = ReduceOp.SUM) -> None:
        self.name = name
        self.op = op

    def room(self, ranks: int) -> Room:
        """The place where so many actors meet for it."""
        return Room(self, lowlevel.shared_block(control.nbytes(ranks)), ranks)

    def begin(self, handles: Sequence[Any], args: Sequence[Sequence[Any]]) -> list[Any]:
        """Do it once: a call of each actor, each with its refs; what the calls return."""
        room = self.room(len(handles))
        made = []
        for rank, (handle, refs) in enumerate(zip(handles, args, strict=True)):
            call = handle.__ray_call__.options(num_returns=len(refs), max_task_retries=0)
            made.append(call.remote(_begin_call, room, rank, list(refs)))
            first = made[-1][0] if len(refs) > 1 else made[-1]
            first.future().add_done_callback(partial(_call_ended, room, rank))
        return made

    def run(self, group: Group, value: Any) -> Any:
        """One rank's part of it, with one array; the result."""
        if isinstance(value, np.generic):
            value = np.asarray(value)
        one = flat(value, is_written=False)
        if self.name == "allreduce":
            out = _copy(value)
            calls.reduce(group, out, self.op, -1)
            return out
        if self.name == "reducescatter":
            combiner(one, self.op)
        shape = tuple(value.shape)
        if not shape:
            raise ValueError(f"{self.name} needs arrays with a dimension to divide, not a number")
        if self.name == "allgather":
            out = _empty(value, (shape[0] * group.ranks, *shape[1:]))
            calls.allgather(group, _parts(out, group.ranks), value)
            return out
        if shape[0] % group.ranks:
            raise ValueError(
                f"reducescatter of an array of {shape[0]} rows among {group.ranks} actors: the"
                " first dimension must be a multiple of their number"
            )
        out = _empty(value, (shape[0] // group.ranks, *shape[1:]))
        calls.reducescatter(group, out, _parts(value, group.ranks), self.op)
        return out


def _copy(value: Any) -> Any:
    """A contiguous array of one's own."""
    if isinstance(value, np.ndarray):
        return np.array(value, order="C")
    return value.detach().contiguous().clone()


def _empty(like: Any, shape: tuple[int, ...]) -> Any:
    if isinstance(like, np.ndarray):
        return np.empty(shape, like.dtype)
    return like.detach().new_empty(shape)


def _parts(array: Any, count: int) -> list[Any]:
    rows = array.shape[0] // count
    return [array[i * rows : (i + 1) * rows] for i in range(count)]


# ---- the actors' side ---------------------------------------------------------------------------


class Room:
    """Where the actors of one operation meet; travels to them."""

    def __init__(self, operation: Operation, block: Any, ranks: int) -> None:
        self.operation = operation
        self._block = block
        self._ranks = ranks
        self._owner = os.getpid()

    def close(self, error: BaseException | None) -> None:
        """Nobody can use it any more; who waits in it is let out."""
        text = str(error or "the graph has ended").partition("\nWhat to do")[0][:500]
        control.Control(self._block, self._ranks).break_off("ended", text)

    def enter(self, rank: int) -> Seat:
        """Take a place in it, and wait until all have theirs.

        Raises:
            ChannelClosedError: the room was closed.
        """
        name = self.operation.name
        place = joining.handed_over(self._block, self._ranks, rank, name, self._owner)
        try:
            return Seat(self.operation, Group(name, self._ranks, rank, NO_DEADLINE_S, place))
        except errors.CollectiveError:
            raise _closed(place.control) from None


class Seat:
    """One rank's place in a room."""

    def __init__(self, operation: Operation, group: Group) -> None:
        self._operation = operation
        self._group = group

    def take_part(self, *values: Any) -> Any:
        """One execution of the operation, with an array or several; as many results.

        Raises:
            GraphError: the arrays of the ranks do not fit each other.
            ChannelClosedError: the room was closed.
        """
        try:
            done = tuple(self._operation.run(self._group, value) for value in values)
        except Apart as apart:
            raise self._reason(apart) from None
        except Exception as error:  # of any kind: the other ranks wait to hear of it
            self._raise_if_closed()
            self.excuse(error)
            raise
        return done[0] if len(done) == 1 else done

    def excuse(self, error: BaseException) -> None:
        """Come with an error in the place of an array."""
        group = self._group
        name = self._operation.name
        data = _packed(error if isinstance(error, errors.TaskError) else error_of_call(error, name))

        def run() -> None:
            cell = group.small(np.dtype(np.uint8))[group.rank][group.next()]
            cell[:_SIZE_BYTES].view("<u4")[0] = len(data)
            cell[_SIZE_BYTES:][: len(data)] = np.frombuffer(data, np.uint8)
            group.arrive(_FAILED)

        try:
            group.call(run)
        except Apart:
            pass  # as was to be expected
        except errors.CollectiveError:
            self._raise_if_closed()
            raise

    def leave(self) -> None:
        """Be gone."""
        self._group.leave()

    def _reason(self, apart: Apart) -> BaseException:
        """Why nothing was done: the error of the first rank that had one, or the difference."""
        for rank, text in enumerate(apart.texts):
            if text == _FAILED:
                cell = self._group.small(np.dtype(np.uint8))[rank][apart.parity]
                size = int(cell[:_SIZE_BYTES].view("<u4")[0])
                return serialize.unpack_error(bytes(cell[_SIZE_BYTES:][:size]))
        came = "; ".join(f"rank {rank}: {text}" for rank, text in enumerate(apart.texts))
        return errors.GraphError(
            f"{self._operation.name} needs arrays of one dtype and shape from all actors ({came})"
        )

    def _raise_if_closed(self) -> None:
        if self._group.control.is_broken():
            raise _closed(self._group.control) from None


def _closed(broken: control.Control) -> errors.ChannelClosedError:
    return errors.ChannelClosedError(broken.reason()[1])


def _packed(error: errors.TaskError) -> bytes:
    """What travels of an error, in a room's cell."""
    memory = lowlevel.memory()
    data = serialize.pack_error(memory, error).data
    if len(data) > control.SMALL_BYTES - _SIZE_BYTES:
        text = f"{str(error)[:200]} ... (the rest is larger than what can be sent)"
        data = serialize.pack_error(memory, errors.TaskError(text, None)).data
    return data


def _begin_call(instance: Any, room: Room, rank: int, refs: list[Any]) -> lowlevel.Background:
    """One rank's part of a graph that is not compiled; called in its actor."""
    return lowlevel.Background(lambda inside: _once(room, rank, refs), partial(room.close, None))


def _once(room: Room, rank: int, refs: list[Any]) -> Any:
    try:
        seat = room.enter(rank)
    except errors.ChannelClosedError as error:
        raise _not_whole(room, rank, error) from None
    try:
        try:
            values = objects.get(refs)
        except errors.ShoalError as error:
            seat.excuse(error)
            raise
        return seat.take_part(*values)
    except errors.ChannelClosedError as error:
        raise _not_whole(room, rank, error) from None
    finally:
        seat.leave()


def _not_whole(room: Room, rank: int, error: errors.ChannelClosedError) -> errors.CollectiveError:
    """What a rank of a graph that is not compiled hears if another does not come."""
    name = room.operation.name
    return errors.CollectiveError(f"{name} is not whole: {error._message}", group=name, rank=rank)


def _call_ended(room: Room, rank: int, ended: Any) -> None:
    """In the driver: a rank that has died comes no more, which the others are told."""
    error = ended.exception()
    if isinstance(error, errors.LostError):
        room.close(error)


# ---- what people write --------------------------------------------------------------------------


class _Bindable:
    """What the three operations have in common."""

    name = ""

    def _bind(self, inputs: Any, op: Any, transport: Any) -> list[Any]:
        if transport is not None and str(transport).lower() not in ("auto", "shm", "gloo"):
            raise errors.NotSupportedError(
                f"transport={transport!r}: arrays travel through shared memory, on CPUs. What to"
                " do: leave it out"
            )
        if not isinstance(op, ReduceOp):
            raise errors.GraphError(f"op must be a ReduceOp, not {op!r}")
        is_nested = isinstance(inputs, list | tuple) and any(
            isinstance(item, list | tuple) for item in inputs
        )
        if is_nested and self.name != "allreduce":
            text = f"{self.name}.bind takes one list of nodes; only allreduce takes several"
            raise errors.GraphError(text)
        rows = list(inputs) if is_nested else [inputs]
        for row in rows:
            self._check(row, rows[0])
        columns: list[tuple[ClassMethodNode, ...]] = list(zip(*rows))
        outputs = CollectiveNode(Operation(self.name, op), columns).outputs
        if len(rows) == 1:
            return list(outputs)
        return [list(parts_of(output, len(rows))) for output in outputs]

    def _check(self, row: Any, first: Any) -> None:
        if not isinstance(row, list | tuple) or not row:
            raise errors.GraphError(
                f"{self.name}.bind takes a list with one node of each actor, not {row!r}"
            )
        for node in row:
            if not isinstance(node, ClassMethodNode):
                raise errors.GraphError(
                    f"{self.name}.bind takes values that methods of actors return, not {node!r}"
                )
        actors = [_actor_in(node) for node in row]
        if len(set(actors)) < len(actors):
            raise errors.GraphError(
                f"an actor stands twice in {self.name}.bind: {', '.join(n.label for n in row)}."
                " What to do: bind one node of each actor"
            )
        if actors != [_actor_in(node) for node in first]:
            raise errors.GraphError(
                f"the lists of {self.name}.bind must have the same actors in the same order"
            )


def _actor_in(node: ClassMethodNode) -> Any:
    """What tells the actor of a node from others."""
    owner = node.call.owner
    return owner._facts.actor_id if isinstance(owner, ActorMethod) else owner


class _AllReduce(_Bindable):
    """Combine the arrays of all actors; each gets the result."""

    name = "allreduce"

    def bind(self, inputs: Any, op: ReduceOp = ReduceOp.SUM, transport: Any = None) -> list[Any]:
        """One node per actor; for a list of lists, per actor a list of as many nodes as lists.

        Args:
            inputs: One node of each actor, all arrays of one dtype and shape; or several such
                lists, of the same actors in the same order.
            op: How the arrays are combined.
            transport: Nothing: arrays travel through shared memory.

        Raises:
            GraphError: these are no nodes of different actors.

        Example:
            >>> import numpy
            >>> from shoal.dag import InputNode, MultiOutputNode, collective
            >>> @shoal.remote
            ... class Worker:
            ...     def times(self, x):
            ...         return numpy.array([x, 10 * x])
            >>> workers = [Worker.remote(), Worker.remote()]
            >>> with InputNode() as inp:
            ...     graph = MultiOutputNode(
            ...         collective.allreduce.bind([worker.times.bind(inp) for worker in workers])
            ...     )
            >>> with graph.compile() as compiled:
            ...     shoal.get(compiled.execute(3))
            [array([ 6, 60]), array([ 6, 60])]
        """
        return self._bind(inputs, op, transport)

    def __call__(
        self, tensor: Any, group_name: str = "default", op: ReduceOp = ReduceOp.SUM
    ) -> None:
        """``shoal.util.collective.allreduce``, for a rank of a group."""
        collective.allreduce(tensor, group_name, op)


class _AllGather(_Bindable):
    """Give all actors the arrays of all, one after the other along the first dimension."""

    name = "allgather"

    def bind(self, inputs: Any, transport: Any = None) -> list[Any]:
        """One node per actor; arguments and errors as for ``allreduce.bind``."""
        return self._bind(inputs, ReduceOp.SUM, transport)

    def __call__(self, tensor_list: list[Any], tensor: Any, group_name: str = "default") -> None:
        """``shoal.util.collective.allgather``, for a rank of a group."""
        collective.allgather(tensor_list, tensor, group_name)


class _ReduceScatter(_Bindable):
    """Combine the arrays of all actors; each gets its part of the rows, in the order of the list.

    The first dimension must be a multiple of the number of actors.
    """

    name = "reducescatter"

    def bind(self, inputs: Any, op: ReduceOp = ReduceOp.SUM, transport: Any = None) -> list[Any]:
        """One node per actor; arguments and errors as for ``allreduce.bind``."""
        return self._bind(inputs, op, transport)

    def __call__(
        self,
        tensor: Any,
        tensor_list: list[Any],
        group_name: str = "default",
        op: ReduceOp = ReduceOp.SUM,
    ) -> None:
        """``shoal.util.collective.reducescatter``, for a rank of a group."""
        collective.reducescatter(tensor, tensor_list, group_name, op)


allreduce = _AllReduce()
allgather = _AllGather()
reducescatter = _ReduceScatter()

__all__ = ["ReduceOp", "allgather", "allreduce", "reducescatter"]
