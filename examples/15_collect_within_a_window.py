"""Asynchronous collection: learn from what finished within a time window, let the others go on.

A pole is balanced on a cart by a linear policy, which the cross-entropy method improves: try
perturbed policies, keep the best, move there. Episodes take different times; one environment is so
slow that a learner who waits for everybody would do nothing else. This one takes after each
window what is ready (`wait` with a timeout), learns from it, and starts only those environments
again, with the newest policy.
"""

import math
import time

import numpy as np
from rich.console import Console
from rich.table import Table

import shoal

ENVIRONMENTS = 4
SLOW_S = 60.0
WINDOW_S = 0.05
BATCH = 24  # episodes per learning step
ELITE = 6
LONGEST = 200  # steps after which an episode counts as won
GOAL = 0.9 * LONGEST
WINDOWS_MOST = 800


@shoal.remote
class Environment:
    def __init__(self, index: int) -> None:
        self.random = np.random.default_rng(index)
        # The last one stands for a simulator that hangs on a slow disk or a far machine.
        self.delay_s = SLOW_S if index == ENVIRONMENTS - 1 else 0.002 * index

    def run_episode(self, policy: np.ndarray) -> tuple[np.ndarray, int]:
        """Balance with ``policy``; returns it with the number of steps that the pole stood."""
        time.sleep(self.delay_s)
        x, speed, angle, turning = self.random.uniform(-0.05, 0.05, 4)
        for step in range(LONGEST):
            force = 10.0 if policy @ (x, speed, angle, turning) > 0 else -10.0
            pull = (force + 0.05 * turning**2 * math.sin(angle)) / 1.1
            spin = (9.8 * math.sin(angle) - math.cos(angle) * pull) / (
                0.5 * (4 / 3 - 0.1 * math.cos(angle) ** 2 / 1.1)
            )
            push = pull - 0.05 * spin * math.cos(angle) / 1.1
            x, speed = x + 0.02 * speed, speed + 0.02 * push
            angle, turning = angle + 0.02 * turning, turning + 0.02 * spin
            if abs(x) > 2.4 or abs(angle) > 0.21:
                return policy, step
        return policy, LONGEST


shoal.init(num_cpus=ENVIRONMENTS)
random = np.random.default_rng(0)
mean, spread = np.zeros(4), np.ones(4)


def start(environment) -> shoal.ObjectRef:
    return environment.run_episode.remote(random.normal(mean, spread))


environments = [Environment.remote(i) for i in range(ENVIRONMENTS)]
running = {start(environment): environment for environment in environments}
slow = list(running)[-1]
batch: list[tuple[np.ndarray, int]] = []
history: list[tuple[int, int, float]] = []
episodes = windows = 0
begun = time.monotonic()
while (not history or history[-1][2] < GOAL) and windows < WINDOWS_MOST:
    ready, _ = shoal.wait(list(running), num_returns=len(running), timeout=WINDOW_S)
    windows += 1
    batch += shoal.get(ready)
    episodes += len(ready)
    if len(batch) >= BATCH:
        best = sorted(batch, key=lambda one: -one[1])[:ELITE]
        mean = np.mean([policy for policy, _ in best], axis=0)
        spread = np.std([policy for policy, _ in best], axis=0) + 0.1
        history.append((windows, episodes, float(np.mean([steps for _, steps in batch]))))
        batch = []
    for ref in ready:  # with the newest policy, and nobody waited for the others
        environment = running.pop(ref)
        running[start(environment)] = environment
took_s = time.monotonic() - begun

table = Table("learning step", "windows", "episodes", "mean steps", "of 200")
for number, (at_window, count, steps) in enumerate(history, 1):
    if number in (1, len(history)) or number % max(1, len(history) // 8) == 0:
        row = (number, at_window, count, f"{steps:.0f}")
        table.add_row(*map(str, row), "█" * round(steps / 10))
Console().print(table)
print(f"{episodes} episodes in {windows} windows, {took_s:.1f} s; one environment never answered")
assert history[-1][2] >= GOAL, "the pole should stand by now"
assert slow in running, "nobody waited for the slow one"
