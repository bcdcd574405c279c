"""Random work by several drivers while processes of every role are killed, or stopped for a while.

What must hold (rules 1, 2 and 5 of the design):

* every live ref can be got, or names its loss: the drivers check each answer (`load.py`);
* no driver hangs or sees anything else, except those that were killed themselves;
* after all refs are dropped, the audit of node memory, which recounts and reads no counter, finds
  nothing: no bytes, slots, specs, leaked blocks or wrong counts;
* the daemon has no descriptor more than before, and what daemon, zygote and store need for
  themselves does not grow without bound;
* children that user code forked saw the values that they had been forked with;
* when the session is stopped nothing of it is left, and no file.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shoal._runtime import cluster
from tests.torture.drivers import REPORT, Crew
from tests.torture.faults import KILLS, KILLS_OF_TOOLS, Faults
from tests.torture.forks import read_report
from tests.torture.processes import (
    descriptors,
    eventually,
    is_running,
    own_memory_bytes,
    session_pids,
)
from tests.torture.started import Started, start_session

WORKERS = 8
STOPS_PER_S = 1.0
SAY_EVERY_S = 5.0
FINISH_S = 180.0
"""Patience with a busy machine; a driver that hangs says where before that."""
DESCRIPTORS_PER_WORKER = 4
"""pidfd, connection, and the pipes of its stdout and stderr."""
GROWTH_MOST_BYTES = 24 << 20
SLOPE_MOST_BYTES_PER_S = 64 << 10

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """Who works, and who is killed how often."""

    modes: tuple[str, ...]
    kills: Mapping[str, int]
    kills_per_s: float


ORDINARY = Plan(("all", "all", "all"), KILLS, 22.0)
TOOLS = Plan(("tools", "tools", "all"), KILLS_OF_TOOLS, 2.0)
"""Fewer kills: drivers of this kind kill who takes part at the moments that matter."""


class Growth:
    """What the processes that live as long as the session need for themselves, over time."""

    def __init__(self, started: Started) -> None:
        self._started = started
        self._begun = time.monotonic()
        self.samples: dict[str, list[tuple[float, int]]] = {}

    def sample(self) -> dict[str, int]:
        """Look now: bytes by role. A zygote or store that was killed begins a new row."""
        facts = self._started.facts()
        found = {}
        for role, name in (("daemon", "pid"), ("zygote", "zygote_pid"), ("store", "store_pid")):
            pid = int(str(facts[name]))
            if size := own_memory_bytes(pid):
                key = f"{role} {pid}"
                self.samples.setdefault(key, []).append((time.monotonic() - self._begun, size))
                found[role] = size
        return found

    def slope(self) -> float:
        """Bytes per second of the daemon over the second half, by least squares."""
        (rows,) = [rows for key, rows in self.samples.items() if key.startswith("daemon")]
        rows = rows[len(rows) // 2 :]
        n = len(rows)
        if n < 2:
            return 0.0
        mean_t = sum(t for t, _ in rows) / n
        mean_b = sum(b for _, b in rows) / n
        square = sum((t - mean_t) ** 2 for t, _ in rows)
        return sum((t - mean_t) * (b - mean_b) for t, b in rows) / square if square else 0.0

    def growth(self) -> int:
        """Bytes that any one process has grown by between its first and last look."""
        return max(rows[-1][1] - rows[0][1] for rows in self.samples.values())


def spare_descriptors(started: Started) -> int:
    """Descriptors of the daemon beyond what its workers need."""
    rows = cluster.table("workers")
    return descriptors(started.daemon()) - DESCRIPTORS_PER_WORKER * len(rows)


def calm_descriptors(started: Started) -> int:
    """The same, to compare with: the least may be a moment at which a worker ends, for the dead are
    among the workers for a moment longer than the daemon has their descriptors."""
    seen: list[tuple[list[int], int]] = []

    def is_calm() -> bool:
        pids = [int(str(row["pid"])) for row in cluster.table("workers")]
        seen.append((pids, spare_descriptors(started)))
        return all(map(is_running, pids)) and seen[-3:] == [seen[-1]] * 3

    eventually(is_calm, 30, "no worker begins or ends")
    return seen[-1][1]


def wait_for_descriptors(started: Started, before: int) -> None:
    """Starts that are under way need some for a moment; a leak stays."""
    eventually(
        lambda: spare_descriptors(started) <= before,
        30,
        f"the daemon has {before} descriptors besides those of its workers, as before",
    )


def torment(
    started: Started, folder: Path, chance: random.Random, seconds: float, say: Say, plan: Plan
) -> dict[str, Any]:
    """Kill and stop for `seconds`, then audit; what happened."""
    before = calm_descriptors(started)
    crew = Crew(started, folder)
    faults = Faults(started, crew, chance, plan.kills)
    growth = Growth(started)
    begun = time.monotonic()
    end = begun + seconds
    next_kill = next_stop = next_say = begun
    try:
        for mode in plan.modes:
            crew.add(chance.getrandbits(30), seconds, mode)
        while (now := time.monotonic()) < end:
            if now >= next_kill:
                next_kill += chance.expovariate(plan.kills_per_s)
                faults.kill_one(end - now)
            if now >= next_stop:
                next_stop = now + chance.expovariate(STOPS_PER_S)
                faults.stop_one()
            if now >= next_say:
                next_say = now + SAY_EVERY_S
                crew.look()
                sizes = {role: f"{size >> 20} MiB" for role, size in growth.sample().items()}
                say(f"{now - begun:5.0f} s  {dict(faults.killed)}  {sizes}")
            time.sleep(max(0.0, next_kill - time.monotonic()))
        faults.end()
        done = crew.finish(FINISH_S)
    finally:
        faults.end()
        crew.end()
    return {
        "seconds": round(time.monotonic() - begun, 1),
        "kills": dict(faults.killed),
        "kills_total": faults.killed.total(),
        "stops": dict(faults.stopped),
        **{key: done[key] for key in ("steps", "answered", "lost", "full")},
        "by_kind": {key: done[key] for key in sorted(done) if " " in key},
        **audit(started, folder, growth, before),
    }


def audit(started: Started, folder: Path, growth: Growth, before: int) -> dict[str, Any]:
    """What must be true once all drivers have gone."""
    started.wait_for_empty_memory(20)
    growth.sample()
    wait_for_descriptors(started, before)
    seen = read_report(folder / REPORT)
    assert not any(line.startswith("wrong") for line in seen), seen
    # What a sanitizer keeps of freed memory, to catch late uses of it, is no growth of ours.
    if "ASAN_OPTIONS" not in os.environ:
        assert growth.growth() < GROWTH_MOST_BYTES, growth.samples
    slope = growth.slope()
    return {
        "children": dict(seen),
        "daemon_growth_bytes_per_s": round(slope),
        "growth_most_bytes": growth.growth(),
        "audit": "zero",
    }


def run(folder: Path, seed: int, seconds: float, say: Say, plan: Plan = ORDINARY) -> dict[str, Any]:
    """One session from start to end; figures, or an AssertionError."""
    chance = random.Random(seed)
    with start_session(folder, WORKERS) as started:
        found = torment(started, folder, chance, seconds, say, plan)
    eventually(lambda: not session_pids(started.session), 3, "nothing of the session is left")
    left = list((folder / "sessions-of-test").glob("session-*"))
    assert not left, f"files are left: {left}"
    return found


def run_tools(folder: Path, seed: int, seconds: float, say: Say) -> dict[str, Any]:
    """The same with drivers that use what is built on tasks and actors (`tools.py`)."""
    return run(folder, seed, seconds, say, TOOLS)
