"""The runtime environments of a node: which are wanted, being made, ready or have failed.

::

    wanted --(nothing to be made)-----------------------> ready --(no job left)--> gone
       |                                                    ^                       ^
       +--BuildEnvironment--> making --EnvironmentBuilt-----+                       |
                                |                                                   |
                                +---EnvironmentFailed--> failed --(retry_s, wanted)-+ (again)

A queue or actor that asks for an environment waits outside of the scheduler's line until it is
ready: it keeps nothing aside from others meanwhile. When it fails, what waits for it fails with the
tool's last lines (``reactions_environments``); who asks within ``FAILED_KEPT_S`` gets the same
answer, who asks later has it tried again.

1. An entry lives as long as a running job that has asked for it; ``DropEnvironment`` then lets the
   shell stop making it, or give up its hold on what was made.
2. The key "" is the environment that has nothing: always ready, never in the table.
3. Nobody here knows how an environment is made.
"""

from __future__ import annotations

import enum

from shoal._core import commands as do
from shoal._proto.environments import CONDA, Environment

FAILED_KEPT_S = 10.0


class Phase(enum.Enum):
    """How far an environment is."""

    MAKING = "making"
    READY = "ready"
    FAILED = "failed"


class Entry:
    """One environment that somebody wants."""

    __slots__ = ("environment", "jobs", "phase", "record", "since")

    def __init__(self, environment: Environment, now: float) -> None:
        self.environment = environment
        self.phase = Phase.MAKING
        self.since = now
        """When the phase began."""
        self.record = b""
        """Why it has failed."""
        self.jobs: set[int] = set()
        """Running jobs that have asked for it."""


class Environments:
    """All that running jobs have asked for."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}

    def want(self, now: float, job: int, environment: Environment) -> list[do.Command]:
        """``job`` asks for it: make it, unless it is there, on its way, or has just failed."""
        if not environment.key:
            return []
        entry = self.entries.get(environment.key)
        if entry is None:
            entry = self.entries[environment.key] = Entry(environment, now)
        elif entry.phase is not Phase.FAILED or now < entry.since + FAILED_KEPT_S:
            entry.jobs.add(job)
            return []
        entry.jobs.add(job)
        self._enter(now, entry, Phase.MAKING)
        if not environment.has_to_be_made():
            self._enter(now, entry, Phase.READY)
            return []
        return [do.BuildEnvironment(environment)]

    def built(self, now: float, key: str) -> Entry | None:
        """It is there; None if nobody waits for it any more."""
        entry = self._making(key)
        if entry is not None:
            self._enter(now, entry, Phase.READY)
        return entry

    def failed(self, now: float, key: str, record: bytes) -> Entry | None:
        """It could not be made; None if nobody waits for it any more."""
        entry = self._making(key)
        if entry is not None:
            self._enter(now, entry, Phase.FAILED)
            entry.record = record
        return entry

    def _making(self, key: str) -> Entry | None:
        entry = self.entries.get(key)
        return entry if entry is not None and entry.phase is Phase.MAKING else None

    def _enter(self, now: float, entry: Entry, phase: Phase) -> None:
        entry.phase, entry.since, entry.record = phase, now, b""

    def end_job(self, job: int) -> list[do.Command]:
        """The job is over: forget what nobody else has asked for."""
        out: list[do.Command] = []
        for key, entry in list(self.entries.items()):
            entry.jobs.discard(job)
            if not entry.jobs:
                del self.entries[key]
                if entry.environment.has_to_be_made():
                    out.append(do.DropEnvironment(key))
        return out

    # ---- questions
    def is_ready(self, key: str) -> bool:
        """Whether a worker may be given it now."""
        return not key or self.entries[key].phase is Phase.READY

    def failure(self, key: str) -> bytes:
        """Why it has failed; empty if it has not."""
        entry = self.entries.get(key)
        return b"" if entry is None else entry.record

    def get(self, key: str) -> Environment | None:
        """What stands behind a key; None for the one that has nothing."""
        return self.entries[key].environment if key else None

    def python(self, key: str) -> str:
        """Where its own interpreter is to be looked for; empty: it has none."""
        entry = self.entries.get(key)
        conda = None if entry is None else entry.environment.conda
        return "" if conda is None else CONDA + conda.digest

    def validate(self) -> None:
        """Assert the invariants."""
        assert "" not in self.entries
        for key, entry in self.entries.items():
            assert entry.environment.key == key and entry.jobs
            assert bool(entry.record) == (entry.phase is Phase.FAILED)
            assert entry.phase is Phase.READY or entry.environment.has_to_be_made()
