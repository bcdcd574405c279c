"""Initialisation: classify many batches with a model that takes long to load.

An actor loads it once. A pool can do so too, with an initializer and a global variable
(`multiprocessing`); without that trick each task loads it (`pool-naive`).
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.case import Case, Step, preparation
from benchmarks.sides import CLUSTERS, CORES, cluster

FEATURES = 1024
HIDDEN = 4096
BATCHES = 200
BATCH_ROWS = 64


class Model:
    """A two-layer perceptron, read from disk and checked, as large models are."""

    def __init__(self, path: str) -> None:
        with np.load(path) as stored:
            self.first, self.second = stored["first"], stored["second"]
        self.first /= np.linalg.norm(self.first, axis=0)

    def classify(self, seed: int) -> int:
        rows = np.random.default_rng(seed).normal(size=(BATCH_ROWS, FEATURES))
        hidden = np.maximum(rows @ self.first, 0.0)
        return int((hidden @ self.second).argmax(axis=1).sum())


loaded: dict[str, Model] = {}


def load_in_pool(path: str) -> None:
    loaded["model"] = Model(path)


def classify_in_pool(seed: int) -> int:
    return loaded["model"].classify(seed)


def load_and_classify(job: tuple[str, int]) -> int:
    path, seed = job
    return Model(path).classify(seed)


def write_model(folder: str) -> str:
    random = np.random.default_rng(0)
    path = str(Path(folder) / "model.npz")
    first = random.normal(size=(FEATURES, HIDDEN))
    np.savez(path, first=first, second=random.normal(size=(HIDDEN, 10)))
    return path


def step_of(side: str, path: str) -> Iterator[Step]:
    seeds = range(BATCHES)
    model = Model(path)
    expected = [model.classify(seed) for seed in seeds]

    def checked(answers: list[int]) -> int:
        assert answers == expected
        return 1

    if side == "serial":
        yield lambda: checked([*map(Model(path).classify, seeds)])
    elif side == "multiprocessing":

        def with_initializer() -> int:
            with multiprocessing.Pool(CORES, load_in_pool, (path,)) as workers:
                return checked(workers.map(classify_in_pool, seeds, chunksize=1))

        yield with_initializer
    elif side == "pool-naive":

        def naively() -> int:
            with multiprocessing.Pool(CORES) as workers:
                jobs = [(path, seed) for seed in seeds]
                return checked(workers.map(load_and_classify, jobs, chunksize=1))

        yield naively
    else:
        with cluster(side) as api:
            actor_class = api.remote(Model)

            def with_actors() -> int:
                actors = [actor_class.remote(path) for _ in range(CORES)]
                return checked(
                    api.get([actors[seed % CORES].classify.remote(seed) for seed in seeds])
                )

            yield with_actors


@preparation
def prepare(side: str) -> Iterator[Step]:
    with tempfile.TemporaryDirectory() as folder:
        yield from step_of(side, write_model(folder))


CASES = [
    Case(
        id="A3",
        question=f"{BATCHES} batches through a model of {FEATURES * HIDDEN * 8 // 10**6} MB",
        unit="job",
        sides=(*CLUSTERS, "multiprocessing", "pool-naive", "serial"),
        prepare=prepare,
    )
]
