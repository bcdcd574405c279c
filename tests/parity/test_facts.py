"""Every public name, argument and option of Ray's core is there, or is told what to use instead."""

from __future__ import annotations

import inspect
import json
from typing import Any

import pytest

from shoal._runtime import options
from shoal._runtime.context import RuntimeContext
from shoal.compat.ray import api, modules, names
from tests.parity.record import HERE

FACTS: dict[str, Any] = json.loads((HERE / "facts.json").read_text())

PRIVATE = {
    "ray": {"_config", "internal"},
    "ray.util.accelerators": {"tpu"},
    "ray.dag": {
        "BIND_INDEX_KEY",
        "COLLECTIVE_OPERATION_KEY",
        "DAGInputData",
        "DAGNODE_TYPE_KEY",
        "DAGOperationFuture",
        "IS_CLASS_METHOD_OUTPUT_KEY",
        "PARENT_CLASS_NODE_KEY",
        "PREV_CLASS_METHOD_CALL_KEY",
    },
}
"""Listed by Ray itself and of no use to programs."""

OPTIONS_LEFT_OUT = {
    "_labels": "labels belong to nodes: init(labels=...)",
    "_num_objects_per_yield": "each yield makes one ref",
    "object_store_memory": "Ray itself refuses it for tasks and actors",
    "enable_tensor_transport": "tensors travel through node memory",
    "_actor_generator_backpressure_num_objects": "the option of the method",
}
"""Options that are refused here as unknown; docs/from-ray.md says what to use."""

ALIASES = {
    "ray.dag.MultiOutputNode": {"other_args_to_resolve": "nothing: Ray's own use"},
    "ray.cancel": {"ray_waitable": "ref"},
    "ray.wait": {"ray_waitables": "refs"},
    "ray.get": {"object_refs": "refs"},
}
"""Arguments that are given by position, never by name."""


@pytest.mark.parametrize("module", FACTS["names"])
def test_names(module: str) -> None:
    if module not in names.MODULES:
        assert module in names.HINTS  # which says what to use instead of all of it
        return
    unknown = [
        name
        for name in FACTS["names"][module]
        if names.home_of(module, name) is None
        and name not in names.CONSTANTS.get(module, {})
        and f"{module}.{name}" not in names.MODULES
        and f"{module}.{name}" not in names.HINTS
        and name not in PRIVATE.get(module, set())
    ]
    assert not unknown


def _named(path: str) -> Any:
    """What ``path`` names here: a function, a class or a method; None if its module waits."""
    parts = path.split(".")
    known = [n for n in range(1, len(parts)) if ".".join(parts[:n]) in names.MODULES]
    module = ".".join(parts[: known[-1]])
    name, *rest = parts[known[-1] :]
    waits = [
        hint for hint in names.HINTS if path.startswith(f"{hint}.") and len(hint) > len(module)
    ]
    if waits or name in names.LATER.get(module, "").split():
        return None
    found = modules._look_up(module, name)
    for part in rest:
        found = getattr(found, part)
    return found


@pytest.mark.parametrize("path", FACTS["arguments"])
def test_arguments(path: str) -> None:
    """Each argument that Ray takes by name is taken here by that name."""
    found = _named(path)
    if found is None:
        return
    parameters = inspect.signature(found).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()) and path != "ray.init":
        return
    given = [
        name
        for name in FACTS["arguments"][path]
        if name not in ALIASES.get(path, {}) and not name.startswith("_")
    ]
    known = set(parameters)
    if path == "ray.init":
        known |= {*api._PASSED, *api.SPILLING, *api.IGNORED}
    assert [name for name in given if name not in known] == []


def test_options() -> None:
    for kind, letter in (("task", "t"), ("actor", "a")):
        ours = set(options.valid_names(letter))
        theirs = set(FACTS["options"][kind]) - set(OPTIONS_LEFT_OUT)
        assert theirs <= ours, kind


def test_context() -> None:
    assert [name for name in FACTS["context"] if not hasattr(RuntimeContext, name)] == []


def test_options_left_out_are_told() -> None:
    text = (HERE.parents[1] / "docs" / "from-ray.md").read_text()
    assert [name for name in OPTIONS_LEFT_OUT if f"`{name}`" not in text] == []
