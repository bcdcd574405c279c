"""State: documents stream in, every word counts for each of its beginnings.

Actors keep the counts. With plain processes one writes the queues and the loop by hand; a pool
has no state, so its tasks send their counts back to be merged: both are shown as one would
write them, the pool merging and the pipe-and-process version as `processes`.
"""

from __future__ import annotations

import multiprocessing
import random
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.case import Case, Need, Share, Step, preparation
from benchmarks.sides import AT_ONCE, CLUSTERS, CORES, at_once, cluster, pool

DOCUMENTS = 2000
WORDS = 500
POPULAR = 1000


def make_documents() -> list[list[str]]:
    generator = random.Random(1)
    letters = "etaoinshrdlucmfw"
    vocabulary = [
        "".join(generator.choices(letters, k=generator.randint(3, 10))) for _ in range(5000)
    ]
    return [generator.choices(vocabulary, k=WORDS) for _ in range(DOCUMENTS)]


def add_document(counts: Counter[str], words: list[str]) -> None:
    for word in words:
        for end in range(1, len(word) + 1):
            counts[word[:end]] += 1


def count_document(words: list[str]) -> Counter[str]:
    counts: Counter[str] = Counter()
    add_document(counts, words)
    return counts


def popular(parts: list[Counter[str]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return {prefix: n for prefix, n in total.items() if n > POPULAR}


def serve(end: Connection) -> None:
    counts: Counter[str] = Counter()
    while (words := end.recv()) is not None:
        add_document(counts, words)
    end.send(counts)


def with_processes(documents: list[list[str]]) -> dict[str, int]:
    ends, processes = [], []
    for _ in range(CORES):
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.Process(target=serve, args=(theirs,))
        process.start()
        ends.append(ours)
        processes.append(process)
    for i, words in enumerate(documents):
        ends[i % CORES].send(words)
    for end in ends:
        end.send(None)
    parts = [end.recv() for end in ends]
    for process in processes:
        process.join()
    return popular(parts)


class PrefixCounter:
    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def add(self, words: list[str]) -> None:
        add_document(self.counts, words)

    def all(self) -> Counter[str]:
        return self.counts


def with_actors(api: Any, documents: list[list[str]]) -> dict[str, int]:
    actor_class = api.remote(PrefixCounter)
    actors = [actor_class.remote() for _ in range(CORES)]
    for i, words in enumerate(documents):
        actors[i % CORES].add.remote(words)
    return popular(api.get([actor.all.remote() for actor in actors]))


def with_pool(workers: Any, documents: list[list[str]]) -> dict[str, int]:
    return popular(workers.collect([workers.submit(count_document, words) for words in documents]))


def serially(documents: list[list[str]]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for words in documents:
        add_document(counts, words)
    return popular([counts])


PROGRAMS: dict[str, tuple[Callable[..., Any], ...]] = {
    "Shoal and Ray": (PrefixCounter, with_actors),
    "processes": (serve, with_processes),
    "mp.Pool": (count_document, with_pool),
    "serial": (serially,),
}
"""What one writes, apart from the counting: for the page that compares the programs' lengths."""


@preparation
def prepare(side: str) -> Iterator[Step]:
    documents = make_documents()
    expected = serially(documents)

    def checked(found: dict[str, int]) -> int:
        assert found == expected
        return 1

    if side == "serial":
        yield lambda: checked(serially(documents))
    elif side == AT_ONCE:
        with at_once(lambda: checked(serially(documents))) as together:
            yield together
    elif side == "processes":
        yield lambda: checked(with_processes(documents))
    elif side == "multiprocessing":
        with pool(side) as workers:
            yield lambda: checked(with_pool(workers, documents))
    else:
        with cluster(side) as api:
            yield lambda: checked(with_actors(api, documents))


CASES = [
    Case(
        id="A2",
        question=f"prefix counts of {DOCUMENTS} streamed documents",
        unit="job",
        sides=(*CLUSTERS, "processes", "multiprocessing", "serial", AT_ONCE),
        prepare=prepare,
        floor=Share(1 / 1.15, side=AT_ONCE),
        aim=Share(1 / 1.05, side=AT_ONCE),
        need=Need("the serial programs at once", side=AT_ONCE),
        has_neighbours=False,
    )
]
