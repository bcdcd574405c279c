"""Initialisation: classify many batches with a model that takes long to load.

An actor loads it once. A pool can do so too, with an initializer and a global variable
(`multiprocessing`); without that trick each task loads it (`pool-naive`). A3 is the classic
question: how fast are batches once every side has its models loaded (the serial program too).
A3-load is the same from nothing to the last answer: making two actors, or a pool, or nothing, and
loading the model in each process are part of the time. Loading is done once per process, so that
two processes cannot take half the time of one: it has no floor.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.case import Case, Need, Preparation, Share, Step, preparation
from benchmarks.sides import AT_ONCE, CLUSTERS, CORES, at_once, cluster

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


def make_actors(api: Any, path: str) -> list[Any]:
    return [api.remote(Model).remote(path) for _ in range(CORES)]


def with_actors(api: Any, actors: list[Any]) -> list[int]:
    pool = api.util.ActorPool(actors)  # the next batch to whoever is free, as other pools do
    return list(pool.map(lambda actor, seed: actor.classify.remote(seed), range(BATCHES)))


def make_pool(path: str) -> Any:
    return multiprocessing.Pool(CORES, load_in_pool, (path,))


def with_pool(workers: Any) -> list[int]:
    return workers.map(classify_in_pool, range(BATCHES), chunksize=1)


def naively(workers: Any, path: str) -> list[int]:
    return workers.map(load_and_classify, [(path, seed) for seed in range(BATCHES)], chunksize=1)


def serially(model: Model) -> list[int]:
    return [model.classify(seed) for seed in range(BATCHES)]


PROGRAMS: dict[str, tuple[Callable[..., Any], ...]] = {
    "Shoal and Ray": (make_actors, with_actors),
    "mp.Pool": (load_in_pool, classify_in_pool, make_pool, with_pool),
    "pool-naive": (load_and_classify, naively),
    "serial": (serially,),
}
"""What one writes, apart from the model: for the page that compares the programs' lengths."""


def step_of(side: str, path: str, includes_loading: bool) -> Iterator[Step]:
    expected = serially(Model(path))

    def checked(answers: list[int]) -> int:
        assert answers == expected
        return 1

    if side == "serial":
        model = Model(path)
        yield lambda: checked(serially(Model(path) if includes_loading else model))
    elif side == AT_ONCE:
        model = Model(path)
        with at_once(lambda: checked(serially(model))) as together:
            yield together
    elif side == "pool-naive":
        with multiprocessing.Pool(CORES) as workers:
            yield lambda: checked(naively(workers, path))
    elif side == "multiprocessing":
        with make_pool(path) as workers:

            def from_nothing() -> int:
                with make_pool(path) as fresh:
                    return checked(with_pool(fresh))

            yield from_nothing if includes_loading else lambda: checked(with_pool(workers))
    else:
        with cluster(side) as api:
            actors = make_actors(api, path)
            api.get([actor.classify.remote(0) for actor in actors])
            if includes_loading:
                actors.clear()  # Ray has no CPU for others as long as these live
                yield lambda: checked(with_actors(api, make_actors(api, path)))
            else:
                yield lambda: checked(with_actors(api, actors))


def preparation_for(includes_loading: bool) -> Preparation:
    @preparation
    def prepare(side: str) -> Iterator[Step]:
        with tempfile.TemporaryDirectory() as folder:
            yield from step_of(side, write_model(folder), includes_loading)

    return prepare


MODEL_MB = FEATURES * HIDDEN * 8 // 10**6
CASES = [
    Case(
        id="A3",
        question=f"{BATCHES} batches through a model of {MODEL_MB} MB that is loaded",
        unit="job",
        sides=(*CLUSTERS, "multiprocessing", "pool-naive", "serial", AT_ONCE),
        prepare=preparation_for(includes_loading=False),
        floor=Share(1 / 1.15, side=AT_ONCE),
        aim=Share(1 / 1.05, side=AT_ONCE),
        need=Need("the serial programs at once", side=AT_ONCE),
        has_neighbours=False,
    ),
    Case(
        id="A3-load",
        question=f"the same with making the actors and loading {MODEL_MB} MB in each",
        unit="job",
        sides=(*CLUSTERS, "multiprocessing", "serial"),
        prepare=preparation_for(includes_loading=True),
        need=Need("the serial program, which loads the model once", side="serial"),
        has_neighbours=False,
    ),
]
