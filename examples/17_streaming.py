"""A stream with back-pressure: items come while they are made, and never more than two wait."""

from collections.abc import Iterator

import numpy as np

import shoal


@shoal.remote(_generator_backpressure_num_objects=2)
def frames(n: int) -> Iterator[np.ndarray]:
    for i in range(n):
        yield np.full((100, 100), i)


total = 0
for ref in frames.remote(10):
    total += int(shoal.get(ref)[0, 0])
print(total)
assert total == 45
