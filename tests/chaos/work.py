"""Real programs whose results are compared with the serial run, again and again.

    python -m tests.chaos.work SESSION KIND SEED SECONDS BYTES

is one driver of that session, or of a node with that address, that makes rounds of one kind until
the time is over. A round is right, or it is told
of a loss by name (a ``LostError``) and made again; anything else (a wrong result, a hang, another
error) ends this process with a traceback, and the run with it. The last line printed is JSON.

=========  =========================================================================================
words      word count: tasks that count, tasks that merge by twos
server     parameter server: tasks compute, an actor with a checkpoint adds up
shuffle    maps make one part for each reduce; BYTES of arrays are alive in between
nested     tasks that submit tasks and wait for them
pages      word count of texts of several MB that tasks have written (nodes only)
trainer    parameter server on another node, which may lose its state with that node (nodes only)
elastic    tasks and streams in a placement group that grows and shrinks (nodes only)
=========  =========================================================================================
"""

from __future__ import annotations

import faulthandler
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

import shoal
from shoal.errors import LostError, ObjectStoreFullError, TaskError
from shoal.util.placement_group import placement_group, remove_placement_group
from shoal.util.scheduling_strategies import PlacementGroupSchedulingStrategy as InGroup

PATIENCE_S = 300.0
HANG_S = 400.0
FEWEST_PARTS = 8
PART_BYTES = 10 << 20
"""About so much is what one map makes and what one reduce reads; there are as many of both."""

Array = Any  # of numpy, whose types change from release to release


# ---- words
def text_of(seed: int) -> list[str]:
    """One chunk of text."""
    chance = random.Random(seed)
    return [f"w{int(chance.paretovariate(1.0)) % 500}" for _ in range(2_000)]


@shoal.remote(max_retries=-1)
def count(seed: int) -> Counter[str]:
    return Counter(text_of(seed))


@shoal.remote(max_retries=-1)
def merge(one: Counter[str], other: Counter[str]) -> Counter[str]:
    return one + other


def words(chance: random.Random, size: int) -> None:
    seeds = [chance.getrandbits(30) for _ in range(16)]
    refs: list[Any] = [count.remote(seed) for seed in seeds]
    while len(refs) > 1:
        refs = [merge.remote(refs[at], refs[at + 1]) for at in range(0, len(refs), 2)]
    expected = sum((Counter(text_of(seed)) for seed in seeds), Counter[str]())
    assert shoal.get(refs[0], timeout=PATIENCE_S) == expected


# ---- server
WIDTH = 1_000


def gradient(weights: Array, shard: int, step: int) -> Array:
    """Whole numbers, so that the order of adding does not matter."""
    return (weights // 3 + np.arange(WIDTH) * shard + step) % 1_000


@shoal.remote(max_retries=-1)
def compute(weights: Array, shard: int, step: int) -> Array:
    return gradient(weights, shard, step)


@shoal.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class Server:
    """A step that is asked for again is not made again: its number says so."""

    def __init__(self) -> None:
        self.weights: Array = np.zeros(WIDTH, dtype=np.int64)
        self.step = 0

    def __shoal_checkpoint__(self) -> tuple[Array, int]:
        return self.weights, self.step

    def __shoal_restore__(self, state: tuple[Array, int]) -> None:
        self.weights, self.step = state

    def apply(self, step: int, *gradients: Array) -> Array:
        if step == self.step + 1:
            self.weights = self.weights + sum(gradients)
            self.step = step
        assert step == self.step, f"step {step} after {self.step}"
        return self.weights


def server(chance: random.Random, size: int) -> None:
    actor = Server.remote()
    steps, shards = 10, [chance.randrange(100) for _ in range(3)]
    weights: Any = np.zeros(WIDTH, dtype=np.int64)
    expected: Array = np.zeros(WIDTH, dtype=np.int64)
    for step in range(1, steps + 1):
        weights = actor.apply.remote(step, *(compute.remote(weights, s, step) for s in shards))
        expected = expected + sum(gradient(expected, shard, step) for shard in shards)
    assert (shoal.get(weights, timeout=PATIENCE_S) == expected).all()


# ---- shuffle
NO_ROOM = [ObjectStoreFullError]
"""Half of the store, or the disk, is away for moments: who found no room is tried again."""


def numbers_of(seed: int, length: int) -> Array:
    return np.random.default_rng(seed).integers(0, 1 << 40, length)


def pieces_of(seed: int, length: int, parts: int) -> list[Array]:
    """The numbers by the part that each is of."""
    values = numbers_of(seed, length)
    keys = (values % parts).astype(np.uint16)
    ends = np.cumsum(np.bincount(keys, minlength=parts))[:-1]
    return np.split(values[np.argsort(keys, kind="stable")], ends)


@shoal.remote(max_retries=-1, retry_exceptions=NO_ROOM)
def split(seed: int, length: int, parts: int) -> list[Array]:
    return pieces_of(seed, length, parts)


@shoal.remote(max_retries=-1, retry_exceptions=NO_ROOM)
def gather(pieces: list[Any]) -> tuple[int, int, int]:
    """Of a sorted part: its length and two sums. It reads one piece after the other: all of them at
    once would be in as many places of a store that is a tenth of everything."""
    return summary(np.sort(np.concatenate([shoal.get(piece).copy() for piece in pieces])))


def summary(values: Array) -> tuple[int, int, int]:
    places = np.arange(1, len(values) + 1, dtype=np.uint64)
    return len(values), int(values.sum()), int((values.astype(np.uint64) * places).sum())


def shuffle(chance: random.Random, size: int) -> None:
    parts = max(FEWEST_PARTS, size // PART_BYTES)
    length = size // parts // 8
    seeds = [chance.getrandbits(30) for _ in range(parts)]
    mapping = split.options(num_returns=parts)
    rows = [mapping.remote(seed, length, parts) for seed in seeds]
    refs = [gather.remote([row[part] for row in rows]) for part in range(parts)]
    del rows
    expected = serial_shuffle(seeds, length)
    for part, ref in enumerate(refs):
        assert shoal.get(ref, timeout=PATIENCE_S) == expected[part], f"part {part} of {seeds}"


def serial_shuffle(seeds: list[int], length: int) -> list[tuple[int, int, int]]:
    """The same by hand."""
    rows = [pieces_of(seed, length, len(seeds)) for seed in seeds]
    return [summary(np.sort(np.concatenate(part))) for part in zip(*rows)]


# ---- nested
@shoal.remote(max_retries=-1)
def tree(number: int, depth: int) -> int:
    if depth == 0:
        return number % 1_000
    below = [tree.remote(number * 3 + child, depth - 1) for child in range(3)]
    return sum(shoal.get(below)) + depth


def serial_tree(number: int, depth: int) -> int:
    if depth == 0:
        return number % 1_000
    return sum(serial_tree(number * 3 + child, depth - 1) for child in range(3)) + depth


def nested(chance: random.Random, size: int) -> None:
    number = chance.getrandbits(20)
    assert shoal.get(tree.remote(number, 3), timeout=PATIENCE_S) == serial_tree(number, 3)


# ---- pages
PAGE_BYTES = 4 << 20


@shoal.remote(max_retries=-1)
def write(seed: int, length: int) -> Array:
    return numbers_of(seed, length) % 997


@shoal.remote(max_retries=-1)
def tally(page: Array) -> Array:
    return np.bincount(page, minlength=997)


@shoal.remote(max_retries=-1)
def total(*counts: Array) -> Array:
    return sum(counts)


def pages(chance: random.Random, size: int) -> None:
    length = PAGE_BYTES // 8
    seeds = [chance.getrandbits(30) for _ in range(6)]
    found = total.remote(*(tally.remote(write.remote(seed, length)) for seed in seeds))
    expected = sum(np.bincount(numbers_of(seed, length) % 997, minlength=997) for seed in seeds)
    assert (shoal.get(found, timeout=PATIENCE_S) == expected).all()


# ---- trainer
FAR = "far"
"""A resource that all nodes have but the driver's."""


@shoal.remote(num_cpus=0, resources={FAR: 0.001}, max_restarts=-1, max_task_retries=-1)
class Trainer:
    """As ``Server``, but what it has kept is lost with its node: then it says so, and is told."""

    def __init__(self) -> None:
        self.weights: Array = np.zeros(WIDTH, dtype=np.int64)
        self.step = 0

    def load(self, step: int, weights: Array) -> None:
        self.weights, self.step = weights, step

    def apply(self, step: int, *gradients: Array) -> Array | None:
        if step == self.step + 1:
            self.weights = self.weights + sum(gradients)
            self.step = step
        return self.weights if step == self.step else None


def trainer(chance: random.Random, size: int) -> None:
    actor = Trainer.remote()
    shards = [chance.randrange(100) for _ in range(3)]
    weights: Array = np.zeros(WIDTH, dtype=np.int64)
    expected = weights
    for step in range(1, 11):
        expected = expected + sum(gradient(expected, shard, step) for shard in shards)
        found = None
        while found is None:
            gradients = [compute.remote(weights, shard, step) for shard in shards]
            found = shoal.get(actor.apply.remote(step, *gradients), timeout=PATIENCE_S)
            if found is None:
                actor.load.remote(step - 1, weights)
        weights = found
        assert (weights == expected).all(), f"step {step} of {shards}"


# ---- elastic
BUNDLE = {FAR: 0.01}
BUNDLES_MOST = 4


@shoal.remote(num_cpus=0, resources={FAR: 0.001}, max_retries=-1)
def square_sum(seed: int, length: int) -> int:
    return int((numbers_of(seed, length) % 997**2).sum())


@shoal.remote(num_cpus=0, resources={FAR: 0.001}, max_retries=-1, num_returns="streaming")
def numbers(seed: int, length: int) -> Any:
    yield from numbers_of(seed, length).tolist()


def elastic(chance: random.Random, size: int) -> None:
    group = placement_group([BUNDLE], strategy=chance.choice(("PACK", "SPREAD")))
    try:
        for _ in range(5):
            there = [index for index, bundle in enumerate(group.bundle_specs) if bundle]
            if len(there) < BUNDLES_MOST and chance.random() < 0.6:
                there += group.add_bundles([BUNDLE])
            elif len(there) > 1:
                group.remove_bundles([there.pop(chance.randrange(len(there)))])
            assert group.wait(PATIENCE_S), "a group has not had its place"
            seeds = [chance.getrandbits(30) for _ in range(6)]
            inside = [InGroup(group, chance.choice([*there, -1])) for _ in seeds]
            refs = [
                square_sum.options(scheduling_strategy=each).remote(seed, 100)
                for seed, each in zip(seeds, inside)
            ]
            stream = numbers.options(scheduling_strategy=InGroup(group, -1)).remote(seeds[0], 30)
            found = [shoal.get(ref, timeout=PATIENCE_S) for ref in stream]
            assert found == numbers_of(seeds[0], 30).tolist(), f"a stream of {seeds}"
            expected = [int((numbers_of(seed, 100) % 997**2).sum()) for seed in seeds]
            assert shoal.get(refs, timeout=PATIENCE_S) == expected
    finally:
        remove_placement_group(group)


KINDS: dict[str, Callable[[random.Random, int], None]] = {
    "words": words,
    "server": server,
    "shuffle": shuffle,
    "nested": nested,
}
ON_NODES = {
    "words": words,
    "shuffle": shuffle,
    "nested": nested,
    "pages": pages,
    "trainer": trainer,
    "elastic": elastic,
}
"""Without ``server``: what an actor keeps in checkpoints is on its node, and goes with it."""


def main() -> None:
    """Rounds until the time is over."""
    session, kind, seed, seconds, size = sys.argv[1:]
    faulthandler.dump_traceback_later(float(seconds) + HANG_S, exit=True)
    shoal.init(address=session, log_to_driver=False)
    chance = random.Random(int(seed))
    rounds, named = 0, Counter[str]()
    worst_s, end = 0.0, time.monotonic() + float(seconds)
    while time.monotonic() < end:
        begun = time.monotonic()
        try:
            {**KINDS, **ON_NODES}[kind](chance, int(size))
        except (LostError, TaskError) as error:
            cause = error if isinstance(error, LostError) else error.cause
            if not isinstance(cause, LostError):
                raise
            named[type(cause).__name__] += 1
            continue
        rounds += 1
        worst_s = max(worst_s, time.monotonic() - begun)
    shoal.shutdown()
    row = {"rounds": rounds, "named": dict(named), "longest_round_s": round(worst_s, 2)}
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
