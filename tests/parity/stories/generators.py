"""Streaming generators: iterators of refs that fill while the task runs."""

import asyncio
import time

import ray
from telling import caught, tell


@ray.remote
def count(n):
    for i in range(n):
        yield i


@ray.remote
def count_and_fail(n):
    for i in range(n):
        yield i
    raise ValueError("enough")


@ray.remote
class Source:
    def count(self, n):
        for i in range(n):
            yield 10 * i

    async def count_async(self, n):
        for i in range(n):
            await asyncio.sleep(0)
            yield 100 * i


def story_iterate():
    generator = count.options(num_returns="streaming").remote(4)
    return isinstance(generator, ray.ObjectRefGenerator), [ray.get(ref) for ref in generator]


def story_default_of_generator_functions():
    return [ray.get(ref) for ref in count.remote(3)]


def story_items_are_there_before_the_end():
    """The first item is there while the task still runs."""

    @ray.remote
    def slow():
        yield "first"
        time.sleep(60)
        yield "second"

    generator = slow.remote()
    first = ray.get(next(generator), timeout=30)
    ray.cancel(generator)
    return first


def story_error_in_the_middle():
    """Items before the error are there; the error is raised at its place, then it ends."""
    seen = []
    generator = count_and_fail.remote(2)
    for ref in generator:
        try:
            seen.append(ray.get(ref))
        except ValueError:
            seen.append("error")
    return seen


def story_error_at_once():
    @ray.remote
    def bad():
        raise KeyError("none")
        yield 1

    refs = list(bad.remote())
    return len(refs), caught(lambda: ray.get(refs[0]), KeyError)


def story_next_and_stop():
    generator = count.remote(1)
    first = ray.get(next(generator))
    return first, caught(lambda: next(generator), StopIteration)


def story_async_iteration():
    async def main():
        return [await ref async for ref in count.remote(3)]

    return asyncio.run(main())


def story_methods():
    source = Source.remote()
    return [ray.get(ref) for ref in source.count.options(num_returns="streaming").remote(3)]


def story_async_methods():
    source = Source.remote()
    generator = source.count_async.options(num_returns="streaming").remote(3)
    return [ray.get(ref) for ref in generator]


def story_passed_on():
    """Refs of items are arguments like others."""

    @ray.remote
    def double(x):
        return 2 * x

    return ray.get([double.remote(ref) for ref in count.remote(3)])


def story_wait_for_a_generator():
    """wait takes generators: ready when the next item is."""
    generator = count.remote(2)
    ready, rest = ray.wait([generator], timeout=30)
    return len(ready), len(rest), ray.get(next(generator))


def story_completed():
    """completed() is the ref of the end."""
    generator = count.remote(2)
    list(generator)
    return caught(lambda: ray.get(generator.completed()), Exception)


def story_empty():
    return list(count.remote(0))


def story_backpressure():
    """At most so many items are made beyond what the consumer has taken."""

    @ray.remote
    class Log:
        def __init__(self):
            self.made = 0

        def note(self):
            self.made += 1

        def get(self):
            return self.made

    @ray.remote(_generator_backpressure_num_objects=2)
    def careful(log):
        for i in range(10):
            ray.get(log.note.remote())
            yield i

    log = Log.remote()
    generator = careful.remote(log)
    first = ray.get(next(generator), timeout=30)
    time.sleep(1)
    ahead = ray.get(log.get.remote())
    rest = [ray.get(ref) for ref in generator]
    return first, ahead < 6, rest


def story_dynamic():
    """num_returns='dynamic': one ref, whose value is an iterable of refs."""

    @ray.remote(num_returns="dynamic")
    def split(n):
        for i in range(n):
            yield i

    return [ray.get(ref) for ref in ray.get(split.remote(3))]


def story_plain_function_that_should_stream():
    """num_returns='streaming' of what is no generator is an error."""

    def plain():
        return 1

    def use():
        return [ray.get(ref) for ref in ray.remote(num_returns="streaming")(plain).remote()]

    return caught(use, ValueError)


def story_large_items():
    @ray.remote
    def blocks():
        for i in range(3):
            yield bytes([i]) * 1_000_000

    return [len(ray.get(ref)) for ref in blocks.remote()]


if __name__ == "__main__":
    tell(globals())
