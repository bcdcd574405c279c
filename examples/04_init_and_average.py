"""Starting a session by hand: declared resources are logical, a laptop may declare a GPU."""

import shoal

shoal.init(num_cpus=4, num_gpus=1)
resources = shoal.cluster_resources()
print(resources)
assert resources["CPU"] == 4
assert resources["GPU"] == 1


@shoal.remote
def average(numbers: list[float]) -> float:
    return sum(numbers) / len(numbers)


mean = shoal.get(average.remote([1.0, 2.0, 3.0, 4.0, 5.0]))
print(mean)
assert mean == 3.0

shoal.shutdown()
assert not shoal.is_initialized()
