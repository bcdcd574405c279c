"""Loads that know nothing of faults."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import shoal
from tests.chaos import oracle


@shoal.remote
class Appender:
    """Appends ids to a file of its own, and has each on disk before it answers."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def append(self, name: str) -> str:
        os.write(self._file, name.encode() + b"\n")
        os.fdatasync(self._file)
        return name


class Appending:
    """L2: every actor is called in turn; what each was asked and what it answered is kept."""

    def __init__(self, folder: Path, actors: int, make: Callable[[str], object] | None = None):
        folder.mkdir(parents=True, exist_ok=True)
        self._files = [folder / f"actor-{number}" for number in range(actors)]
        self._actors = [(make or Appender.remote)(str(file)) for file in self._files]
        self._asked: list[list[str]] = [[] for _ in self._actors]
        self._told: list[list[str]] = [[] for _ in self._actors]
        self.calls = 0
        self.worst_s = 0.0
        """The longest that one round of calls has taken."""

    def round(self) -> None:
        """One call of each actor, all at once."""
        begun = time.monotonic()
        refs = []
        for number, actor in enumerate(self._actors):
            name = f"{number}-{len(self._asked[number])}"
            self._asked[number].append(name)
            refs.append(actor.append.remote(name))  # type: ignore[attr-defined]
        for number, name in enumerate(shoal.get(refs, timeout=120)):
            self._told[number].append(name)
        self.calls += len(refs)
        self.worst_s = max(self.worst_s, time.monotonic() - begun)

    def judge(self) -> int:
        """Assert that every call was carried out once, in order; how many there were."""
        return sum(
            oracle.assert_exact(asked, told, file)
            for asked, told, file in zip(self._asked, self._told, self._files)
        )
