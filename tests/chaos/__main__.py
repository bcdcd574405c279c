"""``make chaos T=600 SEED=1``: every fault of this package for its share of the time, as JSON.

    python -m tests.chaos [--seconds 60] [--seed N] [--only work,away] [--json FILE]

Each part ends with its audit or its oracle; the first violation ends the run with a traceback, the
seed and a non-zero exit code. ``docs/reliability.md`` says what the figures mean.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import shoal
from tests.chaos import audit, head, recovery, soak, test_processes, test_sessions, test_store
from tests.chaos.stores import Client, StoreProcess, build_shim
from tests.torture.processes import cpu_s

Say = Callable[[str], None]


def store(folder: Path, seed: int, seconds: float, say: Say) -> dict[str, Any]:
    """G1: the store alone, killed while it writes."""
    end = time.monotonic() + seconds
    kills = asked = 0
    for number in itertools.count():
        process = StoreProcess(folder / str(number))
        try:
            asked += test_store.kill_at_random(process, 10, seed + number)
        finally:
            process.close()
        kills += 10
        if time.monotonic() >= end:
            break
    return {
        "kills": kills,
        "changes": asked,
        "lost": 0,
        "doubled": 0,
        "below_at_95_percent": float(f"{3 / asked:.1e}"),
        "restart_to_answer": recovery.figures(_restarts(folder / "restarts", 20)),
    }


def _restarts(folder: Path, count: int) -> list[float]:
    """From the start of a store that was killed until it has answered."""
    process, times = StoreProcess(folder), []
    client = Client(process)
    try:
        for _ in range(count):
            begun = time.monotonic()
            process.start()
            client.join()
            times.append(time.monotonic() - begun)
            process.kill()
    finally:
        client.leave()
        process.close()
    return times


def disk(folder: Path, seed: int, seconds: float, say: Say) -> dict[str, Any]:
    """G3: each of its writes, syncs and truncations fails in each way, in an order by chance."""
    folder.mkdir(parents=True, exist_ok=True)
    shim = build_shim(folder, "failing_io")
    cases = list(itertools.product(range(1, 60), (*test_store.WAYS, "flip")))
    random.Random(seed).shuffle(cases)
    end = time.monotonic() + seconds
    done = 0
    for at, how in cases:
        process = StoreProcess(folder / f"{at}-{how}")
        try:
            if how == "flip":
                test_store.lie_at(process, shim, at)
            else:
                test_store.fail_at(process, shim, at, how)
        finally:
            process.close()
        done += 1
        if time.monotonic() >= end:
            break
    return {"faults": done, "of": len(cases), "lost": 0, "wrong": 0}


def calls(folder: Path, seed: int, seconds: float, say: Say) -> dict[str, Any]:
    """G1 and L2: actors are called while the store is killed again and again."""
    end = time.monotonic() + seconds
    kills, worst_s = 0, 0.0
    with audit.session(folder, 2) as started:
        for number in itertools.count():
            with audit.audited(started):
                files = folder / f"files-{number}"
                took_s = test_sessions.append_under_kills(started, files, 30, 10, seed + number)
            kills, worst_s = kills + 10, max(worst_s, took_s)
            say(f"{kills} kills, longest round {worst_s * 1e3:.0f} ms")
            if time.monotonic() >= end:
                break
    return {"actors": 30, "kills": kills, "exact": True, "longest_round_of_30_s": round(worst_s, 3)}


def away(folder: Path, seed: int, seconds: float, say: Say) -> dict[str, Any]:
    """G2: no store can serve for this long; existing and new work goes on."""
    with audit.session(folder, 2) as started, audit.audited(started):
        done = test_sessions.work_without_store(started, folder, seconds)
    return {"seconds": seconds, "calls": done, "failed": 0, "queued_change": "done afterwards"}


def crashes(folder: Path, seed: int, seconds: float, say: Say) -> dict[str, Any]:
    """A3: an actor dies whenever it is made; what that costs, once its pauses are long."""
    with audit.session(folder, 2) as started, audit.audited(started):
        lives = folder / "lives"
        actor = test_processes.Doomed.remote(str(lives))
        facts = started.facts()
        house = {int(str(facts[name])) for name in ("pid", "zygote_pid", "store_pid")}
        before_s, begun = cpu_s(house), time.monotonic()
        while time.monotonic() < begun + seconds:
            time.sleep(0.1)
        used_s, took_s = cpu_s(house) - before_s, time.monotonic() - begun
        shoal.kill(actor)
        del actor
    count = lives.read_text().count("\n")
    return {
        "seconds": round(took_s, 1),
        "lives": count,
        "lives_per_minute": round(60 * count / took_s, 1),
        "cpu_share_of_the_house": round(used_s / took_s, 4),
    }


def recover(folder: Path, seed: int, seconds: float, say: Say) -> dict[str, Any]:
    """C26 on a session that does nothing else."""
    with audit.session(folder, 2) as started, audit.audited(started):
        probes = recovery.Probes(started, folder)
        names = ("task", "actor", "store", "stall")
        end = time.monotonic() + seconds
        times = recovery.measure(
            {name: getattr(probes, name) for name in names}, lambda: time.monotonic() >= end
        )
        del probes
    return {name: recovery.figures(each) for name, each in times.items()}


Part = Callable[[Path, int, float, Say], dict[str, Any]]
PARTS: dict[str, tuple[Part, float]] = {
    "store": (store, 0.08),
    "disk": (disk, 0.1),
    "calls": (calls, 0.1),
    "head": (head.run, 0.1),
    "away": (away, 0.1),
    "crashes": (crashes, 0.05),
    "recover": (recover, 0.1),
    "work": (soak.run, 0.37),
}
"""Each part and its share of the time; of a few, they share it all."""


def run_part(name: str, seed: int, seconds: float) -> dict[str, Any]:
    part, _ = PARTS[name]
    with tempfile.TemporaryDirectory(prefix="shoal-chaos-") as folder:
        root = Path(folder) / name
        root.mkdir()
        return part(root, seed, seconds, lambda text: print(f"{name}: {text}", flush=True))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "little"))
    parser.add_argument("--only", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--json", type=Path, default=None, help="where the last line goes too")
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    begun = time.monotonic()
    names = given.only.split(",")
    second = given.seconds / sum(PARTS[name][1] for name in names)
    report: dict[str, Any] = {
        "seed": given.seed,
        "seconds_asked": given.seconds,
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "python": sys.version.split()[0],
    }
    for name in names:
        report[name] = run_part(name, given.seed, PARTS[name][1] * second)
        print(f"{name}: {json.dumps(report[name])}", flush=True)
    report["seconds"] = round(time.monotonic() - begun, 1)
    line = json.dumps(report)
    if given.json is not None:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(line + "\n")
    print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
