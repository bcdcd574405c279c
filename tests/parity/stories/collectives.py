"""Collective operations between actors on arrays in main memory."""

import functools

import numpy
import ray
from ray.util import collective
from ray.util.collective.types import Backend, ReduceOp
from telling import caught, tell


@ray.remote(num_cpus=0.1)
class Member:
    def __init__(self):
        self.group = "default"

    def join(self, size, rank, group="default"):
        self.group = group
        collective.init_collective_group(size, rank, "gloo", group)
        return collective.get_rank(group), collective.get_collective_group_size(group)

    def call(self, name, value, *args, **options):
        """Call an operation on an array; returns what the array is afterwards."""
        array = numpy.array(value, dtype=numpy.float32)
        getattr(collective, name)(array, *args, group_name=self.group, **options)
        return array.tolist()

    def gather(self, value, size):
        array = numpy.array(value, dtype=numpy.float32)
        found = [numpy.zeros_like(array) for _ in range(size)]
        collective.allgather(found, array, self.group)
        return [each.tolist() for each in found]

    def scatter(self, values):
        result = numpy.zeros(len(values[0]), dtype=numpy.float32)
        arrays = [numpy.array(each, dtype=numpy.float32) for each in values]
        collective.reducescatter(result, arrays, self.group)
        return result.tolist()

    def barrier(self):
        collective.barrier(self.group)
        return "passed"

    def facts(self):
        return [
            collective.is_group_initialized(self.group),
            collective.get_rank(self.group),
            collective.get_collective_group_size(self.group),
        ]

    def leave(self):
        collective.destroy_collective_group(self.group)
        return self.facts()

    def misuse(self):
        return (
            caught(lambda: collective.allreduce(numpy.ones(2), "nobody"), RuntimeError),
            caught(lambda: collective.init_collective_group(2, 2, "gloo", "x"), Exception),
            caught(
                lambda: collective.init_collective_group(2, 0, "gloo", self.group), RuntimeError
            ),
            caught(lambda: collective.broadcast(numpy.ones(2), 7, self.group), ValueError),
            caught(lambda: collective.allreduce([1], self.group), Exception),
        )


@functools.cache
def group(size):
    members = [Member.remote() for _ in range(size)]
    joined = [member.join.remote(size, rank, f"of {size}") for rank, member in enumerate(members)]
    return members, ray.get(joined)


def each(members, name, *args, **options):
    """The same call by all, on their rank plus one."""
    return ray.get(
        [
            member.call.remote(name, [float(rank + 1)] * 3, *args, **options)
            for rank, member in enumerate(members)
        ]
    )


def story_allreduce():
    members, joined = group(3)
    return (
        joined,
        each(members, "allreduce"),
        each(members, "allreduce", op=ReduceOp.MAX),
        each(members, "allreduce", op=ReduceOp.MIN),
        each(members, "allreduce", op=ReduceOp.PRODUCT),
    )


def story_broadcast_and_reduce():
    members, _ = group(3)
    reduced = each(members, "reduce", dst_rank=1)
    return each(members, "broadcast", src_rank=2), reduced[1]


def story_gather_and_scatter():
    members, _ = group(2)
    gathered = ray.get([m.gather.remote([rank, 5], 2) for rank, m in enumerate(members)])
    values = [[1, 2], [3, 4]]
    return gathered, ray.get([member.scatter.remote(values) for member in members])


def story_send_and_recv():
    members, _ = group(2)
    sent = members[0].call.remote("send", [1.0, 2.0], 1)
    got = members[1].call.remote("recv", [0.0, 0.0], 0)
    return ray.get([sent, got])


def story_barrier():
    members, _ = group(2)
    first = members[0].barrier.remote()
    early, _ = ray.wait([first], timeout=0.3)
    return len(early), ray.get([first, members[1].barrier.remote()])


def story_leaving():
    members = [Member.remote() for _ in range(2)]
    ray.get([member.join.remote(2, rank, "left") for rank, member in enumerate(members)])
    there = ray.get([member.facts.remote() for member in members])
    return there, ray.get([member.leave.remote() for member in members])


def story_declared():
    """The driver says who is in a group; the members do not join by themselves."""
    members = [Member.remote() for _ in range(2)]
    collective.create_collective_group(members, 2, [0, 1], backend="gloo", group_name="default")
    return each(members, "allreduce")


def story_misuse():
    members, _ = group(2)
    return (
        ray.get(members[0].misuse.remote()),
        caught(
            lambda: collective.create_collective_group(members, 3, [0, 1], "gloo", "y"),
            RuntimeError,
        ),
    )


def story_backends():
    return collective.gloo_available(), Backend("gloo") == Backend.GLOO


if __name__ == "__main__":
    tell(globals())
