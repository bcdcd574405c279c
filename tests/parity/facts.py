"""Prints facts of the installed Ray as JSON: its public names, arguments and options."""

import importlib
import inspect
import json

MODULES = (
    "ray",
    "ray.actor",
    "ray.exceptions",
    "ray.runtime_context",
    "ray.runtime_env",
    "ray.util",
    "ray.util.placement_group",
    "ray.util.scheduling_strategies",
    "ray.util.state",
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
    listed = getattr(module, "__all__", None)
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
                if p.kind is not p.VAR_KEYWORD
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
