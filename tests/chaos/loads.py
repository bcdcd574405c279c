"""Loads that know nothing of faults."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable
from hashlib import blake2b
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

    def pid(self) -> int:
        return os.getpid()


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


RETRIES = 3


def append_line(path: str, text: str) -> None:
    """One write: lines never mix, and what is written is there, whoever dies then."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(fd, f"{text}\n".encode())
    os.close(fd)


def digest(name: str, below: Iterable[str]) -> str:
    """What a task of ``Graph`` returns."""
    return blake2b(" ".join([name, *below]).encode(), digest_size=16, key=b"L1").hexdigest()


@shoal.remote(max_retries=RETRIES)
def knot(path: str, name: str, *below: str) -> str:
    """Writes down that it runs, and works for a moment."""
    append_line(path, name)
    time.sleep(0.004)
    return digest(name, below)


class Graph:
    """L1: three levels of tasks; each result is a keyed hash of its name and what is below it."""

    def __init__(self, folder: Path, name: str, leaves: int, width: int = 4) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.journal = folder / f"graph-{name}"
        self._values: list[str] = []
        self._refs: list[shoal.ObjectRef[str]] = []
        values = [digest(f"0-{leaf}", ()) for leaf in range(leaves)]
        refs = [self._knot(f"0-{leaf}") for leaf in range(leaves)]
        for level in (1, 2):
            names = [f"{level}-{at}" for at in range((len(refs) + width - 1) // width)]
            parts = [slice(at * width, at * width + width) for at in range(len(names))]
            self._keep(refs, values)
            refs = [self._knot(name, *refs[part]) for name, part in zip(names, parts)]
            values = [digest(name, values[part]) for name, part in zip(names, parts)]
        self._keep(refs, values)
        self.size = len(self._refs)

    def _keep(self, refs: list[shoal.ObjectRef[str]], values: list[str]) -> None:
        self._refs += refs
        self._values += values

    def _knot(self, name: str, *below: shoal.ObjectRef[str]) -> shoal.ObjectRef[str]:
        return knot.remote(str(self.journal), name, *below)

    def begun(self) -> int:
        """How many executions have begun."""
        return len(self.journal.read_text().split()) if self.journal.exists() else 0

    def judge(self, patience_s: float) -> int:
        """Assert exact results, and that nothing ran too often; how many runs were lost."""
        assert shoal.get(self._refs, timeout=patience_s) == self._values
        counts = Counter(self.journal.read_text().split())
        assert len(counts) == self.size and max(counts.values()) <= RETRIES + 1, counts
        return counts.total() - self.size
