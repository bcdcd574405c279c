"""One side of one case, in a fresh process of its own: prepares, warms up, measures, writes JSON.

    python -m benchmarks.side CASE SIDE OUTPUT --warmup S --windows N --window S

Runs under the peers' interpreter too, so it imports only the standard library and the case.
Besides operations per second it measures what they cost: CPU seconds of every process of the run
(found by a mark in the environment that children inherit, so that a spinning worker or a busy
daemon counts) and their memory (PSS: shared pages counted once). Both are read between windows.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import uuid
from pathlib import Path

from benchmarks.case import Case, Sample, Step
from benchmarks.cases import find

MARK = "SHOAL_BENCHMARK_RUN"
TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")
MAX_LATENCIES = 200_000


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


def memory_bytes(mark: str) -> int:
    """Proportional set size of all processes of the run."""
    total = 0
    for pid in marked_pids(mark):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


def run_for(step: Step, seconds: float, latencies: list[float] | None) -> tuple[float, float]:
    """Do steps for at least `seconds`; (operations, seconds that count)."""
    operations = counted_s = 0.0
    clock = time.perf_counter
    start = clock()
    while (now := clock()) - start < seconds:
        done = step()
        took_s = clock() - now
        if isinstance(done, Sample):
            operations += done.operations
            took_s = done.seconds
        else:
            operations += done
        counted_s += took_s
        if latencies is not None and len(latencies) < MAX_LATENCIES:
            latencies.append(took_s)
    return operations, counted_s


def measure(case: Case, side: str, options: argparse.Namespace, mark: str) -> dict[str, object]:
    latencies: list[float] | None = [] if case.is_latency else None
    rates: list[float] = []
    operations = cpu_s = 0.0
    with case.prepare(side) as step:
        for _ in range(case.warmup_steps - 1):
            step()
        run_for(step, options.warmup, None)
        for _ in range(min(options.windows, case.max_windows)):
            cpu_before = cpu_seconds(mark)
            done, took_s = run_for(step, options.window, latencies)
            cpu_s += cpu_seconds(mark) - cpu_before
            operations += done
            rates.append(done / took_s)
        pss = memory_bytes(mark)
    return {
        "rates": rates,
        "latencies_s": sorted(latencies)[:: max(1, len(latencies) // 2000)] if latencies else None,
        "p99_s": sorted(latencies)[int(len(latencies) * 0.99)] if latencies else None,
        # Below zero where a peer lets the kernel forget its children's times: unknown.
        "cpu_s_per_operation": cpu_s / operations if cpu_s > 0 else None,
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
