"""Actors run beside each other, the calls of one actor one after the other."""

import time

import shoal


@shoal.remote
class Counter:
    def __init__(self) -> None:
        self.value = 0

    def increment(self) -> int:
        self.value += 1
        return self.value

    def sleep(self, duration_s: float) -> None:
        time.sleep(duration_s)


counters = [Counter.remote() for _ in range(4)]
ones = shoal.get([counter.increment.remote() for counter in counters])
print(ones)
assert ones == [1, 1, 1, 1]

start = time.perf_counter()
shoal.get([counter.sleep.remote(1.0) for counter in counters])
together_s = time.perf_counter() - start

start = time.perf_counter()
shoal.get([counters[0].sleep.remote(1.0) for _ in range(4)])
alone_s = time.perf_counter() - start

print(f"four actors: {together_s:.2f} s, one actor: {alone_s:.2f} s")
assert 1.0 <= together_s < 2.0
assert 4.0 <= alone_s < 5.5
