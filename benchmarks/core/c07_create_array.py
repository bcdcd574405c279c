"""What does a value cost that is written in place, beyond writing it?

An array is made inside the store, filled, sealed, and got in another process. What counts is the
time of all that less the time of filling the same array once more while it is warm: allocation,
cold pages, sealing, and the other process's `get` by its own clock. The message that carries the
ref is another case (C15).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.case import Case, Sample, Step, preparation
from benchmarks.sides import cluster

COUNT = 1_000_000


@preparation
def prepare(side: str) -> Iterator[Step]:
    with cluster(side) as api:

        @api.remote
        class Reader:
            def seconds_of_get(self, boxed: list[Any]) -> float:
                start = time.perf_counter()
                array = api.get(boxed[0])
                took_s = time.perf_counter() - start
                assert array[-1] == 1.0
                return took_s

        reader = Reader.remote()
        lowlevel = api.lowlevel

        def step() -> Sample:
            start = time.perf_counter()
            array = lowlevel.create_array((COUNT,), np.float64)
            array.fill(1.0)
            filled = time.perf_counter()
            array.fill(1.0)
            warm_s = time.perf_counter() - filled
            begun = time.perf_counter()
            ref = lowlevel.seal(array)
            sealed_s = time.perf_counter() - begun
            got_s = api.get(reader.seconds_of_get.remote([ref]))
            return Sample(1, (filled - start) - warm_s + sealed_s + got_s)

        yield step


CASES = [
    Case(
        id="C7",
        question="array of 8 MB made, filled, sealed, got elsewhere: beyond filling it",
        unit="array",
        sides=("shoal",),
        prepare=prepare,
        quantity="time",
        floor=100e-6,
        aim=20e-6,
        limit="four_python_calls",
        least="four calls from Python: create, seal, and load and look in the other process",
        is_latency=True,
    )
]
