"""Runs cases: every side in fresh processes, interleaved, and gathers what they measured.

Two rounds of A-B-A-B..., so that a machine that changes its mood in the middle changes it for all.
Each process warms up and then measures windows; with two rounds of three that is six windows per
side, of which the median and the 10th and 90th percentile are kept.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from benchmarks.case import Case
from benchmarks.limits import all_limits
from benchmarks.peers import environment

ROOT = Path(__file__).resolve().parents[1]
# These need nothing but the standard library, but are run where the other peers are.
OURS = "shoal"


@dataclass(frozen=True)
class Plan:
    """How long to measure."""

    rounds: int = 2
    windows: int = 3
    window_s: float = 1.0
    warmup_s: float = 1.0
    deadline_s: float = 240.0
    peers: bool = True


QUICK = Plan(rounds=1, windows=2, window_s=0.3, warmup_s=0.3)


def run_side(case: Case, side: str, python: Path, plan: Plan) -> dict[str, object] | str:
    """One fresh process; its result, or why there is none."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "result.json"
        command = [str(python), "-m", "benchmarks.side", case.id, side, str(output)]
        command += ["--warmup", str(plan.warmup_s), "--windows", str(plan.windows)]
        command += ["--window", str(plan.window_s)]
        errors = Path(folder) / "stderr"
        with errors.open("wb") as stderr:
            process = subprocess.Popen(
                command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True
            )
            try:
                code = process.wait(plan.deadline_s)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                process.wait()
                return f"no result within {plan.deadline_s:.0f} s"
        if code != 0 or not output.exists():
            lines = errors.read_text(errors="replace").strip().splitlines()
            return f"ended with {code}: {lines[-1] if lines else ''}"
        result: dict[str, object] = json.loads(output.read_text())
        return result


def summary(runs: list[dict[str, object]]) -> dict[str, object]:
    """One side of one case over all rounds."""
    rates = sorted(rate for run in runs for rate in run["rates"])  # type: ignore[attr-defined]
    cpu = [float(str(run["cpu_s_per_operation"])) for run in runs if run["cpu_s_per_operation"]]
    tenths = statistics.quantiles(rates, n=10) if len(rates) > 1 else [rates[0]] * 9
    found: dict[str, object] = {
        "median": statistics.median(rates),
        "p10": max(rates[0], tenths[0]),
        "p90": min(rates[-1], tenths[-1]),
        "windows": len(rates),
        "cpu_s_per_operation": statistics.median(cpu) if cpu else None,
        "pss_bytes": max(int(str(run["pss_bytes"])) for run in runs),
    }
    if runs[0]["latencies_s"]:
        times = sorted(t for run in runs for t in run["latencies_s"])  # type: ignore[attr-defined]
        found["p50_s"] = statistics.median(times)
        found["p99_s"] = statistics.median(float(str(run["p99_s"])) for run in runs)
    return found


def run_case(case: Case, label: str, plan: Plan, python: Path) -> dict[str, object]:
    """All rounds of one case. A side that failed is tried again in the next round."""
    sides = [side for side in case.sides if plan.peers or side == OURS]
    runs: dict[str, list[dict[str, object]]] = {side: [] for side in sides}
    failures: dict[str, str] = {}
    for _ in range(plan.rounds):
        for side in sides:
            started = time.monotonic()
            own = Path(sys.executable) if side == OURS else python
            result = run_side(case, side, own, plan)
            took_s = time.monotonic() - started
            print(f"{label} {case.id} {side}: {took_s:.1f} s", file=sys.stderr)
            if isinstance(result, str):
                failures[side] = result
                print(f"    {result}", file=sys.stderr)
            else:
                runs[side].append(result)
    measured = {side: summary(found) for side, found in runs.items() if found}
    return {"id": case.id, "sides": measured, "failures": failures}


def run_cases(cases: list[Case], plan: Plan, peers_python: Path | None) -> dict[str, object]:
    """Everything: cases, limits, versions; what `report` renders and JSON keeps."""
    python = peers_python or (environment.interpreter() if plan.peers else Path(sys.executable))
    load_before = os.getloadavg()
    rows = [
        run_case(case, f"[{number}/{len(cases)}]", plan, python)
        for number, case in enumerate(cases, 1)
    ]
    return {
        "cases": rows,
        "limits": {name: list(value) for name, value in all_limits().items()},
        "machine": machine(),
        "load": {"before": load_before, "after": os.getloadavg()},
        "versions": {
            "shoal": version("shoal"),
            "python": platform.python_version(),
            **(environment.versions(python) if plan.peers else {}),
        },
        "plan": vars(plan),
        "date": time.strftime("%Y-%m-%d"),
    }


def machine() -> dict[str, object]:
    """What the figures were measured on; absolute figures are not compared between machines."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": model,
        "memory_gb": round(pages / 1e9),
        "kernel": platform.release(),
    }
