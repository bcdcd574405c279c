"""What the events of all that happens cost: C12 with them and with a build that leaves none.

    make tracing                                   builds both, then this, with 20 pairs
    python -m benchmarks.tracing build/tracing --pairs 20 --json tracing.json

Each run is a program of its own: it starts a session, warms it up and times batches of 1,000 no-op
tasks and one ``get``; its result is the median batch. Runs with and without alternate, and the one
that begins a pair too, so that what changes slowly on a machine meets both. The overhead is the
median of the ratios of pairs; an interval of 95 % is that of the median by its order statistics.

Where programs of three processes vary by more than what is sought, that interval is wide. So each
pair also runs ``native/test/costs.cpp`` of both builds, which does the same tasks in one thread:
how many ns the events cost the caller (its submits, and freeing the results) and the worker, and
what part that is of the time of a task in these runs: the caller has that time for each task, each
of the workers, which share the tasks, so many times as much.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BATCH = 1000
WORKERS = 2
RUN = f"""
import json, time
import shoal

shoal.init(num_cpus={WORKERS}, object_store_memory=256 << 20, log_to_driver=False)

@shoal.remote
def nothing():
    return None

def batch():
    shoal.get([nothing.remote() for _ in range({BATCH})])

end = time.monotonic() + 1.0
while time.monotonic() < end:
    batch()
took = []
end = time.monotonic() + SECONDS
while time.monotonic() < end:
    begin = time.perf_counter()
    batch()
    took.append(time.perf_counter() - begin)
took.sort()
print(json.dumps({{"us": took[len(took) // 2] / {BATCH} * 1e6, "batches": len(took),
    "events": len(shoal.state.events())}}))
"""


def site(folder: Path, which: str) -> Path:
    """The package beside the native module of that build."""
    made = folder / which / "site"
    shutil.rmtree(made, ignore_errors=True)
    leave = shutil.ignore_patterns("_native*.so", "__pycache__")
    shutil.copytree(ROOT / "src" / "shoal", made / "shoal", ignore=leave)
    (module,) = (folder / which).glob("_native*.so")
    shutil.copy(module, made / "shoal")
    return made


def run(where: Path, seconds: float) -> dict[str, float]:
    """One program of its own: microseconds per task, and whether there were events."""
    done = subprocess.run(
        [sys.executable, "-c", RUN.replace("SECONDS", str(seconds))],
        env={**os.environ, "PYTHONPATH": str(where)},
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    found: dict[str, float] = json.loads(done.stdout)
    return found


def costs(where: Path) -> dict[str, float]:
    """ns per task that each step takes in one thread."""
    done = subprocess.run(
        [where / "costs"], capture_output=True, text=True, timeout=120, check=True
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def interval(values: list[float]) -> tuple[float, float]:
    """95 % of the median, by order statistics (normal approximation of the binomial)."""
    ordered, n = sorted(values), len(values)
    reach = 0.98 * n**0.5
    low, high = max(0, int(n / 2 - reach)), min(n - 1, int(n / 2 + reach))
    return ordered[low], ordered[high]


def main() -> None:
    """Measure, print, and keep the figures if that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="has the builds: with/ and without/")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=3.0, help="of one run")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    sites = {which: site(given.folder, which) for which in ("with", "without")}
    pairs: list[dict[str, float]] = []
    more_ns: dict[str, list[float]] = {"submit": [], "run": [], "free": []}
    for number in range(given.pairs):
        order = ("with", "without") if number % 2 else ("without", "with")
        found = {which: run(sites[which], given.seconds) for which in order}
        assert found["with"]["events"] > BATCH and not found["without"]["events"]
        pairs.append({which: found[which]["us"] for which in order})
        steps = {which: costs(given.folder / which) for which in order}
        for step, values in more_ns.items():
            values.append(steps["with"][step] - steps["without"][step])
        ratio = pairs[-1]["with"] / pairs[-1]["without"]
        print(
            f"{number + 1:3}  with {pairs[-1]['with']:.3f} us  without"
            f" {pairs[-1]['without']:.3f} us  {100 * (ratio - 1):+.2f} %",
            flush=True,
        )
    ratios = [100 * (pair["with"] / pair["without"] - 1) for pair in pairs]
    low, high = interval(ratios)
    middle = statistics.median(ratios)
    print(f"overhead of events: {middle:+.2f} % of a task's time (95 %: {low:+.2f} .. {high:+.2f})")
    figures = {"overhead_percent": middle, "low": low, "high": high, "pairs": pairs}
    task_ns = 1000 * statistics.median(pair["without"] for pair in pairs)
    sides = (("caller", 1, ("submit", "free")), ("worker", WORKERS, ("run",)))
    for side, sharing, parts in sides:
        sums = [sum(values) for values in zip(*(more_ns[part] for part in parts))]
        low, high = interval(sums)
        ns = statistics.median(sums)
        part = 100 * ns / (sharing * task_ns)
        whole = f"{sharing} x {task_ns:.0f} ns"
        print(f"  {side}: {ns:.1f} ns ({low:.1f} .. {high:.1f}), {part:.2f} % of {whole}")
        figures[f"{side}_ns"] = {"median": ns, "low": low, "high": high}
    if given.json:
        given.json.write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
