"""Placement groups, scheduling strategies, resources, GPUs."""

import os
import time

import ray
from ray.util.placement_group import (
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import (
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)
from telling import caught, tell


@ray.remote(num_cpus=1)
class Worker:
    def group(self):
        group = ray.util.get_current_placement_group()
        return None if group is None else group.id.hex()

    def ping(self):
        return "alive"


def strategy_of(group, index=-1, capture=None):
    return PlacementGroupSchedulingStrategy(
        placement_group=group,
        placement_group_bundle_index=index,
        placement_group_capture_child_tasks=capture,
    )


def story_ready():
    """ready() is a ref; the bundles are those that were asked for."""
    group = placement_group([{"CPU": 1}, {"CPU": 1}], strategy="PACK")
    ray.get(group.ready(), timeout=30)
    specs = [{name: float(n) for name, n in bundle.items()} for bundle in group.bundle_specs]
    result = (group.wait(timeout_seconds=30), specs, group.bundle_count)
    remove_placement_group(group)
    return result


def story_bundles_reserve():
    """What a group holds is not available to others; removal gives it back."""

    def becomes(amount):
        deadline = time.monotonic() + 20
        while ray.available_resources().get("CPU", 0) != amount:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True

    group = placement_group([{"CPU": 2}])
    ray.get(group.ready(), timeout=30)
    held = becomes(0)
    remove_placement_group(group)
    return held, becomes(2)


def story_tasks_and_actors_inside():
    group = placement_group([{"CPU": 1}, {"CPU": 1}])
    ray.get(group.ready(), timeout=30)

    @ray.remote(num_cpus=1)
    def inside():
        return get_current_placement_group().id.hex()

    worker = Worker.options(scheduling_strategy=strategy_of(group, 0)).remote()
    task = inside.options(scheduling_strategy=strategy_of(group, 1)).remote()
    found = ray.get([worker.group.remote(), task], timeout=40)
    remove_placement_group(group)
    return [one == group.id.hex() for one in found]


def story_outside_of_groups():
    return get_current_placement_group() is None


def story_infeasible_in_the_bundle():
    """A task that asks for more than any bundle has is refused when it is submitted."""
    group = placement_group([{"CPU": 1}])
    ray.get(group.ready(), timeout=30)

    @ray.remote(num_cpus=2)
    def large():
        return 1

    raised = caught(
        lambda: large.options(scheduling_strategy=strategy_of(group)).remote(), ValueError
    )
    remove_placement_group(group)
    return raised


def story_wrong_bundle_index():
    group = placement_group([{"CPU": 1}])
    ray.get(group.ready(), timeout=30)
    raised = caught(
        lambda: Worker.options(scheduling_strategy=strategy_of(group, 3)).remote(), ValueError
    )
    remove_placement_group(group)
    return raised


def story_children_are_captured():
    group = placement_group([{"CPU": 2}])
    ray.get(group.ready(), timeout=30)

    @ray.remote(num_cpus=1)
    def child():
        return get_current_placement_group() is not None

    @ray.remote(num_cpus=1)
    def parent():
        return ray.get(child.remote())

    def run(capture):
        return ray.get(
            parent.options(scheduling_strategy=strategy_of(group, 0, capture)).remote(), timeout=40
        )

    captured = run(True)
    remove_placement_group(group)
    return captured


def story_removal_ends_what_runs_inside():
    group = placement_group([{"CPU": 1}])
    ray.get(group.ready(), timeout=30)
    worker = Worker.options(scheduling_strategy=strategy_of(group)).remote()
    ray.get(worker.ping.remote(), timeout=30)
    remove_placement_group(group)

    def ping_for_a_while():
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            ray.get(worker.ping.remote(), timeout=30)
            time.sleep(0.01)

    return caught(
        ping_for_a_while,
        (ray.exceptions.RayActorError, ray.exceptions.ActorPlacementGroupRemoved),
    )


def story_names():
    group = placement_group([{"CPU": 1}], name="mine")
    ray.get(group.ready(), timeout=30)
    found = get_placement_group("mine").id == group.id
    unknown = caught(lambda: get_placement_group("nobodys"), ValueError)
    remove_placement_group(group)
    return found, unknown


def story_table():
    group = placement_group([{"CPU": 1}], strategy="SPREAD", name="tabled")
    ray.get(group.ready(), timeout=30)
    row = placement_group_table(group)
    result = (
        row["name"],
        row["state"],
        row["strategy"],
        {str(k): v for k, v in row["bundles"].items()},
    )
    all_rows = placement_group_table()
    remove_placement_group(group)
    return result, group.id.hex() in all_rows


def story_wrong_groups():
    return (
        caught(lambda: placement_group([]), ValueError),
        caught(lambda: placement_group([{}]), ValueError),
        caught(lambda: placement_group([{"CPU": 0}]), ValueError),
        caught(lambda: placement_group([{"CPU": 1}], strategy="TIGHT"), ValueError),
        caught(lambda: placement_group([{"CPU": 1}], lifetime="long"), ValueError),
        caught(lambda: placement_group({"CPU": 1}), ValueError),
    )


def story_too_large_waits():
    """A group that does not fit is not ready."""
    group = placement_group([{"CPU": 64}])
    ready = group.wait(timeout_seconds=0.2)
    remove_placement_group(group)
    return ready


def story_group_travels():
    """A group is a value like others."""
    group = placement_group([{"CPU": 1}])

    @ray.remote(num_cpus=0)
    def look(given):
        return given.wait(30), given.id.hex()

    there, text = ray.get(look.remote(group), timeout=40)
    remove_placement_group(group)
    return there, text == group.id.hex()


def story_node_affinity():
    node = ray.get_runtime_context().get_node_id()

    @ray.remote
    def where():
        return ray.get_runtime_context().get_node_id()

    hard = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
    return ray.get(where.options(scheduling_strategy=hard).remote(), timeout=30) == node


def story_node_affinity_soft():
    """A node that is not there, softly: anywhere else."""
    soft = NodeAffinitySchedulingStrategy(node_id="a" * 56, soft=True)
    return ray.get(ray.remote(lambda: 1).options(scheduling_strategy=soft).remote(), timeout=30)


def story_node_affinity_hard_and_gone():
    hard = NodeAffinitySchedulingStrategy(node_id="a" * 56, soft=False)
    ref = ray.remote(lambda: 1).options(scheduling_strategy=hard).remote()
    return caught(lambda: ray.get(ref, timeout=30), ray.exceptions.TaskUnschedulableError)


def story_spread():
    return ray.get(ray.remote(lambda: 1).options(scheduling_strategy="SPREAD").remote())


def story_wrong_strategy():
    return caught(
        lambda: ray.remote(lambda: 1).options(scheduling_strategy="RANDOM").remote(), ValueError
    )


def story_node_labels():
    from ray.util.scheduling_strategies import Exists, In

    hard = NodeLabelSchedulingStrategy(hard={"zone": In("a", "b"), "kind": Exists()})
    return ray.get(ray.remote(lambda: 1).options(scheduling_strategy=hard).remote(), timeout=30)


def story_label_selector():
    return ray.get(ray.remote(lambda: 1).options(label_selector={"zone": "a"}).remote(), timeout=30)


def story_custom_resources():
    @ray.remote(resources={"licence": 1})
    def licensed():
        return ray.get_runtime_context().get_assigned_resources().get("licence")

    return ray.get(licensed.remote(), timeout=30), ray.cluster_resources()["licence"]


def story_gpus():
    """GPUs are logical: each task sees its own ids."""

    @ray.remote(num_gpus=1)
    def mine():
        return ray.get_gpu_ids(), os.environ["CUDA_VISIBLE_DEVICES"]

    @ray.remote(num_gpus=2, num_cpus=0)
    class Both:
        def ids(self):
            return sorted(ray.get_gpu_ids())

    one = ray.get(mine.remote(), timeout=30)
    both = Both.remote()
    return one in ([[0], "0"], ([0], "0"), ([1], "1")), ray.get(both.ids.remote(), timeout=30)


def story_fractions():
    """Four tasks of half a CPU run at the same time on two."""

    @ray.remote(num_cpus=0)
    class Gate:
        def __init__(self):
            self.n = 0

        def enter(self):
            self.n += 1

        def inside(self):
            return self.n

    @ray.remote(num_cpus=0.5)
    def meet(gate):
        ray.get(gate.enter.remote())
        while ray.get(gate.inside.remote()) < 4:
            pass
        return 1

    gate = Gate.remote()
    return ray.get([meet.remote(gate) for _ in range(4)], timeout=50)


def story_actors_hold_no_cpu_by_default():
    """An actor without options holds no CPU once it runs: many fit on two CPUs."""

    @ray.remote
    class Small:
        def ping(self):
            return 1

    actors = [Small.remote() for _ in range(4)]
    return sum(ray.get([actor.ping.remote() for actor in actors], timeout=50))


if __name__ == "__main__":
    tell(globals(), num_gpus=2, resources={"licence": 2}, labels={"zone": "a", "kind": "test"})
