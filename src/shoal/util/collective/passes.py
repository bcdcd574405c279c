"""Large calls: chunk by chunk through the regions, so that what travels stays in the cache.

Each rank has ``SLOTS`` slots of ``REGION_BYTES``. In calls that combine, a slot has one part for
each rank: in ``slot[q]`` of rank r stands what r gives for q to combine, and in ``slot[r]`` what r
has combined. Three words of each rank count chunks over the whole life of the group::

    filled    what others read of chunk k stands in my slot
    reduced   ... my part of chunk k is combined, and stands in my slot
    taken     I have read what I need of chunk k

    allreduce, a step   fill(k) | combine(k - 1) | take(k - 2)

A chunk is a region full: with smaller ones the ranks wait more often, and from 256 KiB to 2 MiB the
CPU time is the same. Every wait of a step is for what others did in their former step, so no two
ranks wait for each other. Slot k % SLOTS is filled again when the readers of
chunk k - SLOTS say so.

Bytes per rank, for an array of S bytes and n ranks (read / written; a copy is S / S)::

    allreduce       S (3n - 2) / n  + S / n of the cache   /   S (2n - 1) / n + S / n
    reduce          S (2n - 1) / n, at the target S (3n - 2) / n   /   S, there S (2n - 1) / n
    broadcast       S   /   S
    allgather       S n   /   S (n + 1)
    reducescatter   S (2n - 1)  (S: of one part)   /   S n

Invariants:

1. Who arrives at a call knows that all slots are free: everybody has arrived.
2. ``done`` is equal on all ranks before and after every call, also of ranks that had nothing to do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from shoal.util.collective.arrays import Combine
from shoal.util.collective.control import FILLED, REDUCED, TAKEN
from shoal.util.collective.group import SLOTS, Group

Finish = Callable[[Any], Any] | None
"""What is done to what was combined (dividing, for averages)."""


def _wait_free(group: Group, kind: int, other: int, k: int) -> None:
    """Wait until ``other`` has done with the slot that chunk ``k`` goes into.

    Nobody has anything in the first ones: other calls may have left words of theirs behind.
    """
    if k >= SLOTS:
        group.wait_for(kind, other, group.done + k - SLOTS + 1)


class _Parts:
    """How the chunks of an array fall into one part per rank."""

    def __init__(self, group: Group, array: Any) -> None:
        slots = group.regions(array.dtype)
        room = len(slots[0][0]) // group.ranks
        self.slots = [
            [[s[q * room :][:room] for q in range(group.ranks)] for s in r] for r in slots
        ]
        self.part = room
        self.ranks = group.ranks
        self.array = array
        self.chunks = -(-array.size // (self.part * group.ranks))

    def of(self, k: int, q: int) -> Any:
        """The part of chunk ``k`` that rank ``q`` combines."""
        start = k * self.part * self.ranks
        rest = self.array.size - start
        part = min(self.part, -(-rest // self.ranks))
        return self.array[start + q * part : min(start + (q + 1) * part, self.array.size)]


def combined(group: Group, array: Any, combine: Combine, finish: Finish, target: int) -> None:
    """Allreduce (target -1), or reduce to one rank, of a flat array, in place."""
    parts, me, first = _Parts(group, array), group.rank, group.done
    last = parts.chunks
    takers = group.others if target < 0 else [r for r in group.others if r == target]
    is_taker = target in (-1, me)
    for step in range(last + 2):
        if step < last:
            slot = parts.slots[me][step % SLOTS]
            for other in group.others:
                _wait_free(group, REDUCED, other, step)
                source = parts.of(step, other)
                np.copyto(slot[other][: source.size], source)
            group.tell(FILLED, first + step + 1)
        if 0 <= step - 1 < last:
            k = step - 1
            for other in takers:
                _wait_free(group, TAKEN, other, k)
            for other in group.others:
                group.wait_for(FILLED, other, first + k + 1)
            own = parts.of(k, me)
            cell = parts.slots[me][k % SLOTS][me][: own.size]
            sources = [parts.slots[r][k % SLOTS][me][: own.size] for r in range(group.ranks)]
            sources[me] = own
            fold(sources, cell, combine, finish)
            group.tell(REDUCED, first + k + 1)
            if is_taker:
                np.copyto(own, cell)
        if step >= 2:
            k = step - 2
            if is_taker:
                for other in group.others:
                    group.wait_for(REDUCED, other, first + k + 1)
                    place = parts.of(k, other)
                    np.copyto(place, parts.slots[other][k % SLOTS][other][: place.size])
            group.tell(TAKEN, first + k + 1)
    group.done = first + last


def fold(sources: list[Any], out: Any, combine: Combine, finish: Finish) -> None:
    """Combine the sources in their order; ``out`` may be none of them but the first two."""
    combine(sources[0], sources[1], out)
    for source in sources[2:]:
        combine(out, source, out)
    if finish is not None:
        finish(out)


def broadcast(group: Group, array: Any, source: int) -> None:
    """From ``source`` to all, of a flat array of bytes."""
    slots = group.regions(array.dtype)[source]
    chunk = len(slots[0])
    first, chunks = group.done, -(-array.size // chunk)
    for k in range(chunks):
        piece = array[k * chunk : (k + 1) * chunk]
        cell = slots[k % SLOTS][: piece.size]
        if group.rank == source:
            for other in group.others:
                _wait_free(group, TAKEN, other, k)
            np.copyto(cell, piece)
            group.tell(FILLED, first + k + 1)
        else:
            group.wait_for(FILLED, source, first + k + 1)
            np.copyto(piece, cell)
            group.tell(TAKEN, first + k + 1)
    group.done = first + chunks


def gathered(group: Group, outputs: list[Any], array: Any) -> None:
    """Allgather of a flat array of bytes."""
    slots = group.regions(array.dtype)
    chunk = len(slots[0][0])
    me, first, chunks = group.rank, group.done, -(-array.size // chunk)
    for k in range(chunks + 1):
        if k < chunks:
            piece = array[k * chunk : (k + 1) * chunk]
            for other in group.others:
                _wait_free(group, TAKEN, other, k)
            np.copyto(slots[me][k % SLOTS][: piece.size], piece)
            group.tell(FILLED, first + k + 1)
            np.copyto(outputs[me][k * chunk : (k + 1) * chunk], piece)
        if k >= 1:
            for other in group.others:
                group.wait_for(FILLED, other, first + k)
                place = outputs[other][(k - 1) * chunk : k * chunk]
                np.copyto(place, slots[other][(k - 1) % SLOTS][: place.size])
            group.tell(TAKEN, first + k)
    group.done = first + chunks


def scattered(
    group: Group, output: Any, inputs: list[Any], combine: Combine, finish: Finish
) -> None:
    """Reducescatter: ``output`` of rank r is what all have in ``inputs[r]``, combined."""
    slots = group.regions(output.dtype)
    ranks, me, first = group.ranks, group.rank, group.done
    part = room = len(slots[0][0]) // ranks
    chunks = -(-output.size // part)
    for step in range(chunks + 1):
        if step < chunks:
            slot = slots[me][step % SLOTS]
            for other in group.others:
                _wait_free(group, REDUCED, other, step)
                piece = inputs[other][step * part : (step + 1) * part]
                np.copyto(slot[other * room :][: piece.size], piece)
            group.tell(FILLED, first + step + 1)
        if step >= 1:
            k = step - 1
            own = inputs[me][k * part : (k + 1) * part]
            sources = []
            for r in range(ranks):
                if r != me:
                    group.wait_for(FILLED, r, first + k + 1)
                sources.append(own if r == me else slots[r][k % SLOTS][me * room :][: own.size])
            # Not straight into the output, which may be the same memory as one of the inputs.
            cell = slots[me][k % SLOTS][me * room :][: own.size]
            fold(sources, cell, combine, finish)
            group.tell(REDUCED, first + k + 1)
            np.copyto(output[k * part : (k + 1) * part], cell)
    group.done = first + chunks
