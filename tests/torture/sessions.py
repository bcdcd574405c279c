"""Sessions whose node daemon is killed under load: everything of them is gone within 3 s.

    python -m tests.torture.sessions SEED REPORT

is one such session: a program that starts it, says where it is, and works like any load driver
until the session is lost. It must hear that by `SessionLostError` and nothing else.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import shoal
from shoal._runtime import cluster
from shoal.errors import SessionLostError
from tests.torture.drivers import REPORT, ROOT
from tests.torture.kills import Say
from tests.torture.load import Load
from tests.torture.processes import eventually, kill, session_pids

GONE_S = 3.0
LEAST_S, MOST_S = 0.05, 1.5
"""How long after its start a session's daemon is killed."""


class Victim:
    """One session of a program of its own."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.errors = folder / f"session-{seed}.err"
        program = [sys.executable, "-m", "tests.torture.sessions", str(seed)]
        with self.errors.open("wb") as stderr:
            self.process = subprocess.Popen(
                [*program, str(folder / REPORT)],
                cwd=ROOT,
                env={**os.environ, "SHOAL_DIR": str(folder / "sessions-of-test")},
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"a session did not start:\n{self.errors.read_text()[-4000:]}"
        self.facts: dict[str, Any] = json.loads(line)

    def end_by_killing(self, pids: list[int]) -> float:
        """Kill these; seconds until nothing of the session is left."""
        begun = time.monotonic()
        for pid in pids:
            kill(pid)
        session, directory = str(self.facts["session"]), Path(str(self.facts["directory"]))
        eventually(lambda: not session_pids(session), GONE_S, "no process of the session")
        eventually(lambda: not directory.exists(), GONE_S, "no directory of the session")
        took_s = time.monotonic() - begun
        code = self.process.wait(20)
        text = self.errors.read_text()
        assert code == 0, f"the driver ended with {code}:\n{text[-4000:]}"
        self.errors.unlink()
        return took_s

    def end(self) -> None:
        """After a failure nothing is left to others."""
        self.process.kill()
        self.process.wait()
        for pid in session_pids(str(self.facts["session"])):
            kill(pid)


def run(folder: Path, seed: int, seconds: float, say: Say) -> dict[str, Any]:
    """Session after session; how many, and the longest time until one was gone."""
    chance = random.Random(seed)
    end = time.monotonic() + seconds
    gone_s: list[float] = []
    while not gone_s or time.monotonic() < end:
        victim = Victim(folder, chance.getrandbits(30))
        try:
            time.sleep(chance.uniform(LEAST_S, MOST_S))
            gone_s.append(victim.end_by_killing([int(victim.facts["pid"])]))
        finally:
            victim.end()
        if len(gone_s) % 10 == 0:
            say(f"{len(gone_s)} daemons killed, gone after at most {max(gone_s):.2f} s")
    return {
        "daemons_killed": len(gone_s),
        "gone_s_median": round(sorted(gone_s)[len(gone_s) // 2], 3),
        "gone_s_most": round(max(gone_s), 3),
    }


def main() -> None:
    seed, report = int(sys.argv[1]), sys.argv[2]
    shoal.init(num_cpus=3, log_to_driver=False)
    (facts,) = cluster.table("session")
    names = ("session", "directory", "pid", "zygote_pid")
    print(json.dumps({name: facts[name] for name in names}), flush=True)
    load = Load(seed, report, "all")
    try:
        while True:
            load.step()
    except SessionLostError:
        print("lost, as it should be", flush=True)


if __name__ == "__main__":
    main()
