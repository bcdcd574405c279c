"""``multiprocessing.Pool`` on the processes of a session: change the import, keep the program.

::

    from shoal.util.multiprocessing import Pool     # instead of: from multiprocessing import Pool

    with Pool() as pool:
        print(pool.map(square, range(10)))
"""

from __future__ import annotations

from multiprocessing import TimeoutError

from shoal.util.crew import BrokenCrewError, WorkerLostError
from shoal.util.multiprocessing.pool import Pool
from shoal.util.multiprocessing.results import AsyncResult, IMapIterator, MapResult

__all__ = [
    "AsyncResult",
    "BrokenCrewError",
    "IMapIterator",
    "MapResult",
    "Pool",
    "TimeoutError",
    "WorkerLostError",
]
