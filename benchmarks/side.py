"""One side of one case, in a fresh process of its own: prepares, warms up, measures, writes JSON.

    python -m benchmarks.side CASE SIDE OUTPUT --warmup S --windows N --window S

Runs under the peers' interpreter too, so it imports only the standard library and the case.
Besides operations per second it measures what they cost: CPU seconds of every process of the run
(found by a mark in the environment that children inherit, so that a spinning worker or a busy
daemon counts), those of the thread that calls, and their memory (PSS: shared pages counted once).
They are read between windows.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.case import Amount, Case, Sample, Step
from benchmarks.cases import find

MARK = "SHOAL_BENCHMARK_RUN"
TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")
MAX_LATENCIES = 200_000
OURS = ("shoal", "need", "gloo", "joblib")
"""Sides that run under our own interpreter: Shoal, what its calls need (see `Need`), Gloo of the
Torch and joblib with loky, which the tests need anyway."""


def marked_pids(mark: str) -> list[int]:
    """Processes that carry the mark in the environment they were started with."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                continue  # it ended meanwhile, or is not ours
    return found


def cpu_seconds(mark: str) -> float:
    """CPU time of all processes of the run, with that of children they have reaped."""
    ticks = 0
    for pid in marked_pids(mark):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += sum(int(field) for field in fields[11:15])
    return ticks * TICK_S


def pss_bytes(pid: int) -> int:
    """Proportional set size of one process; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def memory_bytes(mark: str) -> int:
    """Proportional set size of all processes of the run."""
    return sum(pss_bytes(pid) for pid in marked_pids(mark))


@dataclass
class Window:
    """What the steps of one window did."""

    operations: float = 0.0
    seconds: float = 0.0
    """Those that count: a step may keep its own time."""
    amounts: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    """Of single steps, as many as are kept."""

    def value(self, case: Case) -> float:
        """The window in the case's quantity; a time is that of the middle step."""
        if case.quantity == "bytes":
            return statistics.median(self.amounts)
        if case.quantity == "time":
            return statistics.median(self.times)
        return self.operations / self.seconds


def run_for(step: Step, seconds: float) -> Window:
    """Do steps for at least `seconds`, one at least."""
    window = Window()
    clock = time.perf_counter
    start = now = clock()
    while True:
        done = step()
        took_s = clock() - now
        if isinstance(done, Amount):
            window.amounts.append(done.size_bytes)
            done = 1
        if isinstance(done, Sample):
            window.operations += done.operations
            took_s = done.seconds
        else:
            window.operations += done
        window.seconds += took_s
        if len(window.times) < MAX_LATENCIES:
            window.times.append(took_s)
        now = clock()
        if now - start >= seconds:
            return window


def measure(case: Case, side: str, options: argparse.Namespace, mark: str) -> dict[str, object]:
    times: list[float] = []
    values: list[float] = []
    operations = cpu_s = caller_s = 0.0
    with case.prepare(side) as step:
        if not case.is_cold:
            for _ in range(case.warmup_steps - 1):
                step()
            run_for(step, options.warmup)
        most = case.max_windows if side in OURS else min(case.max_windows, case.max_peer_windows)
        for _ in range(min(options.windows, most)):
            cpu_before, caller_before = cpu_seconds(mark), time.thread_time()
            window = run_for(step, options.window)
            caller_s += time.thread_time() - caller_before
            cpu_s += cpu_seconds(mark) - cpu_before
            operations += window.operations
            values.append(window.value(case))
            times += window.times
        pss = memory_bytes(mark)
    times.sort()
    return {
        "values": values,
        "latencies_s": times[:: max(1, len(times) // 2000)] if case.is_latency else None,
        "p99_s": times[int(len(times) * 0.99)] if case.is_latency else None,
        # Below zero where a peer lets the kernel forget its children's times: unknown.
        "cpu_s_per_operation": cpu_s / operations if cpu_s > 0 else None,
        "caller_s_per_operation": caller_s / operations,
        "pss_bytes": pss,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("case")
    parser.add_argument("side")
    parser.add_argument("output", type=Path)
    parser.add_argument("--warmup", type=float, default=1.0)
    parser.add_argument("--windows", type=int, default=3)
    parser.add_argument("--window", type=float, default=1.0)
    options = parser.parse_args()
    if MARK not in os.environ:
        # The mark must stand in the environment that the process was started with: start again.
        os.environ[MARK] = uuid.uuid4().hex
        os.environ["OMP_NUM_THREADS"] = "1"  # peers are compared as processes, not as BLAS threads
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.side", *sys.argv[1:]])
    result = measure(find(options.case), options.side, options, os.environ[MARK])
    options.output.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
