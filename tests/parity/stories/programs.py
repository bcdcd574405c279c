"""Whole small programs, of the kinds that people write: each uses many parts of the API at once."""

import asyncio
import collections
import hashlib
import itertools
import json
import os
import sys
import tempfile
from dataclasses import dataclass, field

import numpy as np
import ray
from ray.util import ActorPool
from ray.util.queue import Empty, Queue
from telling import tell


@dataclass
class Page:
    url: str
    links: list = field(default_factory=list)
    status: int = 200


class FetchError(Exception):
    pass


def story_crawler():
    """Fetchers take from a queue what one actor has claimed; some pages are broken."""
    site = {f"/{i}": [f"/{(2 * i + 1) % 30}", f"/{(3 * i + 2) % 30}"] for i in range(30)}
    broken = {"/13", "/7"}

    @ray.remote(num_cpus=0)
    class Store:
        def __init__(self):
            self.pages, self.seen = {}, set()

        def claim(self, urls):
            new = [url for url in urls if url not in self.seen]
            self.seen.update(new)
            return new

        def save(self, page):
            self.pages[page.url] = page

        def summary(self):
            bad = [url for url, page in self.pages.items() if page.status != 200]
            return len(self.pages), len(self.seen), sorted(bad)

    @ray.remote(num_cpus=0.3)
    class Fetcher:
        def __init__(self, frontier, store):
            self.frontier, self.store = frontier, store

        def fetch(self, url):
            if url in broken:
                raise FetchError(url)
            return Page(url, site[url])

        def run(self):
            n = 0
            while True:
                try:
                    url = self.frontier.get(timeout=2)
                except Empty:
                    return n
                try:
                    page = self.fetch(url)
                except FetchError as error:
                    page = Page(str(error), status=500)
                ray.get(self.store.save.remote(page))
                for link in ray.get(self.store.claim.remote(page.links)):
                    self.frontier.put(link)
                n += 1

    frontier, store = Queue(actor_options={"num_cpus": 0}), Store.remote()
    ray.get(store.claim.remote(["/0"]))
    frontier.put("/0")
    fetchers = [Fetcher.remote(frontier, store) for _ in range(3)]
    fetched = sum(ray.get([fetcher.run.remote() for fetcher in fetchers]))
    left = frontier.qsize()
    frontier.shutdown()
    return fetched, left, ray.get(store.summary.remote())


def story_search_over_a_grid():
    """The best of many settings, some of which fail; then the same on a pool of actors."""
    rng = np.random.RandomState(0)
    x = rng.normal(size=(200, 3))
    data = ray.put((x, x @ np.array([1.0, 2.0, 3.0])))

    def fit(lr, steps, data):
        x, y = data
        w = np.zeros(3)
        for _ in range(steps):
            w -= lr * 2 / len(y) * x.T @ (x @ w - y)
        return float(np.mean((x @ w - y) ** 2))

    @ray.remote(num_cpus=0.5)
    def evaluate(lr, steps, data):
        if lr > 1:
            raise ValueError(f"{lr} diverges")
        return fit(lr, steps, data)

    @ray.remote(num_cpus=0.3)
    class Trainer:
        def __init__(self, data):
            self.data = data

        def fit(self, lr):
            return lr, fit(lr, 30, self.data)

    grid = list(itertools.product([0.001, 0.1, 5.0], [5, 50]))
    refs = {evaluate.remote(lr, steps, data): (lr, steps) for lr, steps in grid}
    unfinished, scores, failed = list(refs), {}, []
    while unfinished:
        done, unfinished = ray.wait(unfinished)
        for ref in done:
            try:
                scores[refs[ref]] = ray.get(ref)
            except ValueError:
                failed.append(refs[ref])
    pool = ActorPool([Trainer.remote(data) for _ in range(2)])
    fitted = list(pool.map(lambda actor, lr: actor.fit.remote(lr), [0.001, 0.01, 0.1]))
    best = min(scores, key=scores.get)
    return best, sorted(failed), [lr for lr, _ in fitted], min(fitted, key=lambda row: row[1])[0]


def story_publish_and_subscribe():
    """Asyncio actors: subscribers ask for what is new, and wait in the broker until it comes."""

    @ray.remote(num_cpus=0)
    class Broker:
        def __init__(self):
            self.topics = collections.defaultdict(list)
            self.changed = asyncio.Condition()

        async def publish(self, topic, message):
            async with self.changed:
                self.topics[topic].append(message)
                self.changed.notify_all()

        async def poll(self, topic, offset, timeout=None):
            async with self.changed:
                new = self.changed.wait_for(lambda: len(self.topics[topic]) > offset)
                try:
                    await asyncio.wait_for(new, timeout)
                except TimeoutError:
                    return []
                return self.topics[topic][offset:]

    @ray.remote(num_cpus=0)
    class Subscriber:
        async def run(self, broker, topic, n):
            got = []
            while len(got) < n:
                got += await broker.poll.remote(topic, len(got))
            return got

    broker = Broker.remote()
    subscribers = [Subscriber.remote() for _ in range(3)]
    topics = ["a", "a", "b"]
    runs = [s.run.remote(broker, topic, 3) for s, topic in zip(subscribers, topics)]
    for i in range(3):
        ray.get(broker.publish.remote("a", i))
    first = ray.get(runs[:2])
    waiting = len(ray.wait(runs[2:], timeout=0.3)[1])
    ray.get([broker.publish.remote("b", i) for i in range(3)])
    nothing = ray.get(broker.poll.remote("c", 0, timeout=0.1))
    return first, waiting, sorted(ray.get(runs[2])), nothing


def story_key_value_store():
    """Keys live in two of three actors; one is killed, and made again from the others."""

    @ray.remote(num_cpus=0)
    class Shard:
        def __init__(self):
            self.data = {}

        def put(self, key, version, value):
            if self.data.get(key, (0, None))[0] >= version:
                raise KeyError(f"{key} is newer")
            self.data[key] = version, value

        def get(self, key):
            return self.data[key][1]

        def dump(self):
            return self.data

        def load(self, data):
            self.data.update(data)
            return len(self.data)

    def where(key):
        first = int(hashlib.md5(key.encode()).hexdigest(), 16) % 3
        return first, (first + 1) % 3

    def read(key):
        for i in where(key):
            try:
                return ray.get(shards[i].get.remote(key))
            except ray.exceptions.RayActorError:
                lost.add(i)

    lost = set()
    shards = [Shard.options(name=f"shard {i}", get_if_exists=True).remote() for i in range(3)]
    keys = [f"key {i}" for i in range(20)]
    for version, key in enumerate(keys, 1):
        ray.get([shards[i].put.remote(key, version, {"n": version}) for i in where(key)])
    try:
        ray.get(shards[where(keys[4])[0]].put.remote(keys[4], 1, None))
        stale = False
    except KeyError:
        stale = True
    size = len(ray.get(shards[1].dump.remote()))
    ray.kill(shards[1])
    values = [read(key)["n"] for key in keys]
    merged = {}
    for data in ray.get([shards[i].dump.remote() for i in (0, 2)]):
        merged.update({key: value for key, value in data.items() if 1 in where(key)})
    shards[1] = Shard.options(name="shard 1").remote()
    return (
        stale,
        values == list(range(1, 21)),
        lost == {1},
        size,
        ray.get(ray.get_actor("shard 1").load.remote(merged)),
    )


def story_game_of_life():
    """Four actors hold a quarter each, and get the edges of the others as refs."""
    quarters, size = 2, 6
    around = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]

    def next_world(world):
        near = sum(np.roll(np.roll(world, y, 0), x, 1) for y, x in around)
        return ((near == 3) | ((world == 1) & (near == 2))).astype(int)

    @ray.remote(num_cpus=0.2)
    class Quarter:
        def __init__(self, block):
            self.block = block

        def edge(self, y, x):
            parts = {-1: slice(0, 1), 0: slice(None), 1: slice(-1, None)}
            return self.block[parts[y], parts[x]]

        def step(self, edges):
            padded = np.pad(self.block, 1)
            parts = {-1: slice(0, 1), 0: slice(1, -1), 1: slice(-1, None)}
            for (y, x), ref in edges.items():
                padded[parts[y], parts[x]] = ray.get(ref)
            self.block = next_world(padded)[1:-1, 1:-1]
            return self.block

    world = (np.random.RandomState(3).rand(quarters * size, quarters * size) < 0.4).astype(int)
    places = list(itertools.product(range(quarters), repeat=2))
    tiles = {
        (i, j): Quarter.remote(world[i * size : (i + 1) * size, j * size : (j + 1) * size])
        for i, j in places
    }
    alive = []
    for _ in range(3):
        edges = {
            (i, j): {
                (y, x): tiles[(i + y) % quarters, (j + x) % quarters].edge.remote(-y, -x)
                for y, x in around
            }
            for i, j in places
        }
        for refs in edges.values():
            ray.wait(list(refs.values()), num_returns=len(refs))
        blocks = dict(zip(places, ray.get([tiles[p].step.remote(edges[p]) for p in places])))
        alive.append(int(sum(block.sum() for block in blocks.values())))
        world = next_world(world)
    rows = [[blocks[i, j] for j in range(quarters)] for i in range(quarters)]
    return alive, bool((np.block(rows) == world).all())


def story_training_with_checkpoints():
    """A worker that crashes is made again by hand from its state, another comes back by itself."""

    @ray.remote(num_cpus=0)
    class Worker:
        def __init__(self, state=None):
            self.state = state or {"done": 0}

        def work(self, crash):
            if crash:
                sys.exit(1)
            self.state["done"] += 1
            return self.state

    @ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
    class Trainer:
        def __init__(self, path):
            self.path, self.state = path, {"epoch": 0, "lives": 1}
            if os.path.exists(path):
                with open(path) as file:
                    self.state = json.load(file)
                self.state["lives"] += 1

        def train(self, epoch):
            while self.state["epoch"] < epoch:
                self.state["epoch"] += 1
                with open(self.path + ".new", "w") as file:
                    json.dump(self.state, file)
                os.replace(self.path + ".new", self.path)
                if self.state["epoch"] == 3 and self.state["lives"] == 1:
                    os._exit(1)
            return self.state

    worker, state, crashes = Worker.remote(), {"done": 0}, 0
    for i in itertools.count(1):
        try:
            state = ray.get(worker.work.remote(crash=i % 3 == 0))
        except ray.exceptions.RayActorError:
            crashes += 1
            worker = Worker.remote(state)
        if state["done"] == 4:
            break
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer.remote(os.path.join(folder, "state.json"))
        states = [ray.get(trainer.train.remote(epoch)) for epoch in (2, 4, 5)]
    return state, crashes, states


def story_supervisor():
    """An asyncio actor spreads calls over replicas, and replaces the one that has died."""

    @ray.remote(num_cpus=0)
    class Replica:
        def handle(self, x):
            return 2 * x

        def crash(self):
            os._exit(1)

    @ray.remote(num_cpus=0)
    class Supervisor:
        def __init__(self):
            self.replicas = [Replica.remote() for _ in range(2)]
            self.replaced = 0

        async def handle(self, x):
            i = x % 2
            replica = self.replicas[i]
            try:
                return await replica.handle.remote(x)
            except ray.exceptions.RayActorError:
                if self.replicas[i] is replica:
                    self.replicas[i] = Replica.remote()
                    self.replaced += 1
                return await self.handle(x)

        async def crash(self, i):
            try:
                await self.replicas[i].crash.remote()
            except ray.exceptions.RayActorError:
                return "crashed"

        async def count(self):
            return self.replaced

    supervisor = Supervisor.remote()
    before = ray.get([supervisor.handle.remote(x) for x in range(6)])
    crashed = ray.get(supervisor.crash.remote(1))
    after = ray.get([supervisor.handle.remote(x) for x in range(6)])
    return before == after, crashed, ray.get(supervisor.count.remote())


if __name__ == "__main__":
    tell(globals())
