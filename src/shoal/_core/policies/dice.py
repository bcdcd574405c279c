"""Chance for deciding code: a stream of numbers from a seed that it was given.

``_core`` has no chance of its own (DESIGN section 10, rule 7), yet two nodes that see the same must
not choose the same. So each machine is given a seed once, and the same seed with the same events
gives the same decisions. The generator is splitmix64 (Steele, Lea and Flood, OOPSLA 2014): one
multiplication-free state, two multiplications a number, and every seed is a good one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")
_MASK = (1 << 64) - 1


class Dice:
    """Numbers that look random and can be had again."""

    __slots__ = ("_state",)

    def __init__(self, seed: int) -> None:
        self._state = seed & _MASK

    def next_u64(self) -> int:
        """The next 64 bits."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        z = self._state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        return z ^ (z >> 31)

    def below(self, count: int) -> int:
        """A number from 0 to ``count - 1``. The bias of the product is below 2^-32 for what is
        counted here."""
        assert 0 < count < 1 << 32
        return (self.next_u64() >> 32) * count >> 32

    def two(self, items: Sequence[T]) -> tuple[T, T]:
        """Two of them, different ones if there are two."""
        count = len(items)
        first = self.below(count)
        if count == 1:
            return items[first], items[first]
        second = self.below(count - 1)
        return items[first], items[second + (second >= first)]
