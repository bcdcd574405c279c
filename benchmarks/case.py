"""The words of a benchmark: case, step, sample. Used by every side, so only the standard library.

A *case* asks one question. For each *side* (Shoal, Ray, `multiprocessing`, ...) it can prepare a
*step*: a call that does some of the work and says how many operations it did. Everything that is
not the question (starting a session, making the actor) happens in the preparation.

What a case measures has one of three *quantities*: operations per second (more is better), the
seconds of one operation or the bytes of one thing (less is better). Its *floor* and *aim* are
figures of that quantity, or a share of something that is measured in the same run (`Share`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Literal, ParamSpec

P = ParamSpec("P")


@dataclass(frozen=True)
class Sample:
    """What a step that keeps its own time did: it can leave out what is not the question."""

    operations: float
    seconds: float


@dataclass(frozen=True)
class Amount:
    """What a step that measures memory found."""

    size_bytes: float


Step = Callable[[], float | Sample | Amount]
Preparation = Callable[[str], AbstractContextManager[Step]]
Quantity = Literal["rate", "time", "bytes"]


BEST_PEER = "the best peer"


@dataclass(frozen=True)
class Share:
    """A floor or an aim that is so many times what was measured beside it in the same run."""

    factor: float
    limit: str = ""
    """Of this limit of the machine (see `limits.py`), or ..."""
    side: str = ""
    """... of what this side reached in the same case; BEST_PEER: of the best of the others."""


@dataclass(frozen=True)
class Need:
    """Where the CPU seconds that the calls themselves need come from.

    The budget is twice that: what is beyond the need was spent on waiting.
    """

    why: str
    """In words, for the documentation."""
    caller: bool = False
    """The CPU time of the calling thread in the same windows: nobody else has anything to do."""
    side: str = ""
    """What this side of the same case uses; it does the same work and never waits."""
    case: str = ""
    """The need of one operation of that case."""


Mark = float | Share | None


@dataclass(frozen=True)
class Case:
    """One question, for the sides that can answer it."""

    id: str
    question: str
    unit: str
    """What one operation is: results are operations per second, or seconds per operation."""
    sides: tuple[str, ...]
    prepare: Preparation
    quantity: Quantity = "rate"
    floor: Mark = None
    aim: Mark = None
    aim_of_best: float = 0.0
    """The aim is also so many times the best peer that is a pool."""
    limit: str | None = None
    """Name of the machine's limit beside which the result is printed; see `limits.py`."""
    least: str = ""
    """Why that limit: what the hardware must do at least."""
    need: Need | None = None
    smaller: str = ""
    """The same question about smaller values: a peer that had no answer there in time is not
    asked."""
    is_latency: bool = False
    """Each step is one operation, and its single times are kept for p50 and p99."""
    has_neighbours: bool = True
    """Ours is measured a second time, with one busy process per core beside it."""
    warmup_steps: int = 1
    """At least so many steps before anything counts, where the steady state comes late."""
    is_cold: bool = False
    """Nothing is to be warmed up: the first time is the question."""
    max_windows: int = 1000
    """Fewer windows for what takes long by itself."""
    max_peer_windows: int = 1000


def preparation(
    function: Callable[P, Iterator[Step]],
) -> Callable[P, AbstractContextManager[Step]]:
    """Decorator: a generator that yields the step becomes a `Preparation`."""
    return contextmanager(function)
