"""Actors: a class becomes a process of its own that keeps state between calls."""

import shoal


@shoal.remote
class Counter:
    def __init__(self) -> None:
        self.value = 0

    def increment(self) -> int:
        self.value += 1
        return self.value


counter = Counter.remote()
refs = [counter.increment.remote() for _ in range(10)]
print(shoal.get(refs[-1]))
# The calls of one caller run in the order in which they were made.
assert shoal.get(refs) == list(range(1, 11))
