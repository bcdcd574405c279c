"""The real programs of ``work`` under the faults of ``faults``, and the audit at the end."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.chaos import audit
from tests.chaos.faults import Faults, small_disk
from tests.chaos.recovery import Probes, figures
from tests.chaos.work import KINDS
from tests.torture.drivers import ROOT
from tests.torture.started import Started

STORE_BYTES = 64 << 20
SHARE = 10.0
"""Of the store: how much a shuffle has alive in between."""
FAULTS_PER_S = 3.0
PROBE_EVERY_S = 2.0
FINISH_S = 500.0

Say = Callable[[str], None]


class Programs:
    """One driver for each kind of work, all at once.

    Args:
        address: Of the session, or of the node that they join.
        folder: Where what they say goes.
        environment: Of their processes.
        kinds: Names of ``work``.
        rest: Seed, seconds, and bytes that a shuffle has alive.
    """

    def __init__(
        self,
        address: str,
        folder: Path,
        environment: Mapping[str, str],
        kinds: Iterable[str],
        rest: tuple[int, float, int],
    ) -> None:
        self._errors = {kind: folder / f"{kind}.err" for kind in kinds}
        self.processes = {}
        for kind, errors in self._errors.items():
            words = [address, kind, *map(str, rest)]
            with errors.open("wb") as stderr:
                self.processes[kind] = subprocess.Popen(
                    [sys.executable, "-m", "tests.chaos.work", *words],
                    cwd=ROOT,
                    env=dict(environment),
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    text=True,
                )

    def look(self) -> None:
        """Fail as soon as one of them has."""
        for kind, process in self.processes.items():
            if process.poll():
                text = self._errors[kind].read_text()[-6000:]
                raise AssertionError(f"{kind} ended with {process.returncode}:\n{text}")

    def finish(self) -> dict[str, Any]:
        """What each has done."""
        found = {}
        for kind, process in self.processes.items():
            out, _ = process.communicate(timeout=FINISH_S)
            self.look()
            found[kind] = json.loads(out.splitlines()[-1])
        return found

    def end(self) -> None:
        """After a failure nothing is left to others."""
        for process in self.processes.values():
            process.kill()
            process.wait()


def torment(
    started: Started, folder: Path, faults: Faults, programs: Programs, seconds: float, say: Say
) -> dict[str, Any]:
    """Faults and probes until the time is over; what happened."""
    chance = faults.chance
    probes = Probes(started, folder)
    times: dict[str, list[float]] = {"task": [], "actor": []}
    begun = now = time.monotonic()
    next_fault, next_probe = begun + 0.5, begun + 1.0
    try:
        while now < begun + seconds:
            if now >= next_fault:
                next_fault = now + chance.expovariate(FAULTS_PER_S)
                faults.inject()
            if now >= next_probe:
                next_probe = now + PROBE_EVERY_S
                programs.look()
                for name, each in times.items():
                    each.append(getattr(probes, name)())
                say(f"{now - begun:4.0f} s  {faults.injected.total()} faults")
            time.sleep(max(0.0, min(next_fault, next_probe) - time.monotonic()))
            now = time.monotonic()
        faults.end()
        work = programs.finish()
    finally:
        faults.end()
        programs.end()
    return {
        "seconds": round(time.monotonic() - begun, 1),
        "faults": dict(sorted(faults.injected.items())),
        "injected": faults.injected.total(),
        "survived": faults.injected.total(),
        "recovery_under_load": {name: figures(each) for name, each in times.items()},
        "work": work,
    }


def met(started: Started) -> dict[str, object]:
    """What came of files that were changed: values that were found damaged, and made again."""
    facts = started.facts()
    spilling, lineage = facts["spilling"], facts["lineage"]
    assert isinstance(spilling, dict) and isinstance(lineage, dict)
    return {
        "spilled_bytes": spilling["spilled_bytes"],
        "values_found_damaged": spilling["lost"],
        "values_made_again": lineage["rebuilt"],
    }


def run(folder: Path, seed: int, seconds: float, say: Say, share: float = SHARE) -> dict[str, Any]:
    """One session from start to end; arrays of ``share`` of its store are alive in a shuffle."""
    disk = folder / "sessions-of-test"
    spilled = disk / "spilled"
    options = ["--object-store-memory", str(STORE_BYTES)]
    size = int(STORE_BYTES * share)
    with small_disk(disk) as is_small:
        if is_small:
            spilled.mkdir()
            options += ["--object-spilling-directory", str(spilled)]
        with audit.session(folder, 3, *options) as started, audit.audited(started):
            faults = Faults(started, disk if is_small else None, random.Random(seed))
            rest = (seed, seconds, size)
            programs = Programs(started.session, folder, started.environment, KINDS, rest)
            found = torment(started, folder, faults, programs, seconds, say)
            found["met"] = met(started)
        assert not list(disk.rglob("*.spill")), "files of spilled values are left"
    where = "a tmpfs" if is_small else "not one of its own, so it was never full"
    return {**found, "disk": where, "audit": "zero"}
