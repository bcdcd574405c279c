"""ActorPool, Queue, functions over many refs, metrics, progress bars."""

import asyncio
import time

import ray
from ray.experimental.tqdm_ray import safe_print, tqdm
from ray.util import ActorPool
from ray.util.metrics import Counter, Gauge, Histogram
from ray.util.queue import Empty, Full, Queue
from telling import caught, tell


@ray.remote(num_cpus=0.1)
class Doubler:
    def double(self, x):
        return 2 * x

    def sleep(self, seconds):
        time.sleep(seconds)
        return seconds

    def fail(self, x):
        raise KeyError(x)


def double(actor, x):
    return actor.double.remote(x)


def story_pool_in_order():
    pool = ActorPool([Doubler.remote() for _ in range(2)])
    return list(pool.map(double, range(6)))


def story_pool_unordered():
    pool = ActorPool([Doubler.remote() for _ in range(2)])
    return sorted(pool.map_unordered(double, range(6)))


def story_pool_by_hand():
    pool = ActorPool([Doubler.remote() for _ in range(2)])
    for i in range(3):
        pool.submit(double, i)
    results = []
    while pool.has_next():
        results.append(pool.get_next())
    return results, pool.has_free(), caught(pool.get_next, StopIteration)


def story_pool_timeout():
    pool = ActorPool([Doubler.remote()])
    pool.submit(lambda actor, x: actor.sleep.remote(x), 5)
    return caught(lambda: pool.get_next(timeout=0.1), TimeoutError), pool.has_next()


def story_pool_push_and_pop():
    first, second = Doubler.remote(), Doubler.remote()
    pool = ActorPool([first])
    taken = pool.pop_idle()
    empty = pool.pop_idle()
    pool.push(second)
    return (
        taken == first,
        empty,
        pool.has_free(),
        caught(lambda: pool.push(second), ValueError),
        list(pool.map(double, [1, 2])),
    )


def story_pool_errors():
    pool = ActorPool([Doubler.remote()])
    pool.submit(lambda actor, x: actor.fail.remote(x), 1)
    pool.submit(double, 2)
    return caught(pool.get_next, KeyError), pool.get_next()


def story_queue():
    queue = Queue()
    for i in range(3):
        queue.put(i)
    sizes = queue.size(), queue.qsize(), len(queue), queue.empty(), queue.full()
    return sizes, [queue.get() for _ in range(3)], queue.empty()


def story_queue_limits():
    queue = Queue(maxsize=2)
    queue.put_nowait(1)
    queue.put(2)
    return (
        queue.full(),
        caught(lambda: queue.put_nowait(3), Full),
        caught(lambda: queue.put(3, timeout=0.1), Full),
        [queue.get_nowait(), queue.get()],
        caught(queue.get_nowait, Empty),
        caught(lambda: queue.get(timeout=0.1), Empty),
        caught(lambda: queue.get(timeout=-1), ValueError),
    )


def story_queue_batches():
    queue = Queue(maxsize=3)
    queue.put_nowait_batch([1, 2])
    return (
        caught(lambda: queue.put_nowait_batch([3, 4]), Full),
        caught(lambda: queue.get_nowait_batch(3), Empty),
        queue.get_nowait_batch(2),
    )


def story_queue_between_processes():
    """Producers and consumers are tasks."""
    queue = Queue()

    @ray.remote(num_cpus=0.5)
    def produce(queue, n):
        for i in range(n):
            queue.put(i)

    @ray.remote(num_cpus=0.5)
    def consume(queue, n):
        return sum(queue.get() for _ in range(n))

    taken = consume.remote(queue, 10)
    ray.get(produce.remote(queue, 10), timeout=40)
    return ray.get(taken, timeout=40)


def story_queue_async():
    async def main():
        queue = Queue(maxsize=1)
        await queue.put_async("a")
        first = await queue.get_async()
        try:
            await queue.get_async(block=False)
        except Empty:
            return first, "empty"

    return asyncio.run(main())


def story_queue_shutdown():
    queue = Queue()
    queue.put(1)
    queue.shutdown(force=True)
    return caught(queue.size, Exception)


def story_as_completed():
    refs = [Doubler.remote().double.remote(i) for i in range(3)]
    return sorted(ray.util.as_completed(refs))


def story_map_unordered():
    @ray.remote
    def square(x):
        return x * x

    return sorted(ray.util.map_unordered(square, range(5)))


def story_metrics():
    counter = Counter("requests", description="How many.", tag_keys=("route",))
    counter.set_default_tags({"route": "/"})
    counter.inc()
    counter.inc(2.5, tags={"route": "/a"})
    gauge = Gauge("temperature")
    gauge.set(3)
    histogram = Histogram("seconds", boundaries=[0.1, 1.0])
    histogram.observe(0.5)
    return (
        counter.info["name"],
        counter.info["tag_keys"],
        histogram.info["boundaries"],
        caught(lambda: counter.inc(-1), ValueError),
        caught(lambda: counter.inc(0), ValueError),
        caught(lambda: counter.inc(1, tags={"unknown": "x"}), ValueError),
        caught(lambda: counter.inc("one"), TypeError),
        caught(lambda: Counter(""), ValueError),
        caught(lambda: Counter("a", tag_keys="one"), TypeError),
        caught(lambda: Histogram("b", boundaries=[]), ValueError),
        caught(lambda: Histogram("b", boundaries=[-1.0]), ValueError),
        caught(lambda: counter.set_default_tags({"route": 5}), TypeError),
    )


def story_metrics_in_tasks():
    @ray.remote
    def work(counter):
        counter.inc(tags={"who": "task"})
        return "counted"

    return ray.get(work.remote(Counter("travelling", tag_keys=("who",))))


def story_progress_bars():
    @ray.remote
    def work():
        bar = tqdm(total=10, desc="by hand", position=1)
        bar.update(4)
        bar.set_description("another")
        bar.refresh()
        bar.close()
        safe_print("a line")
        return sum(tqdm(range(5), desc="around a loop"))

    return ray.get(work.remote()), list(tqdm([1, 2]))


if __name__ == "__main__":
    tell(globals())
