"""Sending from one rank to another: a block of its own per direction, made at the first message.

``SLOTS`` slots go round; ``sent`` and ``received`` count chunks over the life of the group. A
message has at least one chunk, and each chunk says in its slot what message it is of. ``send``
returns when the last chunk stands in the block, so messages of up to ``SLOTS`` chunks do not wait
for a receiver.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from shoal import lowlevel
from shoal._runtime import objects
from shoal.util.collective.control import TEXT_BYTES
from shoal.util.collective.group import Group

SLOTS = 4
CHUNK_BYTES = 256 << 10
_SLOT_BYTES = TEXT_BYTES + CHUNK_BYTES


class _Pair(NamedTuple):
    slots: list[Any]
    """Bytes of each slot: a text and a chunk."""
    counts: list[int]
    """How many chunks we have sent or received."""
    holder: Any


def _opened(block: Any, holder: Any) -> _Pair:
    cells = np.frombuffer(block, np.uint8)
    return _Pair(list(cells.reshape(SLOTS, _SLOT_BYTES)), [0], holder)


def _shown(text: str) -> Any:
    return np.frombuffer(text.encode()[:TEXT_BYTES].ljust(TEXT_BYTES, b"\0"), np.uint8)


def send(group: Group, array: Any, text: str, target: int) -> None:
    """Send a flat array of bytes."""
    me, control = group.rank, group.control
    pair = group.pairs.get((me, target))
    if pair is None:
        block = lowlevel.shared_block(SLOTS * _SLOT_BYTES)
        holder = objects.put([block])
        pair = group.pairs[me, target] = _opened(block, holder)
        control.set_pair_key(me, target, holder.key)
    shown, sent = _shown(text), control.sent(me, target)
    received = control.received(me, target)
    for start in range(0, max(1, array.size), CHUNK_BYTES):
        count = pair.counts[0]
        group.wait_word(received, target, count - SLOTS + 1)
        slot = pair.slots[count % SLOTS]
        piece = array[start : start + CHUNK_BYTES]
        slot[:TEXT_BYTES] = shown
        np.copyto(slot[TEXT_BYTES : TEXT_BYTES + piece.size], piece)
        pair.counts[0] = count + 1
        group.block.store(sent, count + 1)


def receive(group: Group, array: Any, text: str, source: int) -> None:
    """Receive a message of exactly this dtype and shape into a flat array of bytes."""
    me, control = group.rank, group.control
    shown, sent = _shown(text), control.sent(source, me)
    received = control.received(source, me)
    for start in range(0, max(1, array.size), CHUNK_BYTES):
        pair = group.pairs.get((source, me))
        count = 0 if pair is None else pair.counts[0]
        group.wait_word(sent, source, count + 1)
        if pair is None:
            pair = _opened(group.open(control.pair_key(source, me)), None)
            group.pairs[source, me] = pair
        slot = pair.slots[count % SLOTS]
        if not np.array_equal(slot[:TEXT_BYTES], shown):
            other = bytes(slot[:TEXT_BYTES]).rstrip(b"\0").decode()
            texts = f"rank {source} sends {other}, rank {me} receives {text}"
            group.break_off("differs", f"the ranks call different things: {texts}")
        piece = array[start : start + CHUNK_BYTES]
        np.copyto(piece, slot[TEXT_BYTES : TEXT_BYTES + piece.size])
        pair.counts[0] = count + 1
        group.block.store(received, count + 1)
