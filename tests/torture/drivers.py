"""Load drivers as processes: started, killed, waited for, and their figures added up."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

from tests.torture.started import Started

ROOT = Path(__file__).resolve().parents[2]
REPORT = "children.log"
"""What children of user code have seen (`forks.py`), in the folder of the run."""


class Driver:
    """One load process and the file that has its errors."""

    def __init__(
        self, started: Started, seed: int, seconds: float, folder: Path, mode: str
    ) -> None:
        self.mode = mode
        self.errors = folder / f"driver-{seed}.err"
        self.output = folder / f"driver-{seed}.out"
        self.was_killed = False
        program = [sys.executable, "-m", "tests.torture.load", started.session]
        with self.errors.open("wb") as stderr, self.output.open("wb") as stdout:
            self.process = subprocess.Popen(
                [*program, str(seed), f"{seconds}", str(folder / REPORT), mode],
                cwd=ROOT,
                env=started.environment,
                stdout=stdout,
                stderr=stderr,
            )

    def kill(self) -> None:
        self.was_killed = True
        self.process.kill()

    def assert_no_failure(self) -> None:
        """It runs, or has ended well, or was killed by us."""
        code = self.process.poll()
        if code and not self.was_killed:
            text = self.errors.read_text()[-6000:]
            raise AssertionError(f"a driver ended with {code}:\n{text}")

    def finish(self, deadline_s: float) -> Counter[str]:
        """Wait for the end; what it did. A killed one did what it has told."""
        self.process.wait(deadline_s)
        self.assert_no_failure()
        lines = self.output.read_text().split("\n")[:-1]  # the last one may be cut short
        assert lines or self.was_killed
        return Counter(json.loads(lines[-1])) if lines else Counter()


class Crew:
    """So many drivers at work, each replaced when it is killed, until the time is over."""

    def __init__(self, started: Started, folder: Path) -> None:
        self._started = started
        self._folder = folder
        self.at_work: list[Driver] = []
        self._gone: list[Driver] = []
        self._done: Counter[str] = Counter()

    def add(self, seed: int, seconds: float, mode: str) -> None:
        self.at_work.append(Driver(self._started, seed, seconds, self._folder, mode))

    def kill(self, which: int) -> str:
        """`kill -9` of one, whose files are not needed any more; what it did."""
        victim = self.at_work.pop(which)
        victim.kill()
        self._gone.append(victim)
        return victim.mode

    def look(self) -> None:
        """Fail as soon as a driver has failed, and reap those that were killed."""
        for driver in self.at_work:
            driver.assert_no_failure()
        for driver in [each for each in self._gone if each.process.poll() is not None]:
            self._gone.remove(driver)
            self._done += driver.finish(0)
            driver.errors.unlink()
            driver.output.unlink()

    def everybody(self) -> list[Driver]:
        """Those at work and those that were killed and are not reaped yet."""
        return [*self.at_work, *self._gone]

    def finish(self, deadline_s: float) -> Counter[str]:
        """What all did together."""
        for driver in self.everybody():
            self._done += driver.finish(deadline_s)
        return self._done

    def end(self) -> None:
        """Whatever happened, no driver is left."""
        for driver in self.everybody():
            driver.process.kill()
            driver.process.wait()
