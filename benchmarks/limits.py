"""The machine's limits, measured in the same run: those of `limits.c` and a few of Python's own.

A limit is a rate in the unit of the cases that it stands beside (round trips or calls per second,
GB/s), so that ours / limit is a plain ratio.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np


def compiled() -> dict[str, tuple[float, str]]:
    """What `limits.c` prints: name -> (value, unit)."""
    source = Path(__file__).with_name("limits.c")
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "limits"
        compiler = os.environ.get("CC", "cc")
        command = [compiler, "-O2", "-pthread", str(source), "-o", str(program)]
        subprocess.run(command, check=True)
        output = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    rows = (line.split() for line in output.splitlines())
    return {name: (float(value), unit) for name, value, unit in rows}


def best_us(function: Callable[[], object], repeats: int) -> float:
    """Microseconds per call, the best of five runs."""
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(repeats):
            function()
        best = min(best, (time.perf_counter() - start) / repeats * 1e6)
    return best


def nothing() -> None:
    return None


def python_start() -> None:
    subprocess.run([sys.executable, "-c", "pass"], check=True)


def shrinking_list(length: int = 1000) -> None:
    """What a thousand `wait(not_ready)` must do at least: make each of the shorter lists."""
    waiting: list[object] = [None] * length
    while waiting:
        waiting = waiting[1:]


def load_arrays(count: int = 10) -> Callable[[], object]:
    """Loading a dict of arrays whose bytes stay where they are."""
    value = {str(i): np.zeros(1000) for i in range(count)}
    buffers: list[pickle.PickleBuffer] = []
    stream = pickle.dumps(value, 5, buffer_callback=buffers.append)
    return lambda: pickle.loads(stream, buffers=buffers)


def all_limits() -> dict[str, tuple[float, str]]:
    """Name -> (value, unit), as printed in the report."""
    found = compiled()
    found["python_call"] = (best_us(nothing, 1_000_000), "us")
    found["pickle_round_trip"] = (
        best_us(lambda: pickle.loads(pickle.dumps(((1, "a"), {}), 5)), 100_000),
        "us",
    )
    found["load_10_arrays"] = (best_us(load_arrays(), 20_000), "us")
    found["shrinking_list"] = (best_us(shrinking_list, 20), "us")
    found["python_start"] = (best_us(python_start, 3), "us")
    return found


IN_TURN = {
    "populated_copy": ("fallocate", "first_copy"),
    "collapse_and_copy": ("collapse", "collapsed_copy"),
    **{
        f"echo_{kib}_kib": ("spin", "pickle_round_trip", *[f"copy_{kib}_kib"] * 2)
        for kib in (1, 64, 1024)
    },
}
"""Limits that are made of several things done one after another."""


def rates(limits: dict[str, tuple[float, str]], cores: int) -> dict[str, float]:
    """The limits as rates that cases name: operations or GB per second.

    Besides the measured ones, those that follow from them.
    """
    found = {name: 1e6 / value if unit == "us" else value for name, (value, unit) in limits.items()}
    for kind in ("zero", "random"):
        copies = [found.get(f"{how}_{kind}", 0.0) for how in ("memcpy", "movsb")]
        found[f"copy_{kind}"] = max(copies)
    for n_bytes in (1 << 10, 64 << 10, 1 << 20):
        found[f"copy_{n_bytes >> 10}_kib"] = found.get("copy_1mib", 0.0) * 1e9 / n_bytes
    for name, parts in IN_TURN.items():
        if all(found.get(part) for part in parts):
            found[name] = one_after_another(*(found[part] for part in parts))
    # Fresh memory: written at once, or populated first, or made of huge pages first.
    ways = ("first_touch", "populated_copy", "collapse_and_copy")
    found["fresh_copy"] = max(found.get(way, 0.0) for way in ways)
    for n in (20, 1000):
        found[f"fork_{n}"] = found["fork"] / n
    found["python_call_per_core"] = found["python_call"] * cores
    found["four_python_calls"] = found["python_call"] / 4
    return found


def one_after_another(*parts: float) -> float:
    """The rate of doing things in turn that have these rates."""
    return 1.0 / sum(1.0 / part for part in parts)
