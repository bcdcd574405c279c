"""Programs with a known result, for whatever cluster this process has joined.

They are those of ``tests/chaos``, imported and not copied: a graph of tasks whose results are keyed
hashes (L1), actors that append to synced files (L2), a shuffle, a parameter server, nested tasks
and word counts, each compared with the serial run. They know nothing of faults and of nodes: a test
begins one, disturbs the cluster meanwhile (``running``), and the load asserts in the end.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.chaos import work
from tests.chaos.loads import Appending, Graph

PATIENCE_S = 300.0


@dataclass(frozen=True)
class Size:
    """How much of each."""

    leaves: int
    """Of the graph: the tasks of its first level."""
    actors: int
    rounds: int
    """Calls of each actor."""
    shuffle_bytes: int


SMALL = Size(leaves=64, actors=3, rounds=20, shuffle_bytes=8 << 20)
"""Seconds, on two cores."""
FULL = Size(leaves=7_500, actors=30, rounds=2_000, shuffle_bytes=400 << 20)
"""The figures of the table of faults."""

Load = Callable[[Path, random.Random, Size], None]


def graph(folder: Path, chance: random.Random, size: Size) -> None:
    """L1: exact results, and nothing ran more often than its retries allow."""
    made = Graph(folder, f"{chance.getrandbits(32):08x}", size.leaves)
    made.judge(PATIENCE_S)


def appending(folder: Path, chance: random.Random, size: Size) -> None:
    """L2: every call was carried out once, in order; only without kills of its actors."""
    made = Appending(folder / f"{chance.getrandbits(32):08x}", size.actors)
    for _ in range(size.rounds):
        made.round()
    assert made.judge() == made.calls == size.actors * size.rounds


def _work(kind: str, _folder: Path, chance: random.Random, size: Size) -> None:
    work.KINDS[kind](chance, size.shuffle_bytes)


KINDS: dict[str, Load] = {
    "graph": graph,
    "appending": appending,
    **{kind: partial(_work, kind) for kind in work.KINDS},
}


@contextmanager
def running(kind: str, folder: Path, seed: int, size: Size = SMALL) -> Iterator[Future[None]]:
    """One load in a thread of its own; at the end of the block it must have come out right.

    Faults go into the block; ``future.done()`` says whether the load was quicker.
    """
    outcome: Future[None] = Future()

    def run() -> None:
        try:
            KINDS[kind](folder, random.Random(seed), size)
        except BaseException as error:
            outcome.set_exception(error)
        else:
            outcome.set_result(None)

    thread = threading.Thread(target=run, name=f"load-{kind}", daemon=True)
    thread.start()
    yield outcome
    outcome.result(PATIENCE_S)
    thread.join(PATIENCE_S)
