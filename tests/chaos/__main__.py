"""``python -m tests.chaos --kills 200``: the figures of ``docs/reliability.md`` about the store.

Prints one line per fault: how often it was injected, what was asked and answered, and what was
wrong (which ends the run with the seed of it).
"""

from __future__ import annotations

import argparse
import itertools
import random
import tempfile
import time
from pathlib import Path

from tests.chaos import test_sessions, test_store
from tests.chaos.stores import Client, StoreProcess
from tests.torture.started import start_session


def main() -> None:
    """Run the faults of the control store, as many as asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--writes", type=int, default=40, help="G3: fail each of the first N")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    given = parser.parse_args()
    print(f"seed {given.seed}")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _killed_alone(root / "g1", given.kills, given.seed)
        _restarts(root / "restarts", min(given.kills, 50))
        _failing_disk(root, given.writes)
        _killed_under_load(root / "l2", given.kills, given.seed)


def _killed_alone(folder: Path, kills: int, seed: int) -> None:
    store = StoreProcess(folder)
    try:
        asked = test_store.kill_at_random(store, kills, seed)
    finally:
        store.close()
    print(f"G1: {kills} kills, {asked} changes: 0 lost, 0 doubled (below {3 / asked:.1e} at 95 %)")


def _restarts(folder: Path, kills: int) -> None:
    """From ``kill -9`` until the next one has answered."""
    store, times = StoreProcess(folder), []
    client = Client(store)
    try:
        for _ in range(kills):
            begun = time.monotonic()
            store.start()
            client.join()
            times.append(time.monotonic() - begun)
            store.kill()
    finally:
        client.leave()
        store.close()
    times.sort()
    middle, late = times[len(times) // 2], times[int(len(times) * 0.99)]
    print(f"restart to first answer: p50 {middle * 1e3:.0f} ms, p99 {late * 1e3:.0f} ms")


def _failing_disk(root: Path, writes: int) -> None:
    shim = test_store.build_failing_io(root)
    count = 0
    for at, how in itertools.product(range(1, writes + 1), test_store.WAYS):
        store = StoreProcess(root / f"g3-{at}-{how}")
        try:
            test_store.fail_at(store, shim, at, how)
        finally:
            store.close()
        count += 1
    print(
        f"G3: {count} faults (EIO, ENOSPC, torn, killed at writes 1 to {writes}): 0 lost, 0 wrong"
    )


def _killed_under_load(folder: Path, kills: int, seed: int) -> None:
    folder.mkdir(parents=True)
    with start_session(folder, 2) as session:
        worst_s = test_sessions.append_under_kills(session, folder / "files", 30, kills, seed)
    print(f"L2, 30 actors: {kills} kills, exact; longest round of 30 calls {worst_s * 1e3:.0f} ms")


if __name__ == "__main__":
    main()
