"""Prints facts of the installed Ray as JSON: its public names, arguments and options."""

import importlib
import inspect
import json

MODULES = (
    "ray",
    "ray.actor",
    "ray.dag",
    "ray.exceptions",
    "ray.experimental.tqdm_ray",
    "ray.runtime_context",
    "ray.runtime_env",
    "ray.util",
    "ray.util.accelerators",
    "ray.util.actor_pool",
    "ray.util.collective",
    "ray.util.dask",
    "ray.util.joblib",
    "ray.util.metrics",
    "ray.util.multiprocessing",
    "ray.util.placement_group",
    "ray.util.queue",
    "ray.util.scheduling_strategies",
    "ray.util.state",
    "ray.util.state.exception",
)
FUNCTIONS = (
    "ray.available_resources",
    "ray.cancel",
    "ray.cluster_resources",
    "ray.get",
    "ray.get_actor",
    "ray.init",
    "ray.kill",
    "ray.nodes",
    "ray.put",
    "ray.shutdown",
    "ray.timeline",
    "ray.wait",
    "ray._common.test_utils.wait_for_condition",
    "ray.experimental.get_local_object_locations",
    "ray.experimental.get_object_locations",
    "ray.dag.DAGNode.execute",
    "ray.dag.DAGNode.experimental_compile",
    "ray.dag.MultiOutputNode",
    "ray.dag.compiled_dag_node.CompiledDAG.execute",
    "ray.dag.compiled_dag_node.CompiledDAG.execute_async",
    "ray.dag.compiled_dag_node.CompiledDAG.teardown",
    "ray.dag.compiled_dag_node.CompiledDAG.visualize",
    "ray.experimental.compiled_dag_ref.CompiledDAGRef.get",
    "ray.experimental.tqdm_ray.tqdm",
    "ray.experimental.tqdm_ray.tqdm.update",
    "ray.util.ActorPool",
    "ray.util.ActorPool.get_next",
    "ray.util.ActorPool.get_next_unordered",
    "ray.util.ActorPool.map",
    "ray.util.ActorPool.submit",
    "ray.util.collective.allgather",
    "ray.util.collective.allreduce",
    "ray.util.collective.barrier",
    "ray.util.collective.broadcast",
    "ray.util.collective.create_collective_group",
    "ray.util.collective.destroy_collective_group",
    "ray.util.collective.get_collective_group_size",
    "ray.util.collective.get_rank",
    "ray.util.collective.init_collective_group",
    "ray.util.collective.recv",
    "ray.util.collective.reduce",
    "ray.util.collective.reducescatter",
    "ray.util.collective.send",
    "ray.util.dask.ray_dask_get",
    "ray.util.metrics.Counter",
    "ray.util.metrics.Counter.inc",
    "ray.util.metrics.Gauge",
    "ray.util.metrics.Gauge.set",
    "ray.util.metrics.Histogram",
    "ray.util.metrics.Histogram.observe",
    "ray.util.multiprocessing.Pool",
    "ray.util.multiprocessing.Pool.apply",
    "ray.util.multiprocessing.Pool.apply_async",
    "ray.util.multiprocessing.Pool.imap",
    "ray.util.multiprocessing.Pool.imap_unordered",
    "ray.util.multiprocessing.Pool.map",
    "ray.util.multiprocessing.Pool.map_async",
    "ray.util.multiprocessing.Pool.starmap",
    "ray.util.multiprocessing.Pool.starmap_async",
    "ray.util.queue.Queue",
    "ray.util.queue.Queue.get",
    "ray.util.queue.Queue.get_async",
    "ray.util.queue.Queue.get_nowait_batch",
    "ray.util.queue.Queue.put",
    "ray.util.queue.Queue.put_nowait_batch",
    "ray.util.queue.Queue.shutdown",
    "ray.util.as_completed",
    "ray.util.get_placement_group",
    "ray.util.inspect_serializability",
    "ray.util.list_named_actors",
    "ray.util.map_unordered",
    "ray.util.placement_group",
    "ray.util.placement_group_table",
    "ray.util.remove_placement_group",
    "ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy",
    "ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy",
)

UNLISTED = {
    "ray.experimental.tqdm_ray": ["safe_print", "tqdm"],
    "ray.util.queue": ["Empty", "Full", "Queue"],
    "ray.util.state.exception": [
        "DataSourceUnavailable",
        "RayStateApiException",
        "ServerUnavailable",
    ],
}
"""Modules that neither list nor mark what their documentation names."""


def attribute(path):
    """What ``path`` names."""
    parts = path.split(".")
    for i in range(len(parts) - 1, 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:i]))
        except ImportError:
            continue
        for part in parts[i:]:
            found = getattr(found, part)
        return found
    raise AttributeError(path)


def names_of(module):
    """Its ``__all__``; else what was defined in Ray and is not private."""
    listed = UNLISTED.get(module.__name__) or getattr(module, "__all__", None)
    if listed is not None:
        return sorted(set(listed))
    return sorted(
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and getattr(value, "_annotated", None)
    )


def facts():
    """Everything that the tests compare with."""
    from ray._common import ray_option_utils as options
    from ray.runtime_context import RuntimeContext

    return {
        "names": {name: names_of(importlib.import_module(name)) for name in MODULES},
        "arguments": {
            path: [
                p.name
                for p in inspect.signature(attribute(path)).parameters.values()
                if p.kind is not p.VAR_KEYWORD and p.name != "self"
            ]
            for path in FUNCTIONS
        },
        "options": {
            "task": {k: repr(v.default_value) for k, v in options.task_options.items()},
            "actor": {k: repr(v.default_value) for k, v in options.actor_options.items()},
        },
        "context": [name for name in dir(RuntimeContext) if not name.startswith("_")],
    }


if __name__ == "__main__":
    print(json.dumps(facts(), indent=1, sort_keys=True))
