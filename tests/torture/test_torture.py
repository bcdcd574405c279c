"""Random work by several drivers while random processes of the session get `kill -9`.

What must hold (DESIGN section 10, rules 1, 2 and 5):

* every live ref can be got, or names its loss: the drivers check each answer (`load.py`);
* no driver hangs or sees anything else, except those that were killed themselves;
* after all refs are dropped, the audit of node memory, which recounts and reads no counter, finds
  nothing: no bytes, slots, specs, leaked blocks or wrong counts;
* when the session is stopped nothing of it is left.

SHOAL_TORTURE_S gives the seconds (default 15), SHOAL_TORTURE_SEED repeats a run's choices.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.torture.processes import eventually, kill, session_pids
from tests.torture.started import Started, start_session

ROOT = Path(__file__).resolve().parents[2]
DURATION_S = float(os.environ.get("SHOAL_TORTURE_S", "15"))
SEED = int(os.environ.get("SHOAL_TORTURE_SEED", str(int.from_bytes(os.urandom(4), "little"))))
DRIVERS = 3
WEIGHTS = {"worker": 30, "zygote": 1, "store": 1, "driver": 1}  # how often each is killed
WORKERS = 8


class Driver:
    """One load process and the file that has its errors."""

    def __init__(self, started: Started, seed: int, seconds: float, folder: Path) -> None:
        self.errors = folder / f"driver-{seed}.err"
        self.output = folder / f"driver-{seed}.out"
        self.was_killed = False
        with self.errors.open("wb") as stderr, self.output.open("wb") as stdout:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tests.torture.load",
                    started.session,
                    str(seed),
                    f"{seconds}",
                ],
                cwd=ROOT,
                env=started.environment,
                stdout=stdout,
                stderr=stderr,
            )

    def kill(self) -> None:
        self.was_killed = True
        self.process.kill()

    def finish(self, deadline_s: float) -> dict[str, int]:
        """Wait for the end; what it did. A killed one did what it could."""
        code = self.process.wait(deadline_s)
        if self.was_killed:
            return {}
        assert code == 0, f"a driver ended with {code}:\n{self.errors.read_text()[-4000:]}"
        counts: dict[str, int] = json.loads(self.output.read_text().splitlines()[-1])
        return counts


@pytest.mark.timeout(DURATION_S + 180)
def test_nothing_is_lost_or_left_while_processes_are_killed(tmp_path: Path) -> None:
    print(f"\nSHOAL_TORTURE_SEED={SEED}")
    chance = random.Random(SEED)
    kills = dict.fromkeys(WEIGHTS, 0)
    with start_session(tmp_path, num_cpus=WORKERS) as started:
        end = time.monotonic() + DURATION_S
        drivers = [
            Driver(started, chance.getrandbits(30), DURATION_S, tmp_path) for _ in range(DRIVERS)
        ]
        finished: list[Driver] = []
        while time.monotonic() < end:
            time.sleep(chance.uniform(0.0, 0.15))
            what = chance.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
            if what == "driver":
                victim = chance.choice(drivers)
                if victim.process.poll() is None:
                    victim.kill()
                    drivers.remove(victim)
                    finished.append(victim)
                    left_s = max(1.0, end - time.monotonic())
                    drivers.append(Driver(started, chance.getrandbits(30), left_s, tmp_path))
            else:
                pids = sorted(started.pids_of(what))
                if not pids:
                    continue  # on its way: try something else
                kill(chance.choice(pids))
            kills[what] += 1
        done = [driver.finish(90) for driver in (*drivers, *finished)]
        totals = {
            key: sum(row.get(key, 0) for row in done) for key in ("steps", "answered", "lost")
        }
        print(f"killed {kills}, did {totals}")
        assert totals["answered"] > 50, "the load did next to nothing"
        started.wait_for_empty_memory(20)
    eventually(lambda: not session_pids(started.session), 3, "nothing of the session is left")
