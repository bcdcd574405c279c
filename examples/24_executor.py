"""An executor: futures of the standard library, in order, as they are done, and in asyncio."""

import asyncio
import math
from concurrent.futures import as_completed

from shoal.util.executor import PoolExecutor


async def gather(executor: PoolExecutor) -> list[int]:
    loop = asyncio.get_running_loop()
    return await asyncio.gather(
        *(loop.run_in_executor(executor, math.factorial, n) for n in range(5))
    )


with PoolExecutor(max_workers=2) as executor:
    futures = {executor.submit(math.isqrt, n * n): n for n in range(10)}
    assert all(future.result() == futures[future] for future in as_completed(futures))
    print(list(executor.map(math.gcd, [12, 18], [8, 27])))
    print(asyncio.run(gather(executor)))
