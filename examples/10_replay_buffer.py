"""A replay buffer shared by several writers and one sampler; its handle travels through `put`."""

import random

import shoal

WRITERS = 4
ROWS_EACH = 250


@shoal.remote
class ReplayBuffer:
    def __init__(self, capacity: int) -> None:
        self.rows: list[tuple[int, int]] = []
        self.capacity = capacity

    def add(self, rows: list[tuple[int, int]]) -> None:
        self.rows = (self.rows + rows)[-self.capacity :]

    def sample(self, n: int) -> list[tuple[int, int]]:
        return random.sample(self.rows, min(n, len(self.rows)))

    def size(self) -> int:
        return len(self.rows)


@shoal.remote
def write(writer: int, buffer: ReplayBuffer) -> int:
    for first in range(0, ROWS_EACH, 50):
        shoal.get(buffer.add.remote([(writer, row) for row in range(first, first + 50)]))
    return ROWS_EACH


@shoal.remote
def sample_until(buffer: ReplayBuffer, n: int) -> int:
    """Take samples while the writers write, until the buffer has n rows."""
    batches = 0
    while shoal.get(buffer.size.remote()) < n:
        batch = shoal.get(buffer.sample.remote(32))
        assert len(set(batch)) == len(batch)
        batches += 1
    return batches


shoal.init(num_cpus=WRITERS + 1)
buffer = ReplayBuffer.remote(10_000)
buffer_ref = shoal.put(buffer)  # a ref to a handle: a task gets the handle
sampler = sample_until.remote(buffer_ref, WRITERS * ROWS_EACH)
written = sum(shoal.get([write.remote(i, buffer_ref) for i in range(WRITERS)]))
print(f"{written} rows written, {shoal.get(sampler)} batches sampled meanwhile")
assert written == WRITERS * ROWS_EACH
assert shoal.get(buffer.size.remote()) == written
