"""The whole suite, as two parts at once: what computes, and sessions and then clusters.

Tests of sessions and of clusters wait a good deal (for processes, deaths, leases), while compilers,
models and type checkers keep a core busy; one after the other they took twice the time of two cores
that were half idle. Three at once make sessions start too late for their deadlines. Each run of
pytest gets the arguments given; an argument that is a path is run alone instead.

    python -m tests                 # what make test does
    python -m tests -k lock
    python -m tests tests/unit/test_options.py

What the part with sessions prints is shown as it comes, the other's once both have ended, and last
one line for each. The exit status is that of the worse; a run for which the arguments leave
no test counts only if no other has one either.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

TESTS = Path(__file__).parent
COMPUTING = ("native", "parity", "property", "sim", "tidy", "typing", "unit")
"""Folders of tests that compute; a folder that is not named is one of sessions. The stories of
``parity`` are sessions too: they stand here because those take longer."""
CLUSTERS = ("cluster",)
"""Tests of several nodes: they look at the whole machine for what they leave of networks, so no
two of them run at once, nor one of them beside a session of ``chaos`` that has networks too."""
NO_TESTS = 5


@dataclass
class Part:
    """Programs that run one after the other."""

    name: str
    programs: list[list[str]]
    is_shown: bool
    root: str
    """Where its sessions live: the parts do not see each other's."""
    output: bytearray = field(default_factory=bytearray)
    status: int = 0
    taken_s: float = 0.0

    def run(self) -> None:
        """Run them all; to be called in a thread of its own."""
        began = time.monotonic()
        self.status = worst(self._run_one(program) for program in self.programs)
        self.taken_s = time.monotonic() - began

    def _run_one(self, program: list[str]) -> int:
        builds = str(Path(self.root).parent / "builds")
        environment = {**os.environ, "SHOAL_DIR": self.root, "SHOAL_TEST_BUILDS": builds}
        with subprocess.Popen(
            program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
        ) as process:
            assert process.stdout is not None
            while piece := os.read(process.stdout.fileno(), 1 << 16):
                self.output += piece
                if self.is_shown:
                    sys.stdout.buffer.write(piece)
                    sys.stdout.buffer.flush()
        return process.returncode

    def summary(self) -> str:
        """One line: how it ended, and when."""
        last = self.output.decode(errors="replace").strip().rpartition("\n")[2].strip("= ")
        verdict = "passed" if self.status == 0 else f"exit status {self.status}"
        return f"{self.name:10} {verdict} after {self.taken_s:.0f} s: {last}"


def main(arguments: list[str]) -> int:
    """Run the tests that ``arguments`` of pytest choose, and return the exit status."""
    pytest = [sys.executable, "-m", "pytest"]
    if any(Path(argument.partition("::")[0]).exists() for argument in arguments):
        return subprocess.call([*pytest, *arguments])
    folders = sorted(path.name for path in TESTS.iterdir() if any(path.glob("test_*.py")))
    computing = [str(TESTS / name) for name in folders if name in COMPUTING]
    clusters = [str(TESTS / name) for name in folders if name in CLUSTERS]
    sessions = [str(TESTS / name) for name in folders if name not in (*COMPUTING, *CLUSTERS)]
    waiting = (sessions, clusters)
    with tempfile.TemporaryDirectory(prefix="shoal-tests-") as root:
        # Others may pass: a test lets another user up to the door of a session.
        os.chmod(root, 0o711)
        parts = [
            Part("computing", [[*pytest, *computing, *arguments]], False, f"{root}/c"),
            Part("sessions", [[*pytest, *its, *arguments] for its in waiting], True, f"{root}/s"),
        ]
        threads = [threading.Thread(target=part.run) for part in parts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for part in parts:
        if not part.is_shown:
            print(f"\n{f' {part.name} ':=^100}\n{part.output.decode(errors='replace')}")
    print(f"{' all parts ':=^100}", *(part.summary() for part in parts), sep="\n", flush=True)
    return worst(part.status for part in parts)


def worst(statuses: Iterable[int]) -> int:
    """The exit status of all together."""
    given = set(statuses)
    return max(given - {0, NO_TESTS}, default=NO_TESTS if 0 not in given else 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
