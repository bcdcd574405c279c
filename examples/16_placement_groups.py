"""Placement groups: a trainer and its two loaders get their CPUs together, or wait together.

What is reserved is nobody else's until the group is removed, also while nothing runs in it.
"""

import shoal
from shoal.util.placement_group import placement_group, remove_placement_group
from shoal.util.scheduling_strategies import PlacementGroupSchedulingStrategy

shoal.init(num_cpus=4)

group = placement_group([{"CPU": 2}, {"CPU": 1}], strategy="PACK", name="training")
shoal.get(group.ready(), timeout=30)
print(f"left for others: {shoal.available_resources()['CPU']:g} CPU")


@shoal.remote
def load(part: int) -> list[int]:
    return list(range(part * 10, part * 10 + 10))


@shoal.remote
class Trainer:
    def fit(self, parts: list[list[int]]) -> int:
        return sum(sum(part) for part in parts)


first = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0)
second = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=1)

trainer = Trainer.options(num_cpus=2, scheduling_strategy=first).remote()
loaders = [load.options(scheduling_strategy=second).remote(part) for part in range(4)]
total = shoal.get(trainer.fit.remote(shoal.get(loaders, timeout=30)), timeout=30)
print(total)
assert total == sum(range(40))

remove_placement_group(group)
try:
    shoal.get(trainer.fit.remote([]), timeout=30)
except shoal.errors.GroupRemovedError as error:
    print(f"as intended: {type(error).__name__}")
else:
    raise AssertionError("the trainer should have ended with its group")
