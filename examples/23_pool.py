"""A pool: the standard library's program with one changed line, and a process that dies."""

import os

from shoal.util.multiprocessing import Pool, WorkerLostError


def collatz(n: int) -> int:
    steps = 0
    while n != 1:
        n = 3 * n + 1 if n % 2 else n // 2
        steps += 1
    return steps


with Pool(2) as pool:
    lengths = pool.map(collatz, range(1, 2000))
    print("longest:", max(range(1, 2000), key=lambda n: lengths[n - 1]))
    try:
        pool.apply(os._exit, (3,))
    except WorkerLostError as error:
        print(str(error).splitlines()[0].partition(" (pid")[0])
    assert pool.apply(collatz, (27,)) == 111
