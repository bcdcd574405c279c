"""Asynchronous collection: take what finished within a time window, let the others go on.

Environments of a reinforcement learner take different times per episode. Instead of waiting for
the slowest one, the learner takes after each window what is ready (`wait` with a timeout) and
starts those environments again with the newest policy.
"""

import time

import shoal

ENVIRONMENTS = 4
WINDOW_S = 0.1
EPISODES = 20

shoal.init(num_cpus=ENVIRONMENTS)


@shoal.remote
class Environment:
    def __init__(self, index: int) -> None:
        # The last one is so slow that nobody should wait for it.
        self.episode_s = 5.0 if index == ENVIRONMENTS - 1 else 0.01 * (index + 1)

    def run_episode(self, policy: int) -> tuple[int, float]:
        time.sleep(self.episode_s)
        return policy, self.episode_s


environments = [Environment.remote(i) for i in range(ENVIRONMENTS)]
running = {env.run_episode.remote(0): env for env in environments}
collected: list[tuple[int, float]] = []
policy = 0
start = time.monotonic()
while len(collected) < EPISODES:
    ready, _ = shoal.wait(list(running), num_returns=len(running), timeout=WINDOW_S)
    collected += shoal.get(ready)
    policy += 1  # one learning step per window, on what there is
    for ref in ready:
        environment = running.pop(ref)
        running[environment.run_episode.remote(policy)] = environment
took_s = time.monotonic() - start

print(f"{len(collected)} episodes in {took_s:.2f} s and {policy} learning steps")
assert all(episode_s < 1.0 for _, episode_s in collected)
assert len({used for used, _ in collected}) > 1, "episodes should have used newer policies"
assert took_s < 5.0
