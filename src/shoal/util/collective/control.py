"""The memory in which the ranks of a group meet: one shared block, drawn here.

::

    row 0         broken: 0, 1 while its reason is written, 2; reason: msgpack of (kind, text)
    row 1, 2      regions: key of the block of the large regions; leavers: how many have left
    5 x n rows    of each rank, by kind: pid, arrived, filled, reduced, taken
    n x n rows    of each pair: key of its block, sent
    n x n rows    of each pair: received
    texts         two per rank: which call it makes, for messages
    smalls        two per rank, ``SMALL_BYTES`` each: what small calls give

A row is 128 bytes and has one word that others wait for, at ``rank % 16``: words of a shared block
that are 16 apart have the same bell, so whoever waits for a rank is woken by that rank only.

Invariants:

1. Each word but those of rows 0 to 2 has one writer. It only grows, but for two flags: LEFT, set by
   its owner when it leaves, and BROKEN, added by whoever breaks the group.
2. A group that is broken stays so; the reason is written once, by whoever was first.
3. What stands under one parity of ``texts`` and ``smalls`` is overwritten two calls later, and a
   call ends only when every rank has arrived at it: by then nobody reads the call before.
"""

from __future__ import annotations

from typing import Any

import msgspec

ROW = 16
"""Words of a row."""
TEXT_BYTES = 128
SMALL_BYTES = 32 << 10
REASON_BYTES = 1024

LEFT = 1 << 61
BROKEN = 1 << 62
VALUE = (1 << 60) - 1

PID, ARRIVED, FILLED, REDUCED, TAKEN = range(5)
_BROKEN_WORD, _REGIONS_WORD, _LEAVERS_WORD = 0, ROW, 2 * ROW
_KEY_MASK = (1 << 64) - 1


def nbytes(ranks: int) -> int:
    """How large the block of a group is."""
    return _small_at(ranks, ranks, 0)


def _text_at(ranks: int) -> int:
    rows = 3 + 5 * ranks + 2 * ranks * ranks
    return rows * ROW * 8 + REASON_BYTES


def _small_at(ranks: int, rank: int, parity: int) -> int:
    texts = _text_at(ranks) + 2 * ranks * TEXT_BYTES
    return texts + (2 * rank + parity) * SMALL_BYTES


class Control:
    """One process's view of the block."""

    def __init__(self, block: Any, ranks: int) -> None:
        self.block = block
        self.ranks = ranks
        self.bytes = memoryview(block)

    def word(self, kind: int, rank: int) -> int:
        """Index of a word of ``rank``."""
        return (3 + kind * self.ranks + rank) * ROW + rank % ROW

    def sent(self, source: int, target: int) -> int:
        """Index of the word that says how much ``source`` has sent to ``target``."""
        row = 3 + 5 * self.ranks + source * self.ranks + target
        return row * ROW + source % ROW

    def key(self, source: int, target: int) -> int:
        """Index of the key of their block, beside the word of what was sent."""
        word = self.sent(source, target)
        return word + 1 if (word + 1) % ROW else word - 1

    def received(self, source: int, target: int) -> int:
        """Index of the word that says how much ``target`` has taken of it."""
        row = 3 + (5 + self.ranks) * self.ranks + source * self.ranks + target
        return row * ROW + target % ROW

    def own_words(self, rank: int) -> list[int]:
        """Every word that others may wait for ``rank`` at, but its pid."""
        others = range(self.ranks)
        words = [self.word(kind, rank) for kind in (ARRIVED, FILLED, REDUCED, TAKEN)]
        words += [self.sent(rank, other) for other in others]
        return words + [self.received(other, rank) for other in others]

    def text(self, rank: int, parity: int) -> memoryview:
        """Where ``rank`` says which call it makes."""
        start = _text_at(self.ranks) + (2 * rank + parity) * TEXT_BYTES
        return self.bytes[start : start + TEXT_BYTES]

    def small(self, rank: int, parity: int) -> tuple[int, int]:
        """From which byte to which ``rank`` gives what is small."""
        start = _small_at(self.ranks, rank, parity)
        return start, start + SMALL_BYTES

    # ---- who is there

    def claim(self, rank: int, pid: int) -> bool:
        """Take a rank, also of a broken group; False if it is taken."""
        word, swap = self.word(PID, rank), self.block.compare_swap
        return bool(swap(word, 0, pid) or swap(word, BROKEN, BROKEN | pid))

    def pid(self, rank: int) -> int:
        """The process that has ``rank``; 0 while it is free."""
        return int(self.block.load(self.word(PID, rank))) & VALUE

    def has_left(self, rank: int) -> bool:
        """Whether it has destroyed the group on its side."""
        return bool(self.block.load(self.word(ARRIVED, rank)) & LEFT)

    def leave(self, rank: int) -> int:
        """Tell the others; how many have left."""
        for word in self.own_words(rank):
            self.block.store(word, self.block.load(word) | LEFT)
        return int(self.block.add(_LEAVERS_WORD, 1))

    # ---- the end

    def break_off(self, kind: str, text: str) -> None:
        """Break the group, unless it is broken, and wake everybody."""
        if not self.block.compare_swap(_BROKEN_WORD, 0, 1):
            return
        text = text.encode()[: REASON_BYTES - 64].decode(errors="ignore")
        reason = msgspec.msgpack.encode((kind, text))
        start = _text_at(self.ranks) - REASON_BYTES
        self.bytes[start : start + len(reason) + 2] = len(reason).to_bytes(2, "little") + reason
        self.block.store(_BROKEN_WORD, 2)
        for rank in range(self.ranks):
            self.block.add(self.word(PID, rank), BROKEN)
            for word in self.own_words(rank):
                self.block.add(word, BROKEN)

    def is_broken(self) -> bool:
        """Whether nothing works any more."""
        return bool(self.block.load(_BROKEN_WORD))

    def reason(self) -> tuple[str, str]:
        """(kind, text) of what broke the group."""
        if self.block.load(_BROKEN_WORD) == 1:
            self.block.wait(_BROKEN_WORD, 1, 1.0)
        start = _text_at(self.ranks) - REASON_BYTES
        size = int.from_bytes(self.bytes[start : start + 2], "little")
        if not size:
            return "died", "a rank died while it told why it broke off"
        found: tuple[str, str] = msgspec.msgpack.decode(
            self.bytes[start + 2 : start + 2 + size], type=tuple[str, str]
        )
        return found

    # ---- other blocks

    def regions_key(self) -> int:
        """Key of the block of the large regions, 0 while there is none."""
        return int(self.block.load(_REGIONS_WORD)) & _KEY_MASK

    def wait_regions(self, timeout_s: float) -> None:
        """Wait until there may be one."""
        self.block.wait(_REGIONS_WORD, 0, timeout_s)

    def set_regions(self, key: int) -> None:
        """Say where it is."""
        self.block.store(_REGIONS_WORD, signed(key))

    def pair_key(self, source: int, target: int) -> int:
        """Key of the block through which ``source`` sends to ``target``."""
        return int(self.block.load(self.key(source, target))) & _KEY_MASK

    def set_pair_key(self, source: int, target: int, key: int) -> None:
        """Say where it is."""
        self.block.store(self.key(source, target), signed(key))


def signed(key: int) -> int:
    """A key of an object as the words of a block have it."""
    return key - (1 << 64) if key >> 63 else key
