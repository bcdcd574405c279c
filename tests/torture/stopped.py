"""While one process is stopped, does anybody else stand still?

    python -m tests.torture.stopped SESSION

is the *bystander*: a driver that calls tasks and an actor of its own and stores values, one after
another, until its input ends; then it says how many calls it made and how long the longest took,
per tenth of a second. Beside it works a load driver. One after another, the load driver, one of its
workers, one of its actors, the zygote, the store and the node daemon get SIGSTOP for `STOP_S`; the
bystander's own workers are left alone: what a stopped process runs waits for it, of course.

A stall as long as the stop would mean that somebody waits for a lock, or for an answer, of the
stopped process. (The daemon decides who holds the CPUs: on a full node it takes an idle worker's
and gives them back later. The bystander's tasks ask for none, so that it needs no such decision.)
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import shoal
from shoal._runtime import cluster
from tests.torture.drivers import ROOT, Crew
from tests.torture.kills import FINISH_S, Say
from tests.torture.processes import eventually, signal_session_process
from tests.torture.started import Started, start_session

WORKERS = 6
STOP_S = 1.0
STALL_MOST_S = 0.7
"""A busy machine takes a core away for a while; a stop takes STOP_S."""
PAUSE_S = 0.3
BUCKET_S = 0.1
ROLES = ("nobody", "driver", "worker", "actor", "zygote", "store", "daemon")
READY_S = 20.0


@shoal.remote(num_cpus=0)
def add_one(number: int) -> int:
    return number + 1


@shoal.remote(num_cpus=0)
class Adder:
    def add_one(self, number: int) -> int:
        return number + 1


class Bystander:
    """The unrelated driver as a process."""

    def __init__(self, started: Started) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.torture.stopped", started.session],
            cwd=ROOT,
            env=started.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "working\n", "the bystander did not start"

    def buckets(self) -> dict[int, list[float]]:
        """It ends: by tenth of a second, [calls, the longest in seconds]."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        line = self.process.stdout.readline()
        assert self.process.wait(FINISH_S) == 0
        return {int(key): value for key, value in json.loads(line).items()}


def look_at(buckets: dict[int, list[float]], begin: float, end: float) -> dict[str, float]:
    """Calls per second and the longest call of those that ended between two moments."""
    rows = [row for key, row in buckets.items() if begin <= key * BUCKET_S <= end]
    calls = sum(row[0] for row in rows)
    longest = max((row[1] for row in rows), default=end - begin)
    return {"calls_per_s": round(calls / (end - begin)), "longest_s": round(longest, 4)}


def stop_for_a_while(stop: Callable[[int], bool]) -> tuple[float, float] | None:
    """Send SIGSTOP, and SIGCONT after STOP_S; when that was."""
    begin = time.monotonic()
    try:
        if not stop(signal.SIGSTOP):
            return None
        time.sleep(STOP_S)
    finally:
        stop(signal.SIGCONT)
    return begin, time.monotonic()


def signals_to(started: Started, crew: Crew, role: str) -> Callable[[int], bool]:
    """What signals one process of this role that the bystander has nothing to do with."""
    if role == "nobody":
        return lambda number: True
    driver = crew.at_work[0].process
    if role == "driver":
        return lambda number: driver.send_signal(number) is None
    facts = started.facts()
    name = {"daemon": "pid", "zygote": "zygote_pid", "store": "store_pid"}.get(role)
    if name is not None:
        pid = int(str(facts[name]))
    else:
        job = job_of(driver.pid)
        rows = [row for row in cluster.table("workers") if row["job"] == job]
        pids = [row["pid"] for row in rows if bool(row["actor_id"]) is (role == "actor")]
        pid = int(pids[0]) if pids else -1
    return lambda number: signal_session_process(pid, started.session, number)


def job_of(pid: int) -> object:
    """The job of the driver with that pid, from when it has one; none: nobody has it."""
    for row in cluster.table("jobs"):
        if row["pid"] == pid:
            return row["job"]
    return None


def run(folder: Path, seed: int, seconds: float, say: Say) -> dict[str, Any]:
    """Each role is stopped at least once, and again until the time is over."""
    chance = random.Random(seed)
    rounds = max(1, round(seconds / (len(ROLES) * (STOP_S + PAUSE_S))))
    total_s = rounds * len(ROLES) * (STOP_S + PAUSE_S) + 2.0
    phases: list[tuple[str, float, float]] = []
    with start_session(folder, WORKERS) as started:
        crew = Crew(started, folder)
        try:
            crew.add(chance.getrandbits(30), total_s + 1.0, "all")
            driver = crew.at_work[0].process.pid
            eventually(lambda: job_of(driver) is not None, FINISH_S, "the load driver is there")
            bystander = Bystander(started)
            for role in ROLES * rounds:
                if times := stop_for_a_while(signals_to(started, crew, role)):
                    phases.append((role, *times))
                time.sleep(PAUSE_S)
                crew.look()
            buckets = bystander.buckets()
            crew.finish(FINISH_S)
        finally:
            crew.end()
        started.wait_for_empty_memory(20)
    return judge(buckets, phases, say)


def judge(
    buckets: dict[int, list[float]], phases: list[tuple[str, float, float]], say: Say
) -> dict[str, Any]:
    """Per role: how often it was stopped, and how the bystander did meanwhile."""
    found: dict[str, Any] = {}
    for role in ROLES:
        looks = [look_at(buckets, begin, end) for name, begin, end in phases if name == role]
        if looks:
            found[role] = {
                "stops": len(looks),
                "calls_per_s": round(sum(look["calls_per_s"] for look in looks) / len(looks)),
                "longest_s": max(look["longest_s"] for look in looks),
            }
            say(f"stopped {role}: {found[role]}")
    stalled = {role: row for role, row in found.items() if row["longest_s"] > STALL_MOST_S}
    assert not stalled, f"somebody stood still while another process was stopped: {stalled}"
    return found


def main() -> None:
    shoal.init(address=sys.argv[1], log_to_driver=False)
    adder = Adder.remote()
    assert shoal.get([adder.add_one.remote(1), add_one.remote(1)], timeout=READY_S) == [2, 2]
    print("working", flush=True)
    buckets: dict[int, list[float]] = {}
    value = bytes(100_000)
    number = 0
    over = threading.Event()
    # Not by sys.stdin, whose lock would be held by the thread if this process ended before.
    threading.Thread(target=lambda: (os.read(0, 1), over.set()), daemon=True).start()
    while not over.is_set():
        begin = time.monotonic()
        assert shoal.get(add_one.remote(number)) == number + 1
        assert shoal.get(adder.add_one.remote(number)) == number + 1
        assert len(shoal.get(shoal.put(value))) == len(value)
        number += 1
        now = time.monotonic()
        row = buckets.setdefault(int(now / BUCKET_S), [0, 0.0])
        row[0] += 1
        row[1] = max(row[1], now - begin)
    print(json.dumps(buckets), flush=True)


if __name__ == "__main__":
    main()
