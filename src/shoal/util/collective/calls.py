"""The operations: what is asked of their arguments, and whether they are small or large."""

from __future__ import annotations

from typing import Any

import numpy as np

from shoal import errors
from shoal.util.collective import arrays, pairs, passes
from shoal.util.collective.arrays import Flat
from shoal.util.collective.group import Group, fits_small
from shoal.util.collective.types import ReduceOp


def barrier(group: Group) -> None:
    """Wait until all are here."""

    def run() -> None:
        group.next()
        group.arrive("barrier")

    group.call(run)


def reduce(group: Group, tensor: Any, op: ReduceOp, target: int) -> None:
    """Combine on all ranks (target -1) or one."""
    is_taker = target in (-1, group.rank)
    one = arrays.flat(tensor, is_written=is_taker)
    combine = arrays.combiner(one, op)
    finish = arrays.average(one, group.ranks) if op is ReduceOp.AVERAGE else None
    array = one.array
    where = "allreduce" if target < 0 else f"reduce to {target}"
    text = f"{where} {op.name} {one.text}"

    def run() -> None:
        parity = group.next()
        if not fits_small(array.nbytes):
            group.arrive(text)
            if group.ranks > 1:
                passes.combined(group, array, combine, finish, target)
            return
        cells = [small[parity][: array.size] for small in group.small(array.dtype)]
        np.copyto(cells[group.rank], array)
        group.arrive(text)
        if is_taker and group.ranks > 1:
            passes.fold(cells, array, combine, finish)

    group.call(run)
    one.give_back()


def broadcast(group: Group, tensor: Any, source: int) -> None:
    """From one rank to all."""
    one = arrays.flat(tensor, is_written=group.rank != source)
    array = arrays.as_bytes(one.array)
    text = f"broadcast from {source} {one.text}"

    def run() -> None:
        parity = group.next()
        if not fits_small(array.size):
            group.arrive(text)
            passes.broadcast(group, array, source)
            return
        cell = group.small(array.dtype)[source][parity][: array.size]
        if group.rank == source:
            np.copyto(cell, array)
        group.arrive(text)
        if group.rank != source:
            np.copyto(array, cell)

    group.call(run)
    one.give_back()


def allgather(group: Group, tensors: list[Any], tensor: Any) -> None:
    """From each to all."""
    one = arrays.flat(tensor, is_written=False)
    outputs = _each(group, tensors, one, is_written=True)
    array, places = arrays.as_bytes(one.array), [arrays.as_bytes(o.array) for o in outputs]
    text = f"allgather {one.text}"

    def run() -> None:
        parity = group.next()
        if not fits_small(array.size):
            group.arrive(text)
            passes.gathered(group, places, array)
            return
        cells = [small[parity][: array.size] for small in group.small(array.dtype)]
        np.copyto(cells[group.rank], array)
        group.arrive(text)
        for place, cell in zip(places, cells):
            np.copyto(place, cell)

    group.call(run)
    for output in outputs:
        output.give_back()


def reducescatter(group: Group, tensor: Any, tensors: list[Any], op: ReduceOp) -> None:
    """Combine, one part for each."""
    one = arrays.flat(tensor, is_written=True)
    inputs = [each.array for each in _each(group, tensors, one, is_written=False)]
    combine = arrays.combiner(one, op)
    finish = arrays.average(one, group.ranks) if op is ReduceOp.AVERAGE else None
    output, size, ranks = one.array, one.array.size, group.ranks
    text = f"reducescatter {op.name} {one.text}"

    def run() -> None:
        parity = group.next()
        if ranks == 1:
            group.arrive(text)
            np.copyto(output, inputs[0])
            return
        if not fits_small(output.nbytes * ranks):
            group.arrive(text)
            passes.scattered(group, output, inputs, combine, finish)
            return
        views = [small[parity] for small in group.small(output.dtype)]
        for rank, each in enumerate(inputs):
            np.copyto(views[group.rank][rank * size : (rank + 1) * size], each)
        group.arrive(text)
        start = group.rank * size
        passes.fold([view[start : start + size] for view in views], output, combine, finish)

    group.call(run)
    one.give_back()


def _each(group: Group, tensors: Any, one: Flat, *, is_written: bool) -> list[Flat]:
    if not isinstance(tensors, list | tuple) or len(tensors) != group.ranks:
        count = f"{len(tensors)}" if isinstance(tensors, list | tuple) else repr(tensors)
        raise errors.OptionError(
            f"tensor_list needs one array for each of the {group.ranks} ranks, not {count}",
            option="tensor_list",
        )
    found = [arrays.flat(each, is_written=is_written) for each in tensors]
    for rank, each in enumerate(found):
        if each.text != one.text:
            raise errors.OptionError(
                f"tensor_list[{rank}] is {each.text}, but tensor is {one.text}",
                option="tensor_list",
            )
    return found


def send(group: Group, tensor: Any, target: int) -> None:
    """To one rank."""
    one = arrays.flat(tensor, is_written=False)
    array = arrays.as_bytes(one.array)
    lock = group.locks[group.rank, target]
    group.call(lambda: pairs.send(group, array, one.text, target), lock)


def receive(group: Group, tensor: Any, source: int) -> None:
    """From one rank."""
    one = arrays.flat(tensor, is_written=True)
    array = arrays.as_bytes(one.array)
    lock = group.locks[source, group.rank]
    group.call(lambda: pairs.receive(group, array, one.text, source), lock)
    one.give_back()
