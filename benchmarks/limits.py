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


def all_limits() -> dict[str, tuple[float, str]]:
    """Name -> (value, unit), as printed in the report."""
    found = compiled()
    found["python_call"] = (best_us(nothing, 1_000_000), "us")
    found["pickle_round_trip"] = (
        best_us(lambda: pickle.loads(pickle.dumps(((1, "a"), {}), 5)), 100_000),
        "us",
    )
    found["python_start"] = (best_us(python_start, 3), "us")
    return found


def rates(limits: dict[str, tuple[float, str]]) -> dict[str, float]:
    """The limits as rates that cases name: operations or GB per second."""
    found = {name: 1e6 / value if unit == "us" else value for name, (value, unit) in limits.items()}
    for kind in ("zero", "random"):
        copies = [found.get(f"{how}_{kind}", 0.0) for how in ("memcpy", "movsb")]
        found[f"copy_{kind}"] = max(copies)
    for n in (20, 1000):
        found[f"fork_{n}"] = found["fork"] / n
    return found
