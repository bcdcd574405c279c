"""The words of a benchmark: case, step, sample. Used by every side, so only the standard library.

A *case* asks one question. For each *side* (Shoal, Ray, `multiprocessing`, ...) it can prepare a
*step*: a call that does some of the work and says how many operations it did. Everything that is
not the question (starting a session, making the actor) happens in the preparation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import ParamSpec

P = ParamSpec("P")


@dataclass(frozen=True)
class Sample:
    """What a step that keeps its own time did: it can leave out what is not the question."""

    operations: float
    seconds: float


Step = Callable[[], float | Sample]
Preparation = Callable[[str], AbstractContextManager[Step]]


@dataclass(frozen=True)
class Case:
    """One question, for the sides that can answer it."""

    id: str
    question: str
    unit: str
    """What one operation is: results are operations per second."""
    sides: tuple[str, ...]
    prepare: Preparation
    floor: float | None = None
    aim: float | None = None
    limit: str | None = None
    """Name of the machine's limit beside which the result is printed; see `limits.py`."""
    is_latency: bool = False
    """Each step is one operation, and its single times are kept for p50 and p99."""
    warmup_steps: int = 1
    """At least so many steps before anything counts, where the steady state comes late."""
    max_windows: int = 1000
    """Fewer windows for what takes long by itself."""


def preparation(
    function: Callable[P, Iterator[Step]],
) -> Callable[P, AbstractContextManager[Step]]:
    """Decorator: a generator that yields the step becomes a `Preparation`."""
    return contextmanager(function)
