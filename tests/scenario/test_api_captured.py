"""Large values that a function captured are stored once, and each worker writes to its own copy."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

import shoal
from shoal import lowlevel

N = 6_250_000
"""50 MB of numbers."""


def test_a_captured_array_is_stored_once() -> None:
    shoal.init(num_cpus=2)
    memory = lowlevel.memory()
    captured = np.ones(N)

    @shoal.remote
    def item(i: int) -> float:
        return float(captured[i])

    before = memory.usage()[0]
    assert shoal.get(item.remote(0)) == 1
    once = memory.usage()[0]
    assert captured.nbytes <= once - before < 1.1 * captured.nbytes
    refs = [item.remote(i) for i in range(100)]
    assert memory.usage()[0] - once < 4 << 20, "a call holds no copy of what is captured"
    assert shoal.get(refs) == [1.0] * 100
    assert shoal.get(item.options(num_cpus=2).remote(1)) == 1, "another class, the same export"
    del refs
    assert memory.usage()[0] - once < 4 << 20


def test_a_captured_array_is_private_to_who_writes_it() -> None:
    shoal.init(num_cpus=2)
    captured = np.zeros(200_000)

    @shoal.remote
    def add() -> tuple[int, float]:
        captured[0] += 1
        return os.getpid(), float(captured[0])

    seen: dict[int, list[float]] = {}
    for pid, value in shoal.get([add.remote() for _ in range(20)]):
        seen.setdefault(pid, []).append(value)
    for values in seen.values():
        assert sorted(values) == list(range(1, len(values) + 1)), "each worker counts for itself"
    assert captured[0] == 0


def test_a_captured_array_of_a_class_is_writable_too() -> None:
    shoal.init(num_cpus=2)
    table = np.zeros(200_000)

    @shoal.remote
    class Writer:
        def add(self) -> float:
            table[0] += 1
            return float(table[0])

    writers: list[Any] = [Writer.remote(), Writer.remote()]
    assert shoal.get([w.add.remote() for w in writers for _ in range(2)]) == [1, 2, 1, 2]
    assert table[0] == 0
