"""A parameter server in 15 lines; then the parameters sharded over several, by passing handles.

Fits a line to points by gradient descent. Workers pull the parameters, work out a gradient
on their own points, and push it; nobody waits for anybody else.
"""

import numpy as np

import shoal

TRUE = np.array([3.0, -2.0, 0.5, 1.0])
WORKERS = 3
STEPS = 200


@shoal.remote
class ParameterServer:
    def __init__(self, size: int) -> None:
        self.values = np.zeros(size)

    def pull(self) -> np.ndarray:
        return self.values

    def push(self, gradient: np.ndarray) -> None:
        self.values = self.values - 0.1 * gradient


@shoal.remote
def worker(servers: list, seed: int) -> None:
    random = np.random.default_rng(seed)
    for _ in range(STEPS):
        parameters = np.concatenate(shoal.get([server.pull.remote() for server in servers]))
        points = random.normal(size=(32, len(TRUE)))
        error = points @ parameters - points @ TRUE
        gradients = np.split(points.T @ error / len(points), len(servers))
        shoal.get([s.push.remote(g) for s, g in zip(servers, gradients, strict=True)])


def train(n_servers: int) -> np.ndarray:
    servers = [ParameterServer.remote(len(TRUE) // n_servers) for _ in range(n_servers)]
    shoal.get([worker.remote(servers, seed) for seed in range(WORKERS)])
    return np.concatenate(shoal.get([server.pull.remote() for server in servers]))


for n_servers in (1, 2):
    learned = train(n_servers)
    print(f"{n_servers} server(s): {np.round(learned, 3)}")
    assert np.allclose(learned, TRUE, atol=0.05)
