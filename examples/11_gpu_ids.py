"""GPU ids: each task that asks for a GPU is told which one is its own.

The node declares two GPUs whether it has them or not: the ids are bookkeeping that sets
CUDA_VISIBLE_DEVICES, so this also runs on a laptop without any.
"""

import os
import time

import shoal

shoal.init(num_cpus=2, num_gpus=2)


@shoal.remote
class Rendezvous:
    """Lets the two tasks see that they run at the same time."""

    def __init__(self) -> None:
        self.arrived = 0

    def arrive(self) -> None:
        self.arrived += 1

    def count(self) -> int:
        return self.arrived


@shoal.remote(num_gpus=1)
def my_gpu(rendezvous: Rendezvous) -> tuple[list, str]:
    shoal.get(rendezvous.arrive.remote())
    deadline = time.monotonic() + 30
    while shoal.get(rendezvous.count.remote()) < 2:
        assert time.monotonic() < deadline, "the other task did not start beside this one"
        time.sleep(0.005)
    return shoal.get_gpu_ids(), os.environ["CUDA_VISIBLE_DEVICES"]


rendezvous = Rendezvous.remote()
seen = shoal.get([my_gpu.remote(rendezvous) for _ in range(2)])
print(seen)
ids = [str(gpu) for gpus, _ in seen for gpu in gpus]
assert sorted(ids) == ["0", "1"]
assert sorted(visible for _, visible in seen) == ["0", "1"]
