"""Collective operations: four actors that learn together average their gradients in place."""

import numpy as np

import shoal
from shoal.util import collective

WORKERS, STEPS = 4, 60
TRUE = np.array([2.0, -1.0, 0.5])


@shoal.remote(num_cpus=0)
class Learner:
    """Has its own data; the weights stay the same on all, to the last bit."""

    def __init__(self, rank: int) -> None:
        collective.init_collective_group(world_size=WORKERS, rank=rank)
        random = np.random.default_rng(rank)
        self.x = random.normal(size=(200, 3))
        self.y = self.x @ TRUE + random.normal(scale=0.01, size=200)
        self.weights = np.zeros(3) if rank else random.normal(size=3)

    def learn(self) -> np.ndarray:
        collective.broadcast(self.weights, src_rank=0)
        for _ in range(STEPS):
            gradient = self.x.T @ (self.x @ self.weights - self.y) / len(self.y)
            collective.allreduce(gradient, op=collective.ReduceOp.AVERAGE)
            self.weights -= 0.3 * gradient
        return self.weights


learners = [Learner.remote(rank) for rank in range(WORKERS)]
results = shoal.get([learner.learn.remote() for learner in learners])
assert all((weights == results[0]).all() for weights in results)
assert np.allclose(results[0], TRUE, atol=0.01)
print("weights", results[0].round(3))
