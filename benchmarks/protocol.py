"""Runs cases: every side in fresh processes, interleaved, and gathers what they measured.

Ours alone has a turn before and one after all others of the case (A-B-C-A), so that a machine that
changes its mood in the middle shows in its spread. Each process warms up and then measures windows:
two turns of three for ours, one of five for ours with one busy process per core beside it and for
what the calls need, one of three for peers, as starting a peer takes longer than measuring it. The
median and the 10th and 90th percentile are kept. What failed has another try in the second round;
a peer that gave no result in time has none, and is not asked the same of larger values
(``Case.smaller``): the whole takes half an hour.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from benchmarks.case import Case
from benchmarks.limits import all_limits
from benchmarks.neighbours import busy_neighbours
from benchmarks.peers import environment
from benchmarks.side import MARK, OURS, marked_pids

ROOT = Path(__file__).resolve().parents[1]
CORES = len(os.sched_getaffinity(0))
SHOAL = "shoal"


@dataclass(frozen=True)
class Plan:
    """How long to measure."""

    rounds: int = 2
    windows: int = 3
    other_windows: int = 5
    """Of ours with neighbours and of what the calls need, which have one turn."""
    peer_windows: int = 3
    """Starting a peer takes longer than measuring it."""
    window_s: float = 1.0
    warmup_s: float = 1.0
    deadline_s: float = 150.0
    peer_deadline_s: float = 60.0
    """A peer that takes minutes is not waited for."""
    peers: bool = True
    competitors: bool = True


QUICK = Plan(rounds=1, windows=2, other_windows=2, peer_windows=2, window_s=0.3, warmup_s=0.3)

TOO_LATE = "no result within"


def end_all(mark: str) -> None:
    """End whatever a side left behind, by the mark that its processes were started with."""
    for pid in marked_pids(mark):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def run_side(
    case: Case, side: str, python: Path, plan: Plan, windows: int
) -> dict[str, object] | str:
    """One fresh process; its result, or why there is none."""
    mark = uuid.uuid4().hex
    # Peers are compared as processes, not as threads of a BLAS.
    environment = {**os.environ, MARK: mark, "OMP_NUM_THREADS": "1"}
    if side in OURS:
        environment["PYTHONFAULTHANDLER"] = "1"  # a crash of ours says where
    deadline_s = plan.deadline_s if side in OURS else plan.peer_deadline_s
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "result.json"
        command = [str(python), "-m", "benchmarks.side", case.id, side, str(output)]
        command += ["--warmup", str(plan.warmup_s), "--windows", str(windows)]
        command += ["--window", str(plan.window_s)]
        errors = Path(folder) / "stderr"
        with errors.open("wb") as stderr:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
            )
            try:
                code = process.wait(deadline_s)
            except subprocess.TimeoutExpired:
                return f"{TOO_LATE} {deadline_s:.0f} s"
            finally:
                end_all(mark)
                process.wait()
        if code != 0 or not output.exists():
            lines = errors.read_text(errors="replace").strip().splitlines()
            print(*lines[-30:], sep="\n", file=sys.stderr)
            return f"ended with {code}: {lines[-1] if lines else ''}"
        result: dict[str, object] = json.loads(output.read_text())
        return result


def summary(runs: list[dict[str, object]]) -> dict[str, object]:
    """One side of one case over all rounds."""
    values = sorted(value for run in runs for value in run["values"])  # type: ignore[attr-defined]
    cpu = [float(str(run["cpu_s_per_operation"])) for run in runs if run["cpu_s_per_operation"]]
    tenths = statistics.quantiles(values, n=10) if len(values) > 1 else [values[0]] * 9
    found: dict[str, object] = {
        "median": statistics.median(values),
        "p10": max(values[0], tenths[0]),
        "p90": min(values[-1], tenths[-1]),
        "windows": len(values),
        "cpu_s_per_operation": statistics.median(cpu) if cpu else None,
        "caller_s_per_operation": statistics.median(
            float(str(run["caller_s_per_operation"])) for run in runs
        ),
        "pss_bytes": max(int(str(run["pss_bytes"])) for run in runs),
    }
    if runs[0]["latencies_s"]:
        times = sorted(t for run in runs for t in run["latencies_s"])  # type: ignore[attr-defined]
        found["p50_s"] = statistics.median(times)
        found["p99_s"] = statistics.median(float(str(run["p99_s"])) for run in runs)
    return found


@dataclass(frozen=True)
class Turn:
    """One side's turn in a round: ours twice, alone and with neighbours."""

    name: str
    side: str
    neighbours: int = 0


def turns(case: Case, plan: Plan) -> list[Turn]:
    """In the order in which they alternate; ours with neighbours is called `neighbours`."""
    found = [Turn(side, side) for side in case.sides if plan.peers or side == SHOAL]
    if plan.competitors and case.has_neighbours:
        found.insert(1, Turn("neighbours", SHOAL, CORES))
    if (
        case.need is not None
        and case.need.side
        and not any(turn.side == case.need.side for turn in found)
    ):
        found.append(Turn(case.need.side, case.need.side))
    return found


def is_hopeless(turn: Turn, failures: dict[str, str]) -> bool:
    """Whether this turn is a peer's that gave no result in time: it would not the next time."""
    return turn.side not in OURS and failures.get(turn.name, "").startswith(TOO_LATE)


def run_case(
    case: Case, label: str, plan: Plan, python: Path, smaller: dict[str, str]
) -> dict[str, object]:
    """All rounds of one case: ours in every round, so before and after the others.

    A side that failed is tried again in the next round. `smaller`: what failed in the same case
    with smaller values.
    """
    runs: dict[str, list[dict[str, object]]] = {}
    failures: dict[str, str] = {}
    for turn in turns(case, plan):
        if is_hopeless(turn, smaller):
            failures[turn.name] = smaller[turn.name]
    for _ in range(plan.rounds):
        for turn in turns(case, plan):
            if turn.name != SHOAL and (turn.name in runs or is_hopeless(turn, failures)):
                continue
            windows = plan.peer_windows if turn.side not in OURS else plan.other_windows
            windows = plan.windows if turn.name == SHOAL else windows
            started = time.monotonic()
            own = Path(sys.executable) if turn.side in OURS else python
            with busy_neighbours(turn.neighbours):
                result = run_side(case, turn.side, own, plan, windows)
            took_s = time.monotonic() - started
            print(f"{label} {case.id} {turn.name}: {took_s:.1f} s", file=sys.stderr)
            if isinstance(result, str):
                failures[turn.name] = result
                print(f"    {result}", file=sys.stderr)
            else:
                runs.setdefault(turn.name, []).append(result)
    measured = {name: summary(found) for name, found in runs.items()}
    return {"id": case.id, "sides": measured, "failures": failures}


def limits_with(neighbours: int) -> dict[str, object]:
    """The limits of the machine while so many processes are busy beside them."""
    with busy_neighbours(neighbours):
        return {name: list(value) for name, value in all_limits().items()}


def run_cases(cases: list[Case], plan: Plan, peers_python: Path | None) -> dict[str, object]:
    """Everything: cases, limits, versions; what `report` renders and JSON keeps."""
    python = peers_python or (environment.interpreter() if plan.peers else Path(sys.executable))
    load_before = os.getloadavg()
    started = time.monotonic()
    limits = {"alone": limits_with(0)}
    if plan.competitors:
        limits["neighbours"] = limits_with(CORES)
    rows: list[dict[str, object]] = []
    failed: dict[str, dict[str, str]] = {}
    for number, case in enumerate(cases, 1):
        smaller = failed.get(case.smaller, {})
        row = run_case(case, f"[{number}/{len(cases)}]", plan, python, smaller)
        failed[case.id] = row["failures"]  # type: ignore[assignment]
        rows.append(row)
    return {
        "cases": rows,
        "limits": limits,
        "machine": machine(),
        "load": {"before": load_before, "after": os.getloadavg()},
        "versions": {
            "shoal": version("shoal"),
            "python": platform.python_version(),
            **(environment.versions(python) if plan.peers else {}),
        },
        "plan": vars(plan),
        "took_s": round(time.monotonic() - started),
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
