"""A node memory that is too small: it is full again and again, and says so; nothing else happens.

The same rules as for `kills.py`, plus: there must have been `ObjectStoreFullError`s (else nothing
was tested), no process died of SIGBUS or SIGSEGV (a driver that ends by a signal fails the run; a
worker's crash would be named `WorkerCrashedError`, which without kills must not occur), and once
the refs are gone a value of half the size of the store finds room at once.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import shoal
from tests.torture.drivers import Crew
from tests.torture.kills import FINISH_S, SAY_EVERY_S, Say
from tests.torture.started import Started, start_session

DRIVERS = 2
WORKERS = 4
STORE_BYTES = 96 << 20
TRIES = 6


def fill(
    started: Started, folder: Path, chance: random.Random, seconds: float, say: Say
) -> dict[str, Any]:
    """Drivers that want more than there is, for `seconds`; what they were answered."""
    crew = Crew(started, folder)
    begun = time.monotonic()
    try:
        for _ in range(DRIVERS):
            crew.add(chance.getrandbits(30), seconds, "full")
        while (spent := time.monotonic() - begun) < seconds:
            crew.look()
            used = started.facts()["memory_used_bytes"]
            say(f"{spent:5.0f} s  {int(str(used)) >> 20} MiB in use")
            time.sleep(min(SAY_EVERY_S, seconds - spent + 0.01))
        done = crew.finish(FINISH_S)
    finally:
        crew.end()
    started.wait_for_empty_memory(20)
    value = bytes(STORE_BYTES // 2)
    assert shoal.get(shoal.put(value)) == value, "there is room again"
    del value
    return {key: done[key] for key in ("steps", "answered", "lost", "full")}


def fill_up(
    started: Started, folder: Path, chance: random.Random, seconds: float, say: Say
) -> dict[str, Any]:
    """`fill`, and again while the store never was full: on a machine that does other things too,
    drivers may want too little in that time."""
    found: Counter[str] = Counter()
    for _ in range(TRIES):
        found.update(fill(started, folder, chance, seconds, say))
        if found["full"]:
            break
    return dict(found)


def run(folder: Path, seed: int, seconds: float, say: Say) -> dict[str, Any]:
    """One session with a small store from start to end."""
    # Where values may leave for files nothing is full.
    none = ("--object-spilling-directory", "none")
    size = ("--object-store-memory", str(STORE_BYTES), *none)
    with start_session(folder, WORKERS, *size) as started:
        found = fill_up(started, folder, random.Random(seed), seconds, say)
    assert found["full"] > 0, f"the store was never full: {found}"
    assert found["lost"] == 0, f"nobody was killed, so nothing may be lost: {found}"
    return found
